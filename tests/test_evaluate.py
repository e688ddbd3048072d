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
from conftest import CLASSES, files_of_autoencoder, files_of_classifier, tiny_rows
from matplotlib.image import imread
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics
from sklearn.calibration import calibration_curve

import common
import data
import evaluate
import train_cnn
from runs import record_sha256
from util.cli import InputError

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


def contents():
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path().rglob("*") if path.is_file()}


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


def change_record(stem, settings=None, **changed):
    """Change a finished training's record, and its checksum."""
    path = Path(f"checkpoints/{stem}.json")
    record = {**read(path), **changed}
    record["settings"] |= settings or {}
    path.write_text(json.dumps({**record, "record_sha256": record_sha256(record)}))


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


def test_the_table_of_layers_has_each_layer_and_all_parameters(study):
    model = keras.saving.load_model(f"checkpoints/{CNN}_fold1.keras")
    text = Path(f"imgs/{CNN}_architecture.txt").read_text()
    assert all(layer.name in text for layer in model.layers) and f"{model.count_params():,} parameters" in text


@pytest.mark.parametrize("stem", [f"{CNN}_fold1", AUTOENCODER])
def test_a_finished_file_is_made_of_stock_keras_layers_in_float32(study, stem):
    with zipfile.ZipFile(f"checkpoints/{stem}.keras") as file:
        text = file.read("config.json").decode()
    assert {module.split(".")[0] for module in re.findall(r'"module": "([^"]+)"', text)} == {"keras"}
    assert not re.search(r'"registered_name": "(?!Functional")', text)
    assert set(re.findall(r'"DTypePolicy", "config": {"name": "(\w+)"}', text)) == {"float32"}


# --- Figures --------------------------------------------------------------------------------------------------------


def assert_figures(found, labels, probabilities, class_names):
    """Figures in a report's JSON are those of scikit-learn."""
    predicted = probabilities.argmax(axis=1)
    recall = metrics.recall_score(labels, predicted, average=None, zero_division=0)
    right, sure = predicted == labels, probabilities.max(axis=1)
    shares, means = calibration_curve(right, sure, n_bins=15)
    counts, _ = np.histogram(sure, np.linspace(0, 1, 16))
    assert found["accuracy"] == pytest.approx(right.mean())
    assert found["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert found["recall"] == pytest.approx(dict(zip(class_names, recall, strict=True)))
    assert found["calibration_error"] == pytest.approx(np.abs(shares - means) @ counts[counts > 0] / len(labels))
    assert found["loss"] == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean(), rel=1e-4)
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
        assert_figures(found["folds"][str(fold)], study.labels, every[-1], CLASSES)
        assert found["folds"][str(fold)]["record"] == read(f"checkpoints/{stem}.json")
        predicted = every[-1].argmax(axis=1)
        said = metrics.classification_report(study.labels, predicted, target_names=CLASSES, zero_division=0)
        assert f"Kfold Iteration:{fold}\n{said}\n" in text
    assert_figures(found["ensemble"], study.labels, (every[0].astype(float) + every[1]) / 2, CLASSES)
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


def test_of_task_turns_the_pictures_are_turned_and_the_turns_are_told(study):
    quarters = np.arange(50) % 4
    turned = np.stack([np.rot90(picture, quarter) for picture, quarter in zip(study.pictures, quarters, strict=True)])
    probabilities = keras.saving.load_model(f"checkpoints/{TURNS}_fold1.keras").predict_on_batch(turned)
    np.testing.assert_allclose(predictions(f"{TURNS}_fold1")["probabilities"], probabilities, atol=1e-5)
    fold = report(TURNS)["folds"]["1"]
    assert_figures(fold, quarters, probabilities, ["0 degrees", "90 degrees", "180 degrees", "270 degrees"])


def test_an_autoencoder_s_figures_are_scikit_images_over_all_test_pictures(study):
    copies = keras.saving.load_model(f"checkpoints/{AUTOENCODER}.keras").predict_on_batch(study.pictures)
    pairs = list(zip(study.pictures.astype(np.float32) / 255, copies, strict=True))
    expected = {"PSNR (dB)": [peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs]}
    for title, data_range in (("SSIM", 1), ("SSIM with the reference's data_range=2", 2)):
        expected[title] = [structural_similarity(*pair, data_range=data_range, channel_axis=-1) for pair in pairs]
    summary = report(AUTOENCODER)["summary"]
    assert summary.keys() == expected.keys()
    for title, values in expected.items():
        assert summary[title] == pytest.approx({"mean": np.mean(values), "std": np.std(values, ddof=1)}, rel=1e-3)


# --- Views ----------------------------------------------------------------------------------------------------------


def views_by_hand(picture, kind):
    """A picture (height, width, channels) as every view shows it, pixel by pixel."""
    height, width, _ = picture.shape

    def reflected(place, size):
        return -place if place < 0 else 2 * (size - 1) - place if place >= size else place

    seen = []
    for shift in {"one": [0], "mirror": [0], "six": [0, 1, -1]}[kind]:
        shifted = np.empty_like(picture)
        for row in range(height):
            for column in range(width):
                shifted[row, column] = picture[reflected(row + shift, height), reflected(column + shift, width)]
        seen += [shifted] if kind == "one" else [shifted, shifted[:, ::-1]]
    return seen


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
        assert_figures(found["folds"][str(fold)]["views"]["six"], study.labels, every[-1], CLASSES)
    assert_figures(found["ensemble"]["views"]["six"], study.labels, np.mean(every, axis=0), CLASSES)
    accuracies = [(probabilities.argmax(axis=1) == study.labels).mean() for probabilities in every]
    said = f"accuracy {np.mean(accuracies):.4f} ± {statistics.stdev(accuracies):.4f}"
    ensemble = found["ensemble"]["views"]["six"]["accuracy"]
    assert text.splitlines()[-1].startswith("with VIEWS=six") and f"{said}, ensemble {ensemble:.4f}" in text


def test_without_views_a_report_has_the_plain_figures_alone(evaluated, copy):
    call("--model cnn")
    plain, with_views = report(CNN), read(evaluated / f"imgs/{CNN}_report.json")
    for figures in (*with_views["folds"].values(), with_views["ensemble"]):
        del figures["views"]
    assert plain == with_views
    text = Path(f"imgs/{CNN}_report.txt").read_text()
    assert text == "".join((evaluated / f"imgs/{CNN}_report.txt").read_text().splitlines(keepends=True)[:-1])


# --- What is refused and noted --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "change", "word"),
    [
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", {"epochs": 7}), "EPOCHS"),
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", {"augmentation": {"shift": 0.1}}), "augmentation.shift"),
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", {"kept_sha256": "0"}), "other images"),
        ("--model cnn", lambda: change_record(f"{CNN}_fold2", {"encoder_sha256": "0"}), "another autoencoder"),
        (
            "--model cnn",  # of one fold of another run, twice
            lambda: [
                change_record(f"{CNN}_fold{fold}", {"encoder_sha256": str(fold)}, encoder_from=f"other_fold{source}")
                for fold, source in ((1, 1), (2, 3))
            ],
            "another autoencoder",
        ),
        ("--model cnn", lambda: change_data(x_train=lambda pictures: pictures ^ 1), "other pictures"),
        ("--model autoencoder --noaug", lambda: change_data(x_train=lambda pictures: pictures ^ 1), "other pictures"),
        ("--model cnn", lambda: change_data(class_names=lambda names: names[::-1]), "truck, ship"),
        ("--model cnn", lambda: change_data(y_test=lambda labels: np.where(labels == 7, 6, labels)), "horse"),
        ("--model autoencoder --noaug --views six", lambda: None, "VIEWS"),
        ("--model cnn", lambda: change_record(f"{CNN}_fold1", checkpoint_sha256="0"), "FORCE=1"),
        ("--model cnn --name mine", lambda: None, "make cnn DATA=small.npz NAME=mine"),
        ("--model autoencoder", lambda: None, "make ae DATA=small.npz"),
        ("--model mod_autoencoder_cls --noaug", lambda: None, "make mod_ae_cls DATA=small.npz NOAUG=1"),
    ],
)
def test_what_does_not_belong_together_is_refused_before_anything_is_written(copy, words, change, word):
    change()
    before = contents()
    with pytest.raises(InputError, match=word):
        call(words)
    assert contents() == before


def test_views_of_turned_pictures_are_refused(study):
    with pytest.raises(InputError, match="VIEWS"):
        call("--model cnn --name turns --views mirror")


def test_each_fold_may_take_its_encoder_from_the_same_fold_of_another_run(copy):
    for fold in (1, 2):
        change_record(f"{CNN}_fold{fold}", {"encoder_sha256": str(fold)}, encoder_from=f"other_fold{fold}")
    call("--model cnn")


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


def test_folds_of_other_code_are_noted(copy, capsys):
    for note in (False, True):
        call("--model cnn")
        assert ("versions of the code" in capsys.readouterr().out) == note
        change_record(f"{CNN}_fold2", code_sha256="0")


def write_report(*checkpoints, name="a"):
    test = SimpleNamespace(source="pictures", prefix="pictures", images=[0], sha256="0")
    folds = {number: {"record": {"checkpoint_sha256": known}} for number, known in enumerate(checkpoints, 1)}
    evaluate.write_report(name, test, "the figures", folds, {})


def test_reports_that_were_of_trainings_that_are_gone_are_replaced_with_a_note(workdir, capsys):
    for checkpoints, name, note in (
        (["one"], "a", False),
        (["one"], "a", False),
        (["one", "two"], "a", False),  # another fold
        (["other"], "b", False),
        (["one", "new"], "a", True),
        (["one"], "a", True),  # a fold less
    ):
        write_report(*checkpoints, name=name)
        assert capsys.readouterr().out.startswith("note: ") == note


@pytest.mark.parametrize("content", ["", "[]", '{"folds": []}', '{"folds": {"1": {"record": null}}}', "\xff"])
def test_a_damaged_report_is_replaced(workdir, content):
    path = Path("imgs/a_report.json")
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    write_report("one")
    assert read(path)["folds"] == {"1": {"record": {"checkpoint_sha256": "one"}}}
