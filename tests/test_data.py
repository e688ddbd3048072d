"""Where the pictures come from, which are kept, and how the folds are drawn."""

import importlib
import threading
import time

import keras
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedShuffleSplit, train_test_split

import common
import data
import recipes
import train_ae_classifier
import training
from runs import Run
from util.cli import InputError

# CIFAR-10's training labels, as far as counts go.
LABELS = np.random.default_rng(0).permutation(np.arange(10).repeat(5000))


def arrays(count=30, test_count=20, **replaced):
    """What a .npz holds of own pictures in ten classes; None leaves an array out."""
    images = np.random.default_rng(count).integers(0, 256, (count + test_count, 32, 32, 3), np.uint8)
    labels = np.arange(count + test_count) % 10
    parts = {"x_train": images[:count], "y_train": labels[:count], "x_test": images[count:], "y_test": labels[count:]}
    content = {**parts, "class_names": np.array([f"kind {number}" for number in range(10)]), **replaced}
    return {name: array for name, array in content.items() if array is not None}


# --- scikit-learn's digits ---


def test_digits_are_a_stratified_nine_tenths_and_a_tenth(workdir, capsys):
    train, test = data.load_data("digits"), data.load_data("digits", "test")
    everything = load_digits().target
    rows = train_test_split(np.arange(len(everything)), test_size=0.1, stratify=everything, random_state=0)
    assert np.array_equal(train.labels, everything[np.sort(rows[0])])
    assert np.array_equal(test.labels, everything[np.sort(rows[1])]) and len(test.labels) == 180
    assert (train.class_names, train.prefix, train.source) == (tuple("0123456789"), "digits", "digits")
    assert capsys.readouterr().out == ""
    (workdir / "digits").mkdir()
    data.load_data("digits")
    assert "./digits" in capsys.readouterr().out  # which a user may have meant


def test_digits_are_uint8_colour_pictures_of_their_labels():
    digits, original = data.load_data("digits", "test"), load_digits()
    assert (digits.images.dtype, digits.images.shape) == (np.uint8, (180, 32, 32, 3)) and digits.images.max() > 240
    assert (digits.images == digits.images[..., :1]).all()
    small = digits.images[..., 0].reshape(180, 8, 4, 8, 4).mean(axis=(2, 4)).reshape(180, 64) / 255 * 16
    distance = ((small[:, None] - original.data[None]) ** 2).sum(axis=2)
    assert np.array_equal(original.target[distance.argmin(axis=1)], digits.labels)


# --- A .npz of one's own ---


@pytest.mark.parametrize(
    ("column", "save", "kind"), [(False, np.savez, "U"), (True, np.savez_compressed, "U"), (False, np.savez, "S")]
)
def test_npz_gives_each_part_as_it_is(tmp_path, column, save, kind):
    content = arrays()
    labels = {name: content[name].reshape(-1, 1) if column else content[name] for name in ("y_train", "y_test")}
    path = str(tmp_path / "My pictures.npz")
    save(path, **{**content, **labels, "class_names": content["class_names"].astype(kind)})
    for part in ("train", "test"):
        found = data.load_data(path, part)
        assert np.array_equal(found.images, content[f"x_{part}"]) and found.images.dtype == np.uint8
        assert found.labels.tolist() == content[f"y_{part}"].tolist()
        assert (found.class_names, found.prefix) == (tuple(content["class_names"]), "my-pictures")
        assert (found.source, found.halved) == ("My pictures.npz", ())


BINARY = arrays()["x_train"] % 2
NAMES = arrays()["class_names"]


@pytest.mark.parametrize(
    ("replaced", "word"),
    [
        ({"x_train": None}, "x_train"),
        ({"y_test": None}, "y_test"),
        ({"class_names": None}, "class_names"),  # they are not CIFAR-10
        ({"x_train": np.array([{}] * 30)}, "object"),
        ({"class_names": np.array(["a", None] * 5)}, "plain"),
        ({"class_names": np.array("abcdefghij")}, "class_names"),
        ({"class_names": np.array(["a", *"abcdefghi"])}, "class_names"),
        ({"class_names": np.array(["", *"abcdefghi"])}, "class_names"),
        ({"class_names": np.arange(10)}, "class_names"),
        ({"class_names": NAMES[:2]}, "y_train"),
        ({"x_train": arrays()["x_train"] / 255}, "float64"),
        ({"x_train": BINARY}, "0 and 1"),
        ({"x_train": arrays()["x_train"][:, :28]}, "28"),
        ({"x_train": np.uint8(3)}, "x_train"),
        ({"x_train": np.zeros((0, 32, 32, 3), np.uint8), "y_train": np.zeros(0, int)}, "x_train"),
        ({"y_train": np.arange(29) % 10}, "y_train"),
        ({"y_train": np.eye(10)[np.arange(30) % 10]}, "y_train"),
        ({"y_train": np.arange(30) % 10 * 1.0}, "float64"),
        ({"y_train": np.arange(30) % 11}, "labels 0 to 10"),
        ({"y_train": np.arange(30) % 10 - 1}, "labels -1 to 8"),
        ({"y_train": np.full(30, 2**64 - 1, np.uint64)}, "y_train"),
        ({"y_train": np.arange(30) % 9}, "kind 9"),
        # What would be found out after the training only:
        ({"x_test": arrays()["x_test"][..., :1]}, "x_test"),
        ({"y_test": np.arange(20) % 10 + 1}, "labels 1 to 10"),
        ({"y_test": np.arange(20) % 9}, "kind 9"),
        ({"y_test": np.arange(19) % 10}, "y_test"),
    ],
)
def test_npz_that_cannot_be_used_is_refused_before_anything_is_trained(tmp_path, replaced, word):
    path = tmp_path / "a.npz"
    np.savez(path, **arrays(**replaced), allow_pickle=True)
    with pytest.raises(InputError, match=word) as refusal:
        data.load_data(str(path))
    assert "a.npz" in str(refusal.value) and "\n" not in str(refusal.value)


def test_wrong_pictures_are_refused_by_their_header(tmp_path):
    """Those of a usual wrong size and type fill the memory: a fault in their data shows whether they were read."""
    np.savez(path := tmp_path / "a.npz", **arrays(x_train=np.zeros((30, 64, 64, 3))))
    content = bytearray(path.read_bytes())
    place = content.index(b"x_train.npy") + 1000  # within its zeros
    content[place] = 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"float64 of shape \(30, 64, 64, 3\)"):
        data.load_data(str(path))


def test_pickled_objects_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    for name in ("x_train", "class_names"):
        np.savez(tmp_path / "a.npz", **arrays(**{name: np.array([Trap()] * 30)}))
        with pytest.raises(InputError):
            data.load_data(str(tmp_path / "a.npz"))
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("content", ["text", "one array", "nothing"])
def test_files_that_are_no_npz_are_refused(tmp_path, content):
    path = tmp_path / "a.npz"
    if content == "one array":
        np.save(path.with_suffix(".npy"), np.zeros(3))
        path.with_suffix(".npy").rename(path)
    elif content == "text":
        path.write_text("pictures")
    with pytest.raises(InputError, match=r"a\.npz"):
        data.load_data(str(path))


@pytest.mark.parametrize(
    ("count", "names", "prefix"),
    [
        (50_000, None, ""),
        (50_000, data.CIFAR10_CLASSES, ""),
        (49_990, data.CIFAR10_CLASSES, "big"),
        (50_000, tuple("abcdefghij"), "big"),
        (49_990, None, None),
    ],
)
def test_cifar10_in_a_npz_is_what_has_its_size(monkeypatch, tmp_path, count, names, prefix):
    pictures = np.full((10_000, 32, 32, 3), 200, np.uint8)
    monkeypatch.setattr(data, "array_header", lambda _, x: ((count if x == "x_train" else 10_000, 32, 32, 3), np.uint8))
    content = {"y_train": LABELS[:count], "x_train": pictures[:1], "x_test": pictures[:1], "y_test": LABELS[:10_000]}
    np.savez(tmp_path / "big.npz", **content, **({"class_names": np.array(names)} if names else {}))
    if prefix is None:
        with pytest.raises(InputError, match="class_names"):
            data.load_data(str(tmp_path / "big.npz"), "test")
    else:
        found = data.load_data(str(tmp_path / "big.npz"), "test")
        assert (found.prefix, found.halved) == (prefix, () if names == tuple("abcdefghij") else (2, 4, 9))


@pytest.mark.parametrize("script", ["train_cnn", "train_autoencoder", "train_ae_classifier"])
def test_no_training_reads_the_test_pictures(workdir, monkeypatch, script):
    settings = recipes.RECIPES["autoencoder"].settings.model_dump()
    folds, read, plain = [], [], np.lib.npyio.NpzFile.__getitem__
    np.savez(workdir / "a.npz", **arrays(400))
    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", lambda file, key: read.append(key) or plain(file, key))
    monkeypatch.setattr(training, "train", lambda recipe, run, fold, *_, **__: folds.append(fold))
    monkeypatch.setattr(
        train_ae_classifier,
        "find_autoencoder",
        lambda *_: (Run("autoencoder"), {"checkpoint_sha256": "", "settings": settings}),
    )
    importlib.import_module(script).main(["--data", "a.npz"])
    assert [len(fold.x_train) + len(fold.x_val) for fold in folds] == [400]
    assert "x_train" in read and "x_test" not in read


def test_copies_of_a_picture_on_both_sides_are_counted(tmp_path, capsys):
    content = arrays()
    content["x_test"][:3] = content["x_train"][4:7]
    content["x_train"][20:] = content["x_train"][:10]
    np.savez(tmp_path / "a.npz", **content)
    data.load_data(str(tmp_path / "a.npz"), "test")
    assert "note: 3 of the 20 test pictures" in capsys.readouterr().out
    fold = common.prepare_fold(str(tmp_path / "a.npz"), recipes.Settings(val=0.4))
    seen = {picture.tobytes() for picture in fold.x_train}
    count = sum(picture.tobytes() in seen for picture in fold.x_val)
    assert count > 0 and f"note: {count} of the 12 validation pictures" in capsys.readouterr().out


# --- Where DATA is looked up ---


def test_the_first_source_that_fits_is_taken_with_its_augmentation(monkeypatch, npz, resolved):
    images, labels, names = arrays(12)["x_train"], np.arange(12) % 3, ("a", "b", "c")
    turned = common.Augmentation(rotation=7)
    mine = data.Source(lambda name: name == "mine", lambda *_: (images, labels, names, "own"), lambda _: turned)
    monkeypatch.setattr(data, "SOURCES", (mine, *data.SOURCES))
    for name, prefix in (("mine", "own"), (str(npz), "small"), ("digits", "digits")):  # the other rows still fit
        found = data.load_data(name)
        assert (found.prefix, found.source) == (prefix, name.rpartition("/")[2])
    found = data.load_data("mine", "test")
    assert found.images is images and found.labels is labels and found.class_names == names

    def augmentation(name, row="cnn"):
        return resolved(*(("--data", name) if name else ()), row=row).settings.augmentation

    assert augmentation("mine") == augmentation("mine", "cnn_elu") == turned
    assert augmentation("digits") == data.upright(augmentation(None))
    assert augmentation(None) == augmentation(str(npz)) == recipes.RECIPES["cnn"].settings.augmentation


# --- CIFAR-10 by way of Keras ---


@pytest.fixture(autouse=True)
def keras_home(monkeypatch, tmp_path):
    """Keras's folder is one of the test's own, and CIFAR-10 from another test is forgotten."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    data.fetch_cifar10.cache_clear()
    yield tmp_path / "keras/datasets"
    data.fetch_cifar10.cache_clear()


def test_cifar10_is_as_keras_gives_it_and_fetched_by_one_process_at_a_time(monkeypatch, keras_home):
    # A lock belongs to an open file, so two threads stand for two processes.
    log, random = [], np.random.default_rng(0)
    parts = [(random.integers(0, 256, (n, 32, 32, 3), np.uint8), np.arange(n, dtype=np.uint8)[:, None]) for n in (9, 4)]

    def fetch():
        log.append("begins")
        time.sleep(0.2)
        log.append("ends")
        return parts

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fetch)
    threads = [threading.Thread(target=data.fetch_cifar10.__wrapped__) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["begins", "ends"] * 2
    for part, (images, labels) in zip(("train", "test"), parts, strict=True):
        found = data.load_data(None, part)
        assert np.array_equal(found.images, images) and found.labels.tolist() == labels[:, 0].tolist()
        assert (found.class_names, found.prefix, found.halved) == (data.CIFAR10_CLASSES, "", (2, 4, 9))
    assert len(log) == 6  # it is read once in a process


def test_the_archive_is_looked_for_where_the_advice_says(monkeypatch, keras_home):
    archive = keras_home / "cifar-10-batches-py-target_archive"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"no archive")
    called = []
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(keras_home.parent))
    monkeypatch.setattr("keras.src.utils.file_utils.validate_file", lambda path, *_, **__: called.append(path) or True)
    with pytest.raises(InputError, match=archive.name):
        data.load_data(None)
    assert called == [str(archive)]


@pytest.mark.parametrize("error", [Exception("URL fetch failure\non https://…"), TimeoutError(), NameError("a bug")])
def test_cifar10_out_of_reach_names_the_ways_out(monkeypatch, keras_home, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", fail)
    with pytest.raises(NameError if isinstance(error, NameError) else InputError) as refusal:
        data.load_data(None)
    if not isinstance(error, NameError):
        message = str(refusal.value)
        assert all(word in message for word in (str(keras_home), "DATA=", "make demo")) and "\n" not in message


# --- Reduction ---


def test_reference_counts():
    kept = common.reduce_classes(LABELS, {2: None, 4: None, 9: None}, 0)
    assert len(kept) == 42_500
    train, val = common.split_fold(LABELS[kept], 1, 0.15, 0)
    assert (len(train), len(val)) == (36_125, 6_375)
    assert np.bincount(LABELS[kept][train]).tolist() == [4250, 4250, 2125, 4250, 2125, 4250, 4250, 4250, 4250, 2125]
    assert np.bincount(LABELS[kept][val]).tolist() == [750, 750, 375, 750, 375, 750, 750, 750, 750, 375]


def test_reduction_depends_on_the_seed_alone_and_leaves_other_classes_whole():
    first = common.reduce_classes(LABELS, {2: None, 4: None, 9: 50}, 5)
    assert np.bincount(LABELS[first]).tolist() == [5000, 5000, 2500, 5000, 2500, 5000, 5000, 5000, 5000, 50]
    assert np.all(np.diff(first) > 0)
    assert not np.array_equal(common.reduce_classes(LABELS, {2: None, 4: None, 9: 50}, 6), first)
    birds = first[LABELS[first] == 2]
    alone = common.reduce_classes(LABELS, {2: None}, 5)  # whatever other classes are reduced
    assert np.array_equal(alone[LABELS[alone] == 2], birds)
    members = np.flatnonzero(LABELS == 2)
    assert 0.45 < np.isin(birds, members[:2500]).mean() < 0.55  # drawn from all of them, not the first half


@pytest.mark.parametrize(("keep", "count"), [(5001, "5001"), (1, "1")])
def test_reduction_to_more_than_there_are_is_refused(keep, count):
    with pytest.raises(InputError, match=f"{count} images of class 2"):
        common.reduce_classes(LABELS, {2: keep}, 0)


def test_classes_by_name_and_number():
    assert common.class_numbers(["truck", "2", 4, "bird"], data.CIFAR10_CLASSES) == [9, 2, 4, 2]
    digits = ("1", "2", "0")  # typed words are names first; a record's numbers are numbers
    assert common.class_numbers(["1", "2", 1, 2], digits) == [0, 1, 1, 2]
    for word in ("brid", "10", "-1", "²"):
        with pytest.raises(InputError, match=word):
            common.class_numbers([word], data.CIFAR10_CLASSES)


# --- Folds ---


def test_folds_are_those_of_scikit_learn():
    labels = LABELS[:3000]
    splits = StratifiedShuffleSplit(n_splits=5, test_size=0.15, random_state=7).split(np.zeros(3000), labels)
    for number, (train, val) in enumerate(splits, start=1):
        ours = common.split_fold(labels, number, 0.15, 7)
        assert np.array_equal(ours[0], np.sort(train))
        assert np.array_equal(ours[1], np.sort(val))


@pytest.mark.parametrize(("labels", "share"), [([0] * 10 + [1], 0.5), ([0, 0, 1, 1], 0.1), ([0] * 50 + [1] * 2, 0.9)])
def test_images_too_few_to_split_are_refused(labels, share):
    with pytest.raises(InputError, match="VAL"):
        common.split_fold(np.array(labels), 1, share, 0)


def test_prepared_fold_holds_pictures_with_their_labels_and_a_true_record(npz, resolved):
    source = dict(np.load(npz))
    recipe = resolved("--seed", "3", "--reduced", "9,deer,truck", "--keep", "10", "--val", "0.2")
    fold = common.prepare_fold(npz, recipe.settings, 2)
    label_of = {image.tobytes(): label for image, label in zip(source["x_train"], source["y_train"], strict=True)}
    for images, labels in ((fold.x_train, fold.y_train), (fold.x_val, fold.y_val)):
        assert images.dtype == np.uint8
        assert [label_of[image.tobytes()] for image in images] == labels.tolist()
    seen = [image.tobytes() for image in np.concatenate([fold.x_train, fold.x_val])]
    assert len(set(seen)) == len(seen) == 8 * 40 + 2 * 10

    record = fold.record
    assert (record["source"], record["reduced"]) == ("small.npz", [4, 9])
    assert record["class_names"] == list(data.CIFAR10_CLASSES)
    assert record["train_counts"] == np.bincount(fold.y_train).tolist() == [32, 32, 32, 32, 8, 32, 32, 32, 32, 8]
    assert record["val_counts"] == np.bincount(fold.y_val).tolist() == [8, 8, 8, 8, 2, 8, 8, 8, 8, 2]


def test_hashes_tell_whether_two_runs_have_the_same_images(npz, resolved, tmp_path):
    def hashes(number=1, *argv, source=npz):
        record = common.prepare_fold(source, resolved(*argv).settings, number).record
        return [record[key] for key in ("sha256", "kept_sha256", "train_sha256", "val_sha256")]

    def differ(one, other):
        return [a != b for a, b in zip(one, other, strict=True)]

    plain = hashes()
    assert hashes() == plain
    assert differ(plain, hashes(2)) == [False, False, True, True]
    assert differ(plain, hashes(1, "--val", "0.2")) == [False, False, True, True]
    assert differ(plain, hashes(1, "--keep", "10")) == [False, True, True, True]
    assert differ(plain, hashes(1, "--seed", "1")) == [False, True, True, True]

    content = dict(np.load(npz))
    np.savez(tmp_path / "labels.npz", **{**content, "y_train": (content["y_train"] + 1) % 10})
    content["x_train"][0, 0, 0, 0] ^= 1
    np.savez(tmp_path / "pixel.npz", **content)
    assert differ(plain, hashes(source=tmp_path / "pixel.npz")) == [True, False, False, False]
    assert hashes(source=tmp_path / "labels.npz")[0] != plain[0]


@pytest.mark.parametrize(("split", "held_out"), [("first", slice(0, 80)), ("last", slice(320, 400))])
def test_the_one_split_of_a_recipe(npz, split, held_out):
    settings = recipes.Settings(split=split, val=0.2, reduced=[])
    fold, again = (common.prepare_fold(npz, settings.model_copy(update={"seed": seed})) for seed in (0, 1))
    with np.load(npz) as source:
        assert np.array_equal(fold.x_val, source["x_train"][held_out])
        assert np.array_equal(fold.y_train, np.delete(source["y_train"], held_out))
    assert again.record == fold.record
    assert (fold.record["split"], fold.record["val"], fold.record["reduced"]) == (split, 0.2, [])


def test_a_fold_goes_before_the_recipe_s_own_split(npz, resolved):
    plain = common.prepare_fold(npz, resolved("--keep", "10", "--val", "0.2").settings, 1).record
    assert common.prepare_fold(npz, resolved("--keep", "10", row="cnn_elu").settings, 1).record == plain
    assert (plain["split"], plain["reduced"], plain["keep"]) == ("shuffle", [2, 4, 9], [10, 10, 10])


@pytest.mark.parametrize("val", ["0.001", "0.99"])
def test_a_split_that_leaves_nothing_or_not_all_classes_is_refused(npz, resolved, val):
    with pytest.raises(InputError, match=f"VAL={val} "):
        common.prepare_fold(npz, resolved("--val", val, row="cnn_pool3").settings)
