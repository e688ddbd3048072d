"""The models: parameter counts, weights taken from an autoencoder, finished files, the training twin, faster layers."""

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers
from skimage import metrics

import common
import recipes
import resume
import train_cnn
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


@pytest.fixture(scope="module")
def autoencoder():
    return shake(built("autoencoder"))


@pytest.fixture(scope="module")
def cnn():
    return shake(built("cnn"))


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def trainable(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


# --- Layers ---


def test_parameters_of_the_cnn_and_the_autoencoder(cnn, autoencoder):
    assert (cnn.count_params(), trainable(cnn)) == (2_170_378, 2_170_122)
    assert (autoencoder.count_params(), trainable(autoencoder)) == (4_070_019, 4_065_411)


@pytest.mark.parametrize(
    ("name", "parameters", "left", "taken"),
    [("autoencoder_cls", 2_090_122, 1_826_634, 8), ("mod_autoencoder_cls", 10_162_698, 8_422_602, 14)],
)
def test_classifiers_take_and_freeze_the_encoder_by_name(autoencoder, name, parameters, left, taken):
    model = built(name)
    before = {layer.name: layer.get_weights() for layer in model.layers}
    until = recipes.RECIPES[name].frozen_until
    names = common.take_weights(model, autoencoder, until)
    assert common.freeze(model, until) == names
    assert (model.count_params(), trainable(model)) == (parameters, left)
    expected = [
        f"block{b}_{kind}{i}"
        for b, depth in ((1, 2), (2, 2), (3, 3))
        for i in range(1, depth + 1)
        for kind in ("conv", "norm")
    ]
    assert names == expected[:taken]
    for layer in model.layers:
        source = autoencoder.get_layer(layer.name).get_weights() if layer.name in names else before[layer.name]
        assert all(np.array_equal(a, b) for a, b in zip(layer.get_weights(), source, strict=True))
        if layer.weights:
            assert layer.trainable == (layer.name not in names)


def convolutions(names, filters=4):
    x = image = keras.Input((8, 8, 3))
    for name in names:
        x = layers.Conv2D(filters, 3, padding="same", name=name)(x)
    return keras.Model(image, x)


@pytest.mark.parametrize(
    ("names", "filters", "sentence"), [(["one", "other", "three"], 4, "'two'"), (["one", "two"], 5, "'one'")]
)
def test_a_layer_that_is_missing_or_of_another_shape_is_named(names, filters, sentence):
    with pytest.raises(InputError, match=sentence) as refusal:
        common.take_weights(convolutions(["one", "two"]), convolutions(names, filters), "two")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "parameters", "left"),
    [
        ("cnn_fast", 1_973_920, 1_971_328),
        ("autoencoder_cls_fast", 1_973_920, 1_182_720),
        ("cnn_elu", 420_842, 419_818),
        ("cnn_leaky", 1_084_234, 1_084_234),
        ("cnn_pool3", 1_116_170, 1_116_170),
        ("cnn_wide5", 4_361_738, 4_361_738),
        ("cnn_dropout", 6_417_034, 6_416_778),
        ("autoencoder_cae", 725_059, 723_267),
        ("autoencoder_cls_cae", 708_842, 419_402),
    ],
)
def test_parameters_of_the_documents_networks(name, parameters, left):
    model = built(name)
    if recipes.RECIPES[name].frozen_until:
        common.freeze(model, recipes.RECIPES[name].frozen_until)
    assert (model.count_params(), trainable(model)) == (parameters, left)


def test_the_convolutional_autoencoder_in_two_halves():
    model = built("autoencoder_cae")
    names = [layer.name for layer in model.layers]
    halves = model.layers[: names.index("code")], model.layers[names.index("code") :]
    assert [sum(layer.count_params() for layer in half) for half in halves] == [288_800, 436_259]
    assert model.get_layer("code").output.shape == (None, 8, 8, 128)
    assert kinds("autoencoder_cae") == (
        " MaxPooling2D Dropout-0.2 ".join(cae_block(width) for width in (32, 64, 128)) + " Dropout-0.2 "
        f"ActivityRegularization {cae_block(128)} {cae_block(64)} UpSampling2D {cae_block(32)} UpSampling2D "
        "Conv2D-3-3-sigmoid"
    )


def test_the_classifier_on_the_convolutional_autoencoder_s_code():
    encoder = kinds("autoencoder_cae").split(" ActivityRegularization")[0]
    assert kinds("autoencoder_cls_cae") == (
        f"{encoder} ActivityRegularization Conv2D-128-3 BatchNormalization MaxPooling2D Flatten "
        "Dense-128-relu BatchNormalization Dense-64-relu BatchNormalization Dense-10-softmax"
    )
    model, autoencoder = built("autoencoder_cls_cae"), built("autoencoder_cae")
    assert common.take_weights(model, autoencoder, "code") == [
        f"block{block}_{kind}{layer}" for block in (1, 2, 3) for layer in (1, 2) for kind in ("conv", "norm")
    ]


def cae_block(width):
    return " ".join([f"Conv2D-{width}-3-relu BatchNormalization"] * 2)


@pytest.mark.parametrize(
    ("name", "network", "expected"),
    [
        ("autoencoder_cae", {"blocks": 1}, "block1_pool decoder1_upsample code:16x16x32"),
        ("autoencoder_cae", {"blocks": 4, "first_width": 8}, "code:8x8x64"),
        (
            "autoencoder_cae",
            {"layers_per_block": 1, "batch_norm": False},
            "-block1_conv2 -block1_norm1 -decoder1_norm1",
        ),
        ("autoencoder_cae", {"dropout": 0.0}, "-block1_dropout"),
        ("autoencoder_cae", {"input_noise": 0.1, "hidden_noise": 0.2}, "input_noise block1_noise block3_noise"),
        ("autoencoder_cls_cae", {"pooling": "average"}, "average -flatten dense1:128"),
        ("autoencoder_cls_cae", {"pooling": "max", "dense": False}, "max -dense1 -norm2 norm1"),
        ("autoencoder_cls_cae", {"head_batch_norm": False, "head_dropout": 0.5}, "-norm1 -norm3 dropout1 dropout2"),
    ],
)
def test_settings_of_the_network(name, network, expected):
    model = built(name, **network)
    shapes = {layer.name: "x".join(map(str, layer.output.shape[1:])) for layer in model.layers}
    for word in expected.split():
        layer, _, shape = word.lstrip("-").partition(":")
        assert (layer in shapes) == (word[0] != "-"), word
        assert not shape or shapes[layer] == shape
    assert model.output_shape[1:] == ((32, 32, 3) if name == "autoencoder_cae" else (10,))
    assert np.isfinite(numpy(model(PICTURES))).all()


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_penalties_are_those_of_their_formulas(precision):
    """Of every hidden convolution's kernel, and of the code, the latter a picture's, on average over the batch."""
    model = built("autoencoder_cae", kernel_l2=1e-3, activity_l1=1e-4)
    whole, _ = training_model.training_model(model, common.Augmentation(), precision, "augmented")
    whole(PICTURES, training=False)
    found = sorted(float(loss) for loss in whole.losses)
    kernels = [layer.get_weights()[0] for layer in model.layers[:-1] if isinstance(layer, layers.Conv2D)]
    code = numpy(keras.Model(model.input, model.get_layer("code").output)(PICTURES))
    expected = [*(1e-3 * np.square(kernel).sum() for kernel in kernels), 1e-4 * np.abs(code).sum() / len(code)]
    assert len(expected) == 13
    assert np.allclose(found, sorted(expected), rtol=1e-4 if precision == "float32" else 0.01)


def kinds(name):
    """The layers of a network in a line: kind, with width and activation or with rate where it has one."""
    words = []
    for layer in built(name).layers[2:]:
        width = getattr(layer, "filters", None) or getattr(layer, "units", None)
        activation = getattr(getattr(layer, "activation", None), "__name__", "linear")
        rate = getattr(layer, "rate", None) or getattr(layer, "negative_slope", None)
        parts = [type(layer).__name__, width, *getattr(layer, "kernel_size", ())[:1], rate]
        words.append(
            "-".join(str(part) for part in parts if part) + ("" if activation == "linear" else f"-{activation}")
        )
    return " ".join(words)


def test_layers_of_the_documents_networks():
    pool = "MaxPooling2D"
    elu = " ".join(
        f"{2 * f'Conv2D-{width}-3 BatchNormalization ELU '}{pool} Dropout-{rate}"
        for width, rate in ((32, 0.2), (64, 0.2), (128, 0.3))
    )
    assert kinds("cnn_elu").replace("-elu", "") == (
        f"{elu} Flatten Dense-64 BatchNormalization ELU Dropout-0.3 Dense-10-softmax"
    )
    leaky = "LeakyReLU-0.1"
    assert kinds("cnn_leaky") == (
        f"Conv2D-16-3-relu {leaky} Conv2D-32-3 {leaky} {pool} Dropout-0.25 "
        f"Conv2D-32-3 {leaky} Conv2D-64-3 {leaky} {pool} Dropout-0.25 "
        f"Flatten Dense-256 {leaky} Dropout-0.5 Dense-10 {leaky} Softmax"
    )
    dense = "Flatten Dense-1024-relu Dense-10-softmax"
    assert kinds("cnn_pool3") == " ".join(f"Conv2D-{width}-3-relu {pool}" for width in (32, 64, 64)) + f" {dense}"
    assert kinds("cnn_wide5") == f"Conv2D-32-5-relu Conv2D-64-5-relu {pool} Conv2D-64-5-relu {pool} {dense}"
    assert kinds("cnn_dropout") == (
        f"Conv2D-128-3-relu Conv2D-128-3-relu BatchNormalization {pool} Dropout-0.3 "
        f"Conv2D-256-3-relu Conv2D-256-3-relu {pool} Dropout-0.3 Conv2D-512-3-relu {pool} Dropout-0.3 "
        "Flatten Dense-512-relu Dropout-0.3 Dense-10-softmax"
    )


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_finished_models_are_stock_float32_and_take_pictures_as_they_are(name):
    model = built(name)
    assert all(type(layer).__module__.split(".")[0] == "keras" for layer in model.layers)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    rescalings = [layer.name for layer in model.layers if isinstance(layer, layers.Rescaling)]
    assert rescalings == ["rescale", *(["soften"] if name in ("cnn_fast", "autoencoder_cls_fast") else [])]
    assert model.input_shape == (None, 32, 32, 3)
    autoencoder = recipes.model_of(name) == "autoencoder"
    assert model.output_shape == ((None, 32, 32, 3) if autoencoder else (None, 10))
    rescaled = keras.Model(model.input, model.get_layer("rescale").output)(PICTURES)
    scaled = {"cnn_leaky": PICTURES / 255 - 0.5}
    scaled |= dict.fromkeys(("cnn_fast", "autoencoder_fast", "autoencoder_cls_fast"), (PICTURES - 120.7) / 64)
    scaled |= dict.fromkeys(("cnn_pool3", "cnn_wide5", "cnn_dropout"), PICTURES)
    assert np.allclose(numpy(rescaled), scaled.get(name, PICTURES / 255), atol=1e-6)
    out = numpy(model(PICTURES))
    assert out.min() >= 0
    assert out.max() <= 1
    if not autoencoder:
        assert np.allclose(out.sum(axis=1), 1, atol=1e-5)


def test_finished_file_opens_where_this_project_is_not(cnn, tmp_path):
    cnn.save(tmp_path / "cnn.keras")
    np.save(tmp_path / "pictures.npy", PICTURES)
    code = (
        "import sys, keras, numpy as np\n"
        "model = keras.saving.load_model('cnn.keras')\n"
        "np.save('probabilities.npy', model.predict(np.load('pictures.npy'), verbose=0))\n"
        "assert not {'common', 'recipes', 'training', 'util'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    assert np.allclose(np.load(tmp_path / "probabilities.npy"), numpy(cnn(PICTURES)), atol=1e-5)


@pytest.mark.parametrize("name", ["epochs", "batch-size", "learning-rate"])
def test_help_names_the_recipes_defaults(name, capsys):
    with pytest.raises(SystemExit):
        train_cnn.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    (number,) = re.findall(rf" --{name} [A-Z]+ [^()]+ \(default: ([\d.]+)\)", words)
    found = {model: getattr(recipes.RECIPES[model].settings, name.replace("-", "_")) for model in recipes.MODELS}
    autoencoder = found.pop("autoencoder")
    assert set(found.values()) == {float(number)}
    assert autoencoder == float(number) or f"--{name} {name.upper()} epochs at most; of the autoencoder 100 (" in words


def test_help_says_when_early_stopping_ends_a_training(capsys):
    with pytest.raises(SystemExit):
        train_cnn.main(["--help"])
    assert "before training stops (unset: never); of the autoencoder 15" in " ".join(capsys.readouterr().out.split())
    assert {recipes.RECIPES[model].settings.patience for model in recipes.MODELS} == {None, 15}
    assert recipes.RECIPES["autoencoder"].settings.patience == 15


# --- The training twin ---


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 0.05)])
def test_training_model_predicts_as_the_finished_one(cnn, precision, tolerance):
    whole, core = training_model.training_model(cnn, RANGES, precision)
    expected = numpy(cnn(PICTURES))
    found = whole(PICTURES, training=False)
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert np.abs(numpy(found) - expected).max() < tolerance
    assert expected.std() > 0.02  # the tolerance means something
    assert core.get_layer("conv1").compute_dtype == ("float32" if precision == "float32" else "bfloat16")
    assert {str(keras.backend.standardize_dtype(weight.dtype)) for weight in core.trainable_weights} == {"float32"}


def test_training_model_keeps_what_is_frozen():
    model = built("autoencoder_cls")
    frozen = common.freeze(model, "block2_norm2")
    whole, core = training_model.training_model(model, RANGES, "float32")
    assert trainable(whole) == trainable(model) - 2 * 64  # the biases that normalisation cancels
    assert not any(core.get_layer(name).trainable for name in frozen)


def biases(core):
    return {layer.name: layer.use_bias for layer in core.layers if hasattr(layer, "kernel")}


def test_training_model_does_without_biases_that_normalisation_cancels(cnn):
    def core_of(model):
        return training_model.training_model(model, RANGES, "float32")[1]

    def without(model):
        return {name for name, there in biases(core_of(model)).items() if not there}

    assert without(built("cnn")) == {"conv1", "conv2"}
    assert without(built("cnn_elu")) == {*(f"block{b}_conv{i}" for b in (1, 2, 3) for i in (1, 2)), "dense1"}
    assert without(cnn) == set()  # they hold a value already, so they must count
    assert all(biases(core_of(built("autoencoder"))).values())  # a ReLU stands between
    frozen = built("cnn")
    frozen.get_layer("norm1").trainable = False
    assert without(frozen) == {"conv2"}


def test_a_bias_that_a_branch_needs_stays():
    image = keras.Input(common.IMAGE_SHAPE, name="image")
    first = keras.layers.Conv2D(2, 3, name="first")(image)
    second = keras.layers.Conv2D(2, 3, padding="same", name="second")(keras.layers.BatchNormalization()(first))
    joined = keras.layers.Add()([first, keras.layers.BatchNormalization()(second)])
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(joined))
    whole, core = training_model.training_model(model, RANGES, "float32")
    assert biases(core) == {"first": True, "second": False}
    shake(core)
    training_model.copy_weights(model, core)
    assert np.allclose(numpy(model(PICTURES)), numpy(whole(PICTURES, training=False)), rtol=1e-4, atol=1e-4)


def test_weights_come_back_from_a_training_model_without_biases():
    model = built("cnn")
    whole, core = training_model.training_model(model, RANGES, "float32")
    shake(core)
    training_model.copy_weights(model, core)
    assert np.allclose(numpy(model(PICTURES)), numpy(whole(PICTURES, training=False)), atol=1e-5)
    assert not model.get_layer("conv1").get_weights()[1].any()


@pytest.mark.parametrize("target", ["augmented", "original"])
def test_autoencoder_trains_on_pairs_of_reconstruction_and_target(autoencoder, target):
    whole, _ = training_model.training_model(autoencoder, RANGES, "float32", target)
    pair = numpy(whole(PICTURES, training=False))
    assert pair.shape == (6, 2, 32, 32, 3)
    assert np.allclose(pair[:, 0], numpy(autoencoder(PICTURES)), atol=1e-4)
    assert np.allclose(pair[:, 1], PICTURES / 255, atol=1e-6)
    goal = numpy(whole(PICTURES, training=True))[:, 1]
    assert np.allclose(goal, PICTURES / 255, atol=1e-6) == (target == "original")
    assert goal.max() <= 1


def test_augmented_target_is_what_the_autoencoder_sees(autoencoder):
    whole, core = training_model.training_model(autoencoder, RANGES, "float32", "augmented")
    resume.seed_layers(whole, core, 0, 1, 0)
    goal = numpy(whole(PICTURES, training=True))[:, 1]
    resume.seed_layers(whole, core, 0, 1, 0)
    seen = numpy(whole.get_layer("augment")(PICTURES, training=True))
    assert np.allclose(goal, seen / 255, atol=1e-6)


def test_error_and_psnr_are_those_of_scikit_image():
    random = np.random.default_rng(0)
    pair = random.uniform(0, 1, (5, 2, 32, 32, 3)).astype("float32")
    pair[:, 1] = pair[:, 0] + random.normal(0, 0.1, pair[:, 0].shape) * np.arange(1, 6).reshape(5, 1, 1, 1)
    errors = [metrics.mean_squared_error(one, other) for one, other in pair]
    ratios = [metrics.peak_signal_noise_ratio(one, other, data_range=1.0) for one, other in pair]
    assert np.allclose(numpy(training_model.reconstruction_loss("mean_squared_error")(None, pair)), errors, rtol=1e-5)
    assert np.allclose(numpy(training_model.psnr(None, pair)), ratios, atol=1e-4)
    absolute = np.abs(pair[:, 0] - pair[:, 1]).mean(axis=(1, 2, 3))
    loss = training_model.reconstruction_loss("mean_absolute_error")
    assert np.allclose(numpy(loss(None, pair)), absolute, rtol=1e-5)
    equal = np.stack([pair[:, 0], pair[:, 0]], axis=1)
    assert np.all(np.isfinite(numpy(training_model.psnr(None, equal))))
