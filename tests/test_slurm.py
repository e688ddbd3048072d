"""Trainings as jobs of a real SLURM, which slurm.sh sets up on this machine; skipped where it cannot."""

import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, copy_project, files_of_classifier, make, require_equal

from runs import Run

MISSING = [name for name in ("srun", "slurmctld", "slurmd", "munged", "setpriv") if not shutil.which(name)]
ROOTLESS = hasattr(os, "geteuid") and os.geteuid() != 0
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(bool(MISSING), reason=f"a SLURM needs Debian's slurm-wlm and munge: no {', '.join(MISSING)}"),
    pytest.mark.skipif(ROOTLESS, reason="only root can set a SLURM up"),
]
CNN = ("REDUCED=0,1,2,3,4,5,6,7,8,9", "PRECISION=float32", "BATCH=64", "DATA=digits", "KEEP=24", "EPOCHS=4")


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


def logs_with(folder, words):
    """{job: what it has printed so far} of the jobs that have printed `words`, with LAUNCH="srun -o job-%j.out"."""
    logs = {path.stem.removeprefix("job-"): path.read_text() for path in folder.glob("job-*.out")}
    return {job: log for job, log in logs.items() if words in log}


def test_a_cancelled_fold_goes_on_by_the_same_command_and_ends_bit_for_bit_as_without_slurm(tmp_path):
    """Two folds side by side, of which one is cancelled, then the same command; its training without SLURM, too."""
    project, plain = copy_project(tmp_path / "project"), copy_project(tmp_path / "plain")
    command = ("-j2", "cnn", "FOLDS=1 2", *CNN, "LAUNCH=srun -n1 -c1 -o job-%j.out")
    with ThreadPoolExecutor() as pool:
        first = pool.submit(make, project, *command, timeout=300)
        while not (begun := logs_with(project, "epoch 1/")):
            assert not first.done(), first.result().stderr
            time.sleep(0.01)
        (job, log), *_ = begun.items()
        subprocess.run(["scancel", job], check=True, timeout=20)
        (cancelled,) = set(re.findall(r"fold (\d)  epoch", log))
        assert first.result().returncode != 0
        log, other = logs_with(project, "epoch 1/")[job], f"digits_cnn_fold{'21'[int(cancelled) - 1]}"
        assert "terminated" in log and "epoch 4/4" not in log
        state = f"digits_cnn_fold{cancelled}.state"
        assert {path.name for path in project.glob("checkpoints/[!.]*")} == {state, f"{other}.keras", f"{other}.json"}

        core = str(min(os.sched_getaffinity(0)))  # another number of cores would give other last bits
        alone = ["taskset", "-c", core, "make", f"cnn-fold{cancelled}", *CNN, f"PYTHON={sys.executable}"]
        alone = pool.submit(subprocess.run, alone, cwd=plain, capture_output=True, text=True, timeout=300)
        again = make(project, *command, timeout=300)
        assert alone.result().returncode == 0, alone.result().stderr
    assert again.returncode == 0, again.stderr
    assert "over 2 folds" in again.stdout
    done = len(re.findall(r"  epoch \d/4  ", log))
    assert len(logs_with(project, f"going on after epoch {done} of checkpoints/{state}")) == 1
    assert len(logs_with(project, f"{other}.keras is finished already")) == 1
    checkpoints, images = files_of_classifier("digits_cnn", [1, 2])
    assert {path.name for path in project.glob("checkpoints/[!.]*")} == checkpoints
    assert images <= {path.name for path in project.glob("imgs/*")}
    require_equal(*(Run("digits_cnn", int(cancelled), one / "checkpoints") for one in (project, plain)))
