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
from runs import as_columns, best_epoch
from training_model import OWN_NAMES, compile_model, copy_weights, training_model
from util import hardware
from util.backend import Later, keras
from util.cli import InputError, RunFailed, raise_what_was_heard
from util.files import require_writable, sha256
from util.hardware import processor_name, set_up_device
from util.plots import duration

layers, ops = keras.layers, keras.ops
class_weight, jax = Later("sklearn.utils.class_weight"), Later("jax")

# --- Before training --------------------------------------------------------------------------------------------------


def require_any_size(model):
    """Raise InputError where a model does not take the pictures with which a `low_resolution` training begins."""
    size = (LOW_RESOLUTION_SIDE, LOW_RESOLUTION_SIDE)
    try:
        small = keras.models.clone_model(model, input_tensors=keras.Input((*size, IMAGE_SHAPE[2])))
    except ValueError:  # a Reshape, say, or branches that no longer fit together
        fits = False
    else:
        fits = [weight.shape for weight in small.weights] == [weight.shape for weight in model.weights]
        fits = fits and (len(small.output_shape) != 4 or small.output_shape[1:3] == size)  # an autoencoder's pictures
    if not fits:
        raise InputError(
            f"`low_resolution` shows pictures of {LOW_RESOLUTION_SIDE}x{LOW_RESOLUTION_SIDE} at first, and this "
            "network does not take those: leave it out, or build it for pictures of any size, with global pooling "
            "instead of flattening"
        )


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


def code_sha256():
    """SHA-256 of the code that a training's weights follow from, committed or not."""
    here = Path(__file__).parent
    names = "data", "common", "networks", "recipes", "training", "training_model", "kernels", "optimizers", "resume"
    files = [here / f"{name}.py" for name in names]
    return sha256(*(np.fromfile(path, np.uint8) for path in files))


# --- Callbacks --------------------------------------------------------------------------------------------------------


class Batches(keras.utils.PyDataset):
    """BalancedBatches as fit takes them, from `first_step` on."""

    num_batches = None  # endless: with `steps_per_epoch`, fit counts the index on across epochs

    def __init__(self, batches, first_step=0):
        super().__init__()
        self.batches, self.first_step = batches, first_step

    def __getitem__(self, index):
        return self.batches[self.first_step + index]


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


# --- Training ---------------------------------------------------------------------------------------------------------


def train(recipe, run, fold, force=False, prepare=None, **more):
    """Train on `fold` what the recipe says; write checkpoint and record, going on from a state.

    `more` are settings that became known since the recipe was resolved. `prepare(model)` may put weights into the new
    model and freeze layers; what it returns goes into the record. Does nothing where the run is finished with the same
    settings, unless `force`.
    """
    found = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
    options = recipe.settings.model_copy(update={key: fold.record[key] for key in found} | more)
    settings = options.model_dump()
    begun = None if force else run.unfinished(settings, fold.class_names)
    if not force and not begun and run.already_finished(settings, fold.class_names):
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
    note = {"settings": settings, "precision": precision, "machine": machine, "class_names": fold.class_names}
    state = fit(model, run, fold, options, note, begun, force, notes.get("taken", ()))
    history = as_columns(state.history)  # null: not validated in that epoch
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
    training, twin = training_model(model, augmentation, note["precision"], target, adjustment, *corruption)
    pretrained = [variable for name in taken for variable in twin.get_layer(name).trainable_variables]
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
        callbacks.insert(0, PreciseBatchNorm(twin, sample_of(fold, settings, number)))
    state = KeepState(run.state, twin, note, callbacks, average)
    state.set_model(training)
    seed_layers(training, twin, settings.seed, number, 0 if not begun else len(begun[0]["history"]) * steps)
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
    twin.set_weights(state.best)
    copy_weights(model, twin)
    return state
