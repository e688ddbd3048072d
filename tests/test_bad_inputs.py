"""Hostile and damaged files are refused in one line, and nothing is run or written; what is extreme but legal works."""

import functools
import json
import shlex
import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import call, contents
from keras import layers

import data
from runs import Run
from util import files
from util.cli import InputError

STEM, AUTOENCODER = "checkpoints/small_cnn_fold1", "checkpoints/small_autoencoder_noaug"
STATE = "checkpoints/small_cnn_fold3.state"
CNN, THIRD = "train_cnn --data small.npz", "train_cnn --data small.npz --fold 3"
TRAIN, EVALUATE = "train_cnn --data bad.npz", "evaluate --data small.npz --model cnn"


@pytest.fixture(scope="module")
def study(tiny_study, tiny_recipes, tmp_path_factory):
    """A copy of the small study, and in it a third fold that was stopped before its finished file was written."""
    folder = shutil.copytree(tiny_study, tmp_path_factory.mktemp("bad") / "study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Run, "finish", lambda *_: None)
        assert call(THIRD) == 0
    return folder


@pytest.fixture
def copy(study, workdir, monkeypatch):
    """A copy to work in, from which Python imports, as from a script's own folder."""
    monkeypatch.syspath_prepend(workdir)
    shutil.copytree(study, workdir, dirs_exist_ok=True)
    return workdir


# --- Ways to damage a file, each a function of its path -------------------------------------------------------------


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip(path, share=0.5):
    """Change one bit of a file, at this share of its length."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


def text(content):
    return lambda path: path.write_text(content)


def rezip(**changed):
    """Write a zip anew, with the right checksums: members changed by a function of their bytes, or (None) left out."""

    def change(path):
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                if becomes := changed.get(name.split(".")[0], bytes):
                    file.writestr(name, becomes(content))

    return change


def replaced(old, new):
    """A function that replaces a part of a member, keeping its length."""
    return lambda content: content.replace(old, new.ljust(len(old))) if old in content else pytest.fail(f"no {old}")


# --- Damaged files, whoever reads them ------------------------------------------------------------------------------

SHAPE, AGAIN, START = b"(400, 32, 32, 3), }       ", "FORCE=1", "FORCE=1 starts"
REFUSED = [  # (command, a word of the refusal, the file that is damaged, how)
    (TRAIN, "bad.npz", "bad.npz", rezip(x_train=replaced(SHAPE, b"(1000000000, 32, 32, 3), }"))),
    (TRAIN, "bad.npz", "bad.npz", rezip(y_train=replaced(b"(400,), }", b"(200,), }"))),
    ("train_autoencoder --data bad.npz", "bad.npz", "bad.npz", cut),
    ("train_ae_classifier --data bad.npz", "bad.npz", "bad.npz", flip),
    (EVALUATE, AGAIN, f"{STEM}.keras", cut),
    (CNN, AGAIN, f"{STEM}.keras", flip),
    ("train_ae_classifier --data small.npz --noaug", AGAIN, f"{AUTOENCODER}.keras", cut),
    (CNN, AGAIN, f"{STEM}.json", Path.unlink),
    (EVALUATE, AGAIN, f"{STEM}.json", cut),
    (EVALUATE, "checksum", f"{STEM}.json", lambda path: path.write_text(path.read_text().replace("0.15", "0.16"))),
    (EVALUATE, "record_sha256", f"{STEM}.json", text("{}")),
    (THIRD, START, STATE, text("a state")),
    (THIRD, START, STATE, flip),
    (THIRD, "checksum", STATE, rezip(note=replaced(b'"finished": true', b'"finished":false'))),
    (THIRD, "checksum", STATE, rezip(best0=None)),
    (THIRD, "checksum", STATE, rezip(sha256=None)),
]


@pytest.mark.parametrize(("command", "word", "path", "damage"), REFUSED)
def test_damaged_files_are_refused_in_one_line(command, word, path, damage, copy, capfd):
    if path == "bad.npz":
        shutil.copy("small.npz", path)
    damage(Path(path))
    before = contents()
    assert call(command) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"{command.split()[0]}.py: ") and word in line
    assert contents() == before


def test_what_a_refusal_advises_replaces_what_is_damaged(copy):
    for path in (f"{STEM}.keras", f"{STEM}.json", shutil.copy(STATE, f"{STEM}.state")):
        cut(Path(path))
    assert call(CNN) == 2
    assert call(f"{CNN} --force") == 0
    assert Run("small_cnn", 1).read_record()["best_epoch"] == 1


def read_data():
    found = data.load_data("small.npz")
    return {"images": found.images, "labels": found.labels, "names": found.class_names}


DAMAGED = {  # kind of file: (path, how it is read, how many places are damaged)
    "data": ("small.npz", read_data, 30),
    "checkpoint": (f"{STEM}.keras", Run("small_cnn", 1).read_record, 30),
    "record": (f"{STEM}.json", Run("small_cnn", 1).read_record, 100),
    "state": (STATE, functools.partial(files.read_arrays, STATE), 100),
    "model": ("checkpoints/own.keras", lambda: dict(enumerate(Run("own").load_model().get_weights())), 20),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damage_is_recognised_wherever_it_is(kind, copy):
    name, read, count = DAMAGED[kind]
    own().save("checkpoints/own.keras")
    path = Path(name)
    whole, content = read(), path.read_bytes()
    ends = np.arange(0, 600, 1800 // count) / len(content)  # where zips have names, sizes and checksums
    places = [*np.linspace(0, 1, count, endpoint=False), *ends, *(1 - 1 / len(content) - ends)]
    refused = 0
    for damage, share in [(damage, share) for damage in (cut, flip) for share in places]:
        damage(path, share)
        try:
            with files.reading("it cannot be read", "that is right"):
                found = read()  # a date in a zip, or a line's end, changes nothing
            assert found.keys() == whole.keys() and all(np.array_equal(found[key], whole[key]) for key in whole), share
        except InputError:
            refused += 1
        path.write_bytes(content)
    assert refused > len(places)


# --- Models that would run code, or are none ------------------------------------------------------------------------


def own(last=None):
    dense = layers.Dense(10, "softmax", name="dense")
    parts = [keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.Flatten(), dense]
    return keras.Sequential([*parts, last] if last else parts)


def foreign(content):
    """Make the last layer of a .keras file one of a module beside the script."""
    content = json.loads(content)
    content["config"]["layers"][-1] |= {"module": "foreign", "class_name": "Foo", "registered_name": "Foo"}
    return json.dumps(content).encode()


def lambda_layer(path):
    own(layers.Lambda(lambda x: (__import__("pathlib").Path("pwned").touch(), x)[1])).save(path)


MODELS = {
    "a text": text("a model"),
    "without weights": rezip(model=None),
    "a Lambda": lambda_layer,
    "a foreign module": rezip(config=foreign),
    "no fixed input": lambda path: keras.Sequential([layers.Dense(10)]).save(path),
}


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_that_cannot_be_trusted_or_opened_is_refused_and_none_of_its_code_is_run(kind, workdir, monkeypatch):
    monkeypatch.syspath_prepend(workdir)
    Path("foreign.py").write_text("from pathlib import Path\nPath('pwned').touch()\nclass Foo: pass\n")
    own().save("own.keras")
    MODELS[kind](Path("own.keras"))
    Path("pwned").unlink(missing_ok=True)  # the Lambda ran when it was made
    with pytest.raises(InputError, match=r"own\.keras cannot be opened"):
        Run("own", folder=Path()).load_model()
    assert not Path("pwned").exists()
    if kind == "a Lambda":
        keras.saving.load_model("own.keras", safe_mode=False)
        assert Path("pwned").exists(), "it runs no code even where that is allowed: the test shows nothing"


def test_a_model_of_another_shape_or_with_numbers_that_are_not_finite_is_refused(workdir):
    model, run = own(), Run("own", folder=Path())
    model.save("own.keras")
    with pytest.raises(InputError, match="MODEL"):
        run.load_model((32, 32, 3), (32, 32, 3))
    model.layers[-1].set_weights([np.full((3072, 10), np.nan), np.zeros(10)])
    with pytest.raises(InputError, match="finite"):
        run.predict(model, np.zeros((1, 32, 32, 3), np.uint8))


# --- Extreme, but legal ---------------------------------------------------------------------------------------------


def test_extremes_work_whatever_things_are_called_and_damaged_predictions_are_replaced(workdir, tiny_recipes):
    """Two classes of eight pictures, whose names have what shells, Python and TeX make use of."""
    images, labels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16) % 2
    parts = {"x_train": images, "y_train": labels, "x_test": images[:3], "y_test": labels[:3]}
    np.savez(name := "$x^$ {0} 'b' %s.npz", **parts, class_names=np.array([r"$\frac$ {}", "%d é"]))
    words = "--epochs 1 --batch-size 1000 --fold 1000 --seed 4294967295 --reduced 0,1 --keep 2 --val 0.5"
    assert call(f"train_cnn --data {shlex.quote(name)} {words}") == 0
    run = Run("x-0-b-s_cnn", 1000)
    assert all(np.isfinite(values).all() for values in run.read_record()["history"].values())
    run.path("_predictions.npz").write_bytes(b"damaged")
    assert call(f"evaluate --data {shlex.quote(name)} --model cnn") == 0
    assert files.read_arrays(run.path("_predictions.npz"))["probabilities"].shape == (3, 2)
    assert r"$\frac$ {}" in Path("imgs/x-0-b-s_cnn_report.txt").read_text()
