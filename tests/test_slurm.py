"""Trainings as jobs of a real SLURM, which slurm.sh sets up on this machine; skipped where it cannot."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import ROOT, copy_project, files_of_classifier, make

MISSING = [name for name in ("srun", "slurmctld", "slurmd", "munged", "setpriv") if not shutil.which(name)]
ROOTLESS = hasattr(os, "geteuid") and os.geteuid() != 0
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(MISSING), reason=f"a SLURM needs Debian's slurm-wlm and munge: no {', '.join(MISSING)}"),
    pytest.mark.skipif(ROOTLESS, reason="only root can set a SLURM up"),
]
FEW = ("REDUCED=0,1,2,3,4,5,6,7,8,9", "PRECISION=float32", "BATCH=64")
CNN = (*FEW, "DATA=digits", "KEEP=24", "EPOCHS=4")


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    """A SLURM that the tests' commands find. It ends with its standard input, so also where pytest is killed."""
    command = ["timeout", "1200", ROOT / "tests/slurm.sh", tmp_path_factory.mktemp("slurm")]
    process = subprocess.Popen(
        [*command, "sh", "-c", 'echo "$SLURM_CONF"; exec cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        configuration = process.stdout.readline().strip()
        assert configuration, "no SLURM: see above"  # it has said why on stderr
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", configuration)
            yield
    finally:
        process.stdin.close()
        try:
            process.wait(60)
        finally:
            process.terminate()


def wait_for(happened, task, what, seconds=120):
    """Wait until `happened()`, which a make running in `task` brings about; returns what that returned."""
    deadline = time.monotonic() + seconds
    while not (found := happened()):
        assert not task.done(), (what, task.result().stdout, task.result().stderr)
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.01)
    return found


def logs_with(folder, words):
    """{job: what it has printed so far} of the jobs that have printed `words`, with LAUNCH="srun -o job-%j.out"."""
    logs = {path.stem.removeprefix("job-"): path.read_text() for path in folder.glob("job-*.out")}
    return {job: log for job, log in logs.items() if words in log}


def weights(folder, fold):
    path = folder / f"checkpoints/digits_cnn_fold{fold}.keras"
    return keras.saving.load_model(path, compile=False).get_weights()


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """Two folds side by side, of which one is cancelled, then the same command; its training without SLURM, too."""
    parent = tmp_path_factory.mktemp("folds")
    project, plain = copy_project(parent / "project"), copy_project(parent / "plain")
    command = ("-j2", "cnn", "FOLDS=1 2", *CNN, "LAUNCH=srun -n1 -c1 -o job-%j.out")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(make, project, *command, timeout=300)
        (job, log), *_ = wait_for(lambda: logs_with(project, "epoch 1/"), first, "an epoch").items()
        subprocess.run(["scancel", job], check=True, timeout=20)
        (cancelled,) = set(re.findall(r"fold (\d)  epoch", log))
        first = first.result()
        log = logs_with(project, "epoch 1/")[job]
        left = {path.name for path in project.glob("checkpoints/digits*")}
        core = str(min(os.sched_getaffinity(0)))  # another number of cores would give other last bits
        alone = ["taskset", "-c", core, "make", f"cnn-fold{cancelled}", *CNN, f"PYTHON={sys.executable}"]
        alone = pool.submit(subprocess.run, alone, cwd=plain, capture_output=True, text=True, timeout=300)
        again = make(project, *command, timeout=300)
        assert alone.result().returncode == 0, alone.result().stderr
    found = {"job": job, "log": log, "first": first, "again": again, "left": left}
    return SimpleNamespace(**found, project=project, plain=plain, cancelled=cancelled, other="21"[int(cancelled) - 1])


def test_of_two_folds_one_is_cancelled_politely_and_the_other_is_trained(folds):
    assert folds.first.returncode != 0
    assert "terminated" in folds.log and "epoch 4/4" not in folds.log
    other = f"digits_cnn_fold{folds.other}"
    assert folds.left == {f"digits_cnn_fold{folds.cancelled}.state", f"{other}.keras", f"{other}.json"}


def test_the_same_command_goes_on_and_evaluates_both_folds(folds):
    assert folds.again.returncode == 0, folds.again.stderr
    assert "over 2 folds" in folds.again.stdout
    done = len(re.findall(r"  epoch \d/4  ", folds.log))
    assert len(logs_with(folds.project, f"going on after epoch {done} of checkpoints/digits_cnn_fold{folds.cancelled}"))
    assert len(logs_with(folds.project, f"digits_cnn_fold{folds.other}.keras is finished already")) == 1
    checkpoints, images = files_of_classifier("digits_cnn", [1, 2])
    assert {path.name for path in folds.project.glob("checkpoints/[!.]*")} == checkpoints
    assert images <= {path.name for path in folds.project.glob("imgs/*")}


def test_it_ends_bit_for_bit_as_one_run_through_without_slurm_on_as_many_cores(folds):
    one, other = weights(folds.project, folds.cancelled), weights(folds.plain, folds.cancelled)
    assert len(one) > 10
    assert all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


def test_a_step_waits_for_the_autoencoder_that_another_trains_then_its_classifier_is_trained(tmp_path, npz):
    project = copy_project(tmp_path / "project")
    knobs = (*FEW, f"DATA={npz}", "KEEP=10", "EPOCHS=4", "LAUNCH=srun --gres=gpu:1 -n1 -c1 -o job-%j.out")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(make, project, "ae", *knobs, timeout=300)
        wait_for(lambda: logs_with(project, "device:"), first, "its training")  # which holds its lock
        chain = make(project, "ae_cls", "FOLDS=1", *knobs, timeout=300)
        assert first.result().returncode == 0, first.result().stderr
    assert chain.returncode == 0, chain.stderr
    (waited,) = logs_with(project, "waiting for it").values()
    assert waited.index("waiting for it") < waited.index("small_autoencoder.keras")
    checkpoints, _ = files_of_classifier("small_autoencoder_cls", [1])
    autoencoder = {"small_autoencoder.keras", "small_autoencoder.json"}
    assert {path.name for path in project.glob("checkpoints/[!.]*")} == checkpoints | autoencoder
    assert (project / "imgs/small_autoencoder_cls_report.txt").exists()


def test_a_backend_typed_at_make_arrives_in_a_step_without_environment(tmp_path):
    project = copy_project(tmp_path / "project")
    launch = "LAUNCH=srun -n1 --export=NONE"
    result = make(project, "cnn-fold1", *CNN, launch, "KERAS_BACKEND=nonsense", timeout=100)
    assert result.returncode == 2
    assert "nonsense" in result.stderr
