"""What the tests share: the project on the import path, a small data set, a directory to work in."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import options  # noqa: E402 (needs the path above)

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def small_pictures(per_class):
    """`per_class` noisy uint8 pictures of each of ten easily told patterns, shuffled, and their labels."""
    random = np.random.default_rng(per_class)
    patterns = np.random.default_rng(0).uniform(40, 215, (10, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    labels = random.permutation(np.arange(10).repeat(per_class))
    noise = random.normal(0, 20, (len(labels), 32, 32, 3))
    return np.clip(patterns[labels] + noise, 0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """Path of a small data set: 40 training and 5 test pictures of each of CIFAR-10's ten classes."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    (x_train, y_train), (x_test, y_test) = small_pictures(40), small_pictures(5)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    np.savez(path, **arrays, class_names=np.array(CLASSES))
    return path


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty working directory of the test's own, so that it never touches the real checkpoints and images."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def arguments():
    """A parser of everything that a training may be told: arguments('--epochs', '3') -> args."""
    names = [*options.DATA_OPTIONS, "fold", "noaug", "target", *options.TRAINING_OPTIONS]
    return lambda *argv: options.parse("a training", names, [str(word) for word in argv])


@pytest.fixture(scope="session", autouse=True)
def device():
    """Where the tests use TensorFlow, set it up first: it takes its number of threads only before it starts."""
    if "common" in sys.modules:
        sys.modules["common"].set_up_device()
