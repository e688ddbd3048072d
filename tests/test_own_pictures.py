"""Pictures of one's own: a folder of them by class, what is reduced of them, how runs on them are compared."""

import json

import numpy as np
import pytest
import skimage.transform
from PIL import Image

import common
import data
import evaluate
import train_cnn
from recipes import RECIPES, Settings
from util.cli import InputError

RANDOM = np.random.default_rng(0)


def save(path, shape=(40, 56, 3), kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = RANDOM.integers(0, 256, shape).astype(np.uint8)
    Image.fromarray(values).save(path) if kind is None else Image.fromarray(values).convert(kind).save(path)
    return path


@pytest.fixture(autouse=True)
def forget(tmp_path, monkeypatch):
    """Keras's folder is the test's own, and no folder is known from another test."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
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


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 128), (200, 90), (32, 32), (16, 16)])
def test_a_picture_is_cut_about_its_centre_and_shrunk_with_antialiasing(tmp_path, height, width):
    """As scikit-image does it with a centred square."""
    Image.fromarray(smooth(height, width)).save(tmp_path / "a.png")
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = smooth(height, width)[top : top + side, left : left + side]
    expected = skimage.transform.resize(square, (32, 32), anti_aliasing=True, preserve_range=True)
    found = data.read_picture(tmp_path / "a.png", (32, 32))
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8)
    assert np.abs(found - expected)[2:-2, 2:-2].max() < 3


def test_detail_finer_than_a_pixel_becomes_grey(tmp_path):
    stripes = np.zeros((320, 320, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    found = data.read_picture(tmp_path / "a.png", (32, 32))
    assert np.abs(found.astype(int) - 127).max() < 10


def test_a_picture_of_the_right_size_stays_as_it_is(tmp_path):
    values = RANDOM.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert np.array_equal(data.read_picture(tmp_path / "a.png", (32, 32)), values)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("a.png", kind) for kind in ("L", "P", "1", "LA")),
        *(("a.jpg", kind) for kind in ("L", "CMYK")),
        *(("a.webp", kind) for kind in ("RGB", "RGBA")),
        *(("a.bmp", "RGB"), ("a.gif", "P"), ("A.JPEG", "RGB")),
    ],
)
def test_every_kind_is_read(tmp_path, name, kind):
    found = data.read_picture(save(tmp_path / name, kind=kind), (32, 32))
    assert (found.shape, found.dtype) == ((32, 32, 3), np.uint8) and found.std() > 5


def test_sixteen_bits_of_grey_are_scaled_and_transparent_is_white(tmp_path):
    grey = np.full((32, 32), 65535 // 2, np.uint16)
    Image.fromarray(grey).save(tmp_path / "a.png")
    assert np.abs(data.read_picture(tmp_path / "a.png", (32, 32)).astype(int) - 127).max() <= 1
    clear = np.zeros((32, 32, 4), np.uint8)
    clear[:, 16:, 3] = 255
    Image.fromarray(clear).save(tmp_path / "b.png")
    found = data.read_picture(tmp_path / "b.png", (32, 32))
    assert (found[:, :16] == 255).all() and (found[:, 16:] == 0).all()


def test_a_camera_s_turn_is_undone_and_of_a_gif_the_first_frame_counts(tmp_path):
    upright = smooth(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    Image.fromarray(np.rot90(upright)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(data.read_picture(tmp_path / "a.png", (32, 32)), upright)
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("black", "white")]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    assert data.read_picture(tmp_path / "b.gif", (32, 32)).max() == 0


# --- A folder ---


def test_a_folder_gives_both_parts_in_the_classes_of_its_folders(folder, capsys):
    for part, count in (("train", 12), ("test", 4)):
        found = data.load_data(str(folder), part)
        assert (found.class_names, found.prefix, found.source) == (("cat", "dog"), "my-pets", "My pets")
        assert found.labels.tolist() == [0] * count + [1] * count
        expected = [data.read_picture(file, (32, 32)) for file in sorted((folder / part).rglob("*.png"))]
        assert np.array_equal(found.images, expected)
    assert capsys.readouterr().out == ""


def test_without_a_test_folder_a_stratified_tenth_is_held_out_and_said(tmp_path, capsys):
    for name, count in (("cat", 40), ("dog", 20)):
        for number in range(count):
            save(tmp_path / "pets" / name / f"{number}.png", (8, 8, 3))
    train, test = (data.load_data(str(tmp_path / "pets"), part) for part in ("train", "test"))
    assert np.bincount(train.labels).tolist() == [36, 18] and np.bincount(test.labels).tolist() == [4, 2]
    seen = {picture.tobytes() for picture in train.images} & {picture.tobytes() for picture in test.images}
    assert not seen
    said = capsys.readouterr().out
    assert said.count("a tenth of each class is held out for the test\n") == 1


def test_pictures_are_read_once_and_again_when_one_changes(folder, monkeypatch):
    first = data.load_data(str(folder)).images
    data.read_folder.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(data, "read_picture", None)
        assert np.array_equal(data.load_data(str(folder)).images, first)
    data.read_folder.cache_clear()
    save(folder / "train/cat/00.png")
    again = data.load_data(str(folder)).images
    assert not np.array_equal(again[0], first[0]) and np.array_equal(again[1:], first[1:])


def test_where_nothing_can_be_kept_they_are_read_all_the_same(folder, monkeypatch):
    (folder.parent / "keras").write_text("a file, where Keras's folder should be")
    assert len(data.load_data(str(folder)).images) == 24


def test_what_is_no_picture_and_what_is_hidden_is_left_out(folder, capsys):
    (folder / "train/cat/notes.txt").write_text("no picture")
    (folder / "train/cat/.DS_Store").write_text("hidden")
    (folder / "train/.git").mkdir()
    assert len(data.load_data(str(folder)).images) == 24
    assert capsys.readouterr().out.startswith("note: 1 files in ")


def test_test_pictures_that_are_training_pictures_are_counted(folder, capsys):
    for number in (1, 2):
        (folder / f"test/dog/{number:02}.png").write_bytes((folder / f"train/cat/{number:02}.png").read_bytes())
    data.load_data(str(folder))
    assert capsys.readouterr().out == f"note: 2 of the 8 test pictures in {folder} are training pictures, too\n"


def test_all_that_cannot_be_read_is_named_in_one_sentence(folder):
    (folder / "train/cat/03.png").write_bytes(b"no picture")
    whole = (folder / "test/dog/01.png").read_bytes()
    (folder / "test/dog/01.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError) as refusal:
        data.load_data(str(folder))
    text = str(refusal.value)
    assert text.startswith("2 of 32 pictures cannot be read; mend or remove them: ") and "\n" not in text
    assert str(folder / "train/cat/03.png") in text and str(folder / "test/dog/01.png") in text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "train/emu").mkdir(), r"train/emu holds no pictures \(\.bmp, "),
        (lambda folder: save(folder / "test/emu/a.png"), r"test/emu is of a class that .*train does not have"),
        (lambda folder: (folder / "train/cat").rename(folder / "cat"), "holds 1 folders of pictures; give DATA a "),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_sentence(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(InputError, match=sentence):
        data.load_data(str(folder))


def test_a_class_whose_name_cannot_be_printed_is_one_sentence_and_a_picture_s_name_may_be_anything(folder):
    odd = b"\xff\n.png".decode(errors="surrogateescape")
    (folder / "train/cat/00.png").rename(folder / "train/cat" / odd)
    assert len(data.load_data(str(folder)).images) == 24
    data.read_folder.cache_clear()
    (folder / "train/cat").rename(folder / "train" / "c\nat")
    (folder / "test/cat").rename(folder / "test" / "c\nat")
    with pytest.raises(InputError, match=r"the class '.*c\\nat' has a name that cannot be printed; rename the folder$"):
        data.load_data(str(folder))


def test_too_few_to_hold_a_tenth_out_is_one_sentence(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / "pets" / name / "a.png")
    with pytest.raises(InputError, match=r"a tenth cannot be held out as test pictures \(.*\): give more of them$"):
        data.load_data(str(tmp_path / "pets"))


# --- What is reduced of them ---


def test_nothing_is_reduced_of_other_classes_unless_it_is_asked_for(folder, capsys):
    fold = common.prepare_fold(str(folder), Settings())
    assert fold.record["reduced"] == [] and len(fold.x_train) + len(fold.x_val) == 24
    assert "24 of 24 images (no class is reduced without REDUCED); fold 1" in capsys.readouterr().out
    fold = common.prepare_fold(str(folder), Settings(reduced=["dog"]))
    assert (fold.record["reduced"], fold.record["keep"]) == ([1], [6])
    fold = common.prepare_fold(str(folder), Settings(reduced=[]))
    assert fold.record["reduced"] == [] and "without REDUCED" not in capsys.readouterr().out


def test_keep_without_reduced_is_refused_where_no_class_is_reduced(folder):
    for reduced in (None, []):
        with pytest.raises(InputError, match=r"KEEP says how many images to keep, .*: name some with REDUCED"):
            common.prepare_fold(str(folder), Settings(keep=4, reduced=reduced))


def test_other_pictures_of_ten_numbers_are_none_of_the_digits(tmp_path):
    for name in "0123456789":
        for number in range(10):
            save(tmp_path / "mnist/train" / name / f"{number}.png")
    assert data.load_data(str(tmp_path / "mnist")).halved == ()
    assert data.load_data("digits").halved == (2, 4, 9)


def test_a_network_trains_on_a_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train_cnn.main(["DATA=My pets", "EPOCHS=1", "BATCH=8", "PRECISION=float32"])
    record = json.loads((tmp_path / "checkpoints/my-pets_cnn_fold1.json").read_text())
    assert record["data"]["class_names"] == ["cat", "dog"] and record["settings"]["reduced"] == []
    train_cnn.main(["DATA=My pets", "EPOCHS=1", "BATCH=8", "PRECISION=float32"])  # is finished already


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
    evaluate.plot_samples("a.png", train, common.Augmentation(**data.DIGITS_AUGMENTATION))
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
