"""How a run is trained: optimizer and schedule, the faster twin of the network, fit, progress, exact resume.

Loads Keras, so the scripts load it last.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np

import common
from common import IMAGE_SHAPE, BalancedBatches, TurnedBatches, rng, turn_in_order
from recipes import LOW_RESOLUTION_SIDE, PLAIN, SCHEDULES, phases
from runs import best_epoch
from util import hardware
from util.backend import Later, followers, load
from util.cli import InputError, RunFailed, raise_what_was_heard
from util.files import commit_arrays, first_line, require_writable, sha256
from util.hardware import processor_name, set_up_device, tensorflow_on_processor
from util.plots import duration

keras = load("keras")
layers, ops = keras.layers, keras.ops
class_weight, fast_layers, jax = Later("sklearn.utils.class_weight"), Later("util.fast_layers"), Later("jax")

# --- Optimizer and schedule -------------------------------------------------------------------------------------------


class OverTheRun(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises for the share `warmup` of `steps`, then follows a row of SCHEDULES to their end."""

    def __init__(self, rate, shape, warmup, steps):
        super().__init__()
        self.rate, self.shape, self.warmup, self.steps = rate, shape, warmup, steps

    def __call__(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1)
        falling = self.shape((share - self.warmup) / (1 - self.warmup))
        return self.rate * (ops.where(share < self.warmup, share / self.warmup, falling) if self.warmup else falling)


def new_optimizer(settings, steps=1, taken=()):
    """The optimizer of the settings for a run of `steps`, computed faster where there is a way. Raises InputError.

    `taken` are the variables of pretrained layers, which ENCODER=tuned may train more slowly than the others.
    """
    if isinstance(settings.optimizer, str):
        name, config = settings.optimizer, {}
    else:
        name, config = settings.optimizer.class_name, settings.optimizer.config
    rate = settings.learning_rate
    if settings.schedule in SCHEDULES:
        rate = OverTheRun(rate, SCHEDULES[settings.schedule], settings.warmup, steps)
    try:
        kind = type(keras.optimizers.get(name))
        if kind is keras.optimizers.Adam and not config.get("amsgrad") and tensorflow_on_processor():
            kind = fast_layers.Adam
        if settings.bias_rate_factor != 1 or settings.muon_rate_factor:
            kind = extended(kind, settings)
        if config:  # Keras looks at most values when it takes a step
            kind(rate, **config).apply([ops.ones((2, 2))], [keras.Variable(ops.ones((2, 2)))])
        if taken and (settings.encoder_rate_factor < 1 or settings.frozen_share):
            kind = discriminative(kind, taken, settings.encoder_rate_factor, settings.frozen_share * steps)
        return kind(rate, **config)
    except Exception as error:  # of whatever kind: KeyError, InvalidArgumentError
        raise InputError(
            f"CONFIG holds an optimizer {name!r} that Keras cannot make ({first_line(error)}): give a configuration as "
            "keras.optimizers.serialize shows it"
        ) from None


def orthogonal(matrix, steps=3):
    """About the nearest matrix whose singular values are all alike: they end between 0.7 and 1.2, by Newton-Schulz."""
    x = matrix / (ops.norm(matrix) + 1e-7)
    x = ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x
    for _ in range(steps):
        square = ops.matmul(x, ops.transpose(x))
        x = 3.4445 * x + ops.matmul(-4.7750 * square + 2.0315 * ops.matmul(square, square), x)
    return ops.transpose(x) if matrix.shape[0] > matrix.shape[1] else x


def extended(kind, settings):
    """The class of optimizers `kind` with another rate for biases and, with a `muon_rate_factor`, convolutions by Muon.

    Muon's step goes equally far in all directions that the gradient has, and kernels keep a length of 1 a filter
    (Jordan et al. 2024, Muon: An optimizer for hidden layers in neural networks). Keras's Muon takes matrices alone.
    """

    class Extended(kind):
        def update_step(self, gradient, variable, learning_rate):
            if settings.muon_rate_factor and len(variable.shape) == 4:
                rate = learning_rate * settings.muon_rate_factor
                return self.muon_step(gradient, variable, rate, self.momentums[self._get_variable_index(variable)])
            vector = len(variable.shape) == 1  # biases, and what a normalisation learns
            return super().update_step(gradient, variable, learning_rate * (settings.bias_rate_factor if vector else 1))

        def muon_step(self, gradient, kernel, rate, velocity, momentum=0.6):
            filters = kernel.shape[-1]
            self.assign(velocity, momentum * velocity + gradient)
            ahead = gradient + momentum * velocity
            step = ops.reshape(orthogonal(ops.reshape(ahead, (-1, filters))), kernel.shape)
            self.assign(kernel, kernel * ops.sqrt(filters / ops.sum(ops.square(kernel))) - rate * step)

    return Extended


def discriminative(kind, taken, factor, frozen_steps):
    """The class of optimizers `kind` in which the variables `taken` make the share `factor` of each step.

    During the first `frozen_steps` they make none. A step is all that `kind` does to a variable, weight decay included
    (discriminative fine-tuning: Howard and Ruder 2018, Universal Language Model Fine-tuning for Text Classification).
    """

    class Discriminative(kind):
        def apply(self, gradients, trainable_variables=None):
            before = [ops.convert_to_tensor(variable) for variable in taken]
            share = ops.where(self.iterations < frozen_steps, 0.0, factor)
            iterations = super().apply(gradients, trainable_variables)
            for variable, value in zip(taken, before, strict=True):
                variable.assign(value + share * (variable - value))
            return iterations

    return Discriminative


def schedule_callbacks(settings):
    """The callbacks that change the learning rate from epoch to epoch."""
    if settings.schedule == "plateau":
        callback = keras.callbacks.ReduceLROnPlateau
        return [callback(monitor="val_loss", factor=0.3, patience=10, min_lr=1e-4, cooldown=1)]
    if isinstance(settings.schedule, float):
        rate, factor = settings.learning_rate, settings.schedule
        return [keras.callbacks.LearningRateScheduler(lambda epoch: rate * factor**epoch)]
    return []


def class_weights(labels):
    """{class: images / (classes * images of the class)}, by which a class's losses are multiplied."""
    classes = np.unique(labels)
    weights = class_weight.compute_class_weight("balanced", classes=classes, y=labels)
    return dict(zip(classes.tolist(), weights, strict=True))


# --- The training model -----------------------------------------------------------------------------------------------


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
        classes = fast_layers.fastest(model, in_bfloat16=made_for_it and precision == "mixed_bfloat16")

    def twin(layer):
        config = layer.get_config()
        # bfloat16's eight bits are enough inside the network, not for pictures, probabilities and reconstructions, nor
        # for sums over all of a layer.
        exact = isinstance(layer, (layers.Rescaling, layers.ActivityRegularization)) or layer is model.layers[-1]
        config["dtype"] = "float32" if exact else precision
        if layer.name in without_bias:
            config["use_bias"] = False
        return classes.get(layer.name, type(layer)).from_config(config)

    core = keras.models.clone_model(model, clone_function=twin)
    copy_weights(core, model)
    return core


OWN_NAMES = ("augment", "shrink", "adjust", "corrupt")  # of layers around a core


def augmented(core, augmentation, target=None, adjustment=None, noise=0.0, masked=0.0):
    """`core` behind augmentation: uint8 pictures -> what `core` returns, its logits with an `adjustment`.

    With `target` ('augmented' or 'original') -> (batch, 2, 32, 32, 3): the reconstruction and what was to be
    reconstructed, in [0, 1]. With `noise` or `masked`, that is the picture before it was corrupted by them.
    """
    images, shrink = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image"), Shrink(dtype="float32", name="shrink")
    seen = shrink(Augment(augmentation, name="augment")(images))
    corrupted = Corrupt(noise, masked, name="corrupt")(seen) if noise or masked else seen
    outputs = core.call(corrupted)  # not core(seen), which takes pictures of one size alone
    if adjustment is not None:
        outputs = AdjustLogits(adjustment, name="adjust")(outputs)
    if target:
        goal = seen if target == "augmented" else shrink(ops.cast(images, "float32"))
        outputs = ops.stack([outputs, goal / 255], axis=1)
    return keras.Model(images, outputs)


def training_model(model, augmentation, precision, *more):
    """What is trained in place of `model`, and within it the twin of `model`: (training model, its core)."""
    core = fast_twin(model, precision)
    return augmented(core, augmentation, *more), core


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


class PreciseBatchNorm(keras.callbacks.Callback):
    """Gives the batch normalisations of a model the statistics of (n, 32, 32, 3) pictures, before each validation.

    Those of augmented pictures do not fit the sharp ones that it will see, and move with every step. Here they are the
    averages over equal batches of each batch's mean and variance; all else computes as it will when the model is used,
    and frozen layers keep what they have (Wu and Johnson 2021, Rethinking "Batch" in BatchNorm).
    """

    def __init__(self, model, images):
        super().__init__()
        self.batches = np.array_split(images, -(-len(images) // 500))
        self.norms = [one for one in model.layers if isinstance(one, layers.BatchNormalization) and one.trainable]

        def call(layer, *args, **kwargs):
            return layer(*args, **(kwargs | {"training": True} if layer in self.norms else kwargs))

        self.settling = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)

    def settle(self):
        momenta = [norm.momentum for norm in self.norms]
        for number, batch in enumerate(self.batches if self.norms else []):
            for norm in self.norms:
                norm.momentum = number / (number + 1)  # makes a running average of all batches so far
            self.settling(batch)
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.momentum = momentum

    def on_test_begin(self, logs=None):
        self.settle()


def require_any_size(model):
    """Raise InputError where a model does not take the pictures with which a `low_resolution` training begins."""
    size = (LOW_RESOLUTION_SIDE, LOW_RESOLUTION_SIDE)
    try:
        shape = tuple(model.call(np.zeros((1, *size, IMAGE_SHAPE[2]), np.float32)).shape)
    except Exception:  # of whatever kind: ValueError, TypeError, InvalidArgumentError
        shape = ()
    if not shape or (len(shape) == 4 and shape[1:3] != size):  # those are an autoencoder's
        raise InputError(
            f"`low_resolution` shows pictures of {LOW_RESOLUTION_SIDE}x{LOW_RESOLUTION_SIDE} at first, and this "
            "network does not take those: leave it out, or build it for pictures of any size, with global pooling "
            "instead of flattening"
        )


class Phases(keras.callbacks.Callback):
    """What the pictures of an epoch are: of low resolution or whole, and augmented by `augmentation` or as they are.

    Those of low resolution take half the time (Tan and Le 2021, EfficientNetV2, have the resolution grow in steps).
    """

    def __init__(self, low_resolution_until, unaugmented_from, augmentation):
        super().__init__()
        self.low_resolution_until, self.unaugmented_from, self.augmentation, self.compiled = (
            low_resolution_until,
            unaugmented_from,
            augmentation,
            [],
        )

    def on_epoch_begin(self, epoch, logs=None):
        augment, shrink = self.model.get_layer("augment"), self.model.get_layer("shrink")
        augmentation = self.augmentation if epoch < self.unaugmented_from else PLAIN
        side = LOW_RESOLUTION_SIDE if epoch < self.low_resolution_until else None
        if (augmentation, side) != (augment.augmentation, shrink.side):
            augment.augmentation, shrink.side = augmentation, side
            if keras.backend.backend() == "jax":  # which else takes the step for one that it has compiled
                jax.clear_caches()
            else:  # what TensorFlow deletes while a signal comes is told by a traceback
                self.compiled.append(self.model.train_function)
            self.model.make_train_function(force=True)  # it is compiled for what these were


# --- Batches and random draws -----------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """BalancedBatches as fit takes them, from `first_step` on."""

    num_batches = None  # endless: with `steps_per_epoch`, fit counts the index on across epochs

    def __init__(self, batches, first_step=0):
        super().__init__()
        self.batches, self.first_step = batches, first_step

    def __getitem__(self, index):
        return self.batches[self.first_step + index]


def require_known_layers(model):
    """Raise InputError for what is not Keras's own, which none knows how to repeat or open elsewhere, and for more.

    What a twin of the network could not be made of: operations that are no layers, and layers called twice.
    """
    for layer in model._flatten_layers(include_self=False):  # those within a Sequential or a wrapper, too
        if not type(layer).__module__.startswith("keras.") or isinstance(layer, layers.Lambda):
            raise InputError(
                f"the layer {layer.name!r} of this network is a {type(layer).__name__}, none of Keras's own: its "
                "random draws could not be repeated, nor its file opened elsewhere; build the network of keras.layers"
            )
        if isinstance(layer, layers.BatchNormalization) and layer not in model.layers:
            raise InputError(
                f"the batch normalisation {layer.name!r} of this network is within another layer, where its statistics "
                "are not settled: call the layers of that one after another"
            )
    for one in model.operations:
        if not isinstance(one, layers.Layer):
            raise InputError(
                f"this network has an operation {one.name!r} that is no layer: build it of keras.layers alone, such as "
                "Add or Multiply instead of + or *"
            )
        if one.name in OWN_NAMES:
            raise InputError(f"training has a layer {one.name!r} of its own: give that of this network another name")
    for one in model.get_config()["layers"]:
        if len(one["inbound_nodes"]) > 1:
            raise InputError(f"the layer {one['name']!r} of this network is called twice: make one for each place")


def random_states(training, core):
    """The variables that random layers draw by: [(number of the layer, number within it, variable)]."""
    return [
        (number, within, variable)
        for number, layer in enumerate(
            [training.get_layer("augment"), *core.layers, *(one for one in training.layers if one.name == "corrupt")]
        )
        for within, variable in enumerate(v for v in layer.variables if all(v is not w for w in layer.weights))
    ]


def seed_layers(training, core, seed, fold, step):
    """Set what every random layer draws by, so that its draws follow from (seed, fold, step).

    A step of a layer that draws once moves the second number by one; a resumed run takes the number from its state.
    """
    for number, within, variable in random_states(training, core):
        key = int(rng(seed, "layers", fold, number, *([within] if within else [])).integers(2**31))
        variable.assign([key, step])


# --- Training ---------------------------------------------------------------------------------------------------------


class Progress(keras.callbacks.Callback):
    """One line an epoch; on a terminal also one that moves within the epoch. Stops a run whose loss is not finite."""

    def __init__(self, fold, settings, steps):
        super().__init__()
        self.steps, self.batch_size, self.rate = steps, settings.batch_size, settings.learning_rate
        self.epochs, self.may_stop = settings.epochs, bool(settings.patience)
        self.label = f"fold {fold}  " if fold else ""  # tells the folds of `make -j` apart
        # Within the epoch only on a terminal, and not under make -j, where many would share the one line.
        self.live = sys.stdout.isatty() and "jobserver" not in os.environ.get("MAKEFLAGS", "")
        self.first = True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.began = self.looked = time.perf_counter()
        self.trained = None

    def on_train_batch_end(self, batch, logs=None):
        raise_what_was_heard()
        now = time.perf_counter()
        if now - self.looked > 1:  # reading the loss makes a GPU wait
            self.looked = now
            self.require_finite(float(logs["loss"]))
            if self.live:
                done = 30 * (batch + 1) // self.steps
                rate = (batch + 1) * self.batch_size / (now - self.began)
                line = f"epoch {self.epoch}/{self.epochs}  [{'#' * done}{'.' * (30 - done)}]"
                print(f"\r{line}  loss {float(logs['loss']):.4f}  {rate:,.0f} images/s\033[K", end="", flush=True)

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.require_finite(logs["loss"])
        self.require_finite(logs.get("val_loss", 0.0))  # not every epoch has to be validated
        logs["learning_rate"] = learning_rate(self.model)
        logs["seconds"] = time.perf_counter() - self.began
        trained = self.trained or time.perf_counter()
        logs["images_per_second"] = self.steps * self.batch_size / (trained - self.began)

    def show(self, epoch, logs=None):
        """The line of an epoch, printed when its state is kept: what was printed is not done again."""
        seconds = logs["seconds"]
        score, form = ("accuracy", ".4f") if "accuracy" in logs else ("psnr", ".2f")
        erase = "\r\033[K" * self.live
        validated = "val_loss" in logs
        val = f"val_loss {logs['val_loss']:.4f}  val_{score} {logs['val_' + score]:{form}}  " if validated else ""
        print(
            f"{erase}{self.label}epoch {self.epoch}/{self.epochs}  loss {logs['loss']:.4f}  {score} "
            f"{logs[score]:{form}}  {val}lr {logs['learning_rate']:.2g}  {logs['images_per_second']:,.0f} images/s  "
            f"{seconds:.0f} s",
            flush=True,
        )
        left = self.epochs - self.epoch
        if self.first and left:
            most, sooner = ("at most", "; early stopping may end it sooner") if self.may_stop else ("about", "")
            print(f"{self.label}{most} {duration(left * seconds)} to go{sooner}", flush=True)
        self.first = False

    def require_finite(self, loss):
        if not math.isfinite(loss):
            raise RunFailed(
                f"the loss became {loss} in epoch {self.epoch}; "
                f"start again with FORCE=1 and a smaller LR than {self.rate:g}"
            )


def learning_rate(model):
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


class KeepState(keras.callbacks.Callback):
    """Keeps the best weights, and commits after each epoch all that an exact continuation needs.

    The counters of early stopping and of the learning-rate schedule follow from the history, so a continued run replays
    the history through those callbacks instead of saving what is inside them.
    """

    def __init__(self, path, core, note, callbacks, average):
        super().__init__()
        self.path, self.core, self.note, self.replayed, self.average = path, core, note, callbacks, average
        self.history, self.best, self.finished = [], [], False

    def restore(self, note, groups):
        """Take up what Run.begun read."""
        weights, self.best, optimizer, draws = groups
        states = [variable for *_, variable in random_states(self.model, self.core)]
        try:
            self.core.set_weights(weights)
            for variable, value in zip(self.model.optimizer.variables, optimizer, strict=True):
                variable.assign(value)
            for variable, value in zip(states, draws, strict=bool(draws)):  # an older version kept none
                variable.assign(value)
        except ValueError:
            raise InputError(
                f"{self.path} is of another version of this code: finish it with that, or FORCE=1 starts it again"
            ) from None
        self.history, self.finished = note["history"], note["finished"]
        if note["machine"] != self.note["machine"]:
            print(
                f"begun with {note['machine']}, now {self.note['machine']}: "
                "it goes on, but no longer bit for bit as it would have there"
            )

    def on_train_begin(self, logs=None):
        # From the first epoch's rate, which the schedule lowers again as it did; the state's is lowered already.
        if self.note["settings"]["schedule"] not in SCHEDULES:  # those follow from the optimizer's count of steps
            self.model.optimizer.learning_rate = self.note["settings"]["learning_rate"]
        for callback in self.replayed:  # their own on_train_begin, which forgets, has run: this callback comes last
            for epoch, past in enumerate(self.history):
                callback.on_epoch_end(epoch, dict(past))

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({key: float(value) for key, value in logs.items()})
        if "val_loss" in logs and best_epoch(self.history, self.note["settings"]["monitor"]) == epoch:
            self.best = self.averaged_weights()
        self.finished = bool(self.model.stop_training) or epoch + 1 == self.note["settings"]["epochs"]
        self.commit()

    def averaged_weights(self):
        """The weights that validation was of: the optimizer's average, where it keeps one."""
        for average in self.average:
            average.on_test_begin()
        weights = self.core.get_weights()
        for average in self.average:
            average.on_test_end()
        return weights

    def commit(self):
        variables = {
            "optimizer": self.model.optimizer.variables,
            "draws": [variable for *_, variable in random_states(self.model, self.core)],
        }
        groups = {"weights": self.core.get_weights(), "best": self.best}
        groups |= {name: [ops.convert_to_numpy(one) for one in several] for name, several in variables.items()}
        note = {
            **self.note,
            "history": self.history,
            "finished": self.finished,
            **{group: len(arrays) for group, arrays in groups.items()},
        }
        arrays = {f"{group}{i}": array for group, members in groups.items() for i, array in enumerate(members)}
        commit_arrays(self.path, note=np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays)


def sample_of(fold, settings, number):
    """2,000 training images, or as many as there are: (n, 32, 32, 3) uint8, the same throughout a training."""
    rows = rng(settings.seed, "sample", number).permutation(len(fold.x_train))[:2000]
    return turn_in_order(fold.x_train[rows])[0] if settings.task == "turns" else fold.x_train[rows]


def validated_epochs(settings):
    """The epochs, counted from 1, after which a training is validated: every so many, and the last."""
    return sorted({*range(settings.validate_every, settings.epochs, settings.validate_every), settings.epochs})


def code_sha256():
    """SHA-256 of the code that a training's weights follow from, committed or not."""
    here = Path(__file__).parent
    files = [here / name for name in ("common.py", "networks.py", "recipes.py", "training.py", "util/fast_layers.py")]
    return sha256(*(np.fromfile(path, np.uint8) for path in files))


def train(recipe, run, fold, force=False, prepare=None, **more):
    """Train on `fold` what the recipe says; write checkpoint and record, going on from a state.

    `more` are settings that became known since the recipe was resolved. `prepare(model)` may put weights into the new
    model and freeze layers; what it returns goes into the record. Does nothing where the run is finished with the same
    settings, unless `force`.
    """
    found = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
    options = recipe.settings.model_copy(update={key: fold.record[key] for key in found} | more)
    settings = options.model_dump()
    begun = None if force else run.begun(settings)
    if not force and not begun and run.already_finished(settings):
        return
    require_writable(run.folder)
    number = run.fold or 1
    device, _ = set_up_device()
    precision, reason = hardware.resolve_precision(options.precision)
    if begun and begun[0]["precision"] != precision:
        precision, reason = begun[0]["precision"], "as this training was begun"
    keras.utils.set_random_seed(int(rng(options.seed, "weights", number).integers(2**32)))
    model = common.finished_model(recipe.build, options, len(fold.class_names), run.name)
    require_known_layers(model)
    if options.low_resolution:
        require_any_size(model)
    if recipe.start:
        recipe.start(model, sample_of(fold, options, number))
    notes = prepare(model) if prepare else {}
    record = {
        "run": run.name,
        "fold": run.fold,
        "settings": settings,
        "data": fold.record,
        "parameters": model.count_params(),
        "trainable_parameters": common.count_trainable(model),
        **notes,
        "device": device,
        "precision": precision,
        "precision_reason": reason,
        "versions": hardware.versions(),
        "commit": hardware.current_commit(Path(__file__).parent),
        "code_sha256": code_sha256(),
    }
    print(f"model: {run.title}, {record['parameters']:,} parameters, {record['trainable_parameters']:,} trainable")
    backend = f"{keras.backend.backend()} {record['versions'][keras.backend.backend()]}"
    print(f"device: {device}; {precision} ({reason}); Keras {keras.__version__} on {backend}", flush=True)

    # What equality bit for bit takes.
    machine = f"{processor_name()}, {device}, Keras {keras.__version__} on {backend}, code {record['code_sha256'][:8]}"
    note = {"settings": settings, "precision": precision, "machine": machine}
    state = fit(model, run, fold, options, note, begun, force, notes.get("taken", ()))
    keys = dict.fromkeys(key for logs in state.history for key in logs)
    history = {key: [logs.get(key) for logs in state.history] for key in keys}  # null: not validated in that epoch
    best = best_epoch(state.history, options.monitor)
    record |= {
        "history": history,
        "best_epoch": best + 1,
        "seconds": sum(history["seconds"]),
        "images_per_second": float(np.median(history["images_per_second"])),
    }
    run.finish(model, record)
    score = "val_psnr" if "val_psnr" in history else "val_accuracy"
    print(
        f"{run.checkpoint}: best epoch {best + 1} of {len(state.history)}, val_loss {history['val_loss'][best]:.4f}, "
        f"{score} {history[score][best]:.4f}, {duration(record['seconds'])}"
    )


def fit(model, run, fold, settings, note, begun, anew, taken=()):
    """Bring `model` to the weights of its best epoch; returns the KeepState with the history.

    `taken` are the names of pretrained layers.
    """
    number = run.fold or 1
    augmentation = settings.augmentation if getattr(settings, "augment", True) else PLAIN
    order = settings.batch_size, settings.seed, number, settings.balanced, augmentation.flip == "alternating"
    batches = BalancedBatches(fold.x_train, fold.y_train, *order)
    if settings.task == "turns":
        batches = TurnedBatches(batches, settings.seed, number)
    steps = batches.steps_per_epoch
    shares = np.bincount(fold.y_train) / len(fold.y_train)
    adjustment = settings.logit_adjustment * np.log(shares) if settings.logit_adjustment else None
    target = getattr(settings, "target", None)
    corruption = getattr(settings, "noise", 0.0), getattr(settings, "masked", 0.0)
    training, core = training_model(model, augmentation, note["precision"], target, adjustment, *corruption)
    pretrained = [variable for name in taken for variable in core.get_layer(name).trainable_variables]
    compile_model(training, new_optimizer(settings, settings.epochs * steps, pretrained), settings)
    training.optimizer.build(training.trainable_variables)

    callbacks = schedule_callbacks(settings)
    if settings.patience:
        mode = "min" if settings.monitor == "val_loss" else "max"
        stopping = keras.callbacks.EarlyStopping(monitor=settings.monitor, patience=settings.patience, mode=mode)
        callbacks.insert(0, stopping)
    # What validation is of, in this order: the optimizer's average, where it keeps one, with its own statistics.
    average = [keras.callbacks.SwapEMAWeights()] if training.optimizer.use_ema else []
    if settings.statistics == "precise":
        callbacks.insert(0, PreciseBatchNorm(core, sample_of(fold, settings, number)))
    state = KeepState(run.state, core, note, callbacks, average)
    state.set_model(training)
    seed_layers(training, core, settings.seed, number, 0 if not begun else len(begun[0]["history"]) * steps)
    if begun:
        state.restore(*begun)
    elif anew:  # at once, so that the same command without FORCE=1 goes on with this, not with what it will replace
        state.commit()
    done = len(state.history)
    if done:
        print(f"going on after epoch {done} of {run.state}")

    pictures = Phases(*phases(settings.epochs, settings.low_resolution, settings.unaugmented), augmentation)
    progress = Progress(run.fold, settings, steps)
    shown = keras.callbacks.LambdaCallback(on_epoch_end=progress.show)
    if not state.finished:
        training.fit(
            Batches(batches, done * steps),
            steps_per_epoch=steps,
            epochs=settings.epochs,
            initial_epoch=done,
            validation_data=(fold.x_val, fold.y_val),
            validation_batch_size=500,
            validation_freq=validated_epochs(settings),
            class_weight=class_weights(fold.y_train) if settings.class_weights else None,
            callbacks=[pictures, progress, *average, *callbacks, state, shown],
            shuffle=False,  # the batches are drawn already
            verbose=0,
        )
    if not state.finished:
        raise RunFailed(
            f"training ended after epoch {len(state.history)} of {settings.epochs}; the same command goes on"
        )
    core.set_weights(state.best)
    copy_weights(model, core)
    return state
