"""Several processes at once: on one run, on two folds, on the same missing autoencoder, evaluations of one run."""

import signal
from types import SimpleNamespace

import pytest
from conftest import files_of_classifier, start, wait_until

import runs

pytestmark = pytest.mark.system  # in one process: test_safe_files.py


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
    assert (trainings.two, trainings.one[0]) == ((0, ""), 143)
    folder = processes.folder / "checkpoints"
    files = {path.name for path in folder.iterdir() if path.suffix != ".lock"}
    assert files == {"small_cnn_fold1.state", "small_cnn_fold2.keras", "small_cnn_fold2.json"}
    record, (note, _) = runs.Run("small_cnn", 2, folder).read_record(), runs.Run("small_cnn", 1, folder).read_state()
    assert (record["fold"], len(record["history"]["loss"]), note["settings"]["epochs"]) == (2, 2, 1000)
    assert note["settings"]["train_sha256"] != record["settings"]["train_sha256"]


def test_evaluations_of_one_run_at_the_same_time_both_end_well(trainings, processes):
    for name in ("an evaluation", "another"):
        processes.start(name, "evaluate.py", "--model", "cnn")
    assert [processes.ended(name) for name in ("an evaluation", "another")] == [(0, ""), (0, "")]
    _, images = files_of_classifier("small_cnn", [2])
    found = {path.name for path in (processes.folder / "imgs").iterdir()}
    assert found == images | {"small_distribution.png", "small_samples.png"}


def test_two_that_need_the_same_missing_autoencoder_train_it_once(processes):
    words = ("train_autoencoder.py", "--if-missing", "--epochs", "1", "--batch-size", "64")
    owner = processes.start("first", *words)
    processes.wait_for("first", "model:")
    for name in ("waiting", "impatient"):
        processes.start(name, *words)
    owner.send_signal(signal.SIGSTOP)  # as if it took long
    try:
        for name in ("waiting", "impatient"):
            processes.wait_for(name, "waiting for it\n")
        processes.running["impatient"].terminate()
        assert processes.ended("impatient", 10)[0] == 143
    finally:
        owner.send_signal(signal.SIGCONT)
    assert [processes.ended(name) for name in ("first", "waiting")] == [(0, ""), (0, "")]
    assert "best epoch 1 of 1" in processes.said("first") and "it is used" in processes.said("waiting")
    run = runs.Run("small_autoencoder", None, processes.folder / "checkpoints")
    assert run.load_model().name == run.name == run.read_record()["run"]
