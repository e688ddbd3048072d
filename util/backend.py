"""Keras and other large packages, loaded when one of their names is first used: `--help` need not wait for them."""

import contextlib
import functools
import importlib
import os
import tempfile
from pathlib import Path

from util.cli import InputError

# What Keras reads of its surroundings, with what it is by itself: a result follows from settings and code alone.
ASIDE = ("KERAS_MAX_EPOCHS", "KERAS_MAX_STEPS_PER_EPOCH")
PLAIN = {
    "floatx": "float32",
    "epsilon": 1e-7,
    "image_data_format": "channels_last",
    "dtype_policy": "float32",
    "max_epochs": None,
    "max_steps_per_epoch": None,
}


@contextlib.contextmanager
def silent_stderr():
    """Hide what TensorFlow prints while it loads, before its log level counts; show it where loading fails."""
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except Exception:  # not where it is stopped, which is told in one line
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def keras_home():
    """Keras's folder, of its configuration and of the data that it downloads."""
    return Path(os.environ.get("KERAS_HOME") or os.path.expanduser("~/.keras"))


@functools.cache
def load(name):
    """The module called `name`. Raises InputError where this environment does not have it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX takes GPU memory as needed: folds share it
    for variable in ASIDE:
        os.environ.pop(variable, None)
    os.environ["KERAS_NNX_ENABLED"] = "false"  # goes before keras.json, where true fails without a further package
    try:
        with silent_stderr():
            module = importlib.import_module(name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"this environment cannot be used ({error}): {remedy(error)}") from None
    if name == "keras":
        for key, value in PLAIN.items():
            getattr(module.config, f"set_{key}")(value)
    return module


def remedy(error):
    """What to do about an import that failed, by its cause."""
    file = keras_home() / "keras.json"
    if isinstance(error, MemoryError) or "llocate memory" in str(error) or "failed to map" in str(error):
        return "there is too little memory for it; close other programs, or ask for more"
    if not isinstance(error, ImportError) and "backend" not in str(error) and file.exists():
        return f"mend {file}, or delete it"
    chosen = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") or not file.exists() else f"KERAS_BACKEND, or {file},"
    return (
        "install requirements.txt into it, or let make choose its own; "
        f"{chosen} may say tensorflow, or jax where JAX is installed"
    )


class Later:
    """A module, loaded at the first use of one of its names."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(load(self._name), attribute)


keras, layers, ops = Later("keras"), Later("keras.layers"), Later("keras.ops")


def followers(model):
    """{name of a layer: the layers of `model` that take its output}."""
    found = {layer.name: [] for layer in model.layers}
    of_output = {id(layer.output): found[layer.name] for layer in model.layers}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            if id(tensor) in of_output:  # of an input layer, its own
                of_output[id(tensor)].append(layer)
    return {name: [one for one in after if one.name != name] for name, after in found.items()}
