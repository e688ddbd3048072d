"""A full disk, a folder that cannot be written to: one sentence, status 1, and nothing that was there is damaged.

Disks are real: a small file system where this user may mount one, a limit on the size of files everywhere. Trainings
and evaluations are the scripts' own, of a model that takes a second.
"""

import contextlib
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import pytest
from conftest import ROOT
from keras import layers

import evaluate
import recipes
import resume
import runs
import train_cnn
from util import cli

STEM = "small_cnn_fold1"
UNPRIVILEGED = 65534  # nobody


def build_tiny(x, classes):
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(4, 8, strides=8, name="conv")(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.Flatten(name="flatten")(x))


@pytest.fixture
def folder(monkeypatch, npz):
    """A working directory with checkpoints/ and imgs/ that an unprivileged user may reach and change."""
    monkeypatch.setitem(recipes.RECIPES, "cnn", recipes.row(build_tiny, batch_size=64, epochs=3))
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
        with pytest.raises(SystemExit) as end:
            cli.run(lambda: script([*given, "--data", "small.npz", *map(str, argv)]))
        return end.value.code, *capsys.readouterr()

    return call


@pytest.fixture(params=["small disk", "file size limit"])
def full(request, folder):
    """full('checkpoints'): a context in which nothing more can be written to this folder of `folder`."""
    if request.param == "file size limit":

        @contextlib.contextmanager
        def full(name):
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(
                resource.RLIMIT_FSIZE, ({"checkpoints": 1000, "imgs": 6000}[name], hard)
            )  # Python ignores the signal of it
            try:
                yield "File too large"
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
            yield "No space left on device"
        finally:
            filler.unlink()

    try:
        yield full
    finally:
        for name in ("checkpoints", "imgs"):
            subprocess.run(["umount", "-l", folder / name], check=True)


@contextlib.contextmanager
def unwritable(path):
    """`path` as a folder that one may read only; root, who may write everywhere, is somebody else meanwhile."""
    root, mode = os.geteuid() == 0, path.stat().st_mode
    path.chmod(0o555)
    try:
        if root:
            try:
                os.seteuid(UNPRIVILEGED)
            except OSError as error:
                pytest.skip(f"root can write everywhere and cannot become an unprivileged user here ({error})")
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(mode)


def contents(name):
    """What is in a folder, less the locks."""
    return {path.name: path.read_bytes() for path in Path(name).iterdir() if path.suffix != ".lock"}


def refusal(script, path, reason, escape=str):
    return f"{script}: {path} cannot be written {escape(f'({reason})')}; mend that and repeat\n"


@pytest.fixture
def script(monkeypatch):
    """The name with which messages begin."""
    monkeypatch.setattr("sys.argv", ["the script"])
    return "the script"


def when(patch, name, event):
    """Have a training do `event(epoch)` before KeepState's or Run's method `name`."""
    owner = resume.KeepState if hasattr(resume.KeepState, name) else runs.Run
    plain = getattr(owner, name)

    def first(self, *args):
        event(args[0])
        return plain(self, *args)

    patch.setattr(owner, name, first)


def test_a_disk_that_fills_up_costs_no_finished_epoch(call, full, script, monkeypatch):
    states = []
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def fill(epoch):
            if epoch == 1:
                states.append(contents("checkpoints"))
                states.append(stack.enter_context(full("checkpoints")))

        when(patch, "on_epoch_end", fill)
        status, said, error = call("train")
        before, reason = states
        kept = {name: content for name, content in contents("checkpoints").items() if name != "filler"}
        assert (status, error) == (1, refusal(script, f"checkpoints/{STEM}.state", reason))
        assert "epoch 1/3" in said and "epoch 2/3" not in said  # printed when it is kept
        assert kept == before and kept.keys() == {f"{STEM}.state"}

    status, said, error = call("train")
    assert (status, error) == (0, "")
    assert f"going on after epoch 1 of checkpoints/{STEM}.state\n" in said
    assert contents("checkpoints").keys() == {f"{STEM}.keras", f"{STEM}.json"}


def test_a_disk_that_is_full_at_the_end_damages_no_older_model(call, full, script, monkeypatch):
    assert call("train")[0] == 0
    before = contents("checkpoints")
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:
        reasons = []
        when(patch, "finish", lambda model: reasons.append(stack.enter_context(full("checkpoints"))))
        status, _, error = call("train", "--force")
        assert (status, error) == (1, refusal(script, f"checkpoints/{STEM}.keras", reasons[0]))
        kept = contents("checkpoints")
        assert kept.keys() - {"filler"} == {*before, f"{STEM}.state"}
        assert {name: kept[name] for name in before} == before

    monkeypatch.setattr(keras.Model, "fit", None)  # nothing is left to train
    assert call("train")[::2] == (0, "")
    after = contents("checkpoints")
    assert after.keys() == before.keys() and after[f"{STEM}.json"] != before[f"{STEM}.json"]


def test_a_full_disk_is_told_before_a_forced_training_begins(call, full, script, monkeypatch):
    assert call("train")[0] == 0
    before = contents("checkpoints")
    monkeypatch.setattr(keras.Model, "fit", None)
    with full("checkpoints") as reason:
        status, _, error = call("train", "--force")
    assert (status, error) == (1, refusal(script, f"checkpoints/{STEM}.state", reason))
    assert contents("checkpoints") == before


def test_an_evaluation_on_a_full_disk_leaves_whole_files_only(call, full, script):
    assert call("train")[0] == call("evaluate")[0] == 0
    before = contents("checkpoints"), contents("imgs")
    report = r"imgs/small_\w+\.(json|txt|png)"  # comes first, and a limit on files' size holds in every folder
    for name, path in (("checkpoints", rf"(checkpoints/small_\w+\.npz|{report})"), ("imgs", report)):
        with full(name) as reason:
            status, _, error = call("evaluate")
        assert status == 1
        assert re.fullmatch(refusal(script, path, reason, re.escape), error)
        assert (contents("checkpoints"), contents("imgs")) == before


def test_a_folder_that_may_only_be_read_is_one_sentence(call, folder, script):
    refused = (1, f"{script}: checkpoints cannot be written to (Permission denied); mend that and repeat\n")
    with unwritable(folder / "checkpoints"):
        assert call("train")[::2] == refused
    assert not contents("checkpoints")
    assert call("train")[::2] == (0, "")

    finished = contents("checkpoints")
    with unwritable(folder / "imgs"):
        status, _, error = call("evaluate")
    assert status == 1
    assert re.fullmatch(refusal(script, r"imgs/\w+\.txt", "Permission denied", re.escape), error)
    assert (contents("checkpoints"), contents("imgs")) == (finished, {})

    with unwritable(folder / "checkpoints"):  # as a group's folder, whose runs others evaluate
        status, said, error = call("evaluate")
    assert (status, error) == (0, "")
    assert f"note: checkpoints may only be read, so {STEM}_predictions.npz is not kept there\n" in said
    assert contents("checkpoints") == finished and "small_cnn_report.json" in contents("imgs")
    assert call("evaluate")[::2] == (0, "")


def test_a_folder_that_becomes_unwritable_costs_no_finished_epoch(call, folder, script, monkeypatch):
    (folder / "checkpoints").chmod(0o777)
    with contextlib.ExitStack() as stack, monkeypatch.context() as patch:

        def close(epoch):
            if epoch == 1:
                stack.enter_context(unwritable(folder / "checkpoints"))

        when(patch, "on_epoch_end", close)
        refused = refusal(script, f"checkpoints/{STEM}.state", "Permission denied")
        assert call("train")[::2] == (1, refused)
    status, said, _ = call("train")
    assert (status, "going on after epoch 1 of" in said) == (0, True)


def test_a_log_that_cannot_grow_is_one_sentence():
    script = "from util import cli; cli.run(lambda: print('a line'))"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as log:
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=buffered, stdout=log, stderr=subprocess.PIPE, text=True
        )
    assert (result.returncode, result.stderr) == (1, "-c: [Errno 28] No space left on device; mend that and repeat\n")
