"""The layers that training uses in place of Keras's: the same function, with Keras's own as oracle."""

import math

import keras
import numpy as np
import pytest
import scipy.special
from keras import layers

if keras.backend.backend() != "tensorflow":
    pytest.skip("the kernels are TensorFlow's", allow_module_level=True)

import tensorflow as tf

import bench
import common
import kernels
import optimizers
import recipes
import training
import training_model
from util import hardware


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def results(function, inputs, variables=(), mean=0.0):
    """Outputs of `function`; gradients by `inputs` and `variables` of a randomly weighted sum of outputs."""
    inputs = tf.constant(inputs)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
        upstream = np.random.default_rng(3).normal(mean, 1, outputs.shape)
        total = tf.reduce_sum(tf.cast(outputs, tf.float32) * tf.constant(upstream, tf.float32))
    return [numpy(tf.cast(tensor, tf.float32)) for tensor in (outputs, *tape.gradient(total, [inputs, *variables]))]


def assert_equal(found, expected, tolerance=1e-5):
    """Equal but for rounding, which is relative to the largest value."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


def pictures(*shape):
    return np.random.default_rng(0).normal(2, 3, shape).astype("float32")


def with_weights(kind, shape, **options):
    """A layer whose weights are random, none of them at its initial value."""
    layer = kind(**options)
    layer.build(shape)
    random = np.random.default_rng(4)
    layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    return layer


# --- Batch normalisation ---


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 2e-5), ("mixed_bfloat16", 0.02)])
@pytest.mark.parametrize("options", [{}, {"scale": False}])
@pytest.mark.parametrize(("trainable", "training"), [(True, True), (True, False), (False, True), (True, None)])
def test_batch_normalisation_its_gradients_and_its_statistics_are_keras_s_own(
    trainable, training, options, dtype, tolerance
):
    few = pictures(2, 2, 2, 5)  # eight values a channel: n / (n - 1) counts
    pair = []
    for kind in (kernels.BatchNormalization, layers.BatchNormalization):
        layer = with_weights(kind, few.shape, momentum=0.9, dtype=dtype, **options)
        layer.trainable = trainable
        before = layer.get_weights()
        assert keras.backend.standardize_dtype(layer(few).dtype) == dtype.removeprefix("mixed_")
        variables = [layer.beta.value] if options else [layer.gamma.value, layer.beta.value]
        found = results(lambda x, layer=layer: layer(x, training=training) ** 2, few, variables)
        found += results(lambda x, layer=layer: layer(x, training=training) ** 2, 2 * few + 1)  # statistics moved
        moved = [not np.array_equal(*both) for both in zip(before, layer.get_weights(), strict=True)]
        assert moved[-2:] == [bool(trainable and training)] * 2 and not any(moved[:-2])
        pair.append([*found, *layer.get_weights()])
    assert_equal(*pair, tolerance)


# --- Convolutions ---


@pytest.mark.parametrize("size", [(8, 8), (4, 7), (1, 1)])
def test_a_small_convolution_and_its_gradients_are_keras_s_own(size):
    inputs, options = pictures(3, *size, 6) - 2, {"filters": 5, "kernel_size": 3, "padding": "same"}
    pair = [
        with_weights(kind, inputs.shape, **options, activation="relu") for kind in (kernels.SmallConv2D, layers.Conv2D)
    ]
    assert_equal(*(results(layer, inputs, [w.value for w in layer.trainable_weights]) for layer in pair))


@pytest.mark.parametrize("use_bias", [True, False])
def test_a_small_convolution_rounds_no_worse_in_bfloat16_than_keras_s_own(use_bias):
    inputs, options = pictures(64, 8, 8, 16), {"filters": 8, "kernel_size": 3, "padding": "same", "use_bias": use_bias}
    found = []
    for kind, dtype in (
        (kernels.SmallConv2D, "mixed_bfloat16"),
        (layers.Conv2D, "mixed_bfloat16"),
        (layers.Conv2D, "float32"),
    ):
        layer = with_weights(kind, inputs.shape, **options, dtype=dtype)
        step = tf.function(lambda x, layer=layer: layer(x))  # as in training, where TensorFlow fuses what it can
        found.append(results(step, inputs, [w.value for w in layer.trainable_weights], mean=0.3))
    for ours, keras_own, exact in zip(*found, strict=True):
        error, allowed = (np.linalg.norm(one - exact) / np.linalg.norm(exact) for one in (ours, keras_own))
        assert error < max(1.5 * allowed, 0.005)


# --- The first block ---


def network_of_four(channels=3, relu=None, pool=None, branch=False, **convolution):
    """A convolution, its normalisation, pooling and ReLU, with random weights."""
    image = keras.Input((9, 6, channels), name="image")
    x = layers.Conv2D(**{"filters": 5, "kernel_size": 3, "padding": "same", "name": "convolution"} | convolution)(image)
    normalised = layers.BatchNormalization(momentum=0.9, name="norm")(x)
    x = (pool or layers.MaxPooling2D())(normalised)
    x = (relu or layers.ReLU())(x)
    if branch:
        x = layers.Concatenate()([x, layers.MaxPooling2D()(normalised)])
    model = keras.Model(image, x)
    random = np.random.default_rng(4)
    for layer in model.layers:
        layer.set_weights([random.uniform(0.5, 2, weight.shape) for weight in layer.get_weights()])
    norm = model.get_layer("norm")
    norm.set_weights([norm.get_weights()[0] * [1, -1, 1, -1, 1], *norm.get_weights()[1:]])  # gamma of both signs
    return model


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(("trainable", "training"), [(True, True), (True, False), (False, True)])
def test_a_first_block_its_gradients_and_its_statistics_are_keras_s_own(trainable, training, use_bias, channels):
    model = network_of_four(channels, use_bias=use_bias)
    model.get_layer("norm").trainable = trainable
    twin = training_model.fast_twin(model, "float32")
    assert type(twin.get_layer("convolution")) is kernels.FirstBlock
    inputs, pair = pictures(4, 9, 6, channels), []
    for one in (twin, model):
        weights = [weight for weight in one.trainable_weights if not (training and trainable and "bias" in weight.path)]
        found = results(lambda x, one=one: one(x, training=training), inputs, [weight.value for weight in weights])
        pair.append([*found, *one.get_layer("norm").get_weights()])
    assert len(pair[0]) == len(pair[1]) == 7 + 2 * trainable + (use_bias and not (trainable and training))
    assert_equal(*pair, 2e-5)


@pytest.mark.parametrize("mean", [0, 0.3])  # of the gradient that comes in
def test_a_first_block_rounds_little_worse_in_bfloat16_than_keras_s_own(mean):
    model, found = network_of_four(use_bias=False), []
    kernel = np.random.default_rng(6).normal(0, 1, (3, 3, 3, 5))
    model.get_layer("convolution").set_weights([kernel - kernel.mean(axis=(0, 1, 2))])  # of differences
    stock = keras.models.clone_model(
        model, clone_function=lambda one: type(one).from_config(one.get_config() | {"dtype": "mixed_bfloat16"})
    )
    stock.set_weights(model.get_weights())
    inputs = pictures(64, 9, 6, 3) + 10  # would show the sum of the rounding errors of a kernel
    for one in (training_model.fast_twin(model, "mixed_bfloat16"), stock, model):
        step = tf.function(lambda x, one=one: one(x, training=True))
        found.append(results(step, inputs, [weight.value for weight in one.trainable_weights], mean))
        found[-1] += one.get_layer("norm").get_weights()
    for ours, keras_own, exact in zip(*found, strict=True):
        error, allowed = (np.linalg.norm(one - exact) / np.linalg.norm(exact) for one in (ours, keras_own))
        assert error < max(1.5 * allowed, 0.01)


@pytest.mark.parametrize("trainable", [True, False])
def test_precise_statistics_of_a_first_block_are_keras_s_own(trainable):
    model, pair = network_of_four(), []
    model.get_layer("norm").trainable = trainable
    before = model.get_layer("norm").get_weights()
    for one in (training_model.fast_twin(model, "float32"), model):
        training.PreciseBatchNorm(one, pictures(1000, 9, 6, 3)).update_statistics()
        pair.append(one.get_layer("norm").get_weights())
    assert_equal(*pair, 2e-5)
    assert np.array_equal(pair[0][3], before[3]) != trainable


@pytest.mark.parametrize(
    "other",
    [
        {"relu": layers.ReLU(6)},
        {"relu": layers.ReLU(0)},
        {"relu": layers.LeakyReLU()},
        {"pool": layers.MaxPooling2D(3)},
        {"pool": layers.MaxPooling2D(padding="same")},
        {"pool": layers.AveragePooling2D(2)},
        {"activation": "relu"},
        {"activity_regularizer": "l2"},
        {"kernel_size": 5},
        {"strides": 2},
        {"channels": 8},
        {"branch": True},
    ],
    ids=str,
)
def test_another_beginning_is_no_first_block(other):
    model = network_of_four(**other)
    assert set(kernels.fastest(model, in_bfloat16=False).values()) == {kernels.BatchNormalization}


# --- SiLU ---


@pytest.mark.parametrize(("dtype", "error"), [("float32", 1e-6), ("bfloat16", 2**-8)])
def test_silu_and_its_gradient_are_those_of_the_definition(dtype, error):
    inputs = np.linspace(-12, 12, 2001)
    found = results(kernels.SiLU("silu", dtype=dtype), tf.constant(inputs, dtype))
    inputs = numpy(tf.cast(tf.constant(inputs, dtype), tf.float64))
    upstream = np.random.default_rng(3).normal(0, 1, inputs.shape)
    gate = scipy.special.expit(inputs)
    expected = inputs * gate, upstream * gate * (1 + inputs * (1 - gate))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2 * error, atol=error)


# --- Adam ---


def test_adam_moves_as_keras_s_does():
    start, random = pictures(6, 5), np.random.default_rng(5)
    pair = [(kind(0.01), keras.Variable(start)) for kind in (kernels.Adam, keras.optimizers.Adam)]
    for step in range(20):
        gradient = random.normal(size=start.shape).astype("float32") * 10.0 ** (step % 3 - 2)
        for optimizer, variable in pair:
            optimizer.learning_rate = 0.01 if step < 10 else 0.003
            optimizer.apply([tf.constant(gradient)], [variable])
    (ours, one), (keras_own, other) = pair
    assert np.abs(numpy(other) - start).max() > 0.05
    assert_equal([numpy(one) - start], [numpy(other) - start], 1e-4)  # of numbers to 10, in float32
    assert len(ours.variables) == len(keras_own.variables)
    for mine, theirs in zip(ours.variables, keras_own.variables, strict=True):
        assert np.allclose(numpy(mine), numpy(theirs), rtol=1e-4)


@pytest.mark.parametrize(("config", "ours"), [({}, True), ({"beta_1": 0.8}, True), ({"amsgrad": True}, False)])
def test_adam_is_used_where_it_computes_the_same(config, ours):
    chosen = recipes.OptimizerConfig(class_name="Adam", config=config)
    optimizer = optimizers.new_optimizer(recipes.Settings(optimizer=chosen))
    assert isinstance(optimizer, kernels.Adam) == ours


# --- Where they are used ---


def test_the_fast_networks_layers_get_theirs():
    model = bench.new_model("cnn_fast")
    names = {"BatchNormalization": set(), "SmallConv2D": set(), "SiLU": set()}
    for name, kind in kernels.fastest(model, in_bfloat16=True).items():
        names[kind.__name__].add(name)
    each = [f"{block}_{{}}{layer}" for block in ("block1", "block2", "block3") for layer in (1, 2)]
    assert names["BatchNormalization"] == {name.format("norm") for name in each}
    assert names["SiLU"] == {"silu", *(name.format("silu") for name in each)}
    assert names["SmallConv2D"] == {"block2_conv2", "block3_conv1", "block3_conv2"}  # of pictures of 8x8 and less
    assert set(kernels.fastest(model, in_bfloat16=False).values()) == {kernels.BatchNormalization}


def test_the_cnn_begins_with_a_first_block():
    found = kernels.fastest(bench.new_model("cnn"), in_bfloat16=True)
    assert list(found) == ["conv1", "norm1", "pool1", "relu1", "norm2"]
    assert (found["conv1"], found["norm2"]) == (kernels.FirstBlock, kernels.BatchNormalization)


def test_only_what_is_known_to_be_the_same_is_replaced():
    image = keras.Input((8, 8, 4))
    x = layers.DepthwiseConv2D(3, padding="same")(image)
    for options in ({"axis": 1}, {"axis": 2}, {"center": False}, {"renorm": True}):
        x = layers.BatchNormalization(**options)(x)
    x = layers.Conv2D(4, 3, padding="same", strides=2)(x)
    x = layers.UpSampling2D(3)(x)
    x = layers.Conv2D(4, 3, padding="valid")(x)
    x = layers.Conv2D(4, 5, padding="same")(x)
    x = layers.Conv2D(4, 3, padding="same", dilation_rate=2)(x)
    x = layers.Conv2D(4, 3, padding="same", groups=2)(x)
    x = layers.Conv2D(4, 3, padding="same")(x)  # of 10x10
    x = layers.Activation("gelu")(x)
    x = layers.BatchNormalization()(layers.Flatten()(x))
    assert kernels.fastest(keras.Model(image, x), in_bfloat16=True) == {}


def small_network(x, classes):
    """A layer for each kernel, and a frozen part below; of a classifier, or of an autoencoder without classes."""
    x = layers.Conv2D(6, 5, strides=4, padding="same", name="first")(x)
    x = layers.BatchNormalization(name="first_norm")(x)
    x = layers.Activation("silu", name="first_silu")(x)
    x = layers.Conv2D(5, 3, padding="same", name="small")(x)
    x = layers.BatchNormalization(scale=False, name="norm")(x)
    x = layers.Activation("silu", name="silu")(x)
    if classes is None:
        return layers.Conv2DTranspose(3, 5, strides=4, padding="same", activation="sigmoid", name="reconstruction")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.Flatten(name="flatten")(x))


@pytest.fixture
def for_bfloat16(monkeypatch):
    """As if the processor had been made for bfloat16."""
    monkeypatch.setattr(hardware, "processor_has_bfloat16", lambda: "avx512_bf16")


@pytest.mark.parametrize("classes", [10, None])
def test_a_twin_with_all_kernels_computes_what_the_network_computes(classes, for_bfloat16, monkeypatch):
    """Output and every gradient, in float32, so that rounding hides nothing."""
    model = common.finished_model(small_network, recipes.Settings(), classes, "small")
    fastest = kernels.fastest
    monkeypatch.setattr(kernels, "fastest", lambda model, in_bfloat16: fastest(model, True))
    twin = training_model.fast_twin(model, "float32")
    ours = {type(layer) for layer in twin.layers if type(layer).__module__ == "kernels"}
    assert ours == {kernels.BatchNormalization, kernels.SmallConv2D, kernels.SiLU}
    inputs = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    paths = [weight.path for weight in twin.trainable_weights]  # without biases that normalisation cancels
    variables = [[w.value for w in m.trainable_weights if w.path in paths] for m in (twin, model)]
    assert len(variables[0]) == len(variables[1]) == 7
    found, expected = (
        results(lambda x, m=m: m(x, training=True), inputs, v) for m, v in zip((twin, model), variables, strict=True)
    )
    assert_equal(found, expected, 2e-4)


# --- What a step computes ---


def those_that_run(graph):
    """Operations of a function that its results or its effects need; TensorFlow leaves out the others."""
    waiting, needed = [*graph.control_outputs, *(tensor.op for tensor in graph.outputs)], set()
    while waiting:
        operation = waiting.pop()
        if operation not in needed:
            needed.add(operation)
            waiting += [*operation.control_inputs, *(tensor.op for tensor in operation.inputs)]
    return needed


def multiply_adds(operation):
    """Multiply-adds of an operation of a graph: 0 but for matrix products, convolutions and their gradients."""
    shapes = [tensor.shape for tensor in (*operation.inputs, *operation.outputs)]
    match operation.type, shapes:
        case "MatMul", (left, _, product):
            return math.prod(product) * left[0 if operation.get_attr("transpose_a") else 1]
        case "Conv2D", (_, kernel, outputs):
            return math.prod(outputs[:3]) * math.prod(kernel)
        case "Conv2DBackpropInput", (_, kernel, upstream, _):
            return math.prod(upstream[:3]) * math.prod(kernel)
        case "Conv2DBackpropFilter", (_, _, upstream, kernel):
            return math.prod(upstream[:3]) * math.prod(kernel)
    return 0


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize(("classes", "frozen"), [(10, None), (10, "first_norm"), (None, None)])
def test_a_step_multiplies_as_often_as_the_benchmark_counts(classes, frozen, precision, for_bfloat16):
    """So nothing is computed twice, and frozen layers cost no gradient."""
    settings = recipes.RECIPES["cnn" if classes else "autoencoder"].settings
    model = common.finished_model(small_network, settings, classes, "small")
    if frozen:
        common.freeze(model, frozen)
    target = None if classes else "augmented"
    whole, _ = training_model.training_model(model, settings.augmentation, precision, target)
    training_model.compile_model(whole, keras.optimizers.SGD(), settings)
    batch = np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64)
    step = tf.function(lambda: whole.train_step(batch)).get_concrete_function()
    assert sum(2 * multiply_adds(one) for one in those_that_run(step.graph)) == bench.operations(model, 4)
