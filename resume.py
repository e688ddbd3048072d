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
    return [
        (number, within, variable)
        for number, layer in enumerate(
            [training.get_layer("augment"), *twin.layers, *(one for one in training.layers if one.name == "corrupt")]
        )
        for within, variable in enumerate(v for v in layer.variables if all(v is not w for w in layer.weights))
    ]


def seed_layers(training, twin, seed, fold, step):
    """Set what every random layer draws by, so that its draws follow from (seed, fold, step).

    A step of a layer that draws once moves the second number by one; a resumed run takes the number from its state.
    """
    for number, within, variable in random_states(training, twin):
        key = int(rng(seed, "layers", fold, number, *([within] if within else [])).integers(2**31))
        variable.assign([key, step])


class KeepState(keras.callbacks.Callback):
    """Keeps the best weights, and commits after each epoch all that an exact continuation needs.

    The counters of early stopping and of the learning-rate schedule follow from the history, so a continued run replays
    the history through those callbacks instead of saving what is inside them.
    """

    def __init__(self, path, twin, note, callbacks, average):
        super().__init__()
        self.path, self.twin, self.note, self.replayed, self.average = path, twin, note, callbacks, average
        self.history, self.best, self.finished = [], [], False

    def restore(self, note, groups):
        """Take up what Run.unfinished read."""
        weights, self.best, optimizer, draws = groups
        states = [variable for *_, variable in random_states(self.model, self.twin)]
        try:
            self.twin.set_weights(weights)
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
        weights = self.twin.get_weights()
        for average in self.average:
            average.on_test_end()
        return weights

    def commit(self):
        variables = {
            "optimizer": self.model.optimizer.variables,
            "draws": [variable for *_, variable in random_states(self.model, self.twin)],
        }
        groups = {"weights": self.twin.get_weights(), "best": self.best}
        groups |= {name: [ops.convert_to_numpy(one) for one in several] for name, several in variables.items()}
        note = {
            **self.note,
            "history": self.history,
            "finished": self.finished,
            **{group: len(arrays) for group, arrays in groups.items()},
        }
        arrays = {f"{group}{i}": array for group, members in groups.items() for i, array in enumerate(members)}
        write_arrays(self.path, note=np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays)
