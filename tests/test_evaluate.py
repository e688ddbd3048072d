"""evaluate.py on a tiny finished study: what it writes, every figure computed again, and what it refuses."""

import contextlib
import hashlib
import json
import re
import shutil
import statistics
import zipfile
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import CLASSES, change_record, contents, files_of_autoencoder, files_of_classifier, tiny_rows
from matplotlib.image import imread
from sklearn import metrics

import common
import data
import evaluate
import train_cnn
from util.cli import InputError, RunFailed

CNN, TURNS, AUTOENCODER = "small_cnn", "small_cnn_turns", "small_autoencoder_noaug"


def call(*words, source="small.npz"):
    evaluate.main(["--data", source, *" ".join(words).split()])


def read(path):
    def refuse(word):
        pytest.fail(f"{path} holds {word}, which is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


def report(name):
    return read(f"imgs/{name}_report.json")


def predictions(stem):
    with np.load(f"checkpoints/{stem}_predictions.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def evaluated(tiny_study, tmp_path_factory):
    """A folder in which two folds of a CNN (with views), a CNN of TASK=turns and an autoencoder are evaluated."""
    folder = shutil.copytree(tiny_study, tmp_path_factory.mktemp("evaluated") / "study")
    with contextlib.chdir(folder), tiny_rows():
        train_cnn.main(["--data", "small.npz", "--task", "turns", "--name", "turns"])
        call("--model cnn --views six")
        call("--model cnn --name turns")
        call("--model autoencoder --noaug --batch-size 7")
    return folder


@pytest.fixture
def study(evaluated, monkeypatch):
    """From inside that folder, for tests that change nothing there: the test pictures and their labels."""
    monkeypatch.chdir(evaluated)
    with np.load("small.npz") as file:
        return SimpleNamespace(pictures=file["x_test"], labels=file["y_test"])


@pytest.fixture
def copy(tiny_study, workdir):
    """A copy of the study before its evaluation, to change."""
    shutil.copytree(tiny_study, workdir, dirs_exist_ok=True)
    return workdir


def change_data(**changed):
    """Change arrays of the data set, each by a function."""
    with np.load("small.npz") as file:
        arrays = dict(file)
    np.savez("small.npz", **arrays | {name: change(arrays[name]) for name, change in changed.items()})


# --- What it writes -------------------------------------------------------------------------------------------------


def test_files_are_those_of_the_design_and_no_others(study):
    expected = [files_of_autoencoder(AUTOENCODER), files_of_classifier(CNN, (1, 2)), files_of_classifier(TURNS, (1,))]
    checkpoints, images = (set().union(*names) for names in zip(*expected, strict=True))
    assert {path.name for path in Path("checkpoints").glob("[!.]*")} == checkpoints
    assert {path.name for path in Path("imgs").iterdir()} == images | {"small_distribution.png", "small_samples.png"}


def test_plots_are_of_a_readmes_width_not_blank_and_nothing_is_cut_off(study):
    for path in Path("imgs").glob("*.png"):
        pixels = imread(path)[..., :3]
        height, width, _ = pixels.shape
        assert 600 <= width <= 1200 and 200 <= height <= 1000, path
        assert (pixels < 0.9).any(axis=2).mean() > 0.01, f"{path} is blank"
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 1).all() for edge in edges), f"{path} is cut off"


def test_the_table_of_layers_has_each_layer_marks_the_frozen_ones_and_counts_parameters(tiny_study, workdir):
    model = keras.saving.load_model(tiny_study / f"checkpoints/{CNN}_fold1.keras")
    frozen = common.freeze(model, "norm")
    evaluate.write_architecture("a", model)
    _, *lines, _, total = Path("imgs/a_architecture.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [layer.name for layer in model.layers]
    assert [line.split()[0] for line in lines if line.endswith("frozen")] == frozen
    assert f"{model.count_params():,} parameters" in total


@pytest.mark.parametrize("stem", [f"{CNN}_fold1", AUTOENCODER])
def test_a_finished_file_is_made_of_stock_keras_layers_in_float32(study, stem):
    with zipfile.ZipFile(f"checkpoints/{stem}.keras") as file:
        text = file.read("config.json").decode()
    assert {module.split(".")[0] for module in re.findall(r'"module": "([^"]+)"', text)} == {"keras"}
    assert not re.search(r'"registered_name": "(?!Functional")', text)
    assert set(re.findall(r'"DTypePolicy", "config": {"name": "(\w+)"}', text)) == {"float32"}


# --- Figures --------------------------------------------------------------------------------------------------------


def assert_figures(found, labels, probabilities, class_names=CLASSES):
    """Figures in a report's JSON are METRICS, which test_metrics.py tests, and the confusion matrix."""
    for key, metric in common.METRICS.items():
        values = [*found[key].values()] if metric.per_class else found[key]
        assert values == pytest.approx(metric.of(labels, probabilities), rel=1e-4)
    assert [*found["recall"]] == list(class_names)
    predicted = probabilities.argmax(axis=1)
    assert np.array_equal(found["confusion"], metrics.confusion_matrix(labels, predicted))
    assert found["predicted"].split() == [str(number) for number in predicted]


def test_figures_and_text_are_those_of_the_finished_models_on_the_test_pictures(study):
    found, text, every = report(CNN), Path(f"imgs/{CNN}_report.txt").read_text(), []
    assert found["data"] == {"source": "small.npz", "prefix": "small", "test_images": 50} | {
        "test_sha256": hashlib.sha256(study.pictures.tobytes() + study.labels.astype(np.int64).tobytes()).hexdigest()
    }
    assert found["labels"].split() == [str(number) for number in study.labels]
    for fold in (1, 2):
        stem = f"{CNN}_fold{fold}"
        probabilities = keras.saving.load_model(f"checkpoints/{stem}.keras").predict_on_batch(study.pictures)
        np.testing.assert_allclose(predictions(stem)["probabilities"], probabilities, atol=1e-5)
        assert np.array_equal(predictions(stem)["labels"], study.labels)
        every.append(predictions(stem)["probabilities"])
        assert_figures(found["folds"][str(fold)], study.labels, every[-1])
        assert found["folds"][str(fold)]["record"] == read(f"checkpoints/{stem}.json")
        predicted = every[-1].argmax(axis=1)
        said = metrics.classification_report(study.labels, predicted, target_names=CLASSES, zero_division=0)
        assert f"Kfold Iteration:{fold}\n{said}\n" in text
    assert_figures(found["ensemble"], study.labels, (every[0].astype(float) + every[1]) / 2)
    assert f"accuracy {found['ensemble']['accuracy']:.4f}, macro F1 {found['ensemble']['macro_f1']:.4f}\n" in text


def test_the_summary_is_mean_and_sample_standard_deviation_over_folds(study):
    found, text = report(CNN), Path(f"imgs/{CNN}_report.txt").read_text()
    folds = found["folds"].values()
    values = {"accuracy": [fold["accuracy"] for fold in folds], "macro F1": [fold["macro_f1"] for fold in folds]}
    values["calibration error"] = [fold["calibration_error"] for fold in folds]
    values |= {f"recall {name}": [fold["recall"][name] for fold in folds] for name in ("bird", "deer", "truck")}
    assert found["summary"].keys() == values.keys()
    for title, (one, two) in values.items():
        mean, std = (one + two) / 2, statistics.stdev((one, two))
        assert found["summary"][title] == pytest.approx({"mean": mean, "std": std})
        assert re.search(rf"^{title} +{mean:.4f} ± {std:.4f}$", text, re.MULTILINE)
    alone = report(TURNS)
    assert alone["summary"]["accuracy"]["std"] is None and "ensemble" not in alone  # of one fold
    assert "views" not in alone["folds"]["1"]


def test_of_task_turns_the_pictures_are_turned_and_the_turns_are_told(study):
    quarters = np.arange(50) % 4
    turned = np.stack([np.rot90(picture, quarter) for picture, quarter in zip(study.pictures, quarters, strict=True)])
    probabilities = keras.saving.load_model(f"checkpoints/{TURNS}_fold1.keras").predict_on_batch(turned)
    np.testing.assert_allclose(predictions(f"{TURNS}_fold1")["probabilities"], probabilities, atol=1e-5)
    fold = report(TURNS)["folds"]["1"]
    assert_figures(fold, quarters, probabilities, ["0 degrees", "90 degrees", "180 degrees", "270 degrees"])


def test_an_autoencoder_s_figures_are_quality_over_all_test_pictures(study):
    copies = keras.saving.load_model(f"checkpoints/{AUTOENCODER}.keras").predict_on_batch(study.pictures)
    summary = report(AUTOENCODER)["summary"]
    assert summary.keys() == common.QUALITY.keys()
    for title, of in common.QUALITY.items():
        values = of(study.pictures.astype(np.float32) / 255, copies)
        assert summary[title] == pytest.approx({"mean": np.mean(values), "std": np.std(values, ddof=1)}, rel=1e-3)


# --- Views ----------------------------------------------------------------------------------------------------------


def views_by_hand(picture, kind):
    """A picture (height, width, channels) as every view shows it: shifted, the row beside the edge comes in again."""
    rows, columns = (range(size) for size in picture.shape[:2])
    up, down = picture[[*rows[1:], -2]][:, [*columns[1:], -2]], picture[[1, *rows[:-1]]][:, [1, *columns[:-1]]]
    seen = [picture, up, down] if kind == "six" else [picture]
    return seen if kind == "one" else [view for one in seen for view in (one, one[:, ::-1])]


@pytest.mark.parametrize(("kind", "count"), [("one", 1), ("mirror", 2), ("six", 6)])
def test_views_are_those_of_a_plain_loop(kind, count):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 3), np.uint8)
    found = common.views(pictures, kind)
    assert len(found) == count and all(view.dtype == np.uint8 for view in found)
    for number, picture in enumerate(pictures):
        assert np.array_equal([view[number] for view in found], views_by_hand(picture, kind))


def test_figures_with_views_stand_beside_the_plain_ones(study):
    found, text, every = report(CNN), Path(f"imgs/{CNN}_report.txt").read_text(), []
    for fold in (1, 2):
        model = keras.saving.load_model(f"checkpoints/{CNN}_fold{fold}.keras")
        seen = zip(*(views_by_hand(picture, "six") for picture in study.pictures), strict=True)
        every.append(np.mean([model.predict_on_batch(np.stack(view)) for view in seen], axis=0))
        assert_figures(found["folds"][str(fold)]["views"]["six"], study.labels, every[-1])
    assert_figures(found["ensemble"]["views"]["six"], study.labels, np.mean(every, axis=0))
    accuracies = [(probabilities.argmax(axis=1) == study.labels).mean() for probabilities in every]
    said = f"accuracy {np.mean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f}"
    ensemble = found["ensemble"]["views"]["six"]["accuracy"]
    assert text.splitlines()[-1].startswith("with VIEWS=six") and f"{said}, ensemble {ensemble:.4f}" in text


# --- What is refused and noted --------------------------------------------------------------------------------------


def take_encoders(*sources):
    for fold, source in enumerate(sources, 1):
        change_record(f"{CNN}_fold{fold}", settings={"encoder_sha256": str(fold)}, encoder_from=source)


@pytest.mark.parametrize(
    ("words", "change", "word"),
    [
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", settings={"epochs": 7}), "EPOCHS"),
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", settings={"kept_sha256": "0"}), "other images"),
        ("--model cnn", lambda: take_encoders("other_fold1", "other_fold3"), "another autoencoder"),
        ("--model cnn", lambda: change_data(x_train=lambda pictures: pictures ^ 1), "other pictures"),
        ("--model cnn", lambda: change_data(y_test=lambda labels: np.where(labels == 7, 6, labels)), "horse"),
        ("--model autoencoder --noaug --views six", lambda: None, "VIEWS"),
        ("--model mod_autoencoder_cls --noaug", lambda: None, "make mod_ae_cls DATA=small.npz NOAUG=1"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_anything_is_written(copy, words, change, word):
    change()
    before = contents()
    with pytest.raises(InputError, match=word):
        call(words)
    assert contents() == before


def test_each_fold_may_take_its_encoder_from_the_same_fold_of_another_run_and_other_code_is_noted(copy, capsys):
    take_encoders("other_fold1", "other_fold2")
    change_record(f"{CNN}_fold2", code_sha256="0")
    call("--model cnn")
    assert "versions of the code" in capsys.readouterr().out


def test_a_network_that_gives_no_probabilities_is_refused(copy):
    path = Path(f"checkpoints/{CNN}_fold1.keras")
    model = keras.saving.load_model(path)
    model.layers[-1].activation = keras.activations.linear
    model.save(path)
    change_record(f"{CNN}_fold1", checkpoint_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(InputError, match="softmax"):
        call("--model cnn")


def test_nothing_is_downloaded_before_a_missing_training_is_reported(workdir, monkeypatch):
    monkeypatch.setattr(data, "fetch_cifar10", lambda: pytest.fail("this would have been downloaded for nothing"))
    with pytest.raises(InputError, match="make cnn"):
        evaluate.main(["--model", "cnn"])


def write_report(*checkpoints, name="a"):
    test = SimpleNamespace(source="pictures", prefix="pictures", images=[0], sha256="0")
    folds = {str(number): {"record": {"checkpoint_sha256": known}} for number, known in enumerate(checkpoints, 1)}
    evaluate.write_report(name, test, "the figures", folds, {})
    assert report(name)["folds"] == folds


def test_reports_that_were_of_trainings_that_are_gone_are_replaced_with_a_note(workdir, capsys):
    for checkpoints, name, note in (
        (["one"], "a", False),
        (["one", "two"], "a", False),  # another fold
        (["other"], "b", False),
        (["one", "new"], "a", True),
        (["one"], "a", True),  # a fold less
    ):
        write_report(*checkpoints, name=name)
        assert capsys.readouterr().out.startswith("note: ") == note
    for damaged in (b"", b"[]", b'{"folds": {"1": {"record": null}}}', b"\xff"):
        Path("imgs/a_report.json").write_bytes(damaged)
        write_report("one")
    capsys.readouterr()
    Path("imgs/a_report.txt").unlink()
    Path("imgs/a_report.txt").mkdir()  # nothing is replaced, and nothing said
    with pytest.raises(RunFailed):
        write_report("two")
    assert not capsys.readouterr().out
