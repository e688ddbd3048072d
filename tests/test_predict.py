"""predict.py on small networks and pictures of every kind, against Keras, PIL and scikit-image by themselves."""

import csv
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import CLASSES, ROOT, change_record, contents
from PIL import Image

import common
import data
import predict
from util.cli import InputError

DATA = "--data=small.npz"


@pytest.fixture
def study(tiny_study, workdir):
    """A copy of the small study to work in, with pictures that are larger, grey, see-through and oddly named."""
    shutil.copytree(tiny_study, workdir, dirs_exist_ok=True)
    random, sizes = np.random.default_rng(0), {"photos/b.png": (32, 32, 3), "photos/deep/a.JPG": (64, 96, 3)}
    sizes |= {"photos/deep/c.webp": (80, 40, 3), "a cat's [1].png": (48, 48), "deer.bmp": (24, 24, 3)}
    for name, (height, width, *channels) in sizes.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        squares = random.integers(0, 256, (height // 8, width // 8, *channels), np.uint8)
        Image.fromarray(squares.repeat(8, axis=0).repeat(8, axis=1)).save(name, lossless=True)
    for name in ("photos/.hidden.png", "photos/notes.txt", "broken.png"):
        Path(name).write_text("no picture")
    return workdir


def prepared(path):
    """A picture as the networks take it, by Pillow's `resize` alone."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    left, top = ((length - min(image.size)) // 2 for length in image.size)
    box = (left, top, left + min(image.size), top + min(image.size))
    return np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box))


def output(stem, paths):
    return keras.saving.load_model(f"checkpoints/{stem}.keras").predict_on_batch(np.stack(list(map(prepared, paths))))


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def refuse(*words, match=""):
    """The script refuses these words, before anything is written."""
    before = contents()
    with pytest.raises(InputError, match=match):
        predict.main([*words])
    assert contents() == before


# --- What is predicted ----------------------------------------------------------------------------------------------


def test_the_three_likeliest_classes_are_those_of_the_mean_probability_of_the_folds(study, capsys):
    names = ["deer.bmp", "a cat's [1].png", "photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]
    Path("small.npz").unlink()  # predicting takes no data set
    before = contents()
    predict.main([DATA, "--model=cnn", '--image=deer.bmp "a cat\'s [1].png" photos', "--out=new/predicted.csv"])
    said = capsys.readouterr().out
    assert {path: found for path, found in contents().items() if path in before} == before
    assert "small_cnn: 5 pictures, mean probability of 2 folds (1, 2)\n" in said

    expected = (output("small_cnn_fold1", names).astype(float) + output("small_cnn_fold2", names)) / 2
    found = rows("new/predicted.csv")
    assert [row["file"] for row in found] == names
    for row, probabilities, name in zip(found, expected, names, strict=True):
        order = np.argsort(-probabilities)[:3]
        assert [row[f"class {place}"] for place in (1, 2, 3)] == [CLASSES[number] for number in order]
        values = [float(row[f"probability {place}"]) for place in (1, 2, 3)]
        np.testing.assert_allclose(values, probabilities[order], atol=1e-5)
        (line,) = (line for line in said.splitlines() if line.startswith(f"| {name} "))
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells == [f"{CLASSES[k]} ({value:.3f})" for k, value in zip(order, values, strict=True)]
    assert Path("imgs/small_cnn_predict.png").exists()


def test_views_are_averaged(study):
    predict.main([DATA, "--model=cnn", "--image=photos/b.png", "--views=mirror", "--out=predicted.csv"])
    picture = prepared("photos/b.png")
    models = [keras.saving.load_model(f"checkpoints/small_cnn_fold{fold}.keras") for fold in (1, 2)]
    seen = np.stack([picture, picture[:, ::-1]])
    expected = np.mean([model.predict_on_batch(seen) for model in models], axis=(0, 1))
    (row,) = rows("predicted.csv")
    assert np.isclose(float(row["probability 1"]), expected.max(), atol=1e-5)
    assert row["class 1"] == CLASSES[expected.argmax()]


def test_an_autoencoder_gives_reconstructions_with_their_quality(study, capsys):
    names = ["photos/b.png", "photos/deep/c.webp"]
    predict.main([DATA, "--model=autoencoder", "--noaug=1", f"--image={' '.join(names)}", "--out=quality.csv"])
    said = capsys.readouterr().out
    assert "small_autoencoder_noaug: 2 pictures, one finished training\n" in said
    originals = np.stack(list(map(prepared, names))).astype(np.float32) / 255
    copies, found = output("small_autoencoder_noaug", names), rows("quality.csv")
    assert [row.pop("file") for row in found] == names
    for key in ("PSNR (dB)", "SSIM"):
        values = common.QUALITY[key](originals, copies)
        assert [float(row.pop(key)) for row in found] == pytest.approx(values, abs=1e-3)
    assert found == [{}, {}] and all(re.search(rf"\| {name} +\| \d+\.\d\d\d +\|", said) for name in names)
    assert Path("imgs/small_autoencoder_noaug_predict.png").exists()


def test_many_pictures_are_predicted_in_pieces_and_the_first_drawn(study, monkeypatch):
    drawn = []
    monkeypatch.setattr(predict.plots, "plot_pictures", lambda *given: drawn.append(given))
    for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)):
        Image.fromarray(image).save(f"photos/{number:02}.png")
    monkeypatch.setattr(predict, "CHUNK", 25)
    predict.main([DATA, "--model=cnn", "--image=photos/[0-9]*.png", "--out=out.csv"])
    found, names = rows("out.csv"), [f"photos/{number:02}.png" for number in range(30)]
    expected = (output("small_cnn_fold1", names) + output("small_cnn_fold2", names)) / 2
    assert [row["file"] for row in found] == names
    assert [float(row["probability 1"]) for row in found] == pytest.approx(expected.max(axis=1), abs=1e-5)
    ((_, _, images, words),) = drawn
    assert len(images) == len(words) == 24 and words[23].startswith(found[23]["class 1"])


def test_the_lines_of_the_documents_see_what_predict_sees(study, capsys):
    """Of a picture that is transparent and, as a telephone's, turned by a quarter."""
    (code,) = re.findall(r"```python\n(import keras\n[^`]*)```", (ROOT / "docs/using.md").read_text(encoding="utf-8"))
    shutil.copy("checkpoints/small_cnn_fold1.keras", "checkpoints/cnn_fold1.keras")
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    Image.fromarray(values).save("cat.jpg", "PNG", exif=exif)
    for path in Path("checkpoints").glob("small_cnn_fold2.*"):
        path.unlink()
    exec(code, {})
    printed = np.array(re.findall(r"\d\.\d+(?:e-\d+)?", capsys.readouterr().out.partition("[[")[2]), float)
    predict.main([DATA, "--model=cnn", "--image=cat.jpg", "--out=out.csv"])
    (row,) = rows("out.csv")
    assert float(row["probability 1"]) == pytest.approx(printed.max(), abs=1e-5)


# --- Which pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("photos/ ./photos/b.png", ["photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]),
        ("linked", ["linked/b.png", "linked/deep/a.JPG", "linked/deep/c.webp"]),
        ("photos/**/*.[Jw]* deer.bmp deer.bmp", ["photos/deep/a.JPG", "photos/deep/c.webp", "deer.bmp"]),
        ("a cat's [1].png", ["a cat's [1].png"]),
        (r"a\ cat\'s\ [1].png 'deer.bmp'", ["a cat's [1].png", "deer.bmp"]),
        ("a* ~/deer.bmp", ["a cat's [1].png", "/deer.bmp"]),
    ],
)
def test_files_folders_and_patterns(study, monkeypatch, text, names):
    monkeypatch.setenv("HOME", str(study))
    Path("linked").symlink_to("photos")
    found = [str(path).removeprefix(str(study)) for path in data.named_pictures(text)]
    assert found == names


# --- Which run ------------------------------------------------------------------------------------------------------


def test_cifar10_in_a_file_has_no_prefix(study, capsys):
    for fold in (1, 2):
        change_record(f"small_cnn_fold{fold}", data={"source": "cifar10.npz"})
        for path in Path("checkpoints").glob(f"small_cnn_fold{fold}.*"):
            path.rename(path.with_name(path.name.removeprefix("small_")))
    for words in ([], ["--data=elsewhere/cifar10.npz"]):
        predict.main(["--model=cnn", "--image=deer.bmp", *words])
        assert "\ncnn: 1 picture, mean probability of 2 folds" in f"\n{capsys.readouterr().out}"
    refuse("--model=cnn", "--image=deer.bmp", "--data=other.npz", match="make cnn DATA=other.npz")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--image=gone.png deer.bmp none/*.jpg"], r"gone\.png, none/\*\.jpg"),
        (["--image=checkpoints"], "checkpoints"),
        (["--image=dog's.png"], "quot"),
        (["--image= "], "IMAGE"),
        (["--image=broken.png photos"], r"1 of 4 .*broken\.png"),
        (["--image=deer.bmp", "--data=Small.npz"], r"make cnn DATA=Small\.npz"),  # the name of the run is the same
        (["--image=deer.bmp", "--arch=elu", "--name=mine"], "make cnn ARCH=elu DATA=small.npz NAME=mine"),
        (["--image=deer.bmp", "--noaug=1"], "noaug"),
        (["--image=deer.bmp", "--out=small.npz"], "OUT"),
        (["--model=autoencoder", "--noaug", "--image=deer.bmp", "--views=mirror"], "VIEWS"),
    ],
)
def test_what_cannot_be_used_is_refused(study, words, word):
    refuse(DATA, "--model=cnn", *words, match=word)


def test_folds_that_are_no_ensemble_are_refused(study):
    change_record("small_cnn_fold2", data={"class_names": ["a", "b"]})
    refuse(DATA, "--model=cnn", "--image=deer.bmp", match="a, b")


def test_a_provided_model_predicts_where_nothing_is_trained(study, capsys):
    refuse("--image=deer.bmp", match="MODEL")
    Path("pretrained").mkdir()
    for path in Path("checkpoints").glob("small_cnn_fold1.*"):
        shutil.copy(path, Path("pretrained", path.name.replace("small_cnn", "cnn_fast")))
    for words in ([], ["--model=cnn", "--arch=fast"]):
        before = contents()
        predict.main(["--image=deer.bmp", *words, "--out=out.csv"])
        said = capsys.readouterr().out
        assert "make cnn ARCH=fast" in said and "\ncnn_fast: 1 picture" in said
        assert contents().keys() - before <= {"out.csv", "imgs/cnn_fast_predict.png"}
        Path("out.csv").unlink()
    refuse("--image=deer.bmp", DATA, match="MODEL")
    refuse("--image=deer.bmp", "--model=cnn", match="make cnn")
    for path in Path("checkpoints").glob("small_cnn_fold1.*"):
        shutil.copy(path, Path("checkpoints", path.name.replace("small_cnn", "cnn_fast")))
    refuse("--image=deer.bmp", match="cnn_fast")  # there is one of one's own now
    predict.main(["--image=deer.bmp", "--model=cnn", "--arch=fast"])
    assert "pretrained" not in capsys.readouterr().out
