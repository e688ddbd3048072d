"""Real processes with the real networks, killed and terminated: the same command goes on and ends as one run through.

Every kind of moment, setting and refusal is in test_resume.py; here are moments that nobody chose.
"""

import contextlib
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import time

import keras
import pytest
from conftest import require_equal, start, tiny_recipe, wait_until

import training
from runs import Run
from util import files

EPOCHS = 4
FEW = ["--data", "digits", "--reduced", "0,1,2,3,4,5,6,7,8,9", "--keep", "24", "--batch-size", "32"]
SCRIPTS = {
    "cnn": ["train_cnn.py"],
    "autoencoder": ["train_autoencoder.py"],
    "autoencoder_cls": ["train_ae_classifier.py"],
    "mod_autoencoder_cls": ["train_ae_classifier.py", "--modified"],
}


def begin(folder, kind):
    """Start the training, and wait until it trains, or is finished."""
    process = start(folder, *SCRIPTS[kind], *FEW, "--epochs", str(EPOCHS))
    with contextlib.suppress(AssertionError):
        wait_until(lambda: "device:" in output(folder), process, "the training")
    return process


def output(folder):
    return (folder / "out").read_text()


def run_of(folder, kind):
    return Run(f"digits_{kind}", None if kind == "autoencoder" else 1, folder / "checkpoints")


def epochs_done(folder, kind):
    state = run_of(folder, kind).state
    return len(json.loads(files.read_arrays(state)["note"].tobytes())["history"]) if state.exists() else 0


def finish(folder, kind):
    process = begin(folder, kind)
    try:
        assert process.wait(300) == 0, (folder / "err").read_text()
    finally:
        process.kill()


@pytest.fixture(scope="module")
def run_through(tmp_path_factory):
    """run_through(kind): the folder of that training without interruption."""

    @functools.cache
    def run_through(kind):
        folder = tmp_path_factory.mktemp(kind)
        if kind.endswith("cls"):
            take_autoencoder(run_through("autoencoder"), folder)
        finish(folder, kind)
        return folder

    return run_through


def take_autoencoder(source, folder):
    (folder / "checkpoints").mkdir()
    for path in source.glob("checkpoints/*.*"):
        shutil.copy(path, folder / "checkpoints")


@pytest.mark.system
def test_a_terminated_training_is_gone_at_once_says_how_to_go_on_and_does(run_through, tmp_path):
    process = begin(tmp_path, "cnn")
    try:
        wait_until(lambda: "epoch 2/" in output(tmp_path), process, "two epochs")
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
        assert time.time() - (tmp_path / "err").stat().st_mtime < 0.5  # since its last words
    finally:
        process.kill()
    error = (tmp_path / "err").read_text()
    assert "terminated" in error and "goes on" in error and "Traceback" not in error
    done = epochs_done(tmp_path, "cnn")
    assert f"epoch {done}/{EPOCHS}" in output(tmp_path)
    finish(tmp_path, "cnn")
    assert f"going on after epoch {done} of" in output(tmp_path) and f"epoch {done}/{EPOCHS}" not in output(tmp_path)
    require_equal(run_of(tmp_path, "cnn"), run_of(run_through("cnn"), "cnn"))


@pytest.mark.long
@pytest.mark.parametrize("kind", SCRIPTS)
@pytest.mark.parametrize("number", range(3))
def test_killed_at_any_moment(run_through, tmp_path, kind, number):
    """Kill -9 some time after an epoch's line, or while a file is written, the finished ones included."""
    whole, chance = run_through(kind), random.Random(f"{kind} {number}")
    seconds = sum(run_of(whole, kind).read_record()["history"]["seconds"]) / EPOCHS
    epoch, delay, file = chance.randrange(EPOCHS), chance.uniform(0, seconds), chance.randint(1, EPOCHS + 2)
    folder, parts = tmp_path, set()
    if kind.endswith("cls"):
        take_autoencoder(run_through("autoencoder"), folder)

    def writes():
        parts.update(folder.glob("checkpoints/.*.part*"))
        return len(parts) >= file

    process = begin(folder, kind)
    try:
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):  # it may end before that moment
            if number:
                wait_until(lambda: not epoch or f"epoch {epoch}/" in output(folder), process, "the epoch")
                process.wait(delay)
            else:
                wait_until(writes, process, "the file")
    finally:
        process.kill()
        process.wait()
    done, ended = epochs_done(folder, kind), run_of(folder, kind).checkpoint.exists()
    print(f"{kind} {number}: killed after epoch {done}, finished: {ended}")
    finish(folder, kind)
    assert ended or (f"going on after epoch {done} of" in output(folder)) == (done > 0)
    require_equal(run_of(folder, kind), run_of(whole, kind))


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="resident memory is read from Linux's /proc")
def test_memory_does_not_grow_over_a_hundred_epochs(fold, tmp_path):
    resident = []

    class Memory(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            with open("/proc/self/statm") as file:
                resident.append(int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "schedule_callbacks", lambda settings: [Memory()])
        training.train(tiny_recipe(epochs=100, patience=None), Run("tiny", 1, tmp_path), fold)
    assert len(resident) == 100
    assert resident[99] <= resident[9] + 30, resident  # MB
