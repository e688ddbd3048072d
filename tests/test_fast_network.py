"""The fast network and what it is trained with, against numpy, scipy and scikit-learn."""

import itertools
import types

import keras
import numpy as np
import pytest
from sklearn.decomposition import TruncatedSVD

import common
import optimizers
import recipes
import training_model
from recipes import RECIPES, Augmentation

RECIPE = RECIPES["cnn_fast"]


@pytest.fixture(scope="module")
def images():
    """Pictures with neighbours alike, as photographs have them."""
    random = np.random.default_rng(0)
    large = random.uniform(0, 255, (40, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(large + random.normal(0, 12, large.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def network(images):
    model = common.finished_model(RECIPE.build, RECIPE.settings, 10, "fast")
    RECIPE.start(model, images)
    return model


def up_to(model, last):
    return keras.Model(model.input, model.get_layer(last).output)


def patches(scaled):
    """All patches of 2 x 2: (patches, 2 * 2 * channels)."""
    corners = [scaled[:, y : y + 31, x : x + 31] for y in (0, 1) for x in (0, 1)]
    return np.stack(corners, axis=3).reshape(-1, 4 * scaled.shape[-1])


def test_whitening_is_the_principal_components_of_scikit_learn(images, network):
    scaled = (images.astype(np.float64) - 120.7) / 64
    kernel, negatives = np.split(network.get_layer("whiten").get_weights()[0].reshape(12, 24)[:, ::-1], 2, axis=1)[::-1]
    np.testing.assert_array_equal(kernel, -negatives)
    rows = patches(scaled)
    found = TruncatedSVD(12, n_iter=20, random_state=0).fit(rows)  # the largest first
    power = found.singular_values_**2 / len(rows)
    expected = found.components_.T / np.sqrt(power + 5e-4)
    signs = np.sign((kernel * expected).sum(axis=0))
    np.testing.assert_allclose(kernel * signs, expected, rtol=1e-2, atol=2e-3 * np.abs(expected).max())


def test_convolutions_pass_on_their_channels_at_first(images, network):
    before = up_to(network, "silu").predict(images, verbose=0)
    after = up_to(network, "block1_conv1").predict(images, verbose=0)
    np.testing.assert_allclose(after[..., :24], before, atol=1e-5)
    assert np.abs(after[..., 24:]).mean() > 0.01  # the rest are random
    before = up_to(network, "block3_silu1").predict(images, verbose=0)
    after = up_to(network, "block3_conv2").predict(images, verbose=0)
    np.testing.assert_allclose(after, before, atol=1e-5)


# --- What it learns from ----------------------------------------------------------------------------------------------


SHARES = np.array([0.5, 0.3, 0.2])


def loss_of(logits, labels, smoothing, shares, fit):
    """The loss of a training model whose twin gives these logits, by one step of rate 0 or by an evaluation."""
    image = keras.Input(common.IMAGE_SHAPE)
    dense = keras.layers.Dense(3, use_bias=False, activation="softmax", name="probabilities")
    twin = keras.Model(image, dense(keras.layers.Flatten()(keras.layers.Cropping2D(((0, 31), (0, 31)))(image))))
    dense.set_weights([np.eye(3, dtype=np.float32)])
    whole = training_model.augmented(twin, Augmentation(), adjustment=None if shares is None else np.log(shares))
    settings = types.SimpleNamespace(loss="categorical_crossentropy", label_smoothing=smoothing)
    training_model.compile_model(whole, keras.optimizers.SGD(0.0), settings)
    pictures = np.zeros((len(logits), *common.IMAGE_SHAPE), np.uint8)
    pictures[:, 0, 0] = logits
    return (whole.train_on_batch if fit else whole.test_on_batch)(pictures, labels)[0]


@pytest.mark.parametrize(
    ("smoothing", "shares", "far"),
    [(0.0, None, 5), (0.2, None, 100), (0.0, SHARES, 5), (0.2, SHARES, 5), (0.2, SHARES, 100)],
)
def test_loss_with_smoothed_labels_and_adjusted_logits_is_that_of_numpy(smoothing, shares, far):
    random = np.random.default_rng(1)  # with `far`, some probabilities are e^-100, which is no float32
    logits, labels = random.integers(0, far, (30, 3)).astype(float), random.integers(0, 3, 30)
    target = np.eye(3)[labels] * (1 - smoothing) + smoothing / 3

    def cross_entropy(adjusted):
        largest = adjusted.max(axis=1, keepdims=True)
        logs = adjusted - largest - np.log(np.exp(adjusted - largest).sum(axis=1, keepdims=True))
        return -(target * logs).sum(axis=1).mean()

    trained = loss_of(logits, labels, smoothing, shares, fit=True)
    limit = 2e-5 if far == 5 or shares is None else 0.1  # logs of probabilities end at that of 1e-37
    assert trained == pytest.approx(cross_entropy(logits + (0 if shares is None else np.log(shares))), rel=limit)
    if far == 5:
        assert loss_of(logits, labels, smoothing, shares, fit=False) == pytest.approx(cross_entropy(logits), rel=2e-5)


def newton_schulz(matrix):
    x = matrix / np.linalg.norm(matrix)
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize("shape", [(12, 40), (40, 12), (16, 16)])
def test_a_step_of_muon_is_about_orthogonal(shape):
    matrix = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    found = keras.ops.convert_to_numpy(optimizers.orthogonal(keras.ops.convert_to_tensor(matrix)))
    expected = newton_schulz(matrix) if shape[0] <= shape[1] else newton_schulz(matrix.T).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    assert np.linalg.svd(found, compute_uv=False).max() < 1.25
    wide = values > 0.1 * np.linalg.norm(values)  # directions that the gradient has
    assert np.abs(np.diag(left.T @ found @ right.T))[wide].min() > 0.6


def test_optimizer_is_that_of_plain_numpy():
    """Convolutions by Muon; else Nesterov's momentum, decay apart from the gradient, biases 60 times as fast."""
    settings = RECIPE.settings.model_copy(update={"schedule": None, "learning_rate": 0.01, "muon_rate_factor": 30})
    optimizer = optimizers.new_optimizer(settings)
    random = np.random.default_rng(2)
    values = [random.normal(size=shape) for shape in ((3, 3, 4, 5), (3, 2), (2,))]
    variables = [keras.Variable(value.astype(np.float32)) for value in values]
    speed = [np.zeros_like(value) for value in values]
    for _ in range(20):
        gradients = [random.normal(size=value.shape) for value in values]
        optimizer.apply([keras.ops.convert_to_tensor(one.astype(np.float32)) for one in gradients], variables)
        values = [value * (1 - 0.01 * 0.013) for value in values]
        speed[0] = 0.6 * speed[0] + gradients[0]
        filters = (gradients[0] + 0.6 * speed[0]).reshape(36, 5).T
        kernel = values[0] * np.sqrt(5) / np.linalg.norm(values[0])
        values[0] = kernel - 0.3 * newton_schulz(filters).T.reshape(3, 3, 4, 5)
        for i, rate in ((1, 0.01), (2, 60 * 0.01)):
            speed[i] = 0.85 * speed[i] - rate * gradients[i]
            values[i] = values[i] + 0.85 * speed[i] - rate * gradients[i]
    for variable, value in zip(variables, values, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), value, rtol=1e-3, atol=1e-4)


# --- What it sees -----------------------------------------------------------------------------------------------------


def test_whole_pixel_shifts_are_cuts_of_the_mirrored_picture(images):
    few = images[:2].repeat(200, axis=0).astype(np.float32)
    shifted = keras.ops.convert_to_numpy(common.augment(few, keras.random.SeedGenerator(3), Augmentation(pixels=2)))
    padded = np.pad(few, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    counts = np.zeros((5, 5), int)
    for picture, around in zip(shifted, padded, strict=True):
        same = [(y, x) for y in range(5) for x in range(5) if np.array_equal(picture, around[y : y + 32, x : x + 32])]
        assert len(same) == 1
        counts[same[0]] += 1
    assert counts.min() >= 4 and counts.max() <= 36  # 16 each are expected


def test_cut_out_is_a_square_of_the_mean_colour(images):
    few = images[:2].repeat(300, axis=0).astype(np.float32)
    changed = keras.ops.convert_to_numpy(common.augment(few, keras.random.SeedGenerator(3), Augmentation(cutout=8)))
    places = []
    for picture, before in zip(changed, few, strict=True):
        rows, columns = (np.flatnonzero((picture != before).any(axis=(2, axis))) for axis in (1, 0))
        (top, bottom), (left, right) = rows[[0, -1]], columns[[0, -1]]
        for first, last in ((top, bottom), (left, right)):
            assert last - first == 7 or (last - first < 7 and (first == 0 or last == 31))  # partly outside
        expected = before.copy()
        expected[top : bottom + 1, left : right + 1] = before.mean(axis=(0, 1))
        np.testing.assert_allclose(picture, expected, atol=1e-3)
        places.append((top, left))
    assert [set(starts) for starts in zip(*places, strict=True)] == [set(range(32))] * 2


def test_an_image_is_mirrored_every_other_time_it_comes(images):
    labels = np.arange(40) % 4
    stream = common.BalancedBatches(images, labels, 7, seed=5, alternating=True)
    plain = common.BalancedBatches(images, labels, 7, seed=5)
    seen = {row: [] for row in range(40)}
    for step in range(60):
        rows, times = plain.rows(step)
        for row, time, picture in zip(rows, times, stream[step][0], strict=True):
            assert time == len(seen[row])
            mirrored = np.array_equal(picture, np.fliplr(images[row]))
            assert mirrored != np.array_equal(picture, images[row])
            seen[row].append(mirrored)
    firsts = [several[0] for several in seen.values()]
    assert 10 <= sum(firsts) <= 30
    for several in seen.values():
        assert len(several) >= 10
        assert all(one != other for one, other in itertools.pairwise(several))


# --- Encoders and few labels ------------------------------------------------------------------------------------------


def test_the_autoencoder_has_the_encoder_of_the_network_and_its_classifier_is_trained_as_the_network_alone(images):
    recipe, classifier = RECIPES["autoencoder_fast"], RECIPES["autoencoder_cls_fast"]
    assert (classifier.build, classifier.start) == (RECIPE.build, RECIPE.start)
    alone, above = RECIPE.settings.model_dump(), classifier.settings.model_dump()
    assert {key: above[key] for key in alone} == alone  # so ENCODER=scratch is the network alone
    autoencoder = common.finished_model(recipe.build, recipe.settings, 10, "autoencoder")
    recipe.start(autoencoder, images)
    model = common.finished_model(classifier.build, classifier.settings, 10, "classifier")
    common.take_weights(model, autoencoder, classifier.encoder_end)
    codes = (up_to(one, "block2_silu2").predict(images, verbose=0) for one in (model, autoencoder))
    np.testing.assert_allclose(*codes, atol=1e-5)


def test_labels_are_a_share_of_each_class_and_of_each_larger_share():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 5], [64, 32, 320, 3]))
    seen = {share: common.labelled_rows(labels, share, seed=4, fold=2) for share in (1 / 32, 1 / 8, 0.5, 1.0)}
    for share, rows in seen.items():
        assert np.array_equal(rows, np.unique(rows))
        counts = np.bincount(labels[rows], minlength=6)
        assert counts.tolist() == [*(round(n * share) for n in (64, 32, 320)), 0, 0, max(1, round(3 * share))]
    for smaller, larger in itertools.pairwise(seen.values()):
        assert np.isin(smaller, larger).all()
    assert np.array_equal(seen[1.0], np.arange(len(labels)))
    assert np.array_equal(seen[0.5], common.labelled_rows(labels, 0.5, seed=4, fold=2))
    for other in ({"seed": 5, "fold": 2}, {"seed": 4, "fold": 1}):
        assert not np.array_equal(seen[0.5], common.labelled_rows(labels, 0.5, **other))


def test_few_labels_leave_validation_and_the_autoencoder_s_pictures_as_they_are(npz):
    settings = RECIPES["cnn"].settings
    whole, few = (
        common.prepare_fold(npz, settings.model_copy(update={"labelled": share}), fold=2) for share in (1.0, 0.25)
    )
    same = [few.record[key] == whole.record[key] for key in ("kept_sha256", "val_sha256", "train_sha256")]
    assert same == [True, True, False] and np.array_equal(whole.x_val, few.x_val)
    assert np.bincount(few.y_train).tolist() == few.record["train_counts"] and len(few.x_train) == len(few.y_train)
    assert few.record["train_counts"] == [round(count / 4) for count in whole.record["train_counts"]]


@pytest.mark.parametrize(("share", "length"), [(0.25, (500, 36)), (1 / 32, (177, 102))])
def test_few_labels_come_with_a_length_of_about_as_many_steps(share, length):
    assert recipes.share_of_length(share, 1000, 18) == length
    batch_size, epochs = length
    assert int(36_125 * share) // batch_size * epochs == pytest.approx(36 * 18, rel=0.06)
