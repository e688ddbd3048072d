"""How a run is trained: what it starts from, its epochs, what they print, its record.

Loads Keras, so the scripts load it last.
"""

import math
import os
import sys
import time
from pathlib import Path

import numpy as np

import common
from common import BalancedBatches, TurnedBatches, rng, turn_in_order
from data import IMAGE_SHAPE
from optimizers import new_optimizer, schedule_callbacks
from recipes import LOW_RESOLUTION_SIDE, PLAIN, phases
from resume import KeepState, seed_layers
from runs import as_columns, best_epoch, finished_trainings, require_one_study
from training_model import OWN_NAMES, compile_model, copy_weights, training_model
from util import hardware
from util.backend import Later, keras
from util.cli import InputError, RunFailed, raise_what_was_heard
from util.files import require_writable, sha256
from util.hardware import processor_name, set_up_device
from util.plots import duration

layers, ops = keras.layers, keras.ops
class_weight, jax = Later("sklearn.utils.class_weight"), Later("jax")

# The settings of a training that follow from its pictures.
DATA_SETTINGS = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
# All of the project's code that weights follow from. A test compares the list with what this file imports.
CODE = (
    *("common", "data", "kernels", "networks", "optimizers", "recipes", "resume", "runs", "training", "training_model"),
    *("util/backend", "util/hardware"),
)

# --- The network ------------------------------------------------------------------------------------------------------


def require_any_size(model):
    """Raise InputError where a model does not take the small pictures with which a `low_resolution` training begins."""
    size = (LOW_RESOLUTION_SIDE, LOW_RESOLUTION_SIDE)
    try:
        small = keras.models.clone_model(model, input_tensors=keras.Input((*size, IMAGE_SHAPE[2])))
    except ValueError:  # as Keras raises it where shapes do not fit, such as those of a concatenation
        fits = False
    else:
        fits = [weight.shape for weight in small.weights] == [weight.shape for weight in model.weights]
        if len(model.output_shape) == 4:  # an autoencoder's pictures
            fits = fits and small.output_shape[1:3] == size
    if not fits:
        raise InputError(
            f"`low_resolution` shows pictures of {LOW_RESOLUTION_SIDE}x{LOW_RESOLUTION_SIDE} at first, and this "
            "network does not take those: leave it out, or build it for pictures of any size, with global pooling "
            "instead of flattening"
        )


def require_known_layers(model):
    """Raise InputError for a network of which no twin can be made, or whose training could not be repeated exactly.

    A twin is made of Keras's own layers, each called once. The random draws of other layers are unknown here, and their
    files would not open elsewhere.
    """
    for layer in model._flatten_layers(include_self=False):  # with those inside a Sequential or a wrapper
        if not type(layer).__module__.startswith("keras.") or isinstance(layer, layers.Lambda):
            raise InputError(
                f"the layer {layer.name!r} of this network is a {type(layer).__name__}, none of Keras's own: its "
                "random draws could not be repeated, nor its file opened elsewhere; build the network of keras.layers"
            )
        if isinstance(layer, layers.BatchNormalization) and layer not in model.layers:
            raise InputError(
                f"the batch normalisation {layer.name!r} of this network is within another layer, where its "
                "statistics cannot be computed anew: call the layers of that one after another"
            )
    for operation in model.operations:
        if not isinstance(operation, layers.Layer):
            raise InputError(
                f"this network has an operation {operation.name!r} that is no layer: build it of keras.layers alone, "
                "such as Add or Multiply instead of + or *"
            )
        if operation.name in OWN_NAMES:
            raise InputError(
                f"training has a layer {operation.name!r} of its own: give that of this network another name"
            )
    for config in model.get_config()["layers"]:
        if len(config["inbound_nodes"]) > 1:
            raise InputError(f"the layer {config['name']!r} of this network is called twice: make one for each place")


def new_model(recipe, settings, fold, run):
    """The network with the weights that it starts from, which follow from the seed, the fold and the training images.

    Raises InputError where it cannot be trained here.
    """
    number = run.fold or 1
    keras.utils.set_random_seed(int(rng(settings.seed, "weights", number).integers(2**32)))
    model = common.finished_model(recipe.build, settings, len(fold.class_names), run.name)
    require_known_layers(model)
    if recipe.start:
        recipe.start(model, sample_of(fold, settings, number))
    if settings.low_resolution:
        require_any_size(model)
    return model


# --- What it is trained on --------------------------------------------------------------------------------------------


def augmentation_of(settings):
    """The augmentation of a training; an autoencoder's may be switched off."""
    return settings.augmentation if getattr(settings, "augment", True) else PLAIN


def training_batches(fold, settings, number):
    """The batches of fold `number`: a function of the seed, the fold and the step alone."""
    alternating = augmentation_of(settings).flip == "alternating"
    order = settings.batch_size, settings.seed, number, settings.balanced, alternating
    batches = BalancedBatches(fold.x_train, fold.y_train, *order)
    return TurnedBatches(batches, settings.seed, number) if settings.task == "turns" else batches


def class_weights(labels):
    """{class: images / (classes * images of the class)}, by which a class's losses are multiplied."""
    classes = np.unique(labels)
    weights = class_weight.compute_class_weight("balanced", classes=classes, y=labels)
    return dict(zip(classes.tolist(), weights, strict=True))


def sample_of(fold, settings, number):
    """2,000 training images, or as many as there are: (n, 32, 32, 3) uint8, the same throughout a training."""
    rows = rng(settings.seed, "sample", number).permutation(len(fold.x_train))[:2000]
    return turn_in_order(fold.x_train[rows])[0] if settings.task == "turns" else fold.x_train[rows]


def validated_epochs(settings):
    """The epochs, counted from 1, after which a training is validated: every so many, and the last."""
    return sorted({*range(settings.validate_every, settings.epochs, settings.validate_every), settings.epochs})


# --- Callbacks --------------------------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """Batches as Keras's fit takes them, from `first_step` on."""

    num_batches = None  # endless: with `steps_per_epoch`, fit counts the index on across epochs

    def __init__(self, batches, first_step=0):
        super().__init__()
        self.batches, self.first_step = batches, first_step

    def __getitem__(self, index):
        return self.batches[self.first_step + index]


class PreciseBatchNorm(keras.callbacks.Callback):
    """Gives a model's batch normalisations the statistics of (n, 32, 32, 3) pictures, before each validation.

    The moving averages are of augmented pictures, unlike those that the model will see, and change with every step.
    These are averages, over equal batches, of each batch's mean and variance. All other layers compute as they will
    when the model is used, and frozen layers keep what they have (Wu and Johnson 2021, Rethinking "Batch" in
    BatchNorm).
    """

    def __init__(self, model, images):
        super().__init__()
        self.batches = np.array_split(images, -(-len(images) // 500))
        self.norms = [one for one in model.layers if isinstance(one, layers.BatchNormalization) and one.trainable]

        def call(layer, *args, **kwargs):
            normalises = layer in self.norms or hasattr(layer, "folded_norm")  # a kernels.FirstBlock
            return layer(*args, **(kwargs | {"training": True} if normalises else kwargs))

        # The model itself, layer by layer, but with its batch normalisations as in training.
        self.normalising = keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)

    def update_statistics(self):
        momenta = [norm.momentum for norm in self.norms]
        for number, batch in enumerate(self.batches if self.norms else []):
            for norm in self.norms:
                norm.momentum = number / (number + 1)  # makes a running average of all batches so far
            self.normalising(batch)
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.momentum = momentum

    def on_test_begin(self, logs=None):
        self.update_statistics()


class Phases(keras.callbacks.Callback):
    """What the pictures of an epoch are: of low resolution or whole, augmented by `augmentation` or as they are.

    Those of low resolution take half the time (Tan and Le 2021, EfficientNetV2, have the resolution grow in steps).
    """

    def __init__(self, low_resolution_until, unaugmented_from, augmentation):
        super().__init__()
        self.low_resolution_until, self.unaugmented_from = low_resolution_until, unaugmented_from
        self.augmentation, self.replaced = augmentation, []

    def on_epoch_begin(self, epoch, logs=None):
        augment, shrink = self.model.get_layer("augment"), self.model.get_layer("shrink")
        augmentation = self.augmentation if epoch < self.unaugmented_from else PLAIN
        side = LOW_RESOLUTION_SIDE if epoch < self.low_resolution_until else None
        if (augmentation, side) != (augment.augmentation, shrink.side):
            augment.augmentation, shrink.side = augmentation, side
            if keras.backend.backend() == "jax":  # it would go on with the step that it has compiled
                jax.clear_caches()
            else:  # kept: a signal that comes while TensorFlow deletes a step is swallowed, and shows a traceback
                self.replaced.append(self.model.train_function)
            self.model.make_train_function(force=True)  # a step is compiled for what these layers were then


class Measure(keras.callbacks.Callback):
    """Adds learning rate, seconds and images per second to an epoch's figures. Stops a run whose loss is not finite."""

    def __init__(self, settings, steps):
        super().__init__()
        self.images, self.start_rate = steps * settings.batch_size, settings.learning_rate

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch, self.start, self.trained = epoch + 1, time.perf_counter(), None

    def on_train_batch_end(self, batch, logs=None):
        raise_what_was_heard()
        self.require_finite(logs["loss"])

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        now = time.perf_counter()
        self.require_finite(logs.get("val_loss", 0.0))  # not every epoch is validated
        logs["learning_rate"] = float(ops.convert_to_numpy(self.model.optimizer.learning_rate))
        logs["seconds"] = now - self.start
        logs["images_per_second"] = self.images / ((self.trained or now) - self.start)

    def require_finite(self, loss):
        if not math.isfinite(loss):
            raise RunFailed(
                f"the loss became {loss} in epoch {self.epoch}; "
                f"start again with FORCE=1 and a smaller LR than {self.start_rate:g}"
            )


class Progress(keras.callbacks.Callback):
    """Prints one line an epoch; on a terminal also one that moves within the epoch.

    Comes after KeepState: an epoch whose line is there is not done again.
    """

    def __init__(self, fold, settings, steps):
        super().__init__()
        self.steps, self.epochs, self.may_stop_early = steps, settings.epochs, bool(settings.patience)
        self.label = f"fold {fold}  " if fold else ""  # tells the folds of `make -j` apart
        # Under make -j, folds would share the one line that moves.
        self.moving_line = sys.stdout.isatty() and "jobserver" not in os.environ.get("MAKEFLAGS", "")
        self.first, self.shown = True, 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = f"epoch {epoch + 1}/{self.epochs}"

    def on_train_batch_end(self, batch, logs=None):
        if self.moving_line and time.perf_counter() - self.shown > 1:
            self.shown = time.perf_counter()
            print(f"\r{self.epoch}  {(batch + 1) / self.steps:.0%}  loss {logs['loss']:.4f}\033[K", end="", flush=True)

    def on_epoch_end(self, epoch, logs=None):
        score, form = ("accuracy", ".4f") if "accuracy" in logs else ("psnr", ".2f")
        words = [self.epoch, f"loss {logs['loss']:.4f}", f"{score} {logs[score]:{form}}"]
        if "val_loss" in logs:
            words += [f"val_loss {logs['val_loss']:.4f}", f"val_{score} {logs[f'val_{score}']:{form}}"]
        words += [f"lr {logs['learning_rate']:.2g}", f"{logs['images_per_second']:,.0f} images/s"]
        erase = "\r\033[K" if self.moving_line else ""
        print(erase + self.label + "  ".join([*words, f"{logs['seconds']:.0f} s"]), flush=True)
        left = self.epochs - epoch - 1
        if self.first and left:
            about, sooner = ("at most", "; early stopping may end it sooner") if self.may_stop_early else ("about", "")
            print(f"{self.label}{about} {duration(left * logs['seconds'])} to go{sooner}", flush=True)
        self.first = False


# --- Training ---------------------------------------------------------------------------------------------------------


def code_sha256():
    """SHA-256 of the code that a training's weights follow from, committed or not."""
    here = Path(__file__).parent
    return sha256(*(np.fromfile(here / f"{name}.py", np.uint8) for name in CODE))


def train(recipe, run, fold, force=False, prepare=None, **late_settings):
    """Train on `fold` as the recipe says, or continue an unfinished training; write the checkpoint and its record.

    Does nothing where the run is finished with the same settings, unless `force`. `prepare(model)` may put weights into
    the new model and freeze layers; what it returns goes into the record. `late_settings` became known only after the
    recipe was resolved.
    """
    found = {key: fold.record[key] for key in DATA_SETTINGS}
    settings = recipe.settings.model_copy(update=found | late_settings)
    unfinished = None if force else run.unfinished(settings.model_dump(), fold.class_names)
    if not force and not unfinished and run.already_finished(settings.model_dump(), fold.class_names):
        return
    require_writable(run.folder)
    device, _ = set_up_device()
    precision, reason = hardware.resolve_precision(settings.precision)
    if unfinished and unfinished[0]["precision"] != precision:
        precision, reason = unfinished[0]["precision"], "as this training was begun"
    model = new_model(recipe, settings, fold, run)
    prepared = prepare(model) if prepare else {}
    record = {
        "run": run.name,
        "fold": run.fold,
        "settings": settings.model_dump(),
        "data": fold.record,
        "parameters": model.count_params(),
        "trainable_parameters": common.count_trainable(model),
        **prepared,
        "device": device,
        "precision": precision,
        "precision_reason": reason,
        "versions": hardware.versions(),
        "commit": hardware.current_commit(Path(__file__).parent),
        "code_sha256": code_sha256(),
    }
    if not force and not unfinished:  # else the evaluation would refuse this fold beside those that are finished
        require_one_study({one: one.read_record() for one in finished_trainings(run.name, run.folder)} | {run: record})
    print(f"model: {run.title}, {record['parameters']:,} parameters, {record['trainable_parameters']:,} trainable")
    backend = f"{keras.backend.backend()} {record['versions'][keras.backend.backend()]}"
    print(f"device: {device}; {precision} ({reason}); Keras {keras.__version__} on {backend}", flush=True)

    # The same weights, bit for bit, take the same of all of these.
    machine = f"{processor_name()}, {device}, Keras {keras.__version__} on {backend}, code {record['code_sha256'][:8]}"
    conditions = {"settings": settings.model_dump(), "class_names": fold.class_names}
    conditions |= {"precision": precision, "machine": machine}
    state = KeepState(run.state, conditions, unfinished, save_at_once=force)
    fit(model, fold, settings, run.fold, state, prepared.get("taken", ()))

    history = as_columns(state.history)
    best = best_epoch(state.history, settings.monitor)
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


def fit(model, fold, settings, fold_number, state, pretrained=()):
    """Bring `model` to the weights of its best epoch, by way of `state`; `pretrained` are names of layers."""
    number = fold_number or 1
    batches = training_batches(fold, settings, number)
    steps = batches.steps_per_epoch

    shares = np.bincount(fold.y_train) / len(fold.y_train)
    adjustment = settings.logit_adjustment * np.log(shares) if settings.logit_adjustment else None
    target = getattr(settings, "target", None)
    corruption = getattr(settings, "noise", 0.0), getattr(settings, "masked", 0.0)
    augmentation, precision = augmentation_of(settings), state.conditions["precision"]
    training, twin = training_model(model, augmentation, precision, target, adjustment, *corruption)
    slower = [variable for name in pretrained for variable in twin.get_layer(name).trainable_variables]
    compile_model(training, new_optimizer(settings, settings.epochs * steps, slower), settings)
    training.optimizer.build(training.trainable_variables)

    statistics = [PreciseBatchNorm(twin, sample_of(fold, settings, number))] if settings.statistics == "precise" else []
    watching = schedule_callbacks(settings)
    if settings.patience:
        mode = "min" if settings.monitor == "val_loss" else "max"
        watching.insert(0, keras.callbacks.EarlyStopping(settings.monitor, patience=settings.patience, mode=mode))
    seed_layers(training, twin, settings.seed, number)
    state.begin(training, twin, watching)

    epochs = len(state.history)
    if not state.finished:
        training.fit(
            Batches(batches, epochs * steps),
            steps_per_epoch=steps,
            epochs=settings.epochs,
            initial_epoch=epochs,
            validation_data=(fold.x_val, fold.y_val),
            validation_batch_size=500,
            validation_freq=validated_epochs(settings),
            class_weight=class_weights(fold.y_train) if settings.class_weights else None,
            callbacks=[
                Phases(*phases(settings.epochs, settings.low_resolution, settings.unaugmented), augmentation),
                Measure(settings, steps),
                *statistics,
                *watching,
                state,
                Progress(fold_number, settings, steps),
            ],
            shuffle=False,  # the batches are drawn already
            verbose=0,
        )
    twin.set_weights(state.best)
    copy_weights(model, twin)
