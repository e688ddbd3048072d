"""What the tests share: the project on the import path, a small data set, a directory to work in, files to expect."""

import contextlib
import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import common
import recipes
import runs
from util import cli, hardware
from util.backend import Later, layers
from util.options import parse

resume, training = Later("resume"), Later("training")  # they load TensorFlow, which not every test needs

# One thread a worker, here and in the processes that tests start.
os.environ.update(dict.fromkeys(("LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"))

ROOT = Path(__file__).resolve().parent.parent
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


def copy_project(folder):
    """Copy all that make needs to train and evaluate into a new folder."""
    folder.mkdir()
    for path in (ROOT / "Makefile", *ROOT.glob("*.py")):
        shutil.copy(path, folder)
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


def imported(path):
    """The project's own files that a file imports, such as 'util/files': by a statement, or when one is first used."""
    text, names = path.read_text(encoding="utf-8"), set()
    for module, some, more in re.findall(r"^ *from (\S+) import (?:\(([^)]*)\)|(.*))", text, re.MULTILINE):
        names |= {module, *(f"{module}.{name.strip()}" for name in (some or more).split(","))}
    names |= set(re.findall(r'^ *import (\S+)|Later\("(\S+?)"\)', text, re.MULTILINE))
    paths = {"".join(name).replace(".", "/") for name in names}
    return {path for path in paths if (ROOT / f"{path}.py").is_file()}


REPORT = ("report.txt", "report.json", "architecture.txt")


def files_of_autoencoder(name):
    """Names of the files of a trained and evaluated autoencoder: (in checkpoints, in imgs)."""
    images = {f"{name}_{what}" for what in ("loss.png", "psnr.png", "reconstructions.png", *REPORT)}
    return {f"{name}.keras", f"{name}.json"}, images


def files_of_classifier(name, folds):
    """Names of the files of a classifier of which these folds were trained and evaluated: (in checkpoints, in imgs)."""
    kinds, plots = (".keras", ".json", "_predictions.npz"), ("accuracy", "loss", "heatmap")
    images = {f"{name}_fold{fold}_{plot}.png" for fold in folds for plot in plots}
    images |= {f"{name}_{what}" for what in ("predictions.png", *REPORT)}
    return {f"{name}_fold{fold}{kind}" for fold in folds for kind in kinds}, images


def call(command):
    """Run `script words` in this process, as if typed; returns the exit status."""
    script, *words = shlex.split(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *words])
        try:
            cli.run(importlib.import_module(script).main)
        except SystemExit as end:
            return end.code
    return 0


def contents(folder="."):
    """{path: bytes} of all that is in a folder, but for locks, which stay where they are."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def change_record(stem, **changes):
    """Change fields of a finished training's record, or fields within them, and its checksum."""
    path = Path(f"checkpoints/{stem}.json")
    record = json.loads(path.read_text())
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps({**record, "record_sha256": runs.record_sha256(record)}))


def without_timing(history):
    return {key: values for key, values in history.items() if key not in ("seconds", "images_per_second")}


def require_equal(run, other):
    """Two finished trainings have the same weights to the bit and the same figures; nothing unfinished is left."""
    for one, two in zip(run.load_model().get_weights(), other.load_model().get_weights(), strict=True):
        assert one.tobytes() == two.tobytes()
    record, expected = run.read_record(), other.read_record()
    assert without_timing(record["history"]) == without_timing(expected["history"])
    assert all(record[key] == expected[key] for key in ("settings", "data", "best_epoch"))
    assert not [path for path in run.folder.iterdir() if path.suffix == ".state" or ".part" in path.name]


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


# --- Tiny networks, and what was trained with them ------------------------------------------------------------------


def tiny_classifier(x, classes):
    x = layers.BatchNormalization(momentum=0.5, name="norm")(layers.Conv2D(4, 8, strides=8, name="conv")(x))
    x = layers.GaussianNoise(0.1, name="noise")(layers.Dropout(0.2, name="dropout")(layers.Flatten(name="flatten")(x)))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def pooled_classifier(x, classes):
    """Takes pictures of any size, begins with what kernels.FirstBlock computes, and has a branch."""
    x = layers.BatchNormalization(name="norm0")(layers.Conv2D(4, 3, padding="same", name="conv0")(x))
    x = layers.ReLU(name="relu0")(layers.MaxPooling2D(name="pool0")(x))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 4, strides=2, name="conv")(x))
    branch = layers.BatchNormalization(name="norm2")(layers.Conv2D(4, 3, padding="same", name="conv2")(x))
    x = layers.Dropout(0.2, name="dropout")(layers.Add(name="add")([x, branch]))
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.GlobalMaxPooling2D(name="max")(x))


def tiny_autoencoder(x, classes):
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 3, padding="same", name="conv")(x))
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def tiny_recipe(build=tiny_classifier, kind=recipes.Settings, **settings):
    """A recipe of a training that takes a second: five steps an epoch."""
    tiny = {"model": "cnn", "precision": "float32", "batch_size": 64, "epochs": 2, "augmentation": {"pixels": 1}}
    return recipes.row(build, kind, **{**REFERENCE, **tiny, **settings})


@contextlib.contextmanager
def tiny_rows():
    """Inside, the tiny networks have the places of `cnn` and `autoencoder` in RECIPES."""
    with pytest.MonkeyPatch.context() as patch:
        for name, build in {"cnn": tiny_classifier, "autoencoder": tiny_autoencoder}.items():
            row = recipes.RECIPES[name]
            settings = row.settings.model_copy(update={"epochs": 1})
            patch.setitem(recipes.RECIPES, name, dataclasses.replace(row, build=build, settings=settings))
        yield


@pytest.fixture(scope="module")
def tiny_recipes():
    """Small models under the real ones' names: here it is the files that matter."""
    with tiny_rows():
        yield


@pytest.fixture(scope="session")
def tiny_study(npz, tmp_path_factory):
    """A folder with two finished folds of a small CNN and a small autoencoder of the data set small.npz. Copy it."""
    folder = tmp_path_factory.mktemp("study")
    with contextlib.chdir(folder), tiny_rows():
        shutil.copy(npz, "small.npz")
        for script, *words in (("train_cnn",), ("train_cnn", "--fold", "2"), ("train_autoencoder", "--noaug")):
            importlib.import_module(script).main(["--data", "small.npz", *words])
    return folder


@pytest.fixture(scope="session")
def fold(npz):
    """The pictures of the tiny trainings."""
    return common.prepare_fold(npz, tiny_recipe().settings)


@pytest.fixture(scope="session")
def wrong_labels(fold):
    """The fold with wrong validation labels: what is learnt makes the validation loss worse, epoch by epoch."""
    return dataclasses.replace(fold, y_val=(fold.y_val + 1) % 10)


@contextlib.contextmanager
def copying_states(folder):
    """Inside, the state that a training has after each epoch, as kill -9 would leave it, is copied: `folder`/1, ..."""
    folder.mkdir(exist_ok=True)
    plain = resume.KeepState.save

    def save(self):
        plain(self)
        shutil.copy(self.path, folder / str(len(self.history)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume.KeepState, "save", save)
        yield


@pytest.fixture(scope="session")
def finished(fold, tmp_path_factory):
    """A finished tiny training of four epochs: its recipe, run, first weights by layer, states by epoch. Copy it."""
    recipe, run = tiny_recipe(epochs=4), runs.Run("tiny", 1, tmp_path_factory.mktemp("finished"))
    first, states = {}, tmp_path_factory.mktemp("states")

    def prepare(model):
        first.update({layer.name: layer.get_weights() for layer in model.layers})
        return {"prepared": "so"}

    with copying_states(states):
        training.train(recipe, run, fold, prepare=prepare)
    return SimpleNamespace(recipe=recipe, run=run, first=first, states=states)


@pytest.fixture(scope="session")
def stopped_early(wrong_labels, tmp_path_factory):
    """A training that ended early, after its learning rate had fallen: its recipe, run and states by epoch."""
    recipe, run = tiny_recipe(epochs=40, learning_rate=0.01), runs.Run("tiny", 1, tmp_path_factory.mktemp("early"))
    with copying_states(states := tmp_path_factory.mktemp("states")):
        training.train(recipe, run, wrong_labels)
    return SimpleNamespace(recipe=recipe, run=run, states=states)


# --- Where tests work -----------------------------------------------------------------------------------------------


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
