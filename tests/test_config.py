"""CONFIG: a record's settings fed back, an edited copy, and what such a file may not hold."""

import contextlib
import dataclasses
import io
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT

import common
import optimizers
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from common import Augmentation
from optimizers import new_optimizer
from recipes import RECIPES, OptimizerConfig, Settings
from runs import Run, require_one_study
from util.cli import InputError

HASHES = {"sha256", "kept_sha256", "train_sha256", "encoder_sha256"}
REFERENCE_RANGES = Augmentation(rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=True)


@pytest.fixture
def config(workdir):
    """config(content) -> the path of a file that holds it as JSON."""

    def config(content):
        Path("config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return "config.json"

    return config


@pytest.fixture
def resolve(arguments):
    """resolve('cnn', '--epochs', 3): the settings of that training, as its script finds them."""

    def resolve(name, *argv, on_demand=False):
        return recipes.resolve(name, *arguments(*argv), on_demand, **chosen(name)).settings

    return resolve


@pytest.fixture
def of_file(config, resolve):
    """of_file('cnn', content): the settings of a training with a CONFIG of this content."""
    return lambda name, content, *argv, **more: resolve(name, "--config", config(content), *argv, **more)


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


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_s_settings_come_back(of_file, npz, name):
    row = RECIPES[name].settings
    changed = {"learning_rate": 0.5, "epochs": row.epochs + 1, "optimizer": "sgd", "scale": 0.5, "seed": 3, "val": 0.3}
    network = row.network.model_copy(update={"dropout": 0.25} if "dropout" in type(row.network).model_fields else {})
    changed |= {"network": network, "augmentation": Augmentation(rotation=3), "reduced": [2, 4, 9], "keep": 7}
    changed |= {"muon_rate_factor": 0.0}

    def of_record(settings):
        """As train() completes them."""
        fold = common.prepare_fold(npz, settings).record
        found = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
        return settings.model_copy(update={key: fold[key] for key in found}).model_dump()

    settings = of_record(row.model_copy(update={**changed, "model": name, **chosen(name)}))
    assert settings == json.loads(json.dumps(settings))
    for content in (settings, {"run": "any", "settings": settings}):  # alone, or in a record
        assert of_record(of_file(name, content)) == settings


def test_a_file_goes_before_the_recipe_and_what_is_typed_before_the_file(of_file):
    augmentation, network = {"rotation": 5, "flip": False}, {"blocks": 2, "pooling": "max", "head_dropout": 0.5}
    other = {"scale": 1, "reduced": ["bird", 4], "keep": [9, 8], "split": "last", "val": 0.3, "seed": 7}
    other |= {"optimizer": "sgd", "learning_rate": 1, "batch_size": 8, "epochs": 3, "labelled": 0.5}
    content, name = {**other, "augmentation": augmentation, "network": network}, "autoencoder_cls_cae"
    settings, row = of_file(name, content), RECIPES[name].settings
    assert {key: getattr(settings, key) for key in other} == other
    assert [type(value) for value in (settings.scale, settings.learning_rate)] == [float, float]  # Keras wants them so
    assert settings.augmentation == row.augmentation.model_copy(update=augmentation)  # the rest of them stays
    assert settings.network == row.network.model_copy(update=network)
    typed = ("--epochs", 9, "--seed", 1, "--keep", 5, "--reduced", "truck", "--val", 0.1, "--batch-size", 2)
    settings = of_file(name, content, *typed)
    assert (settings.epochs, settings.seed, settings.keep, settings.reduced) == (9, 1, 5, ["truck"])
    assert (settings.val, settings.batch_size, settings.optimizer) == (0.1, 2, "sgd")


@pytest.mark.parametrize("value", [0.5, 1, "plateau", "linear", "cosine", None])
def test_schedules(of_file, value):
    settings = of_file("cnn_leaky", {"schedule": value})
    assert settings.schedule == value
    assert not isinstance(settings.schedule, int)  # a factor is a float, by which it is known


def test_each_class_keeps_its_own_number(npz, of_file):
    settings = Settings(reduced=["truck", 2], keep=[30, 10])
    assert common.prepare_fold(npz, settings).record.items() >= {"reduced": [2, 9], "keep": [10, 30]}.items()
    with pytest.raises(InputError, match="twice"):
        common.prepare_fold(npz, settings.model_copy(update={"reduced": ["bird", 2]}))
    content = {"reduced": ["truck"], "keep": [30, 10]}
    with pytest.raises(InputError, match="keeps"):
        common.prepare_fold(npz, of_file("cnn", content))
    typed = of_file("cnn", content, "--reduced", "bird")  # of which the file's numbers are not
    assert (typed.reduced, typed.keep) == (["bird"], None)


def test_images_to_keep_are_of_the_study_s_classes_where_none_is_named(of_file, resolve):
    content = {"reduced": [], "keep": []}  # as a record of the whole training set has it
    assert of_file("cnn", content).reduced == of_file("cnn", {**content, "keep": 500}).reduced == []
    for settings in (of_file("cnn_elu", content, "--keep", 9), resolve("cnn_elu", "--keep", 9)):
        assert (settings.reduced, settings.keep) == (None, 9)
    assert common.prepare_fold("digits", settings).record["reduced"] == [2, 4, 9]
    assert resolve("cnn_elu", "--keep", 9, "--reduced", "none").reduced == []


def test_a_split_and_a_fold_exclude_each_other(of_file, resolve):
    assert of_file("cnn", {"split": "last"}).split == "last"
    with pytest.raises(InputError, match="split"):
        of_file("cnn", {"split": "last"}, "--fold", 1)
    assert resolve("cnn_elu", "--fold", 1).split == "first"  # which prepare_fold leaves for the fold


PUBLISHED = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text())["folds"]["1"]["record"]
    for kind in ("*", "tried/*_earlier", "tried/cnn_reference")
    for path in (ROOT / "imgs").glob(f"{kind}_report.json")
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_records_can_be_fed_back(config, arguments, name):
    there = PUBLISHED[name]["settings"]
    of_name = {key: there[key] for key in ("target", "augment", "encoder") if key in there}
    recipe = recipes.resolve(there["model"], *arguments("--config", config(PUBLISHED[name])), **of_name)
    assert recipe.settings.model_dump() == there
    assert dataclasses.replace(recipe, settings=None) == dataclasses.replace(RECIPES[there["model"]], settings=None)


def test_published_records_are_of_every_kind_of_model():
    assert {recipes.model_of(record["settings"]["model"]) for record in PUBLISHED.values()} == set(recipes.MODELS)


@pytest.mark.parametrize("name", RECIPES)
def test_digits_are_augmented_as_pictures_but_for_flips_and_large_turns_unless_told(of_file, resolve, name):
    of_pictures, digits = resolve(name).augmentation, ("--data", "digits")
    assert of_pictures == RECIPES[name].settings.augmentation
    turned = {"rotation": min(of_pictures.rotation, 10), "flip": False}
    assert resolve(name, *digits).augmentation == of_pictures.model_copy(update=turned)
    assert of_file(name, {"augmentation": REFERENCE_RANGES.model_dump()}, *digits).augmentation == REFERENCE_RANGES


def test_a_run_repeats_from_its_record_and_an_edited_copy_is_a_new_run(npz, workdir):
    small = f"--data {npz} --fold 2"
    said(train_cnn, f"{small} --arch pool3 --epochs 1 --batch-size 50 --learning-rate 0.01 --seed 3")
    record = "checkpoints/small_cnn_pool3_fold2.json"
    assert "finished already" in said(train_cnn, f"{small} --arch pool3 --config {record}")
    said(train_cnn, f"{small} --arch pool3 --config {record} --name again")
    first, again = (Run(f"small_cnn_pool3{name}", 2) for name in ("", "_again"))
    weights = [run.load_model().get_weights() for run in (first, again)]
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    assert first.read_record()["settings"] == again.read_record()["settings"]

    edited = json.loads(Path(record).read_text())
    edited["settings"] |= {"optimizer": "sgd", "scale": 1 / 255}
    Path("edited.json").write_text(json.dumps(edited))
    with pytest.raises(InputError, match=r"scale .* optimizer adam"):
        said(train_cnn, f"{small} --arch pool3 --config edited.json")
    said(train_cnn, f"{small} --arch pool3 --config edited.json --name sgd")
    settings = Run("small_cnn_pool3_sgd", 2).read_record()["settings"]
    assert (settings["optimizer"], settings["scale"], settings["batch_size"]) == ("sgd", 1 / 255, 50)


def test_a_run_that_is_older_than_a_setting_was_trained_with_its_default(finished, workdir, monkeypatch):
    run, record = Run("tiny", 1), finished.run.read_record()
    now, names = record["settings"], record["data"]["class_names"]
    augmentation = {key: value for key, value in now["augmentation"].items() if key != "cutout"}
    old = {key: value for key, value in now.items() if key != "label_smoothing"} | {"augmentation": augmentation}
    run.folder.mkdir()
    run.checkpoint.touch()
    run.state.touch()
    monkeypatch.setattr(Run, "read_record", lambda _: {**record, "settings": old})
    monkeypatch.setattr(Run, "read_state", lambda _: ({"finished": False, "settings": old}, []))
    assert run.already_finished(now, names) and run.unfinished(now, names)
    require_one_study({run: run.read_record(), Run("tiny", 2): record})
    for changed in ({"label_smoothing": 0.5}, {"augmentation": {**augmentation, "cutout": 3}}):
        with pytest.raises(InputError, match="there"):
            run.already_finished({**now, **changed}, names)
        assert run.unfinished({**now, **changed}, names) is None


def test_a_classifier_has_the_encoder_of_its_autoencoder(npz, workdir):
    network = {"blocks": 2, "layers_per_block": 1, "first_width": 2, "dropout": 0.0}
    content = {"network": {**network, "pooling": "average"}, "seed": 5, "epochs": 1}
    Path("small.json").write_text(json.dumps(content))
    arch = f"--arch cae --data {npz}"
    Path("short.json").write_text(json.dumps({"epochs": 1, "seed": 5, "network": network}))
    said(train_autoencoder, f"{arch} --config short.json")
    autoencoder = Run("small_autoencoder_cae").read_record()
    assert autoencoder["settings"]["network"].items() >= network.items()

    with pytest.raises(InputError, match="make ae ARCH=cae DATA="):
        said(train_ae_classifier, f"{arch} --epochs 1")  # seed 42: other images
    said(train_ae_classifier, f"{arch} --epochs 1 --seed 5")
    run = Run("small_autoencoder_cls_cae", 1)
    record = run.read_record()
    assert record["settings"]["network"].items() >= {**network, "pooling": "flatten"}.items()
    assert record["taken"] == [f"block{b}_{kind}1" for b in (1, 2) for kind in ("conv", "norm")]
    assert record["frozen"] == record["taken"]
    assert record["settings"]["encoder_sha256"] == autoencoder["checkpoint_sha256"]
    assert run.load_model().get_layer("code").output.shape == (None, 8, 8, 4)

    assert "it is used" in said(train_autoencoder, f"{arch} --config small.json --if-missing --name avg")
    said(train_ae_classifier, f"{arch} --config small.json --name avg")
    record = Run("small_autoencoder_cls_cae_avg", 1).read_record()
    assert record["settings"]["network"].items() >= {**network, "pooling": "average"}.items()
    Path("other.json").write_text(json.dumps({**content, "network": {"blocks": 1}}))
    with pytest.raises(InputError, match="encoder of CONFIG"):
        said(train_ae_classifier, f"{arch} --config other.json")
    with pytest.raises(InputError, match="another encoder"):
        said(train_autoencoder, f"{arch} --config other.json --if-missing")
    said(train_ae_classifier, f"{arch} --encoder scratch --config other.json")  # which needs none
    record = Run("small_autoencoder_cls_cae_scratch", 1).read_record()
    assert record["settings"]["network"]["blocks"] == 1


def test_an_autoencoder_on_demand_takes_what_it_shares(of_file):
    content = {"seed": 5, "reduced": [3], "keep": [9], "val": 0.3, "epochs": 7, "scale": 0.5}
    content |= {"augmentation": {"rotation": 1}}
    content |= {"offset": -0.25, "split": "last", "precision": "float32", "batch_size": 7, "optimizer": "sgd"}
    content |= {"network": {"blocks": 2, "pooling": "max"}, "model": "autoencoder_cls_cae", "encoder": "frozen"}
    settings, row = of_file("autoencoder_cae", content, on_demand=True), RECIPES["autoencoder_cae"].settings
    assert (settings.seed, settings.reduced, settings.keep, settings.val, settings.scale) == (5, [3], [9], 0.3, 0.5)
    assert (settings.offset, settings.split, settings.precision) == (-0.25, "last", "float32")
    own = ("epochs", "augmentation", "batch_size", "optimizer")
    assert [getattr(settings, key) for key in own] == [getattr(row, key) for key in own]
    assert settings.network == row.network.model_copy(update={"blocks": 2})
    assert settings.model == "autoencoder_cae"


# --- Optimizers and schedules ---

OPTIMIZERS = [
    ("SGD", {"momentum": 0.85, "nesterov": True}),
    ("SGD", {}),
    ("Muon", {"weight_decay": 0.1, "exclude_layers": ["probabilities"]}),
    ("AdamW", {"weight_decay": 0.01}),
    ("Adam", {"use_ema": False, "gradient_accumulation_steps": None, "beta_1": 0.8}),
    ("Adam", {"amsgrad": True}),
    ("Nadam", {"clipnorm": 1, "name": "own"}),
]


@pytest.mark.parametrize(("kind", "values"), OPTIMIZERS)
def test_an_optimizer_is_a_configuration_of_keras_s(of_file, kind, values):
    content = {"optimizer": {"class_name": kind, "config": values}, "learning_rate": 0.5, "schedule": None}
    settings = of_file("cnn", content)
    assert settings.model_dump()["optimizer"] == content["optimizer"]  # which a record holds
    assert of_file("cnn", settings.model_dump(exclude=HASHES)) == settings
    optimizer = new_optimizer(settings)
    assert isinstance(optimizer, getattr(keras.optimizers, kind))
    assert float(keras.ops.convert_to_numpy(optimizer.learning_rate)) == 0.5
    plain = getattr(keras.optimizers, kind)(0.5, **values).get_config()
    assert {key: value for key, value in optimizer.get_config().items() if key != "name"} == {
        key: value for key, value in plain.items() if key != "name"
    }


def test_what_keras_serializes_is_taken_but_for_the_rate(of_file):
    whole = keras.optimizers.serialize(keras.optimizers.SGD(0.5, momentum=0.9))
    assert whole["module"] == "keras.optimizers"
    with pytest.raises(InputError, match="learning_rate"):
        of_file("cnn", {"optimizer": whole})
    del whole["config"]["learning_rate"]
    settings = of_file("cnn", {"optimizer": whole})
    assert settings.model_dump()["optimizer"] == {"class_name": "SGD", "config": whole["config"]}
    assert new_optimizer(settings).momentum == 0.9


@pytest.mark.parametrize("name", ["cnn", "cnn_fast"])  # whose optimizer has a configuration, which it replaces
def test_without_its_config_an_optimizer_is_keras_s_own(of_file, name):
    settings = of_file(name, {"optimizer": {"class_name": "Lion"}, "muon_rate_factor": 0})
    assert settings.optimizer == OptimizerConfig(class_name="Lion", config={})
    assert isinstance(new_optimizer(settings), keras.optimizers.Lion)


REFUSED_OPTIMIZERS = [
    {"class_name": "Foo"},
    {"class_name": ""},
    {"class_name": "Optimizer"},
    {"class_name": "LossScaleOptimizer"},
    {"class_name": "SGD", "config": {"momentumm": 0.9}},
    {"class_name": "SGD", "config": {"momentum": 5}},
    {"class_name": "SGD", "config": {"momentum": "a"}},
    {"class_name": "SGD", "config": {"weight_decay": "a"}},
]


@pytest.mark.parametrize("optimizer", REFUSED_OPTIMIZERS)
def test_an_optimizer_that_keras_cannot_make_is_refused_before_the_autoencoder_is_trained(config, optimizer):
    with pytest.raises(InputError, match="optimizer"):
        said(train_ae_classifier, f"--check --config {config({'optimizer': optimizer})}")


@pytest.mark.parametrize("own", [{"bias_rate_factor": 2.0}, {"muon_rate_factor": 0.5}])
def test_a_fault_of_our_own_optimizers_is_no_fault_of_config_s(of_file, monkeypatch, own):
    def faulty(kind, *_):
        raise ValueError("ours")

    for name in ("with_bias_rate", "with_muon"):
        monkeypatch.setattr(optimizers, name, faulty)
    optimizer = {"class_name": "SGD", "config": {"momentum": 0.9}}
    with pytest.raises(ValueError, match="ours"):
        new_optimizer(of_file("cnn", {"optimizer": optimizer, **own}))


def test_an_optimizer_that_keras_cannot_make_leaves_nothing_behind(config, npz):
    path = config({"optimizer": {"class_name": "SGD", "config": {"momentumm": 0.9}}})
    with pytest.raises(InputError, match="CONFIG holds an optimizer 'SGD' that Keras cannot make"):
        said(train_cnn, f"--data {npz} --config {path}")
    assert not list(Path("checkpoints").glob("[!.]*"))


@pytest.mark.parametrize("shape", ["linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 0.25])
def test_a_schedule_rises_and_then_ends_at_zero(of_file, shape, warmup):
    settings = of_file("cnn", {"schedule": shape, "warmup": warmup, "learning_rate": 0.5})
    assert (settings.schedule, settings.warmup) == (shape, warmup)
    optimizer, rates = new_optimizer(settings, steps=80), []
    for step in range(81):
        optimizer.iterations.assign(step)
        rates.append(float(keras.ops.convert_to_numpy(optimizer.learning_rate)))
    top = int(80 * warmup)
    rising = np.arange(top) / max(1, top)
    left = np.linspace(1, 0, 81 - top)
    falling = left if shape == "linear" else (1 - np.cos(np.pi * left)) / 2
    np.testing.assert_allclose(rates, 0.5 * np.concatenate([rising, falling]), atol=1e-6)


def test_the_reference_s_way_is_one_file(resolve):
    there = {"statistics": "moving", "unaugmented": 0, "schedule": "plateau", "epochs": 100, "patience": 15}
    for model in ("cnn", "autoencoder_cls", "mod_autoencoder_cls"):
        found = resolve(model, "--config", ROOT / "docs/reference.json")
        assert found.model_dump() == {**RECIPES[model].settings.model_dump(), **there, "model": model}


@pytest.mark.parametrize(
    ("file", "there"),
    [("nothing", {}), ("balanced", {"balanced": True, "epochs": 15}), ("weights", {"class_weights": True})],
)
def test_other_ways_with_the_halved_classes_are_a_file_each(resolve, file, there):
    found = resolve("cnn_fast", "--config", ROOT / f"docs/halved/{file}.json")
    fast = RECIPES["cnn_fast"].settings.model_dump()
    assert found.model_dump() == {**fast, "logit_adjustment": 0, **there, "model": "cnn_fast"}


# --- What it may not hold ---

SGD = {"class_name": "SGD", "config": {"momentum": 0.9}}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        *(({"warmup": 0.1, "schedule": schedule}, "warmup") for schedule in (None, "plateau", 0.5)),
        *(({"muon_rate_factor": 0.1, "optimizer": one}, "momentum") for one in ("sgd", "adam", {"class_name": "SGD"})),
        *(({"validate_every": 2, **one}, "validate_every") for one in ({"patience": 3}, {"schedule": "plateau"})),
        *(({key: 0.1}, "ENCODER") for key in ("encoder_rate_factor", "frozen_share")),
        *(
            ({"optimizer": {"class_name": "SGD", "config": {key: value}}}, key)
            for key, value in {"learning_rate": 0.1, "use_ema": True, "gradient_accumulation_steps": 2}.items()
        ),
        *(({"model": "cnn_elu"}, "cnn_elu"), ({"model": "resnet"}, "resnet")),
    ],
)
def test_what_does_not_go_together_is_refused(of_file, content, word):
    assert of_file("cnn", {"muon_rate_factor": 0.1, "optimizer": SGD}).muon_rate_factor == 0.1
    assert of_file("cnn", {"warmup": 0.1, "schedule": "linear"}).warmup == 0.1
    with pytest.raises(InputError, match=word):
        of_file("autoencoder_cls", content)


def test_blocks_to_take_are_refused_where_nothing_is_taken():
    scratch = {"encoder": "scratch", "encoder_blocks": 1}
    with pytest.raises(InputError, match="encoder_blocks"):
        recipes.require_settings(RECIPES["autoencoder_cls"].settings.model_copy(update=scratch))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [  # row, what the file holds, what is said after its name
        *(("cnn", {"epochz": 5}, "epochz: .*epochs"), ("cnn", {"encoder": "tuned"}, "encoder: ")),
        *(("cnn", {"network": {"blocks": 2}}, r"network\.blocks: "), ("cnn", {"seed": 1.5}, "seed: ")),
        ("cnn", {"augmentation": {"tilt": 1}}, r"augmentation\.tilt: .*rotation"),
        *(("cnn", {"epochs": value}, "epochs: ") for value in ("64", 2.5, 2.0, True, None, 10**6 + 1, 10**400)),
        *(("cnn", {"learning_rate": value}, "learning_rate: .*") for value in ("0.1", True, float("nan"))),
        *(("cnn", {"offset": value}, "offset: ") for value in (float("inf"), [0])),
        *(("cnn", {key: value}, f"{key}: ") for key, value in (("val", 1), ("balanced", 1), ("keep", [1]))),
        *(("cnn", {"augmentation": value}, "augmentation") for value in (5, {"zoom": 1}, {"flip": 0})),
        ("cnn", {"optimizer": "adamm"}, "optimizer: .*adam"),
        ("cnn", {"optimizer": {"class_name": "SGD", "rate": 1}}, r"optimizer\.rate: "),
        ("cnn", {"optimizer": {"config": {}}}, "optimizer"),
        ("cnn", {"optimizer": {"class_name": "SGD", "config": {"momentum": float("nan")}}}, r"optimizer\.config"),
        *(("cnn", {"schedule": value}, "schedule: ") for value in (2, True, "step")),
        *(("cnn", {"reduced": value}, "reduced: ") for value in ("bird", [-1], [True])),
        *(("cnn", {"monitor": "val_psnr"}, "monitor: "), ("cnn", {"loss": "mean_squared_error"}, "loss: ")),
        *(("autoencoder", {key: value}, key) for key, value in (("augment", False), ("class_weights", True))),
        *(("autoencoder", {key: value}, key) for key, value in (("encoder", "tuned"), ("monitor", "val_accuracy"))),
        *(("autoencoder_cls", {key: value}, key) for key, value in (("encoder", "tuned"), ("target", "original"))),
        ("autoencoder_cae", {"network": {"blocks": 0}}, r"network\.blocks: "),
        ("autoencoder_cae", {"network": {"pooling": "max"}}, r"network\.pooling: .*blocks"),
        ("autoencoder_cls_cae", {"network": {"pooling": "sum"}}, r"network\.pooling: .*flatten"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(of_file, name, content, words):
    with pytest.raises(InputError, match=f"^CONFIG 'config.json'.*{words}") as refusal:
        of_file(name, content)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "content",
    ["{'epochs': 3}", "", '["epochs"]', "3", '{"epochs": 3, "epochs": 4}', '{"augmentation": {"zoom": 1, "zoom": 0}}'],
)
def test_a_file_that_is_no_config(of_file, resolve, content):
    with pytest.raises(InputError, match=r"^CONFIG 'config\.json'"):
        of_file("cnn", content)
    for path in ("nowhere.json", "."):
        with pytest.raises(InputError, match=f"^CONFIG '{path}'"):
            resolve("cnn", f"--config={path}")
