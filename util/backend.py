"""Keras and other large packages, imported when they are first used, in surroundings that decide no result."""

import contextlib
import importlib.util
import os
import sys
import tempfile
import threading
from pathlib import Path

from util.cli import InputError

# These would change what is computed: without them, everybody has the defaults that the published figures have.
for variable in (
    "KERAS_MAX_EPOCHS",
    "KERAS_MAX_STEPS_PER_EPOCH",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_DETERMINISTIC_OPS",
    "JAX_ENABLE_X64",
    "JAX_THREEFRY_PARTITIONABLE",
):
    os.environ.pop(variable, None)
os.environ["KERAS_NNX_ENABLED"] = "false"  # true in keras.json would need a further package
os.environ["KERAS_BACKEND"] = os.environ.get("KERAS_BACKEND") or "tensorflow"  # whatever keras.json says
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX takes GPU memory as needed: folds share it


class Later:
    """A module that is imported when one of its names is first used: `--help` need not wait for TensorFlow.

    Not lazy_loader's: it puts a module into sys.modules before it is imported, and whatever looks at all modules there,
    as inspect.stack() does, then imports them in the midst of something else. That was seen to hang.
    """

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        package = self._name.partition(".")[0]
        if package not in sys.modules:
            if package == "keras":
                require_backend(os.environ["KERAS_BACKEND"])
            with without_notes():
                importlib.import_module(self._name)
            if package == "keras":
                require_new_enough(sys.modules["keras"])
        return getattr(importlib.import_module(self._name), attribute)


@contextlib.contextmanager
def without_notes():
    """Keep from stderr what TensorFlow notes while it starts, which no setting stops; show it where its import fails.

    Only while there is one thread: what another one writes meanwhile would be lost.
    """
    if threading.active_count() > 1:
        yield
        return
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


BACKENDS = ("tensorflow", "jax")


def require_backend(name):
    """Raise InputError where Keras cannot compute with this backend here."""
    if name not in BACKENDS:
        raise InputError(f"KERAS_BACKEND={name} is not supported; take {' or '.join(BACKENDS)}")
    if not importlib.util.find_spec(name):
        raise InputError(f"KERAS_BACKEND={name}, but this Python has no {name}; PYTHON=/path/python takes one that has")


KERAS = (3, 15)  # as in requirements.txt


def require_new_enough(keras):
    """Raise InputError where Keras is an older one, which a cluster's PYTHONPATH may put before ours."""
    if tuple(map(int, keras.__version__.split(".")[:2])) < KERAS:
        raise InputError(
            f"Keras {keras.__version__} comes from {Path(keras.__file__).parent}, and {'.'.join(map(str, KERAS))} is "
            "needed: take that folder off PYTHONPATH, or install requirements.txt there"
        )


keras, layers, ops = Later("keras"), Later("keras.layers"), Later("keras.ops")

# What keras.json may say otherwise, with Keras's own defaults.
DEFAULTS = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "dtype_policy": "float32",
    "max_epochs": None,
    "max_steps_per_epoch": None,
}


def set_defaults():
    """Give Keras its own defaults. Belongs before everything that is built or computed with it."""
    for name, value in DEFAULTS.items():
        getattr(keras.config, f"set_{name}")(value)


def keras_home():
    """Keras's folder, of its configuration and of the data that it downloads."""
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))


def followers(model):
    """{name of a layer: the layers of `model` that take its output}."""
    found = {layer.name: [] for layer in model.layers}
    of_output = {id(layer.output): found[layer.name] for layer in model.layers}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            if id(tensor) in of_output:  # of an input layer, its own
                of_output[id(tensor)].append(layer)
    return {name: [one for one in after if one.name != name] for name, after in found.items()}
