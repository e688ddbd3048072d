"""Faster versions of three Keras layers and of Adam, for TensorFlow on a processor: the same function.

Each class takes the place of its Keras parent while a model is trained. `fastest` chooses the class of each layer, and
docs/speed.md says how much time each class saves.
"""

import keras
import tensorflow as tf
from keras import layers


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
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance * (count - 1) / count)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


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


@tf.custom_gradient
def convolution_by_products(inputs, kernel, bias):
    """A 3x3 convolution with stride 1 and 'same' padding, whose kernel gradient is nine matrix products.

    There is one product for each of the kernel's nine places.
    """

    def gradient(upstream):
        into_inputs = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(inputs), filter=kernel, out_backprop=upstream, strides=[1] * 4, padding="SAME"
        )
        _, height, width, channels = inputs.shape
        padded = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]])
        rows = tf.reshape(upstream, [-1, kernel.shape[-1]])
        shifted = [padded[:, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        products = [tf.matmul(tf.reshape(one, [-1, channels]), rows, transpose_a=True) for one in shifted]
        # As a product, which adds in float32: TensorFlow's sum adds the thousands of values in bfloat16, and is off by
        # a tenth and more.
        into_bias = tf.matmul(tf.ones([1, tf.shape(rows)[0]], rows.dtype), rows)[0]
        return into_inputs, tf.reshape(tf.stack(products), kernel.shape), into_bias

    return tf.nn.bias_add(tf.nn.conv2d(inputs, kernel, strides=1, padding="SAME"), bias), gradient


class SmallConv2D(layers.Conv2D):
    """A 3x3 convolution of at most 8x8 pixels, in bfloat16, where oneDNN has no fast gradient of the kernel."""

    def call(self, inputs):
        kernel = tf.convert_to_tensor(self.kernel)
        bias = tf.convert_to_tensor(self.bias) if self.use_bias else tf.zeros(self.filters, kernel.dtype)
        return self.activation(convolution_by_products(inputs, kernel, bias))


def fastest(model, in_bfloat16):
    """The faster classes for the layers of a model of stock layers: {name of the layer: class}.

    `in_bfloat16` says that the layers compute in bfloat16 on an x86 processor which has instructions for it: only there
    are SmallConv2D and SiLU faster.
    """
    classes = {}
    for layer in model.layers[1:]:
        kind = type(layer)  # not isinstance: a subclass may compute something else
        if kind is layers.BatchNormalization and len(layer.input.shape) == 4 and plain_normalization(layer):
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
