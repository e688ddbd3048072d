"""What the tests share: the project on the import path, a small data set, a directory to work in, files to expect."""

import contextlib
import dataclasses
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import recipes  # noqa: E402 (needs the path above)
from util import cli, hardware  # noqa: E402
from util.backend import layers  # noqa: E402
from util.options import parse  # noqa: E402

# The reference's way to train a classifier, which most tests of trainings were made for.
REFERENCE = json.loads((ROOT / "docs/reference.json").read_text())
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def make(folder, *arguments, python=sys.executable, timeout=60, **environment):
    """Run make in `folder` with `python` as its PYTHON (None: without), as if typed: tests may run under make, too."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments, *([f"PYTHON={python}"] if python else [])],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def copy_project(folder, *names):
    """Copy these files of the project, by default all that make needs to train and evaluate, into a new folder."""
    folder.mkdir()
    for name in names or ("Makefile", *(path.name for path in ROOT.glob("*.py"))):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "util", folder / "util", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def start(folder, script, *options, output=""):
    """Start a script in `folder`; what it prints goes to files there, `out` and `err`, as in a job on a cluster."""
    for path in (ROOT / "util", *ROOT.glob("*.py")):
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    with open(folder / f"{output}out", "w") as out, open(folder / f"{output}err", "w") as err:
        return subprocess.Popen([sys.executable, script, *options], cwd=folder, stdout=out, stderr=err)


def wait_until(happened, process, what, seconds=120):
    """Wait until `happened()`; the process may not end before."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, f"ended with status {process.returncode} before {what}"
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def files_of_autoencoder(name):
    """Names of the files of a trained and evaluated autoencoder: (in checkpoints, in imgs)."""
    images = {f"{name}_{plot}.png" for plot in ("loss", "psnr", "reconstructions")}
    return {f"{name}.keras", f"{name}.json"}, images | files_of_report(name)


def files_of_classifier(name, folds):
    """Names of the files of a classifier of which these folds were trained and evaluated: (in checkpoints, in imgs)."""
    kinds, plots = (".keras", ".json", "_predictions.npz"), ("accuracy", "loss", "heatmap")
    images = {f"{name}_fold{fold}_{plot}.png" for fold in folds for plot in plots} | {f"{name}_predictions.png"}
    return {f"{name}_fold{fold}{kind}" for fold in folds for kind in kinds}, images | files_of_report(name)


def files_of_report(name):
    return {f"{name}_{what}" for what in ("report.txt", "report.json", "architecture.txt", "architecture.png")}


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


def tiny_classifier(x, classes):
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 8, strides=8, name="conv")(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.Flatten(name="flatten")(x))


def tiny_autoencoder(x, classes=None):
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="conv")(x))
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


@pytest.fixture(scope="module")
def tiny_recipes():
    """Small models under the real ones' names: here it is the files that matter."""
    builders = {"cnn": tiny_classifier, "autoencoder": tiny_autoencoder}
    with pytest.MonkeyPatch.context() as patch:
        for name, build in builders.items():
            row = recipes.RECIPES[name]
            settings = row.settings.model_copy(update={"epochs": 1})
            patch.setitem(recipes.RECIPES, name, dataclasses.replace(row, build=build, settings=settings))
        yield


@pytest.fixture(scope="module")
def tiny_study(npz, tiny_recipes, tmp_path_factory):
    """A folder with two finished folds of a small CNN and a small autoencoder of the data set small.npz."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder):
        shutil.copy(npz, "small.npz")
        for script, *words in (("train_cnn",), ("train_cnn", "--fold", "2"), ("train_autoencoder", "--noaug")):
            importlib.import_module(script).main(["--data", "small.npz", *words])
    return folder


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """An empty working directory of the test's own, so that it never touches the real checkpoints and images."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Everything(recipes.ClassifierChoice, recipes.Training):
    """All that a training may be told."""

    fold: int | None = recipes.fold_setting()


@pytest.fixture(scope="session")
def arguments():
    """arguments('--epochs', 3) -> (what chooses the run, {setting: value that was typed}) of a training."""
    return lambda *argv: parse("a training", Everything, list(map(str, argv)), recipes.RECIPES["cnn"].settings)


@pytest.fixture(scope="session")
def resolved(arguments):
    """resolved('--epochs', 3, row='cnn'): the recipe of that training."""
    return lambda *argv, row="cnn": recipes.resolve(row, *arguments(*argv))


@pytest.fixture(autouse=True)
def stays(monkeypatch):
    """A script that a signal ends leaves the process at once, which the tests' own must not."""
    monkeypatch.setattr(cli, "leave", sys.exit)


@pytest.fixture(scope="session", autouse=True)
def device():
    """Where the tests use TensorFlow, set it up first: it takes its number of threads only before it starts."""
    if "keras" in sys.modules:
        hardware.set_up_device()
