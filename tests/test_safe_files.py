"""Files are there whole or not at all: full disks, folders that may only be read, kills, locks.

Trainings and evaluations are the scripts' own, of a model that takes a second. A limit on the size of files stands for
a full disk.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import tempfile
from pathlib import Path

import filelock
import keras
import numpy as np
import pytest
from conftest import call, contents, tiny_classifier

import recipes
import resume
import runs
from util import files
from util.cli import InputError

STEM = "small_cnn_fold1"


@pytest.fixture
def folder(monkeypatch, npz):
    """A working directory with checkpoints/ and imgs/ that an unprivileged user may reach and change."""
    monkeypatch.setitem(recipes.RECIPES, "cnn", recipes.row(tiny_classifier, batch_size=64, epochs=3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(npz, folder)
        for path in (folder, folder / "checkpoints", folder / "imgs"):
            path.mkdir(exist_ok=True)
            path.chmod(0o777)
        with contextlib.chdir(folder):
            yield folder


@pytest.fixture
def run(folder, capsys):
    """run('train_cnn') -> (exit status, what it printed on stdout, on stderr)."""

    def run(command):
        capsys.readouterr()
        return call(f"{command} --data small.npz"), *capsys.readouterr()

    return run


@contextlib.contextmanager
def full(most=1000):
    """Inside, no file can have more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # Python ignores the signal of it
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def unwritable(name):
    """A folder that one may read only; root, who may write everywhere, is somebody else meanwhile."""
    path, root = Path(name), os.geteuid() == 0
    mode = path.stat().st_mode
    path.chmod(0o555)
    try:
        if root:
            os.seteuid(65534)  # nobody
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


@contextlib.contextmanager
def before(owner, name, situation, number=1):
    """Inside, the `situation` is there from the call of that `number` of `owner.name` on."""
    plain, calls = getattr(owner, name), []

    def first(*args):
        calls.append(name)
        if len(calls) == number:
            stack.enter_context(situation)
        return plain(*args)

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(owner, name, first)
        yield


def assert_refused(result, path):
    """One sentence on stderr that names the file, and status 1."""
    status, _, error = result
    assert status == 1 and error.count("\n") == 1 and str(path) in error


def test_a_disk_that_fills_up_costs_no_finished_epoch(run):
    with before(resume.KeepState, "on_epoch_end", full(), 2):
        result = run("train_cnn")
    assert_refused(result, f"checkpoints/{STEM}.state")
    assert "epoch 1/3" in result[1] and "epoch 2/3" not in result[1]  # printed when it is kept
    assert contents("checkpoints").keys() == {f"{STEM}.state"}
    status, said, error = run("train_cnn")
    assert (status, error) == (0, "") and f"going on after epoch 1 of checkpoints/{STEM}.state\n" in said
    assert contents("checkpoints").keys() == {f"{STEM}.keras", f"{STEM}.json"}


def test_a_disk_that_is_full_at_the_end_damages_no_older_model(run, monkeypatch):
    assert run("train_cnn")[0] == 0
    older = contents("checkpoints")
    with before(runs.Run, "finish", full()):
        assert_refused(run("train_cnn --force"), f"checkpoints/{STEM}.keras")
    assert contents("checkpoints").items() >= older.items()
    monkeypatch.setattr(keras.Model, "fit", None)  # nothing is left to train
    assert run("train_cnn")[::2] == (0, "")
    newer = contents("checkpoints")
    assert newer.keys() == older.keys() and newer[f"{STEM}.json"] != older[f"{STEM}.json"]
    with full():  # which a forced training finds before it begins
        assert_refused(run("train_cnn --force"), f"checkpoints/{STEM}.state")
    assert contents("checkpoints") == newer


def test_an_evaluation_on_a_full_disk_leaves_whole_files_only(run):
    assert run("train_cnn")[0] == run("evaluate --model cnn")[0] == 0
    whole = contents()
    for most in (1000, 6000):  # of which a report is larger, and a plot
        with full(most):
            assert_refused(run("evaluate --model cnn"), "small_")
        assert contents() == whole


def test_folders_that_may_only_be_read(run):
    with unwritable("checkpoints"):
        assert_refused(run("train_cnn"), "checkpoints")
    with before(resume.KeepState, "on_epoch_end", unwritable("checkpoints"), 2):
        assert_refused(run("train_cnn"), f"checkpoints/{STEM}.state")
    status, said, _ = run("train_cnn")
    assert (status, "going on after epoch 1 of" in said) == (0, True)
    finished = contents("checkpoints")
    with unwritable("imgs"):
        assert_refused(run("evaluate --model cnn"), "imgs/")
    assert (contents("checkpoints"), contents("imgs")) == (finished, {})
    with unwritable("checkpoints"):  # as a group's folder, whose runs others evaluate
        assert run("evaluate --model cnn")[::2] == (0, "")
    assert contents("checkpoints") == finished and "small_cnn_report.json" in contents("imgs")


@pytest.mark.parametrize("error", [NameError, TypeError, KeyError, IndexError, AttributeError])
def test_a_bug_while_a_file_is_read_or_written_is_a_traceback(error, tmp_path):
    def fail(part):
        raise error

    with pytest.raises(error), files.reading("it is damaged", "repeat"):
        fail(tmp_path)
    with pytest.raises(error):
        files.write_atomically(tmp_path / "a", fail)


def test_json_holds_null_for_what_is_no_number(tmp_path):
    files.write_json(tmp_path / "a.json", {"a": [1.5, float("inf")], "b": (np.float64("nan"),)})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {"a": [1.5, None], "b": [None]}


# --- Locks ----------------------------------------------------------------------------------------------------------


def test_a_run_in_training_is_refused_and_others_are_not(tmp_path):
    with runs.Run("tiny", 1, tmp_path).lock():
        with pytest.raises(InputError, match="another process"), runs.Run("tiny", 1, tmp_path).lock():
            pass
        with runs.Run("tiny", 2, tmp_path).lock(), runs.Run("tiny", 1, tmp_path / "other").lock():
            pass


@pytest.mark.parametrize("locks", [True, False])
def test_the_next_training_removes_what_a_killed_one_was_writing_if_it_can_hold_the_lock(
    locks, tmp_path, monkeypatch, capsys
):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not locks:
        monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    own = {f".tiny[1]_fold1.0123abcd.part.{kind}" for kind in ("state", "keras")}
    others = {".tiny[1]_fold2.0123abcd.part.state", ".tiny[1]_fold1_predictions.0123abcd.part.npz"}
    for name in own | others:
        (tmp_path / name).touch()
    with runs.Run("tiny[1]", 1, tmp_path).lock():
        assert contents(tmp_path).keys() == (others if locks else own | others)
    assert capsys.readouterr().out.startswith("note: ") == (not locks)
