"""predict.py on small networks and pictures of every kind, against Keras, PIL and scikit-image by themselves."""

import csv
import hashlib
import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
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
from util import cli
from util.cli import InputError

DATA = "DATA=small.npz"


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
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC, box))


def output(stem, paths):
    return keras.saving.load_model(f"checkpoints/{stem}.keras").predict_on_batch(np.stack(list(map(prepared, paths))))


def rows(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def hashes():
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


def refusal(*words):
    """The sentence by which the script refuses these words, before anything is written."""
    before = hashes()
    with pytest.raises(InputError) as refused:
        predict.main([*words])
    assert hashes() == before
    return str(refused.value)


def assert_drawn(path):
    pixels = imread(path)[..., :3]
    assert 600 <= pixels.shape[1] <= 1200 and (pixels < 0.9).any(axis=2).mean() > 0.01
    assert all((edge == 1).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])), "it is cut off"


# --- What is predicted ----------------------------------------------------------------------------------------------


def test_the_three_likeliest_classes_are_those_of_the_mean_probability_of_the_folds(study, capsys):
    names = ["deer.bmp", "a cat's [1].png", "photos/b.png", "photos/deep/a.JPG", "photos/deep/c.webp"]
    Path("small.npz").unlink()  # predicting takes no data set
    before = hashes()
    predict.main([DATA, "MODEL=cnn", 'IMAGE=deer.bmp "a cat\'s [1].png" photos', "OUT=new/predicted.csv"])
    said = capsys.readouterr().out
    assert {path: found for path, found in hashes().items() if path in before} == before
    assert "small_cnn: 5 pictures, mean probability of 2 folds (1, 2)\n" in said
    assert said.endswith("imgs/small_cnn_predict.png and new/predicted.csv are written\n")

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


def test_an_autoencoder_gives_reconstructions_with_their_quality(study, capsys):
    names = ["photos/b.png", "photos/deep/c.webp"]
    predict.main([DATA, "MODEL=autoencoder", "NOAUG=1", f"IMAGE={' '.join(names)}", "OUT=quality.csv"])
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


def test_many_pictures_are_predicted_in_pieces_and_the_first_drawn(study, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(predict.plots, "plot_pictures", lambda *given: drawn.append(given))
    for number, image in enumerate(np.random.default_rng(1).integers(0, 256, (30, 32, 32, 3), np.uint8)):
        Image.fromarray(image).save(f"photos/{number:02}.png")
    for chunk, name in ((500, "whole.csv"), (25, "pieces.csv")):
        monkeypatch.setattr(predict, "CHUNK", chunk)
        predict.main([DATA, "MODEL=cnn", "IMAGE=photos/[0-9]*.png", f"OUT={name}"])
    whole, pieces = rows("whole.csv"), rows("pieces.csv")
    assert [row["file"] for row in whole] == [f"photos/{number:02}.png" for number in range(30)]
    for one, other in zip(whole, pieces, strict=True):
        assert one["class 1"] == other["class 1"]
        assert float(one["probability 1"]) == pytest.approx(float(other["probability 1"]), abs=1e-6)
    for _, _, images, words in drawn:
        assert len(images) == len(words) == 24
        assert words[23] == f"{whole[23]['class 1']} ({float(whole[23]['probability 1']):.3f})"
    assert capsys.readouterr().err == ""  # where no terminal is, no bar


def test_a_terminal_sees_a_bar(study, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    data.read_pictures(list(Path("photos").glob("[!.]*.png")), (32, 32))
    assert "reading pictures:   0%" in terminal.getvalue() and " 0/1 " in terminal.getvalue()


def test_of_two_classes_there_are_no_three():
    assert predict.likeliest(np.array([[0.25, 0.75]]), ["cat", "dog"]) == [
        {"class 1": "dog", "probability 1": 0.75, "class 2": "cat", "probability 2": 0.25}
    ]


def test_the_three_lines_of_the_readme_give_a_fold_s_probabilities(study):
    (code,) = re.findall(r"```python\n(import keras\n[^`]*)```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(code.replace("\n\n", "\n").splitlines()) == 3
    for fold in (1, 2):
        shutil.copy(f"checkpoints/small_cnn_fold{fold}.keras", f"checkpoints/cnn_fold{fold}.keras")
    shutil.copy("photos/deep/a.JPG", "cat.jpg")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    printed = np.array(re.findall(r"\d\.\d+(?:e-\d+)?", result.stdout.partition("[[")[2]), float)
    np.testing.assert_allclose(printed, output("small_cnn_fold1", ["cat.jpg"])[0], atol=1e-5)


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


def test_a_name_that_a_terminal_cannot_show_reaches_the_csv_as_it_is(study, capsys):
    name = b"photos/\x1b\xff.png".decode(errors="surrogateescape")
    shutil.copy("deer.bmp", name)
    predict.main([DATA, "MODEL=cnn", "IMAGE=photos", "OUT=out.csv"])
    assert r"| 'photos/\x1b\udcff.png' " in capsys.readouterr().out
    assert b"\r\nphotos/\x1b\xff.png," in Path("out.csv").read_bytes()


def test_what_cannot_be_read_is_named_all_of_it(study):
    Path("photos/d.png").write_bytes(Path("photos/b.png").read_bytes()[:-50])
    said = refusal(DATA, "MODEL=cnn", "IMAGE=broken.png photos", "OUT=out.csv")
    assert re.fullmatch(
        r"2 of 5 pictures cannot be read; mend or remove them: broken\.png \(.+\), photos/d\.png \(.+\)", said
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "gone.png deer.bmp none/*.jpg",
            "IMAGE: there is no picture gone.png, none/*.jpg; name files, folders with .b",
        ),
        ("checkpoints", "IMAGE: there is no picture checkpoints; name files, folders with .bmp, .gif, "),
        ("dog's.png", 'IMAGE: "dog\'s.png" is no list of names (No closing quotation); quote those that have a space'),
        (" ", "IMAGE: there is no picture ; name files"),
        ("", "IMAGE: an empty text is no path; "),
    ],
)
def test_a_picture_that_is_not_there_is_refused(study, text, sentence):
    assert refusal(DATA, "MODEL=cnn", f"IMAGE={text}").startswith(sentence)


# --- Which run ------------------------------------------------------------------------------------------------------


def test_cifar10_in_a_file_has_no_prefix_and_nothing_is_downloaded(study, monkeypatch, capsys):
    def download():
        raise AssertionError("this would have been downloaded for nothing")

    monkeypatch.setattr(data, "fetch_cifar10", download)
    for fold in (1, 2):
        record = json.loads(Path(f"checkpoints/small_cnn_fold{fold}.json").read_text())
        record = {**record, "data": {**record["data"], "source": "cifar10.npz"}, "record_sha256": None}
        Path(f"checkpoints/cnn_fold{fold}.json").write_text(json.dumps(record))
        Path(f"checkpoints/small_cnn_fold{fold}.keras").rename(f"checkpoints/cnn_fold{fold}.keras")
    for words in ([], ["DATA=elsewhere/cifar10.npz"]):
        predict.main(["MODEL=cnn", "IMAGE=deer.bmp", *words])
        assert "\ncnn: 1 picture, mean probability of 2 folds" in f"\n{capsys.readouterr().out}"
    said = refusal("MODEL=cnn", "IMAGE=deer.bmp", "DATA=other.npz")
    assert said == "there is no finished training of other_cnn in checkpoints: run `make cnn DATA=other.npz`"


def test_a_run_that_is_missing_or_was_killed_is_refused_with_its_command(study):
    Path("checkpoints/small_cnn_mine_fold1.state").touch()
    for words, command in (
        (["NAME=mine"], "cnn DATA=small.npz NAME=mine"),
        (["ARCH=elu"], "cnn ARCH=elu DATA=small.n"),
    ):
        assert f"checkpoints: run `make {command}" in refusal(DATA, "MODEL=cnn", "IMAGE=deer.bmp", *words)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("MODEL=cnn", "the following arguments are required: --image; "),
        ("IMAGE=deer.bmp", "the following arguments are required: --model; "),
        ("MODEL=cnn IMAGE=deer.bmp NOAUG=1", "--noaug and --target choose an autoencoder, and a cnn has none"),
        (
            "MODEL=cnn IMAGE=deer.bmp ENCODER=tuned",
            "--encoder chooses among classifiers on an autoencoder, cnn is none",
        ),
        ("MODEL=cnn IMAGE=deer.bmp ARCH=resnet", "ARCH=resnet is no network of cnn; "),
        (
            "MODEL=cnn IMAGE=deer.bmp OUT=small.npz",
            "OUT: 'small.npz' is there already; choose another file, or remove it",
        ),
        ("MODEL=cnn IMAGE=deer.bmp EPOCHS=3", "it does not take EPOCHS; it takes "),
    ],
)
def test_what_does_not_go_together_is_refused(study, words, sentence):
    assert refusal(DATA, *words.split()).startswith(sentence)


def test_folds_of_other_settings_are_no_ensemble(study):
    path = Path("checkpoints/small_cnn_fold2.json")
    record = json.loads(path.read_text())
    record = {**record, "settings": {**record["settings"], "batch_size": 7}, "record_sha256": None}
    path.write_text(json.dumps(record))
    assert "are no folds of one study (BATCH 128 and 7): " in refusal(DATA, "MODEL=cnn", "IMAGE=deer.bmp")


def test_a_damaged_fold_is_refused(study):
    path = Path("checkpoints/small_cnn_fold2.keras")
    path.write_bytes(path.read_bytes()[:-100])
    assert "small_cnn_fold2.keras and its record" in refusal(DATA, "MODEL=cnn", "IMAGE=deer.bmp")


@pytest.mark.parametrize(("words", "status"), [("IMAGE=gone.png", 2), ("IMAGE=deer.bmp OUT=/proc/none/out.csv", 1)])
def test_a_refusal_is_one_line_with_its_status(study, monkeypatch, capsys, words, status):
    monkeypatch.setattr(sys, "argv", ["predict.py", DATA, "MODEL=cnn", *shlex.split(words)])
    with pytest.raises(SystemExit) as end:
        cli.run(importlib.import_module("predict").main)
    assert end.value.code == status
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("predict.py: ") and printed.err.count("\n") == 1
