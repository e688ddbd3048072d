"""predict.py on small networks and pictures of every kind, against Keras, PIL and scikit-image by themselves."""

import csv
import hashlib
import json
import re
import shutil
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import CLASSES, ROOT
from matplotlib.image import imread
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import data
import predict
import runs
from util.cli import InputError

DATA = "--data=small.npz"


@pytest.fixture
def study(tiny_study, workdir):
    """A copy of the small study to work in, with pictures that are larger, grey, see-through and oddly named."""
    shutil.copytree(tiny_study, workdir, dirs_exist_ok=True)
    random = np.random.default_rng(0)
    for name, shape in {
        "photos/b.png": (32, 32, 3),
        "photos/deep/a.JPG": (64, 96, 3),
        "photos/deep/c.webp": (80, 40, 3),
        "a cat's [1].png": (50, 50),
        "deer.bmp": (20, 20, 3),
    }.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        low_resolution = random.integers(0, 256, (*(-(-side // 8) for side in shape[:2]), *shape[2:]), np.uint8)
        image = low_resolution.repeat(8, axis=0).repeat(8, axis=1)[: shape[0], : shape[1]]
        Image.fromarray(image).save(name, **{"lossless": True} if name.endswith("webp") else {})
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


def hashes():
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


def refuse(*words, match=""):
    """The script refuses these words, before anything is written."""
    before = hashes()
    with pytest.raises(InputError, match=match):
        predict.main([*words])
    assert hashes() == before


def assert_drawn(path):
    pixels = imread(path)[..., :3]
    assert 600 <= pixels.shape[1] <= 1200 and (pixels < 0.9).any(axis=2).mean() > 0.01
    assert all((edge == 1).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])), "it is cut off"


# --- What is predicted ----------------------------------------------------------------------------------------------


def test_the_three_likeliest_classes_are_those_of_the_mean_probability_of_the_folds(study, capsys):
    names = ["deer.bmp", "a cat's [1].png", "photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]
    Path("small.npz").unlink()  # predicting takes no data set
    before = hashes()
    predict.main([DATA, "--model=cnn", '--image=deer.bmp "a cat\'s [1].png" photos', "--out=new/predicted.csv"])
    said = capsys.readouterr().out
    assert {path: found for path, found in hashes().items() if path in before} == before
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
    assert_drawn("imgs/small_cnn_predict.png")


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
    for name, row, copy in zip(names, rows("quality.csv"), output("small_autoencoder_noaug", names), strict=True):
        original = prepared(name).astype(np.float32) / 255
        ratio = peak_signal_noise_ratio(original, copy, data_range=1)
        similarity = structural_similarity(original, copy, data_range=1, channel_axis=-1)
        assert row["file"] == name and row.keys() == {"file", "PSNR (dB)", "SSIM"}
        assert float(row["PSNR (dB)"]) == pytest.approx(ratio, rel=1e-4)
        assert float(row["SSIM"]) == pytest.approx(similarity, abs=1e-4)
        assert re.search(rf"\| {name} +\| {ratio:.3f} +\| {similarity:.3f} +\|\n", said)
    assert_drawn("imgs/small_autoencoder_noaug_predict.png")


def test_many_pictures_are_predicted_in_pieces_and_the_first_drawn(study, monkeypatch):
    drawn = []
    monkeypatch.setattr(predict.plots, "plot_pictures", lambda *given: drawn.append(given))
    for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)):
        Image.fromarray(image).save(f"photos/{number:02}.png")
    for chunk, name in ((500, "whole.csv"), (25, "pieces.csv")):
        monkeypatch.setattr(predict, "CHUNK", chunk)
        predict.main([DATA, "--model=cnn", "--image=photos/[0-9]*.png", f"--out={name}"])
    whole, pieces = rows("whole.csv"), rows("pieces.csv")
    assert [row["file"] for row in whole] == [f"photos/{number:02}.png" for number in range(30)]
    for one, other in zip(whole, pieces, strict=True):
        assert one["class 1"] == other["class 1"]
        assert float(one["probability 1"]) == pytest.approx(float(other["probability 1"]), abs=1e-6)
    for _, _, images, words in drawn:
        assert len(images) == len(words) == 24
        assert words[23] == f"{whole[23]['class 1']} ({float(whole[23]['probability 1']):.3f})"


@pytest.mark.parametrize("kind", ["turned", "transparent", "16 bits"])
def test_the_lines_of_the_documents_see_what_predict_sees(study, monkeypatch, capsys, kind):
    (code,) = re.findall(r"```python\n(import keras\n[^`]*)```", (ROOT / "docs/using.md").read_text(encoding="utf-8"))
    shutil.copy("checkpoints/small_cnn_fold1.keras", "checkpoints/cnn_fold1.keras")
    values = np.random.default_rng(0).integers(0, 256, (40, 60, 4), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter, as telephones do
    pictures = {"turned": values[..., :3], "transparent": values, "16 bits": values[..., 0].astype(np.uint16) * 257}
    Image.fromarray(pictures[kind]).save("cat.jpg", "PNG", exif=exif)
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
        ("photos", ["photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]),
        ("photos/ ./photos/b.png", ["photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]),
        ("photos/*.png", ["photos/b.png"]),
        ("photos/**/*.[Jw]*", ["photos/deep/a.JPG", "photos/deep/c.webp"]),
        ("deer.bmp photos/b.png deer.bmp", ["deer.bmp", "photos/b.png"]),
        ("a cat's [1].png", ["a cat's [1].png"]),
        (r"a\ cat\'s\ [1].png 'deer.bmp'", ["a cat's [1].png", "deer.bmp"]),
        ("a* ~/deer.bmp", ["a cat's [1].png", "/deer.bmp"]),
    ],
)
def test_files_folders_and_patterns(study, monkeypatch, text, names):
    monkeypatch.setenv("HOME", str(study))
    found = [str(path).removeprefix(str(study)) for path in data.named_pictures(text)]
    assert found == names


def test_folders_may_be_links_and_what_is_no_picture_is_counted(study, capsys):
    Path("linked").symlink_to("photos")
    Path("photos/cat.heic").write_text("none that is read")
    assert len(data.named_pictures("linked")) == 3
    said = capsys.readouterr().out
    assert "2 files" in said and "1 .heic" in said and "1 .txt" in said


def test_a_name_that_a_terminal_cannot_show_reaches_the_csv_as_it_is(study, capsys):
    name = b"photos/\x1b\xff.png".decode(errors="surrogateescape")
    shutil.copy("deer.bmp", name)
    predict.main([DATA, "--model=cnn", "--image=photos", "--out=out.csv"])
    assert r"| 'photos/\x1b\udcff.png' " in capsys.readouterr().out
    assert b"\r\nphotos/\x1b\xff.png," in Path("out.csv").read_bytes()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("gone.png deer.bmp none/*.jpg", r"gone\.png, none/\*\.jpg"),
        ("checkpoints", "checkpoints"),
        ("dog's.png", "quot"),
        (" ", "IMAGE"),
        ("broken.png photos", r"1 of 4 .*broken\.png"),
    ],
)
def test_a_picture_that_is_not_there_or_cannot_be_read_is_refused(study, text, word):
    refuse(DATA, "--model=cnn", f"--image={text}", "--out=out.csv", match=word)


# --- Which run ------------------------------------------------------------------------------------------------------


def change_record(stem, **changes):
    path = Path(f"checkpoints/{stem}.json")
    record = json.loads(path.read_text())
    for part, values in changes.items():
        record[part] |= values
    path.write_text(json.dumps(record | {"record_sha256": runs.record_sha256(record)}))


def test_cifar10_in_a_file_has_no_prefix_and_nothing_is_downloaded(study, monkeypatch, capsys):
    def download():
        raise AssertionError("this would have been downloaded for nothing")

    monkeypatch.setattr(data, "fetch_cifar10", download)
    for fold in (1, 2):
        change_record(f"small_cnn_fold{fold}", data={"source": "cifar10.npz"})
        for path in Path("checkpoints").glob(f"small_cnn_fold{fold}.*"):
            path.rename(path.with_name(path.name.removeprefix("small_")))
    for words in ([], ["--data=elsewhere/cifar10.npz"]):
        predict.main(["--model=cnn", "--image=deer.bmp", *words])
        assert "\ncnn: 1 picture, mean probability of 2 folds" in f"\n{capsys.readouterr().out}"
    refuse("--model=cnn", "--image=deer.bmp", "--data=other.npz", match="make cnn DATA=other.npz")


def test_a_run_of_the_same_name_on_other_data_does_not_answer(study):
    refuse("--data=Small.npz", "--model=cnn", "--image=deer.bmp", match=r"make cnn DATA=Small\.npz")


def test_classes_in_another_order_are_refused_naming_both(study):
    content = dict(np.load("small.npz"))
    np.savez("small.npz", **{**content, "class_names": content["class_names"][::-1]})
    refuse(DATA, "--model=cnn", "--image=deer.bmp", match=r"airplane, automobile, .* truck, ship")


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ("--image=deer.bmp", "MODEL"),
        ("--model=cnn --image=deer.bmp --name=mine", "make cnn DATA=small.npz NAME=mine"),
        ("--model=cnn --image=deer.bmp --arch=elu", "make cnn ARCH=elu DATA=small.npz"),
        ("--model=cnn --image=deer.bmp --noaug=1", "noaug"),
        ("--model=cnn --image=deer.bmp --out=small.npz", "OUT"),
        ("--model=autoencoder --noaug --image=deer.bmp --views=mirror", "VIEWS"),
    ],
)
def test_what_does_not_go_together_is_refused(study, words, word):
    refuse(DATA, *words.split(), match=word)


@pytest.mark.parametrize(
    ("changes", "word"), [({"settings": {"batch_size": 7}}, "BATCH"), ({"data": {"class_names": ["a", "b"]}}, "a, b")]
)
def test_folds_that_are_no_ensemble_are_refused(study, changes, word):
    change_record("small_cnn_fold2", **changes)
    refuse(DATA, "--model=cnn", "--image=deer.bmp", match=word)


def test_a_provided_model_predicts_where_nothing_is_trained(study, capsys):
    refuse("--image=deer.bmp", match="MODEL")
    Path("pretrained").mkdir()
    for path in Path("checkpoints").glob("small_cnn_fold1.*"):
        shutil.copy(path, Path("pretrained", path.name.replace("small_cnn", "cnn_fast")))
    for words in ([], ["--model=cnn", "--arch=fast"]):
        before = hashes()
        predict.main(["--image=deer.bmp", *words, "--out=out.csv"])
        said = capsys.readouterr().out
        assert "make cnn ARCH=fast" in said and "\ncnn_fast: 1 picture" in said
        assert hashes().keys() - before <= {Path("out.csv"), Path("imgs/cnn_fast_predict.png")}
        Path("out.csv").unlink()
    refuse("--image=deer.bmp", DATA, match="MODEL")
    refuse("--image=deer.bmp", "--model=cnn", match="make cnn")
    for path in Path("checkpoints").glob("small_cnn_fold1.*"):
        shutil.copy(path, Path("checkpoints", path.name.replace("small_cnn", "cnn_fast")))
    refuse("--image=deer.bmp", match="cnn_fast")  # there is one of one's own now
    predict.main(["--image=deer.bmp", "--model=cnn", "--arch=fast"])
    assert "pretrained" not in capsys.readouterr().out
