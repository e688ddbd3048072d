"""Pictures of one's own: a folder of them by class, what is reduced of them, how runs on them are compared."""

import contextlib
import os
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
from recipes import RECIPES, Settings
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


@pytest.mark.parametrize(
    ("name", "size"),
    [("a.png", (96, 128)), ("a.png", (200, 90)), ("a.png", (32, 32)), ("a.png", (16, 16)), ("a.jpg", (600, 800))],
)
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
    ("name", "kind"),
    [
        *(("a.png", kind) for kind in ("L", "P", "1", "LA")),
        *(("a.jpg", kind) for kind in ("L", "CMYK")),
        *(("a.webp", kind) for kind in ("RGB", "RGBA")),
        *(("a.bmp", "RGB"), ("a.gif", "P"), ("A.JPEG", "RGB"), ("a.jfif", "RGB"), ("a.tiff", "RGB"), ("a.ppm", "RGB")),
    ],
)
def test_every_kind_is_read(tmp_path, name, kind):
    path = save(tmp_path / name, kind=kind)
    found = data.read_picture(path)
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8) and found.std() > 5
    assert data.files_in(tmp_path) == ([path], [])


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_sixteen_bits_of_grey_are_scaled_and_transparent_is_white(tmp_path, name):
    grey = np.full((32, 32), 65535 // 2, np.uint16)
    Image.fromarray(grey).save(tmp_path / name)
    assert np.abs(data.read_picture(tmp_path / name).astype(int) - 127).max() <= 1
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, 16:, 3] = 255
    Image.fromarray(clear).save(tmp_path / f"clear {name}")
    found = data.read_picture(tmp_path / f"clear {name}")
    assert (found[:, :16] == 255).all() and (found[:, 16:] == 0).all()


@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_numbers_of_an_unknown_range_are_refused_by_name(tmp_path, kind):
    Image.fromarray(np.ones((32, 32), kind)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif .*32-bit"):
        data.read_pictures([tmp_path / "a.tif"])


def test_a_camera_s_turn_is_undone_and_of_a_gif_the_first_frame_counts(tmp_path):
    upright = smooth(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(data.read_picture(tmp_path / "a.png"), upright)
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("black", "white")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    assert data.read_picture(tmp_path / "b.gif").max() == 0


def test_a_bug_while_a_picture_is_read_is_a_traceback(tmp_path, monkeypatch):
    monkeypatch.delattr(data, "ImageOps")
    with pytest.raises(NameError):
        data.read_pictures([save(tmp_path / "a.png")])


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
        (
            lambda folder: [path.unlink() for path in (folder / "test/cat").iterdir()],
            "test/cat",
        ),  # would be found out after the training only
        (lambda folder: shutil.rmtree(folder / "test/cat"), "test/cat"),  # would be found out after the training only
        (lambda folder: (folder / "train").rename(folder / "Training"), "'train'"),
        (lambda folder: (folder / "train/cat").rename(folder / "train/c\nat"), "printed"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(folder, spoil, word):
    spoil(folder)
    with pytest.raises(InputError, match=word) as refusal:
        data.load_data(str(folder))
    assert "\n" not in str(refusal.value)


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


def test_other_pictures_of_ten_numbers_are_none_of_the_digits(tmp_path):
    for name in "0123456789":
        for number in range(10):
            save(tmp_path / "mnist/train" / name / f"{number}.png")
    assert data.load_data(str(tmp_path / "mnist")).halved == ()
    assert data.load_data("digits").halved == (2, 4, 9)


@pytest.fixture
def interrupted(monkeypatch):
    """A context in which trainings end before they write their finished file."""

    @contextlib.contextmanager
    def interrupted(event=lambda run, *_: None):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "finish", event)
            yield

    return interrupted


WORDS = ["--data=My pets", "--epochs=1", "--batch-size=8", "--precision=float32"]


def test_class_names_are_part_of_a_training(folder, tmp_path, monkeypatch, tiny_recipes, interrupted):
    """Two names for the same pictures: neither a finished nor an unfinished training is of both."""
    monkeypatch.chdir(tmp_path)
    train_cnn.main(WORDS)
    record = Run("my-pets_cnn", 1).read_record()
    assert (record["version"], record["data"]["class_names"], record["settings"]["reduced"]) == (2, ["cat", "dog"], [])
    with interrupted():
        train_cnn.main([*WORDS, "--name=other"])
    for part in ("train", "test"):
        (folder / part / "dog").rename(folder / part / "hound")
    data.read_folder.cache_clear()
    for script, more in (
        (train_cnn, WORDS),
        (train_cnn, [*WORDS, "--name=other"]),
        (evaluate, ["--data=My pets", "--model=cnn"]),
        (predict, ["--data=My pets", "--model=cnn", f"--image={folder / 'train'}"]),
    ):
        with pytest.raises(InputError, match=r"cat, dog, .* cat, hound"):
            script.main(more)


@pytest.mark.parametrize("age", [0, 2e9])  # older and newer than the finished file
def test_content_decides_whether_a_state_beside_a_finished_file_is_spent(
    folder, tmp_path, monkeypatch, tiny_recipes, interrupted, age
):
    monkeypatch.chdir(tmp_path)
    run, state = Run("my-pets_cnn", 1), tmp_path / "kept.state"
    with interrupted(lambda run, *_: shutil.copy(run.state, state)):
        train_cnn.main(WORDS)
    train_cnn.main(WORDS)
    settings, names = run.read_record()["settings"], ("cat", "dog")
    shutil.copy(state, run.state)
    os.utime(run.state, (age, age))
    assert run.unfinished(settings, names) is None and not run.state.exists()
    with interrupted():
        train_cnn.main([*WORDS, "--force=1"])
    os.utime(run.state, (age, age))
    assert run.unfinished(settings, names) and run.state.exists()


# --- What is shown of them ---


@pytest.fixture
def drawn(monkeypatch):
    """What the plots are given, in place of the plots."""
    given = []
    for name in ("plot_samples", "plot_architecture"):
        monkeypatch.setattr(evaluate.plots, name, lambda *args: given.append(args))
    return given


def test_samples_are_a_picture_of_each_class_over_what_the_training_would_see(drawn):
    train = data.load_data("digits")
    evaluate.plot_samples("a.png", train, data.upright(RECIPES["cnn"].settings.augmentation))
    evaluate.plot_samples("a.png", train, common.Augmentation())
    (_, title, rows, names), (_, plain, alone, _) = drawn
    firsts = [train.images[train.labels.tolist().index(number)] for number in range(10)]
    assert np.array_equal(rows[0], firsts) and names == list("0123456789")
    assert len(rows) == 4 and all(row.shape == rows[0].shape for row in rows)
    assert all(5 < np.abs(row - rows[0]).mean() < 80 for row in rows[1:])  # moved, and the same digits still
    assert np.abs(rows[1] - rows[2]).mean() > 1
    assert len(alone) == 1 and "augmentation" in title and "augmentation" not in plain


def test_a_drawing_has_every_layer_and_marks_the_frozen_ones(drawn, workdir):
    recipe = RECIPES["autoencoder_cls"]
    model = common.finished_model(recipe.build, recipe.settings, 10, "a")
    frozen = common.freeze(model, recipe.frozen_until)
    evaluate.write_architecture("a", model)
    ((_, title, boxes),) = drawn
    assert [kind for kind, *_ in boxes] == [type(layer).__name__ for layer in model.layers]
    assert [layer.name for layer, box in zip(model.layers, boxes, strict=True) if box[2]] == frozen
    assert boxes[0][1] == (32, 32, 3) and boxes[-1][1] == (10,) and "1,826,634 trainable" in title
