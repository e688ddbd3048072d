"""The training model: what is trained in place of a network, and its loss.

The *twin* of a network has the same layers by name and the same weights, but computes them faster and in the precision
of the training. The training model is the twin with layers around it that are needed only while it trains, such as
augmentation. After training, the twin's weights are copied back into the network, which is made of stock Keras layers.
"""

import numpy as np

import common
from data import IMAGE_SHAPE
from util import hardware
from util.backend import Later, followers, keras
from util.hardware import tensorflow_on_processor

layers, ops = keras.layers, keras.ops
kernels = Later("kernels")

# --- Layers that are needed only while a network trains ---------------------------------------------------------------


class Augment(layers.Layer):
    """Random augmentation: (batch, 32, 32, 3) 0-255 -> the same shape, float32; identity unless training.

    It computes in float32 in every precision: in bfloat16, pictures were off by 0.008 of their range on average.
    """

    def __init__(self, augmentation, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.augmentation = augmentation
        self.seed_generator = keras.random.SeedGenerator(0)  # seed_layers sets its state for each run

    def call(self, images, training=False):
        if not training:
            return ops.cast(images, "float32")
        return common.augment(images, self.seed_generator, self.augmentation)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, "float32")


class Corrupt(layers.Layer):
    """Corrupts what an autoencoder sees in training: pictures (batch, side, side, channels) 0-255 -> the same shape.

    The share `masked` of the squares of 4x4 pixels is filled with the picture's mean colour (He et al. 2021, Masked
    Autoencoders Are Scalable Vision Learners). Then Gaussian noise with a standard deviation of `noise` x 255 is added
    (Vincent et al. 2008, Extracting and Composing Robust Features with Denoising Autoencoders).
    """

    def __init__(self, noise, masked, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.noise, self.masked = noise, masked
        self.seed_generator = keras.random.SeedGenerator(0)  # seed_layers sets its state for each run

    def call(self, images, training=False):
        if not training:
            return images
        if self.masked:
            batch, height, width, _ = ops.shape(images)
            squares = keras.random.uniform((batch, height // 4, width // 4, 1), seed=self.seed_generator)
            hidden = ops.repeat(ops.repeat(squares < self.masked, 4, axis=1), 4, axis=2)
            images = ops.where(hidden, ops.mean(images, axis=(1, 2), keepdims=True), images)
        if self.noise:
            images += 255 * self.noise * keras.random.normal(ops.shape(images), seed=self.seed_generator)
        return images

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, images.dtype)


class Shrink(layers.Layer):
    """Shrinks pictures (batch, height, width, channels) to `side` x `side` in training, if `side` is set."""

    side = None

    def call(self, images, training=False):
        if not (training and self.side):
            return images
        return ops.image.resize(images, (self.side, self.side), antialias=True)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, images.dtype)


class AdjustLogits(layers.Layer):
    """Logit adjustment in training (Menon et al. 2020, Long-tail Learning via Logit Adjustment).

    `adjustment` (classes,) is added to the logits of the network's probabilities. If it holds the logarithm of each
    class's share of the training images, the network learns as if all classes had equally many images.
    """

    def __init__(self, adjustment, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.adjustment = np.asarray(adjustment, np.float32)

    def call(self, probabilities, training=False):
        if not training:
            return probabilities
        # Keras's loss finds the logits of a softmax and computes with them: a probability may be too small for a float.
        return ops.softmax(ops.log(ops.maximum(probabilities, 1e-37)) + self.adjustment)


OWN_NAMES = ("augment", "shrink", "adjust", "corrupt")  # the names of the layers above in a training model

# --- The twin of a network --------------------------------------------------------------------------------------------


def copy_weights(target, source):
    """Copy the weights of every layer, by name, between two models of the same layers.

    Where a layer of `source` has no bias and its counterpart in `target` has one, that bias is left as it is.
    """
    for layer in target.layers:
        weights, own = source.get_layer(layer.name).get_weights(), layer.get_weights()
        layer.set_weights(weights[: len(own)] + own[len(weights) :])


def cancelled_bias(layer, after):
    """True if the bias of `layer` is 0 and has no effect: all that comes `after` it is a learning batch normalisation.

    The normalisation subtracts the bias again, so the gradient of the bias is 0 but for rounding. In bfloat16, Adam
    makes full steps out of the rounding: the bias wanders, the moving mean lags behind it, and validation scores jump.
    """
    linear = isinstance(layer, (layers.Conv2D, layers.Dense)) and layer.activation is keras.activations.linear
    normalised = len(after) == 1 and isinstance(after[0], layers.BatchNormalization) and after[0].trainable
    return linear and normalised and layer.use_bias and not layer.get_weights()[1].any()


def fast_twin(model, precision):
    """The twin of `model`: the same layers by name and the same weights, computed faster and in `precision`.

    A bias that `cancelled_bias` finds to have no effect is left out.
    """
    without_bias = {name for name, after in followers(model).items() if cancelled_bias(model.get_layer(name), after)}
    classes = {}
    if tensorflow_on_processor():
        has_bfloat16 = hardware.processor_has_bfloat16() in ("avx512_bf16", "amx_bf16")
        classes = kernels.fastest(model, in_bfloat16=has_bfloat16 and precision == "mixed_bfloat16")

    def faster(layer):
        config = layer.get_config()
        # The eight bits of bfloat16 are enough inside the network. They are too few for pictures, probabilities and
        # reconstructions, for sums over a whole layer, and for the rate of dropout: of .6, Keras would keep .594.
        in_float32 = layers.Rescaling, layers.ActivityRegularization, layers.Dropout
        exact = isinstance(layer, in_float32) or layer is model.layers[-1]
        config["dtype"] = "float32" if exact else precision
        if layer.name in without_bias:
            config["use_bias"] = False
        return classes.get(layer.name, type(layer)).from_config(config)

    twin = keras.models.clone_model(model, clone_function=faster)
    if classes:
        kernels.join(twin)
    copy_weights(twin, model)
    return twin


def augmented(twin, augmentation, target=None, adjustment=None, noise=0.0, masked=0.0):
    """The training model around `twin`: uint8 pictures -> the outputs of `twin`, with an `adjustment` if one is given.

    For an autoencoder, `target` is 'augmented' or 'original', and the model returns pairs (batch, 2, 32, 32, 3) in
    [0, 1]: the reconstruction, and the picture that it should have been. `noise` and `masked` corrupt only the picture
    that the autoencoder sees.
    """
    images, shrink = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image"), Shrink(dtype="float32", name="shrink")
    seen = shrink(Augment(augmentation, name="augment")(images))
    corrupted = Corrupt(noise, masked, name="corrupt")(seen) if noise or masked else seen
    outputs = twin.call(corrupted)  # twin(corrupted) would refuse pictures of any other size
    if adjustment is not None:
        outputs = AdjustLogits(adjustment, name="adjust")(outputs)
    if target:
        goal = seen if target == "augmented" else shrink(ops.cast(images, "float32"))
        outputs = ops.stack([outputs, goal / 255], axis=1)
    return keras.Model(images, outputs)


def training_model(model, augmentation, precision, *more):
    """(The training model of a network, and the twin within it); `more` are the further arguments of `augmented`."""
    twin = fast_twin(model, precision)
    return augmented(twin, augmentation, *more), twin


# --- The loss ---------------------------------------------------------------------------------------------------------


def compile_model(training, optimizer, settings):
    """Compile a training model with its optimizer, and with the loss and metric of a classifier or an autoencoder."""
    classifier = settings.loss == "categorical_crossentropy"
    training.compile(
        optimizer,
        loss=cross_entropy(settings.label_smoothing) if classifier else reconstruction_loss(settings.loss),
        metrics=["accuracy" if classifier else psnr],
        # On a GPU, Keras would choose XLA, which lacks some operations that augmentation uses in TensorFlow.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def cross_entropy(smoothing):
    """Cross-entropy of class numbers and probabilities; the share `smoothing` of a label is spread over all classes."""
    if not smoothing:
        return "sparse_categorical_crossentropy"

    def loss(labels, probabilities):
        one_hot = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), probabilities.shape[-1])
        return keras.losses.categorical_crossentropy(one_hot, probabilities, label_smoothing=smoothing)

    return loss


def reconstruction_loss(name):
    """Keras's loss called `name` between the two pictures of each pair: (batch, 2, ...) in [0, 1] -> (batch,)."""
    error = keras.losses.get(name)

    def loss(labels, pair):
        reconstruction, goal = ops.unstack(pair, axis=1)  # its gradient is one copy, that of slices fills in zeros
        return ops.mean(error(goal, reconstruction), axis=(1, 2))

    return loss


def psnr(labels, pair):
    """Peak signal-to-noise ratio of each (batch, 2, ...) pair of pictures in [0, 1]: (batch,), in dB, at most 100."""
    error = reconstruction_loss("mean_squared_error")(labels, pair)
    return -10 * ops.log10(ops.maximum(error, 1e-10))
