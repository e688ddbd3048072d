"""export.py on small networks: each format's own runtime gives Keras's outputs, or nothing is kept."""

import hashlib
import shutil
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow

import export
from util.cli import InputError, RunFailed

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes
CNN = ("--data=small.npz", "--model=cnn")
AUTOENCODER = ("--data=small.npz", "--model=autoencoder", "--noaug=1")


@pytest.fixture
def study(tiny_study, workdir):
    """A copy of the small study to work in; exporting takes no data set."""
    shutil.copytree(tiny_study / "checkpoints", workdir / "checkpoints")
    return workdir


def contents():
    return {path: path.is_file() and hashlib.sha256(path.read_bytes()).digest() for path in Path().rglob("*")}


def refuse(*words, error=InputError, match=""):
    """The script refuses these words; nothing is written, nor a hidden rest left."""
    before = contents()
    with pytest.raises(error, match=match):
        export.main([*words])
    assert contents() == before


def by_saved_model(path, pictures):
    model = tensorflow.saved_model.load(f"{path}_saved_model")
    return model.signatures["serving_default"](tensorflow.constant(pictures))["output_0"].numpy()


def by_onnx(path, pictures):
    session = onnxruntime.InferenceSession(f"{path}.onnx")
    assert [one.type for one in session.get_inputs()] == ["tensor(float)"]
    return session.run(None, {session.get_inputs()[0].name: pictures})[0]


def by_tflite(path, pictures):
    interpreter = tensorflow.lite.Interpreter(f"{path}.tflite")
    (taken,), (given,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(taken["index"], pictures.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(taken["index"], pictures)
    interpreter.invoke()
    return interpreter.get_tensor(given["index"])


READERS = {"tf_saved_model": by_saved_model, "onnx": by_onnx, "litert": by_tflite}


STEMS = {CNN: ["small_cnn_fold1", "small_cnn_fold2"], AUTOENCODER: ["small_autoencoder_noaug"]}


@pytest.mark.parametrize(("format_", "words"), [*((one, CNN) for one in READERS), ("litert", AUTOENCODER)])
def test_an_exported_file_gives_keras_s_outputs_for_pictures_as_they_are(study, format_, words):
    stems, suffix = STEMS[words], export.FORMATS[format_][0]
    before = contents()
    export.main([*words, f"--format={format_}"])
    for count in (1, 7):
        pictures = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)).astype(np.float32)
        for stem in stems:
            expected = keras.saving.load_model(f"checkpoints/{stem}.keras").predict_on_batch(pictures)
            np.testing.assert_allclose(READERS[format_](f"checkpoints/{stem}", pictures), expected, atol=1e-5)
    after = contents()
    assert after.items() >= before.items()
    new = {path for path in after.keys() - before if path.parent == Path("checkpoints")}
    assert new == {Path("checkpoints", f"{stem}{suffix}") for stem in stems}
    export.main([*words, f"--format={format_}"])  # they are there, and are the same
    assert contents() == after


@pytest.mark.parametrize("format_", ["onnx", "litert"])
def test_what_is_there_and_is_another_is_refused(study, format_):
    path = Path(f"checkpoints/small_cnn_fold2{export.FORMATS[format_][0]}")
    export.main([*CNN, f"--format={format_}"])
    shutil.copy(path.with_stem("small_cnn_fold1"), path)
    refuse(*CNN, f"--format={format_}", error=RunFailed, match=path.name)
    path.write_text("no model")
    refuse(*CNN, f"--format={format_}", match=path.name)


def test_an_export_that_its_runtime_cannot_use_is_not_kept(study, monkeypatch):
    def lacking(path, pictures):
        raise RuntimeError("this interpreter lacks an operation")  # as LiteRT does

    monkeypatch.setitem(export.FORMATS, "litert", (".tflite", lacking, ()))
    refuse(*CNN, "--format=litert", match="lacks")


@pytest.mark.parametrize("format_", ["tf_saved_model", "litert"])
def test_an_export_that_gives_other_outputs_is_not_kept(study, monkeypatch, format_):
    suffix, outputs, packages = export.FORMATS[format_]
    wrong = (suffix, lambda *given: outputs(*given) + 1e-3, packages)
    monkeypatch.setitem(export.FORMATS, format_, wrong)
    refuse(*CNN, f"--format={format_}", error=RunFailed, match="outputs")


def test_what_cannot_be_exported_is_refused(study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    refuse("--model=cnn", match="make cnn")
    refuse(*CNN, "--format=tar", match="--format")
    assert export.os.environ["CUDA_VISIBLE_DEVICES"] == "-1"  # a GPU's products, of ten bits, would be too far off
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    refuse(*CNN, "--format=onnx", match="pip install onnx onnxruntime tf2onnx")
