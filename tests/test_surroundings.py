"""What a user's surroundings must not decide: results, provenance, whether a report is written, what a plot shows."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT

from util import backend, cli, hardware, plots

TRAIN = ["train_cnn.py", "--epochs", "2", "--precision", "float32", "--batch-size", "64", "--patience", "9"]


def keras_json(folder, **values):
    (folder / "keras.json").write_text(json.dumps(values))
    return {"KERAS_HOME": str(folder)}


# What others have met, each as (environment variables, given a folder of its own).
HOSTILE = {
    "channels_first": lambda folder: keras_json(folder, image_data_format="channels_first"),
    "float16": lambda folder: keras_json(folder, floatx="float16"),
    "float64": lambda folder: keras_json(folder, floatx="float64"),
    "epsilon": lambda folder: keras_json(folder, epsilon=0.1),
    "nnx": lambda folder: keras_json(folder, nnx_enabled=True),
    "epochs": lambda folder: {"KERAS_MAX_EPOCHS": "1"},
    "steps": lambda folder: {"KERAS_MAX_STEPS_PER_EPOCH": "1"},
    "hash seed": lambda folder: {"PYTHONHASHSEED": "7"},
    "rounding": lambda folder: {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_DETERMINISTIC_OPS": "1", "JAX_ENABLE_X64": "1"},
    "notebook": lambda folder: {"MPLBACKEND": "module://no_such.backend"},
    "no home": lambda folder: {"HOME": "", "KERAS_HOME": str(folder)},
    "columns": lambda folder: {"COLUMNS": "20", "TERM": "dumb"},
    "git": lambda folder: {"GIT_DIR": str(folder), "GIT_WORK_TREE": "/"},
    "matplotlib": lambda folder: matplotlibrc(folder, "text.usetex: True\naxes.facecolor: black\n"),
    "time zone": lambda folder: {"TZ": "Pacific/Apia", "LANG": "tr_TR.UTF-8"},
}


def matplotlibrc(folder, text):
    (folder / "matplotlibrc").write_text(text)
    return {"MPLCONFIGDIR": str(folder)}


def trained(folder, npz, **environment):
    """(Weights, history) of a short training in a folder of its own, in these surroundings."""
    folder.mkdir()
    for path in (ROOT / "util", *ROOT.glob("*.py")):
        (folder / path.name).symlink_to(path)
    command = [sys.executable, *TRAIN, "--data", npz]
    result = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    record = json.loads((folder / "checkpoints/small_cnn_fold1.json").read_text())
    model = keras.saving.load_model(folder / "checkpoints/small_cnn_fold1.keras")
    timed = ("seconds", "images_per_second")
    history = {key: values for key, values in record["history"].items() if key not in timed}
    return [keras.ops.convert_to_numpy(weight) for weight in model.weights], history


@pytest.fixture(scope="module")
def plain(tmp_path_factory, npz):
    """(weights, history, folder) of the training in plain surroundings."""
    folder = tmp_path_factory.mktemp("plain") / "here"
    return *trained(folder, npz), folder


def require_same(found, plain):
    assert found[1] == plain[1]
    assert all(np.array_equal(one, other) for one, other in zip(found[0], plain[0], strict=True))


@pytest.mark.system
def test_the_same_weights_in_the_worst_of_surroundings(tmp_path, npz, plain):
    worst = keras_json(tmp_path, floatx="float16", epsilon=0.1, image_data_format="channels_first")
    for name in ("epochs", "steps", "rounding", "notebook", "git", "matplotlib", "columns", "hash seed"):
        worst |= HOSTILE[name](tmp_path)
    require_same(trained(tmp_path / "here", npz, **worst), plain)


@pytest.mark.long
@pytest.mark.parametrize("name", HOSTILE)
def test_the_same_weights_in_hostile_surroundings(tmp_path, npz, plain, name):
    require_same(trained(tmp_path / "here", npz, **HOSTILE[name](tmp_path)), plain)


def python(code, **environment):
    """The finished process of a line of Python that is run in the project's folder, in these surroundings."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True)


def test_an_older_keras_that_goes_before_is_named_with_its_place(tmp_path):
    package = tmp_path / "site/keras/__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("__version__ = '3.6.0'")
    code = "from util import backend, cli; cli.run(lambda: backend.keras.layers)"
    result = python(code, PYTHONPATH=str(tmp_path / "site"))
    assert result.returncode == 2 and str(package.parent) in result.stderr and "3.6.0" in result.stderr
    assert f"keras>={backend.KERAS[0]}.{backend.KERAS[1]}" in (ROOT / "requirements.txt").read_text()


@pytest.mark.parametrize("backend", ["torch", "openvino", "jax"])
def test_a_backend_that_is_not_there_is_refused_and_keras_json_chooses_none(tmp_path, backend):
    code = "import sys; sys.modules['jax'] = None; from util import backend, cli; cli.run(lambda: print({}))"
    result = python(code.format("backend.keras.layers"), KERAS_BACKEND=backend)
    assert result.returncode == 2 and f"KERAS_BACKEND={backend}" in result.stderr and "\n" not in result.stderr.strip()
    result = python(code.format("backend.keras.config.backend()"), **keras_json(tmp_path, backend=backend))
    assert result.stdout == "tensorflow\n", result.stderr


def test_a_script_draws_without_the_notebook_s_backend_and_an_import_leaves_it(monkeypatch):
    theirs = "module://matplotlib_inline.backend_inline"
    code = "import os, data; print(os.environ['MPLBACKEND'])"
    assert python(code, MPLBACKEND=theirs).stdout.strip() == theirs
    monkeypatch.setenv("MPLBACKEND", theirs)
    cli.run(lambda: None)
    assert os.environ["MPLBACKEND"] == "Agg"


# --- Provenance ---


def git(folder, *words):
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, env=plain)


def test_the_commit_is_this_folder_s_own(tmp_path, monkeypatch):
    inside = tmp_path / "unpacked"
    inside.mkdir()
    (inside / "common.py").write_text("")
    (inside / "imgs").mkdir()
    (inside / "imgs" / "cnn_report.txt").write_text("published")
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "another project")
    assert hardware.current_commit(inside) is None
    git(inside, "init")
    git(inside, "add", ".")
    git(inside, "commit", "-m", "this one")
    own = hardware.current_commit(inside)
    assert own and own != hardware.current_commit(tmp_path)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert hardware.current_commit(inside) == own
    (inside / "imgs" / "cnn_report.txt").write_text("of a run before")
    assert hardware.current_commit(inside) == own
    (inside / "common.py").write_text("changed")
    assert hardware.current_commit(inside) == f"{own}+"


@pytest.mark.long
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="JAX is not installed")
def test_what_a_backend_might_change_holds_on_jax():
    """What changes between epochs, and resume: on JAX, an old step was once taken for the new one."""
    chosen = (
        "training.py::test_an_epoch_is_of_low_resolution_first_and_without_augmentation_last",
        "training.py::test_precise_statistics_are_those_of_training_pictures_as_they_are",
        "resume.py::test_all_settings_go_on_to_the_bit",
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *(f"tests/test_{name}" for name in chosen)],
        cwd=ROOT,
        env={**environment, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout


# --- Plots and reports ---


def test_plots_are_drawn_in_our_style_whatever_the_user_s(tmp_path, monkeypatch):
    import matplotlib

    plots.plot_distribution(tmp_path / "ours.png", "title", [3, 2], [1, 1], ["a", "b"])
    for key, value in {"axes.facecolor": "black", "text.usetex": True, "savefig.dpi": 30, "font.size": 30}.items():
        monkeypatch.setitem(matplotlib.rcParams, key, value)
    plots.plot_distribution(tmp_path / "theirs.png", "title", [3, 2], [1, 1], ["a", "b"])
    assert (tmp_path / "ours.png").read_bytes() == (tmp_path / "theirs.png").read_bytes()


def test_a_curve_is_drawn_through_the_epochs_that_were_validated():
    history = {"loss": [4.0, 3.0, 2.0, 1.0], "val_loss": [None, 3.5, None, 2.5]}
    figure = plots.plot_curve.__wrapped__("title", history, "loss", "loss", 4, "")
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[2, 3.5], [4, 2.5]]


def test_letters_come_from_a_font_that_has_them_or_are_warned_of(tmp_path, monkeypatch, recwarn):
    monkeypatch.setattr(plots, "FONTS", ("DejaVu Sans", "a font that is not installed", "STIXGeneral"))
    plots.plot_distribution(tmp_path / "a.png", "title", [3, 2], [1, 1], ["\u233d", "b"])
    assert not recwarn
    with pytest.warns(UserWarning, match="missing"):
        plots.plot_distribution(tmp_path / "b.png", "title", [3, 2], [1, 1], ["\U00012000", "b"])  # cuneiform
    assert (tmp_path / "b.png").exists()


@pytest.mark.system
@pytest.mark.skipif(os.getuid() or not shutil.which("setpriv"), reason="takes root, and setpriv to become another")
def test_a_finished_run_in_a_folder_of_others_says_so(npz, plain):
    folder = plain[2]
    for path in (folder, *folder.parents[:4], Path(npz).parent):
        path.chmod(0o755)
    command = ["setpriv", "--reuid=65534", "--clear-groups", sys.executable]
    if subprocess.run([*command, "-c", "import keras"], capture_output=True).returncode:
        pytest.skip("another user cannot run this Python")
    environment = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
    command += [*TRAIN, "--data", npz]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "is finished already, with these settings" in result.stdout, result.stderr
    assert result.returncode == 0
