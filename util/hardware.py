"""The machine that a training runs on: its name, its cores, whether bfloat16 is fast on it; the versions in use."""

import contextlib
import functools
import importlib
import logging
import os
import platform
import re
import subprocess
from pathlib import Path

from util.backend import Later, keras, set_defaults

joblib, tensorflow, jax = Later("joblib"), Later("tensorflow"), Later("jax")


def processor_name():
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def processor_has_bfloat16():
    """Name of the instruction set that makes bfloat16 fast on this processor, or None."""
    with contextlib.suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text().split())
        return next((flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags), None)
    return None  # none was measured where there is no /proc


@functools.cache
def set_up_device():
    """Make the backend ready; returns (description of the device, why bfloat16 is fast on it, or None)."""
    set_defaults()
    cores = joblib.cpu_count()  # those that this process may use: its affinity, and a container's limit
    processor = f"CPU, {cores} core{'s'[: cores > 1]}"
    if keras.backend.backend() == "tensorflow":
        tensorflow.config.threading.set_intra_op_parallelism_threads(cores)
        tensorflow.config.threading.set_inter_op_parallelism_threads(cores)
        logging.getLogger("tensorflow").setLevel("ERROR")  # its advice on retracing is not for a user of these scripts
        gpus = tensorflow.config.list_physical_devices("GPU")
        for gpu in gpus:
            tensorflow.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            details = tensorflow.config.experimental.get_device_details(gpus[0])
            capability = details.get("compute_capability", (0, 0))
            fast = f"compute capability {capability[0]}.{capability[1]}" if capability >= (8, 0) else None
            return details.get("device_name", "GPU"), fast
        if Path("/proc/driver/nvidia/version").exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
            print(
                "note: an NVIDIA driver is here, but TensorFlow finds no GPU; GPU=1 once has make install its GPU build"
            )
    elif keras.backend.backend() == "jax":
        device = jax.devices()[0]
        if device.platform != "cpu":
            capability = str(getattr(device, "compute_capability", ""))  # such as 9.0; of AMD's, gfx90a
            fast = re.fullmatch(r"\d+\.\d+", capability) and float(capability) >= 8
            return device.device_kind, f"compute capability {capability}" if fast else None
        return processor, None  # XLA emulates bfloat16 convolutions on a processor
    return processor, processor_has_bfloat16()


def tensorflow_on_processor():
    """True where kernels are known to be faster; on a GPU none was measured."""
    return keras.backend.backend() == "tensorflow" and not tensorflow.config.list_physical_devices("GPU")


def resolve_precision(requested):
    """('float32' or 'mixed_bfloat16', the reason in words)."""
    _, fast = set_up_device()
    if requested != "auto":
        return requested, "as asked for"
    return ("mixed_bfloat16", f"the hardware has {fast}") if fast else ("float32", "no fast bfloat16 here")


def versions():
    packages = ("keras", "numpy", "sklearn", "skimage", keras.backend.backend())
    return {
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in packages},
    }


def current_commit(folder):
    """The commit in `folder`, with '+' where tracked files differ; None where that is not the top of a repository.

    Those in imgs/ do not count: an earlier evaluation may have written them.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words):
        command = ["git", "-C", folder, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=plain).stdout.strip()

    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        if not git("rev-parse", "--show-prefix"):  # where this folder is in the work tree: '' at its top
            changed = git(
                "--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)imgs"
            )
            return git("rev-parse", "--short=12", "HEAD") + "+" * bool(changed)
    return None
