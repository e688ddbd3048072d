"""Each script's `main([...])`: the whole chain once, full-size models on a few pictures; then what it left behind."""

import contextlib
import hashlib
import importlib
import io
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
from conftest import files_of_autoencoder, files_of_classifier
from matplotlib.image import imread
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics
from sklearn.calibration import calibration_curve

import common
import data as sources
import evaluate
import recipes
import runs
from util import cli
from util.cli import InputError

DATA = "pictures.npz"
SMALL = "--epochs 1 --batch-size 16"

AUTOENCODER = "pictures_autoencoder_noaug"
CLASSIFIERS = {  # run: (options that choose it, folds trained)
    "pictures_cnn": ("--model cnn", (1, 2)),
    "pictures_autoencoder_cls_noaug": ("--model autoencoder_cls --noaug", (1,)),
    "pictures_mod_autoencoder_cls_noaug": ("--model mod_autoencoder_cls --noaug", (1,)),
}
TRAININGS = {  # finished file: parameters, trainable ones
    "pictures_cnn_fold1": (2_170_378, 2_170_122),
    "pictures_cnn_fold2": (2_170_378, 2_170_122),
    AUTOENCODER: (4_070_019, 4_065_411),
    "pictures_autoencoder_cls_noaug_fold1": (2_090_122, 1_826_634),
    "pictures_mod_autoencoder_cls_noaug_fold1": (10_162_698, 8_422_602),
}
FROZEN = [f"block{block}_{kind}{layer}" for block in (1, 2) for layer in (1, 2) for kind in ("conv", "norm")]
WHOLE_ENCODER = FROZEN + [f"block3_{kind}{layer}" for layer in (1, 2, 3) for kind in ("conv", "norm")]


def call(script, words, data=DATA):
    """Call a script's `main` with these words; returns what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as said:
        importlib.import_module(script).main(["--data", data, *words.split()])
    return said.getvalue()


def signed(record):
    return {**record, "record_sha256": runs.record_sha256(record)}


def file_sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def contents(folder):
    """{name: SHA-256} of the files in a folder, hidden ones (locks) left out."""
    return {path.name: file_sha256(path) for path in Path(folder).glob("[!.]*")}


def report(name):
    return json.loads(Path(f"imgs/{name}_report.json").read_text())


def record(stem):
    return json.loads(Path(f"checkpoints/{stem}.json").read_text())


def held_out():
    with np.load(DATA) as file:
        return file["x_test"], file["y_test"]


def load(stem):
    return keras.saving.load_model(f"checkpoints/{stem}.keras")


@pytest.fixture(scope="module")
def study(npz, tmp_path_factory):
    """A folder in which every model was trained and evaluated, and what the scripts said: {(script, words): text}.

    All trainings are given a file whose test pictures do not match their checksum: reading them is an error.
    """
    folder = tmp_path_factory.mktemp("study")
    shutil.copy(npz, folder / DATA)
    with zipfile.ZipFile(npz) as file:
        inside_test_pictures = file.getinfo("x_test.npy").header_offset + 10_000
    damaged = bytearray(npz.read_bytes())
    damaged[inside_test_pictures] ^= 1
    (folder / "damaged").mkdir()
    (folder / "damaged" / DATA).write_bytes(damaged)

    said = {}
    with contextlib.chdir(folder):
        for script, words in (
            ("train_cnn", SMALL),
            ("train_cnn", f"{SMALL} --fold 2"),
            ("train_autoencoder", f"{SMALL} --noaug --if-missing"),
            ("train_ae_classifier", f"{SMALL} --noaug"),
            ("train_ae_classifier", f"{SMALL} --noaug --modified"),
        ):
            said[script, words] = call(script, words, data=f"damaged/{DATA}")
        for words in ("--model autoencoder --noaug", *(words for words, _ in CLASSIFIERS.values())):
            said["evaluate", words] = call("evaluate", words)
    return SimpleNamespace(folder=folder, said=said)


@pytest.fixture
def inside(study, monkeypatch):
    """The study, from inside its folder, for tests that change nothing there."""
    monkeypatch.chdir(study.folder)
    return study


@pytest.fixture
def borrow(study, workdir):
    """A function that copies finished trainings of the study into a working directory of the test's own.

    borrow("one", other="one") copies the training `one`, and once more under the name `other`.
    """
    shutil.copy(study.folder / DATA, DATA)
    Path("checkpoints").mkdir()

    def copy(*stems, **renamed):
        for stem, source in {**dict(zip(stems, stems, strict=True)), **renamed}.items():
            for suffix in (".keras", ".json"):
                shutil.copy(study.folder / f"checkpoints/{source}{suffix}", f"checkpoints/{stem}{suffix}")

    return copy


def change_settings(stem, **settings):
    """Make a finished training say that it had these settings; one that is None, that it had none of that name."""
    found = record(stem)
    changed = {key: value for key, value in {**found["settings"], **settings}.items() if value is not None}
    changed = signed({**found, "settings": changed})
    Path(f"checkpoints/{stem}.json").write_text(json.dumps(changed))


# --- What a finished study holds ------------------------------------------------------------------------------------


def test_the_files_are_those_of_the_design_and_no_others(inside):
    runs = [files_of_autoencoder(AUTOENCODER)]
    runs += [files_of_classifier(name, folds) for name, (_, folds) in CLASSIFIERS.items()]
    checkpoints, images = (set().union(*names) for names in zip(*runs, strict=True))
    assert contents("checkpoints").keys() == checkpoints
    assert contents("imgs").keys() == images | {"pictures_distribution.png", "pictures_samples.png"}
    assert not [path for path in Path().rglob(".*") if path.suffix != ".lock"]  # such as .….part


def test_a_training_that_reads_the_test_pictures_would_have_failed(inside):
    with pytest.raises(InputError, match="cannot be read"):
        call("evaluate", "--model cnn", data=f"damaged/{DATA}")


@pytest.mark.parametrize("stem", TRAININGS)
def test_a_record_says_what_was_trained_on_what(inside, stem):
    found = record(stem)
    fold = re.search(r"_fold(\d)$", stem)
    assert found["run"] == re.sub(r"_fold\d$", "", stem)
    assert found["fold"] == (int(fold[1]) if fold else None)
    assert (found["parameters"], found["trainable_parameters"]) == TRAININGS[stem]
    assert found["checkpoint_sha256"] == file_sha256(f"checkpoints/{stem}.keras")
    assert found["settings"].items() >= {"epochs": 1, "batch_size": 16, "learning_rate": 0.001, "seed": 0}.items()
    assert found["settings"]["keep"] == [20, 20, 20]
    own = {key: found["settings"].get(key) for key in ("target", "augment")}
    if stem == AUTOENCODER:
        assert own == {"target": "augmented", "augment": False}
    else:
        assert own == {"target": None, "augment": None} and found["settings"]["augmentation"]["rotation"] == 40

    with np.load(DATA) as file:
        pixels, labels, names = file["x_train"], file["y_train"].astype(np.int64), file["class_names"].tolist()
    data = found["data"]
    assert data["source"] == DATA and data["class_names"] == names
    assert data["sha256"] == hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    kept = np.bincount(labels) // np.where(np.isin(range(10), [2, 4, 9]), 2, 1)
    assert np.array_equal(np.add(data["train_counts"], data["val_counts"]), kept)
    assert sum(data["val_counts"]) == round(0.15 * kept.sum())

    score = "psnr" if stem == AUTOENCODER else "accuracy"
    measured = {"loss", score, "val_loss", f"val_{score}", "learning_rate", "seconds", "images_per_second"}
    assert {key: len(values) for key, values in found["history"].items()} == dict.fromkeys(measured, 1)
    assert found["best_epoch"] == 1 and found["seconds"] == found["history"]["seconds"][0] > 0
    assert found["images_per_second"] > 0
    assert found["device"] and found["precision"] in ("float32", "mixed_bfloat16") and "commit" in found
    assert found["versions"]["keras"] == keras.__version__


def test_the_folds_share_their_images_and_differ_in_the_split(inside):
    one, two = (record(f"pictures_cnn_fold{fold}")["data"] for fold in (1, 2))
    assert one["kept_sha256"] == two["kept_sha256"] == record(AUTOENCODER)["data"]["kept_sha256"]
    assert one["train_sha256"] != two["train_sha256"] and one["val_sha256"] != two["val_sha256"]


@pytest.mark.parametrize("stem", TRAININGS)
def test_a_finished_file_is_made_of_stock_keras_layers_in_float32(inside, stem):
    with zipfile.ZipFile(f"checkpoints/{stem}.keras") as file:
        text = file.read("config.json").decode()
    assert {module.split(".")[0] for module in re.findall(r'"module": "([^"]+)"', text)} == {"keras"}
    assert '"registered_name": null' in text and not re.search(r'"registered_name": "(?!Functional")', text)
    policies = re.findall(r'"DTypePolicy", "config": {"name": "(\w+)"}', text)
    assert len(policies) > 10 and set(policies) == {"float32"}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_finished_file_gives_the_saved_probabilities_for_pictures_as_they_are(inside, name):
    pictures, labels = held_out()
    for fold in CLASSIFIERS[name][1]:
        with np.load(f"checkpoints/{name}_fold{fold}_predictions.npz") as saved:
            assert np.array_equal(saved["labels"], labels)
            found = load(f"{name}_fold{fold}").predict_on_batch(pictures)
            np.testing.assert_allclose(saved["probabilities"], found, atol=1e-5)
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("stem", "frozen"),
    [("pictures_autoencoder_cls_noaug_fold1", FROZEN), ("pictures_mod_autoencoder_cls_noaug_fold1", WHOLE_ENCODER)],
)
def test_a_classifiers_frozen_layers_are_the_autoencoders_bit_for_bit_and_the_others_have_learnt(inside, stem, frozen):
    found = record(stem)
    assert found["autoencoder"] == AUTOENCODER and found["taken"] == found["frozen"] == frozen
    assert found["settings"]["encoder_sha256"] == file_sha256(f"checkpoints/{AUTOENCODER}.keras")
    autoencoder = load(AUTOENCODER)
    for layer in load(stem).layers:
        if layer.name in frozen:
            source = autoencoder.get_layer(layer.name).get_weights()
            for mine, theirs in zip(layer.get_weights(), source, strict=True):
                assert np.array_equal(mine, theirs), layer.name
        elif layer.weights and layer.name not in ("conv1", "conv2"):  # whose bias the normalisation behind cancels
            # Second come biases and betas, third a normalisation's means: all of them 0 at first.
            assert all(weights.any() for weights in layer.get_weights()[1:3]), f"{layer.name} is as it began"


def test_the_log_names_what_is_taken_and_frozen(study):
    text = study.said["train_ae_classifier", f"{SMALL} --noaug"]
    names = ", ".join(FROZEN)
    assert f"taken from checkpoints/{AUTOENCODER}.keras: {names}\nfrozen: {names}\n" in text


# --- Reports --------------------------------------------------------------------------------------------------------


def calibration_error(labels, probabilities):
    """By scikit-learn's calibration curve of fifteen bins, each weighted by its pictures."""
    right, sure = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1)
    shares, means = calibration_curve(right, sure, n_bins=15)
    counts, _ = np.histogram(sure, np.linspace(0, 1, 16))
    return np.abs(shares - means) @ counts[counts > 0] / len(labels)


def test_calibration_error_of_known_cases():
    sure = np.array([[0.9, 0.1]] * 10)
    assert common.calibration_error(np.array([0] * 9 + [1]), sure) == pytest.approx(0)
    assert common.calibration_error(np.ones(10, int), sure) == pytest.approx(0.9)
    assert common.calibration_error(np.array([0]), np.array([[1.0, 0.0]])) == 0  # 1 belongs to the last bin


def assert_figures(fold, labels, probabilities, class_names):
    """The figures of a fold in a report's JSON, computed here from the probabilities."""
    predicted = probabilities.argmax(axis=1)
    recall = metrics.recall_score(labels, predicted, average=None)
    assert fold["accuracy"] == pytest.approx((predicted == labels).mean())
    assert fold["macro_f1"] == pytest.approx(metrics.f1_score(labels, predicted, average="macro"))
    assert fold["recall"] == pytest.approx(dict(zip(class_names, recall, strict=True)))
    assert np.array_equal(fold["confusion"], metrics.confusion_matrix(labels, predicted))
    assert predicted.tolist() == [int(number) for number in fold["predicted"].split(" ")]
    assert fold["calibration_error"] == pytest.approx(calibration_error(labels, probabilities))
    assert fold["loss"] == pytest.approx(-np.log(probabilities[np.arange(len(labels)), labels]).mean(), rel=1e-4)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_report_has_sklearns_layout_and_its_figures_follow_from_the_saved_probabilities(inside, name):
    words, folds = CLASSIFIERS[name]
    class_names, expected = record(f"{name}_fold1")["data"]["class_names"], ""
    found = report(name)
    for fold in folds:
        with np.load(f"checkpoints/{name}_fold{fold}_predictions.npz") as file:
            labels, probabilities = file["labels"], file["probabilities"]
        assert_figures(found["folds"][str(fold)], labels, probabilities, class_names)
        assert found["folds"][str(fold)]["record"] == record(f"{name}_fold{fold}")
        text = metrics.classification_report(
            labels, probabilities.argmax(axis=1), target_names=class_names, zero_division=0
        )
        expected += f"Kfold Iteration:{fold}\n{text}\n"
    text = Path(f"imgs/{name}_report.txt").read_text()
    over = "one fold" if len(folds) == 1 else f"mean ± standard deviation over {len(folds)} folds"
    assert text.startswith(f"{expected}{name}: {over}, ")
    assert text in inside.said["evaluate", words]
    assert found["data"]["test_images"] == len(labels) and found["data"]["prefix"] == "pictures"
    assert labels.tolist() == [int(number) for number in found["labels"].split(" ")]


def test_the_ensemble_is_the_mean_probability_of_the_folds(inside):
    every = []
    for fold in (1, 2):
        with np.load(f"checkpoints/pictures_cnn_fold{fold}_predictions.npz") as file:
            labels = file["labels"]
            every.append(file["probabilities"].astype(np.float64))
    found = report("pictures_cnn")["ensemble"]
    assert_figures(found, labels, (every[0] + every[1]) / 2, record("pictures_cnn_fold1")["data"]["class_names"])
    text = Path("imgs/pictures_cnn_report.txt").read_text().splitlines()[-1]
    said = f"accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}"
    assert text == f"ensemble of the 2 folds (mean probability): {said}"
    assert "ensemble" not in report("pictures_autoencoder_cls_noaug")


def test_the_summary_is_mean_and_sample_standard_deviation_over_folds(inside):
    found, text = report("pictures_cnn"), Path("imgs/pictures_cnn_report.txt").read_text()
    folds = [found["folds"][fold] for fold in ("1", "2")]
    values = {"accuracy": [fold["accuracy"] for fold in folds], "macro F1": [fold["macro_f1"] for fold in folds]}
    values["calibration error"] = [fold["calibration_error"] for fold in folds]
    values |= {f"recall {name}": [fold["recall"][name] for fold in folds] for name in ("bird", "deer", "truck")}
    assert found["summary"].keys() == values.keys()
    for title, (one, two) in values.items():
        mean, std = (one + two) / 2, statistics.stdev((one, two))
        assert found["summary"][title] == pytest.approx({"mean": mean, "std": std})
        assert re.search(rf"^{title} +{mean:.4f} ± {std:.4f}$", text, re.MULTILINE)
    assert values["accuracy"][0] != values["accuracy"][1]


def test_one_fold_alone_has_no_standard_deviation(inside):
    name = "pictures_autoencoder_cls_noaug"
    assert report(name)["summary"]["accuracy"]["std"] is None
    assert re.search(r"^accuracy +0\.\d{4}$", Path(f"imgs/{name}_report.txt").read_text(), re.MULTILINE)


def test_the_autoencoders_figures_are_scikit_images_over_all_test_pictures(inside):
    pictures, _ = held_out()
    copies = load(AUTOENCODER).predict_on_batch(pictures)
    pairs = list(zip(pictures.astype(np.float32) / 255, copies, strict=True))
    expected = {"PSNR (dB)": [peak_signal_noise_ratio(one, two, data_range=1) for one, two in pairs]}
    for title, data_range in (("SSIM", 1), ("SSIM with the reference's data_range=2", 2)):
        expected[title] = [structural_similarity(*pair, data_range=data_range, channel_axis=-1) for pair in pairs]

    summary, text = report(AUTOENCODER)["summary"], Path(f"imgs/{AUTOENCODER}_report.txt").read_text()
    assert summary.keys() == expected.keys()
    for title, values in expected.items():
        mean, std = statistics.mean(map(float, values)), statistics.stdev(map(float, values))
        assert summary[title] == pytest.approx({"mean": mean, "std": std}, rel=1e-3), title
        assert re.search(rf"^{re.escape(title)} +\d+\.\d{{3}} ± \d+\.\d{{3}}$", text, re.MULTILINE)
    assert summary["SSIM with the reference's data_range=2"]["mean"] > summary["SSIM"]["mean"]
    assert f"over the {len(pictures)} test images" in text


def test_a_models_layer_table_is_whole(inside):
    text = Path("imgs/pictures_cnn_architecture.txt").read_text()
    assert all(layer.name in text for layer in load("pictures_cnn_fold1").layers)
    assert "2,097,664" in text and "2,170,378" in text  # the widest layer's parameters, and all of them


def test_plots_are_of_a_readmes_width_not_blank_and_nothing_is_cut_off_at_an_edge(inside):
    paths = sorted(Path("imgs").glob("*.png"))
    assert len(paths) > 10
    for path in paths:
        pixels = imread(path)[..., :3]
        height, width, _ = pixels.shape
        assert 600 <= width <= 1200 and 200 <= height <= 1000, path
        assert (pixels < 0.9).any(axis=2).mean() > 0.01, f"{path} is blank"
        edges = [pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]
        assert all((edge == 1).all() for edge in edges), f"{path} is cut off"


def test_a_mean_is_taken_over_folds_of_the_same_settings_only(borrow):
    borrow("pictures_cnn_fold1", "pictures_cnn_fold2")
    change_settings("pictures_cnn_fold2", epochs=2, augmentation={"rotation": 10, "shift": 0.1})
    with pytest.raises(InputError) as refusal:
        call("evaluate", "--model cnn")
    assert str(refusal.value) == (
        "checkpoints/pictures_cnn_fold1.keras and checkpoints/pictures_cnn_fold2.keras are no folds of one study "
        "(augmentation.rotation 40.0 and 10; augmentation.shift 0.2 and 0.1; EPOCHS 1 and 2): train one of them anew "
        "with FORCE=1, or under a NAME of its own"
    )
    assert not Path("imgs").exists() and not list(Path("checkpoints").glob("*.npz"))


def test_folds_of_other_code_are_told(borrow):
    borrow("pictures_cnn_fold1", "pictures_cnn_fold2")
    assert "FORCE=1" not in call("evaluate", "--model cnn")
    changed = signed({**record("pictures_cnn_fold2"), "code_sha256": "0" * 64})
    Path("checkpoints/pictures_cnn_fold2.json").write_text(json.dumps(changed))
    said = "note: these folds are of different versions of the code; where that matters, FORCE=1 trains them anew\n"
    assert said in call("evaluate", "--model cnn")


def test_a_mean_is_taken_over_classifiers_on_the_same_autoencoder_only(borrow):
    stem = "pictures_autoencoder_cls_noaug_fold1"
    third = stem.replace("fold1", "fold3")
    borrow(stem, **{third: stem})
    change_settings(third, encoder_sha256="0" * 64)
    with pytest.raises(InputError, match=rf"{third}\.keras are no folds of one study \(another autoencoder\): "):
        call("evaluate", "--model autoencoder_cls --noaug")


def test_a_mean_is_taken_over_folds_of_the_same_images_only(borrow):
    borrow("pictures_cnn_fold1", "pictures_cnn_fold2")
    change_settings("pictures_cnn_fold2", kept_sha256="0" * 64)
    with pytest.raises(InputError, match=r"cnn_fold2\.keras are no folds of one study \(other images\): "):
        call("evaluate", "--model cnn")


def test_a_class_may_be_called_as_a_line_of_sklearns_report():
    names = ("accuracy", "macro avg", "weighted avg")
    test = SimpleNamespace(class_names=names, labels=np.array([0, 0, 0, 0, 1, 1, 2, 2]))
    probabilities = np.eye(3)[[0, 1, 1, 1, 1, 1, 2, 0]] * 0.8 + 0.2 / 3
    figures, _ = evaluate.classifier_figures(test, probabilities)
    assert figures["recall"] == {"accuracy": 0.25, "macro avg": 1.0, "weighted avg": 0.5}
    assert figures["accuracy"] == 0.5


def write_report(*checkpoints, name="a"):
    """Write a report of folds with these hashes (None: a file without a record); returns what was printed."""
    test = SimpleNamespace(source="pictures", prefix="pictures", images=[0], sha256="0")
    folds = {number: {"record": known and {"checkpoint_sha256": known}} for number, known in enumerate(checkpoints, 1)}
    with contextlib.redirect_stdout(io.StringIO()) as said:
        evaluate.write_report(name, test, "the figures", folds, {})
    return said.getvalue()


def test_a_note_says_that_reports_are_replaced_only_where_they_were_of_trainings_that_are_gone(workdir):
    note = "note: the reports and plots of a in imgs were of other trainings; they are replaced\n"
    assert "note" not in write_report("one")
    assert "note" not in write_report("one")
    assert "note" not in write_report("one", "two")  # another fold
    assert "note" not in write_report("other", name="b")
    assert write_report("one", "new").startswith(note)
    assert write_report("one").startswith(note)  # a fold less
    assert write_report(None).startswith(note)
    assert "note" not in write_report("two")  # a file without a record tells nothing


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        pytest.param("[" * 100_000, id="nested"),
        "{",
        "null",
        "{}",
        '{"folds": []}',
        '{"folds": {"1": 5}}',
        '{"folds": {"1": {"record": [1]}}}',
        "\xff",
    ],
)
def test_a_damaged_report_does_no_harm(workdir, content):
    path = Path("imgs/a_report.json")
    path.parent.mkdir()
    path.write_bytes(content.encode("latin-1"))
    assert "note" not in write_report("one")
    assert json.loads(path.read_text())["folds"] == {"1": {"record": {"checkpoint_sha256": "one"}}}
    assert Path("imgs/a_report.txt").read_text() == "the figures\n"


# --- Another file, by --model-path ----------------------------------------------------------------------------------


def test_an_autoencoder_file_is_evaluated_wherever_it_lies_and_without_a_record(study, borrow):
    borrow(AUTOENCODER)
    Path("elsewhere").mkdir()
    shutil.copy(f"checkpoints/{AUTOENCODER}.keras", "elsewhere/copy.keras")
    expected = json.loads((study.folder / f"imgs/{AUTOENCODER}_report.json").read_text())["summary"]
    for path, name in ((f"checkpoints/{AUTOENCODER}.keras", AUTOENCODER), ("elsewhere/copy.keras", "copy")):
        said = call("evaluate", f"--model autoencoder --model-path {path} --batch-size 128")
        assert f"{name}: 1 finished training, " in said
        for title, value in report(name)["summary"].items():
            assert value == pytest.approx(expected[title], rel=1e-4)
        assert Path(f"imgs/{name}_reconstructions.png").exists()
    assert Path(f"imgs/{AUTOENCODER}_psnr.png").exists() and not Path("imgs/copy_psnr.png").exists()


def test_a_classifier_of_ones_own_is_evaluated_on_classes_of_unequal_size(borrow):
    borrow()
    with np.load(DATA) as file:
        arrays = {name: file[name][:37] if name.endswith("_test") else file[name] for name in file}
    np.savez(DATA, **arrays)
    pictures, labels = held_out()
    weights = np.random.default_rng(0).normal(0, 0.03, (3072, 10))
    weights -= weights.mean(axis=0)  # so that brightness alone decides nothing, and many classes are predicted
    dense = keras.layers.Dense(10, "softmax", use_bias=False)
    own = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), dense])
    dense.set_weights([weights])
    own.save("own.keras")
    call("evaluate", "--model cnn --model-path own.keras")

    scores = pictures.reshape(len(pictures), -1) / 255 @ weights
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert len(np.unique(probabilities.argmax(axis=1))) > 3 and len(set(np.bincount(labels))) > 1
    assert_figures(report("own")["folds"]["1"], labels, probabilities, arrays["class_names"].tolist())
    assert report("own")["folds"]["1"]["record"] is None


@pytest.mark.parametrize("count", [1, 3, 501])
def test_the_quality_of_one_picture_of_few_and_of_one_more_than_are_computed_at_once(borrow, count):
    borrow()
    with np.load(DATA) as file:
        rows = np.arange(count) % len(file["x_test"])
        np.savez(DATA, **{name: file[name][rows] if name.endswith("_test") else file[name] for name in file})
    layers = [keras.Input((32, 32, 3)), keras.layers.Rescaling(0.9 / 255)]
    keras.Sequential(layers).save("darker.keras")
    call("evaluate", "--model autoencoder --model-path darker.keras")
    pictures = held_out()[0] / 255
    ratios = [-10 * np.log10(((0.1 * picture) ** 2).mean()) for picture in pictures]
    assert report("darker")["data"]["test_images"] == count
    found = report("darker")["summary"]["PSNR (dB)"]
    assert found["mean"] == pytest.approx(np.mean(ratios), rel=1e-5)
    assert found["std"] == (None if count == 1 else pytest.approx(np.std(ratios, ddof=1), rel=1e-4))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--model cnn --noaug", "--noaug and --target choose an autoencoder, and a cnn has none; leave them out"),
        ("--model cnn --target original", "--noaug and --target choose an autoencoder, and a cnn has none"),
        (
            "--model cnn --model-path a.keras --name b",
            "--model-path names the file, so --arch, --noaug, --target, --encoder and --name",
        ),
        (
            "--model autoencoder --model-path a.keras --noaug",
            "--model-path names the file, so --arch, --noaug, --target",
        ),
    ],
)
def test_options_that_would_choose_nothing_are_refused(workdir, words, sentence):
    with pytest.raises(InputError, match=sentence):
        call("evaluate", words)


def test_a_file_that_would_run_code_is_refused_and_its_code_never_run(borrow):
    borrow()
    trap = keras.layers.Lambda(lambda x: (__import__("pathlib").Path("ran").touch(), x)[1])
    keras.Sequential([keras.Input((32, 32, 3)), trap]).save("trap.keras")
    Path("ran").unlink(missing_ok=True)
    with pytest.raises(InputError, match=r"trap\.keras cannot be opened") as refusal:
        call("evaluate", "--model autoencoder --model-path trap.keras")
    assert "\n" not in str(refusal.value)
    assert not Path("ran").exists()
    keras.saving.load_model("trap.keras", safe_mode=False)
    assert Path("ran").exists(), "this file runs no code even where that is allowed: the test shows nothing"


def test_a_file_that_is_not_this_model_is_refused(inside):
    with pytest.raises(InputError, match=r"maps .*\(10,\), not .*: choose the MODEL that it is$"):
        call("evaluate", "--model autoencoder --model-path checkpoints/pictures_cnn_fold1.keras")


def test_a_file_that_is_not_there_is_refused(workdir, npz):
    with pytest.raises(InputError, match=r"no finished model 'gone\.keras'"):
        call("evaluate", "--model cnn --model-path gone.keras", data=str(npz))


# --- Trainings that are there already -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "words", "stem"),
    [
        ("train_cnn", f"{SMALL} --fold 2", "pictures_cnn_fold2"),
        ("train_autoencoder", f"{SMALL} --noaug", AUTOENCODER),
        ("train_ae_classifier", f"{SMALL} --noaug", "pictures_autoencoder_cls_noaug_fold1"),
        ("train_ae_classifier", f"{SMALL} --noaug --modified", "pictures_mod_autoencoder_cls_noaug_fold1"),
    ],
)
def test_a_finished_training_is_skipped_and_says_so(inside, script, words, stem):
    before = contents("checkpoints")
    said = call(script, words)
    assert said.splitlines()[-1].startswith(f"checkpoints/{stem}.keras is finished already")
    assert contents("checkpoints") == before


@pytest.mark.parametrize(
    ("script", "words", "setting"),
    [
        ("train_cnn", "--epochs 2", "EPOCHS 1 there, 2 now"),
        ("train_cnn", "--batch-size 8", "BATCH 16 there, 8 now"),
        ("train_cnn", "--learning-rate 0.01", "LR 0.001 there, 0.01 now"),
        ("train_cnn", "--patience 3", "PATIENCE None there, 3 now"),
        ("train_cnn", "--precision float32", "PRECISION auto there, float32 now"),
        ("train_cnn", "--seed 1", "SEED 0 there, 1 now"),
        ("train_cnn", "--keep 10", "KEEP [20, 20, 20] there, [10, 10, 10] now"),
        ("train_cnn", "--val 0.2", "VAL 0.15 there, 0.2 now"),
        ("train_cnn", "--reduced bird", "REDUCED [2, 4, 9] there, [2] now; KEEP [20, 20, 20] there, [20] now"),
        ("train_cnn", "--epochs 2 --seed 1", "SEED 0 there, 1 now; EPOCHS 1 there, 2 now"),
        ("train_autoencoder", "--noaug --epochs 2", "EPOCHS 1 there, 2 now"),
        ("train_ae_classifier", "--noaug --epochs 2", "EPOCHS 1 there, 2 now"),
    ],
)
def test_other_settings_than_those_of_a_finished_training_are_refused_by_name(inside, script, words, setting):
    before = contents("checkpoints")
    with pytest.raises(InputError, match=rf"other settings \({re.escape(setting)}\): .*NAME=.*FORCE=1"):
        call(script, f"{SMALL} {words}")
    assert contents("checkpoints") == before


def test_a_refusal_is_one_line_on_stderr_and_status_2(inside, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: call("train_cnn", f"{SMALL} --epochs 2"))
    assert end.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_force_trains_again_and_replaces(borrow):
    borrow("pictures_cnn_fold1")
    before = contents("checkpoints")
    predictions = Path("checkpoints/pictures_cnn_fold1_predictions.npz")
    predictions.write_bytes(b"of the model that is replaced")
    call("train_cnn", "--epochs 1 --batch-size 32 --force")
    assert not predictions.exists()
    after = contents("checkpoints")
    assert after.keys() == before.keys() and not after.items() & before.items()
    assert record("pictures_cnn_fold1")["settings"]["batch_size"] == 32


def test_a_name_keeps_runs_side_by_side(borrow):
    borrow("pictures_cnn_fold1")
    before = contents("checkpoints")
    call("train_cnn", "--epochs 1 --batch-size 32 --name other")
    assert contents("checkpoints").items() > before.items()
    assert record("pictures_cnn_other_fold1")["run"] == "pictures_cnn_other"


def test_if_missing_takes_an_autoencoder_that_is_there_whatever_its_settings(inside):
    before = contents("checkpoints")
    said = call("train_autoencoder", "--noaug --if-missing --epochs 7 --val 0.2")
    assert said.endswith(f"checkpoints/{AUTOENCODER}.keras is there and was trained on these images: it is used\n")
    assert contents("checkpoints") == before


# --- What is missing, damaged or does not belong together -----------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ("--model cnn", "make cnn DATA=pictures.npz"),
        ("--model autoencoder --noaug", "make ae DATA=pictures.npz NOAUG=1"),
        ("--model autoencoder --target original", "make ae DATA=pictures.npz TARGET=original"),
        ("--model autoencoder_cls --name two", "make ae_cls DATA=pictures.npz NAME=two"),
        ("--model mod_autoencoder_cls", "make mod_ae_cls DATA=pictures.npz"),
    ],
)
def test_an_evaluation_without_a_finished_training_says_which_command_makes_it(borrow, words, command):
    borrow()
    with pytest.raises(InputError, match=f"run `{command}`$"):
        call("evaluate", words)


@pytest.mark.parametrize("words", ["--model cnn", "--model autoencoder --noaug", "--model cnn --model-path gone.keras"])
def test_nothing_is_downloaded_before_a_missing_training_is_reported(workdir, monkeypatch, words):
    def download():
        raise AssertionError("this would have been downloaded for nothing")

    monkeypatch.setattr(sources, "fetch_cifar10", download)
    with pytest.raises(InputError, match=r"there is no finished (training of|model) "):
        evaluate.main(words.split())


def test_a_file_in_place_of_checkpoints_is_one_sentence(workdir, npz, capsys):
    Path("checkpoints").write_text("")
    for script, words in (("train_cnn", SMALL), ("train_autoencoder", f"{SMALL} --if-missing")):
        with pytest.raises(SystemExit) as end:
            cli.run(lambda script=script, words=words: call(script, words, data=str(npz)))
        assert end.value.code == 1
        sentence = r".*: checkpoints cannot be written to \(.*exists\); mend that and repeat\n"
        assert re.fullmatch(sentence, capsys.readouterr().err)


def test_a_file_in_place_of_imgs_is_one_sentence(workdir):
    Path("imgs").write_text("")
    with pytest.raises(cli.RunFailed, match=r"^imgs/a_report\.txt cannot be written \(.*\); mend that and repeat$"):
        write_report("one")


def test_a_classifier_without_its_autoencoder_says_which_command_makes_it(borrow):
    borrow(AUTOENCODER)
    sentence = (
        r"there is no {}\.keras in checkpoints that was trained on these images: run `make ae DATA={}`, with the same"
    )
    with pytest.raises(InputError, match=sentence.format("pictures_autoencoder", DATA)):
        call("train_ae_classifier", SMALL)
    with pytest.raises(InputError, match=sentence.format("pictures_autoencoder_original", f"{DATA} TARGET=original")):
        call("train_ae_classifier", f"{SMALL} --target original")
    Path(f"checkpoints/{AUTOENCODER}.keras").unlink()
    with pytest.raises(InputError, match=sentence.format(AUTOENCODER, f"{DATA} NOAUG=1")):
        call("train_ae_classifier", f"{SMALL} --noaug")


@pytest.mark.parametrize("words", ["--seed 1", "--keep 10", "--reduced bird"])
def test_an_autoencoder_of_other_images_is_not_taken(inside, words):
    before = contents("checkpoints")
    with pytest.raises(InputError, match=rf"there is no {AUTOENCODER}\.keras .* that was trained on these images"):
        call("train_ae_classifier", f"{SMALL} --noaug {words}")
    sentence = rf"{AUTOENCODER}\.keras was trained on other images: .*NAME=.* by `make ae DATA={DATA} NOAUG=1 FORCE=1`$"
    with pytest.raises(InputError, match=sentence):
        call("train_autoencoder", f"{SMALL} --noaug --if-missing {words}")
    assert contents("checkpoints") == before


def test_an_autoencoder_of_another_split_of_the_same_images_is_taken(inside, arguments):
    choice, typed = arguments("--noaug", "--name", "other", "--val", 0.2)
    run, _ = runs.find_autoencoder(choice, common.prepare_fold(DATA, recipes.Settings(**typed), 2))
    assert run.name == AUTOENCODER


def test_a_classifiers_settings_include_its_autoencoder(borrow):
    borrow(AUTOENCODER, "pictures_autoencoder_cls_noaug_fold1")
    stem = f"checkpoints/{AUTOENCODER}"
    with open(f"{stem}.keras", "ab") as file:
        file.write(b"another")
    Path(f"{stem}.json").write_text(
        json.dumps(signed({**record(AUTOENCODER), "checkpoint_sha256": file_sha256(f"{stem}.keras")}))
    )
    with pytest.raises(InputError, match=r"has other settings \(another autoencoder\): "):
        call("train_ae_classifier", f"{SMALL} --noaug")


def test_an_evaluation_on_other_pictures_than_those_of_the_training_is_refused(borrow):
    borrow("pictures_cnn_fold1")
    with np.load(DATA) as file:
        arrays = dict(file)
    arrays["x_train"] = arrays["x_train"].copy()
    arrays["x_train"][0, 0, 0, 0] ^= 1
    np.savez(DATA, **arrays)
    with pytest.raises(InputError, match="was trained on other pictures"):
        call("evaluate", "--model cnn")
    assert not Path("imgs").exists()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def alter(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncate, alter])
@pytest.mark.parametrize(
    ("stem", "script", "words"),
    [
        ("pictures_cnn_fold1", "evaluate", "--model cnn"),
        ("pictures_cnn_fold1", "evaluate", "--model cnn --model-path checkpoints/pictures_cnn_fold1.keras"),
        ("pictures_cnn_fold1", "train_cnn", SMALL),
        (AUTOENCODER, "train_ae_classifier", f"{SMALL} --noaug"),
    ],
)
def test_a_damaged_checkpoint_is_refused(borrow, damage, stem, script, words):
    borrow(stem)
    damage(Path(f"checkpoints/{stem}.keras"))
    with pytest.raises(InputError, match=rf"{stem}\.keras and its record .* FORCE=1"):
        call(script, words)


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_damaged_record_is_refused(borrow, content):
    borrow("pictures_cnn_fold1")
    path = Path("checkpoints/pictures_cnn_fold1.json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(InputError, match=r"its record .* FORCE=1"):
        call("evaluate", "--model cnn")


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\5\6" + bytes(18)])
def test_a_file_that_is_no_model_is_refused_in_one_sentence(borrow, content):
    borrow()
    Path("broken.keras").write_bytes(content)
    with pytest.raises(InputError, match=r"broken\.keras cannot be opened") as refusal:
        call("evaluate", "--model autoencoder --model-path broken.keras")
    assert "\n" not in str(refusal.value)
