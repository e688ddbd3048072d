"""Faster versions of four Keras layers and of Adam, for TensorFlow on a processor: the same function.

Each class takes the place of its Keras parent while a model is trained. `fastest` chooses the class of each layer, and
docs/speed.md says how much time each class saves.
"""

import weakref

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from util.backend import followers


class BatchNormalization(layers.BatchNormalization):
    """Batch normalisation over the last of four axes, as one operation of TensorFlow.

    Keras 3 computes it by separate multiplications, subtractions and means, and each of them passes over memory.
    """

    def call(self, inputs, training=None, mask=None):
        learn = bool(training and self.trainable)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma if self.scale else tf.ones_like(self.moving_mean),
            offset=self.beta,
            mean=[] if learn else self.moving_mean,
            variance=[] if learn else self.moving_variance,
            epsilon=self.epsilon,
            is_training=learn,
        )
        if learn:
            # The operation returns the sample variance (over n - 1), and Keras keeps the population variance (over n).
            count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], tf.float32)
            move(self, mean, variance * (count - 1) / count)
        return outputs


def move(norm, mean, variance):
    """Bring the moving statistics of a normalisation closer to those of a batch."""
    for moving, batch in ((norm.moving_mean, mean), (norm.moving_variance, variance)):
        moving.assign(moving * norm.momentum + batch * (1 - norm.momentum))


def sum_of_rows(rows):
    """(n, channels) -> (channels,), as a product, which adds in float32.

    TensorFlow's sum adds the thousands of values in bfloat16, and is off by a tenth and more.
    """
    return tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]


@tf.function(jit_compile=True)
def silu_gradient(inputs, upstream):
    x = tf.cast(inputs, tf.float32)
    gate = tf.sigmoid(x)
    return tf.cast(tf.cast(upstream, tf.float32) * gate * (1 + x * (1 - gate)), inputs.dtype)


@tf.custom_gradient
def silu(inputs):
    return tf.nn.silu(inputs), lambda upstream: silu_gradient(inputs, upstream)


class SiLU(layers.Activation):
    """The activation "silu", with a gradient that passes over memory once; TensorFlow's own takes five passes."""

    def call(self, inputs):
        return silu(inputs)


def shifted(values, shifts):
    """Of each pixel, the pixels at each of `shifts` (y, x) from it, which are 0 outside.

    (batch, height, width, channels) -> (batch x height x width, shifts x channels). A gather takes half the time of
    slices that are put side by side.
    """
    _, height, width, channels = values.shape
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1) + np.transpose(shifts)[:, None]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    pixels = tf.pad(tf.reshape(values, [-1, height * width, channels]), [[0, 0], [0, 1], [0, 0]])
    there = tf.gather(pixels, np.where(inside, y * width + x, height * width), axis=1)
    return tf.reshape(there, [-1, len(shifts) * channels])


@tf.custom_gradient
def convolution_by_product(inputs, kernel, bias):
    """A 3x3 convolution with stride 1 and 'same' padding, whose kernel gradient is one matrix product.

    At place (y, x) of the kernel, it is the sum over pixels (i, j) of inputs[i + y - 1, j + x - 1] x upstream[i, j],
    which is that of inputs[i, j + x - 1] x upstream[i + 1 - y, j]. So the product of the inputs at three shifts in x
    and of `upstream` at three shifts in y has all nine places, and it is large enough to be fast.
    """

    def gradient(upstream):
        into_inputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, strides=[1] * 4, padding="SAME"
        )
        *_, channels, filters = kernel.shape
        rows, columns = shifted(upstream, [(1, 0), (0, 0), (-1, 0)]), shifted(inputs, [(0, -1), (0, 0), (0, 1)])
        product = tf.reshape(tf.matmul(rows, columns, transpose_a=True), [3, filters, 3, channels])
        into_kernel = tf.transpose(product, [0, 2, 3, 1])
        return into_inputs, into_kernel, sum_of_rows(tf.reshape(upstream, [-1, filters]))

    return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME"), bias), gradient


class SmallConv2D(layers.Conv2D):
    """A 3x3 convolution of at most 8x8 pixels, in bfloat16, where oneDNN has no fast gradient of the kernel."""

    def call(self, inputs):
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else tf.zeros(self.filters, kernel.dtype)
        return self.activation(convolution_by_product(inputs, kernel, bias))


def patch_moments(inputs):
    """Mean (1, n) and covariance (n, n) of the 3x3 patches of (batch, height, width, channels), n = 9 x channels."""
    channels = inputs.shape[-1]
    size = 9 * channels
    # A convolution lists the patches six times as fast as TensorFlow's own function. Each patch ends in a 1, so that
    # the product of all patches has their sums beside their second moments.
    each_number = np.eye(size, size + 1, dtype=np.float32).reshape(3, 3, channels, -1)
    patches = tf.nn.bias_add(tf.nn.conv2d(inputs, each_number, strides=1, padding="SAME"), tf.one_hot(size, size + 1))
    rows = tf.reshape(patches, [-1, size + 1])
    moments = tf.matmul(rows, rows, transpose_a=True) / tf.cast(tf.shape(rows)[0], tf.float32)
    mean = moments[size:, :size]
    return mean, moments[:size, :size] - tf.matmul(mean, mean, transpose_a=True)


@tf.custom_gradient
def pooled_convolution(inputs, kernel, bias):
    """A 3x3 convolution, ReLU and 2x2 max pooling; the gradient of ReLU is taken where there are fewest values."""
    whole = tf.nn.relu(tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME"), bias))
    pooling = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID"}
    pooled = tf.raw_ops.MaxPool(input=whole, **pooling)

    def gradient(upstream):
        upstream = tf.raw_ops.ReluGrad(gradients=upstream, features=pooled)
        into_whole = tf.raw_ops.MaxPoolGrad(orig_input=whole, orig_output=pooled, grad=upstream, **pooling)
        convolution = {"out_backprop": into_whole, "strides": [1] * 4, "padding": "SAME"}
        return (
            tf.raw_ops.Conv2DBackpropInput(input_sizes=tf.shape(inputs), filter=kernel, **convolution),
            tf.raw_ops.Conv2DBackpropFilter(input=inputs, filter_sizes=tf.shape(kernel), **convolution),
            sum_of_rows(tf.reshape(upstream, [-1, upstream.shape[-1]])),
        )

    return pooled, gradient


class FirstBlock(layers.Conv2D):
    """A 3x3 convolution of pictures, and the batch normalisation, 2x2 max pooling and ReLU that follow it.

    The mean and the variance of each filter's outputs follow from those of the patches, which have few numbers. So they
    are known before the convolution, whose kernel and bias are scaled so that its outputs are normalised already: the
    normalisation never passes over them. The layers that follow pass their inputs on (`passed`).

    `join` sets `folded_norm`, a weak reference to the normalisation: Keras would count its weights as this layer's own.
    """

    folded_norm = None

    def __init__(self, *args, dtype=None, **options):
        super().__init__(*args, dtype="float32", **options)  # of the kernel, until it is scaled
        self.computes_in = keras.dtype_policies.get(dtype).compute_dtype

    def compute_output_spec(self, inputs, training=None):
        batch, height, width, _ = inputs.shape
        halves = (side and side // 2 for side in (height, width))
        return keras.KerasTensor((batch, *halves, self.filters), self.computes_in)

    def call(self, inputs, training=None):
        inputs, norm = tf.cast(inputs, self.computes_in), self.folded_norm()
        learn = bool(training and norm.trainable)
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else 0.0
        mean, variance = norm.moving_mean.value, norm.moving_variance.value
        if learn:
            rows = tf.reshape(kernel, [-1, self.filters])
            mean_patch, covariance = patch_moments(tf.cast(inputs, tf.float32))
            mean = tf.matmul(mean_patch, rows)[0] + bias
            variance = tf.maximum(tf.reduce_sum(rows * tf.matmul(covariance, rows), axis=0), 0.0)
            move(norm, mean, variance)
        scale = tf.math.rsqrt(variance + norm.epsilon) * (norm.gamma.value if norm.scale else 1.0)
        scaled, offset = kernel * scale, norm.beta.value + (bias - mean) * scale
        rounded = tf.cast(scaled, self.computes_in)
        if learn:  # the mean of the outputs stays beta, though the kernel is rounded
            error = tf.reshape(scaled - tf.cast(rounded, tf.float32), [-1, self.filters])
            offset += tf.matmul(mean_patch, error)[0]
        return pooled_convolution(inputs, rounded, tf.cast(offset, self.computes_in))


def passed(kind):
    """A subclass of a class of layers which passes its inputs on: a FirstBlock computes what the layer would."""

    class Passed(kind):
        def call(self, inputs, training=None, mask=None):
            return inputs

        def compute_output_shape(self, shape):
            return shape

    return Passed


def first_block(layer, after):
    """{name: class} of the four layers from `layer` on, if they are what FirstBlock computes at once, else {}.

    `after` is what `followers` returns.
    """
    four = [layer]
    while len(four) < 4 and len(after[four[-1].name]) == 1:
        four += after[four[-1].name]
    if [type(one) for one in four] != [layers.Conv2D, layers.BatchNormalization, layers.MaxPooling2D, layers.ReLU]:
        return {}
    _, norm, pool, relu = four
    same = (
        plain_3x3(layer) and layer.activation is keras.activations.linear,
        layer.input.shape[-1] <= 4,  # with more channels, the covariance of the patches takes longer than it saves
        plain_normalization(norm),
        pool.pool_size == pool.strides == (2, 2) and pool.padding == "valid",
        (relu.max_value, relu.negative_slope, relu.threshold) == (None, 0, 0),
        not any(one.activity_regularizer for one in four),
    )
    return {one.name: passed(type(one)) for one in four} | {layer.name: FirstBlock} if all(same) else {}


def join(twin):
    """Show each FirstBlock of a twin the normalisation that it computes."""
    for name, after in followers(twin).items():
        if isinstance(layer := twin.get_layer(name), FirstBlock):
            layer.folded_norm = weakref.ref(after[0])


def fastest(model, in_bfloat16):
    """The faster classes for the layers of a model of stock layers: {name of the layer: class}.

    `in_bfloat16` says that the layers compute in bfloat16 on an x86 processor which has instructions for it: only there
    are SmallConv2D and SiLU faster. `join` has to be called for their model.
    """
    classes, after = {}, followers(model)
    for layer in model.layers[1:]:
        kind = type(layer)  # not isinstance: a subclass may compute something else
        if layer.name in classes:
            continue
        if block := first_block(layer, after):
            classes |= block
        elif kind is layers.BatchNormalization and len(layer.input.shape) == 4 and plain_normalization(layer):
            classes[layer.name] = BatchNormalization
        elif in_bfloat16 and kind is layers.Activation and layer.activation is keras.activations.silu:
            classes[layer.name] = SiLU
        elif in_bfloat16 and kind is layers.Conv2D and plain_3x3(layer) and max(layer.input.shape[1:3]) <= 8:
            classes[layer.name] = SmallConv2D
    return classes


def plain_normalization(layer):
    return layer.axis in (-1, 3) and layer.center and not (layer.renorm or layer.synchronized)


def plain_3x3(layer):
    ones = (*layer.strides, *layer.dilation_rate, layer.groups)
    return layer.kernel_size == (3, 3) and layer.padding == "same" and set(ones) == {1}


class Adam(keras.optimizers.Adam):
    """Adam, without amsgrad, in one pass over the memory of each variable; Keras's own takes ten passes."""

    def update_step(self, gradient, variable, learning_rate):
        index, step = self._get_variable_index(variable), tf.cast(self.iterations.value + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=self.beta_1**step,
            beta2_power=self.beta_2**step,
            lr=learning_rate,
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=gradient,
        )
