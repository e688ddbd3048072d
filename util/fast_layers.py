"""Keras layers and Adam as TensorFlow computes them fastest on a processor: same weights, same function.

Each class takes the place of its parent in Keras while a model is trained; `fastest` chooses. docs/speed.md has what
each was expected to give and what it gave.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from util.backend import followers


class BatchNormalization(layers.BatchNormalization):
    """Keras's layer over the last of four axes as one operation.

    Keras 3 runs it as single multiplications, subtractions and means, each a pass over memory.
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
            # The operation returns the sample variance (n - 1); Keras keeps the population's (n).
            count = tf.cast(tf.size(inputs) / tf.shape(inputs)[-1], tf.float32)
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance * (count - 1) / count)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


class Dropout(layers.Dropout):
    """Keras's layer with 16 random bits a value instead of a random float: half the time, and the rate exact to 1e-5.

    In bfloat16 Keras draws its floats in bfloat16, too: of 0.6, .594 is kept.
    """

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        count = tf.size(inputs)
        pairs = tf.random.stateless_uniform(
            [(count + 1) // 2], tf.cast(self.seed_generator.next(), tf.int32), minval=None, maxval=None, dtype=tf.int32
        )
        bits = tf.reshape(tf.reshape(tf.bitcast(pairs, tf.int16), [-1])[:count], tf.shape(inputs))  # -32768 to 32767
        kept = tf.cast(bits >= round(self.rate * 2**16) - 2**15, inputs.dtype)
        return inputs * (kept * tf.constant(1 / (1 - self.rate), inputs.dtype))


@tf.function(jit_compile=True)
def silu_gradient(inputs, upstream):
    x = tf.cast(inputs, tf.float32)
    gate = tf.sigmoid(x)
    return tf.cast(tf.cast(upstream, tf.float32) * gate * (1 + x * (1 - gate)), inputs.dtype)


@tf.custom_gradient
def silu(inputs):
    return tf.nn.silu(inputs), lambda upstream: silu_gradient(inputs, upstream)


class SiLU(layers.Activation):
    """Keras's activation "silu", its gradient compiled to one pass over memory; TensorFlow takes five slow ones."""

    def call(self, inputs):
        return silu(inputs)


@tf.custom_gradient
def convolution_by_products(inputs, kernel, bias):
    """A 3x3 'same' convolution, stride 1; its kernel's gradient is a matrix product for each of the nine places."""

    def gradient(upstream):
        into_inputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, strides=[1] * 4, padding="SAME"
        )
        _, height, width, channels = inputs.shape
        padded = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
        rows = tf.reshape(upstream, [-1, kernel.shape[-1]])
        shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        products = [tf.matmul(tf.reshape(one, [-1, channels]), rows, transpose_a=True) for one in shifted]
        # In float32: TensorFlow's own gradient of a bias adds thousands of values in bfloat16, and is off by half.
        into_bias = tf.cast(tf.reduce_sum(tf.cast(rows, tf.float32), axis=0), bias.dtype)
        return into_inputs, tf.reshape(tf.stack(products), kernel.shape), into_bias

    return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME"), bias), gradient


class SmallConv2D(layers.Conv2D):
    """Keras's 3x3 layer for pictures of at most 8x8, in bfloat16, where oneDNN lacks a fast gradient of the kernel."""

    def call(self, inputs):
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else tf.zeros(self.filters, kernel.dtype)
        return self.activation(convolution_by_products(inputs, kernel, bias))


# [row parity of the output, offset -1, 0, 1 in the input, row of the kernel]: of a picture doubled in size, which rows
# of a 3x3 kernel fall on which row of the picture itself. The same for columns.
FALLS_ON = np.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]], np.float32)


class UpsampledConv2D(layers.Conv2D):
    """UpSampling2D and a 3x3 convolution as one convolution of the smaller picture, with four times the filters.

    For few filters: 3 leave most of the processor's vector empty, 12 fill it, on a quarter of the pixels. In float32.
    """

    def convolution_op(self, inputs, kernel):
        falls_on = tf.cast(FALLS_ON, kernel.dtype)
        channels, filters = kernel.shape[2:]
        four = tf.einsum("pyi,qxj,ijcf->yxcpqf", falls_on, falls_on, kernel)
        four = tf.reshape(four, [3, 3, channels, 4 * filters])
        return tf.nn.depth_to_space(tf.nn.conv2d(inputs, four, strides=1, padding="SAME"), 2)

    def compute_output_shape(self, input_shape):
        size, height, width, _ = input_shape
        return size, 2 * height, 2 * width, self.filters


class NoUpSampling2D(layers.UpSampling2D):
    """Leaves the work to the UpsampledConv2D that follows."""

    def call(self, inputs):
        return inputs

    def compute_output_shape(self, input_shape):
        return input_shape


def fastest(model, in_bfloat16):
    """Classes to compute layers of `model`, of stock layers, with: {name of the layer: class}.

    `in_bfloat16`: whether they compute so on an x86 processor made for it, where SmallConv2D and SiLU are faster.
    """
    classes = {}
    fed_alone = {after[0].name: model.get_layer(name) for name, after in followers(model).items() if len(after) == 1}
    for layer in model.layers[1:]:
        kind, last = type(layer), layer is model.layers[-1]  # a subclass is another layer
        before = fed_alone.get(layer.name)
        if kind is layers.BatchNormalization and len(layer.input.shape) == 4 and plain_normalization(layer):
            classes[layer.name] = BatchNormalization
        elif kind is layers.Dropout and layer.noise_shape is None and layer.rate < 0.999:
            classes[layer.name] = Dropout
        elif in_bfloat16 and kind is layers.Activation and layer.activation is keras.activations.silu:
            classes[layer.name] = SiLU
        elif kind is layers.Conv2D and plain_3x3(layer):
            if last and layer.filters <= 4 and type(before) is layers.UpSampling2D and plain_doubling(before):
                classes |= {before.name: NoUpSampling2D, layer.name: UpsampledConv2D}
            elif in_bfloat16 and not last and max(layer.input.shape[1:3]) <= 8:
                classes[layer.name] = SmallConv2D
    return classes


def plain_normalization(layer):
    return layer.axis in (-1, 3) and layer.center and not (layer.renorm or layer.synchronized)


def plain_3x3(layer):
    ones = (*layer.strides, *layer.dilation_rate, layer.groups)
    return layer.kernel_size == (3, 3) and layer.padding == "same" and set(ones) == {1}


def plain_doubling(layer):
    return layer.size == (2, 2) and layer.interpolation == "nearest"


class Adam(keras.optimizers.Adam):
    """Keras's Adam, without amsgrad, each variable in one pass over memory instead of ten."""

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
