"""The metrics: each against scikit-learn or scikit-image, or counted by hand; a new metric is a row of METRICS."""

import importlib
import json
import shutil

import numpy as np
import pytest
from conftest import CLASSES
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics
from sklearn.calibration import calibration_curve

import common
import compare
import evaluate
import recipes

# --- Of classifiers -------------------------------------------------------------------------------------------------


LEAST = np.finfo(np.float64).eps  # that scikit-learn's log_loss takes a probability for


def counts(labels, probabilities):
    """The confusion matrix, counted by hand: (true class, predicted class)."""
    found = np.zeros((probabilities.shape[1],) * 2)
    np.add.at(found, (labels, probabilities.argmax(axis=1)), 1)
    return found


def loss_by_hand(labels, probabilities):
    exact = probabilities.astype(np.float64)
    return np.mean(-np.log(np.maximum(exact[np.arange(len(labels)), labels] / exact.sum(axis=1), LEAST)))


def calibration_by_sklearn(labels, probabilities):
    """By scikit-learn's calibration curve of fifteen bins, each weighted by its pictures."""
    right, sure = probabilities.argmax(axis=1) == labels, probabilities.max(axis=1).astype(np.float64)
    shares, means = calibration_curve(right, sure, n_bins=15)
    number, _ = np.histogram(sure, np.linspace(0, 1, 16))
    return np.abs(shares - means) @ number[number > 0] / len(labels)


EXPECTED = {
    "accuracy": lambda labels, found: np.trace(counts(labels, found)) / len(labels),
    "loss": loss_by_hand,
    "macro_f1": lambda labels, found: metrics.f1_score(labels, found.argmax(axis=1), average="macro", zero_division=0),
    "recall": lambda labels, found: np.diag(counts(labels, found)) / counts(labels, found).sum(axis=1),
    "calibration_error": calibration_by_sklearn,
}


def answers(count, classes, never=(), seed=0):
    """Labels, and float32 probabilities as a softmax gives them, which never make much of the classes `never`."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(count) % classes)
    scores = random.normal(0, 2, (count, classes))
    scores[np.arange(count), labels] += 1.5
    scores[:, list(never)] -= 50
    scores = np.exp(scores.astype(np.float32))
    return labels, scores / scores.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("key", common.METRICS)
@pytest.mark.parametrize(("count", "classes", "never"), [(1000, 10, (2, 9)), (37, 3, ()), (2, 2, (1,))])
def test_a_metric_is_what_sklearn_finds_or_what_is_counted_by_hand(key, count, classes, never):
    labels, probabilities = answers(count, classes, never)
    found = common.METRICS[key].of(labels, probabilities)
    assert np.shape(found) == ((classes,) if common.METRICS[key].per_class else ())
    assert found == pytest.approx(EXPECTED[key](labels, probabilities), rel=1e-9)


@pytest.mark.parametrize("key", common.METRICS)
def test_a_metric_of_the_surest_answers(key):
    labels = np.arange(20) % 10
    right, wrong = (common.METRICS[key].of(labels, np.eye(10, dtype=np.float32)[to]) for to in (labels, labels - 1))
    if key == "loss":  # of a class that is given nothing: much, yet a number, which JSON has
        assert (right, wrong) == pytest.approx((0, -np.log(LEAST)), abs=1e-12)
    elif key == "calibration_error":
        assert (right, wrong) == (0, 1)
    else:
        assert np.all(right == 1) and np.all(wrong == 0)


# --- Of pictures ----------------------------------------------------------------------------------------------------


def test_quality_is_scikit_images_of_each_picture():
    random = np.random.default_rng(0)
    originals = random.random((6, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2).astype(np.float32)
    noise = random.normal(0, [[[[0.001]]], [[[0.01]]], [[[0.1]]], [[[0.2]]], [[[0.5]]], [[[1]]]], originals.shape)
    copies = np.clip(originals + noise, 0, 1).astype(np.float32)
    pairs = list(zip(np.float64(originals), np.float64(copies), strict=True))
    psnr, *ssims = common.QUALITY.values()
    expected = [peak_signal_noise_ratio(*pair, data_range=1) for pair in pairs]
    np.testing.assert_allclose(psnr(originals, copies), expected, rtol=1e-6)
    for ssim, data_range in zip(ssims, (1, 2), strict=True):
        expected = [structural_similarity(*pair, data_range=data_range, channel_axis=-1) for pair in pairs]
        np.testing.assert_allclose(ssim(originals, copies), expected, rtol=1e-6)
    of_copies = [of(originals, originals).max() for of in common.QUALITY.values()]
    assert of_copies == pytest.approx([100, 1, 1])  # which JSON can hold


# --- A new metric is a row of METRICS -------------------------------------------------------------------------------


def second_guess(labels, probabilities):
    """The share of pictures whose class is the first or the second guess: float32, as numpy gives it of float32."""
    guesses = probabilities.argsort(axis=1)[:, -2:]
    return np.float32((guesses == labels[:, None]).any(axis=1).mean())


def precision(labels, probabilities):
    confusion = counts(labels, probabilities)
    return np.float32(np.diag(confusion) / np.maximum(confusion.sum(axis=0), 1))


NEW = {
    "second_guess": common.Metric(second_guess, "in two guesses"),
    "precision": common.Metric(precision, "precision", per_class=True),
    "untitled": common.Metric(second_guess),
}


@pytest.fixture
def new_metrics(monkeypatch):
    """METRICS with NEW in it; compare makes COMPARED of it when it is imported, so it is imported anew."""
    for key, metric in NEW.items():
        monkeypatch.setitem(common.METRICS, key, metric)
    importlib.reload(compare)
    yield
    monkeypatch.undo()
    importlib.reload(compare)


def test_a_new_metric_is_in_reports_and_comparisons_and_older_reports_are_compared_without_it(
    tiny_study, new_metrics, workdir
):
    shutil.copytree(tiny_study, workdir, dirs_exist_ok=True)
    evaluate.main(["--model", "cnn", "--data", "small.npz"])
    found = json.loads((recipes.IMAGES / "small_cnn_report.json").read_text())
    reduced = [f"precision {CLASSES[number]}" for number in (2, 4, 9)]
    assert [*found["summary"]][-4:] == ["in two guesses", *reduced]  # and not what has no title
    for number, figures in found["folds"].items():
        with np.load(recipes.CHECKPOINTS / f"small_cnn_fold{number}_predictions.npz") as saved:
            answers = saved["labels"], saved["probabilities"]
        assert figures["second_guess"] == figures["untitled"] == pytest.approx(second_guess(*answers))
        assert [*figures["precision"].values()] == pytest.approx(precision(*answers))
    both = [figures["second_guess"] for figures in found["folds"].values()]
    assert found["summary"]["in two guesses"] == pytest.approx({"mean": np.mean(both), "std": np.std(both, ddof=1)})
    older = {**found, "run": "small_cnn_older"}
    for figures in (*older["folds"].values(), older["ensemble"]):
        for key in NEW:
            del figures[key]
    (recipes.IMAGES / "small_cnn_older_report.json").write_text(json.dumps(older))
    compare.main([])
    runs = json.loads((recipes.IMAGES / "small_comparison.json").read_text())["runs"]
    assert runs["small_cnn"]["second_guess"] == pytest.approx(found["summary"]["in two guesses"])
    assert set(runs["small_cnn"]["precision"]) == {"bird", "deer", "truck"}
    assert "untitled" not in runs["small_cnn"] and not NEW.keys() & runs["small_cnn_older"].keys()
