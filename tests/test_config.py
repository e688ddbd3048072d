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
from recipes import PLAIN, RECIPES, OptimizerConfig, Settings
from runs import Run
from util.cli import InputError
from util.settings import Part, setting

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
    changed |= {
        "network": network,
        "augmentation": Augmentation(rotation=3),
        "reduced": [2, 4, 9],
        "keep": 7,
        "muon_rate_factor": 0.0,
    }

    def of_record(settings):
        """As train() completes them."""
        fold = common.prepare_fold(npz, settings).record
        found = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
        return settings.model_copy(update={key: fold[key] for key in found}).model_dump()

    settings = of_record(row.model_copy(update={**changed, "model": name, **chosen(name)}))
    assert settings == json.loads(json.dumps(settings))
    assert {field.name for field in dataclasses.fields(recipes.Recipe)} - {"settings"} == {
        "build",
        "start",
        "frozen_until",
        "encoder_end",
    }
    for content in (settings, {"run": "any", "settings": settings}):  # alone, or in a record
        assert of_record(of_file(name, content)) == settings


def test_every_setting_can_be_changed_and_knobs_go_first(of_file):
    augmentation, network = {"rotation": 5, "flip": False}, {"blocks": 2, "pooling": "max", "head_dropout": 0.5}
    other = {
        **{"scale": 1, "offset": -0.5, "balanced": True, "class_weights": True, "reduced": ["bird", 4], "keep": [9, 8]},
        **{"split": "last", "val": 0.3, "seed": 7, "precision": "float32", "optimizer": "sgd", "learning_rate": 1},
        **{"schedule": "cosine", "warmup": 0.25, "batch_size": 8, "epochs": 3, "monitor": "val_accuracy"},
        **{
            "patience": 4,
            "statistics": "precise",
            "unaugmented": 0.25,
            "low_resolution": 0.5,
            "bias_rate_factor": 8.0,
            "labelled": 0.5,
        },
        **{"logit_adjustment": 1.5, "label_smoothing": 0.1},
    }
    content, name = {**other, "augmentation": augmentation, "network": network}, "autoencoder_cls_cae"
    settings, row = of_file(name, content), RECIPES[name].settings
    assert content.keys() == type(row).model_fields.keys() - HASHES - {"model", "encoder", "loss", "muon_rate_factor"}
    assert {key: getattr(settings, key) for key in other} == other
    assert [type(value) for value in (settings.scale, settings.learning_rate)] == [float, float]  # Keras wants them so
    assert all(value != getattr(row, key) for key, value in other.items())
    assert settings.augmentation == row.augmentation.model_copy(update=augmentation)
    assert settings.network == row.network.model_copy(update=network)
    knobs = ("--epochs", 9, "--seed", 1, "--keep", 5, "--reduced", "truck", "--val", 0.1, "BATCH=2")
    settings = of_file(name, content, *knobs)
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
    with pytest.raises(InputError, match="CONFIG reduces a class twice"):
        common.prepare_fold(npz, settings.model_copy(update={"reduced": ["bird", 2]}))
    content = {"reduced": ["truck"], "keep": [30, 10]}
    with pytest.raises(InputError, match=r"^CONFIG keeps images of 2 classes, and 1 are reduced; give each a number$"):
        common.prepare_fold(npz, of_file("cnn", content))
    typed = of_file("cnn", content, "--reduced", "bird")  # of which the file's numbers are not
    assert (typed.reduced, typed.keep) == (["bird"], None)


def test_images_to_keep_are_of_the_study_s_classes_where_none_is_named(of_file, resolve):
    content = {"reduced": [], "keep": []}  # as a record of the whole training set has it
    assert of_file("cnn", content).reduced == []
    for settings in (of_file("cnn_elu", content, "--keep", 9), resolve("cnn_elu", "--keep", 9)):
        assert (settings.reduced, settings.keep) == (None, 9)
    assert common.prepare_fold("digits", settings).record["reduced"] == [2, 4, 9]
    assert resolve("cnn_elu", "--keep", 9, "--reduced", "none").reduced == []


def test_a_split_and_a_fold_exclude_each_other(of_file, resolve):
    assert of_file("cnn", {"split": "last"}).split == "last"
    with pytest.raises(InputError, match="is of the last images held out, and a fold is a shuffle split"):
        of_file("cnn", {"split": "last"}, "--fold", 1)
    assert resolve("cnn_elu", "--fold", 1).split == "first"  # which prepare_fold leaves for the fold


PUBLISHED = {
    path.stem.removesuffix("_report"): json.loads(path.read_text())["folds"]["1"]["record"]
    for kind in ("*", "tried/*_earlier", "tried/cnn_reference")  # the last is the oldest
    for path in (ROOT / "imgs").glob(f"{kind}_report.json")
}


def test_published_records_are_of_every_age_and_kind():
    settings = [record["settings"] for record in PUBLISHED.values()]
    assert {recipes.model_of(each["model"]) for each in settings} == set(recipes.MODELS)
    assert len([each for each in settings if "reduce_lr" in each]) >= 1  # the oldest, without scale and split, too
    assert len([each for each in settings if "schedule" in each and "network" not in each]) >= 5
    assert len([each for each in settings if "network" in each and "warmup" not in each]) >= 4


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_records_can_be_fed_back(config, arguments, name):
    there = dict(PUBLISHED[name]["settings"])
    row = there["model"]
    of_name = {key: there[key] for key in ("target", "augment", "encoder") if key in there}
    for content in (PUBLISHED[name], there):
        recipe = recipes.resolve(row, *arguments("--config", config(content)), **of_name)
        if "reduce_lr" in there:
            there["schedule"] = "plateau" if there.pop("reduce_lr") else None
        # Before these could be set.
        augmentation = {"pixels": 0, "cutout": 0, **there["augmentation"]}
        there = {
            "statistics": "moving",
            "unaugmented": 0.0,
            "low_resolution": 0.0,
            **there,
            "augmentation": augmentation,
        }
        assert recipe.settings.model_dump() == {**RECIPES[row].settings.model_dump(), **there}
        assert dataclasses.replace(recipe, settings=None) == dataclasses.replace(RECIPES[row], settings=None)


@pytest.mark.parametrize(
    ("argv", "augmentation"),
    [((), REFERENCE_RANGES), (("--data", "digits"), common.DIGITS_AUGMENTATION)],
    ids=["cifar10", "digits"],
)
def test_digits_are_turned_less_than_pictures_unless_told(of_file, resolve, argv, augmentation):
    assert resolve("cnn", *argv).augmentation == augmentation
    assert resolve("cnn_pool3", *argv).augmentation == PLAIN == Augmentation()  # has none
    assert of_file("cnn", {"augmentation": REFERENCE_RANGES.model_dump()}, *argv).augmentation == REFERENCE_RANGES
    assert not common.DIGITS_AUGMENTATION.flip


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
    with pytest.raises(
        InputError, match=r"other settings \(scale 1\.0 there, 0\.0039\d+ now; optimizer adam there, sgd now\)"
    ):
        said(train_cnn, f"{small} --arch pool3 --config edited.json")
    said(train_cnn, f"{small} --arch pool3 --config edited.json --name sgd")
    settings = Run("small_cnn_pool3_sgd", 2).read_record()["settings"]
    assert (settings["optimizer"], settings["scale"], settings["batch_size"]) == ("sgd", 1 / 255, 50)


def test_a_classifier_has_the_encoder_of_its_autoencoder(npz, workdir):
    network = {"blocks": 2, "first_width": 4, "dropout": 0.0}
    content = {"network": {**network, "pooling": "average"}, "seed": 5, "epochs": 1}
    Path("small.json").write_text(json.dumps(content))
    arch = f"--arch cae --data {npz}"
    Path("short.json").write_text(json.dumps({"epochs": 1, "seed": 5, "network": network}))
    said(train_autoencoder, f"{arch} --config short.json")
    autoencoder = Run("small_autoencoder_cae").read_record()
    assert autoencoder["settings"]["network"].items() >= network.items()

    with pytest.raises(InputError, match=r"there is no small_autoencoder_cae\.keras .* run `make ae ARCH=cae DATA=.*`"):
        said(train_ae_classifier, f"{arch} --epochs 1")  # seed 42: other images
    said(train_ae_classifier, f"{arch} --epochs 1 --seed 5")
    run = Run("small_autoencoder_cls_cae", 1)
    record = run.read_record()
    assert record["settings"]["network"].items() >= {**network, "pooling": "flatten"}.items()
    assert record["taken"] == [f"block{b}_{kind}{i}" for b in (1, 2) for i in (1, 2) for kind in ("conv", "norm")]
    assert record["frozen"] == record["taken"]
    assert record["settings"]["encoder_sha256"] == autoencoder["checkpoint_sha256"]
    assert run.load_model().get_layer("code").output.shape == (None, 8, 8, 8)

    assert "it is used" in said(train_autoencoder, f"{arch} --config small.json --if-missing --name avg")
    said(train_ae_classifier, f"{arch} --config small.json --name avg")
    record = Run("small_autoencoder_cls_cae_avg", 1).read_record()
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
    record = Run("small_autoencoder_cls_cae_scratch", 1).read_record()
    assert record["settings"]["network"]["blocks"] == 1


def test_an_autoencoder_on_demand_takes_what_it_shares(of_file):
    content = {
        "seed": 5,
        "reduced": [3],
        "keep": [9],
        "val": 0.3,
        "epochs": 7,
        "augmentation": {"rotation": 1},
        "scale": 0.5,
    }
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
    ("Adam", {"use_ema": True, "ema_momentum": 0.9, "beta_1": 0.8}),
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
    with pytest.raises(InputError, match=r"holds optimizer\.config\.learning_rate"):
        of_file("cnn", {"optimizer": whole})
    del whole["config"]["learning_rate"]
    settings = of_file("cnn", {"optimizer": whole})
    assert settings.model_dump()["optimizer"] == {"class_name": "SGD", "config": whole["config"]}
    assert new_optimizer(settings).momentum == 0.9


def test_without_its_config_an_optimizer_is_keras_s_own(of_file):
    settings = of_file("cnn", {"optimizer": {"class_name": "Lion"}})
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


@pytest.mark.parametrize("schedule", [None, "plateau", 0.5])
def test_a_warm_up_takes_a_schedule_over_the_run(of_file, schedule):
    assert of_file("cnn", {"schedule": schedule, "warmup": 0}).warmup == 0
    with pytest.raises(InputError) as refusal:
        of_file("cnn", {"schedule": schedule, "warmup": 0.1})
    assert str(refusal.value) == (
        "CONFIG 'config.json' holds warmup = 0.1, which takes a schedule of linear or cosine; "
        "add one, or leave warmup out"
    )


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


@pytest.mark.parametrize("more", [{"optimizer": "sgd"}, {"optimizer": "adam"}, {"learning_rate": 0}])
def test_muon_takes_sgd_with_momentum_and_a_rate(of_file, more):
    sgd = {"class_name": "SGD", "config": {"momentum": 0.9}}
    assert of_file("cnn", {"muon_rate_factor": 0.1, "optimizer": sgd}).muon_rate_factor == 0.1
    with pytest.raises(InputError) as refusal:
        of_file("cnn", {"muon_rate_factor": 0.1, "optimizer": sgd, **more})
    assert str(refusal.value) == (
        "muon_rate_factor = 0.1 takes the optimizer SGD with momentum, and a learning rate above 0; "
        "give both, or a muon_rate_factor of 0"
    )


# --- What it may not hold ---

RATE = "a number, more than 0 and at most 1"
EPOCHS = "a whole number, at least 1 and at most 1000000"
OPTIMIZER = '"adam" or "adamax" or "adamw" or "nadam" or "rmsprop" or "sgd" or a dictionary of class_name, config'
INSIDE = "holds optimizer.config.learning_rate; the learning rate is a setting of its own: move it out, to learning_rat"
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
        {"augmentation": {"tilt": 1}},
        'holds "augmentation.tilt", which is no setting of this model; the settings there are rota',
    ),
    ("cnn", {"epochs": "64"}, f'holds epochs = "64"; it may be {EPOCHS}'),
    ("cnn", {"epochs": 2.5}, f"holds epochs = 2.5; it may be {EPOCHS}"),
    ("cnn", {"epochs": 2.0}, f"holds epochs = 2.0; it may be {EPOCHS}"),
    ("cnn", {"epochs": True}, f"holds epochs = true; it may be {EPOCHS}"),
    ("cnn", {"epochs": None}, f"holds epochs = null; it may be {EPOCHS}"),
    ("cnn", {"epochs": 10**6 + 1}, f"holds epochs = 1000001; it may be {EPOCHS}"),
    ("cnn", '{"epochs": 1' + "0" * 400 + "}", "holds epochs = 1" + "0" * 76 + f"...; it may be {EPOCHS}"),
    ("cnn", {"patience": True}, f"holds patience = true; it may be {EPOCHS} or null"),
    ("cnn", {"learning_rate": "0.1"}, 'holds learning_rate = "0.1"; it may be a number, at least 0'),
    ("cnn", {"learning_rate": True}, "holds learning_rate = true; it may be a number, at least 0"),
    ("cnn", '{"learning_rate": NaN}', "holds learning_rate = NaN; it may be a number, at least 0"),
    ("cnn", '{"offset": Infinity}', "holds offset = Infinity; it may be a number"),
    ("cnn", {"val": 1}, "holds val = 1; it may be a number, more than 0 and less than 1"),
    ("cnn", {"balanced": "yes"}, 'holds balanced = "yes"; it may be true or false'),
    ("cnn", {"balanced": 1}, "holds balanced = 1; it may be true or false"),
    ("cnn", {"augmentation": 5}, "holds augmentation = 5; it may be a dictionary"),
    (
        "cnn",
        {"augmentation": {"zoom": 1}},
        "holds augmentation.zoom = 1; it may be a number, at least 0 and less than 1",
    ),
    ("cnn", {"augmentation": {"flip": 0}}, 'holds augmentation.flip = 0; it may be true or false or "alternating"'),
    ("cnn", {"optimizer": "adamm"}, f'holds optimizer = "adamm"; it may be {OPTIMIZER}'),
    ("cnn", {"optimizer": {"config": {}}}, f'holds optimizer = {{"config": {{}}}}; it may be {OPTIMIZER}'),
    (
        "cnn",
        {"optimizer": {"class_name": "SGD", "rate": 1}},
        f'holds optimizer = {{"class_name": "SGD", "rate": 1}}; it may be {OPTIMIZER}',
    ),
    (
        "cnn",
        {"optimizer": {"class_name": "SGD", "config": 5}},
        f'holds optimizer = {{"class_name": "SGD", "config": 5}}; it may be {OPTIMIZER}',
    ),
    (
        "cnn",
        '{"optimizer": {"class_name": "SGD", "config": {"momentum": NaN}}}',
        f'holds optimizer = {{"class_name": "SGD", "config": {{"momentum": NaN}}}}; it may be {OPTIMIZER}',
    ),
    ("cnn", {"optimizer": {"class_name": "SGD", "config": {"learning_rate": 0.1}}}, INSIDE),
    ("autoencoder_cls", {"optimizer": {"class_name": "Foo", "config": {"learning_rate": None}}}, INSIDE),
    ("cnn", {"loss": "mean_squared_error"}, 'holds loss = "mean_squared_error"; it may be "categorical_crossentropy"'),
    ("cnn", {"schedule": 2}, f'holds schedule = 2; it may be "plateau" or "linear" or "cosine" or {RATE} or null'),
    ("cnn", {"schedule": True}, "holds schedule = true; it may be "),
    ("cnn", {"schedule": "step"}, 'holds schedule = "step"; it may be '),
    ("cnn", {"warmup": 1, "schedule": "linear"}, "holds warmup = 1; it may be a number, at least 0 and less than 1"),
    ("cnn", {"monitor": "val_psnr"}, 'holds monitor = "val_psnr"; it may be "val_loss" or "val_accuracy"'),
    ("cnn", {"reduced": "bird"}, 'holds reduced = "bird"; it may be a list of a whole number, at least 0 or a text'),
    ("cnn", {"reduced": [-1]}, "holds reduced = [-1]; it may be a list of a whole number, at least 0 or a text"),
    ("cnn", {"reduced": [True]}, "holds reduced = [true]; it may be a list of a whole number, at least 0 or a text"),
    ("cnn", {"keep": [1]}, "holds keep = [1]; it may be a whole number, at least 2 or a list of a whole number, at le"),
    ("cnn", {"keep": True}, "holds keep = true; it may be a whole number, at least 2 or a list of a whole number, at "),
    ("cnn", {"split": "middle"}, 'holds split = "middle"; it may be "shuffle" or "first" or "last"'),
    ("cnn", {"scale": 0}, "holds scale = 0; it may be a number, more than 0"),
    ("cnn", {"offset": [0]}, "holds offset = [0]; it may be a number"),
    ("cnn", {"model": "resnet"}, 'is of model "resnet", and this run of "cnn": type the target, ARCH, '),
    ("cnn", {"model": 5}, "holds model = 5; it may be a text"),
    ("cnn", {"model": "cnn_elu"}, 'is of model "cnn_elu", and this run of "cnn": type the target, ARCH, '),
    ("autoencoder", {"augment": False}, "is of augment false, and this run of true: "),
    ("autoencoder", {"encoder": "tuned"}, 'holds "encoder", which is no setting of this model; '),
    ("autoencoder", {"class_weights": True}, "holds class_weights = true; it may be false"),
    ("autoencoder", {"monitor": "val_accuracy"}, 'holds monitor = "val_accuracy"; it may be "val_loss" or "val_psnr"'),
    ("autoencoder_cls", {"encoder": "tuned"}, 'is of encoder "tuned", and this run of "frozen": '),
    ("autoencoder_cls", {"target": "original"}, 'holds "target", which is no setting of this model; '),
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
def test_what_a_config_may_not_hold_is_named_with_what_it_may(of_file, name, content, sentence):
    with pytest.raises(InputError) as refusal:
        of_file(name, content)
    assert str(refusal.value).startswith(f"CONFIG 'config.json' {sentence}")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{'epochs': 3}", r"cannot be read as JSON \(Expecting .*line 1 column \d+ .*\); mend it"),
        ("", r"cannot be read as JSON \(Expecting .*line 1 column \d+ .*\); mend it"),
        ("[" * 100_000, r"cannot be read as JSON \(maximum recursion depth .*\); mend it"),
        (
            '{"seed": 1, "augmentation": {"flip": true, "zoom": 0.1, "flip": false}}',
            r"cannot be read as JSON \('flip' is in it twice\); mend it",
        ),
        ('{"epochs": 3, "epochs": 3}', r"cannot be read as JSON \('epochs' is in it twice\); mend it"),
        ('["epochs"]', "holds no settings; give a record, or its settings alone"),
    ],
)
def test_a_file_that_is_no_config(of_file, content, sentence):
    with pytest.raises(InputError, match=f"^CONFIG 'config.json' {sentence}$"):
        of_file("cnn", content)


def test_a_config_that_is_not_there(resolve, workdir):
    for path in ("nowhere.json", "."):
        with pytest.raises(InputError) as refusal:
            resolve("cnn", f"CONFIG={path}")
        sentence = f"CONFIG: there is no file {path!r}; give a record, or settings like a record's"
        assert str(refusal.value) == sentence


def test_a_network_s_setting_without_limits_keeps_its_type(of_file, monkeypatch):
    class Own(Part):
        blocks: int = setting(2, "")
        name: str = setting("a", "")
        wide: bool = setting(False, "")
        rate: float = setting(0.5, "")

    monkeypatch.setitem(RECIPES, "cnn_own", recipes.row(None, network=Own()))
    network = {"blocks": 30, "name": "b", "wide": True, "rate": 2}  # that of cae has at most five
    assert of_file("cnn_own", {"network": network}).network == Own(**network)
    for key, value, words in (
        *(("blocks", "3", "a whole number"), ("name", 3, "a text")),
        *(("wide", 1, "true or false"), ("rate", float("nan"), "a number")),
    ):
        with pytest.raises(InputError, match=f"network.{key} = .*; it may be {words}$"):
            of_file("cnn_own", {"network": {key: value}})
