"""CONFIG: a record's settings fed back, an edited copy, and what such a file may not hold."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import common
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from options import InputError
from settings import resolve


@pytest.fixture
def config(workdir):
    """config(content) -> the path of a file that holds it as JSON."""

    def config(content):
        Path("config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return "config.json"

    return config


def chosen(name):
    """The settings that a run's name tells, as the scripts give them."""
    if recipes.model_of(name) == "autoencoder":
        return {"target": "augmented", "augment": True}
    return {"encoder": "frozen"} if "cls" in name else {}


def said(script, words):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        script.main(words.split())
    return text.getvalue()


# --- What comes of it ---


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_s_settings_come_back(config, arguments, npz, name):
    row = recipes.RECIPES[name]
    changed = {"learning_rate": 0.5, "epochs": row.epochs + 1, "optimizer": "sgd", "scale": 0.5, "seed": 3, "val": 0.3}
    network = {key: 0.25 if key == "dropout" else value for key, value in row.network.items()}
    recipe = dataclasses.replace(row, **changed, network=network, ranges=recipes.Ranges(rotation=3), keep=7)
    fold = common.prepare_fold(npz, recipe)
    settings = common.resolved_settings(name, recipe, fold, **chosen(name))
    fields = {field.name for field in dataclasses.fields(recipes.Recipe)}
    assert fields - settings.keys() == {"build", "frozen_until", "encoder_end"}
    for content in (settings, {"run": "any", "settings": settings}):  # alone, or in a record
        again = resolve(arguments("--config", config(content)), name, **chosen(name))
        assert common.resolved_settings(name, again, common.prepare_fold(npz, again), **chosen(name)) == settings


def test_every_setting_can_be_changed_and_knobs_go_first(config, arguments):
    ranges, network = {"rotation": 5, "flip": False}, {"blocks": 2, "pooling": "max", "head_dropout": 0.5}
    other = {
        **{"scale": 1, "offset": -0.5, "balanced": True, "class_weights": True, "reduced": ["bird", 4], "keep": [9, 8]},
        **{"split": "last", "val": 0.3, "seed": 7, "precision": "float32", "optimizer": "sgd", "learning_rate": 1},
        **{"schedule": 0.5, "batch_size": 8, "epochs": 3, "monitor": "val_accuracy", "patience": 4},
    }
    path = config({**other, "ranges": ranges, "network": network})
    name = "autoencoder_cls_cae"
    recipe, row = resolve(arguments("--config", path), name), recipes.RECIPES[name]
    assert {key: getattr(recipe, key) for key in other} == other
    assert [type(value) for value in (recipe.scale, recipe.learning_rate)] == [float, float]  # Keras wants them so
    assert all(value != getattr(row, key) for key, value in other.items())
    assert recipe.ranges == dataclasses.replace(row.ranges, **ranges)
    assert recipe.network == {**row.network, **network}
    knobs = ("--epochs", 9, "--seed", 1, "--keep", 5, "--reduced", "truck", "--val", 0.1, "--batch-size", 2)
    recipe = resolve(arguments("--config", path, *knobs), name)
    assert (recipe.epochs, recipe.seed, recipe.keep, recipe.reduced) == (9, 1, 5, ["truck"])
    assert (recipe.val, recipe.batch_size, recipe.optimizer) == (0.1, 2, "sgd")


def test_each_class_keeps_its_own_number(npz, config, arguments):
    recipe = recipes.Recipe(None, reduced=["truck", 2], keep=[30, 10])
    assert common.prepare_fold(npz, recipe).record.items() >= {"reduced": [2, 9], "keep": [10, 30]}.items()
    with pytest.raises(InputError, match="CONFIG reduces a class twice"):
        common.prepare_fold(npz, dataclasses.replace(recipe, reduced=["bird", 2]))
    path = config({"reduced": ["truck"], "keep": [30, 10]})
    with pytest.raises(InputError, match=r"'config\.json' keeps images of 2 classes, and 1 are reduced; give each"):
        resolve(arguments("--config", path), "cnn")
    typed = resolve(arguments("--config", path, "--reduced", "bird"), "cnn")  # of which the file's numbers are not
    assert (typed.reduced, typed.keep) == (["bird"], None)


def test_images_to_keep_are_of_the_study_s_classes_where_none_is_named(config, arguments):
    path = config({"reduced": [], "keep": []})  # as a record of the whole training set has it
    assert resolve(arguments("--config", path), "cnn").reduced == []
    for argv in (("--config", path), ()):
        recipe = resolve(arguments(*argv, "--keep", 9), "cnn_elu")
        assert (recipe.reduced, recipe.keep) == (recipes.Recipe.reduced, 9)
    assert resolve(arguments("--keep", 9, "--reduced", "none"), "cnn_elu").reduced == []


def test_a_split_and_a_fold_exclude_each_other(config, arguments):
    path = config({"split": "last"})
    assert resolve(arguments("--config", path), "cnn").split == "last"
    with pytest.raises(InputError, match="is of the last images held out, and a fold is a shuffle split"):
        resolve(arguments("--config", path, "--fold", 1), "cnn")
    assert resolve(arguments("--fold", 1), "cnn_elu").split == "first"  # which prepare_fold leaves for the fold


def test_published_records_can_be_fed_back(config, arguments):
    for name in ("cnn", "cnn_leaky"):
        report = json.loads((ROOT / f"imgs/{name}_report.json").read_text())
        record = report["folds"]["1"]["record"]
        recipe = resolve(arguments("--config", config(record)), name)
        there = {"seed": 0, "reduced": record["settings"]["reduced"], "keep": record["settings"]["keep"]}
        assert recipe == dataclasses.replace(recipes.RECIPES[name], **there)


@pytest.mark.parametrize(
    ("argv", "ranges"),
    [((), recipes.REFERENCE_RANGES), (("--data", "digits"), recipes.DIGITS_RANGES)],
)
def test_digits_are_turned_less_than_pictures_unless_told(config, arguments, argv, ranges):
    assert resolve(arguments(*argv), "cnn").ranges == ranges
    assert resolve(arguments(*argv), "cnn_pool3").ranges == recipes.Ranges()  # has none
    whole = dataclasses.asdict(recipes.REFERENCE_RANGES)
    told = resolve(arguments(*argv, "--config", config({"ranges": whole})), "cnn")
    assert told.ranges == recipes.REFERENCE_RANGES
    assert not recipes.DIGITS_RANGES.flip


def test_a_run_repeats_from_its_record_and_an_edited_copy_is_a_new_run(npz, workdir):
    small = f"--data {npz} --fold 2"
    said(train_cnn, f"{small} --arch pool3 --epochs 1 --batch-size 50 --learning-rate 0.01 --seed 3")
    record = "checkpoints/small_cnn_pool3_fold2.json"
    assert "finished already" in said(train_cnn, f"{small} --arch pool3 --config {record}")
    said(train_cnn, f"{small} --arch pool3 --config {record} --name again")
    first, again = (common.Run(f"small_cnn_pool3{name}", 2) for name in ("", "_again"))
    weights = [run.load_model().get_weights() for run in (first, again)]
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert first.read_record()["settings"] == again.read_record()["settings"]

    edited = json.loads(Path(record).read_text())
    edited["settings"] |= {"optimizer": "sgd", "scale": 1 / 255}
    Path("edited.json").write_text(json.dumps(edited))
    with pytest.raises(
        InputError, match=r"other settings \(scale 1\.0 there, 0\.0039\d+ now; optimizer adam there, sgd now\)"
    ):
        said(train_cnn, f"{small} --arch pool3 --config edited.json")
    said(train_cnn, f"{small} --arch pool3 --config edited.json --name sgd")
    settings = common.Run("small_cnn_pool3_sgd", 2).read_record()["settings"]
    assert (settings["optimizer"], settings["scale"], settings["batch_size"]) == ("sgd", 1 / 255, 50)


def test_a_classifier_has_the_encoder_of_its_autoencoder(npz, workdir):
    network = {"blocks": 2, "first_width": 4, "dropout": 0.0}
    content = {"network": {**network, "pooling": "average"}, "seed": 5, "epochs": 1}
    Path("small.json").write_text(json.dumps(content))
    arch = f"--arch cae --data {npz}"
    Path("short.json").write_text(json.dumps({"epochs": 1, "seed": 5, "network": network}))
    said(train_autoencoder, f"{arch} --config short.json")
    autoencoder = common.Run("small_autoencoder_cae").read_record()
    assert autoencoder["settings"]["network"].items() >= network.items()

    with pytest.raises(InputError, match=r"there is no small_autoencoder_cae\.keras .* run `make ae DATA=.* ARCH=cae`"):
        said(train_ae_classifier, f"{arch} --epochs 1")  # seed 42: other images
    said(train_ae_classifier, f"{arch} --epochs 1 --seed 5")
    run = common.Run("small_autoencoder_cls_cae", 1)
    record = run.read_record()
    assert record["settings"]["network"].items() >= {**network, "pooling": "flatten"}.items()
    assert record["taken"] == [f"block{b}_{kind}{i}" for b in (1, 2) for i in (1, 2) for kind in ("conv", "norm")]
    assert record["frozen"] == record["taken"]
    assert record["settings"]["autoencoder_sha256"] == autoencoder["checkpoint_sha256"]
    assert run.load_model().get_layer("code").output.shape == (None, 8, 8, 8)

    assert "it is used" in said(train_autoencoder, f"{arch} --config small.json --if-missing --name avg")
    said(train_ae_classifier, f"{arch} --config small.json --name avg")
    record = common.Run("small_autoencoder_cls_cae_avg", 1).read_record()
    assert record["settings"]["network"].items() >= {**network, "pooling": "average"}.items()
    Path("other.json").write_text(json.dumps({**content, "network": {"blocks": 1}}))
    with pytest.raises(
        InputError,
        match=r"there is no small_autoencoder_cae\.keras .* and has the encoder of CONFIG: `make` with ae_cls ",
    ):
        said(train_ae_classifier, f"{arch} --config other.json")
    with pytest.raises(InputError, match=r"another encoder than CONFIG.s: choose NAME=\.\.\. to keep it, and train"):
        said(train_autoencoder, f"{arch} --config other.json --if-missing")
    said(train_ae_classifier, f"{arch} --encoder scratch --config other.json")  # which needs none
    record = common.Run("small_autoencoder_cls_cae_scratch", 1).read_record()
    assert record["settings"]["network"]["blocks"] == 1


def test_an_autoencoder_on_demand_takes_what_it_shares(config, arguments):
    content = {"seed": 5, "reduced": [3], "keep": [9], "val": 0.3, "epochs": 7, "ranges": {"rotation": 1}, "scale": 0.5}
    path = config({**content, "network": {"blocks": 2, "pooling": "max"}, "model": "autoencoder_cls_cae"})
    args = arguments("--config", path)
    args.if_missing = True
    recipe, row = (
        resolve(args, "autoencoder_cae", **chosen("autoencoder_cae")),
        recipes.RECIPES["autoencoder_cae"],
    )
    assert (recipe.seed, recipe.reduced, recipe.keep, recipe.val, recipe.scale) == (5, [3], [9], 0.3, 0.5)
    assert (recipe.epochs, recipe.ranges) == (row.epochs, row.ranges)
    assert recipe.network == {**row.network, "blocks": 2}


# --- What it may not hold ---

RATE = "a number, more than 0 and at most 1"
BAD = [  # row, what the file holds, the sentence after its name
    ("cnn", {"epochz": 5}, 'holds "epochz", which is no setting of this model; the settings there are model, network'),
    (
        "cnn",
        {"encoder": "tuned"},
        'holds "encoder", which is no setting of this model; the settings there are model, netw',
    ),
    (
        "cnn",
        {"network": {"blocks": 2}},
        'holds "network.blocks", which is no setting of this model; there are none there',
    ),
    (
        "cnn",
        {"ranges": {"tilt": 1}},
        'holds "ranges.tilt", which is no setting of this model; the settings there are rota',
    ),
    ("cnn", {"epochs": "64"}, 'holds epochs = "64"; it may be a whole number, at least 1'),
    ("cnn", {"epochs": 2.5}, "holds epochs = 2.5; it may be a whole number, at least 1"),
    ("cnn", {"epochs": True}, "holds epochs = true; it may be a whole number, at least 1"),
    ("cnn", {"epochs": None}, "holds epochs = null; it may be a whole number, at least 1"),
    ("cnn", '{"learning_rate": NaN}', "holds learning_rate = NaN; it may be a number, at least 0"),
    ("cnn", {"val": 1}, "holds val = 1; it may be a number, more than 0 and less than 1"),
    ("cnn", {"balanced": "yes"}, 'holds balanced = "yes"; it may be true or false'),
    ("cnn", {"balanced": 1}, "holds balanced = 1; it may be true or false"),
    ("cnn", {"ranges": 5}, "holds ranges = 5; it may be a dictionary"),
    ("cnn", {"ranges": {"zoom": 1}}, "holds ranges.zoom = 1; it may be a number, at least 0 and less than 1"),
    ("cnn", {"ranges": {"flip": 0}}, "holds ranges.flip = 0; it may be true or false"),
    ("cnn", {"optimizer": "adamm"}, 'holds optimizer = "adamm"; it may be "adam" or "adamax" or '),
    ("cnn", {"loss": "mean_squared_error"}, 'holds loss = "mean_squared_error"; it may be "categorical_crossentropy"'),
    ("cnn", {"schedule": 2}, f'holds schedule = 2; it may be null or "plateau" or {RATE}'),
    ("cnn", {"monitor": "val_psnr"}, 'holds monitor = "val_psnr"; it may be "val_loss" or "val_accuracy"'),
    ("cnn", {"reduced": "bird"}, 'holds reduced = "bird"; it may be a list of a whole number, at least 0 or a text'),
    ("cnn", {"keep": [1]}, "holds keep = [1]; it may be null or a whole number, at least 2 or a list of a whole"),
    ("cnn", {"split": "middle"}, 'holds split = "middle"; it may be "shuffle" or "first" or "last"'),
    ("cnn", {"scale": 0}, "holds scale = 0; it may be a number, more than 0"),
    ("cnn", {"offset": [0]}, "holds offset = [0]; it may be a number"),
    ("cnn", {"model": "resnet"}, 'holds model = "resnet"; it may be "cnn" or '),
    ("cnn", {"model": "cnn_elu"}, 'is of model "cnn_elu", and this run of "cnn": type the target, ARCH, '),
    ("autoencoder", {"augment": False}, "is of augment false, and this run of true: "),
    ("autoencoder", {"encoder": "tuned"}, 'holds "encoder", which is no setting of this model; '),
    ("autoencoder", {"class_weights": True}, "holds class_weights = true; it may be false"),
    ("autoencoder", {"monitor": "val_accuracy"}, 'holds monitor = "val_accuracy"; it may be "val_loss" or "val_psnr"'),
    ("autoencoder_cls", {"encoder": "tuned"}, 'is of encoder "tuned", and this run of "frozen": '),
    (
        "autoencoder_cae",
        {"network": {"blocks": 0}},
        "holds network.blocks = 0; it may be a whole number, at least 1 and ",
    ),
    (
        "autoencoder_cae",
        {"network": {"pooling": "max"}},
        'holds "network.pooling", which is no setting of this model; the ',
    ),
    ("autoencoder_cae", {"network": {"batch_norm": 1}}, "holds network.batch_norm = 1; it may be true or false"),
    ("autoencoder_cls_cae", {"network": {"pooling": "sum"}}, 'holds network.pooling = "sum"; it may be "flatten" or '),
    (
        "autoencoder_cls_cae",
        {"network": {"dropout": 1}},
        "holds network.dropout = 1; it may be a number, at least 0 and ",
    ),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD)
def test_what_a_config_may_not_hold_is_named_with_what_it_may(config, arguments, name, content, sentence):
    with pytest.raises(InputError) as refusal:
        resolve(arguments("--config", config(content)), name, **chosen(name))
    assert str(refusal.value).startswith(f"CONFIG 'config.json' {sentence}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{'epochs': 3}", r"cannot be read as JSON \(Expecting .*line 1 column \d+ .*\)"),
        ("", r"cannot be read as JSON \(Expecting .*line 1 column \d+ .*\)"),
        ("[" * 100_000, r"cannot be read as JSON \(maximum recursion depth .*\)"),
        (
            '{"seed": 1, "ranges": {"flip": true, "zoom": 0.1, "flip": false}}',
            r"cannot be read as JSON \('flip' is in it twice\)",
        ),
        ('["epochs"]', "holds no settings; give a record, or its settings alone"),
    ],
)
def test_a_file_that_is_no_config(config, arguments, content, sentence):
    with pytest.raises(InputError, match=f"argument --config: 'config.json' {sentence}"):
        arguments("--config", config(content))


def test_a_network_s_setting_without_limits_keeps_its_type(config, arguments, monkeypatch):
    row = recipes.Recipe(None, {"blocks": 2, "name": "a", "wide": False, "rate": 0.5})
    monkeypatch.setitem(recipes.RECIPES, "cnn_own", row)
    network = {"blocks": 30, "name": "b", "wide": True, "rate": 2}  # that of cae has at most five
    assert resolve(arguments("--config", config({"network": network})), "cnn_own").network == network
    for key, value, words in (
        *(("blocks", "3", "a whole number"), ("name", 3, "a text")),
        *(("wide", 1, "true or false"), ("rate", float("nan"), "a number")),
    ):
        with pytest.raises(InputError, match=f"network.{key} = .*; it may be {words}$"):
            resolve(arguments("--config", config({"network": {key: value}})), "cnn_own")
