"""What a training is given, what it does with that, what it records and says, and what it refuses."""

import json
import re
import signal
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ROOT, contents, imported, pooled_classifier, tiny_autoencoder, tiny_classifier, tiny_recipe
from keras import layers

import common
import recipes
import runs
import training
import training_model
from util import cli, files, hardware
from util.cli import InputError

TIMING = {"seconds", "images_per_second"}
STEPS = 5  # of an epoch of the tiny recipe


@pytest.fixture
def train(fold, tmp_path):
    """train(epochs=3, build=...): the run of a finished tiny training with these settings."""

    def train(prepare=None, fold=fold, **settings):
        run = runs.Run("tiny", 1, tmp_path)
        training.train(tiny_recipe(**settings), run, fold, prepare=prepare)
        return run

    return train


def network(build):
    return common.finished_model(build, tiny_recipe().settings, 10, "tiny")


def evaluated(run, fold):
    """[loss, accuracy] of a finished file, as plain Keras computes them."""
    model = run.load_model()
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model.evaluate(fold.x_val, fold.y_val, verbose=0)


# --- The pictures of an epoch -----------------------------------------------------------------------------------------


def test_an_epoch_is_of_low_resolution_first_and_without_augmentation_last(train, monkeypatch):
    """By what each epoch was compiled for: whether pictures are augmented, and their size."""
    compiled, epochs = {}, [None]
    plain = training_model.Augment.call, training_model.Shrink.call, training.Phases.on_epoch_begin

    def augment(self, images, training=False):
        if training:
            compiled[epochs[-1]] = [self.augmentation != recipes.PLAIN]
        return plain[0](self, images, training)

    def shrink(self, images, training=False):
        seen = plain[1](self, images, training)
        if training:
            compiled[epochs[-1]].append(seen.shape[1])
        else:
            assert seen.shape[1] == 32
        return seen

    monkeypatch.setattr(training_model.Augment, "call", augment)
    monkeypatch.setattr(training_model.Shrink, "call", shrink)
    monkeypatch.setattr(
        training.Phases, "on_epoch_begin", lambda self, epoch, logs=None: epochs.append(epoch) or plain[2](self, epoch)
    )
    train(build=pooled_classifier, epochs=5, low_resolution=0.4, unaugmented=0.4)
    assert compiled == {0: [True, 24], 2: [True, 32], 3: [False, 32]}


@pytest.mark.parametrize(
    ("epochs", "low_resolution", "unaugmented", "expected"),
    [(1, 0.9, 0, (0, 1)), (2, 0.9, 0.2, (1, 2)), (3, 0.2, 0.4, (1, 2)), (20, 0.9, 0.4, (18, 12)), (2, 0, 0, (0, 2))],
)
def test_a_run_ends_on_whole_pictures_and_shares_are_rounded(epochs, low_resolution, unaugmented, expected):
    assert recipes.phases(epochs, low_resolution, unaugmented) == expected


def test_pictures_of_low_resolution_are_averages_under_a_triangle():
    images = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    shrink = training_model.Shrink(dtype="float32")
    shrink.side = 24
    small = keras.ops.convert_to_numpy(shrink(images, training=True))
    # A normalised triangle, as wide as a pixel of low resolution: antialiasing by a linear filter.
    centres = (np.arange(24) + 0.5) * 32 / 24 - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(32) - centres[:, None]) / (32 / 24))
    weights /= weights.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(small, np.einsum("yh,xw,nhwc->nyxc", weights, weights, images), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("balanced", "flip"), [(True, "alternating"), (False, True)])
def test_batches_follow_from_seed_fold_and_step(fold, balanced, flip):
    settings = tiny_recipe(seed=7, batch_size=20, balanced=balanced, augmentation={"flip": flip}).settings
    batches = training.training_batches(fold, settings, 3)
    expected = common.BalancedBatches(fold.x_train, fold.y_train, 20, 7, 3, balanced, flip == "alternating")
    assert batches.steps_per_epoch == (34 * 10 if balanced else len(fold.x_train)) // 20
    assert all(map(np.array_equal, batches[29], expected[29]))


def test_an_autoencoder_may_be_trained_without_augmentation():
    for augment, pixels in ((True, 1), (False, 0)):
        settings = tiny_recipe(tiny_autoencoder, recipes.AutoencoderSettings, augment=augment).settings
        assert training.augmentation_of(settings).pixels == pixels


# --- What is learnt ---------------------------------------------------------------------------------------------------


def is_cancelled(name, weights):
    """True for the bias of a convolution that a batch normalisation subtracts again: it is not trained."""
    return name == "conv" and weights.ndim == 1


def test_training_moves_every_weight(finished):
    for layer in finished.run.load_model().layers:
        for before, after in zip(finished.first[layer.name], layer.get_weights(), strict=True):
            assert np.array_equal(before, after) == is_cancelled(layer.name, before)


def test_frozen_layers_stay_as_they_are_and_all_others_move(train):
    before = {}

    def prepare(model):
        norm = model.get_layer("norm")
        norm.set_weights([weight + 0.3 for weight in norm.get_weights()])  # statistics unlike a new layer's
        names = common.freeze(model, "norm")
        before.update({layer.name: layer.get_weights() for layer in model.layers})
        return {"frozen": names}

    run = train(prepare=prepare, epochs=1, statistics="precise")
    for layer in run.load_model().layers:
        for one, other in zip(before[layer.name], layer.get_weights(), strict=True):
            assert np.array_equal(one, other) == (layer.name in ("conv", "norm"))
    record = run.read_record()
    assert (record["frozen"], record["trainable_parameters"]) == (["conv", "norm"], 65 * 10)


@pytest.mark.parametrize("setting", [{"class_weights": True}, {"logit_adjustment": 1.5}])
def test_the_loss_is_weighted_or_its_logits_adjusted(train, fold, setting):
    """At a learning rate of 0, the loss of an epoch can be computed beforehand."""
    run = train(
        build=lambda x, classes: layers.Dense(classes, activation="softmax")(layers.Flatten()(x)),
        **{"augmentation": {}, "balanced": False, "batch_size": 17, "epochs": 1, "learning_rate": 0, **setting},
    )
    assert len(fold.y_train) == 17 * 17  # whole batches: each image once
    probabilities, counts = run.load_model().predict(fold.x_train, verbose=0), np.bincount(fold.y_train)
    if "logit_adjustment" in setting:
        probabilities = probabilities * (counts / counts.sum()) ** 1.5
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    losses = -np.log(probabilities[np.arange(len(fold.y_train)), fold.y_train])
    weights = (counts.sum() / 10 / counts)[fold.y_train] if "class_weights" in setting else 1
    (found,) = run.read_record()["history"]["loss"]
    assert found == pytest.approx(np.mean(losses * weights), rel=1e-4)


def test_first_weights_follow_from_seed_and_fold_alone(fold):
    def first_weights(seed, number):
        recipe = tiny_recipe(seed=seed)
        return training.new_model(recipe, recipe.settings, fold, runs.Run("tiny", number)).get_weights()[0]

    first = first_weights(3, 1)
    keras.utils.set_random_seed(12)
    assert np.array_equal(first_weights(3, 1), first)
    assert not np.array_equal(first_weights(4, 1), first)
    assert not np.array_equal(first_weights(3, 2), first)


# --- The statistics of batch normalisation ----------------------------------------------------------------------------


def test_precise_statistics_are_those_of_training_pictures_as_they_are(train, fold):
    """Validation was with these statistics."""
    run = train(build=pooled_classifier, statistics="precise", epochs=3, learning_rate=0.01)
    model, record, images = run.load_model(), run.read_record(), fold.x_train
    for into, norm, tolerance in (("conv", "norm", 1e-3), ("conv2", "norm2", 0.1)):  # an average over equal batches
        values = keras.Model(model.input, model.get_layer(into).output).predict(images, verbose=0).astype(np.float64)
        *_, mean, variance = model.get_layer(norm).get_weights()
        np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=tolerance, atol=tolerance / 5)
        np.testing.assert_allclose(variance, values.var(axis=(0, 1, 2)), rtol=tolerance)
    best = record["best_epoch"] - 1
    loss, accuracy = evaluated(run, fold)
    assert loss == pytest.approx(record["history"]["val_loss"][best], abs=1e-4)
    assert accuracy == pytest.approx(record["history"]["val_accuracy"][best], abs=1e-6)


def test_statistics_of_several_batches_are_averages_and_frozen_layers_keep_theirs():
    images = np.random.default_rng(0).integers(256, size=(1500, 32, 32, 3), dtype=np.uint8)
    model = network(pooled_classifier)
    model.get_layer("norm2").trainable = False
    training.PreciseBatchNorm(model, images).update_statistics()
    assert model.get_layer("norm").momentum == 0.99  # as it was
    values = keras.Model(model.input, model.get_layer("conv").output).predict(images, verbose=0).astype(np.float64)
    *_, mean, variance = model.get_layer("norm").get_weights()
    np.testing.assert_allclose(mean, values.mean(axis=(0, 1, 2)), rtol=1e-3)
    batches = values.reshape(3, 500, *values.shape[1:])
    np.testing.assert_allclose(variance, batches.var(axis=(1, 2, 3)).mean(axis=0), rtol=1e-3)
    *_, mean, variance = model.get_layer("norm2").get_weights()
    assert not mean.any() and (variance == 1).all()


# --- The learning rate, and how a training ends -----------------------------------------------------------------------


def test_early_stopping_and_plateau_are_the_reference_s_and_the_best_weights_are_kept(stopped_early):
    record = stopped_early.run.read_record()
    history, best = record["history"], record["best_epoch"]
    assert len(history["loss"]) == best + 15 < 40
    assert min(history["val_loss"]) == history["val_loss"][best - 1]
    assert history["learning_rate"] == pytest.approx([0.01] * (best + 10) + [0.003] * 5)
    kept = stopped_early.run.load_model().get_layer("probabilities").get_weights()[0]
    same = [
        int(path.name)
        for path in stopped_early.states.iterdir()
        for name, array in files.read_arrays(path).items()
        if name.startswith("weights") and np.array_equal(array, kept)
    ]
    assert same == [best]


# --- The record, and what is printed ----------------------------------------------------------------------------------


def test_the_record_holds_what_the_design_asks_for(finished, fold):
    run, recipe = finished.run, finished.recipe
    record = json.loads(run.path(".json").read_text())
    assert (record["run"], record["fold"], record["prepared"]) == ("tiny", 1, "so")
    found = {key: fold.record[key] for key in training.DATA_SETTINGS}
    assert record["settings"] == json.loads(json.dumps(recipe.settings.model_dump() | found))
    assert (record["data"], found["reduced"], found["keep"]) == (fold.record, [2, 4, 9], [20, 20, 20])
    assert record["parameters"] == (8 * 8 * 3 + 1) * 4 + 4 * 4 + (64 + 1) * 10
    assert record["trainable_parameters"] == record["parameters"] - 2 * 4
    history = record["history"]
    assert history.keys() == {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate", *TIMING}
    assert {len(values) for values in history.values()} == {4}
    assert record["best_epoch"] == int(np.argmin(history["val_loss"])) + 1
    assert record["seconds"] == sum(history["seconds"]) > 0
    assert min(history["images_per_second"]) <= record["images_per_second"] <= max(history["images_per_second"])
    assert (record["precision"], record["device"]) == ("float32", hardware.set_up_device()[0])
    assert record["versions"].keys() >= {"python", "numpy", "sklearn", "skimage", "keras", keras.backend.backend()}
    assert record["commit"] == hardware.current_commit(ROOT)
    assert record["code_sha256"] == training.code_sha256()
    assert record["checkpoint_sha256"] == files.file_sha256(run.checkpoint)
    assert contents(run.folder).keys() == {"tiny_fold1.keras", "tiny_fold1.json"}


def test_an_autoencoder_s_record_has_its_own_figures(train):
    settings = {"loss": "mean_squared_error", "target": "original", "optimizer": "rmsprop", "balanced": False}
    run = train(build=tiny_autoencoder, kind=recipes.AutoencoderSettings, epochs=1, **settings)
    record = run.read_record()
    assert record["settings"].items() >= {**settings, "augment": True}.items()
    history = record["history"]
    assert history.keys() == {"loss", "psnr", "val_loss", "val_psnr", "learning_rate", *TIMING}
    assert -10 * np.log10(history["val_loss"][0]) <= history["val_psnr"][0] < 40


def test_the_code_that_a_record_tells_is_all_that_weights_follow_from():
    reached, new = set(), {"training"}
    while new:
        reached |= new
        new = set().union(*(imported(ROOT / f"{name}.py") for name in new)) - reached
    only_files_words_and_plots = {f"util/{name}" for name in ("cli", "files", "options", "plots")}
    assert set(training.CODE) == reached - only_files_words_and_plots


@pytest.mark.parametrize(("terminal", "makeflags"), [(False, ""), (True, ""), (True, " -j2 --jobserver-auth=3,4")])
def test_a_log_has_one_line_an_epoch_and_a_terminal_one_that_moves(terminal, makeflags, monkeypatch, capsys):
    clock = iter(range(2, 999, 2))
    monkeypatch.setattr(training, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    monkeypatch.setenv("MAKEFLAGS", makeflags)
    progress = training.Progress(2, tiny_recipe(epochs=3).settings, 4)
    for epoch in range(3):
        progress.on_epoch_begin(epoch)
        for batch in range(4):
            progress.on_train_batch_end(batch, {"loss": 0.5})
        figures = {"loss": 0.5, "accuracy": 0.25, "learning_rate": 0.01, "images_per_second": 53.3, "seconds": 9}
        progress.on_epoch_end(epoch, figures | ({"val_loss": 0.75, "val_accuracy": 0.125} if epoch else {}))
    said = capsys.readouterr().out
    moving = re.findall(r"\r(epoch \S+)  (\d+%)", said)
    expected = [(f"epoch {epoch}/3", f"{part}%") for epoch in (1, 2, 3) for part in (25, 50, 75, 100)]
    assert moving == (expected if terminal and not makeflags else [])
    first, left, second, third = re.sub(r"\r[^\r\n]*\033\[K", "", said).splitlines()
    assert first == "fold 2  epoch 1/3  loss 0.5000  accuracy 0.2500  lr 0.01  53 images/s  9 s"
    assert left.startswith("fold 2  at most 18 s")
    assert "val_loss 0.7500  val_accuracy 0.1250" in second and "epoch 3/3" in third


@pytest.mark.parametrize(("signum", "kind"), [(signal.SIGTERM, cli.Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_that_keras_swallows_ends_the_training_all_the_same(signum, kind, monkeypatch):
    """Keras reads the figures of a batch in a `try` with a bare `except`, where most of the waiting is done."""

    class Loss(float):
        signal = None

        def __float__(self):
            if self.signal:
                signal.raise_signal(self.signal)
            return 0.5

    measure, loss = training.Measure(tiny_recipe().settings, STEPS), Loss(0.5)
    callbacks = keras.callbacks.CallbackList([measure])
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with cli.terminate_politely():
            callbacks.on_train_batch_end(0, {"loss": loss})
            loss.signal = signum
            with pytest.raises(kind):
                callbacks.on_train_batch_end(1, {"loss": loss})
    finally:
        signal.signal(signal.SIGINT, before)


# --- What is refused --------------------------------------------------------------------------------------------------


def test_a_network_for_one_size_is_not_trained_on_pictures_of_low_resolution(fold):
    recipe = tiny_recipe(low_resolution=0.5)
    with pytest.raises(InputError, match="24x24"):
        training.new_model(recipe, recipe.settings, fold, runs.Run("tiny", 1))


class MoreDropout(layers.Dropout):
    pass


def called_twice(x):
    norm = layers.BatchNormalization(name="odd")
    return norm(layers.ReLU()(norm(x)))


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        (lambda x: layers.Lambda(lambda x: 2 * x, name="odd")(x), "Lambda"),
        (lambda x: keras.Sequential([layers.ReLU(), MoreDropout(0.3, name="odd")])(x), "MoreDropout"),
        (lambda x: keras.Sequential([layers.BatchNormalization(name="odd")])(x), "within"),
        (lambda x: x + layers.Conv2D(3, 3, padding="same")(x), "operation"),
        (called_twice, "twice"),
        (lambda x: layers.Rescaling(0.5, name="shrink")(x), "shrink"),
    ],
)
def test_a_network_that_cannot_be_trained_here_is_refused_by_what_is_odd(fold, odd, word):
    recipe = tiny_recipe(lambda x, classes: tiny_classifier(odd(x), classes))
    with pytest.raises(InputError, match=word):
        training.new_model(recipe, recipe.settings, fold, runs.Run("tiny", 1))


# --- The machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "flags", "found", "precision"),
    [
        ("auto", "fpu avx512f avx512_bf16 amx_bf16", "amx_bf16", "mixed_bfloat16"),
        ("auto", "fp asimd bf16", "bf16", "mixed_bfloat16"),
        ("auto", "fpu avx512f avx512_fp16", None, "float32"),
        ("float32", "fpu avx512_bf16", "avx512_bf16", "float32"),
    ],
)
def test_precision_follows_the_processor_unless_asked_for(monkeypatch, tmp_path, requested, flags, found, precision):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / "cpuinfo")
    assert hardware.processor_has_bfloat16() == found
    monkeypatch.setattr(hardware, "set_up_device", lambda: ("a device", found))
    assert hardware.resolve_precision(requested)[0] == precision
