"""Export a run's finished trainings to another format: checkpoints/<run>_fold<k>_saved_model/, .onnx or .tflite.

Each file is read again by that format's own runtime, and is kept only if it gives the outputs of the training. It takes
pictures as they are, 0 to 255, in float32.
"""

import importlib.util
import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np

from common import rng
from data import IMAGE_SHAPE
from recipes import CHECKPOINTS, ModelChoice, require_choice
from runs import finished_run
from util import cli
from util.backend import Later
from util.cli import InputError, RunFailed
from util.files import reading, require_writable
from util.hardware import set_up_device
from util.options import parse, setting

tensorflow, onnxruntime = Later("tensorflow"), Later("onnxruntime")


def by_saved_model(path, pictures):
    model = tensorflow.saved_model.load(str(path))  # whose variables go where nothing holds it
    return model.serve(pictures).numpy()


def by_onnxruntime(path, pictures):
    kinds = onnxruntime.capi.onnxruntime_pybind11_state
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: pictures})[0]
    except (kinds.InvalidProtobuf, kinds.InvalidGraph, kinds.InvalidArgument, kinds.Fail) as error:  # of a foreign file
        raise ValueError(error) from None


def by_interpreter(path, pictures):
    runner = tensorflow.lite.Interpreter(model_path=str(path)).get_signature_runner()
    ((taken, _),) = runner.get_input_details().items()
    ((given, _),) = runner.get_output_details().items()
    return runner(**{taken: pictures})[given]


# Keras's export format: (what its files' names end with, how its outputs are had, packages besides requirements.txt).
FORMATS = {
    "tf_saved_model": ("_saved_model", by_saved_model, ()),
    "onnx": (".onnx", by_onnxruntime, ("onnx", "onnxruntime", "tf2onnx")),
    "litert": (".tflite", by_interpreter, ()),
}


class Options(ModelChoice):
    format: Literal[tuple(FORMATS)] = setting(
        "tf_saved_model", "to export to: tf_saved_model, onnx or litert", knob="FORMAT"
    )


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}  # a GPU's products are not exact enough
    suffix, outputs, packages = FORMATS[options.format]
    _, records = finished_run(options)
    missing = [package for package in packages if not importlib.util.find_spec(package)]
    if missing:
        install = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        raise InputError(f"FORMAT={options.format} takes further packages; `{install}` adds them")
    require_writable(CHECKPOINTS)
    set_up_device()
    pictures = rng(0, "export").integers(0, 256, (100, *IMAGE_SHAPE)).astype(np.float32)
    for run, record in records.items():
        given = IMAGE_SHAPE if options.model == "autoencoder" else (len(record["data"]["class_names"]),)
        model, path = run.load_model(IMAGE_SHAPE, given), run.path(suffix)
        with tempfile.TemporaryDirectory(prefix=f".{run.stem}.", dir=CHECKPOINTS) as folder:
            there, part = path.exists(), Path(folder, path.name)
            expected = run.predict(model, pictures)  # before the export: Keras exports to ONNX only what was called
            remedy = "remove it and repeat" if there else "it is not kept; try another FORMAT"
            if not there:
                model.export(part, options.format, verbose=False)
            with reading(f"{path} cannot be read", remedy):
                found = outputs(path if there else part, pictures)
            if not np.allclose(found, expected, atol=1e-5):
                raise RunFailed(f"{path} does not give the outputs of {run.checkpoint}: {remedy}")
            if not there:
                os.rename(part, path)
        shape = ", ".join(map(str, IMAGE_SHAPE))
        print(f"{path}: takes pictures of 0 to 255 as float32 (n, {shape}); checked against {run.checkpoint}")


if __name__ == "__main__":
    cli.run(main)
