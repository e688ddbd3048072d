"""Exact continuation: all that a training needs to go on as if it had not stopped, kept after each epoch."""

import json

import numpy as np

from common import rng
from recipes import SCHEDULES
from runs import best_epoch
from util.backend import keras
from util.cli import InputError
from util.files import write_arrays

ops = keras.ops


def random_states(training, twin):
    """The variables that random layers draw by: [(number of the layer, number within it, variable)]."""
    corrupting = [layer for layer in training.layers if layer.name == "corrupt"]
    return [
        (number, within, variable)
        for number, layer in enumerate([training.get_layer("augment"), *twin.layers, *corrupting])
        for within, variable in enumerate(v for v in layer.variables if all(v is not w for w in layer.weights))
    ]


def seed_layers(training, twin, seed, fold, step=0):
    """Set what every random layer draws by, so that its draws follow from (seed, fold, step).

    The second number counts what a layer has drawn: a layer that draws once a step is at `step` before that step.
    """
    for number, within, variable in random_states(training, twin):
        key = int(rng(seed, "layers", fold, number, *([within] if within else [])).integers(2**31))
        variable.assign([key, step])


class KeepState(keras.callbacks.Callback):
    """Keeps the best weights and, after each epoch, writes all that an exact continuation needs.

    `conditions` are the settings, the classes, the precision and the machine; `unfinished` is what Run.unfinished read
    of a training that goes on, if one does. Counters inside early stopping and the learning rate's schedule are not
    written: they follow from the history, which a training that goes on replays through those callbacks.
    """

    def __init__(self, path, conditions, unfinished=None, save_at_once=False):
        super().__init__()
        self.path, self.conditions, self.unfinished, self.save_at_once = path, conditions, unfinished, save_at_once
        self.history, self.best, self.finished = [], [], False

    def begin(self, training, twin, watching):
        """Take the training model as it is, or put into it what an unfinished training had come to.

        `watching` are the callbacks that judge an epoch by its figures.
        """
        self.twin, self.watching = twin, watching
        self.set_model(training)
        if self.unfinished:
            self.restore(*self.unfinished)
        elif self.save_at_once:  # the same command without FORCE=1 then goes on with this training
            self.save()

    def restore(self, note, groups):
        weights, self.best, optimizer, draws = groups
        self.history, self.finished = note["history"], note["finished"]
        variables = [
            *self.model.optimizer.variables,
            *(variable for *_, variable in random_states(self.model, self.twin)),
        ]
        try:
            self.twin.set_weights(weights)
            for variable, value in zip(variables, [*optimizer, *draws], strict=True):
                variable.assign(value)
        except ValueError:  # they differ in number or shape
            raise InputError(
                f"{self.path} is of another version of this code: finish it with that, or FORCE=1 starts it again"
            ) from None
        if note["machine"] != self.conditions["machine"]:
            print(
                f"this training began with {note['machine']} and goes on with {self.conditions['machine']}: "
                "it will not end bit for bit as it would have there"
            )
        if self.history:
            print(f"going on after epoch {len(self.history)} of {self.path}")

    def on_train_begin(self, logs=None):
        # The replay begins with the first epoch's rate and lowers it as it was lowered. A schedule over the run's steps
        # follows from the optimizer's own count of steps.
        settings = self.conditions["settings"]
        if settings["schedule"] not in SCHEDULES:
            self.model.optimizer.learning_rate = settings["learning_rate"]
        for callback in self.watching:  # this callback comes after them, so they have forgotten earlier trainings
            for epoch, figures in enumerate(self.history):
                callback.on_epoch_end(epoch, dict(figures))

    def on_epoch_end(self, epoch, logs=None):
        settings = self.conditions["settings"]
        self.history.append({key: float(value) for key, value in logs.items()})
        if "val_loss" in logs and best_epoch(self.history, settings["monitor"]) == epoch:
            self.best = self.twin.get_weights()
        self.finished = bool(self.model.stop_training) or epoch + 1 == settings["epochs"]
        self.save()

    def save(self):
        draws = [variable for *_, variable in random_states(self.model, self.twin)]
        groups = {
            "weights": self.twin.get_weights(),
            "best": self.best,
            "optimizer": [ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables],
            "draws": [ops.convert_to_numpy(variable) for variable in draws],
        }
        sizes = {name: len(arrays) for name, arrays in groups.items()}
        note = {**self.conditions, "history": self.history, "finished": self.finished, **sizes}
        arrays = {f"{name}{i}": array for name, group in groups.items() for i, array in enumerate(group)}
        write_arrays(self.path, note=np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays)
