"""Files are there whole or not at all: full disks, folders that may only be read, damage, kills, locks.

Trainings and evaluations are the scripts' own, of a model that takes a second. Disks are real: a small file system
where this user may mount one, a limit on the size of files everywhere.
"""

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import filelock
import keras
import numpy as np
import pytest
from conftest import tiny_classifier

import evaluate
import recipes
import resume
import runs
import train_cnn
from util import cli, files
from util.cli import InputError, RunFailed

STEM = "small_cnn_fold1"
UNPRIVILEGED = 65534  # nobody


@pytest.fixture
def folder(monkeypatch, npz):
    """A working directory with checkpoints/ and imgs/ that an unprivileged user may reach and change."""
    monkeypatch.setitem(recipes.RECIPES, "cnn", recipes.row(tiny_classifier, batch_size=64, epochs=3))
    folder = Path(tempfile.mkdtemp())
    shutil.copy(npz, folder)
    for path in (folder, folder / "checkpoints", folder / "imgs"):
        path.mkdir(exist_ok=True)
        path.chmod(0o777)
    monkeypatch.chdir(folder)
    yield folder
    monkeypatch.undo()
    shutil.rmtree(folder)


@pytest.fixture
def call(folder, capsys):
    """call('train' or 'evaluate', …) -> (exit status, what it printed on stdout, on stderr)."""

    def call(what, *argv):
        script = {"train": train_cnn.main, "evaluate": evaluate.main}[what]
        given = ["--model", "cnn"] if what == "evaluate" else []
        capsys.readouterr()
        status = 0
        try:
            cli.run(lambda: script([*given, "--data", "small.npz", *map(str, argv)]))
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


@pytest.fixture(params=[pytest.param("small disk", marks=pytest.mark.system), "file size limit"])
def full(request, folder):
    """full('checkpoints'): a context in which nothing more can be written to this folder of `folder`."""
    if request.param == "file size limit":

        @contextlib.contextmanager
        def full(name):
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            most = {"checkpoints": 1000, "imgs": 6000}[name]
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))  # Python ignores the signal of it
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        yield full
        return

    for name in ("checkpoints", "imgs"):
        command = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=777", "tmpfs", str(folder / name)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk needs a user who may mount one: run these tests as root")

    @contextlib.contextmanager
    def full(name):
        filler = folder / name / "filler"
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(bytes(1000))
        try:
            yield
        finally:
            filler.unlink()

    try:
        yield full
    finally:
        for name in ("checkpoints", "imgs"):
            subprocess.run(["umount", "-l", folder / name], check=True)


@contextlib.contextmanager
def unwritable(name):
    """A folder that one may read only; root, who may write everywhere, is somebody else meanwhile."""
    path, root = Path(name), os.geteuid() == 0
    mode = path.stat().st_mode
    path.chmod(0o555)
    try:
        if root:
            os.seteuid(UNPRIVILEGED)
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


def contents(name):
    """What is in a folder, less the locks."""
    return {path.name: path.read_bytes() for path in Path(name).iterdir() if path.suffix not in (".lock", "")}


def when(patch, name, event):
    """Have a training do `event(epoch)` before KeepState's or Run's method `name`."""
    owner = resume.KeepState if hasattr(resume.KeepState, name) else runs.Run
    plain = getattr(owner, name)

    def first(self, *args):
        event(args[0])
        return plain(self, *args)

    patch.setattr(owner, name, first)


def assert_refused(result, path):
    """One sentence on stderr that names the file, and status 1."""
    status, _, error = result
    assert status == 1 and error.count("\n") == 1 and str(path) in error


def test_a_disk_that_fills_up_costs_no_finished_epoch(call, full, monkeypatch):
    states = []
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def fill(epoch):
            if epoch == 1:
                states.append(contents("checkpoints"))
                stack.enter_context(full("checkpoints"))

        when(patch, "on_epoch_end", fill)
        result = call("train")
        assert_refused(result, f"checkpoints/{STEM}.state")
        assert "epoch 1/3" in result[1] and "epoch 2/3" not in result[1]  # printed when it is kept
        assert contents("checkpoints") == states[0] and states[0].keys() == {f"{STEM}.state"}
    status, said, error = call("train")
    assert (status, error) == (0, "") and f"going on after epoch 1 of checkpoints/{STEM}.state\n" in said
    assert contents("checkpoints").keys() == {f"{STEM}.keras", f"{STEM}.json"}


def test_a_disk_that_is_full_at_the_end_damages_no_older_model(call, full, monkeypatch):
    assert call("train")[0] == 0
    before = contents("checkpoints")
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        when(patch, "finish", lambda model: stack.enter_context(full("checkpoints")))
        assert_refused(call("train", "--force"), f"checkpoints/{STEM}.keras")
        assert contents("checkpoints").items() >= before.items()
    monkeypatch.setattr(keras.Model, "fit", None)  # nothing is left to train
    assert call("train")[::2] == (0, "")
    after = contents("checkpoints")
    assert after.keys() == before.keys() and after[f"{STEM}.json"] != before[f"{STEM}.json"]


def test_a_full_disk_is_told_before_a_forced_training_begins(call, full, monkeypatch):
    assert call("train")[0] == 0
    before = contents("checkpoints")
    monkeypatch.setattr(keras.Model, "fit", None)
    with full("checkpoints"):
        assert_refused(call("train", "--force"), f"checkpoints/{STEM}.state")
    assert contents("checkpoints") == before


def test_an_evaluation_on_a_full_disk_leaves_whole_files_only(call, full):
    assert call("train")[0] == call("evaluate")[0] == 0
    before = contents("checkpoints"), contents("imgs")
    for name in ("checkpoints", "imgs"):
        with full(name):
            assert_refused(call("evaluate"), "small_")
        assert (contents("checkpoints"), contents("imgs")) == before


def test_folders_that_may_only_be_read(call, folder, monkeypatch):
    with unwritable("checkpoints"):
        assert_refused(call("train"), "checkpoints")
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        when(patch, "on_epoch_end", lambda epoch: epoch == 1 and stack.enter_context(unwritable("checkpoints")))
        assert_refused(call("train"), f"checkpoints/{STEM}.state")
    status, said, _ = call("train")
    assert (status, "going on after epoch 1 of" in said) == (0, True)
    finished = contents("checkpoints")
    with unwritable("imgs"):
        assert_refused(call("evaluate"), "imgs/")
    assert (contents("checkpoints"), contents("imgs")) == (finished, {})
    with unwritable("checkpoints"):  # as a group's folder, whose runs others evaluate
        assert call("evaluate")[::2] == (0, "")
    assert contents("checkpoints") == finished and "small_cnn_report.json" in contents("imgs")


# --- Writing and reading --------------------------------------------------------------------------------------------


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "some" / "file.txt"
    files.write_text(path, "first")

    def fill_the_disk(part):
        part.write_bytes(b"sec")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(RunFailed, match=r"file\.txt .*No space left"):
        files.write_atomically(path, fill_the_disk)
    with pytest.raises(NameError):  # a bug stays one
        files.write_atomically(path, lambda part: nothing_of_this_name)  # noqa: F821
    assert path.read_text() == "first" and [one.name for one in path.parent.iterdir()] == ["file.txt"]


def test_json_holds_null_for_what_is_no_number(tmp_path):
    files.write_json(
        tmp_path / "a.json", {"a": [1.5, float("inf")], "b": {"c": float("nan")}, "d": (np.float64("nan"),)}
    )
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"a": [1.5, None], "b": {"c": None}, "d": [None]}


@pytest.mark.parametrize("error", [NameError, TypeError, KeyError, IndexError, AttributeError])
def test_a_bug_while_a_file_is_read_is_a_traceback(error):
    with pytest.raises(error), files.reading("it is damaged", "repeat"):
        raise error


# --- Locks ----------------------------------------------------------------------------------------------------------
# A lock belongs to an open file, so two threads stand for two processes.


def test_a_run_in_training_is_refused_to_a_second_process_and_others_wait(tmp_path, capsys):
    run, order = runs.Run("tiny", 1, tmp_path), []

    def second(wait):
        try:
            with run.lock(wait):
                order.append("waited")
        except InputError:
            order.append("refused")

    with run.lock():
        thread = threading.Thread(target=second, args=[False])
        thread.start()
        thread.join(10)
        with runs.Run("tiny", 2, tmp_path).lock(), runs.Run("tiny", 1, tmp_path / "other").lock():
            pass
        thread = threading.Thread(target=second, args=[True])
        thread.start()
        thread.join(0.3)
        assert thread.is_alive() and "waiting" in capsys.readouterr().out
        order.append("trained")
    thread.join(10)
    assert order == ["refused", "trained", "waited"]


def test_the_next_training_removes_what_a_killed_one_was_writing(tmp_path):
    run = runs.Run("tiny[1]", 1, tmp_path)
    names = [".tiny[1]_fold1.0123abcd.part.state", ".tiny[1]_fold1.0123abcd.part.keras"]
    others = [".tiny[1]_fold2.0123abcd.part.state", ".tiny[1]_fold1_predictions.0123abcd.part.npz"]
    for name in (*names, *others):
        (tmp_path / name).touch()
    with run.lock():
        assert not [name for name in names if (tmp_path / name).exists()]
        assert all((tmp_path / name).exists() for name in others)


def test_without_locks_it_goes_on_with_a_note(tmp_path, monkeypatch, capsys):
    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", no_locks)
    left = tmp_path / ".tiny_fold1.0123abcd.part.state"
    left.touch()
    with runs.Run("tiny", 1, tmp_path).lock():
        assert left.exists()  # may be in use
    assert capsys.readouterr().out.startswith("note: ")
