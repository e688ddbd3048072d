"""What the scripts and make cannot use: each of these inputs is refused in its one sentence, and nothing is written.

Then damage at many places of every kind of file, and what is extreme but legal.
"""

import functools
import importlib
import json
import os
import re
import shlex
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import CLASSES
from keras import layers

import common
from runs import Run
from util import cli, files
from util.cli import InputError

STEM, AUTOENCODER = "checkpoints/small_cnn_fold1", "checkpoints/small_autoencoder"
STATE = "checkpoints/small_cnn_fold2.state"


def like(sentence, words=".*"):
    """A pattern: the sentence with `words`, such as a library's, in place of its {}."""
    return re.compile(re.escape(sentence).replace(r"\{\}", words))


def assert_sentence(found, sentence):
    """`sentence` is a text, or a pattern where a library's words are in it."""
    assert found == sentence if isinstance(sentence, str) else sentence.fullmatch(found), found


def call(command):
    """Run `script words` in this process, as if typed; returns the exit status."""
    script, *words = shlex.split(command)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{script}.py", *words])
        try:
            cli.run(importlib.import_module(script).main)
        except SystemExit as end:
            return end.code
    return 0


# --- Files ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(npz, tiny_recipes, tmp_path_factory):
    """A folder with a finished CNN and autoencoder, and a CNN whose second fold was stopped before its last step."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(npz, "small.npz")
        assert call("train_cnn --data small.npz") == call("train_autoencoder --data small.npz") == 0
        patch.setattr(Run, "finish", lambda *_: None)
        assert call("train_cnn --data small.npz --fold 2") == 0
    return folder


@pytest.fixture
def copy(study, workdir, monkeypatch):
    """A copy of the study to work in, from which Python imports, as from a script's own folder."""
    monkeypatch.syspath_prepend(workdir)
    shutil.copytree(study, workdir, dirs_exist_ok=True)
    return workdir


def write(path, text):
    Path(path).write_text(text)


def cut(path, share=0.5):
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(len(content) * share)])


def flip(path, share=0.5):
    """Change one bit of a file, at this share of its length."""
    content = bytearray(Path(path).read_bytes())
    content[int(len(content) * share)] ^= 1
    Path(path).write_bytes(content)


def directory(path, at, form, value):
    """Overwrite a field of every entry in a zip's directory, `at` bytes from the entry's start."""
    content = bytearray(Path(path).read_bytes())
    for entry in re.finditer(re.escape(b"PK\1\2"), bytes(content)):
        struct.pack_into(form, content, entry.start() + at, value)
    Path(path).write_bytes(content)


def rezip(path, **changed):
    """Write a zip anew, with the right checksums: members changed by a function of their bytes, or (None) left out."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            change = changed.get(name.split(".")[0], bytes)
            if change:
                file.writestr(name, change(content))


def replaced(old, new):
    """A function that replaces a part of a member, keeping its length."""
    return lambda content: content.replace(old, new.ljust(len(old))) if old in content else pytest.fail(f"no {old}")


def bad(change, *values, **more):
    """A function that makes bad.npz: the small data set changed."""
    return lambda: (shutil.copy("small.npz", "bad.npz"), change("bad.npz", *values, **more))


def arrays(path, **changed):
    """Write a .npz anew, with arrays changed by a function, replaced, or (None) left out."""
    with np.load(path) as file:
        content = dict(file)
    for name, change in changed.items():
        content[name] = change(content[name]) if callable(change) else change
    np.savez(path, **{name: array for name, array in content.items() if array is not None})


class Trap:
    """Pickled, it writes a file when it is loaded."""

    def __reduce__(self):
        return (Path("pwned").touch, ())


SHAPE, LABELS = b"(400, 32, 32, 3), }       ", b"(400,), }"
BIG = "it unpacks to {} bytes, and 2,147,483,648 are the most that is read"
SHELL = "a b'`touch pwned` $(touch pwned); touch pwned"
PICKLED = "holds Python objects, which are never loaded"
TRAIN, EVALUATE = "train_cnn --data bad.npz", "evaluate --model cnn --data bad.npz"
CLOSED = "'bad.npz' cannot be read as a .npz of plain arrays ({}): save it anew with numpy.savez"
NAMES = "class_names in 'bad.npz' must be different words, one for each class: " + (
    "at most 1,000, of at most 100 printable letters"
)
NO_FILE = "there is no file 'bad.npz'; give DATA a folder of pictures, the path of a .npz, or digits"
DATA = {  # what it is: (command, sentence, what makes it)
    "gone": (TRAIN, NO_FILE, lambda: None),
    "gone, with a name for shells": (
        f"evaluate --model cnn --data {shlex.quote(SHELL)}",
        f'there is no file "{SHELL}"; give DATA a folder of pictures, the path of a .npz, or digits',
        lambda: None,
    ),
    "an empty folder": (
        TRAIN,
        "'bad.npz' holds 0 folders of pictures; give DATA a folder with one for each class, two "
        "at least, as train/<class> or <class>",
        lambda: Path("bad.npz").mkdir(),
    ),
    "a pipe": (EVALUATE, NO_FILE, lambda: os.mkfifo("bad.npz")),
    "a text": (TRAIN, CLOSED.format("File is not a zip file"), bad(write, "pictures")),
    "empty": (EVALUATE, CLOSED.format("File is not a zip file"), bad(write, "")),
    "cut": ("train_autoencoder --data bad.npz", CLOSED.format("File is not a zip file"), bad(cut)),
    "one bit": ("train_ae_classifier --data bad.npz", CLOSED.format("Bad CRC-32 for file 'x_train.npy'"), bad(flip)),
    "encrypted": (TRAIN, like(CLOSED, "File .* is encrypted, password required .*"), bad(directory, 8, "<H", 1)),
    "compressed": (EVALUATE, CLOSED.format("That compression method is not supported"), bad(directory, 10, "<H", 99)),
    "gigabytes": (TRAIN, CLOSED.format(BIG.format("20,000,000,000")), bad(directory, 24, "<I", 4_000_000_000)),
    "claims terabytes": (
        TRAIN,
        CLOSED.format("x_train claims 3,072,000,000,000 bytes and holds 1,228,800"),
        bad(rezip, x_train=replaced(SHAPE, b"(1000000000, 32, 32, 3), }")),
    ),
    "claims less": (
        TRAIN,
        CLOSED.format("y_train claims 1,600 bytes and holds 3,200"),
        bad(rezip, y_train=replaced(LABELS, b"(200,), }")),
    ),
    "no header": (TRAIN, like(CLOSED, "the magic string .*"), bad(rezip, y_train=lambda content: b"labels 0 to 9")),
    "an endless header": (TRAIN, like(CLOSED, ".* never closed .*"), bad(rezip, x_train=replaced(b"3), }", b"3), ("))),
    "pickled pictures": (TRAIN, CLOSED.format(f"x_train {PICKLED}"), bad(arrays, x_train=np.array([Trap()] * 400))),
    "pickled names": (
        EVALUATE,
        CLOSED.format(f"class_names {PICKLED}"),
        bad(arrays, class_names=np.array([Trap()] * 10)),
    ),
    "half of it": (
        TRAIN,
        "'bad.npz' lacks x_test, y_test; give DATA a .npz with all four arrays",
        bad(arrays, x_test=None, y_test=None),
    ),
    "pictures of NaN": (
        TRAIN,
        "x_train in 'bad.npz' is float64 of shape (400, 32, 32, 3); it must be uint8 of shape (n, 32, 32, 3)",
        bad(arrays, x_train=lambda x: np.full(x.shape, np.nan)),
    ),
    "smaller pictures": (
        "train_autoencoder --data bad.npz",
        "x_train in 'bad.npz' is uint8 of shape (400, 28, 28, 3); it must be uint8 of shape (n, 32, 32, 3)",
        bad(arrays, x_train=lambda x: x[:, :28, :28]),
    ),
    "grey test pictures": (
        f"{EVALUATE} --model-path {STEM}.keras",
        "x_test in 'bad.npz' is uint8 of shape (50, 32, 32); it must be uint8 of shape (n, 32, 32, 3)",
        bad(arrays, x_test=lambda x: x[..., 0]),
    ),
    "no pictures": (
        TRAIN,
        "y_train in 'bad.npz' must hold labels 0 to 9, one of each image",
        bad(arrays, x_train=lambda x: x[:0], y_train=lambda y: y[:0]),
    ),
    "labels from 1": (
        "train_ae_classifier --data bad.npz",
        "y_train in 'bad.npz' must hold labels 0 to 9, one of each image",
        bad(arrays, y_train=lambda y: y + 1),
    ),
    "labels of NaN": (
        TRAIN,
        "y_train in 'bad.npz' is float64 of shape (400,); it must be 400 whole numbers",
        bad(arrays, y_train=np.full(400, np.nan)),
    ),
    "a label too few": (
        TRAIN,
        "y_train in 'bad.npz' is int64 of shape (399,); it must be 400 whole numbers",
        bad(arrays, y_train=lambda y: y[1:]),
    ),
    "an empty class": (
        TRAIN,
        "y_train in 'bad.npz' has no image of class 7 (horse): add some, or class_names without it",
        bad(arrays, y_train=lambda y: np.where(y == 7, 6, y)),
    ),
    "an empty test class": (
        f"{EVALUATE} --model-path {STEM}.keras",
        "no test picture of bad.npz is of class 7 (horse), so its recall is unknown: give a DATA that has some",
        bad(arrays, y_test=lambda y: np.where(y == 7, 6, y)),
    ),
    "a name of two lines": (TRAIN, NAMES, bad(arrays, class_names=np.array([*CLASSES[:9], "pick-up\ntruck"]))),
    "no names": (TRAIN, NAMES, bad(arrays, class_names=np.array([], str))),
    "a name of 101 letters": (EVALUATE, NAMES, bad(arrays, class_names=np.array([*CLASSES[:9], "x" * 101]))),
    "too many names": (TRAIN, NAMES, bad(arrays, class_names=np.arange(1001).astype(str))),
    "a class unknown": (
        "train_cnn --data small.npz --reduced emu",
        "REDUCED names a class 'emu' that the data does not have; it has "
        + ", ".join(f"{number} {name}" for number, name in enumerate(CLASSES)),
        lambda: None,
    ),
    "more kept than there are": (
        "train_cnn --data small.npz --keep 41",
        "KEEP=41 cannot be kept of class 2, which has 40; change KEEP or REDUCED",
        lambda: None,
    ),
    "too little to validate on": (
        "train_cnn --data small.npz --val 0.001",
        like("these images cannot be split with VAL=0.001 ({}); change VAL or KEEP"),
        lambda: None,
    ),
    "too little to train on": (
        "train_autoencoder --data small.npz --val 0.999",
        like("these images cannot be split with VAL=0.999 ({}); change VAL or KEEP"),
        lambda: None,
    ),
}


def own(change=lambda path: None, *values, make_model=None, **more):
    """A function that makes own.keras, a model of one's own, and changes the file."""

    def prepare():
        dense = layers.Dense(10, "softmax", name="dense")
        model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255), layers.Flatten(), dense])
        (make_model or (lambda model: model))(model).save("own.keras")
        change("own.keras", *values, **more)

    return prepare


def last_layer(path, config=None, **entries):
    """Change the last layer's entry in a .keras file, and what it was configured with."""

    def changed(content):
        content = json.loads(content)
        content["config"]["layers"][-1].update(entries)
        content["config"]["layers"][-1]["config"].update(config or {})
        return json.dumps(content).encode()

    rezip(path, config=changed)


def foreign(path):
    """The last layer becomes one of a module that is there, and that leaves a trace where it is imported."""
    write("foreign.py", "from pathlib import Path\nPath('pwned').touch()\nclass Foo: pass\n")
    last_layer(path, module="foreign", class_name="Foo", registered_name="Foo")


def with_nan(model):
    model.layers[-1].set_weights([np.full((3072, 10), np.nan), np.zeros(10)])
    return model


def with_lambda(model):
    trap = layers.Lambda(lambda x: (__import__("pathlib").Path("pwned").touch(), x)[1])
    return keras.Sequential([*model.layers, trap])


OWN = "evaluate --data small.npz --model cnn --model-path own.keras"
OPEN = "own.keras cannot be opened ({}): give a whole .keras file of Keras's own layers"
PYTHON_LAMBDA = {"class_name": "__lambda__", "config": {"value": "Y29kZQ==", "defaults": None, "closure": None}}
PYTHON_EVAL = {"module": "builtins", "class_name": "function", "config": "eval", "registered_name": "function"}
MODELS = {
    "gone": (OWN, "there is no finished model 'own.keras'; give the path of a .keras file", lambda: None),
    "no .keras": (
        "evaluate --data small.npz --model cnn --model-path ./small.npz",
        "there is no finished model './small.npz'; give the path of a .keras file",
        lambda: None,
    ),
    "a text": (OWN, OPEN.format("File is not a zip file"), own(write, "a model")),
    "cut": (OWN, OPEN.format("File is not a zip file"), own(cut, 0.9)),
    "without weights": (OWN, like(OPEN, "Expected a model.weights.h5 .*"), own(rezip, model=None)),
    "gigabytes": (OWN, OPEN.format(BIG.format("12,000,000,000")), own(directory, 24, "<I", 4_000_000_000)),
    "nested": (OWN, like(OPEN, "maximum recursion depth .*"), own(rezip, config=lambda content: b"[" * 100_000)),
    "a Lambda": (OWN, like(OPEN, ".*[Ll]ambda.*"), own(make_model=with_lambda)),
    "a lambda inside": (
        OWN,
        OPEN.format("Requested the deserialization of a Python lambda"),
        own(last_layer, {"activation": PYTHON_LAMBDA}),
    ),
    "a foreign module": (OWN, OPEN.format("Could not locate class 'Foo'"), own(foreign)),
    "a class of ours": (
        OWN,
        OPEN.format("Could not locate class 'Augment'"),
        own(last_layer, module="training", class_name="Augment"),
    ),
    "a custom class": (
        OWN,
        OPEN.format("Could not locate class 'Foo'"),
        own(last_layer, module=None, class_name="Foo", registered_name="Custom>Foo"),
    ),
    "Python's eval": (
        OWN,
        OPEN.format("Could not locate function 'eval'"),
        own(last_layer, {"activation": PYTHON_EVAL}),
    ),
    "os.system": (
        OWN,
        OPEN.format("Could not locate class 'system'"),
        own(last_layer, module="os", class_name="system"),
    ),
    "a download": (
        OWN,
        OPEN.format("Cannot deserialize `keras.utils.get_file` because it is not a modeling function"),
        own(last_layer, module="keras.utils", class_name="get_file"),
    ),
    "without a fixed input": (
        OWN,
        OPEN.format("it holds no model, or one without a fixed input"),
        own(make_model=lambda model: keras.Sequential([layers.Dense(10)])),
    ),
    "another shape": (OWN, OPEN.format("A total of 1 objects could not be loaded"), own(last_layer, {"units": 11})),
    "weights of NaN": (
        OWN,
        "own.keras gives numbers that are not finite: train it again, or give another file",
        own(make_model=with_nan),
    ),
    "no probabilities": (
        OWN,
        "own.keras does not give probabilities; evaluate a model that ends in a softmax",
        own(last_layer, {"activation": "linear"}),
    ),
    "another model": (
        "evaluate --data small.npz --model autoencoder --model-path own.keras",
        "own.keras maps (32, 32, 3) to (10,), not (32, 32, 3) to (32, 32, 3): choose the MODEL that it is",
        own(),
    ),
}


def record(change, stem=STEM):
    """A function that changes a training's record: valid JSON, and without a checksum, as an older version wrote it."""

    def prepare():
        path = Path(f"{stem}.json")
        found = {key: value for key, value in json.loads(path.read_text()).items() if key != "record_sha256"}
        write(path, json.dumps(change(found) or found))

    return prepare


def on(path, change, *values, **more):
    return lambda: change(path, *values, **more)


CNN, SECOND = "train_cnn --data small.npz", "train_cnn --data small.npz --fold 2"
REPORT = "evaluate --data small.npz --model cnn"
APART = f"{STEM}.keras and its record small_cnn_fold1.json do not belong together, or one is damaged ({{}}): " + (
    AGAIN := "train it again with FORCE=1"
)
LACKS, DIFFERS = "it lacks {!r}, or has something else there".format, "the checkpoint is not the one of the record"
DAMAGED = f"{STATE} is damaged ({{}}): FORCE=1 starts this training again"
RUNS = {
    "nothing trained": (
        "evaluate --data small.npz --model autoencoder_cls --name x",
        "there is no finished training of small_autoencoder_cls_x in checkpoints: "
        "run `make ae_cls DATA=small.npz NAME=x`",
        lambda: None,
    ),
    "a checkpoint cut": (REPORT, APART.format(DIFFERS), on(f"{STEM}.keras", cut)),
    "a checkpoint's bit": (CNN, APART.format(DIFFERS), on(f"{STEM}.keras", flip)),
    "the autoencoder's checkpoint": (
        "train_ae_classifier --data small.npz",
        APART.replace("small_cnn_fold1", "small_autoencoder").format(DIFFERS),
        on(f"{AUTOENCODER}.keras", cut, 0.99),
    ),
    "no record": (CNN, like(APART, ".* No such file or directory: .*"), on(f"{STEM}.json", Path.unlink)),
    "a record cut": (REPORT, like(APART), on(f"{STEM}.json", cut)),
    "a record's digit": (
        REPORT,
        APART.format("the record does not match its own checksum"),
        lambda: write(f"{STEM}.json", Path(f"{STEM}.json").read_text().replace('"best_epoch": 1', '"best_epoch": 2')),
    ),
    "a nested record": (CNN, like(APART, "maximum recursion .*"), on(f"{STEM}.json", write, "[" * 100_000)),
    "a list": (CNN, APART.format("it is no dictionary"), record(lambda found: [found])),
    "a hash alone": (
        CNN,
        APART.format(LACKS("settings")),
        record(lambda found: {"checkpoint_sha256": found["checkpoint_sha256"]}),
    ),
    "no history": (REPORT, APART.format(LACKS("history.loss")), record(lambda found: {**found, "history": {}})),
    "a history of words": (
        REPORT,
        APART.format(LACKS("history.val_loss.0")),
        record(lambda found: found["history"].update(val_loss=["low"])),
    ),
    "classes in words": (
        REPORT,
        APART.format(LACKS("data.reduced")),
        record(lambda found: found["data"].update(reduced="bird")),
    ),
    "no curve of the score": (
        CNN,
        APART.format(LACKS("history.val_accuracy")),
        record(lambda found: found["history"].pop("val_accuracy") and None),
    ),
    "the autoencoder's record": (
        "train_autoencoder --data small.npz --if-missing",
        APART.replace("small_cnn_fold1", "small_autoencoder").format(LACKS("data")),
        record(lambda found: {**found, "data": None}, AUTOENCODER),
    ),
    "a state of text": (SECOND, DAMAGED.format("File is not a zip file"), on(STATE, write, "a state")),
    "a state cut": (SECOND, DAMAGED.format("File is not a zip file"), on(STATE, cut, 0.999)),
    "a state's bit": (SECOND, like(DAMAGED, "Bad CRC-32 for file .*"), on(STATE, flip, 0.3)),
    "a state's note": (
        SECOND,
        DAMAGED.format("its content does not match its checksum"),
        on(STATE, rezip, note=replaced(b'"finished": true', b'"finished":false')),
    ),
    "a state's array": (
        SECOND,
        DAMAGED.format("its content does not match its checksum"),
        on(STATE, rezip, best0=None),
    ),
    "a state's checksum": (
        SECOND,
        DAMAGED.format("its content does not match its checksum"),
        on(STATE, rezip, sha256=None),
    ),
}
FILES = {
    f"{kind}: {name}": row
    for kind, rows in (("data", DATA), ("model", MODELS), ("run", RUNS))
    for name, row in rows.items()
}


def contents():
    """{path: bytes} of what is in the working directory; locks, which stay where they are, left out."""
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet been built")
@pytest.mark.parametrize("name", FILES)
def test_files_are_refused(name, copy, capfd):
    command, sentence, prepare = FILES[name]
    prepare()
    Path("pwned").unlink(missing_ok=True)  # a model's Lambda ran when it was made
    before = contents()
    capfd.readouterr()
    assert call(command) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert_sentence(line.removeprefix(f"{command.split()[0]}.py: "), sentence)
    assert contents() == before
    assert not Path("imgs").exists() and not Path("pwned").exists()


def test_what_a_refusal_advises_replaces_what_is_damaged(copy):
    for path in (f"{STEM}.keras", f"{STEM}.json", shutil.copy(STATE, f"{STEM}.state")):
        cut(path)
    assert call(CNN) == 2
    assert call(f"{CNN} --force") == 0
    assert Run.at(f"{STEM}.keras").read_record()["best_epoch"] == 1


def test_the_traps_are_such_where_everything_is_allowed(copy):
    bad(arrays, x_train=np.array([Trap()] * 400))()
    with np.load("bad.npz", allow_pickle=True) as file:
        assert len(file["x_train"]) == 400
    assert Path("pwned").exists()
    Path("pwned").unlink()
    own(foreign)()
    importlib.import_module("foreign")
    assert Path("pwned").exists()


# --- Damage at many places ------------------------------------------------------------------------------------------


def read_data():
    data = common.load_data("small.npz")
    return {"images": data.images, "labels": data.labels, "names": data.class_names}


def read_record():
    return Run.at(f"{STEM}.keras").read_record()


def read_model():
    return dict(enumerate(Run.at("own.keras").load_model().get_weights()))


DAMAGE = {  # kind of file: (path, how it is read, how many places are damaged)
    "data": ("small.npz", read_data, 60),
    "checkpoint": (f"{STEM}.keras", read_record, 60),
    "record": (f"{STEM}.json", read_record, 200),
    "state": (STATE, functools.partial(files.read_arrays, STATE), 200),
    "predictions": ("predictions.npz", functools.partial(files.read_arrays, "predictions.npz"), 100),
    "model": ("own.keras", read_model, 30),
}


def equal(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_recognised_wherever_it_is(kind, copy):
    name, read, count = DAMAGE[kind]
    own()()
    files.write_arrays("predictions.npz", probabilities=np.eye(10), labels=np.arange(10), test_sha256="0" * 64)
    path, whole, content = Path(name), read(), Path(name).read_bytes()
    shares = np.linspace(0, 1, count, endpoint=False)
    for share in [*shares, 1 - 2 / len(content)]:  # the last character of a record is a line's end
        cut(path, share)
        with pytest.raises(InputError), files.reading("it cannot be read", "that is right"):
            read()
        path.write_bytes(content)

    refused, ends = 0, np.arange(0, 600, 1800 // count) / len(content)  # where zips have names, sizes and checksums
    for share in [*shares, *ends, *(1 - 1 / len(content) - ends)]:
        flip(path, share)
        try:
            with files.reading("it cannot be read", "that is right"):
                assert equal(read(), whole), f"a bit at {share} changes what is read"  # a date in a zip changes nothing
        except InputError:
            refused += 1
        path.write_bytes(content)
    assert refused > count / 2


# --- Extreme, but legal ---------------------------------------------------------------------------------------------


@pytest.fixture
def strange(tmp_path, monkeypatch, tiny_recipes):
    """A working directory with 16 pictures of two classes; every name has what shells, Python and TeX make use of."""
    monkeypatch.chdir(tmp_path)
    images, labels = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8), np.arange(16) % 2
    parts = {"x_train": images, "y_train": labels, "x_test": images[:3], "y_test": labels[:3]}
    np.savez(name := "$x^$ {0} 'b' %s.npz", **parts, class_names=np.array([r"$\frac$ {}", "%d é"]))
    return f"--data {shlex.quote(name)}"


@pytest.mark.parametrize(
    "words",
    [
        "--batch-size 1",
        "--batch-size 1000 --keep 2 --reduced 0,1 --val 0.5",
        "--learning-rate 0 --patience 1 --reduced none",
        "--fold 1000 --seed 4294967295 --reduced 1 --val 0.2",
    ],
)
def test_extremes_that_work(strange, words):
    reduced = "" if "--reduced" in words else "--reduced none"
    assert call(f"train_cnn {strange} --epochs 1 {words} {reduced}") == 0
    (path,) = Path("checkpoints").glob("*.json")
    record = Run.at(path.with_suffix(".keras")).read_record()
    assert len(record["history"]["loss"]) == record["best_epoch"] == 1
    assert all(np.isfinite(values).all() for values in record["history"].values())
    assert "keep 2" not in words or record["settings"]["keep"] == [2, 2]


def test_one_fold_is_evaluated_whatever_things_are_called_and_damaged_predictions_are_replaced(strange, capfd):
    assert call(f"train_cnn {strange} --epochs 1 --reduced none --fold 7") == 0
    predictions = Path("checkpoints/x-0-b-s_cnn_fold7_predictions.npz")
    predictions.write_bytes(b"damaged")
    assert call(f"evaluate {strange} --model cnn") == 0
    assert files.read_arrays(predictions)["probabilities"].shape == (3, 2)
    assert r"$\frac$ {}" in Path("imgs/x-0-b-s_cnn_report.txt").read_text()


def test_a_layer_with_states_has_its_place_in_the_table_of_layers(strange):
    picture = keras.Input((32, 32, 3))
    outputs, _ = layers.GRU(2, return_state=True)(layers.Reshape((32, 96))(picture))
    keras.Model(picture, layers.Softmax()(outputs)).save("$^$.keras")
    assert call(f"evaluate {strange} --model cnn --model-path '$^$.keras'") == 0
    assert re.search(r"^gru +GRU  ", Path("imgs/$^$_architecture.txt").read_text(), re.MULTILINE)
