"""Several processes at once: on one run, on two folds, on the same missing autoencoder."""

import signal

import pytest
from conftest import contents, start, wait_until

import runs

pytestmark = pytest.mark.system  # a lock within one process: test_safe_files.py


@pytest.fixture
def begin(tmp_path, npz):
    """begin('one', 'train_cnn.py', …): a script in the test's folder; its output files have that name, too."""
    running = []

    def begin(name, script, *options):
        options = ("--data", str(npz), "--batch-size", "64", *options)
        running.append(start(tmp_path, script, *options, output=f"{name}_"))
        return running[-1]

    yield begin
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture
def ended(tmp_path):
    """ended(process, 'one'): its exit status, and what it printed on stderr."""
    return lambda process, name: (process.wait(120), (tmp_path / f"{name}_err").read_text())


@pytest.fixture
def wait_for(tmp_path):
    """wait_for(process, 'one', words): until it has printed these words."""
    return lambda process, name, words: wait_until(
        lambda: words in (tmp_path / f"{name}_out").read_text(), process, words
    )


def test_of_two_processes_on_one_fold_one_is_refused_and_folds_leave_each_other_s_files_alone(
    begin, ended, wait_for, tmp_path
):
    endless = ("train_cnn.py", "--fold", "1", "--epochs", "1000")
    one, two = begin("one", *endless), begin("two", "train_cnn.py", "--fold", "2", "--epochs", "2")
    wait_for(one, "one", "device:")
    status, error = ended(begin("second", *endless), "second")
    assert status == 2 and error.count("\n") == 1 and "another process" in error
    assert ended(two, "two") == (0, "")
    wait_for(one, "one", "epoch 1/")
    one.terminate()
    assert ended(one, "one")[0] == 143
    folder = tmp_path / "checkpoints"
    assert contents(folder).keys() == {"small_cnn_fold1.state", "small_cnn_fold2.keras", "small_cnn_fold2.json"}
    record, (note, _) = runs.Run("small_cnn", 2, folder).read_record(), runs.Run("small_cnn", 1, folder).read_state()
    assert (record["fold"], len(record["history"]["loss"]), note["settings"]["epochs"]) == (2, 2, 1000)
    assert note["settings"]["train_sha256"] != record["settings"]["train_sha256"]


def test_two_that_need_the_same_missing_autoencoder_train_it_once(begin, ended, wait_for, tmp_path):
    words = ("train_autoencoder.py", "--if-missing", "--epochs", "1")
    owner = begin("owner", *words)
    wait_for(owner, "owner", "model:")
    waiting, impatient = begin("waiting", *words), begin("impatient", *words)
    owner.send_signal(signal.SIGSTOP)  # as if it took long
    try:
        for process, name in ((waiting, "waiting"), (impatient, "impatient")):
            wait_for(process, name, "waiting for it\n")
        impatient.terminate()
        assert ended(impatient, "impatient")[0] == 143
    finally:
        owner.send_signal(signal.SIGCONT)
    assert [ended(owner, "owner"), ended(waiting, "waiting")] == [(0, "")] * 2
    assert "it is used" in (tmp_path / "waiting_out").read_text()
    assert runs.Run("small_autoencoder", None, tmp_path / "checkpoints").read_record()["best_epoch"] == 1
