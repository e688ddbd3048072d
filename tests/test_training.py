"""Training: what it leaves alone, how it ends, how it goes on after an interruption, what it refuses."""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import joblib
import keras
import numpy as np
import pydantic
import pytest
from conftest import REFERENCE, ROOT, copy_project
from keras import layers

import common
import optimizers
import recipes
import resume
import runs
import training
import training_model
from recipes import RECIPES
from util import cli, files, hardware
from util.cli import InputError, RunFailed

TIMING = {"seconds", "images_per_second"}
FINISHED = ("--precision", "float32", "--epochs", 4)
WORSENING = ("--epochs", 40, "--learning-rate", 0.01)


def build_tiny(x, classes):
    x = layers.Conv2D(4, 8, strides=8, name="conv")(x)
    x = layers.BatchNormalization(momentum=0.5, name="norm")(x)
    x = layers.GaussianNoise(0.1, name="noise")(layers.Dropout(0.2, name="dropout")(layers.Flatten(name="flatten")(x)))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_pooled(x, classes):
    """A network for pictures of any size, with a branch."""
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 8, strides=4, name="conv")(x))
    branch = layers.BatchNormalization(name="norm2")(layers.Conv2D(4, 3, padding="same", name="conv2")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.Add(name="add")([x, branch]))
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.GlobalMaxPooling2D(name="max")(x))


def build_tiny_autoencoder(x, classes=None):
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="conv")(x))
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def changed(recipe, **settings):
    return dataclasses.replace(recipe, settings=recipe.settings.model_copy(update=settings))


@pytest.fixture(scope="module", autouse=True)
def tiny_recipes():
    """Models that train in a second, under the names `cnn_tiny`, `cnn_pooled` and `autoencoder_tiny`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "cnn_tiny", recipes.row(build_tiny, **{**REFERENCE, "batch_size": 64, "epochs": 2}))
        patch.setitem(RECIPES, "cnn_pooled", dataclasses.replace(RECIPES["cnn_tiny"], build=build_pooled))
        recipe = changed(RECIPES["autoencoder"], epochs=1)
        patch.setitem(RECIPES, "autoencoder_tiny", dataclasses.replace(recipe, build=build_tiny_autoencoder))
        yield


@pytest.fixture(scope="module")
def fold(npz, resolved):
    return common.prepare_fold(npz, resolved().settings)


@pytest.fixture
def run(tmp_path):
    return runs.Run("tiny", 1, tmp_path)


@pytest.fixture
def train(fold, resolved):
    """train(run, '--epochs', 3, model='cnn_tiny', …): a training of the fold, or of another."""

    def train(run, *argv, model="cnn_tiny", fold=fold, **more):
        training.train(resolved(*argv, row=model), run, fold, "--force" in argv, **more)
        return run

    return train


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """The states that the `finished` training left on its way."""
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, states, fold, resolved):
    """A finished training, and the weights that its model began with; copy it before changing it."""
    run, start = runs.Run("tiny", 1, tmp_path_factory.mktemp("finished")), {}

    def keep_start(model):
        start.update({layer.name: layer.get_weights() for layer in model.layers})
        return {"note": "from take"}

    with copying_states(states):
        training.train(resolved(*FINISHED, row="cnn_tiny"), run, fold, prepare=keep_start)
    return run, start


@pytest.fixture
def copy(finished, tmp_path):
    shutil.copytree(finished[0].folder, tmp_path, dirs_exist_ok=True)
    return runs.Run("tiny", 1, tmp_path)


@pytest.fixture
def no_fit(monkeypatch):
    """Make every training fail that begins to train."""

    def fit(self, *_, **__):
        raise AssertionError("this trained")

    monkeypatch.setattr(keras.Model, "fit", fit)


@contextlib.contextmanager
def stopped_in_epoch(epoch):
    """Inside, a training gets Ctrl-C's signal in the middle of `epoch` (from 1), and has to end as the README says."""
    plain = training.Progress.on_train_batch_end

    def interrupted(self, batch, logs=None):
        plain(self, batch, logs)
        if self.epoch == epoch and batch == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training.Progress, "on_train_batch_end", interrupted)
            yield
    finally:
        signal.signal(signal.SIGINT, before)


def equal_weights(one, other):
    return all(np.array_equal(a, b) for a, b in zip(one.get_weights(), other.get_weights(), strict=True))


def without_timing(history):
    return {key: values for key, values in history.items() if key not in TIMING}


@contextlib.contextmanager
def copying_states(folder):
    """Inside, the state that a training leaves after each epoch, as kill -9 would, is copied: `folder`/1 and so on."""
    folder.mkdir(exist_ok=True)
    plain = resume.KeepState.commit

    def commit(self):
        plain(self)
        shutil.copy(self.path, folder / str(len(self.history)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume.KeepState, "commit", commit)
        yield


def read_state(path):
    """(What a state says, its arrays)."""
    arrays = files.read_arrays(path)
    return json.loads(arrays.pop("note").tobytes()), arrays


def write_state(path, note, arrays):
    files.write_arrays(path, note=np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays)


def require_equal_states(one, other):
    """But for the time that epochs took."""
    for note, _ in (one, other):
        note["history"] = [without_timing(figures) for figures in note["history"]]
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    assert [name for name, array in one[1].items() if array.tobytes() != other[1][name].tobytes()] == []


def require_equal_runs(one, other):
    assert equal_weights(one.load_model(), other.load_model())
    record, expected = one.read_record(), other.read_record()
    assert without_timing(record["history"]) == without_timing(expected["history"])
    assert (record["best_epoch"], record["settings"]) == (expected["best_epoch"], expected["settings"])


@pytest.mark.parametrize(("low_resolution", "expected"), [(0.5, {0: 24, 2: 32}), (0.2, {0: 24, 1: 32}), (0.0, {0: 32})])
def test_the_first_epochs_are_on_coarse_pictures(train, run, tmp_path, monkeypatch, low_resolution, expected):
    """By the epochs in which training was compiled, and for pictures of which size."""
    (tmp_path / "config.json").write_text(
        json.dumps({"low_resolution": low_resolution, "epochs": 3, "augmentation": {"pixels": 1}})
    )
    compiled, shown, call, show = {}, [], training_model.Shrink.call, training.Progress.show

    def look(self, images, training=False):
        seen = call(self, images, training=training)
        if training:
            compiled[len(shown)] = seen.shape[1]
        else:
            assert seen.shape[1] == 32
        return seen

    monkeypatch.setattr(training_model.Shrink, "call", look)
    monkeypatch.setattr(training.Progress, "show", lambda self, epoch, logs=None: shown.append(show(self, epoch, logs)))
    train(run, "--config", tmp_path / "config.json", model="cnn_pooled")
    assert compiled == expected


def test_coarse_pictures_are_averages_under_a_triangle():
    random, shrink = np.random.default_rng(0), training_model.Shrink(dtype="float32")
    images = random.uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    assert shrink(images, training=True).shape == images.shape
    shrink.side = 24
    assert shrink(images).shape == images.shape
    small = keras.ops.convert_to_numpy(shrink(images, training=True))
    assert small.shape == (3, 24, 24, 3)
    # A triangle of the width of a low_resolution pixel, normalised: what antialiasing by a linear filter is.
    scale = 32 / 24
    centres, places = (np.arange(24) + 0.5) * scale - 0.5, np.arange(32)
    weights = np.maximum(0, 1 - np.abs(places - centres[:, None]) / scale)
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(small, np.einsum("yh,xw,nhwc->nyxc", weights, weights, images), rtol=1e-4, atol=1e-3)


def build_skip(x, classes):
    """Takes pictures whose side is a multiple of 16."""
    small = layers.Conv2D(2, 3, strides=16, padding="same", name="small")(x)
    return build_pooled(layers.Concatenate(name="skip")([x, layers.UpSampling2D(16, name="up")(small)]), classes)


@pytest.mark.parametrize("build", [build_tiny, build_skip])
def test_a_network_for_one_size_is_not_trained_on_coarse_pictures(copy, train, tmp_path, monkeypatch, build):
    """And nothing that was there is touched."""
    monkeypatch.setitem(RECIPES, "cnn_sized", dataclasses.replace(RECIPES["cnn_tiny"], build=build))
    (tmp_path / "config.json").write_text(json.dumps({"low_resolution": 0.5}))
    copy.state.write_bytes(b"another training's")
    with pytest.raises(
        InputError, match=r"`low_resolution` shows pictures of 24x24 at first, .* leave it out, or build it "
    ):
        train(copy, "--config", tmp_path / "config.json", "--force", model="cnn_sized")
    assert copy.state.read_bytes() == b"another training's"


def test_an_autoencoder_that_returns_another_size_is_not_trained_on_coarse_pictures(train, run, tmp_path, monkeypatch):
    def build(x, classes=None):
        x = layers.Conv2D(3, 2, strides=16, name="conv")(x)
        return layers.Conv2DTranspose(3, 16, strides=16, activation="sigmoid", name="reconstruction")(x)

    monkeypatch.setitem(RECIPES, "autoencoder_sized", dataclasses.replace(RECIPES["autoencoder_tiny"], build=build))
    (tmp_path / "config.json").write_text(json.dumps({"low_resolution": 0.5}))
    with pytest.raises(InputError, match="`low_resolution` shows pictures of 24x24 at first"):
        train(run, "--config", tmp_path / "config.json", model="autoencoder_sized")


def test_training_ends_on_whole_pictures():
    assert [recipes.phases(epochs, 0.9, 0)[0] for epochs in (1, 2, 3, 20)] == [0, 1, 2, 18]


# --- A finished training ---


def test_record_holds_what_the_design_asks_for(finished, fold):
    run, _ = finished
    record = json.loads((run.folder / "tiny_fold1.json").read_text())
    assert (record["run"], record["fold"], record["note"]) == ("tiny", 1, "from take")
    asked = {"epochs": 4, "batch_size": 64, "learning_rate": 1e-3, "patience": 15, "seed": 0, "val": 0.15}
    fixed = {"optimizer": "adam", "balanced": True, "schedule": "plateau", "monitor": "val_loss"}
    fixed |= {"scale": 1 / 255, "offset": 0.0, "network": {}, "class_weights": False, "warmup": 0.0}
    fixed |= {"loss": "categorical_crossentropy", "model": "cnn_tiny", "logit_adjustment": 0, "label_smoothing": 0}
    fixed |= {
        "statistics": "moving",
        "unaugmented": 0,
        "bias_rate_factor": 1,
        "muon_rate_factor": 0,
        "labelled": 1,
        "low_resolution": 0,
    }
    augmentation = {"rotation": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "pixels": 0, "cutout": 0, "flip": True}
    images = {key: fold.record[key] for key in ("sha256", "kept_sha256", "train_sha256")}
    images |= {"reduced": [2, 4, 9], "keep": [20, 20, 20], "split": "shuffle"}
    assert record["settings"] == {"precision": "float32", "augmentation": augmentation, **asked, **fixed, **images}
    assert record["data"] == fold.record
    assert record["parameters"] == (8 * 8 * 3 + 1) * 4 + 4 * 4 + (64 + 1) * 10
    assert record["trainable_parameters"] == record["parameters"] - 2 * 4
    history = record["history"]
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", *TIMING}
    assert {len(values) for values in history.values()} == {4}
    assert record["best_epoch"] == int(np.argmin(history["val_loss"])) + 1
    assert record["seconds"] == sum(history["seconds"]) > 0
    assert min(history["images_per_second"]) <= record["images_per_second"] <= max(history["images_per_second"])
    assert (record["precision"], record["device"]) == ("float32", hardware.set_up_device()[0])
    assert record["versions"]["keras"] == keras.__version__
    assert record["versions"].keys() >= {"python", "numpy", "sklearn", "skimage", keras.backend.backend()}
    assert record["commit"] == hardware.current_commit(ROOT)
    assert record["checkpoint_sha256"] == files.file_sha256(run.checkpoint)
    assert {path.name for path in run.folder.iterdir()} == {"tiny_fold1.keras", "tiny_fold1.json"}


def is_cancelled(name, weights):
    """True for the bias of a convolution whose batch normalisation subtracts it again, which is not trained."""
    return name in ("conv", "conv1", "conv2") and weights.ndim == 1


def test_training_moves_every_weight(finished):
    run, start = finished
    for layer in run.load_model().layers:
        for before, after in zip(start[layer.name], layer.get_weights(), strict=True):
            assert np.array_equal(before, after) == is_cancelled(layer.name, before)


def test_validation_loss_is_that_of_the_finished_model_on_the_fold_s_pictures_as_they_are(finished, fold):
    run, _ = finished
    record = run.read_record()
    model = run.load_model()
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(fold.x_val, fold.y_val, verbose=0)
    best = record["best_epoch"] - 1
    assert loss == pytest.approx(record["history"]["val_loss"][best], abs=1e-4)
    assert accuracy == pytest.approx(record["history"]["val_accuracy"][best], abs=1e-6)


@pytest.mark.parametrize(
    ("model", "target", "balanced"), [("cnn_tiny", None, True), ("autoencoder_tiny", "augmented", False)]
)
def test_training_batches_are_drawn_and_validation_is_the_fold_s_own(
    train, run, fold, monkeypatch, model, target, balanced
):
    class Stop(Exception):
        pass

    given = {}

    def fit(self, batches, **settings):
        given.update(settings, batches=batches, optimizer=self.optimizer)
        raise Stop

    monkeypatch.setattr(keras.Model, "fit", fit)
    with pytest.raises(Stop):
        more = {"target": target} if target else {}
        train(runs.Run(model, 3, run.folder), "--seed", 7, "--batch-size", 20, model=model, **more)
    assert given["validation_data"][0] is fold.x_val
    assert given["validation_data"][1] is fold.y_val
    expected = common.BalancedBatches(fold.x_train, fold.y_train, 20, seed=7, fold=3, balanced=balanced)
    assert given["steps_per_epoch"] == expected.steps_per_epoch == (34 * 10 if balanced else len(fold.x_train)) // 20
    assert all(np.array_equal(given["batches"].batches.rows(step), expected.rows(step)) for step in range(30))
    for step in (0, 1, 29):
        for found, drawn in zip(given["batches"][step], expected[step], strict=True):
            assert np.array_equal(found, drawn)
    assert isinstance(given["optimizer"], keras.optimizers.RMSprop if target else keras.optimizers.Adam)
    schedule = [c for c in given["callbacks"] if isinstance(c, keras.callbacks.ReduceLROnPlateau)]
    assert [(c.monitor, c.factor, c.patience, c.min_lr, c.cooldown) for c in schedule] == (
        [] if target else [("val_loss", 0.3, 10, 1e-4, 1)]
    )


@pytest.mark.parametrize(("augment", "target"), [(True, "augmented"), (False, "augmented"), (True, "original")])
def test_autoencoder_augments_and_reconstructs_as_told(train, run, monkeypatch, augment, target):
    made = []
    plain = training_model.training_model
    monkeypatch.setattr(training, "training_model", lambda *a: made.append((a, plain(*a))) or made[-1][1])
    train(run, "--batch-size", 100, model="autoencoder_tiny", target=target, augment=augment)
    (((_, augmentation, _, found_target, _), _),) = made
    assert augmentation == (recipes.Settings().augmentation if augment else recipes.PLAIN)
    assert found_target == target
    record = run.read_record()
    assert record["settings"].items() >= {"target": target, "augment": augment, "optimizer": "rmsprop"}.items()
    assert (record["settings"]["balanced"], record["settings"]["schedule"]) == (False, None)
    history = record["history"]
    assert history.keys() == {"loss", "psnr", "val_loss", "val_psnr", "learning_rate", *TIMING}
    assert -10 * np.log10(history["val_loss"][0]) <= history["val_psnr"][0] < 40


def test_frozen_layers_stay_as_they_were_taken_and_all_others_move(train, run):
    recipe = RECIPES["autoencoder_cls"]
    whole = RECIPES["autoencoder"]
    autoencoder = common.finished_model(whole.build, whole.settings, 10, "autoencoder")
    for layer in autoencoder.layers:  # statistics that differ from a new layer's
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([weight + 0.3 for weight in layer.get_weights()])
    taken, start = [], {}

    def prepare(model):
        taken.extend(common.take_weights(model, autoencoder, recipe.frozen_until))
        common.freeze(model, recipe.frozen_until)
        start.update({layer.name: layer.get_weights() for layer in model.layers if layer.weights})
        return {}

    train(run, "--epochs", 1, "--batch-size", 170, model="autoencoder_cls", prepare=prepare)
    assert {"block1_norm1", "block2_norm2"} <= set(taken)
    trained = run.load_model()
    for name, before in start.items():
        for a, b in zip(before, trained.get_layer(name).get_weights(), strict=True):
            assert np.array_equal(a, b) == (name in taken or is_cancelled(name, a)), name
    assert run.read_record()["trainable_parameters"] == 1_826_634


def build_plain(x, classes):
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.Flatten(name="flatten")(x))


def test_class_weights_multiply_the_losses_of_a_class(train, run, fold, monkeypatch):
    """At learning rate 0 the loss of an epoch can be told beforehand."""
    recipe = recipes.row(
        build_plain, augmentation=recipes.PLAIN, unaugmented=0.0, balanced=False, class_weights=True, batch_size=17
    )
    monkeypatch.setitem(RECIPES, "cnn_plain", recipe)
    train(run, *("--learning-rate", 0, "--epochs", 1, "--precision", "float32"), model="cnn_plain")
    assert len(fold.y_train) == 17 * 17  # whole batches: each image once
    losses = -np.log(run.load_model().predict(fold.x_train, verbose=0)[np.arange(len(fold.y_train)), fold.y_train])
    weights = len(fold.y_train) / 10 / np.bincount(fold.y_train)
    assert set(weights.round(3)) == {0.85, 1.7}
    (found,) = run.read_record()["history"]["loss"]
    assert found == pytest.approx(np.mean(losses * weights[fold.y_train]), rel=1e-4)
    assert abs(np.mean(losses) / found - 1) > 1e-3  # which is another number


# --- How a training ends ---


@pytest.fixture(scope="module")
def worsening(fold):
    """The fold with wrong validation labels: what is learnt makes the validation loss worse, epoch by epoch."""
    return dataclasses.replace(fold, y_val=(fold.y_val + 1) % 10)


@pytest.fixture(scope="module")
def run_through(tmp_path_factory, worsening, resolved):
    """A training to its early end, whose learning rate falls on the way; its batch-norm weights after each epoch."""
    run, weights = runs.Run("tiny", 1, tmp_path_factory.mktemp("through")), []
    plain = resume.KeepState.on_epoch_end

    def keep(self, epoch, logs=None):
        plain(self, epoch, logs)
        weights.append(self.core.get_layer("norm").get_weights())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume.KeepState, "on_epoch_end", keep)
        training.train(resolved(*WORSENING, row="cnn_tiny"), run, worsening)
    return run, weights


def test_early_stopping_and_schedule_are_the_reference_s(run_through):
    record = run_through[0].read_record()
    history, best = record["history"], record["best_epoch"]
    assert len(history["loss"]) == best + 15 < 40
    assert min(history["val_loss"]) == history["val_loss"][best - 1]
    rates = history["learning_rate"]
    assert rates[: best + 10] == pytest.approx([0.01] * (best + 10))
    assert rates[best + 10 :] == pytest.approx([0.003] * 5)


def test_the_best_epoch_s_weights_are_kept_not_the_last_s(run_through):
    run, weights = run_through
    kept, best = run.load_model().get_layer("norm").get_weights(), run.read_record()["best_epoch"] - 1
    assert best < len(weights) - 1
    for epoch, group in enumerate(weights):
        assert all(np.array_equal(a, b) for a, b in zip(kept, group, strict=True)) == (epoch == best)


def test_an_interrupted_training_ends_as_one_run_through(run_through, train, run, worsening, capsys):
    through, _ = run_through
    best = through.read_record()["best_epoch"]
    for epoch, before in ((3, 0), (best + 12, 2)):  # the second: after the learning rate fell, before the early end
        with stopped_in_epoch(epoch):
            train(run, *WORSENING, fold=worsening)
        assert ("going on after epoch" in capsys.readouterr().out) == bool(before)
        assert run.state.exists()
        assert not run.checkpoint.exists()
    train(run, *WORSENING, fold=worsening)
    assert f"going on after epoch {best + 11} of {run.state}" in capsys.readouterr().out

    assert equal_weights(run.load_model(), through.load_model())
    record, expected = run.read_record(), through.read_record()
    assert without_timing(record["history"]) == without_timing(expected["history"])
    assert {len(values) for values in record["history"].values()} == {best + 15}
    assert (record["best_epoch"], record["settings"]) == (expected["best_epoch"], expected["settings"])
    assert not run.state.exists()


@pytest.fixture
def decaying(monkeypatch):
    """The tiny model with a falling learning rate, no early stopping, and the epoch of the best accuracy kept."""
    change = {"schedule": 0.5, "patience": None, "monitor": "val_accuracy", "epochs": 6}
    monkeypatch.setitem(RECIPES, "cnn_tiny", changed(RECIPES["cnn_tiny"], **change))


def test_a_rate_that_falls_each_epoch_and_the_best_accuracy_interrupted_or_not(
    decaying, train, run, worsening, tmp_path
):
    train(run, "--learning-rate", "0.01", fold=worsening)
    record = run.read_record()
    history = record["history"]
    assert history["learning_rate"] == pytest.approx([0.01 * 0.5**epoch for epoch in range(6)])
    assert record["best_epoch"] == 1 + np.argmax(history["val_accuracy"])
    assert record["settings"].items() >= {"schedule": 0.5, "patience": None, "monitor": "val_accuracy"}.items()

    pieces = runs.Run("tiny", 1, tmp_path / "pieces")
    for epoch in (3, 5):
        with stopped_in_epoch(epoch):
            train(pieces, "--learning-rate", "0.01", fold=worsening)
    train(pieces, "--learning-rate", "0.01", fold=worsening)
    assert equal_weights(pieces.load_model(), run.load_model())
    assert without_timing(pieces.read_record()["history"]) == without_timing(history)


# --- Going on to the bit, whatever the optimizer, the schedule and the random layers ---


@pytest.fixture
def gone_on(train, tmp_path):
    """gone_on(epoch, …): a training run through, and one that goes on with its state of after `epoch`.

    They have to be equal to the bit, in all that they leave. Returns (the run, {group: its arrays} of its last state).
    """

    def gone_on(epoch, *argv, **more):
        through, later = (runs.Run("tiny", 1, tmp_path / name) for name in ("through", "later"))
        with copying_states(tmp_path / "states"):
            train(through, *argv, **more)
        later.folder.mkdir()
        shutil.copy(tmp_path / "states" / str(epoch), later.state)
        epochs = len(through.read_record()["history"]["loss"])
        last = read_state(tmp_path / "states" / str(epochs))
        with copying_states(tmp_path / "states"):
            train(later, *argv, **more)
        require_equal_states(read_state(tmp_path / "states" / str(epochs)), last)
        require_equal_runs(later, through)
        names = ("weights", "best", "optimizer", "draws")
        return through, {name: [last[1][f"{name}{number}"] for number in range(last[0][name])] for name in names}

    return gone_on


NESTEROV = {"class_name": "SGD", "config": {"momentum": 0.85, "nesterov": True}}
DECAY = {"class_name": "AdamW", "config": {"weight_decay": 0.02}}
AVERAGED = {"class_name": "Adam", "config": {"use_ema": True, "ema_momentum": 0.8}}
MUON = {"class_name": "Muon", "config": {"momentum": 0.9, "adam_lr_ratio": 0.5}}
STEPS = 5  # an epoch of the tiny model


def by_keras(schedule, warmup, rate, steps):
    """Keras's own schedule of that kind and warm-up, or None: {number of the step: learning rate}."""
    first = round(warmup * steps)
    if schedule == "cosine":
        rising = {"warmup_target": rate, "warmup_steps": first} if first else {}
        keras_s = keras.optimizers.schedules.CosineDecay(0.0 if first else rate, steps - first, **rising)
        return [float(keras_s(step)) for step in range(steps + 1)]
    keras_s = keras.optimizers.schedules.PolynomialDecay(rate, steps - first, end_learning_rate=0.0, power=1.0)
    rising = keras.optimizers.schedules.PolynomialDecay(0.0, first or 1, end_learning_rate=rate, power=1.0)
    return [float(rising(step) if step < first else keras_s(step - first)) for step in range(steps + 1)]


def by_numpy(schedule, warmup, rate, steps):
    share = np.arange(steps + 1) / steps
    done = np.clip((share - warmup) / (1 - warmup), 0, 1)
    falling = {"linear": 1 - done, "cosine": 0.5 + 0.5 * np.cos(np.pi * done)}[schedule]
    return rate * np.where(share < warmup, share / (warmup or 1), falling)


@pytest.mark.parametrize("warmup", [0.0, 0.2])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_a_schedule_over_the_run_is_keras_s_own_step_by_step_and_ends_at_zero(schedule, warmup):
    rate, steps = 0.03, 50
    settings = recipes.Settings(optimizer="sgd", schedule=schedule, warmup=warmup, learning_rate=rate)
    optimizer, weight, moved = optimizers.new_optimizer(settings, steps), keras.Variable(0.0), []
    for _ in range(steps):
        weight.assign(0.0)
        optimizer.apply([keras.ops.convert_to_tensor(-1.0)], [weight])
        moved.append(float(weight.value))
    moved.append(float(optimizer.learning_rate))  # that of the step after the last
    for expected in (by_keras(schedule, warmup, rate, steps), by_numpy(schedule, warmup, rate, steps)):
        assert moved == pytest.approx(list(expected), rel=1e-5, abs=rate * 1e-6)
    assert abs(moved[-1]) < rate * 1e-6 < moved[-2]
    top = round(warmup * steps)
    assert moved[top] == max(moved) == pytest.approx(rate, rel=1e-6)
    assert all(np.diff(moved[: top + 1]) > 0) and all(np.diff(moved[top:]) < 0)
    assert (moved[0] == 0) == (warmup > 0)


@pytest.mark.parametrize(
    ("optimizer", "schedule", "epochs", "epoch"),
    [
        (NESTEROV, {"schedule": "cosine", "warmup": 0.2}, 6, 1),  # of 30 steps six rise, five of them by then
        (DECAY, {"schedule": "linear", "warmup": 0.2}, 4, 2),
        (AVERAGED, {"schedule": "plateau"}, 15, 14),  # the learning rate fell by then
        (MUON, {"schedule": 0.5}, 3, 2),
    ],
    ids=["nesterov-cosine", "decay-linear", "averaged-plateau", "muon-factor"],
)
def test_each_optimizer_and_schedule_goes_on_to_the_bit(
    gone_on, worsening, tmp_path, capsys, optimizer, schedule, epochs, epoch
):
    settings = {"optimizer": optimizer, **schedule, "learning_rate": 0.01, "epochs": epochs, "patience": None}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    run, groups = gone_on(epoch, "--config", tmp_path / "config.json", fold=worsening)
    assert f"going on after epoch {epoch} of" in capsys.readouterr().out

    record = run.read_record()
    assert record["settings"].items() >= settings.items()
    rates, kind = record["history"]["learning_rate"], schedule["schedule"]
    if kind == "plateau":
        fell = record["best_epoch"] + 10
        assert fell < epoch
        assert rates == pytest.approx([0.01] * fell + [0.003] * (epochs - fell))
    elif kind == 0.5:
        assert rates == pytest.approx([0.01 * 0.5**epoch for epoch in range(epochs)])
    else:
        expected = by_keras(kind, 0.2, 0.01, epochs * STEPS)[STEPS::STEPS]
        assert rates == pytest.approx(expected, rel=1e-5, abs=1e-8)
        assert rates[-1] == pytest.approx(0, abs=1e-8)
    # The count of steps and, unless it follows from that, the learning rate; then of each of five trained arrays the
    # velocity; mean and velocity; both and the average; the momentum and, but for the matrix, a velocity.
    several = {"SGD": 5, "AdamW": 10, "Adam": 15, "Muon": 9}[optimizer["class_name"]]
    assert len(groups["optimizer"]) == several + (1 if "warmup" in schedule else 2)
    assert int(groups["optimizer"][0]) == epochs * STEPS


def test_averaged_weights_are_validated_and_kept(train, run, fold, tmp_path, monkeypatch):
    """Against averages taken here; the statistics of a batch normalisation are those of the training, as in Keras."""
    (tmp_path / "config.json").write_text(json.dumps({"optimizer": AVERAGED, "learning_rate": 0.01, "epochs": 3}))
    averages, raw, of_epochs, plain = {}, {}, [], training.Progress.on_train_batch_end

    def average(self, batch, logs=None):
        plain(self, batch, logs)
        for variable in self.model.trainable_variables:
            raw[variable.path] = value = keras.ops.convert_to_numpy(variable)
            averages[variable.path] = 0.8 * averages.get(variable.path, value) + 0.2 * value
        if batch + 1 == STEPS:
            of_epochs.append(({**averages}, {**raw}))

    monkeypatch.setattr(training.Progress, "on_train_batch_end", average)
    train(run, "--config", tmp_path / "config.json", "--precision", "float32")
    record, model = run.read_record(), run.load_model()
    best = record["best_epoch"] - 1
    kept = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.trainable_weights}
    assert not kept.pop("conv/bias").any()
    expected, others = of_epochs[best]
    assert kept.keys() == expected.keys()
    for path, values in kept.items():
        assert values == pytest.approx(expected[path], abs=1e-6), path
        assert np.abs(values - others[path]).max() > 1e-3, path

    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    loss, accuracy = model.evaluate(fold.x_val, fold.y_val, verbose=0)
    assert loss == pytest.approx(record["history"]["val_loss"][best], abs=1e-5)
    assert accuracy == pytest.approx(record["history"]["val_accuracy"][best], abs=1e-6)


FAST = {
    "statistics": "precise",
    "low_resolution": 0.5,
    "unaugmented": 0.25,
    "augmentation": {"rotation": 5, "pixels": 2, "cutout": 8, "flip": "alternating"},
    "balanced": False,
    "logit_adjustment": 1.0,
    "label_smoothing": 0.2,
    "optimizer": {
        "class_name": "SGD",
        "config": {
            "momentum": 0.85,
            "nesterov": True,
            "use_ema": True,
            "ema_momentum": 0.8,
            "ema_overwrite_frequency": 3,
        },
    },
    "bias_rate_factor": 8,
    "muon_rate_factor": 0.1,
    "schedule": "linear",
    "epochs": 4,
}


@pytest.mark.parametrize("epoch", [1, 2, 3])  # on low_resolution pictures, after those, and after augmentation ended
def test_all_that_the_fast_network_is_trained_with_goes_on_to_the_bit(gone_on, worsening, tmp_path, epoch):
    (tmp_path / "config.json").write_text(json.dumps(FAST))
    run, _ = gone_on(epoch, "--config", tmp_path / "config.json", fold=worsening, model="cnn_pooled")
    assert run.read_record()["settings"].items() >= {key: FAST[key] for key in FAST if key != "augmentation"}.items()


def test_averages_have_statistics_of_their_own(gone_on, worsening, tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({**FAST, "optimizer": AVERAGED, "muon_rate_factor": 0, "learning_rate": 0.01, "low_resolution": 0})
    )
    run, _ = gone_on(3, "--config", tmp_path / "config.json", "--precision", "float32", fold=worsening)
    require_settled(run, worsening)


def require_settled(run, fold):
    """The statistics kept are those of 2,000 training pictures as they are; and validation was with them."""
    model, record = run.load_model(), run.read_record()
    images = training.sample_of(fold, 0, 1)
    values = keras.Model(model.input, model.get_layer("conv").output).predict(images, verbose=0).astype(np.float64)
    *_, mean, variance = model.get_layer("norm").get_weights()
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2)), rtol=0.02)  # an average over equal batches
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    _, accuracy = model.evaluate(fold.x_val, fold.y_val, verbose=0)
    assert accuracy == pytest.approx(record["history"]["val_accuracy"][record["best_epoch"] - 1], abs=1e-6)


def test_settled_statistics_are_those_of_training_pictures_as_they_are(train, run, fold, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"statistics": "precise"}))
    train(run, *FINISHED, "--config", tmp_path / "config.json")
    require_settled(run, fold)


def test_a_network_that_branches_has_settled_statistics_too(train, run, fold, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"statistics": "precise", "augmentation": {"pixels": 1}}))
    require_settled(train(run, *FINISHED, "--config", tmp_path / "config.json", model="cnn_pooled"), fold)
    model, images = run.load_model(), training.sample_of(fold, 0, 1)
    into = keras.Model(model.input, model.get_layer("conv2").output).predict(images, verbose=0).astype(np.float64)
    _, _, mean, variance = model.get_layer("norm2").get_weights()
    np.testing.assert_allclose(mean, into.mean(axis=(0, 1, 2)), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(variance, into.var(axis=(0, 1, 2)), rtol=0.1)


def test_frozen_layers_keep_their_statistics(fold):
    settings = RECIPES["cnn_tiny"].settings
    model = common.finished_model(common.build_cnn, settings, 10, "cnn")
    model.get_layer("norm1").trainable = False
    training.PreciseBatchNorm(model, fold.x_train).settle()
    *_, mean, variance = model.get_layer("norm1").get_weights()
    assert not mean.any() and (variance == 1).all()
    assert model.get_layer("norm2").get_weights()[2].any()


@pytest.mark.parametrize(
    ("unaugmented", "epochs", "expected"), [(0.4, 5, [0, 0, 0, 1, 1]), (0.2, 2, [0, 0]), (0.0, 2, [0, 0])]
)
def test_the_last_epochs_are_without_augmentation(train, run, tmp_path, monkeypatch, clean, epochs, expected):
    (tmp_path / "config.json").write_text(json.dumps({"unaugmented": clean, "epochs": epochs}))
    compiled, seen, call, end = [], {}, training_model.Augment.call, training.Progress.on_train_batch_end
    images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)

    def trace(self, images, training=False):
        if training:
            compiled.append(self.augmentation == recipes.PLAIN)
        return call(self, images, training)

    def look(self, batch, logs=None):
        end(self, batch, logs)
        now = compiled[-1]  # not what the layer has become since
        augment = training_model.Augment(self.model.get_layer("augment").augmentation)
        same = np.array_equal(keras.ops.convert_to_numpy(augment(images, training=True)), images)
        seen.setdefault(self.epoch, set()).add((now, same))
        del compiled[-1]  # of that call

    monkeypatch.setattr(training_model.Augment, "call", trace)
    monkeypatch.setattr(training.Progress, "on_train_batch_end", look)
    train(run, "--config", tmp_path / "config.json")
    assert list(seen.values()) == [{(bool(one), bool(one))} for one in expected]


def build_random(x, classes):
    x = layers.RandomFlip("horizontal", name="flip")(x)
    x = layers.RandomErasing(1.0, value_range=(0, 1), name="erasing")(x)
    several = [layers.RandomRotation(0.1), layers.RandomContrast(0.1, value_range=(0, 1))]
    return build_tiny(keras.Sequential(several, name="several")(x), classes)


def test_keras_s_own_random_layers_go_on_to_the_bit(gone_on, monkeypatch):
    monkeypatch.setitem(
        RECIPES, "cnn_random", recipes.row(build_random, **{**REFERENCE, "batch_size": 64, "epochs": 2})
    )
    _, groups = gone_on(1, model="cnn_random")
    keys, draws = np.transpose(groups["draws"])
    assert len(set(keys)) == len(keys) == 1 + 1 + 1 + 2 + 2  # augmentation, flip, erasing, two of several, tiny's two
    assert all(draws % (2 * STEPS) == 0)
    augmentation, flip, erasing, rotation, contrast, *others = draws // (2 * STEPS)
    assert erasing > 1  # where the others draw once a step
    assert (augmentation, flip, rotation, contrast, *others) == (1,) * 6


class Jitter(layers.Layer):
    """Draws by a seed that nothing knows."""

    def call(self, inputs, training=False):
        return inputs + keras.random.normal((1,), seed=1) if training else inputs


class MoreDropout(layers.Dropout):
    pass


UNKNOWN = {
    "Jitter": lambda: Jitter(name="odd"),
    "MoreDropout": lambda: MoreDropout(0.3, name="odd"),
    "Lambda": lambda: layers.Lambda(lambda x: x + keras.random.normal((1,)), name="odd"),
}


@pytest.mark.parametrize(
    ("kind", "within"),
    [("Jitter", "a chain"), ("Lambda", "a chain"), ("MoreDropout", "a Sequential"), ("MoreDropout", "a wrapper")],
)
def test_a_layer_that_is_not_keras_s_own_is_refused_by_name(train, run, no_fit, monkeypatch, kind, within):
    def build(x, classes):
        odd = UNKNOWN[kind]()
        if within == "a Sequential":
            odd = keras.Sequential([layers.ReLU(), odd], name="several")
        elif within == "a wrapper":
            odd = layers.TimeDistributed(odd, name="each")
        return build_plain(odd(x), classes)

    monkeypatch.setitem(RECIPES, "cnn_odd", recipes.row(build))
    sentence = (
        f"the layer 'odd' of this network is a {kind}, none of Keras's own: its random draws could not be repeated, "
        "nor its file opened elsewhere; build the network of keras.layers"
    )
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        train(run, model="cnn_odd")
    assert list(run.folder.iterdir()) == []


def by_an_operator(x, classes):
    return build_tiny(x + layers.Conv2D(3, 3, padding="same", name="conv0")(x), classes)


def called_twice(x, classes):
    norm = layers.BatchNormalization(name="both")
    return build_pooled(norm(layers.ReLU(name="between")(norm(x))), classes)


def of_a_name_taken(x, classes):
    return build_pooled(layers.Rescaling(0.5, name="shrink")(x), classes)


def normalised_within(x, classes):
    within = [layers.Conv2D(4, 3), layers.BatchNormalization(name="inner")]
    return build_pooled(keras.Sequential(within, name="block")(x), classes)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (normalised_within, "the batch normalisation 'inner' of this network is within another layer, where its stat"),
        (by_an_operator, "this network has an operation '.*' that is no layer: build it of keras.layers alone, "),
        (called_twice, "the layer 'both' of this network is called twice: make one for each place"),
        (of_a_name_taken, "training has a layer 'shrink' of its own: give that of this network another name"),
    ],
)
def test_a_network_that_no_twin_can_be_made_of_is_refused(train, run, no_fit, monkeypatch, build, words):
    monkeypatch.setitem(RECIPES, "cnn_odd", recipes.row(build))
    with pytest.raises(InputError, match=words):
        train(run, model="cnn_odd")
    assert list(run.folder.iterdir()) == []


def test_tensorflow_on_a_gpu_is_not_asked_for_kernels_that_it_lacks(monkeypatch):
    """Keras would compile by XLA there, which cannot turn, shift and shrink pictures."""
    monkeypatch.setattr(keras.Model, "_resolve_auto_jit_compile", lambda self: True)
    settings = RECIPES["cnn_pooled"].settings
    whole, _ = training_model.training_model(
        common.finished_model(build_pooled, settings, 10, "x"), settings.augmentation, "float32"
    )
    training_model.compile_model(whole, optimizers.new_optimizer(settings), settings)
    assert whole.jit_compile == (keras.backend.backend() != "tensorflow")


def test_stopped_between_the_last_epoch_and_the_file_it_only_writes_the_file(finished, train, run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs.Run, "finish", interrupted)
        train(run, *FINISHED)
    with monkeypatch.context() as patch:
        patch.setattr(keras.Model, "fit", interrupted)
        train(run, *FINISHED)
    assert equal_weights(run.load_model(), finished[0].load_model())  # the same seed, the same result
    assert without_timing(run.read_record()["history"]) == without_timing(finished[0].read_record()["history"])


def test_first_weights_depend_on_seed_and_fold_alone(train, run, no_fit):
    def first_weights(seed, fold_number):
        kept = []
        with pytest.raises(AssertionError, match="this trained"):
            train(
                runs.Run("tiny", fold_number, run.folder),
                "--seed",
                seed,
                prepare=lambda m: kept.append(m.get_weights()) or {},
            )
        return kept[0][0]

    first = first_weights(3, 1)
    keras.utils.set_random_seed(12)
    assert np.array_equal(first_weights(3, 1), first)
    assert not np.array_equal(first_weights(4, 1), first)
    assert not np.array_equal(first_weights(3, 2), first)


def test_a_loss_that_is_not_finite_stops_the_run_with_a_sentence(train, run):
    sentence = r"the loss became nan in epoch 1; start again with FORCE=1 and a smaller LR than 1e\+30$"
    with pytest.raises(RunFailed, match=sentence):
        train(run, "--learning-rate", "1e30")
    assert not run.checkpoint.exists()
    assert not run.state.exists()


# --- What a training says ---

BAR = (7, 15, 22, 30)  # of 30 places, after each of four steps


@pytest.fixture
def watch(monkeypatch, capsys):
    """What Progress prints of `epochs` epochs of four steps of 100 images; each look at the clock is 1.5 s later."""

    def watch(terminal, makeflags="", fold=2, epochs=3, loss=0.5, may_stop=True):
        clock = itertools.count(0, 1.5)
        monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
        monkeypatch.setenv("MAKEFLAGS", makeflags)
        settings = recipes.Settings(epochs=epochs, batch_size=100, patience=2 if may_stop else None, learning_rate=0.02)
        progress = training.Progress(fold, settings, 4)
        progress.set_model(SimpleNamespace(optimizer=SimpleNamespace(learning_rate=0.01)))
        for epoch in range(epochs):
            progress.on_epoch_begin(epoch)
            for batch in range(4):
                progress.on_train_batch_end(batch, {"loss": loss})
            progress.on_test_begin()
            logs = {"loss": loss, "accuracy": 0.25, "val_loss": 0.75, "val_accuracy": 0.125}
            progress.on_epoch_end(epoch, logs)
            progress.show(epoch, logs)
        return capsys.readouterr().out

    return watch


def epoch_line(epoch, epochs=3):
    score = "loss 0.5000  accuracy 0.2500  val_loss 0.7500  val_accuracy 0.1250"
    return f"epoch {epoch}/{epochs}  {score}  lr 0.01  53 images/s  9 s\n"


def test_a_log_gets_one_line_an_epoch_and_once_how_long_the_rest_takes(watch):
    lines = [f"fold 2  {epoch_line(epoch)}" for epoch in (1, 2, 3)]
    lines.insert(1, "fold 2  at most 18 s to go; early stopping may end it sooner\n")
    assert watch(terminal=False) == "".join(lines)
    assert watch(terminal=False, fold=None, epochs=1) == epoch_line(1, 1)  # nothing is left to go


def test_a_terminal_gets_a_bar_too_that_is_cleared_when_the_epoch_ends(watch):
    def bar(epoch):
        steps = [f"[{'#' * done}{'.' * (30 - done)}]  loss 0.5000  67 images/s" for done in BAR]
        return "".join(f"\repoch {epoch}/3  {step}\033[K" for step in steps) + "\r\033[K"

    said = watch(terminal=True, fold=None)
    for epoch in (1, 2, 3):
        assert bar(epoch) + epoch_line(epoch) in said
    assert said.count("\033[K") == 15
    assert said.count("to go") == 1


def test_folds_side_by_side_under_make_draw_no_bar(watch):
    assert watch(terminal=True, makeflags=" -j2 --jobserver-auth=3,4") == watch(terminal=False)
    assert "\033[K" in watch(terminal=True, makeflags="k")  # make without -j runs one at a time


def test_a_loss_that_is_not_finite_stops_within_the_epoch(watch):
    with pytest.raises(RunFailed, match=r"the loss became nan in epoch 1; .* FORCE=1 and a smaller LR than 0\.02$"):
        watch(terminal=False, loss=float("nan"))


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGTERM, cli.Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_keras_swallows_ends_the_training_all_the_same(signum, kind):
    progress = training.Progress(None, recipes.Settings(), 4)
    progress.on_epoch_begin(0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with cli.terminate_politely():
            progress.on_train_batch_end(0)
            with contextlib.suppress(BaseException):
                signal.raise_signal(signum)
            with pytest.raises(kind):
                progress.on_train_batch_end(1)
        progress.on_train_batch_end(2)
    finally:
        signal.signal(signal.SIGINT, before)


# --- What is there already ---


def test_same_settings_are_skipped(copy, train, no_fit, capsys):
    before = files.file_sha256(copy.checkpoint)
    train(copy, *FINISHED)
    assert f"{copy.checkpoint} is finished already" in capsys.readouterr().out
    assert files.file_sha256(copy.checkpoint) == before


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--epochs", 5, "EPOCHS 4 there, 5 now"),
        ("--learning-rate", 0.1, "LR 0.001 there, 0.1 now"),
        ("--seed", 1, "SEED 0 there, 1 now"),
        ("--precision", "mixed_bfloat16", "PRECISION float32 there, mixed_bfloat16 now"),
    ],
)
def test_other_settings_are_refused_naming_what_differs(copy, train, no_fit, option, value, words):
    with pytest.raises(InputError, match=rf"finished .*tiny_fold1\.keras has other settings \({words}\): ") as refusal:
        train(copy, *FINISHED, option, value)
    assert "NAME=" in str(refusal.value)
    assert "FORCE=1" in str(refusal.value)


def with_more(recipe, **more):
    """The recipe with settings that others of its row do not have."""
    fields = {key: (str | bool | None, value) for key, value in more.items()}
    kind = pydantic.create_model("More", __base__=recipes.Settings, **fields)
    return dataclasses.replace(recipe, settings=kind(**dict(recipe.settings)))


def test_other_images_and_more_settings_are_refused(copy, train, fold, resolved, no_fit):
    other = dataclasses.replace(fold, record={**fold.record, "train_sha256": "0" * 64})
    with pytest.raises(InputError, match=r"has other settings \(other images\): "):
        train(copy, *FINISHED, fold=other)
    recipe = resolved(*FINISHED, row="cnn_tiny")
    with pytest.raises(InputError, match=r"has other settings \(augment None there, True now\): "):
        training.train(with_more(recipe, augment=True), copy, fold)
    with pytest.raises(InputError, match=r"has other settings \(TARGET None there, original now\): "):
        training.train(with_more(recipe, target="original"), copy, fold)
    with pytest.raises(InputError, match=r"has other settings \(another autoencoder\): "):
        training.train(with_more(recipe, encoder_sha256=None), copy, fold, encoder_sha256="0" * 64)


def test_a_record_from_before_a_setting_is_of_what_the_recipe_says_of_it(copy, fold, resolved, no_fit):
    record = json.loads(copy.path(".json").read_text())
    for key in ("network", "class_weights", "loss"):
        del record["settings"][key]
    copy.path(".json").write_text(json.dumps({**record, "record_sha256": None}))
    recipe = resolved(*FINISHED, row="cnn_tiny")
    training.train(recipe, copy, fold)
    with pytest.raises(InputError, match=r"other settings \(class_weights False there, True now\)"):
        training.train(changed(recipe, class_weights=True), copy, fold)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"optimizer": "sgd"}, "optimizer adam there, sgd now"),
        ({"schedule": None}, "schedule plateau there, None now"),
        (
            {"augmentation": common.Augmentation(rotation=40)},
            r"augmentation.shift 0\.2 there, 0\.0 now; .*; augmentation.flip True there, False now",
        ),
    ],
)
def test_another_recipe_is_other_settings(copy, train, no_fit, monkeypatch, change, words):
    monkeypatch.setitem(RECIPES, "cnn_tiny", changed(RECIPES["cnn_tiny"], **change))
    with pytest.raises(InputError, match=rf"has other settings \({words}\): "):
        train(copy, *FINISHED)


@pytest.fixture(scope="module")
def begun(tmp_path_factory, fold, resolved):
    """Folder of a training of two epochs that was stopped in its second; copy it before changing it."""
    run = runs.Run("tiny", 1, tmp_path_factory.mktemp("begun"))
    with stopped_in_epoch(2):
        training.train(resolved(row="cnn_tiny"), run, fold)
    return run.folder


@pytest.fixture
def unfinished(begun, tmp_path):
    """A training of two epochs that was stopped in its second."""
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    return runs.Run("tiny", 1, tmp_path)


def test_an_unfinished_training_refuses_other_settings(unfinished, train):
    before = unfinished.state.read_bytes()
    with pytest.raises(InputError, match=r"unfinished training .*\(BATCH 64 there, 32 now\)"):
        train(unfinished, "--batch-size", 32)
    assert unfinished.state.read_bytes() == before


def test_a_state_from_before_the_draws_were_kept_goes_on_to_the_bit(finished, states, train, run, capsys):
    """It has no warm-up among its settings either."""
    note, arrays = read_state(states / "2")
    assert note.pop("draws") == 3  # augmentation, dropout, noise
    assert note["settings"].pop("warmup") == 0
    write_state(run.state, note, {name: array for name, array in arrays.items() if not name.startswith("draws")})
    train(run, *FINISHED)
    said = capsys.readouterr().out
    assert f"going on after epoch 2 of {run.state}\n" in said
    assert "bit for bit" not in said
    require_equal_runs(run, finished[0])


def test_a_state_of_a_network_that_drew_otherwise_is_refused(finished, states, train, run, no_fit):
    note, arrays = read_state(states / "2")
    note["draws"] -= 1
    del arrays[f"draws{note['draws']}"]
    write_state(run.state, note, arrays)
    with pytest.raises(InputError, match=r"tiny_fold1\.state is of another version of this code: .* FORCE=1 starts"):
        train(run, *FINISHED)


def test_force_trains_again_and_replaces(copy, train, finished):
    train(copy, "--precision", "float32", "--epochs", 1, "--force")
    assert copy.read_record()["settings"]["epochs"] == 1
    assert not equal_weights(copy.load_model(), finished[0].load_model())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


OTHERS = ("--precision", "float32", "--epochs", 3)


@pytest.mark.parametrize("settings", [FINISHED, OTHERS])
@pytest.mark.parametrize("epoch", [1, 3])
def test_force_keeps_what_is_finished_until_the_new_one_is(copy, train, capsys, settings, epoch):
    copy.path("_predictions.npz").write_bytes(b"of the finished model")
    before = contents(copy.folder)
    assert len(before) == 3
    with stopped_in_epoch(epoch):
        train(copy, *settings, "--force")
    begun = contents(copy.folder)
    assert begun == {**before, copy.state.name: begun[copy.state.name]}
    if settings == OTHERS:  # what is finished is finished, and the other training still there
        train(copy, *FINISHED)
        assert "is finished already" in capsys.readouterr().out
        assert contents(copy.folder) == begun

    train(copy, *settings)  # without FORCE=1: goes on with what was forced
    assert (f"going on after epoch {epoch - 1}" in capsys.readouterr().out) == (epoch > 1)
    assert contents(copy.folder).keys() == {"tiny_fold1.keras", "tiny_fold1.json"}
    assert copy.read_record()["settings"]["epochs"] == settings[-1]
    assert copy.checkpoint.read_bytes() != before["tiny_fold1.keras"]


def test_force_that_comes_to_nothing_leaves_what_is_finished(copy, train):
    def refuse(model):
        raise InputError("the autoencoder's layer cannot be taken")

    before = contents(copy.folder)
    with pytest.raises(InputError, match="cannot be taken"):
        train(copy, *FINISHED, "--force", prepare=refuse)
    assert contents(copy.folder) == before
    with pytest.raises(RunFailed, match="the loss became"):
        train(copy, *FINISHED, "--force", "--learning-rate", "1e30")
    assert {name: content for name, content in contents(copy.folder).items() if name in before} == before


@pytest.mark.parametrize("moment", ["before the checkpoint", "after it"])
def test_stopped_while_a_forced_training_replaces_the_older_one(copy, train, monkeypatch, moment):
    """Between the record and the checkpoint the same command finishes the work; after it there is nothing to do."""
    before, plain = copy.checkpoint.read_bytes(), os.replace

    def interrupted(source, target):
        if target == copy.checkpoint and moment == "before the checkpoint":
            raise KeyboardInterrupt
        plain(source, target)
        if target == copy.checkpoint:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupted)
        train(copy, *FINISHED, "--force")
    stopped = copy.checkpoint.read_bytes()
    assert (stopped == before) == (moment == "before the checkpoint")
    train(copy, *FINISHED)
    assert (copy.checkpoint.read_bytes() == stopped) == (moment == "after it")
    assert copy.read_record()["checkpoint_sha256"] == files.file_sha256(copy.checkpoint)
    assert not copy.state.exists()


def test_force_starts_an_unfinished_training_again(unfinished, train, capsys):
    train(unfinished, "--epochs", 1, "--force")
    assert "going on" not in capsys.readouterr().out
    assert len(unfinished.read_record()["history"]["loss"]) == 1
    assert not unfinished.state.exists()


@pytest.mark.parametrize("damage", ["record text", "record gone", "checkpoint cut", "checkpoint of another"])
def test_damaged_finished_files_are_refused(copy, train, no_fit, damage):
    record = copy.path(".json")
    if damage == "record text":
        record.write_text(record.read_text()[:-40])
    elif damage == "record gone":
        record.unlink()
    elif damage == "checkpoint cut":
        copy.checkpoint.write_bytes(copy.checkpoint.read_bytes()[:-1])
    else:
        copy.load_model().save(copy.checkpoint)
        with open(copy.checkpoint, "ab") as file:
            file.write(b"\0")
    with pytest.raises(InputError, match=r"do not belong together, or one is damaged.* FORCE=1"):
        train(copy, *FINISHED)


@pytest.mark.parametrize("damage", ["cut", "flipped", "text"])
def test_a_damaged_state_is_refused(unfinished, train, damage):
    whole = unfinished.state.read_bytes()
    with zipfile.ZipFile(unfinished.state) as file:
        inside = file.getinfo("weights0.npy").header_offset + 1000  # of 3,072 bytes after some 200 of headers
    content = bytearray(whole)
    content[inside] ^= 1
    unfinished.state.write_bytes({"cut": whole[: len(whole) // 2], "flipped": content, "text": b"not a state"}[damage])
    with pytest.raises(InputError, match=r"tiny_fold1\.state is damaged .* FORCE=1"):
        train(unfinished)


# --- Files ---


def test_a_full_disk_leaves_no_finished_file_and_loses_no_epoch(unfinished, train, monkeypatch):
    def fill_the_disk(self, path, *_, **__):
        with open(path, "wb") as file:
            file.write(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(keras.Model, "save", fill_the_disk)
    with pytest.raises(RunFailed, match=r"tiny_fold1\.keras cannot be written \(No space left on device\)"):
        train(unfinished)
    assert sorted(path.name for path in unfinished.folder.iterdir()) == ["tiny_fold1.state"]


def write_autoencoder(folder, name, kept="k"):
    run = runs.Run(name, None, folder)
    run.checkpoint.write_bytes(name.encode())
    digest = files.file_sha256(run.checkpoint)
    data = {"source": "", "sha256": "s", "kept_sha256": kept, "train_sha256": name, "class_names": []}
    data |= {"reduced": [], "train_counts": [], "val_counts": []}
    history = {"loss": [], "val_loss": [], "psnr": [], "val_psnr": []}
    record = {
        "settings": {"model": "cnn", "sha256": "s", "kept_sha256": kept, "val": 0.15, "seed": 0, "reduced": []},
        "data": data,
        "history": history,
        "best_epoch": 1,
        "checkpoint_sha256": digest,
        **{"parameters": 1, "trainable_parameters": 1, "seconds": 1.0, "precision": "float32", "device": "CPU"},
    }
    run.path(".json").write_text(json.dumps(record))


def test_autoencoder_is_found_by_its_images_under_its_name_or_without(workdir, fold, arguments):
    (workdir / "checkpoints").mkdir()
    wanted = dataclasses.replace(fold, prefix="", record={"sha256": "s", "kept_sha256": "k", "train_sha256": "t"})

    def found(*argv):
        answer = runs.find_autoencoder(arguments(*argv)[0], wanted)
        return answer and answer[0].name

    assert found() is None
    write_autoencoder(workdir / "checkpoints", "autoencoder")
    write_autoencoder(workdir / "checkpoints", "autoencoder_noaug")
    write_autoencoder(workdir / "checkpoints", "autoencoder_a")
    write_autoencoder(workdir / "checkpoints", "autoencoder_b", kept="others")
    assert found() == "autoencoder"
    assert found("--noaug") == "autoencoder_noaug"
    assert found("--target", "original") is None
    assert found("--name", "a") == "autoencoder_a"
    assert found("--name", "b") == "autoencoder"  # b was trained on other images
    assert found("--name", "c") == "autoencoder"


# --- Precision ---


def test_a_training_keeps_the_precision_that_it_was_begun_with(unfinished, train, monkeypatch, capsys):
    was = hardware.resolve_precision("auto")[0]
    now = "float32" if was == "mixed_bfloat16" else "mixed_bfloat16"
    monkeypatch.setattr(hardware, "resolve_precision", lambda requested: (now, "the hardware is another"))
    made, plain = [], training_model.training_model
    monkeypatch.setattr(training, "training_model", lambda *a: made.append(a[2]) or plain(*a))
    capsys.readouterr()
    train(unfinished)
    assert f"; {was} (as this training was begun); " in capsys.readouterr().out
    assert (made, unfinished.read_record()["precision"]) == ([was], was)
    train(unfinished, "--force")
    assert f"; {now} (the hardware is another); " in capsys.readouterr().out


@pytest.mark.parametrize("change", ["processor", "cores", "backend"])
def test_going_on_elsewhere_is_said(unfinished, train, monkeypatch, capsys, change):
    device, fast = hardware.set_up_device()
    if change == "processor":
        monkeypatch.setattr(training, "processor_name", lambda: "a processor")
    elif change == "cores":
        for module in (training, hardware):
            monkeypatch.setattr(module, "set_up_device", lambda: ("CPU, 97 cores", fast))
    else:
        plain = hardware.versions
        monkeypatch.setattr(hardware, "versions", lambda: {**plain(), keras.backend.backend(): "0.1"})
    capsys.readouterr()
    train(unfinished)
    said = capsys.readouterr().out
    now = {"processor": "a processor, ", "cores": ", CPU, 97 cores, ", "backend": " 0.1"}[change]
    assert re.search(rf"^begun with .*{device}.*, now .*{now}.*: it goes on, but no longer bit for bit ", said, re.M)
    assert f"going on after epoch 1 of {unfinished.state}" in said


def test_the_code_that_is_told_is_what_the_weights_follow_from(tmp_path, monkeypatch):
    folder = copy_project(tmp_path / "project")
    monkeypatch.setattr(training, "__file__", str(folder / "training.py"))
    told = ("common.py", "networks.py", "recipes.py", "training.py", "util/kernels.py")
    assert training.code_sha256() == hashlib.sha256(b"".join((ROOT / name).read_bytes() for name in told)).hexdigest()
    counted = []
    for path in sorted(folder.rglob("*.*")):
        before = training.code_sha256()
        path.write_bytes(path.read_bytes() + b"#")
        if training.code_sha256() != before:
            counted.append(str(path.relative_to(folder)))
    assert counted == sorted(told)


def test_going_on_at_home_is_bit_for_bit_and_nothing_is_said(unfinished, train, capsys):
    train(unfinished)
    assert "bit for bit" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("requested", "flag", "precision", "reason"),
    [
        ("auto", "avx512_bf16", "mixed_bfloat16", "the hardware has avx512_bf16"),
        ("auto", None, "float32", "no fast bfloat16 here"),
        ("float32", "avx512_bf16", "float32", "as asked for"),
        ("mixed_bfloat16", None, "mixed_bfloat16", "as asked for"),
    ],
)
def test_precision_follows_the_hardware_unless_asked_for(monkeypatch, requested, flag, precision, reason):
    monkeypatch.setattr(hardware, "set_up_device", lambda: ("a device", flag))
    assert hardware.resolve_precision(requested) == (precision, reason)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ("fpu avx512f avx512_bf16 amx_bf16", "amx_bf16"),
        ("fpu avx512f avx512_bf16", "avx512_bf16"),
        ("fp asimd bf16", "bf16"),
        ("fpu avx512f avx512_fp16", None),
    ],
)
def test_processor_s_bfloat16_is_read_from_its_flags(monkeypatch, tmp_path, flags, found):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "cpuinfo" if path == "/proc/cpuinfo" else None)
    assert hardware.processor_has_bfloat16() == found


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="another backend emulates bfloat16 on a processor")
@pytest.mark.parametrize("flag", ["avx512_bf16", None])
def test_device_reports_the_processor_s_bfloat16(monkeypatch, flag):
    import tensorflow as tf

    monkeypatch.setattr(hardware, "processor_has_bfloat16", lambda: flag)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(joblib, "cpu_count", lambda: 7)
    asked = []
    for kind in ("intra", "inter"):
        monkeypatch.setattr(tf.config.threading, f"set_{kind}_op_parallelism_threads", asked.append)
    device, fast = hardware.set_up_device.__wrapped__()
    assert (device, asked) == ("CPU, 7 cores", [7, 7])
    assert fast == flag


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process can be kept to some cores on Linux only")
def test_only_the_cores_that_the_process_may_use_are_counted():
    core = min(os.sched_getaffinity(0))
    code = f"import os; os.sched_setaffinity(0, {{{core}}}); from util.hardware import set_up_device as device; "
    code += "print(device()[0])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "CPU, 1 cores\n", done.stderr
