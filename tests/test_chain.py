"""The real thing through make, in a copy of the project: with tiny networks here, and whole among the long tests."""

import json
import re

import pytest
from conftest import ROOT, copy_project, files_of_autoencoder, files_of_classifier, make

import recipes

CODE = (ROOT / "docs/code.md").read_text(encoding="utf-8")
# Networks of a thousand parameters in place of the study's, at the end of a copy of recipes.py.
TINY = """
from util.backend import layers

def tiny_encoder(x):
    x = layers.Conv2D(4, 3, strides=4, padding="same", name="block1_conv1")(x)
    return layers.BatchNormalization(name="block1_norm1")(x)

def tiny_autoencoder(x, classes):
    return layers.Conv2DTranspose(3, 4, strides=4, activation="sigmoid", name="reconstruction")(tiny_encoder(x))

def tiny_classifier(x, classes):
    x = layers.Flatten(name="flatten")(tiny_encoder(x))
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)

for name, build in (("autoencoder", tiny_autoencoder), ("autoencoder_cls", tiny_classifier)):
    end = "block1_norm1" if name.endswith("cls") else None
    RECIPES[name] = dataclasses.replace(RECIPES[name], build=build, frozen_until=end, encoder_end=end)
"""


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "a project")


def typed(project, *arguments, timeout=900):
    """Run make with the packages of this Python; returns what it printed."""
    result = make(project, *arguments, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def visible(folder):
    return {path.name for path in folder.glob("[!.]*")}


def read(path):
    return json.loads(path.read_text())


@pytest.mark.system
def test_from_the_autoencoder_to_the_page(project, npz):
    with open(project / "recipes.py", "a") as file:
        file.write(TINY)
    of_all = (f"DATA={npz}", "EPOCHS=1", "BATCH=64")
    typed(project, "ae", "NOAUG=1", *of_all)
    autoencoder = "small_autoencoder_noaug"
    before = (project / f"checkpoints/{autoencoder}.keras").stat()

    typed(project, "ae_cls", "NOAUG=1", "FOLDS=1 2", "VIEWS=mirror", *of_all)
    after = (project / f"checkpoints/{autoencoder}.keras").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)  # it is taken, not trained again
    run = "small_autoencoder_cls_noaug"
    records = [read(project / f"checkpoints/{stem}.json") for stem in (f"{run}_fold2", autoencoder)]
    assert records[0]["settings"]["encoder_sha256"] == records[1]["checkpoint_sha256"]
    assert records[0]["taken"] == records[0]["frozen"] == ["block1_conv1", "block1_norm1"]
    assert read(project / f"imgs/{run}_report.json")["folds"]["2"]["views"].keys() == {"mirror"}

    typed(project, "ae_cls", "ENCODER=scratch", "FOLDS=1 2", *of_all)
    expected = [files_of_autoencoder(autoencoder)]
    expected += [files_of_classifier(name, (1, 2)) for name in (run, "small_autoencoder_cls_scratch")]
    checkpoints, images = (set().union(*names) for names in zip(*expected, strict=True))
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images | {"small_distribution.png", "small_samples.png"}

    typed(project, "compare")
    (row,) = read(project / "imgs/small_comparison.json")["comparisons"]
    assert (row["run"], row["baseline"], row["control"]) == (run, "small_autoencoder_cls_scratch", True)
    typed(project, "report")
    page = (project / "imgs/report.html").read_text()
    assert run in page and "small_comparison" in page and "Damaged files" not in page


@pytest.mark.long
@pytest.mark.parametrize("arch", recipes.ARCHS["cnn"])
def test_every_network_trains_and_is_evaluated_on_digits(project, arch):
    epochs = {"fast": 18, "elu": 25, "leaky": 6, "pool3": 10, "wide5": 6, "dropout": 2}[arch]
    typed(project, "cnn", f"ARCH={arch}", f"EPOCHS={epochs}", "DATA=digits", timeout=900)
    folds = [1, 2, 3, 4, 5] if arch == "fast" else [1]  # a document's network has a split of its own
    checkpoints, images = files_of_classifier(f"digits_cnn_{arch}", folds)
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images | {f"digits_{plot}_{arch}.png" for plot in ("distribution", "samples")}
    report = read(project / f"imgs/digits_cnn_{arch}_report.json")
    assert report["summary"]["accuracy"]["mean"] > {"fast": 0.97, "dropout": 0.09}.get(arch, 0.8)


def insert(path, place, text):
    """Put `text` in place of `place`, which the file has once."""
    content = path.read_text()
    assert content.count(place) == 1
    path.write_text(content.replace(place, text))


@pytest.mark.long
def test_a_network_of_ones_own_is_what_the_document_says(project):
    builder, row, *_ = re.findall(r"```python\n(.*?)```\n", CODE, re.DOTALL)
    assert builder.startswith("def build_small(x, classes):\n") and row.startswith('    "cnn_small": row(')
    insert(project / "common.py", "def build_cnn(", f"{builder}\n\ndef build_cnn(")
    insert(project / "recipes.py", "RECIPES = {\n", f"RECIPES = {{\n{row}")
    typed(project, "cnn", "ARCH=small", "DATA=digits", "FOLDS=1 2", "EPOCHS=1")
    settings = read(project / "checkpoints/digits_cnn_small_fold2.json")["settings"]
    assert settings.items() >= {"model": "cnn_small", "batch_size": 64, "balanced": True}.items()
    typed(project, "cnn", "DATA=digits", "FOLDS=1 2", "EPOCHS=1", "BATCH=64")
    assert "digits_cnn_small" in typed(project, "compare")


@pytest.mark.long
def test_demo(project):
    typed(project, "demo", timeout=1500)
    expected = [files_of_autoencoder("digits_autoencoder_noaug_demo")]
    expected += [files_of_classifier(f"digits_{name}", [1, 2]) for name in ("cnn_demo", "autoencoder_cls_noaug_demo")]
    checkpoints, images = (set().union(*names) for names in zip(*expected, strict=True))
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images | {"digits_distribution_demo.png", "digits_samples_demo.png"}
    assert read(project / "imgs/digits_cnn_demo_report.json")["summary"]["accuracy"]["mean"] >= 0.95
