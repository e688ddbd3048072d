"""Several processes at once: on one run, on two folds, on the same missing autoencoder, evaluations of one run."""

import json
import re
import signal
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import files_of_classifier, start, wait_until

import runs

pytestmark = pytest.mark.long  # in one process: test_safe_files.py


class Processes:
    """Scripts running in one folder, all on the same small data; each under a name, which its output files have too."""

    def __init__(self, folder, data):
        self.folder, self.data, self.running = folder, data, {}

    def start(self, name, script, *options):
        options = ["--data", self.data, *options]
        self.running[name] = start(self.folder, script, *options, output=f"{name}_")
        return self.running[name]

    def said(self, name, stream="out"):
        return (self.folder / f"{name}_{stream}").read_text()

    def wait_for(self, name, words):
        wait_until(lambda: words in self.said(name), self.running[name], words)

    def ended(self, name, seconds=120):
        """(exit status, what it printed on stderr)"""
        return self.running[name].wait(seconds), self.said(name, "err")


@pytest.fixture(scope="module")
def processes(tmp_path_factory, npz):
    processes = Processes(tmp_path_factory.mktemp("side by side"), str(npz))
    yield processes
    for process in processes.running.values():
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def trainings(processes):
    """Two folds in training; a second process on each: one is refused, then the first ones end, by signal and well."""
    endless = ("train_cnn.py", "--fold", "1", "--batch-size", "64", "--epochs", "1000", "--patience", "1000")
    one = processes.start("one", *endless)
    processes.start("two", "train_cnn.py", "--fold", "2", "--batch-size", "64", "--epochs", "2")
    processes.wait_for("one", "device:")
    processes.start("second", *endless)
    ends = {name: processes.ended(name) for name in ("second", "two")}
    processes.wait_for("one", "epoch 1/")
    one.terminate()
    return SimpleNamespace(**ends, one=processes.ended("one", 30))


def test_a_second_process_on_the_same_fold_is_refused(trainings):
    status, error = trainings.second
    assert status == 2 and error.count("\n") == 1 and "another process" in error


def test_folds_side_by_side_leave_each_other_s_files_alone(trainings, processes):
    assert trainings.two == (0, "")
    assert trainings.one == (143, "\ntrain_cnn.py: terminated; the same command, without FORCE=1, goes on\n")
    folder = processes.folder / "checkpoints"
    files = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert files == {"small_cnn_fold1.state", "small_cnn_fold2.keras", "small_cnn_fold2.json"}
    record = runs.Run("small_cnn", 2, folder).read_record()
    assert (record["fold"], len(record["history"]["loss"])) == (2, 2)
    with np.load(folder / "small_cnn_fold1.state") as file:
        note = json.loads(file["note"].tobytes())
    assert note["settings"]["epochs"] == 1000
    assert note["settings"]["train_sha256"] != record["settings"]["train_sha256"]


def test_evaluations_of_one_run_at_the_same_time_both_end_well(trainings, processes):
    for name in ("an evaluation", "another"):
        processes.start(name, "evaluate.py", "--model", "cnn")
    assert [processes.ended(name) for name in ("an evaluation", "another")] == [(0, ""), (0, "")]
    note = "note: the reports and plots of small_cnn in imgs were of other trainings; they are replaced\n"
    reports = [processes.said(name).replace(note, "") for name in ("an evaluation", "another")]
    assert reports[0] == reports[1]
    checkpoints, images = files_of_classifier("small_cnn", [2])
    found = {path.name for path in (processes.folder / "imgs").iterdir()}
    assert found == images | {"small_distribution.png", "small_samples.png"}
    assert checkpoints < {path.name for path in (processes.folder / "checkpoints").iterdir()}


def test_two_that_need_the_same_missing_autoencoder_train_it_once(processes):
    words = ("train_autoencoder.py", "--if-missing", "--epochs", "1", "--batch-size", "64")
    owner = processes.start("first", *words)
    processes.wait_for("first", "model:")
    for name in ("waiting", "impatient"):
        processes.start(name, *words)
    waiting = "waiting for it\n"
    owner.send_signal(signal.SIGSTOP)  # as if it took long
    try:
        for name in ("waiting", "impatient"):
            processes.wait_for(name, waiting)
        stopped = time.monotonic()
        processes.running["impatient"].terminate()
        assert processes.ended("impatient", 30)[0] == 143
        assert time.monotonic() - stopped < 10
    finally:
        owner.send_signal(signal.SIGCONT)
    assert [processes.ended(name) for name in ("first", "waiting")] == [(0, ""), (0, "")]
    checkpoint = "checkpoints/small_autoencoder.keras"
    assert re.search(rf"^{checkpoint}: best epoch 1 of 1, ", processes.said("first"), re.M)
    assert processes.said("waiting").endswith(f"{checkpoint} is there and was trained on these images: it is used\n")
    assert keras.saving.load_model(processes.folder / checkpoint, compile=False).name == "small_autoencoder"
