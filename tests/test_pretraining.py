"""What an encoder learns before a classifier is built on it, where it is taken from, and how it is fine-tuned."""

import json

import keras
import numpy as np
import pytest
from conftest import tiny_autoencoder

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


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """The blocks of the fast network with a sixteenth of their width."""
    whole = common.fast_block
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "fast_block", lambda x, filters, block: whole(x, filters // 16, block))
        yield


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
    hidden = np.isclose(masked, images.mean(axis=(1, 2), keepdims=True), atol=1e-3).all(axis=-1)
    squares = hidden.reshape(64, 8, 4, 8, 4)
    assert np.array_equal(squares.all(axis=(2, 4)), squares.any(axis=(2, 4)))  # of 4x4 pixels: hidden whole or not
    assert abs(hidden.mean() - 0.6) < 0.03
    assert np.array_equal(masked[~hidden], images[~hidden])
    noisy = numpy(training_model.Corrupt(0.1, 0.0)(images, training=True))
    assert abs((noisy - images).std() - 25.5) < 0.2 and abs((noisy - images).mean()) < 0.3
    assert np.array_equal(numpy(training_model.Corrupt(0.1, 0.6)(images, training=False)), images)


def test_the_target_is_the_picture_without_its_corruption():
    settings = RECIPES["autoencoder"].settings
    model = common.finished_model(tiny_autoencoder, settings, None, "any")
    images = np.random.default_rng(3).integers(256, size=(4, 32, 32, 3), dtype=np.uint8)
    whole, plain = (
        training_model.training_model(model, common.Augmentation(), "float32", "augmented", None, *corruption)[0]
        for corruption in ((0.2, 0.5), ())
    )
    found, without = (numpy(one(images, training=True)) for one in (whole, plain))
    np.testing.assert_allclose(found[:, 1], images / 255, rtol=1e-6)
    assert np.abs(found[:, 0] - without[:, 0]).mean() > 0.001  # the network saw another picture


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


def weights_of(run, name):
    """A layer's weights in a finished file, without the statistics of a normalisation."""
    return [numpy(one) for one in run.load_model().get_layer(name).weights if "moving" not in one.path]


@pytest.fixture(scope="module")
def short(npz):
    return ["--arch", "fast", "--data", str(npz), "--batch-size", "150", "--epochs", "1"]


def test_an_encoder_is_taken_from_any_run_that_has_not_seen_the_validation_labels(workdir, short, monkeypatch):
    first, second = [*short, "--fold", "1"], [*short, "--fold", "2"]
    plain = {"optimizer": "adam", "muon_rate_factor": 0, "low_resolution": 0}  # which is compiled sooner
    (workdir / "config.json").write_text(json.dumps(plain))

    def classifier(words, name, source, **config):
        (workdir / "config.json").write_text(json.dumps(config | plain))
        found = ["--encoder", words, "--from", source, "--name", name, "--config", "config.json"]
        train_ae_classifier.main([*(second if name.startswith("second") else first), *found])

    train_cnn.main([*first, "--config", "config.json"])
    train_cnn.main([*first, "--config", "config.json", "--task", "turns", "--name", "turns"])
    supervised = Run("small_cnn_fast", 1)
    turned = Run("small_cnn_fast_turns", 1).read_record()
    assert turned["data"]["class_names"] == list(common.TURNS) and turned["settings"]["task"] == "turns"

    # The first block alone, which so short a run leaves as it was taken.
    classifier("tuned", "held", "small_cnn_fast", encoder_blocks=1, frozen_share=0.99)
    held = Run("small_autoencoder_cls_fast_tuned_held", 1)
    record = held.read_record()
    assert record["settings"]["encoder_sha256"] == supervised.read_record()["checkpoint_sha256"]
    assert record["taken"] == ["whiten", *(f"block1_{kind}{layer}" for layer in (1, 2) for kind in ("conv", "norm"))]
    for name in record["taken"]:
        assert all(map(np.array_equal, weights_of(held, name), weights_of(supervised, name)))
    for name in ("block2_conv1", "logits"):
        assert not np.array_equal(*(weights_of(run, name)[0] for run in (held, supervised)))

    # Fold 1 learnt the labels of fold 2's validation pictures; quarter turns are nobody's labels.
    with pytest.raises(InputError, match="labels"):
        classifier("frozen", "second-a", "small_cnn_fast_fold1")
    with pytest.raises(InputError, match="nothing"):
        classifier("frozen", "b", "nothing")
    with pytest.raises(InputError, match="encoder_blocks"):
        classifier("frozen", "c", "small_cnn_fast", encoder_blocks=7)
    monkeypatch.setattr(training, "train", lambda recipe, run, *_, **more: trained.append(run.stem))
    trained = []
    classifier("frozen", "second-b", "small_cnn_fast_turns_fold1")
    assert trained == ["small_autoencoder_cls_fast_second-b_fold2"]


def test_what_learns_no_classes_takes_a_name_of_its_own(workdir, short):
    with pytest.raises(InputError, match="NAME"):
        train_cnn.main([*short, "--task", "turns"])


def test_what_has_layers_of_another_run_takes_a_name_of_its_own(workdir, short):
    with pytest.raises(InputError, match="NAME"):
        train_ae_classifier.main([*short, "--from", "small_cnn_fast"])


# --- Validation now and then ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("every", "epochs", "expected"), [(1, 3, [1, 2, 3]), (2, 5, [2, 4, 5]), (9, 4, [4]), (2, 4, [2, 4])]
)
def test_validated_epochs_are_every_so_many_and_the_last(every, epochs, expected):
    settings = RECIPES["cnn"].settings.model_copy(update={"validate_every": every, "epochs": epochs})
    assert training.validated_epochs(settings) == expected


def test_the_best_epoch_is_one_that_was_validated(workdir, short):
    (workdir / "config.json").write_text('{"validate_every": 2}')
    train_autoencoder.main([*short, "--epochs", "5", "--config", "config.json"])
    record = Run("small_autoencoder_fast").read_record()
    losses = record["history"]["val_loss"]
    assert [value is None for value in losses] == [True, False, True, False, False]
    assert None not in record["history"]["loss"]
    assert losses[record["best_epoch"] - 1] == min(value for value in losses if value is not None)
