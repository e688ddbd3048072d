"""The metrics: each against scikit-learn or scikit-image, or counted by hand; that a new one is a row of METRICS."""

import contextlib
import importlib
import json
import shutil
import zlib

import numpy as np
import pytest
from conftest import CLASSES, ROOT
from keras import layers
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from sklearn import metrics
from sklearn.calibration import calibration_curve

import common
import compare
import evaluate
import recipes
import runs
import training
from util import plots

# --- Of classifiers -------------------------------------------------------------------------------------------------


LEAST = np.finfo(np.float64).eps  # that scikit-learn's log_loss takes a probability for


def counts(labels, probabilities):
    """The confusion matrix, counted by hand: (true class, predicted class)."""
    found = np.zeros((probabilities.shape[1],) * 2)
    np.add.at(found, (labels, probabilities.argmax(axis=1)), 1)
    return found


def recall_by_hand(labels, probabilities):
    confusion = counts(labels, probabilities)
    return np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)


def macro_f1_by_hand(labels, probabilities):
    confusion = counts(labels, probabilities)
    both = confusion.sum(axis=0) + confusion.sum(axis=1)
    return np.mean(2 * np.diag(confusion) / np.maximum(both, 1))


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
    "accuracy": lambda labels, probabilities: np.trace(counts(labels, probabilities)) / len(labels),
    "loss": loss_by_hand,
    "macro_f1": macro_f1_by_hand,
    "recall": recall_by_hand,
    "calibration_error": calibration_by_sklearn,
}
BY_SKLEARN = {
    "accuracy": metrics.accuracy_score,
    "macro_f1": lambda *both: metrics.f1_score(*both, average="macro", zero_division=0),
    "recall": lambda *both: metrics.recall_score(*both, average=None, zero_division=0),
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


def test_every_metric_is_tested():
    assert list(common.METRICS) == list(EXPECTED)


@pytest.mark.parametrize("key", common.METRICS)
@pytest.mark.parametrize(("count", "classes", "never"), [(1000, 10, ()), (1000, 10, (2, 9)), (37, 3, ()), (2, 2, (1,))])
def test_a_metric_is_what_is_counted_by_hand_and_what_sklearn_finds(key, count, classes, never):
    labels, probabilities = answers(count, classes, never)
    metric = common.METRICS[key]
    found = metric.of(labels, probabilities)
    assert np.shape(found) == ((classes,) if metric.per_class else ())
    assert found == pytest.approx(EXPECTED[key](labels, probabilities), rel=1e-9)
    if key in BY_SKLEARN:
        assert found == pytest.approx(BY_SKLEARN[key](labels, probabilities.argmax(axis=1)), rel=1e-12)


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


def noise(random, count):
    return random.random((2, count, 32, 32, 3))


def smooth(random, count):
    """Waves, and nearly the same: variances near 0, where rounding shows."""
    y, x = np.mgrid[:32, :32] / 32
    waves = np.sin(random.uniform(0, 3, (count, 1, 1, 3)) * x[..., None] + random.uniform(0, 3, (count, 1, 1, 3)))
    originals = 0.5 + 0.4 * waves * np.cos(y)[..., None]
    return originals, np.clip(originals + random.normal(0, 1e-3, originals.shape), 0, 1)


def flat(random, count):
    """Of one colour each, so without any variance."""
    return np.broadcast_to(random.random((2, count, 1, 1, 3)), (2, count, 32, 32, 3))


def darker(random, count):
    """Patterns, and the same at half the brightness and somewhat noisy."""
    originals = random.uniform(0, 1, (count, 4, 4, 3)).repeat(8, axis=1).repeat(8, axis=2)
    return originals, np.clip(0.5 * originals + random.normal(0, 0.05, originals.shape), 0, 1)


@pytest.fixture(params=[noise, smooth, flat, darker])
def pictures(request):
    """Float32 originals and copies, as evaluate.py has them."""
    return [np.float32(one) for one in request.param(np.random.default_rng(zlib.crc32(b"pictures")), 20)]


@pytest.mark.parametrize("data_range", [1, 2])
def test_ssim_is_scikit_images(pictures, data_range):
    found = common.ssim(*pictures, data_range)
    exact = zip(*np.float64(pictures), strict=True)
    expected = [structural_similarity(*pair, data_range=data_range, channel_axis=-1) for pair in exact]
    assert found.shape == (20,)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_psnr_is_scikit_images(pictures):
    found = common.psnr(*pictures)
    exact = zip(*np.float64(pictures), strict=True)
    expected = [peak_signal_noise_ratio(*pair, data_range=1) for pair in exact]
    assert found.shape == (20,)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)


def test_an_exact_copy(pictures):
    originals, _ = pictures
    for data_range in (1, 2):
        np.testing.assert_allclose(common.ssim(originals, originals, data_range), 1, rtol=0, atol=1e-12)
    assert np.all(common.psnr(originals, originals) == np.inf)  # and no warning of a division by 0


def test_a_picture_has_the_same_figures_alone_and_among_others(pictures):
    for of in common.QUALITY.values():
        together = of(*pictures)
        alone = [of(*(one[number : number + 1] for one in pictures))[0] for number in range(20)]
        np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_the_figures_of_an_autoencoder_and_their_titles():
    originals, copies = np.float32(noise(np.random.default_rng(0), 3))
    found = {title: of(originals, copies).tolist() for title, of in common.QUALITY.items()}
    assert found == {
        "PSNR (dB)": common.psnr(originals, copies).tolist(),
        "SSIM": common.ssim(originals, copies, 1).tolist(),
        "SSIM with the reference's data_range=2": common.ssim(originals, copies, 2).tolist(),
    }


# --- A row of METRICS is all that a new one takes -------------------------------------------------------------------


def second_guess(labels, probabilities):
    """The share of pictures whose class is the first or the second guess: float32, as numpy gives it of float32."""
    guesses = probabilities.argsort(axis=1)[:, -2:]
    return np.float32((guesses == labels[:, None]).any(axis=1).mean())


def precision(labels, probabilities):
    confusion = counts(labels, probabilities)
    return np.float32(np.diag(confusion) / np.maximum(confusion.sum(axis=0), 1))


def brier(labels, probabilities):
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1).mean()


NEW = {
    "second_guess": common.Metric(second_guess, "in two guesses"),
    "precision": common.Metric(precision, "precision", per_class=True),
    "brier": common.Metric(brier),
}
RUNS = {"small_cnn": [], "small_cnn_b": ["--name", "b"]}


def build_tiny(x, classes):
    x = layers.AveragePooling2D(8, name="pool")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(layers.Flatten(name="flatten")(x))


@pytest.fixture(scope="module")
def new_metrics():
    """METRICS with NEW in it; compare makes its form of reports when it is imported, so it is imported anew."""
    with pytest.MonkeyPatch.context() as patch:
        for key, metric in NEW.items():
            patch.setitem(common.METRICS, key, metric)
        importlib.reload(compare)
        yield
    importlib.reload(compare)


@pytest.fixture(scope="module")
def evaluated(npz, new_metrics, tmp_path_factory):
    """A folder in which two folds of a tiny network were trained, evaluated, and once more as another run."""
    folder = tmp_path_factory.mktemp("evaluated")
    recipe = recipes.row(build_tiny, model="cnn", epochs=2, batch_size=16, learning_rate=0.02)
    with contextlib.chdir(folder):
        for fold in (1, 2):
            run = runs.Run("small_cnn", fold)
            training.train(recipe, run, common.prepare_fold(str(npz), recipe.settings, fold))
            for suffix in (".keras", ".json"):
                shutil.copy(run.path(suffix), runs.Run("small_cnn_b", fold).path(suffix))
        for words in RUNS.values():
            evaluate.main(["--model", "cnn", "--data", str(npz), *words])
    return folder


@pytest.fixture
def study(evaluated, workdir):
    """That, in a working directory of the test's own."""
    shutil.copytree(evaluated, workdir, dirs_exist_ok=True)


def report(name):
    return json.loads((recipes.IMAGES / f"{name}_report.json").read_text())


def table_of(text):
    """The first table of the comparison: {title of a column: word} of each row."""
    lines = [line for line in text.split("\n\n")[0].splitlines() if not line.startswith("|-")]
    titles, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return [dict(zip(titles, row, strict=True)) for row in rows]


TITLES = ["accuracy", "macro F1", *(f"recall {name}" for name in ("bird", "deer", "truck")), "calibration error"]
NEW_TITLES = ["in two guesses", *(f"precision {name}" for name in ("bird", "deer", "truck"))]


def test_a_row_of_metrics_is_all_that_a_new_one_takes(study):
    for name in RUNS:
        found, text = report(name), (recipes.IMAGES / f"{name}_report.txt").read_text()
        assert list(found["summary"]) == [*TITLES, *NEW_TITLES]
        for number, figures in found["folds"].items():
            with np.load(recipes.CHECKPOINTS / f"{name}_fold{number}_predictions.npz") as saved:
                labels, probabilities = saved["labels"], saved["probabilities"]
            assert figures["second_guess"] == pytest.approx(second_guess(labels, probabilities))
            assert figures["precision"] == pytest.approx(
                dict(zip(CLASSES, precision(labels, probabilities), strict=True))
            )
            assert figures["brier"] == pytest.approx(brier(labels, probabilities))
        assert {*NEW} < found["ensemble"].keys()
        values = {"in two guesses": [fold["second_guess"] for fold in found["folds"].values()]} | {
            f"precision {name}": [fold["precision"][name] for fold in found["folds"].values()]
            for name in ("bird", "deer", "truck")
        }
        for title in NEW_TITLES:
            spread = plots.spread(values[title])
            assert found["summary"][title] == pytest.approx(spread)
            assert f"\n{title:<20} {plots.show(spread, 4)}\n" in text
        assert "brier" not in text.lower()

    compare.main([])
    compared = json.loads((recipes.IMAGES / "small_comparison.json").read_text())
    assert (recipes.IMAGES / "small_comparison.txt").read_text() == compared["text"] + "\n"
    rows = table_of(compared["text"])
    assert [row["run"] for row in rows] == ["small_cnn_b", "small_cnn"]
    for (name, figures), row in zip(compared["runs"].items(), rows, strict=True):
        assert [title for title in row if title in {*TITLES, *NEW_TITLES}] == [*TITLES[:-1], *NEW_TITLES]
        summary, ensemble = report(name)["summary"], report(name)["ensemble"]
        assert figures["second_guess"] == pytest.approx(summary["in two guesses"])
        assert row["in two guesses"] == plots.show(summary["in two guesses"], 3)
        assert figures["ensemble"]["second_guess"] == ensemble["second_guess"]
        for of in ("bird", "deer", "truck"):
            assert figures["precision"][of] == pytest.approx(summary[f"precision {of}"])
            assert row[f"precision {of}"] == plots.show(summary[f"precision {of}"], 3)
            assert figures["ensemble"]["precision"][of] == ensemble["precision"][of]
        assert figures["ensemble"].keys() > {"second_guess", "precision"}
        assert "brier" not in {*figures, *figures["ensemble"]}


def test_reports_that_are_older_than_a_metric_are_compared_without_it(workdir, new_metrics):
    recipes.IMAGES.mkdir()
    for path in ROOT.glob("imgs/[!d]*_report.json"):  # those of digits are a reader's own
        shutil.copy(path, recipes.IMAGES)
    compare.main([])
    assert (recipes.IMAGES / "comparison.txt").read_bytes() == (ROOT / "imgs/comparison.txt").read_bytes()


def test_a_report_that_has_a_metric_beside_one_that_is_older(study):
    path = recipes.IMAGES / "small_cnn_report.json"
    content = json.loads(path.read_text())
    for figures in (*content["folds"].values(), content["ensemble"]):
        for key in NEW:
            del figures[key]
    path.write_text(json.dumps(content))
    compare.main([])
    rows = table_of((recipes.IMAGES / "small_comparison.txt").read_text())
    assert [bool(row["in two guesses"]) for row in rows] == [True, False]
    assert all(row["accuracy"] and row["recall bird"] for row in rows)
