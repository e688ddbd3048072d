"""Augmentation, against scipy and an independent construction of the reference's matrices."""

import itertools
import math

import keras
import numpy as np
import pytest
from scipy import ndimage

import common
import recipes
import resume
import training_model

RANGES = recipes.RECIPES["cnn"].settings.augmentation
SIZE = 32


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def layer_with(augmentation, step=0):
    layer = training_model.Augment(augmentation)
    layer.seed_generator.state.assign([1, step])
    return layer


def drawn_parameters(augmentation, count):
    """The parameters that `layer_with(augmentation)` draws for `count` pictures, as float64 columns."""
    uniform = keras.random.uniform((count, 7), seed=layer_with(augmentation).seed_generator)
    columns = common.affine_parameters(uniform, augmentation)
    return np.stack([numpy(column) for column in columns], axis=1).astype(np.float64)


def reference_matrix(angle, shift_x, shift_y, shear, zoom_x, zoom_y, flip):
    """Keras's ImageDataGenerator: (row, column, 1) of the output -> of the input, 3 x 3 matrices in its order."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    shift = np.array([[1, 0, shift_y * SIZE], [0, 1, shift_x * SIZE], [0, 0, 1]])
    sheared = np.array([[1, -math.sin(shear), 0], [0, math.cos(shear), 0], [0, 0, 1]])
    zoom = np.diag([zoom_y, zoom_x, 1])
    flipped = np.diag([1, flip, 1])
    to_centre = np.array([[1, 0, SIZE / 2 - 0.5], [0, 1, SIZE / 2 - 0.5], [0, 0, 1]])
    return to_centre @ rotation @ shift @ sheared @ zoom @ flipped @ np.linalg.inv(to_centre)


def smooth_pictures(count):
    noise = np.random.default_rng(0).uniform(0, 255, (count, SIZE, SIZE, 3))
    blurred = ndimage.gaussian_filter(noise, (0, 1, 1, 0))
    return (255 * (blurred - blurred.min()) / np.ptp(blurred)).astype(np.uint8)


@pytest.mark.parametrize("augmentation", [RANGES, RANGES.model_copy(update={"shear": 30.0})])
def test_pictures_are_those_of_scipy(augmentation):
    images = smooth_pictures(64)
    augmented = numpy(layer_with(augmentation)(images, training=True))
    for image, ours, numbers in zip(images, augmented, drawn_parameters(augmentation, 64), strict=True):
        matrix = np.eye(4)  # of rows, columns and channels, which stay as they are
        matrix[np.ix_([0, 1, 3], [0, 1, 3])] = reference_matrix(*numbers)
        expected = ndimage.affine_transform(image.astype(np.float64), matrix, order=1, mode="nearest")
        assert np.abs(expected - ours)[3:-3, 3:-3].mean() < 0.25
        assert np.abs(image - ours)[3:-3, 3:-3].mean() > 5  # it did move


def test_parameters_fill_their_own_range_each_and_no_more():
    drawn = drawn_parameters(RANGES, 100_000)
    angle, shear = math.radians(40), math.radians(0.2)
    bounds = (-angle, angle), (-0.2, 0.2), (-0.2, 0.2), (-shear, shear), (0.8, 1.2), (0.8, 1.2)
    for column, (low, high) in zip(drawn.T, bounds, strict=False):
        margin = (high - low) / 1000
        assert low - 1e-6 <= column.min() <= low + margin
        assert high - margin <= column.max() <= high + 1e-6
        histogram = np.histogram(column, bins=10, range=(low, high))[0] / len(column)
        assert np.all(np.abs(histogram - 0.1) < 0.01)
    assert set(drawn[:, 6]) == {-1, 1}
    assert abs(drawn[:, 6].mean()) < 0.02
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.02  # each has a draw of its own

    for setting, columns in {"rotation": [0], "shift": [1, 2], "shear": [3], "zoom": [4, 5], "flip": [6]}.items():
        moved = drawn_parameters(common.Augmentation(**{setting: getattr(RANGES, setting)}), 50)
        assert np.flatnonzero((moved != [0, 0, 0, 0, 1, 1, 1]).any(axis=0)).tolist() == columns


def test_the_training_model_augments_in_the_reference_s_ranges():
    reference_s = {"rotation": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}
    assert RANGES.model_dump(exclude_defaults=True) == reference_s
    assert all(recipes.RECIPES[name].settings.augmentation == RANGES for name in recipes.MODELS)


@pytest.mark.parametrize(
    ("augmentation", "training"),
    [(common.Augmentation(), True), (common.Augmentation(flip="alternating"), True), (RANGES, False)],
)
def test_nothing_to_do_leaves_every_bit_and_draws_nothing(augmentation, training):
    images, layer = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8), layer_with(augmentation)
    out = numpy(layer(images, training=training))
    assert out.dtype == np.float32 and np.array_equal(out, images)
    assert numpy(layer.seed_generator.state).tolist() == [1, 0]


def test_a_new_operation_works_on_what_the_others_made_and_in_training_alone(monkeypatch):
    images = smooth_pictures(8)
    once = numpy(layer_with(RANGES)(images, training=True))
    threshold = keras.random.uniform((8, 1, 1, 1), 100, 150, seed=layer_with(RANGES, step=1).seed_generator)

    def darken(pictures, seeds, augmentation):  # to black and white: what is interpolated afterwards has greys again
        return keras.ops.where(pictures < keras.random.uniform((8, 1, 1, 1), 100, 150, seed=seeds), 0.0, 255.0)

    monkeypatch.setattr(common, "AUGMENTATIONS", (*common.AUGMENTATIONS, darken))
    layer = layer_with(RANGES)
    assert np.array_equal(numpy(layer(images, training=False)), images)
    assert np.array_equal(numpy(layer(images, training=True)), np.where(once < numpy(threshold), 0, 255))


@pytest.fixture(scope="module")
def draws():
    """draws(seed, fold, first, count): what the random layers make of `count` training steps after step `first`."""
    model = common.finished_model(lambda x, classes: keras.layers.Dropout(0.5)(x), recipes.Settings(), 10, "small")
    whole, twin = training_model.training_model(model, RANGES, "float32")
    images = smooth_pictures(4)

    def draw(seed, fold, first, count):
        resume.seed_layers(whole, twin, seed, fold, first)
        return [numpy(whole(images, training=True)) for _ in range(count)]

    return draw


def test_draws_follow_from_seed_fold_and_step(draws):
    whole = draws(7, 2, 0, 5)
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(whole))
    assert np.array_equal(draws(7, 2, 3, 2), whole[3:])
    for other in ((8, 2, 0), (7, 1, 0), (7, 2, 1)):
        assert not np.array_equal(draws(*other, 1)[0], whole[0])
