"""Export a run's finished trainings to another format: checkpoints/<run>_fold<k>_saved_model/, .onnx or .tflite.

Each is read again by that format's own runtime: one that gives other outputs than the training is not kept. It takes
pictures as they are, 0 to 255, in float32.
"""

from util import cli  # isort: split

import dataclasses
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable
from typing import Literal

import numpy as np

from common import IMAGE_SHAPE, rng
from recipes import CHECKPOINTS, ModelChoice, require_choice
from runs import finished_run
from util.backend import Later
from util.cli import InputError, RunFailed
from util.files import commit, commit_folder, first_line, require_writable
from util.hardware import set_up_device
from util.options import parse, setting

tensorflow, onnxruntime = Later("tensorflow"), Later("onnxruntime")
TOLERANCE = 1e-5


def by_saved_model(path, pictures):
    model = tensorflow.saved_model.load(str(path))
    return model.serve(pictures).numpy()


def by_onnxruntime(path, pictures):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def by_interpreter(path, pictures):
    interpreter = tensorflow.lite.Interpreter(model_path=str(path))
    ((name, signature),) = interpreter.get_signature_list().items()
    found = interpreter.get_signature_runner(name)(**{signature["inputs"][0]: pictures})
    return found[signature["outputs"][0]]


@dataclasses.dataclass(frozen=True)
class Format:
    """One of Keras's export formats: what its names end with, how `outputs(path, pictures)` are had of it again."""

    suffix: str
    outputs: Callable
    commit: Callable = commit
    packages: tuple = ()  # besides requirements.txt


FORMATS = {
    "tf_saved_model": Format("_saved_model", by_saved_model, commit_folder),
    "onnx": Format(".onnx", by_onnxruntime, packages=("onnx", "onnxruntime", "tf2onnx")),
    "litert": Format(".tflite", by_interpreter),
}


class Options(ModelChoice):
    format: Literal[tuple(FORMATS)] = setting(
        "tf_saved_model", "to export to: tf_saved_model, onnx or litert", knob="FORMAT"
    )


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}  # a GPU's products are not exact enough
    form = FORMATS[options.format]
    _, records = finished_run(options)
    missing = [package for package in form.packages if not importlib.util.find_spec(package)]
    if missing:
        install = shlex.join([sys.executable, "-m", "pip", "install", *missing])
        raise InputError(f"FORMAT={options.format} takes further packages; `{install}` adds them")
    require_writable(CHECKPOINTS)
    set_up_device()
    class_names = next(iter(records.values()))["data"]["class_names"]
    given = IMAGE_SHAPE if options.model == "autoencoder" else (len(class_names),)
    pictures = some_pictures()
    for run in sorted(records, key=lambda run: not run.path(form.suffix).exists()):  # what may be refused comes first
        path, model = run.path(form.suffix), run.load_model(IMAGE_SHAPE, given)
        expected = run.predict(model, pictures)
        if path.exists():
            wrong = fault(path, form, pictures, expected)
            if wrong:
                raise InputError(f"{path} is there already and is not {run.checkpoint} ({wrong}): remove it and repeat")
            print(f"{path} is there already, and gives the outputs of {run.checkpoint}")
            continue

        def write(neighbour, run=run, model=model, expected=expected):
            wrong = fault(neighbour, form, pictures, expected, lambda: model.export(neighbour, options.format, False))
            if wrong:
                raise RunFailed(f"{run.checkpoint} cannot be exported ({wrong}): nothing is kept; try another FORMAT")

        form.commit(path, write)
        takes, gives = (f"(n, {', '.join(map(str, shape))})" for shape in (IMAGE_SHAPE, given))
        print(f"{path}: takes pictures of 0 to 255 as float32 {takes}, gives {gives}; checked against {run.checkpoint}")


def some_pictures():
    """A hundred pictures, (100, 32, 32, 3) float32: half of them noise, half of them patches of colour."""
    random = rng(0, "export")
    patches = random.integers(0, 256, (50, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return np.concatenate([random.integers(0, 256, (50, *IMAGE_SHAPE)), patches]).astype(np.float32)


def fault(path, form, pictures, expected, prepare=lambda: None):
    """What is wrong with an exported file, once `prepare()` has written it: a text, empty where nothing is."""
    try:
        prepare()
        difference = np.abs(form.outputs(path, pictures) - expected).max()
    except Exception as error:
        return first_line(error).split(". ")[0]
    return "" if difference <= TOLERANCE else f"outputs differ by {difference:.1e}"


if __name__ == "__main__":
    cli.run(main)
