"""Keras and other large packages, loaded when one of their names is first used: `--help` need not wait for them."""

import contextlib
import functools
import importlib
import os
import tempfile

from util.cli import InputError


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


@functools.cache
def load(name):
    """The module called `name`. Raises InputError where this environment does not have it."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX takes GPU memory as needed: folds share it
    try:
        with silent_stderr():
            return importlib.import_module(name)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"this environment cannot be used ({error}): install requirements.txt into it, or let make choose its own; "
            "KERAS_BACKEND is tensorflow, or jax where JAX is installed"
        ) from None


class Later:
    """A module, loaded at the first use of one of its names."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, attribute):
        return getattr(load(self._name), attribute)


keras, layers, ops = Later("keras"), Later("keras.layers"), Later("keras.ops")
