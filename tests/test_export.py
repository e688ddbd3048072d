"""export.py on small networks: each format's own runtime gives Keras's outputs, or nothing is kept."""

import dataclasses
import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow

import export
from util import cli, files
from util.cli import InputError, RunFailed

pytestmark = pytest.mark.filterwarnings("ignore")  # of converters and runtimes
CNN = ("DATA=small.npz", "MODEL=cnn")
AUTOENCODER = ("DATA=small.npz", "MODEL=autoencoder", "NOAUG=1")


@pytest.fixture
def study(tiny_study, workdir):
    """A copy of the small study to work in; exporting takes no data set."""
    shutil.copytree(tiny_study / "checkpoints", workdir / "checkpoints")
    return workdir


@pytest.fixture(scope="module")
def exported(tiny_study, tmp_path_factory):
    """exported(format, *words): a copy of the study with what these words export, each made once."""
    made = {}

    def make(format_, *words):
        if (format_, words) not in made:
            folder = tmp_path_factory.mktemp(format_)
            shutil.copytree(tiny_study / "checkpoints", folder / "checkpoints")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                export.main([*words, f"FORMAT={format_}"])
            made[format_, words] = folder / "checkpoints"
        return made[format_, words]

    return make


def contents():
    return {path: path.is_file() and hashlib.sha256(path.read_bytes()).digest() for path in Path().rglob("*")}


def refusal(*words, error=InputError):
    """The sentence by which the script refuses these words; nothing is written, nor a hidden rest left."""
    before = contents()
    with pytest.raises(error) as refused:
        export.main([*words])
    assert contents() == before
    return str(refused.value)


def by_saved_model(path, pictures):
    model = tensorflow.saved_model.load(f"{path}_saved_model")
    return model.signatures["serving_default"](tensorflow.constant(pictures))["output_0"].numpy()


def by_onnx(path, pictures):
    session = pytest.importorskip("onnxruntime").InferenceSession(f"{path}.onnx")
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


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize(
    ("words", "stems"), [(CNN, ["small_cnn_fold1", "small_cnn_fold2"]), (AUTOENCODER, ["small_autoencoder_noaug"])]
)
@pytest.mark.parametrize("format_", READERS)
def test_an_exported_file_gives_keras_s_outputs_for_pictures_as_they_are(exported, format_, words, stems, count):
    lacking = [name for name in export.FORMATS[format_].packages if not importlib.util.find_spec(name)]
    if lacking:
        pytest.skip(f"{', '.join(lacking)} not installed")
    folder = exported(format_, *words)
    pictures = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)).astype(np.float32)
    for stem in stems:
        expected = keras.saving.load_model(folder / f"{stem}.keras").predict_on_batch(pictures)
        np.testing.assert_allclose(READERS[format_](folder / stem, pictures), expected, atol=1e-5)


def test_what_is_written_is_said_and_kept(study, capfd):
    before = contents()
    export.main(list(CNN))
    assert contents().items() >= before.items()
    printed = capfd.readouterr()
    assert printed.err == ""
    assert printed.out == "".join(
        f"checkpoints/small_cnn_fold{fold}_saved_model: takes pictures of 0 to 255 as float32 (n, 32, 32, 3), gives "
        f"(n, 10); checked against checkpoints/small_cnn_fold{fold}.keras\n"
        for fold in (1, 2)
    )
    shutil.rmtree("checkpoints/small_cnn_fold1_saved_model")
    before = contents()
    export.main(list(CNN))
    assert contents().items() >= before.items()
    first, second = capfd.readouterr().out.splitlines()
    stem = "checkpoints/small_cnn_fold2"
    assert first == f"{stem}_saved_model is there already, and gives the outputs of {stem}.keras"
    assert second.startswith("checkpoints/small_cnn_fold1_saved_model: takes ")


@pytest.mark.parametrize("content", [None, "no model"])
def test_what_is_there_and_is_another_is_refused(study, exported, content):
    name = "small_cnn_fold2.tflite"
    if content:
        Path("checkpoints", name).write_text(content)
    else:
        shutil.copy(exported("litert", *CNN) / "small_cnn_fold1.tflite", f"checkpoints/{name}")
    said = refusal(*CNN, "FORMAT=litert")
    assert said.startswith(f"checkpoints/{name} is there already and is not checkpoints/small_cnn_fold2.keras (")
    assert said.endswith("): remove it and repeat") and "\n" not in said


@pytest.mark.parametrize("format_", ["tf_saved_model", "litert"])
def test_an_export_that_gives_other_outputs_is_not_kept(study, monkeypatch, capfd, format_):
    plain = export.FORMATS[format_]
    wrong = dataclasses.replace(plain, outputs=lambda *given: plain.outputs(*given) + 1e-3)
    monkeypatch.setitem(export.FORMATS, format_, wrong)
    said = refusal(*CNN, f"FORMAT={format_}", error=RunFailed)
    assert said == (
        "checkpoints/small_cnn_fold1.keras cannot be exported (outputs differ by 1.0e-03): nothing is kept; "
        "try another FORMAT"
    )
    assert capfd.readouterr().out == ""


def test_a_missing_package_is_named(study, monkeypatch):
    plain = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "onnx" in name else plain(name))
    said = refusal(*CNN, "FORMAT=onnx")
    install = f"`{shlex.quote(sys.executable)} -m pip install onnx onnxruntime tf2onnx`"
    assert said == f"FORMAT=onnx takes further packages; {install} adds them"


def test_what_cannot_be_used_is_refused(study):
    assert refusal("MODEL=cnn") == "there is no finished training of cnn in checkpoints: run `make cnn`"
    assert refusal(*CNN, "NAME=a").endswith("run `make cnn DATA=small.npz NAME=a`")
    assert refusal(*CNN, "FORMAT=tar").startswith("FORMAT: 'tar' is not tf_saved_model or onnx or litert; ")
    assert refusal(*CNN, "FOLDS=1").startswith("it does not take FOLDS; it takes ")


def test_the_outputs_are_compared_on_the_processor(study, monkeypatch):
    """A GPU's products, rounded to ten bits, would be too far off."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    assert refusal(*CNN, "NAME=a").startswith("there is no finished training")
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["JAX_PLATFORMS"]) == ("-1", "cpu")


def test_a_folder_that_cannot_be_written_is_one_line_and_what_a_kill_left_is_removed(workdir, monkeypatch, capsys):
    left = Path(".a.00000000.part")
    left.mkdir()
    files.commit_folder(Path("a"), lambda folder: (folder / "b").write_text("c"))
    assert not left.exists() and Path("a/b").read_text() == "c"

    def no_locks(*_):
        raise OSError(37, "No locks available")

    with monkeypatch.context() as patch:
        patch.setattr(files.fcntl, "flock", no_locks)
        another = Path(".c.00000000.part")  # may be in use: without locks, none can tell
        another.mkdir()
        files.commit_folder(Path("c"), lambda folder: (folder / "b").touch())
        assert another.exists() and Path("c/b").exists()
    shutil.rmtree("c")
    another.rmdir()

    def write(folder):
        (folder / "b").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "argv", ["export.py"])
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: files.commit_folder(Path("d"), write))
    assert end.value.code == 1 and [path.name for path in Path().iterdir()] == ["a"]
    assert capsys.readouterr().err == "export.py: d cannot be written (No space left on device); mend that and repeat\n"
