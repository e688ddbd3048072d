"""The real thing through make, in a copy of the project: small here, and the whole demo among the long tests."""

import json
import re

import pytest
from conftest import ROOT, copy_project, files_of_autoencoder, files_of_classifier, make

import recipes

CODE = (ROOT / "docs/code.md").read_text(encoding="utf-8")


@pytest.fixture
def project(tmp_path):
    return copy_project(tmp_path / "a project")


def typed(project, *arguments, timeout):
    """Run make with the packages of this Python; returns what it printed."""
    result = make(project, *arguments, timeout=timeout)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def visible(folder):
    return {path.name for path in folder.glob("[!.]*")}


def test_an_autoencoder_then_a_classifier_on_it(project, npz):
    knobs = ("NOAUG=1", "EPOCHS=1", "BATCH=64", f"DATA={npz}")
    typed(project, "ae", *knobs, timeout=200)
    checkpoints, images = files_of_autoencoder("small_autoencoder_noaug")
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images
    autoencoder = project / "checkpoints/small_autoencoder_noaug.keras"
    before = autoencoder.stat()

    said = typed(project, "ae_cls", "FOLDS=1", *knobs, timeout=200)
    assert "small_autoencoder_noaug.keras is there and was trained on these images: it is used\n" in said
    after = autoencoder.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    more_checkpoints, more_images = files_of_classifier("small_autoencoder_cls_noaug", [1])
    assert visible(project / "checkpoints") == checkpoints | more_checkpoints
    assert visible(project / "imgs") == images | more_images | {"small_distribution.png", "small_samples.png"}
    records = [json.loads(path.read_text()) for path in sorted((project / "checkpoints").glob("*.json"))]
    assert [record["settings"]["model"] for record in records] == ["autoencoder_cls", "autoencoder"]
    assert records[0]["settings"]["encoder_sha256"] == records[1]["checkpoint_sha256"]
    assert all(record["settings"]["batch_size"] == 64 for record in records)


@pytest.mark.long
def test_controls_and_their_comparison(project, npz):
    knobs = ("FOLDS=1", "EPOCHS=1", "BATCH=64", f"DATA={npz}")
    typed(project, "cnn", *knobs, timeout=200)
    for encoder in ("scratch", "random"):
        typed(project, "ae_cls", f"ENCODER={encoder}", *knobs, timeout=200)
    assert not list((project / "checkpoints").glob("small_autoencoder.*"))
    typed(project, "mod_ae_cls", "ENCODER=tuned", *knobs, timeout=400)
    typed(project, "mod_ae_cls", "ENCODER=scratch", *knobs, timeout=200)
    names = ["cnn", "autoencoder_cls_scratch", "autoencoder_cls_random"]
    names += ["mod_autoencoder_cls_tuned", "mod_autoencoder_cls_scratch"]
    records = {}
    for name in names:
        records[name] = json.loads((project / f"checkpoints/small_{name}_fold1.json").read_text())
    trainable = {name: record["trainable_parameters"] for name, record in records.items()}
    assert trainable["autoencoder_cls_random"] == 1_826_634 < trainable["autoencoder_cls_scratch"]
    assert trainable["mod_autoencoder_cls_tuned"] == trainable["mod_autoencoder_cls_scratch"] > 8_422_602

    said = typed(project, "compare", timeout=100)
    found = json.loads((project / "imgs/small_comparison.json").read_text())
    assert found["runs"].keys() == {f"small_{name}" for name in names}
    pairs = {row["run"]: row["baseline"] for row in found["comparisons"]}
    assert pairs == {
        "small_autoencoder_cls_random": "small_autoencoder_cls_scratch",
        "small_autoencoder_cls_scratch": "small_cnn",
        "small_mod_autoencoder_cls_scratch": "small_cnn",
        "small_mod_autoencoder_cls_tuned": "small_mod_autoencoder_cls_scratch",
    }
    assert found["text"] in said


@pytest.mark.long
@pytest.mark.parametrize("arch", recipes.ARCHS["cnn"])
def test_every_network_trains_and_is_evaluated_on_digits(project, arch):
    epochs = {"fast": 18, "elu": 25, "leaky": 6, "pool3": 10, "wide5": 6, "dropout": 2}[arch]
    typed(project, "cnn", f"ARCH={arch}", f"EPOCHS={epochs}", "DATA=digits", timeout=900)
    folds = [1, 2, 3, 4, 5] if arch == "fast" else [1]  # a document's network has a split of its own
    checkpoints, images = files_of_classifier(f"digits_cnn_{arch}", folds)
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images | {f"digits_{plot}_{arch}.png" for plot in ("distribution", "samples")}
    report = json.loads((project / f"imgs/digits_cnn_{arch}_report.json").read_text())
    settings, own = report["folds"]["1"]["record"]["settings"], recipes.RECIPES[f"cnn_{arch}"].settings.model_dump()
    for name in ("split", "val", "optimizer", "learning_rate", "batch_size", "balanced", "schedule", "monitor"):
        assert settings[name] == own[name]
    assert settings["reduced"] == ([2, 4, 9] if arch == "fast" else [])
    assert report["summary"]["accuracy"]["mean"] > {"fast": 0.97, "dropout": 0.09}.get(arch, 0.8)


@pytest.mark.long
def test_the_convolutional_autoencoder_and_the_classifier_on_it_on_digits(project):
    """As one would repeat the document: the autoencoder on demand, then another classifier from an edited record."""
    typed(project, "ae_cls", "ARCH=cae", "EPOCHS=15", "DATA=digits", "NAME=a", timeout=900)
    checkpoints, images = files_of_classifier("digits_autoencoder_cls_cae_a", [1])
    autoencoder = "digits_autoencoder_cae_a"
    assert visible(project / "checkpoints") == checkpoints | {f"{autoencoder}.keras", f"{autoencoder}.json"}
    assert visible(project / "imgs") == images | {"digits_distribution_cae_a.png", "digits_samples_cae_a.png"}
    report = json.loads((project / "imgs/digits_autoencoder_cls_cae_a_report.json").read_text())
    assert report["summary"]["accuracy"]["mean"] > 0.8
    trained = json.loads((project / f"checkpoints/{autoencoder}.json").read_text())
    assert (len(trained["history"]["loss"]), trained["parameters"]) == (50, 725_059)
    typed(project, "test-eval", "MODEL=autoencoder", "ARCH=cae", "DATA=digits", "NAME=a", timeout=100)
    assert visible(project / "imgs") == images | files_of_autoencoder(autoencoder)[1] | {
        "digits_distribution_cae_a.png",
        "digits_samples_cae_a.png",
    }

    record = json.loads((project / "checkpoints/digits_autoencoder_cls_cae_a_fold1.json").read_text())
    edited = {**record["settings"], "class_weights": True, "optimizer": "sgd"}
    edited["network"] |= {"pooling": "average", "dense": False}
    (project / "my settings.json").write_text(json.dumps(edited))
    knobs = ("ARCH=cae", "CONFIG=my settings.json", "EPOCHS=1", "DATA=digits")
    assert "class_weights False there, True now" in make(project, "ae_cls", "NAME=a", *knobs, timeout=100).stderr
    typed(project, "ae_cls", "NAME=a", "FORCE=1", *knobs, timeout=100)
    again = json.loads((project / "checkpoints/digits_autoencoder_cls_cae_a_fold1.json").read_text())
    assert again["settings"] == {**edited, "epochs": 1}


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
    typed(project, "cnn", "ARCH=small", "DATA=digits", "FOLDS=1 2", "EPOCHS=1", timeout=200)
    record = json.loads((project / "checkpoints/digits_cnn_small_fold2.json").read_text())
    assert record["settings"].items() >= {"model": "cnn_small", "batch_size": 64, "balanced": True}.items()
    assert "  ARCH       another network" in typed(project, "help", timeout=20)
    typed(project, "cnn", "DATA=digits", "FOLDS=1 2", "EPOCHS=1", "BATCH=64", timeout=200)
    assert "digits_cnn_small minus digits_cnn |" in typed(project, "compare", timeout=100)


@pytest.mark.long
def test_demo(project):
    said = typed(project, "demo", timeout=1500)
    assert said.splitlines()[-1].startswith("Done: reports and plots are in imgs/digits_")
    checkpoints, images = files_of_autoencoder("digits_autoencoder_noaug_demo")
    for name in ("cnn_demo", "autoencoder_cls_noaug_demo"):
        more = files_of_classifier(f"digits_{name}", [1, 2])
        checkpoints, images = checkpoints | more[0], images | more[1]
    assert visible(project / "checkpoints") == checkpoints
    assert visible(project / "imgs") == images | {"digits_distribution_demo.png", "digits_samples_demo.png"}
    report = json.loads((project / "imgs/digits_cnn_demo_report.json").read_text())
    assert len(report["folds"]) == 2
    assert report["summary"]["accuracy"]["mean"] >= 0.95
