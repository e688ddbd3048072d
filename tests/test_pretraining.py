"""What an encoder learns before a classifier is built on it, where it is taken from, and how it is fine-tuned."""

import json

import keras
import numpy as np
import pytest

import common
import optimizers
import train_ae_classifier
import train_autoencoder
import train_cnn
import training
import training_model
from common import BalancedBatches, TurnedBatches, turn, turn_in_order
from recipes import RECIPES
from runs import Run
from util.cli import InputError

numpy = keras.ops.convert_to_numpy


def record_of(name):
    return json.loads(Run(*name).path(".json").read_text())


# --- Quarter turns --------------------------------------------------------------------------------------------------


def test_pictures_are_turned_as_one_turns_them_by_hand():
    images = np.random.default_rng(0).integers(256, size=(5, 4, 4, 3), dtype=np.uint8)
    turned, quarters = turn_in_order(images)
    assert quarters.tolist() == [0, 1, 2, 3, 0]
    for image, one, quarter in zip(images, turned, quarters, strict=True):
        by_hand = image
        for _ in range(quarter):  # anticlockwise: the last column becomes the first row
            by_hand = np.stack([by_hand[:, column] for column in (3, 2, 1, 0)])
        assert np.array_equal(one, by_hand)


def test_turned_batches_follow_from_seed_fold_and_step_and_mirror_before_they_turn():
    images = np.random.default_rng(1).integers(256, size=(40, 4, 4, 3), dtype=np.uint8)
    plain = BalancedBatches(images, np.zeros(40, int), 8, balanced=False, alternating=True)
    batches = TurnedBatches(plain, seed=3, fold=2)
    assert batches.steps_per_epoch == plain.steps_per_epoch == 5
    every = [batches[step] for step in range(200)]
    for step in (150, 7):  # in any order
        assert all(map(np.array_equal, batches[step], every[step]))
    for step, (turned, quarters) in enumerate(every[:20]):
        assert np.array_equal(turn(turned, -quarters % 4), plain[step][0])
    counts = np.bincount(np.concatenate([quarters for _, quarters in every]))
    assert len(counts) == 4 and abs(counts / counts.sum() - 0.25).max() < 0.04


# --- An autoencoder's corrupted pictures ------------------------------------------------------------------------------


def test_corruption_hides_whole_squares_adds_noise_and_leaves_alone_what_is_not_trained_on():
    images = np.random.default_rng(2).uniform(50, 200, (64, 32, 32, 3)).astype(np.float32)
    masked = numpy(training_model.Corrupt(0.0, 0.6)(images, training=True))
    means = images.mean(axis=(1, 2), keepdims=True)
    hidden = np.isclose(masked, means, atol=1e-3).all(axis=-1)
    squares = hidden.reshape(64, 8, 4, 8, 4).transpose(0, 1, 3, 2, 4).reshape(64, 64, 16)
    assert (squares.all(axis=-1) == squares.any(axis=-1)).all()  # a square of 4x4 pixels is hidden whole or not at all
    assert abs(hidden.mean() - 0.6) < 0.03
    assert np.array_equal(masked[~hidden], images[~hidden])
    noisy = numpy(training_model.Corrupt(0.1, 0.0)(images, training=True))
    assert abs((noisy - images).std() - 25.5) < 0.2 and abs((noisy - images).mean()) < 0.3
    assert np.array_equal(numpy(training_model.Corrupt(0.1, 0.6)(images, training=False)), images)


def test_the_target_is_the_picture_without_its_corruption():
    recipe = RECIPES["autoencoder_fast"]
    model = common.finished_model(recipe.build, recipe.settings, None, "any")
    images = np.random.default_rng(3).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    still = common.Augmentation()
    whole, _ = training_model.training_model(model, still, "float32", "augmented", None, 0.2, 0.5)
    plain, _ = training_model.training_model(model, still, "float32", "augmented", None)
    found, without = (numpy(one(images, training=True)) for one in (whole, plain))
    np.testing.assert_allclose(found[:, 1], images / 255, rtol=1e-6)
    assert np.abs(found[:, 0] - without[:, 0]).mean() > 0.001  # the network saw another picture


def test_a_narrow_code_has_so_many_channels():
    for width in (3, 0):
        network = type(RECIPES["autoencoder_fast"].settings.network)(code_width=width)
        settings = RECIPES["autoencoder_fast"].settings.model_copy(update={"network": network})
        model = common.finished_model(common.build_fast_autoencoder, settings, None, "any")
        assert model.output_shape == (None, 32, 32, 3)
        decoder = model.get_layer("block3_conv")
        assert decoder.input.shape[1:] == (7, 7, width or 256)


# --- Slower steps of what was pretrained ------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["autoencoder_cls", "autoencoder_cls_fast"])
def test_pretrained_layers_make_a_share_of_each_step_and_none_at_first(row):
    """By a second optimizer, which makes whole steps, from the same values: of Adam, and of Muon with weight decay."""
    settings = RECIPES[row].settings.model_copy(
        update={"encoder_rate_factor": 0.25, "frozen_share": 0.3, "learning_rate": 0.05, "schedule": None}
    )
    random = np.random.default_rng(4)
    shapes = (3, 3, 4, 5), (5,), (3, 3, 4, 5), (5,)
    values = [random.normal(size=shape).astype(np.float32) for shape in shapes]
    slow, whole = ([keras.Variable(value) for value in values] for _ in range(2))
    optimizer, reference = optimizers.new_optimizer(settings, 10, slow[:2]), optimizers.new_optimizer(settings, 10)
    for step in range(10):
        gradients = [random.normal(size=shape).astype(np.float32) for shape in shapes]
        before = [np.array(numpy(variable)) for variable in slow]
        for one, value in zip(whole, before, strict=True):
            one.assign(value)
        optimizer.apply(list(map(keras.ops.convert_to_tensor, gradients)), slow)
        reference.apply(list(map(keras.ops.convert_to_tensor, gradients)), whole)
        for number, (one, other, was) in enumerate(zip(slow, whole, before, strict=True)):
            share = 1 if number > 1 else 0 if step < 3 else 0.25
            np.testing.assert_allclose(numpy(one), was + share * (numpy(other) - was), rtol=1e-4, atol=1e-5)
            assert share or np.array_equal(numpy(one), was)


# --- From which run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    random = np.random.default_rng(5)
    arrays = {
        f"x_{part}": random.integers(256, size=(n, 32, 32, 3), dtype=np.uint8)
        for part, n in (("train", 60), ("test", 20))
    }
    labels = {f"y_{part}": np.arange(n) % 2 for part, n in (("train", 60), ("test", 20))}
    np.savez(path, **arrays, **labels, class_names=["left", "right"])
    return str(path)


def test_an_encoder_is_taken_from_any_run_that_has_not_seen_the_validation_labels(workdir, data):
    short = ["--arch", "fast", "--data", data, "--batch-size", "20", "--epochs", "1"]
    train_cnn.main([*short, "--fold", "1"])
    train_cnn.main([*short, "--fold", "1", "--task", "turns", "--name", "turns"])
    turned = record_of(("small_cnn_fast_turns", 1))
    assert turned["data"]["class_names"] == list(common.TURNS) and turned["settings"]["task"] == "turns"
    (workdir / "config.json").write_text('{"encoder_blocks": 1}')
    above = [*short, "--fold", "1", "--config", "config.json"]
    train_ae_classifier.main([*above, "--encoder", "frozen", "--from", "small_cnn_fast", "--name", "supervised"])
    train_ae_classifier.main([*above, "--encoder", "tuned", "--from", "small_cnn_fast_turns", "--name", "turns"])
    frozen = record_of(("small_autoencoder_cls_fast_supervised", 1))
    source = record_of(("small_cnn_fast", 1))
    assert frozen["settings"]["encoder_sha256"] == source["checkpoint_sha256"]
    assert (
        frozen["taken"]
        == frozen["frozen"]
        == ["whiten", *(f"block1_{name}" for name in ("conv1", "norm1", "conv2", "norm2"))]
    )
    models = Run("small_autoencoder_cls_fast_supervised", 1).load_model(), Run("small_cnn_fast", 1).load_model()
    for name in frozen["taken"]:
        assert all(map(np.array_equal, *(model.get_layer(name).get_weights() for model in models)))
    # Of a run whose encoder is frozen at first, all of it here.
    (workdir / "config.json").write_text('{"frozen_share": 0.99}')
    train_ae_classifier.main([*above, "--encoder", "tuned", "--from", "small_cnn_fast", "--name", "held"])
    held = Run("small_autoencoder_cls_fast_tuned_held", 1).load_model()
    for name in record_of(("small_autoencoder_cls_fast_tuned_held", 1))["taken"]:
        count = len(held.get_layer(name).trainable_weights)
        weights = (model.get_layer(name).get_weights()[:count] for model in (held, models[1]))
        assert all(map(np.array_equal, *weights))
    assert not np.array_equal(*(model.get_layer("logits").get_weights()[0] for model in (held, models[1])))
    # Labels of another fold's training pictures are of this fold's validation pictures; turns are nobody's labels.
    second = [*short, "--fold", "2", "--encoder", "frozen"]
    with pytest.raises(InputError, match="labels"):
        train_ae_classifier.main([*second, "--from", "small_cnn_fast_fold1", "--name", "b"])
    train_ae_classifier.main([*second, "--from", "small_cnn_fast_turns_fold1", "--name", "c"])
    with pytest.raises(InputError, match="FROM=nothing"):
        train_ae_classifier.main([*second, "--from", "nothing", "--name", "d"])
    with pytest.raises(InputError, match="encoder_blocks = 7"):
        (workdir / "config.json").write_text('{"encoder_blocks": 7}')
        train_ae_classifier.main([*above, "--from", "small_cnn_fast", "--name", "e"])


def test_what_learns_no_classes_takes_a_name_of_its_own(workdir, data):
    with pytest.raises(InputError, match="NAME"):
        train_cnn.main(["--arch", "fast", "--data", data, "--task", "turns"])


# --- Validation now and then ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 4, [4]), (2, 4, [2, 4])]
)
def test_validated_epochs_are_every_so_many_and_the_last(every, epochs, expected):
    settings = RECIPES["cnn"].settings.model_copy(update={"validate_every": every, "epochs": epochs})
    assert training.validated_epochs(settings) == expected


def test_the_best_epoch_is_one_that_was_validated(workdir, data):
    (workdir / "config.json").write_text('{"validate_every": 2}')
    train_autoencoder.main(
        ["--arch", "fast", "--data", data, "--batch-size", "20", "--epochs", "5", "--config", "config.json"]
    )
    record = record_of(("small_autoencoder_fast", None))
    assert [value is None for value in record["history"]["val_loss"]] == [True, False, True, False, False]
    assert None not in record["history"]["loss"]
    watched = {epoch: value for epoch, value in enumerate(record["history"]["val_loss"], 1) if value is not None}
    assert record["best_epoch"] == min(watched, key=watched.get)
