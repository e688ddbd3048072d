"""Pictures of one's own: a folder of them by class, what is reduced of them, how runs on them are compared."""

import shutil

import numpy as np
import pytest
import skimage.transform
from PIL import Image

import common
import data
import evaluate
import predict
import train_cnn
from recipes import Settings
from runs import Run
from util.cli import InputError

RANDOM = np.random.default_rng(0)


def save(path, shape=(40, 56, 3), kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(RANDOM.integers(0, 256, shape).astype(np.uint8))
    (picture.convert(kind) if kind else picture).save(path)
    return path


@pytest.fixture(autouse=True)
def forget():
    """No folder is known from another test."""
    data.read_folder.cache_clear()


@pytest.fixture
def folder(tmp_path):
    """Twelve training and four test pictures of each of two classes."""
    for part, count in (("train", 12), ("test", 4)):
        for name in ("cat", "dog"):
            for number in range(count):
                save(tmp_path / "My pets" / part / name / f"{number:02}.png")
    return tmp_path / "My pets"


# --- One picture ---


def smooth(height, width):
    """A picture without detail, of which every good way to shrink gives about the same."""
    y, x = np.mgrid[:height, :width]
    return np.stack([255 * x / width, 255 * y / height, 127 + 0 * x], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("name", "size"), [("a.png", (96, 128)), ("a.png", (32, 32)), ("a.jpg", (600, 500))])
def test_a_picture_is_cut_about_its_centre_and_shrunk_with_antialiasing(tmp_path, name, size):
    """As scikit-image does it with a centred square."""
    Image.fromarray(smooth(*size)).save(tmp_path / name, quality=100)
    side = min(size)
    top, left = ((length - side) // 2 for length in size)
    square = smooth(*size)[top : top + side, left : left + side]
    expected = skimage.transform.resize(square, (32, 32), anti_aliasing=True, preserve_range=True)
    found = data.read_picture(tmp_path / name)
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(found - expected)[2:-2, 2:-2].max() < 3
    if side == 32:
        assert np.array_equal(found, square)
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / name)
    assert np.abs(data.read_picture(tmp_path / name).astype(int) - 127).max() < 10


@pytest.mark.parametrize(
    ("name", "kind"), [("a.png", "P"), ("A.JPEG", "CMYK"), ("a.webp", "RGBA"), ("a.gif", "L"), ("a.jfif", "RGB")]
)
def test_kinds_of_pictures_are_read(tmp_path, name, kind):
    path = save(tmp_path / name, kind=kind)
    found = data.read_picture(path)
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8) and found.std() > 5
    assert data.files_in(tmp_path) == ([path], [])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_deep_grey_is_scaled_or_refused_transparent_is_white_and_a_camera_s_turn_undone(tmp_path, name):
    def read(array, **more):
        Image.fromarray(array).save(tmp_path / name, **more)
        return data.read_pictures([tmp_path / name])[0]

    assert np.abs(read(np.full((32, 32), 65535 // 2, np.uint16)).astype(int) - 127).max() <= 1
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, 16:, 3] = 255
    found = read(clear)
    assert (found[:, :16] == 255).all() and (found[:, 16:] == 0).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    assert np.array_equal(read(np.rot90(smooth(32, 32)), exif=exif), smooth(32, 32))
    if name == "a.tif":
        with pytest.raises(InputError, match=r"a\.tif .*32-bit"):  # whose range is unknown
            read(np.ones((32, 32), np.float32))


# --- A folder ---


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "TEST")])
def test_a_folder_gives_both_parts_in_the_classes_of_its_folders(folder, capsys, names):
    for part, name in zip(("train", "test"), names, strict=True):
        (folder / part).rename(folder / name)
    (folder / names[0] / "cat/indoors").mkdir()
    (folder / names[0] / "cat/00.png").rename(folder / names[0] / "cat/indoors/00.png")
    for part, name, count in zip(("train", "test"), names, (12, 4), strict=True):
        found = data.load_data(str(folder), part)
        assert (found.class_names, found.prefix, found.source) == (("cat", "dog"), "my-pets", "My pets")
        assert found.labels.tolist() == [0] * count + [1] * count
        expected = [data.read_picture(file) for file in sorted((folder / name).rglob("*.png"))]
        assert np.array_equal(found.images, expected)
    assert capsys.readouterr().out == ""


def count_held_out(path):
    train, test = (data.load_data(str(path), part) for part in ("train", "test"))
    assert not {picture.tobytes() for picture in train.images} & {picture.tobytes() for picture in test.images}
    return np.bincount(train.labels).tolist(), np.bincount(test.labels).tolist()


def test_without_a_test_folder_a_tenth_is_held_out_with_some_of_each_class(tmp_path, capsys):
    for name, count in (("cat", 40), ("dog", 20)):
        for number in range(count):
            save(tmp_path / "pets" / name / f"{number}.png", (8, 8, 3))
    assert count_held_out(tmp_path / "pets") == ([36, 18], [4, 2])
    assert capsys.readouterr().out.count("note: ") == 1
    shutil.copytree(tmp_path / "pets", tmp_path / "twice")
    for path in [*(tmp_path / "twice").rglob("*.png")]:
        shutil.copy(path, path.with_stem(f"{path.stem} copy"))
    assert count_held_out(tmp_path / "twice") == ([72, 36], [8, 4])
    shutil.copytree(tmp_path / "pets", tmp_path / "rare")
    for name, count in (("emu", 4), ("fox", 3)):
        for number in range(count):
            save(tmp_path / "rare" / name / f"{number}.png", (8, 8, 3))
    train, test = count_held_out(tmp_path / "rare")
    assert min(test) == 1 and train[3] == 2 and sum(train) + sum(test) == 67
    (tmp_path / "rare/fox/0.png").rename(tmp_path / "pets/cat/fox.png")
    data.read_folder.cache_clear()
    with pytest.raises(InputError, match="fox"):
        data.load_data(str(tmp_path / "rare"))


def test_what_is_left_out_is_counted_and_named(folder, capsys):
    (folder / "train/cat/notes.txt").write_text("no picture")
    (folder / "train/cat/a.heic").write_text("none that is read")
    (folder / "train/cat/b.heic").write_text("none that is read")
    (folder / "train/dog/gone.png").symlink_to(folder / "nowhere.png")
    (folder / "train/loose.png").write_text("of no class")
    (folder / "train/cat/.DS_Store").write_text("hidden")
    (folder / "train/.git").mkdir()
    (folder / "train/dog/loop").symlink_to(folder / "train/dog")
    (folder / "valid").mkdir()
    assert len(data.load_data(str(folder)).images) == 24
    left, unused = capsys.readouterr().out.splitlines()
    assert left.startswith("note: 5 files ") and all(f"1 {one}" in left for one in (".txt", ".png", "links to nothing"))
    assert "2 .heic" in left and unused.startswith("note: valid ")


def test_test_pictures_that_are_training_pictures_are_counted(folder, capsys):
    for number in (1, 2):
        (folder / f"test/dog/{number:02}.png").write_bytes((folder / f"train/cat/{number:02}.png").read_bytes())
    data.load_data(str(folder))
    assert capsys.readouterr().out.startswith("note: 2 of the 8 test pictures ")


def test_all_that_cannot_be_read_is_named_in_one_sentence(folder):
    (folder / "train/cat/03.png").write_bytes(b"no picture")
    whole = (folder / "test/dog/01.png").read_bytes()
    (folder / "test/dog/01.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="2 of 32") as refusal:
        data.load_data(str(folder))
    text = str(refusal.value)
    assert "\n" not in text and all(str(folder / one) in text for one in ("train/cat/03.png", "test/dog/01.png"))


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda folder: (folder / "train/emu").mkdir(), "train/emu"),
        (lambda folder: save(folder / "test/emu/a.png"), "test/emu"),
        (lambda folder: (folder / "train/cat").rename(folder / "cat"), "1 folders"),
        (lambda folder: shutil.rmtree(folder / "test/cat"), "test/cat"),  # would be found out after the training only
        (lambda folder: (folder / "train").rename(folder / "Training"), "'train'"),
        (lambda folder: (folder / "train/cat").rename(folder / "train/c\nat"), "printed"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(folder, spoil, word):
    spoil(folder)
    with pytest.raises(InputError, match=word):
        data.load_data(str(folder))


def test_the_whole_name_is_in_the_names_of_runs():
    names = ("pets.v1", "pets.v2", "a/My Data_v2.npz", "猫犬", "植物", "mod", "./digits", "___.npz")
    prefixes = ["pets-v1", "pets-v2", "my-data-v2", "猫犬", "植物", "mod-data", "digits-data", "data"]
    assert list(map(data.data_prefix, names)) == prefixes and data.data_prefix("digits") == "digits"


# --- What is reduced of them ---


def test_nothing_is_reduced_of_other_classes_unless_it_is_asked_for(folder, capsys):
    fold = common.prepare_fold(str(folder), Settings())
    assert fold.record["reduced"] == [] and len(fold.x_train) + len(fold.x_val) == 24
    assert "REDUCED" in capsys.readouterr().out
    fold = common.prepare_fold(str(folder), Settings(reduced=["dog"]))
    assert (fold.record["reduced"], fold.record["keep"]) == ([1], [6])
    for reduced in (None, []):
        with pytest.raises(InputError, match="REDUCED"):
            common.prepare_fold(str(folder), Settings(keep=4, reduced=reduced))


def test_class_names_are_part_of_a_training(folder, workdir, monkeypatch, tiny_recipes):
    """Two names for the same pictures: neither a finished nor an unfinished training is of both."""
    words = ["--data=My pets", "--epochs=1", "--batch-size=8"]
    train_cnn.main(words)
    record = Run("my-pets_cnn", 1).read_record()
    assert (record["version"], record["data"]["class_names"], record["settings"]["reduced"]) == (2, ["cat", "dog"], [])
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda *_: None)
        train_cnn.main([*words, "--name=other"])
    for part in ("train", "test"):
        (folder / part / "dog").rename(folder / part / "hound")
    data.read_folder.cache_clear()
    for script, more in (
        (train_cnn, words),
        (train_cnn, [*words, "--name=other"]),
        (evaluate, ["--data=My pets", "--model=cnn"]),
        (predict, ["--data=My pets", "--model=cnn", f"--image={folder / 'train'}"]),
    ):
        with pytest.raises(InputError, match=r"cat, dog, .* cat, hound"):
            script.main(more)
