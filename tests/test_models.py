"""The networks, weights taken from an autoencoder, finished files, and the training model around a network's twin."""

import keras
import numpy as np
import pytest
from conftest import tiny_autoencoder
from keras import layers
from skimage import metrics

import common
import recipes
import resume
import training_model
from util.cli import InputError

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)
RANGES = recipes.RECIPES["cnn"].settings.augmentation


def built(name, **network):
    """The finished model of a row of RECIPES, with these settings of the network in place of the row's."""
    recipe = recipes.RECIPES[name]
    network = recipe.settings.network.model_copy(update=network)
    return common.finished_model(recipe.build, recipe.settings.model_copy(update={"network": network}), 10, name)


def shake(model):
    """Give biases and batch-norm weights, statistics included, values that are positive and not a new layer's."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        weights = layer.get_weights()
        layer.set_weights([np.abs(w + random.normal(0, 0.1, w.shape)) if w.ndim == 1 else w for w in weights])
    return model


def tiny_cnn(x, classes):
    """A small network with a bias that normalisation cancels, and one that it does not: ReLU stands between."""
    x = layers.BatchNormalization(name="norm1")(layers.Conv2D(4, 3, strides=2, padding="same", name="conv1")(x))
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="conv2")(x)
    x = layers.Flatten(name="flatten")(layers.BatchNormalization(name="norm2")(x))
    x = layers.BatchNormalization(name="norm3")(layers.Dense(8, name="dense")(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def tiny(build=tiny_cnn):
    return common.finished_model(build, recipes.RECIPES["cnn"].settings, 10, "tiny")


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


# --- The networks ---


def kinds(model):
    """The layers of a network after its input and its scaling: kind, width, side of the kernel, rate, activation."""
    words = []
    for layer in model.layers[2:]:
        width = getattr(layer, "filters", None) or getattr(layer, "units", None)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        rate = getattr(layer, "rate", None) or getattr(layer, "negative_slope", None)
        parts = [type(layer).__name__, width, *getattr(layer, "kernel_size", ())[:1], rate]
        parts += [activation] if activation not in ("linear", type(layer).__name__.lower()) else []
        words.append("-".join(str(part) for part in parts if part))
    short = {"BatchNormalization": "BN", "MaxPooling2D": "pool", "UpSampling2D": "up", "Dropout": "drop"}
    return [f"{short.get(kind, kind)}{dash}{rest}" for kind, dash, rest in (word.partition("-") for word in words)]


def conv(width, depth=2):
    return f"Conv2D-{width}-3-relu BN " * depth


ELU = 2 * "Conv2D-{0}-3 BN ELU " + "pool "
LEAKY = "LeakyReLU-0.1"
HEAD = "Flatten Dense-512-relu drop-0.4 Dense-64-relu Dense-10-softmax"
CNN = f"{2 * 'Conv2D-64-3 BN pool ReLU '}{HEAD}"
TWO_BLOCKS = f"{conv(64)}pool drop-0.3 {conv(128)}pool drop-0.3 "
FAST_BLOCK = "Conv2D-{0}-3 pool BN Activation-silu Conv2D-{0}-3 BN Activation-silu "
FAST_CODE = f"Conv2D-24-2 Activation-silu {FAST_BLOCK.format(64)}{FAST_BLOCK.format(256)}"
FAST = f"{FAST_CODE}{FAST_BLOCK.format(256)}GlobalMaxPooling2D Dense-10 Rescaling Softmax"
CAE = f"{conv(32)}pool drop-0.2 {conv(64)}pool drop-0.2 {conv(128)}drop-0.2 ActivityRegularization "
DENSE = "Flatten Dense-1024-relu Dense-10-softmax"
# Parameters, those that are trained, and the layers: as the reference, the papers and the documents give them.
NETWORKS = {
    "cnn": (2_170_378, 2_170_122, CNN),
    "cnn_fast": (1_973_920, 1_971_328, FAST),
    "cnn_elu": (
        420_842,
        419_818,
        f"{ELU.format(32)}drop-0.2 {ELU.format(64)}drop-0.2 {ELU.format(128)}drop-0.3 "
        "Flatten Dense-64 BN ELU drop-0.3 Dense-10-softmax",
    ),
    "cnn_leaky": (
        1_084_234,
        1_084_234,
        f"Conv2D-16-3-relu {LEAKY} Conv2D-32-3 {LEAKY} pool drop-0.25 Conv2D-32-3 {LEAKY} Conv2D-64-3 {LEAKY} pool "
        f"drop-0.25 Flatten Dense-256 {LEAKY} drop-0.5 Dense-10 {LEAKY} Softmax",
    ),
    "cnn_pool3": (1_116_170, 1_116_170, "".join(f"Conv2D-{w}-3-relu pool " for w in (32, 64, 64)) + DENSE),
    "cnn_wide5": (4_361_738, 4_361_738, f"Conv2D-32-5-relu {2 * 'Conv2D-64-5-relu pool '}{DENSE}"),
    "cnn_dropout": (
        6_417_034,
        6_416_778,
        "Conv2D-128-3-relu Conv2D-128-3-relu BN pool drop-0.3 Conv2D-256-3-relu Conv2D-256-3-relu pool drop-0.3 "
        "Conv2D-512-3-relu pool drop-0.3 Flatten Dense-512-relu drop-0.3 Dense-10-softmax",
    ),
    "autoencoder": (4_070_019, 4_065_411, f"{TWO_BLOCKS}{conv(256, 6)}{conv(128)}up {conv(64)}up Conv2D-3-3-sigmoid"),
    "autoencoder_cae": (725_059, 723_267, f"{CAE}{conv(128)}{conv(64)}up {conv(32)}up Conv2D-3-3-sigmoid"),
    "autoencoder_fast": (
        952_011,
        950_267,
        f"{FAST_CODE}Conv2DTranspose-64-3 BN Activation-silu Conv2DTranspose-24-3 BN Activation-silu "
        "Conv2DTranspose-3-2-sigmoid",
    ),
    "autoencoder_cls": (2_090_122, 1_826_634, f"{TWO_BLOCKS}{conv(256, 3)}{CNN}"),
    "autoencoder_cls_fast": (1_973_920, 1_182_720, FAST),
    "autoencoder_cls_cae": (
        708_842,
        419_402,
        f"{CAE}Conv2D-128-3 BN pool Flatten Dense-128-relu BN Dense-64-relu BN Dense-10-softmax",
    ),
    "mod_autoencoder_cls": (10_162_698, 8_422_602, f"{TWO_BLOCKS}{conv(256, 3)}{HEAD}"),
}
SCALED = {"cnn_leaky": PICTURES / 255 - 0.5}
SCALED |= dict.fromkeys(("cnn_fast", "autoencoder_fast", "autoencoder_cls_fast"), (PICTURES - 120.7) / 64)
SCALED |= dict.fromkeys(("cnn_pool3", "cnn_wide5", "cnn_dropout"), PICTURES)


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_network_is_the_published_one_of_stock_layers_and_takes_pictures_as_they_are(name):
    model, (parameters, trained, expected) = built(name), NETWORKS[name]
    if recipes.RECIPES[name].frozen_until:
        common.freeze(model, recipes.RECIPES[name].frozen_until)
    assert (model.count_params(), common.count_trainable(model)) == (parameters, trained)
    assert kinds(model) == expected.split()
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert model.input_shape == (None, 32, 32, 3)
    rescaled = keras.Model(model.input, model.get_layer("rescale").output)(PICTURES)
    assert np.allclose(numpy(rescaled), SCALED.get(name, PICTURES / 255), atol=1e-6)
    out = numpy(model(PICTURES))
    assert out.min() >= 0 and out.max() <= 1
    if recipes.model_of(name) == "autoencoder":
        assert out.shape == PICTURES.shape
    else:
        assert out.shape == (6, 10) and np.allclose(out.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "network", "expected"),
    [
        ("autoencoder_cae", {"blocks": 4, "dropout": 0.0}, "code:8x8x32 -block1_dropout"),
        ("autoencoder_cae", {"layers_per_block": 1, "batch_norm": False}, "-block1_conv2 -block1_norm1"),
        ("autoencoder_cae", {"input_noise": 0.1, "hidden_noise": 0.2}, "input_noise block1_noise block3_noise"),
        ("autoencoder_cls_cae", {"pooling": "average"}, "average -flatten dense1:128"),
        ("autoencoder_cls_cae", {"pooling": "max", "dense": False}, "max -dense1 -norm2 norm1"),
        ("autoencoder_cls_cae", {"head_batch_norm": False, "head_dropout": 0.5}, "-norm1 -norm3 dropout1 dropout2"),
        ("autoencoder_fast", {"code_width": 3}, "narrow:7x7x3 reconstruction:32x32x3"),
    ],
)
def test_settings_of_the_network(name, network, expected):
    model = built(name, **network, **({} if name.endswith("fast") else {"first_width": 4}))
    shapes = {layer.name: "x".join(map(str, layer.output.shape[1:])) for layer in model.layers}
    for word in expected.split():
        layer, _, shape = word.lstrip("-").partition(":")
        assert (layer in shapes) == (word[0] != "-"), word
        assert not shape or shapes[layer] == shape


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_penalties_are_those_of_their_formulas(precision):
    """Of every hidden convolution's kernel, and of the code, the latter a picture's, on average over the batch."""
    model = built("autoencoder_cae", kernel_l2=1e-3, activity_l1=1e-4, first_width=4, layers_per_block=1)
    whole, _ = training_model.training_model(model, common.Augmentation(), precision, "augmented")
    whole(PICTURES, training=False)
    found = sorted(float(loss) for loss in whole.losses)
    kernels = [layer.get_weights()[0] for layer in model.layers[:-1] if isinstance(layer, layers.Conv2D)]
    code = numpy(keras.Model(model.input, model.get_layer("code").output)(PICTURES))
    expected = [*(1e-3 * np.square(kernel).sum() for kernel in kernels), 1e-4 * np.abs(code).sum() / len(code)]
    assert len(expected) == 7
    assert np.allclose(found, sorted(expected), rtol=1e-4 if precision == "float32" else 0.01)


# --- Weights from an autoencoder ---


def convolutions(names, filters=4):
    x = image = keras.Input((8, 8, 3))
    for name in names:
        x = layers.Conv2D(filters, 3, padding="same", name=name)(x)
    return keras.Model(image, x)


def test_layers_are_taken_and_frozen_by_name_up_to_the_last():
    target, source = convolutions(["one", "two", "three"]), convolutions(["one", "two", "more", "three"])
    before = target.get_layer("three").get_weights()
    assert common.take_weights(target, source, "two") == common.freeze(target, "two") == ["one", "two"]
    for name in ("one", "two"):
        pair = (model.get_layer(name).get_weights() for model in (target, source))
        assert all(map(np.array_equal, *pair))
    assert all(map(np.array_equal, target.get_layer("three").get_weights(), before))
    assert [layer.trainable for layer in target.layers if layer.weights] == [False, False, True]


@pytest.mark.parametrize(("names", "filters", "named"), [(["one", "other"], 4, "'two'"), (["one", "two"], 5, "'one'")])
def test_a_layer_that_is_missing_or_of_another_shape_is_named(names, filters, named):
    with pytest.raises(InputError, match=named):
        common.take_weights(convolutions(["one", "two"]), convolutions(names, filters), "two")


# --- The training model and the twin ---


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_a_training_model_predicts_as_the_network_and_gives_its_weights_back(precision, tolerance):
    model = tiny()
    whole, twin = training_model.training_model(model, RANGES, precision)
    shake(twin)
    training_model.copy_weights(model, twin)
    expected, found = numpy(model(PICTURES)), whole(PICTURES, training=False)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert np.abs(numpy(found) - expected).max() < tolerance
    assert expected.std() > 0.02  # the tolerance means something
    assert not model.get_layer("conv1").get_weights()[1].any()  # the twin has no such bias
    assert twin.get_layer("conv1").compute_dtype == ("float32" if precision == "float32" else "bfloat16")
    assert {str(keras.backend.standardize_dtype(weight.dtype)) for weight in twin.trainable_weights} == {"float32"}


def without_bias(model):
    _, twin = training_model.training_model(model, RANGES, "float32")
    assert [layer.trainable for layer in twin.layers] == [layer.trainable for layer in model.layers]
    return {layer.name for layer in twin.layers if hasattr(layer, "kernel") and not layer.use_bias}


def test_a_twin_does_without_biases_that_normalisation_cancels():
    assert without_bias(tiny()) == {"conv1", "dense"}  # after conv2 comes ReLU
    assert without_bias(shake(tiny())) == set()  # the biases have values already, which must count
    frozen = tiny()
    frozen.get_layer("norm1").trainable = False
    assert without_bias(frozen) == {"dense"}


def test_a_bias_that_a_branch_needs_stays():
    image = keras.Input(common.IMAGE_SHAPE, name="image")
    first = layers.Conv2D(2, 3, name="first")(image)
    second = layers.Conv2D(2, 3, padding="same", name="second")(layers.BatchNormalization()(first))
    joined = layers.Add()([first, layers.BatchNormalization()(second)])
    assert without_bias(keras.Model(image, layers.GlobalAveragePooling2D()(joined))) == {"second"}


@pytest.mark.parametrize("target", ["augmented", "original"])
def test_an_autoencoder_trains_on_pairs_of_reconstruction_and_target(target):
    autoencoder = shake(tiny(tiny_autoencoder))
    whole, twin = training_model.training_model(autoencoder, RANGES, "float32", target)
    pair = numpy(whole(PICTURES, training=False))
    assert pair.shape == (6, 2, 32, 32, 3)
    assert np.allclose(pair[:, 0], numpy(autoencoder(PICTURES)), atol=1e-4)
    assert np.allclose(pair[:, 1], PICTURES / 255, atol=1e-6)
    resume.seed_layers(whole, twin, 0, 1, 0)
    goal = numpy(whole(PICTURES, training=True))[:, 1]
    resume.seed_layers(whole, twin, 0, 1, 0)
    seen = numpy(whole.get_layer("augment")(PICTURES, training=True))
    assert not np.allclose(seen, PICTURES, atol=1)
    assert np.allclose(goal, (seen if target == "augmented" else PICTURES) / 255, atol=1e-6)


def test_error_and_psnr_are_those_of_scikit_image():
    random = np.random.default_rng(0)
    pair = random.uniform(0, 1, (5, 2, 32, 32, 3)).astype("float32")
    pair[:, 1] = pair[:, 0] + random.normal(0, 0.1, pair[:, 0].shape) * np.arange(5).reshape(5, 1, 1, 1)
    ratios = [100, *(metrics.peak_signal_noise_ratio(one, other, data_range=1.0) for one, other in pair[1:])]
    assert np.allclose(numpy(training_model.psnr(None, pair)), ratios, atol=1e-4)
    for name, error in (("mean_squared_error", np.square), ("mean_absolute_error", np.abs)):
        found = numpy(training_model.reconstruction_loss(name)(None, pair))
        assert np.allclose(found, error(pair[:, 0] - pair[:, 1]).mean(axis=(1, 2, 3)), rtol=1e-5)
