"""The training model: the network's faster twin between layers that are there only while it trains, and its loss."""

import numpy as np

import common
from data import IMAGE_SHAPE
from util import hardware
from util.backend import Later, followers, keras
from util.hardware import tensorflow_on_processor

layers, ops = keras.layers, keras.ops
kernels = Later("kernels")

# --- Layers that are there only while a network trains ----------------------------------------------------------------


class Augment(layers.Layer):
    """Random augmentation: (batch, 32, 32, 3) 0-255 -> the same shape, float32; identity unless training.

    Stays float32 in every precision: in bfloat16, pictures were off by 0.008 of their range on average.
    """

    def __init__(self, augmentation, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.augmentation = augmentation
        self.seed_generator = keras.random.SeedGenerator(0)  # set for each run by seed_layers

    def call(self, images, training=False):
        return (
            common.augment(images, self.seed_generator, self.augmentation) if training else ops.cast(images, "float32")
        )

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, "float32")


class Corrupt(layers.Layer):
    """What an autoencoder has to mend, while training: (batch, side, side, channels) 0-255 -> the same shape.

    Gaussian noise with a standard deviation of `noise` x 255 (Vincent et al. 2008, Extracting and Composing Robust
    Features with Denoising Autoencoders), and the share `masked` of the squares of 4x4 pixels with the picture's mean
    colour in them (He et al. 2021, Masked Autoencoders Are Scalable Vision Learners).
    """

    def __init__(self, noise, masked, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.noise, self.masked = noise, masked
        self.seed_generator = keras.random.SeedGenerator(0)  # set for each run by seed_layers

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
    """Pictures (batch, height, width, channels), shrunk to `side` x `side` while training where that is set."""

    side = None

    def call(self, images, training=False):
        if not (training and self.side):
            return images
        return ops.image.resize(images, (self.side, self.side), antialias=True)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, images.dtype)


class AdjustLogits(layers.Layer):
    """Logit adjustment (Menon et al. 2020, Long-tail Learning via Logit Adjustment), while training.

    `adjustment` (classes,) is added to the logits of the network's probabilities. Where it is the logs of the classes'
    shares of the training images, the network learns as if these were equally many.
    """

    def __init__(self, adjustment, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.adjustment = np.asarray(adjustment, np.float32)

    def call(self, probabilities, training=False):
        if not training:
            return probabilities
        # A softmax of logits, so that Keras's loss takes those: a probability may be too small for a float.
        return ops.softmax(ops.log(ops.maximum(probabilities, 1e-37)) + self.adjustment)


OWN_NAMES = ("augment", "shrink", "adjust", "corrupt")  # of layers around a network's twin

# --- The twin of a network --------------------------------------------------------------------------------------------


def copy_weights(target, source):
    """Copy every layer's weights by layer name between two models of the same layers.

    A bias that `source` does without stays as it is in `target`.
    """
    for layer in target.layers:
        weights, own = source.get_layer(layer.name).get_weights(), layer.get_weights()
        layer.set_weights(weights[: len(own)] + own[len(weights) :])


def cancelled_bias(layer, after):
    """True for a layer with a bias of 0 if all that comes straight `after` it is a batch normalisation that learns.

    That normalisation subtracts the bias again, so its gradient is 0 but for rounding. In bfloat16, Adam turns the
    rounding into full steps: the bias wanders, the moving mean lags behind it, and validation jumps up and down.
    """
    linear = isinstance(layer, (layers.Conv2D, layers.Dense)) and layer.activation is keras.activations.linear
    normalised = len(after) == 1 and isinstance(after[0], layers.BatchNormalization) and after[0].trainable
    return linear and normalised and layer.use_bias and not layer.get_weights()[1].any()


def fast_twin(model, precision):
    """A twin of `model` to train: the same layers by name and the same weights, computed faster, in `precision`."""
    without_bias = {name for name, after in followers(model).items() if cancelled_bias(model.get_layer(name), after)}
    classes = {}
    if tensorflow_on_processor():
        made_for_it = hardware.processor_has_bfloat16() in ("avx512_bf16", "amx_bf16")
        classes = kernels.fastest(model, in_bfloat16=made_for_it and precision == "mixed_bfloat16")

    def faster(layer):
        config = layer.get_config()
        # bfloat16's eight bits are enough inside the network, but not for pictures, probabilities and reconstructions,
        # nor for sums over all of a layer, nor for a dropout's rate: in bfloat16, Keras keeps .594 of .6.
        in_float32 = layers.Rescaling, layers.ActivityRegularization, layers.Dropout
        exact = isinstance(layer, in_float32) or layer is model.layers[-1]
        config["dtype"] = "float32" if exact else precision
        if layer.name in without_bias:
            config["use_bias"] = False
        return classes.get(layer.name, type(layer)).from_config(config)

    twin = keras.models.clone_model(model, clone_function=faster)
    copy_weights(twin, model)
    return twin


def augmented(twin, augmentation, target=None, adjustment=None, noise=0.0, masked=0.0):
    """`twin` behind augmentation: uint8 pictures -> what `twin` returns, its logits with an `adjustment`.

    With `target` ('augmented' or 'original') -> (batch, 2, 32, 32, 3): the reconstruction and what was to be
    reconstructed, in [0, 1]. With `noise` or `masked`, that is the picture before it was corrupted by them.
    """
    images, shrink = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image"), Shrink(dtype="float32", name="shrink")
    seen = shrink(Augment(augmentation, name="augment")(images))
    corrupted = Corrupt(noise, masked, name="corrupt")(seen) if noise or masked else seen
    outputs = twin.call(corrupted)  # not twin(corrupted), which takes pictures of one size alone
    if adjustment is not None:
        outputs = AdjustLogits(adjustment, name="adjust")(outputs)
    if target:
        goal = seen if target == "augmented" else shrink(ops.cast(images, "float32"))
        outputs = ops.stack([outputs, goal / 255], axis=1)
    return keras.Model(images, outputs)


def training_model(model, augmentation, precision, *more):
    """What is trained in place of `model`, and within it the twin of `model`: (training model, its twin)."""
    twin = fast_twin(model, precision)
    return augmented(twin, augmentation, *more), twin


# --- What is minimised ------------------------------------------------------------------------------------------------


def compile_model(training, optimizer, settings):
    """Give a training model its optimizer, and the loss and the metric of a classifier or of an autoencoder."""
    classifier = settings.loss == "categorical_crossentropy"
    training.compile(
        optimizer,
        loss=cross_entropy(settings.label_smoothing) if classifier else reconstruction_loss(settings.loss),
        metrics=["accuracy" if classifier else psnr],
        # Keras would choose XLA on a GPU, and TensorFlow's operations of augmentation have no such kernels.
        jit_compile=False if keras.backend.backend() == "tensorflow" else "auto",
    )


def cross_entropy(smoothing):
    """The loss between labels, which are numbers, and probabilities; `smoothing` of a label is of all classes."""
    if not smoothing:
        return "sparse_categorical_crossentropy"

    def loss(labels, probabilities):
        one_hot = ops.one_hot(ops.cast(ops.reshape(labels, (-1,)), "int32"), probabilities.shape[-1])
        return keras.losses.categorical_crossentropy(one_hot, probabilities, label_smoothing=smoothing)

    return loss


def reconstruction_loss(name):
    """The loss that Keras calls `name`, between the pictures of (batch, 2, ...) pairs in [0, 1]: -> (batch,)."""
    error = keras.losses.get(name)

    def loss(labels, pair):
        reconstruction, goal = ops.unstack(pair, axis=1)  # its gradient is one copy; a slice's, two passes of zeros
        return ops.mean(error(goal, reconstruction), axis=(1, 2))

    return loss


def psnr(labels, pair):
    """Peak signal-to-noise ratio per picture of a (batch, 2, ...) pair, in dB; peak 1."""
    error = reconstruction_loss("mean_squared_error")(labels, pair)
    return -10 * ops.log10(ops.maximum(error, 1e-10))
