"""Trainings that are stopped, by kill -9 and politely: the same command goes on and ends where one run through ends.

Processes of their own, with the real models; Ctrl-C, and every point of the schedule, in test_training.py.
"""

import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import start, wait_until

import evaluate

EPOCHS = 4
SEED = 20  # of the moments of kill -9
FEW = ["--reduced", "0,1,2,3,4,5,6,7,8,9", "--keep", "24"]  # as many pictures as the autoencoder's epoch has time for
COMMANDS = {
    "cnn": ["train_cnn.py"],
    "autoencoder": ["train_autoencoder.py", *FEW],
    "autoencoder_cls": ["train_ae_classifier.py", *FEW],
    "mod_autoencoder_cls": ["train_ae_classifier.py", "--modified", *FEW],
}


def begin(folder, kind):
    config = ["--config", "config.json"] if (folder / "config.json").exists() else []
    return start(folder, *COMMANDS[kind], "--data", "digits", "--batch-size", "32", "--epochs", str(EPOCHS), *config)


def stem(kind):
    return f"checkpoints/digits_{kind}" + ("_fold1" if kind != "autoencoder" else "")


def epochs_in_state(folder, kind):
    with contextlib.suppress(FileNotFoundError), np.load(folder / f"{stem(kind)}.state") as file:
        return len(json.loads(file["note"].tobytes())["history"])
    return 0


def read_output(folder):
    return {name: (folder / name).read_text() for name in ("out", "err")}


def after_stop(folder, kind, status):
    files = sorted(path.name for path in folder.glob("checkpoints/*") if path.suffix != ".lock")
    return SimpleNamespace(status=status, files=files, epochs=epochs_in_state(folder, kind), **read_output(folder))


def terminate(folder, kind, epoch):
    """Run the training until `epoch` is printed and safe, then send SIGTERM; returns what there is then."""
    process = begin(folder, kind)

    def safe():
        return epochs_in_state(folder, kind) >= epoch and f"epoch {epoch}/" in (folder / "out").read_text()

    try:
        wait_until(safe, process, f"epoch {epoch}")
        process.terminate()
        return after_stop(folder, kind, process.wait(60))
    finally:
        process.kill()


def kill(folder, kind, moment):
    """Run the training until `moment`, then kill -9."""
    process, parts = begin(folder, kind), set()

    def writing():
        parts.update(folder.glob("checkpoints/.*.part.*"))
        return len(parts) >= moment.writing

    try:
        wait_until(lambda: "device:" in (folder / "out").read_text(), process, "the training")
        with contextlib.suppress(AssertionError):  # where it has ended by then, nothing may be lost either
            if moment.writing:
                wait_until(writing, process, moment)
            elif moment.after:
                wait_until(lambda: f"epoch {moment.after}/" in (folder / "out").read_text(), process, moment)
            process.wait(moment.seconds)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
    return after_stop(folder, kind, process.wait())


def moments(kind, count, seconds, epochs=EPOCHS):
    """Moments of a training for kill -9: a time within an epoch, or, two in five, while the n-th file is written.

    Counted from the end of the epoch before, so that a machine that is busier than for the whole `seconds` counts less.
    """
    draw = random.Random(f"{SEED} {kind}")
    for _ in range(count):
        if draw.random() < 0.4:  # the last two files are the record and the checkpoint
            last = EPOCHS + 2 if epochs == EPOCHS else epochs
            moment = {"writing": draw.randint(1, last), "after": 0, "seconds": draw.uniform(0, 0.03)}
        else:
            length = seconds / EPOCHS / 2
            moment = {"writing": 0, "after": draw.randrange(epochs), "seconds": draw.uniform(0, length)}
        yield SimpleNamespace(**moment, seed=SEED)


def finish(folder, kind):
    """Run the training to its end; returns its output and how long it took from the first epoch on."""
    process, began = begin(folder, kind), time.monotonic()
    try:
        with contextlib.suppress(AssertionError):  # where it was finished already
            wait_until(lambda: "device:" in (folder / "out").read_text(), process, "the training")
            began = time.monotonic()
        status = process.wait(200)
    finally:
        process.kill()
    assert status == 0, (folder / "err").read_text()
    return SimpleNamespace(seconds=time.monotonic() - began, **read_output(folder))


def untimed(content):
    """A record or a report without times, files that hold the date, and the commit, which may change meanwhile."""
    if isinstance(content, dict):
        without = ("seconds", "images_per_second", "checkpoint_sha256", "record_sha256", "commit")
        return {key: untimed(value) for key, value in content.items() if key not in without}
    return content


def results(folder, kind):
    """All that a finished and evaluated training has to say: weights, predictions, record, report."""
    with contextlib.chdir(folder):
        evaluate.main(["--model", kind, "--data", "digits"])
    model = keras.saving.load_model(folder / f"{stem(kind)}.keras")
    found = {weight.path: keras.ops.convert_to_numpy(weight) for weight in model.weights}
    if kind != "autoencoder":
        with np.load(folder / f"{stem(kind)}_predictions.npz") as file:
            found |= {"probabilities": file["probabilities"], "labels": file["labels"]}
    record = json.loads((folder / f"{stem(kind)}.json").read_text())
    report = folder / f"imgs/digits_{kind}_report.json"
    found |= {"text": report.with_suffix(".txt").read_text(), "report": untimed(json.loads(report.read_text()))}
    assert len(model.weights) > 10 and len(record["history"]["loss"]) == EPOCHS
    return {**found, "history": untimed(record["history"]), "record": untimed(record)}


def require_same(whole, pieces, kind, message):
    one, other = results(whole, kind), results(pieces, kind)
    assert one.keys() == other.keys()
    differing = {key: (one[key], other[key]) for key in one if not same(one[key], other[key])}
    assert not differing, f"{message}: {', '.join(differing)} differ; {differing.get('history') or ''}"
    left = {path.name for path in pieces.glob(f"{stem(kind)}*")} | {path.name for path in pieces.rglob(".*.part.*")}
    predictions = set() if kind == "autoencoder" else {f"{stem(kind)}_predictions.npz"}
    expected = {f"{stem(kind)}.keras", f"{stem(kind)}.json", *predictions}
    assert {f"checkpoints/{name}" for name in left} == expected, message


def same(one, other):
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    return one == other


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """The CNN's training twice: run through, and in pieces: killed at a random moment, terminated, finished."""
    whole, pieces = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("pieces")
    seconds = finish(whole, "cnn").seconds
    (moment,) = moments("cnn", 1, seconds, epochs=2)
    killed = kill(pieces, "cnn", moment)
    terminated = terminate(pieces, "cnn", min(killed.epochs + 1, EPOCHS - 1))
    return SimpleNamespace(
        whole=whole, pieces=pieces, moment=moment, killed=killed, terminated=terminated, last=finish(pieces, "cnn")
    )


def test_a_stopped_training_keeps_its_state_and_says_how_to_go_on(trainings):
    killed, terminated = trainings.killed, trainings.terminated
    assert (killed.status, killed.err) == (-signal.SIGKILL, ""), trainings.moment
    message = "\ntrain_cnn.py: terminated; the same command, without FORCE=1, goes on\n"
    assert (terminated.status, terminated.err) == (128 + signal.SIGTERM, message)
    assert [name for name in terminated.files if not name.startswith(".")] == ["digits_cnn_fold1.state"]


def test_the_same_command_goes_on_after_the_last_finished_epoch(trainings):
    for before, said in ((trainings.killed, trainings.terminated.out), (trainings.terminated, trainings.last.out)):
        done = before.epochs
        assert (f"going on after epoch {done} of {stem('cnn')}.state\n" in said) == (done > 0), trainings.moment
        assert f"epoch {done}/{EPOCHS}" not in said and f"epoch {done + 1}/{EPOCHS}" in said, trainings.moment
    assert trainings.terminated.epochs > trainings.killed.epochs


def test_a_training_in_pieces_ends_as_one_run_through(trainings):
    require_same(trainings.whole, trainings.pieces, "cnn", trainings.moment)


@pytest.fixture(scope="module")
def run_through(tmp_path_factory):
    """run_through(kind) -> (folder of that training without interruption, its seconds)."""
    done = {}

    def run_through(kind):
        if kind not in done:
            folder = new_folder(kind, tmp_path_factory.mktemp(kind))
            done[kind] = folder, finish(folder, kind).seconds
        return done[kind]

    def new_folder(kind, folder):
        (folder / "checkpoints").mkdir()
        if kind.endswith("cls"):
            for suffix in (".keras", ".json"):
                shutil.copy(run_through("autoencoder")[0] / f"{stem('autoencoder')}{suffix}", folder / "checkpoints")
        return folder

    run_through.new_folder = new_folder
    return run_through


@pytest.mark.long
@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("number", range(5))
def test_killed_at_any_moment(run_through, tmp_path, kind, number):
    whole, seconds = run_through(kind)
    moment = list(moments(kind, number + 1, seconds))[number]
    pieces = run_through.new_folder(kind, tmp_path)
    killed = kill(pieces, kind, moment)
    print(f"{kind}: {moment} of {seconds:.1f} s, killed after epoch {killed.epochs}: {killed.files}")
    last = finish(pieces, kind)
    finished = f"digits_{kind}.keras" in killed.files or f"digits_{kind}_fold1.keras" in killed.files
    assert finished or (f"going on after epoch {killed.epochs} of" in last.out) == (killed.epochs > 0), moment
    require_same(whole, pieces, kind, f"{kind}, {moment} of {seconds:.1f} s")


CONFIGS = {
    "nesterov-cosine": {
        "optimizer": {"class_name": "SGD", "config": {"momentum": 0.85, "nesterov": True}},
        "learning_rate": 0.02,
        "schedule": "cosine",
        "warmup": 0.2,
    },
    "decay-linear": {
        "optimizer": {"class_name": "AdamW", "config": {"weight_decay": 0.02}},
        "schedule": "linear",
        "warmup": 0.2,
    },
    "averaged-plateau": {"optimizer": {"class_name": "Adam", "config": {"use_ema": True, "ema_momentum": 0.9}}},
    "muon-factor": {
        "optimizer": {"class_name": "Muon", "config": {"exclude_layers": ["dense1"], "use_ema": True}},
        "schedule": 0.5,
    },
}


@pytest.mark.long
@pytest.mark.parametrize("name", CONFIGS)
def test_killed_with_another_optimizer_and_schedule(tmp_path, name):
    """Killed at a random moment, and, when it has gone on for an epoch, within the next."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    for folder in (whole, pieces):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    seconds = finish(whole, "cnn").seconds
    record = json.loads((whole / f"{stem('cnn')}.json").read_text())
    assert record["settings"].items() >= CONFIGS[name].items()
    first, then = moments(name, 2, seconds, epochs=2)
    done = kill(pieces, "cnn", first).epochs
    then.writing, then.after = 0, done + 1
    second = kill(pieces, "cnn", then)
    message = f"{name}, {first} and {then} of {seconds:.1f} s, killed after epochs {done} and {second.epochs}"
    print(message)
    assert f"going on after epoch {done} of" in second.out or done == 0, message
    last = finish(pieces, "cnn")
    finished = "digits_cnn_fold1.keras" in second.files
    assert finished or f"going on after epoch {second.epochs} of" in last.out, message
    require_same(whole, pieces, "cnn", message)


MEMORY = """
import resource, train_cnn, training
from util import cli
def keep(self, epoch, logs=None, plain=resume.KeepState.on_epoch_end):
    plain(self, epoch, logs)
    with open("/proc/self/statm") as file:
        print("resident", int(file.read().split()[1]) * resource.getpagesize(), flush=True)
resume.KeepState.on_epoch_end = keep
cli.run(train_cnn.main)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from Linux's /proc")
def test_memory_does_not_grow_over_a_hundred_epochs(tmp_path):
    (tmp_path / "memory.py").write_text(MEMORY)
    words = ["--data", "digits", *FEW, "--batch-size", "16", "--epochs", "100", "--patience", "100"]
    process = start(tmp_path, "memory.py", *words)
    try:
        assert process.wait(600) == 0, (tmp_path / "err").read_text()
    finally:
        process.kill()
    lines = (tmp_path / "out").read_text().splitlines()
    resident = [int(line.split()[1]) for line in lines if line.startswith("resident ")]
    assert len(resident) == 100
    print(f"resident after epochs 1, 10, 50, 100: {[resident[epoch - 1] >> 20 for epoch in (1, 10, 50, 100)]} MB")
    assert resident[99] <= 1.05 * resident[9], [size >> 20 for size in resident]
