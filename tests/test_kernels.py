"""The layers and the optimizer that training uses instead of Keras's: the same function, Keras's own as oracle."""

import math

import keras
import numpy as np
import pytest
import scipy.special
from keras import layers

if keras.backend.backend() != "tensorflow":
    pytest.skip("the fast layers are TensorFlow's", allow_module_level=True)

import tensorflow as tf

import bench
import common
import kernels
import optimizers
import recipes
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


def assert_equal(found, expected):
    """Equal but for the rounding of float32 sums."""
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert np.abs(one - other).max() < 1e-5 * np.abs(other).max()


def pictures(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


# --- Batch normalisation ---

FEW = np.random.default_rng(1).normal(2, 3, (2, 2, 2, 5)).astype("float32")  # 8 values a channel: n / (n - 1) counts


def pair_of_layers(trainable=True, dtype="float32"):
    """The fused layer and Keras's own with the same weights, none of them at its initial value."""
    pair = [kind(dtype=dtype, momentum=0.9) for kind in (kernels.BatchNormalization, layers.BatchNormalization)]
    random = np.random.default_rng(2)
    weights = [random.uniform(0.5, 2, 5).astype("float32") for _ in range(4)]
    for layer in pair:
        layer.build(FEW.shape)
        layer.set_weights(weights)
        layer.trainable = trainable
    return pair


def outputs_and_gradients(layer, inputs, training):
    inputs = tf.constant(inputs)
    upstream = tf.constant(np.random.default_rng(3).normal(size=inputs.shape), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out = layer(inputs, training=training)
        loss = tf.reduce_sum(tf.cast(out, tf.float32) ** 2 * upstream)
    return [out, *tape.gradient(loss, [inputs, layer.gamma.value, layer.beta.value])]


@pytest.mark.parametrize(("trainable", "training"), [(True, True), (True, False), (False, True), (True, None)])
def test_fused_normalisation_is_keras_s_own(trainable, training):
    ours, keras_own = pair_of_layers(trainable)
    for found, expected in zip(
        outputs_and_gradients(ours, FEW, training), outputs_and_gradients(keras_own, FEW, training), strict=True
    ):
        scale = np.abs(numpy(expected)).max()
        assert np.allclose(numpy(found), numpy(expected), atol=2e-5 * scale)
    for found, expected in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        assert np.allclose(found, expected, rtol=1e-5)


def test_fused_statistics_move_as_keras_s_do():
    ours, keras_own = pair_of_layers()
    start = ours.get_weights()
    for inputs in (FEW, 2 * FEW + 1):
        ours(inputs, training=True)
        keras_own(inputs, training=True)
    for before, found, expected in zip(start[2:], ours.get_weights()[2:], keras_own.get_weights()[2:], strict=True):
        assert np.abs(found - before).max() > 0.1
        assert np.allclose(found, expected, rtol=1e-5)


def test_fused_statistics_stay_where_the_layer_is_frozen_or_only_used():
    for trainable, learning in ((False, True), (True, False)):
        ours, _ = pair_of_layers(trainable)
        start = ours.get_weights()
        ours(FEW, training=learning)
        assert all(np.array_equal(a, b) for a, b in zip(start, ours.get_weights(), strict=True))


@pytest.mark.parametrize("training", [True, False])
def test_fused_normalisation_in_mixed_precision(training):
    ours, keras_own = pair_of_layers(dtype="mixed_bfloat16")
    found = ours(FEW, training=training)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    expected = keras_own(FEW, training=training)
    assert np.allclose(numpy(keras.ops.cast(found, "float32")), numpy(keras.ops.cast(expected, "float32")), atol=0.05)
    for a, b in zip(ours.get_weights(), keras_own.get_weights(), strict=True):
        assert a.dtype == np.float32
        assert np.allclose(a, b, rtol=0.01)


# --- Convolutions ---


def with_weights(kind, shape, **options):
    layer = kind(**options)
    layer.build(shape)
    random = np.random.default_rng(4)
    layer.set_weights([random.normal(size=weight.shape) for weight in layer.get_weights()])
    return layer


@pytest.mark.parametrize("size", [(8, 8), (4, 7), (1, 1)])
def test_a_small_convolution_and_its_gradients_are_keras_s_own(size):
    inputs = pictures(3, *size, 6)
    pair = [
        with_weights(kind, inputs.shape, filters=5, kernel_size=3, padding="same", activation="relu")
        for kind in (kernels.SmallConv2D, layers.Conv2D)
    ]
    ours, keras_own = (results(layer, inputs, [w.value for w in layer.trainable_weights]) for layer in pair)
    assert_equal(ours, keras_own)


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


@pytest.mark.parametrize("size", [(16, 16), (3, 5), (1, 1)])
def test_a_convolution_of_a_doubled_picture_and_its_gradients_are_keras_s_own(size):
    inputs, options = pictures(2, *size, 6), {"filters": 3, "kernel_size": 3, "padding": "same"}
    ours = with_weights(kernels.UpsampledConv2D, inputs.shape, **options, activation="sigmoid")
    keras_own = with_weights(layers.Conv2D, inputs.shape, **options, activation="sigmoid")
    doubled = results(
        lambda x: keras_own(layers.UpSampling2D()(x)), inputs, [w.value for w in keras_own.trainable_weights]
    )
    assert_equal(results(ours, inputs, [w.value for w in ours.trainable_weights]), doubled)


def test_pooling_before_relu_is_relu_before_pooling():
    inputs = np.round(pictures(4, 8, 8, 3), 1)  # with ties, and windows of negative numbers only
    pool, relu = layers.MaxPooling2D(), layers.ReLU()
    assert_equal(results(lambda x: relu(pool(x)), inputs), results(lambda x: pool(relu(x)), inputs))


# --- Dropout ---


def dropout(rate, key=1):
    layer = kernels.Dropout(rate, dtype="mixed_bfloat16")
    layer.seed_generator.state.assign([key, 7])
    return layer


@pytest.mark.parametrize("rate", [0.25, 0.3, 0.4, 0.9])
def test_dropout_drops_the_share_it_says_and_keeps_the_mean(rate):
    kept = numpy(keras.ops.cast(dropout(rate)(np.ones((1000, 1001)), training=True), "float32"))
    deviation = (rate * (1 - rate) / kept.size) ** 0.5
    assert abs((kept == 0).mean() - rate) < 4 * deviation + 2**-17
    assert len(np.unique(kept)) == 2
    assert kept.mean(dtype=np.float64) == pytest.approx(1, abs=4 * deviation / (1 - rate) + 2**-8)  # bfloat16's digits


def test_dropout_draws_each_value_apart():
    kept = numpy(keras.ops.cast(dropout(0.5)(np.ones((2, 400_000)), training=True), "float32")).ravel() > 0
    for lag in (1, 2, 3, 4, 8, 400_000):  # of which some share a drawn word, and none may share its fate
        together = (kept[lag:] == kept[:-lag]).mean()
        assert abs(together - 0.5) < 4 * 0.5 / (len(kept) - lag) ** 0.5


def test_dropout_follows_from_its_seed_and_moves_on_with_each_call():
    ones = np.ones((3, 7, 5))  # an odd number of values
    one, same, other = dropout(0.5), dropout(0.5), dropout(0.5, key=2)
    first, second = (numpy(one(ones, training=True)) for _ in range(2))
    assert np.array_equal(first, numpy(same(ones, training=True)))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, numpy(other(ones, training=True)))
    assert numpy(one.seed_generator.state).tolist() == [1, 9]


def test_dropout_passes_gradients_where_it_passed_values():
    layer = kernels.Dropout(0.5, dtype="float32")
    inputs = tf.ones((5, 9))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = layer(inputs, training=True)
    assert np.array_equal(numpy(tape.gradient(outputs, inputs)), numpy(outputs))


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_dropout_leaves_alone_what_it_must(rate, training):
    inputs = pictures(4, 5)
    assert np.array_equal(numpy(kernels.Dropout(rate, dtype="float32")(inputs, training=training)), inputs)


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
    assert_equal([numpy(one) - start], [numpy(other) - start])
    assert len(ours.variables) == len(keras_own.variables)
    for mine, theirs in zip(ours.variables, keras_own.variables, strict=True):
        assert np.allclose(numpy(mine), numpy(theirs), rtol=1e-4)


# --- Where they are used ---


def new_model(name):
    return common.finished_model(recipes.RECIPES[name].build, recipes.RECIPES[name].settings, 10, name)


def classes_of(model, in_bfloat16):
    return {name: kind.__name__ for name, kind in kernels.fastest(model, in_bfloat16).items()}


def test_each_kind_of_layer_gets_its_fast_class():
    autoencoder = new_model("autoencoder")
    found = classes_of(autoencoder, in_bfloat16=True)
    small = {f"block{b}_conv{k}" for b, depth in ((3, 3), (4, 3), (5, 2)) for k in range(1, depth + 1)}
    assert {name for name, kind in found.items() if kind == "SmallConv2D"} == small
    assert (found["block6_upsample"], found["reconstruction"]) == ("NoUpSampling2D", "UpsampledConv2D")
    assert "block5_upsample" not in found
    kinds = [type(autoencoder.get_layer(name)).__name__ for name in found]
    assert kinds.count("BatchNormalization") == 14 and kinds.count("Dropout") == 2
    assert "SmallConv2D" not in classes_of(autoencoder, in_bfloat16=False).values()


def test_the_fast_networks_layers_get_theirs():
    found = classes_of(new_model("cnn_fast"), in_bfloat16=True)
    small = {"block2_conv2", "block3_conv1", "block3_conv2"}
    assert {name for name, kind in found.items() if kind == "SmallConv2D"} == small
    silu = {"silu"} | {f"block{block}_silu{layer}" for block in (1, 2, 3) for layer in (1, 2)}
    assert {name for name, kind in found.items() if kind == "SiLU"} == silu


def test_only_what_is_known_to_be_the_same_is_replaced():
    image = keras.Input((8, 8, 4))
    x = layers.SpatialDropout2D(0.5)(image)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    for options in ({"axis": 1}, {"axis": 2}, {"center": False}, {"renorm": True}):
        x = layers.BatchNormalization(**options)(x)
    x = layers.Dropout(0.9999)(x)
    x = layers.Conv2D(4, 3, padding="same", strides=2)(x)
    x = layers.UpSampling2D(interpolation="bilinear")(x)
    x = layers.Conv2D(4, 3, padding="valid")(x)
    x = layers.UpSampling2D(3)(x)
    x = layers.Conv2D(4, 5, padding="same")(x)
    x = layers.Conv2D(4, 3, padding="same", dilation_rate=2)(x)
    x = layers.Conv2D(4, 3, padding="same", groups=2)(x)
    x = layers.Activation("gelu")(x)
    x = layers.Flatten()(x)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5, noise_shape=(None, 1))(x)
    assert kernels.fastest(keras.Model(image, x), in_bfloat16=True) == {}


KERAS_ALONE = ("cnn_wide5",)  # no layer of it has a faster twin


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_a_fast_twin_is_the_model(name, monkeypatch):
    """Output and every gradient, in float32 with all fast classes, dropout off in both.

    Rounding puts a few values on the other side of a ReLU's or a maximum's edge, so the error is taken over all values.
    """
    keras.utils.set_random_seed(4)  # on raw pixels a softmax may saturate, and leaves no gradient to compare
    model = new_model(name)
    for layer in model.layers:
        if isinstance(layer, layers.Dropout):
            layer.rate = 0.0
    monkeypatch.setattr(hardware, "processor_has_bfloat16", lambda: "avx512_bf16")
    fast = kernels.fastest
    monkeypatch.setattr(kernels, "fastest", lambda model, in_bfloat16: fast(model, True))
    twin = training_model.fast_twin(model, "float32")
    assert ("kernels" in {type(layer).__module__ for layer in twin.layers}) == (name not in KERAS_ALONE)
    inputs = np.random.default_rng(0).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    paths = {weight.path for weight in twin.trainable_weights}  # without biases that normalisation cancels
    variables = [[w.value for w in m.trainable_weights if w.path in paths] for m in (twin, model)]
    assert len(variables[0]) == len(variables[1]) > 5
    found, expected = (
        results(lambda x, m=m: m(x, training=True), inputs, v) for m, v in zip((twin, model), variables, strict=True)
    )
    for one, other in zip(found, expected, strict=True):
        assert np.linalg.norm(one - other) < 0.05 * np.linalg.norm(other)


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
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_frozen_layers_cost_no_gradient_work(name, precision, monkeypatch):
    """The graph of a training step multiplies as often as the benchmark's formula says, frozen layers once."""
    monkeypatch.setattr(hardware, "processor_has_bfloat16", lambda: "avx512_bf16")
    settings = recipes.RECIPES[name].settings
    target = "augmented" if recipes.model_of(name) == "autoencoder" else None
    model = bench.new_model(name)
    whole = training_model.augmented(
        training_model.fast_twin(model, precision), recipes.RECIPES["cnn"].settings.augmentation, target
    )
    optimizer = optimizers.new_optimizer(
        settings.model_copy(update={"muon_rate_factor": 0.0})
    )  # it multiplies matrices itself
    training_model.compile_model(whole, optimizer, settings)
    batch = np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4, np.int64)
    step = tf.function(lambda: whole.train_step(batch)).get_concrete_function()
    done = sum(2 * multiply_adds(operation) for operation in those_that_run(step.graph))
    expected = bench.operations(model, 4)
    assert done == expected
