"""Trainings that are stopped, by kill -9 and politely: the same command goes on and ends where one run through ends.

Processes of their own, with the real CNN; Ctrl-C, and every point of the schedule, in test_training.py.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ROOT

EPOCHS = 3
COMMAND = [sys.executable, "train_cnn.py", "--data", "digits", "--batch-size", "32", "--epochs", str(EPOCHS)]
STEM = "checkpoints/digits_cnn_fold1"


def start(folder):
    """Start the training in `folder`; output goes to files there, as in a job on a cluster."""
    for name in ("train_cnn.py", "common.py", "fast_layers.py", "options.py"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    with open(folder / "out", "w") as out, open(folder / "err", "w") as err:
        return subprocess.Popen(COMMAND, cwd=folder, stdout=out, stderr=err)


def epochs_in_state(folder):
    with contextlib.suppress(FileNotFoundError), np.load(folder / f"{STEM}.state") as file:
        return len(json.loads(file["note"].tobytes())["history"])
    return 0


def stop(folder, epoch, signum):
    """Run the training until `epoch` is printed and safe, then send the signal; returns what there is then."""
    process = start(folder)
    try:
        deadline = time.monotonic() + 120
        while f"epoch {epoch}/{EPOCHS}" not in (folder / "out").read_text() or epochs_in_state(folder) < epoch:
            assert process.poll() is None, (folder / "err").read_text()
            assert time.monotonic() < deadline, f"no epoch {epoch} within two minutes"
            time.sleep(0.01)
        process.send_signal(signum)
        status = process.wait(60)
    finally:
        process.kill()
    files = sorted(os.listdir(folder / "checkpoints"))
    return SimpleNamespace(status=status, files=files, **read_output(folder))


def finish(folder):
    process = start(folder)
    try:
        status = process.wait(120)
    finally:
        process.kill()
    assert status == 0, (folder / "err").read_text()
    return SimpleNamespace(**read_output(folder))


def read_output(folder):
    return {name: (folder / name).read_text() for name in ("out", "err")}


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The same training twice: run through, and stopped in each epoch but the first, each time in another way."""
    whole, pieces = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("pieces")
    finish(whole)
    stops = {
        signum: stop(pieces, epoch, signum) for epoch, signum in enumerate((signal.SIGKILL, signal.SIGTERM), start=1)
    }
    return SimpleNamespace(whole=whole, pieces=pieces, stops=stops, last=finish(pieces))


@pytest.mark.parametrize(
    ("signum", "status", "message"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGTERM, 143, "\ntrain_cnn.py: terminated; the same command, without FORCE=1, goes on\n"),
    ],
)
def test_a_stopped_training_keeps_its_state_and_says_how_to_go_on(trainings, signum, status, message):
    stopped = trainings.stops[signum]
    assert stopped.status == status
    assert stopped.err == message
    visible = [name for name in stopped.files if not name.endswith(".lock")]
    assert visible == ["digits_cnn_fold1.state"]


def test_the_same_command_goes_on_after_the_last_finished_epoch(trainings):
    said = [trainings.stops[signal.SIGTERM].out, trainings.last.out]
    for done, text in enumerate(said, start=1):
        assert f"going on after epoch {done} of {STEM}.state\n" in text
        assert f"epoch {done}/{EPOCHS}" not in text and f"epoch {done + 1}/{EPOCHS}" in text


def test_a_training_in_pieces_ends_with_the_weights_of_one_run_through(trainings):
    whole, pieces = (
        keras.saving.load_model(folder / f"{STEM}.keras").get_weights()
        for folder in (trainings.whole, trainings.pieces)
    )
    assert len(whole) == len(pieces) > 10
    for one, other in zip(whole, pieces, strict=True):
        assert np.array_equal(one, other)


def test_a_training_in_pieces_ends_with_the_record_of_one_run_through(trainings):
    whole, pieces = (
        json.loads((folder / f"{STEM}.json").read_text()) for folder in (trainings.whole, trainings.pieces)
    )
    for found in (whole, pieces):
        for key in ("seconds", "images_per_second"):
            del found["history"][key], found[key]
        del found["checkpoint_sha256"]  # the file holds the date
    assert len(whole["history"]["loss"]) == EPOCHS
    assert whole == pieces


def test_a_finished_training_leaves_no_state(trainings):
    files = {path.name for path in (trainings.pieces / "checkpoints").glob("[!.]*")}
    assert files == {"digits_cnn_fold1.keras", "digits_cnn_fold1.json"}
