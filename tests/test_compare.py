"""The comparison: its statistics against known answers and by simulation, its choice of runs, what it says."""

import json
import os
import re
import shlex
import shutil
import typing

import numpy as np
import pytest
from conftest import CLASSES, ROOT
from scipy import stats

import compare
import curve
import data
import recipes
import runs
from util import plots
from util.cli import InputError
from util.files import file_sha256

IMAGES = 2000
LABELS = np.arange(IMAGES) % 10
AUTOENCODER = "a" * 64
ENCODERS = typing.get_args(recipes.Encoder)
SPLITS = {"train_counts": [], "val_counts": [], "class_names": list(CLASSES)}


def fold_figures(number, settings, right, seed=0):
    """A fold as evaluate.py reports it, of which this share of the test images is right."""
    random = np.random.default_rng([seed, number])
    wrong = random.permutation(IMAGES)[round(right * IMAGES) :]
    predicted = LABELS.copy()
    predicted[wrong] = (LABELS[wrong] + random.integers(1, 10, len(wrong))) % 10
    hits = predicted == LABELS
    record = {
        "settings": settings,
        "data": {
            "source": "cifar10.npz",
            **{key: settings[key] for key in ("sha256", "kept_sha256", "reduced")},
            "train_sha256": f"split {number} of {settings['seed']}",
            **SPLITS,
        },
        "history": {key: [1.0] * 12 for key in ("loss", "val_loss", "accuracy", "val_accuracy")},
        "best_epoch": 7,
        "checkpoint_sha256": f"{seed} {number}",
        "parameters": 2_170_378,
        "trainable_parameters": 2_170_122,
        "seconds": 600.0 + 60 * number,
        "precision": "float32",
        "precision_reason": "the hardware has no fast bfloat16",
        "versions": {"tensorflow": "2"},
        "device": "CPU",
        "code_sha256": "c0de" * 16,
    }
    return {
        "accuracy": float(hits.mean()),
        "macro_f1": float(hits.mean()) - 0.01,
        "calibration_error": 0.02,
        "recall": {name: float(hits[label == LABELS].mean()) for label, name in enumerate(CLASSES)},
        "predicted": " ".join(map(str, predicted)),
        "record": record,
    }


def write(name, right, encoder=None, test_sha256="t", record=None, **changed):
    """Write the report of a run: `right` is {fold: share of the test images that is right}, or a list of them."""
    right = right if isinstance(right, dict) else dict(enumerate(right, 1))
    model = next(model for model in sorted(recipes.MODELS, key=len, reverse=True) if name.startswith(model))
    settings = recipes.RECIPES[changed.get("model", model)].settings.model_dump(mode="json")
    settings |= {"model": model, "epochs": 12, "sha256": "s", "kept_sha256": "k", "reduced": [2, 4, 9]}
    settings |= {"encoder": encoder} if encoder else {}
    settings |= {"encoder_sha256": AUTOENCODER} if encoder in recipes.PRETRAINED else {}
    seed = len(name) + (100 * ENCODERS.index(encoder) if encoder else 0)
    folds = {str(n): fold_figures(n, {**settings, **changed}, share, seed) for n, share in right.items()}
    for fold in folds.values():
        fold["record"] |= record or {}
    data = {"source": "cifar10.npz", "prefix": "", "test_images": IMAGES, "test_sha256": test_sha256}
    report = {"run": name, "data": data, "summary": {}, "folds": folds, "labels": " ".join(map(str, LABELS))}
    if len(folds) > 1:
        report["ensemble"] = {**folds[min(folds)], "accuracy": 0.8123}
    path = recipes.IMAGES / f"{name}_report.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report))
    return path


def edit(name, change):
    """Let `change` change the report of a run in place."""
    path = recipes.IMAGES / f"{name}_report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))


def run(*words):
    compare.main(list(words))
    written = (recipes.IMAGES / "comparison.txt").read_text()
    return {**json.loads((recipes.IMAGES / "comparison.json").read_text()), "text": written}


def pairs(found):
    return {(row["run"], row["baseline"]): row for row in found["comparisons"]}


def trained_here(name, age=0):
    """Let the checkpoint of the first fold of a run's report be here, made `age` seconds before another's."""
    recipes.CHECKPOINTS.mkdir(exist_ok=True)
    path = recipes.CHECKPOINTS / f"{name}_fold1.keras"
    path.write_text(name)
    os.utime(path, (1e9 - age, 1e9 - age))
    for report in recipes.IMAGES.glob(f"**/{name}_report.json"):
        content = json.loads(report.read_text())
        content["folds"]["1"]["record"]["checkpoint_sha256"] = file_sha256(path)
        report.write_text(json.dumps(content))
    return path


PLOTS = plots.plot_differences, plots.plot_recalls  # before `study` replaces them


@pytest.fixture
def study(workdir, monkeypatch):
    """Reports of a CNN, a classifier on an autoencoder, its control, and of that autoencoder.

    Gives what is drawn: [(name of the plot, the data)].
    """
    drawn = []
    for plot in ("plot_differences", "plot_recalls"):
        monkeypatch.setattr(plots, plot, lambda path, *what, plot=plot: (path.touch(), drawn.append((plot, what))))
    write("cnn", [0.70, 0.71, 0.72, 0.71, 0.70])
    write("autoencoder_cls_scratch", [0.74, 0.75, 0.73], "scratch")
    write("autoencoder_cls_noaug", [0.80, 0.805, 0.79], "frozen")
    summary = {"PSNR (dB)": {"mean": 23.04, "std": 1}, "SSIM": {"mean": 0.769, "std": 1}}
    fold = {"record": {"settings": {"target": "augmented"}, "checkpoint_sha256": AUTOENCODER}}
    report = {"run": "autoencoder_noaug", "summary": summary, "folds": {"1": fold}}
    (recipes.IMAGES / "autoencoder_noaug_report.json").write_text(json.dumps(report))
    return drawn


# --- Statistics ---


def test_without_overlap_the_corrected_test_is_students():
    differences = np.random.default_rng(0).normal(1, 2, 9)
    plain = stats.ttest_1samp(differences, 0)
    found = compare.corrected_t_test(differences, 1e-12)
    assert found == pytest.approx((*plain.confidence_interval(0.95), plain.pvalue))


def test_the_correction_is_nadeau_and_bengios():
    # Mean 2, s^2 = 2.5; by hand: variance of the mean 2.5 (1/5 + 15/85), t = 2 / sqrt(0.941176) = 2.06155, 4 degrees.
    low, high, p = compare.corrected_t_test([0, 1, 2, 3, 4], 0.15)
    assert p == pytest.approx(2 * stats.t.sf(2.0615528, 4))
    assert (low, high) == pytest.approx((2 - 2.7764451 * 0.9701425, 2 + 2.7764451 * 0.9701425))


def test_holm_on_a_published_case():
    # p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm") of R's documentation of the method
    assert compare.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert compare.holm([0.6, 0.7]).tolist() == [1, 1]
    assert compare.holm([]).tolist() == []


def test_bootstrap_is_scipys():
    random = np.random.default_rng(1)
    right, other = random.random((3, 500)) < 0.75, random.random((3, 500)) < 0.70
    differences = right.mean(axis=0) - other.mean(axis=0)
    low, high, p = compare.paired_bootstrap(differences)
    expected = stats.bootstrap((differences,), np.mean, n_resamples=10_000, method="percentile", random_state=2)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval), abs=0.003)
    assert p == pytest.approx(2 * (expected.bootstrap_distribution <= 0).mean(), abs=0.03) and 0.05 < p < 0.5
    assert compare.paired_bootstrap(-differences)[2] == pytest.approx(p, abs=0.03)
    assert compare.paired_bootstrap(np.zeros(10)) == (0, 0, 1)


def online_perceptrons(random, studies, gap, folds=5, share=0.15, images=300, features=10):
    """Differences in accuracy, (studies, folds), of two learners whose training sets overlap as those of folds do.

    Each study draws its images anew, two sets of features of them, and `folds` random subsets; a perceptron that goes
    once through a subset in random order learns from each set. The first set tells the classes apart better by `gap`.
    """
    labels, test_labels = (np.where(random.random((studies, count)) < 0.5, -1.0, 1.0) for count in (images, 1000))
    sets = []
    for distance in (1 + gap, 1):
        shift = distance / np.sqrt(features)
        train, test = (random.normal(size=(*y.shape, features)) + shift * y[..., None] for y in (labels, test_labels))
        sets.append((train, test))
    differences, study = np.empty((studies, folds)), np.arange(studies)
    for fold in range(folds):
        subset = np.argsort(random.random((studies, images)), axis=1)[:, : round(images * (1 - share))]
        accuracies = []
        for train, test in sets:
            weights = np.zeros((studies, features))
            for row in random.permuted(subset, axis=1).T:
                x, y = train[study, row], labels[study, row]
                wrong = np.einsum("sf,sf->s", weights, x) * y <= 0
                weights += (wrong * y)[:, None] * x
            accuracies.append((np.einsum("stf,sf->st", test, weights) * test_labels > 0).mean(axis=1))
        differences[:, fold] = accuracies[0] - accuracies[1]
    return differences


def rejected(differences, correlation=0.15):
    return np.mean(compare.corrected_t_test(differences, correlation)[2] < 0.05)


def correlation_between(differences):
    """How the columns of (studies, folds) correlate: the share of the variance that the folds of a study have alike."""
    within = differences.var(axis=1, ddof=1).mean()
    alike = differences.mean(axis=1).var() - within / differences.shape[1]
    return alike / (alike + within)


def test_false_alarms_with_overlapping_training_sets():
    differences = online_perceptrons(np.random.default_rng(0), 1500, gap=0)
    assert abs(differences.mean()) < 0.01  # no difference is planted
    assert rejected(differences) <= 0.07
    assert 0.02 < rejected(differences[:, :3]) < 0.05
    assert 0.05 < correlation_between(differences) < 0.15
    plain = np.mean(stats.ttest_1samp(differences, 0, axis=1).pvalue < 0.05)
    assert plain > 0.08  # what the correction is for


def test_power_against_a_planted_difference():
    differences = online_perceptrons(np.random.default_rng(1), 500, gap=0.4)
    assert 0.09 < differences.mean() < 0.11 and 0.04 < differences.std() < 0.06  # ten points, two deviations
    assert rejected(differences) >= 0.7
    assert 0.4 < rejected(differences[:, :3]) < 0.5
    differences = online_perceptrons(np.random.default_rng(2), 500, gap=0.19)
    assert 0.045 < differences.mean() < 0.06  # one deviation
    assert 0.2 < rejected(differences) < 0.42
    assert 0.1 < rejected(differences[:, :3]) < 0.22


# --- Which runs, against which ---


def test_runs_are_paired_by_their_control(study):
    for encoder in ("random", "tuned"):
        write(f"autoencoder_cls_{encoder}", [0.75, 0.74, 0.74], encoder)
    write("mod_autoencoder_cls", [0.5, 0.5, 0.51], "frozen")
    found = run()
    assert {pair: row["control"] for pair, row in pairs(found).items()} == {
        ("autoencoder_cls_noaug", "autoencoder_cls_scratch"): True,
        ("autoencoder_cls_noaug", "autoencoder_cls_random"): True,
        ("autoencoder_cls_tuned", "autoencoder_cls_scratch"): True,
        ("autoencoder_cls_random", "autoencoder_cls_scratch"): False,
        ("autoencoder_cls_scratch", "cnn"): False,
        ("mod_autoencoder_cls", "cnn"): False,
    }
    # The rows about the question and the others are a family each, of either figure.
    for figure in (lambda row: row, lambda row: row["reduced_minus_others"]):
        for control in (True, False):
            tests = [figure(row)["t_test"] for row in found["comparisons"] if row["control"] == control]
            assert len(tests) == 3
            assert [test["p_holm"] for test in tests] == pytest.approx(compare.holm([test["p"] for test in tests]))


def test_the_same_network_without_an_encoder_is_a_control_too(study):
    write("autoencoder_cls_fast", [0.9, 0.91, 0.92], "frozen", model="autoencoder_cls_fast")
    assert not pairs(run())["autoencoder_cls_fast", "cnn"]["control"]
    write("cnn_fast", [0.88, 0.9, 0.9], model="cnn_fast")
    assert pairs(run())["autoencoder_cls_fast", "cnn_fast"]["control"]
    write("autoencoder_cls_fast_scratch", [0.88, 0.9, 0.9], "scratch", model="autoencoder_cls_fast")
    assert pairs(run())["autoencoder_cls_fast", "autoencoder_cls_fast_scratch"]["control"]


def test_a_control_has_the_same_network(study):
    for name, encoder, blocks in (("", "frozen", 2), ("_scratch", "scratch", 3), ("_scratch_b", "scratch", 2)):
        network = recipes.CaeClassifier(blocks=blocks).model_dump()
        settings = {"model": "autoencoder_cls_cae", "network": network, "val": 0.15, "seed": 0}
        write(f"autoencoder_cls_cae{name}", [0.6], encoder, **settings)
    (control,) = (other for name, other in pairs(run()) if name == "autoencoder_cls_cae")
    assert control == "autoencoder_cls_cae_scratch_b"


def test_of_several_controls_those_of_the_same_name_count_then_those_without_one_then_all(study):
    def controls(name):
        return {other for run, other in pairs(run()) if run == name}

    write("autoencoder_cls_scratch_b", [0.5], "scratch")
    write("autoencoder_cls_noaug_b", [0.6], "frozen")
    write("autoencoder_cls_tuned_c", [0.6], "tuned")
    assert controls("autoencoder_cls_noaug_b") == {"autoencoder_cls_scratch_b"}
    assert controls("autoencoder_cls_tuned_c") == {"autoencoder_cls_scratch"}
    shutil.move("imgs/autoencoder_cls_scratch_report.json", "imgs/old")
    write("autoencoder_cls_scratch_d", [0.5], "scratch")
    assert controls("autoencoder_cls_tuned_c") == {"autoencoder_cls_scratch_b", "autoencoder_cls_scratch_d"}


def test_a_baseline_of_ones_own(study):
    found = run("--baseline=autoencoder_cls_noaug")
    assert {*pairs(found)} == {(name, "autoencoder_cls_noaug") for name in ("autoencoder_cls_scratch", "cnn")}
    write("autoencoder_cls_noaug", {6: 0.8}, "frozen")  # a fold that no other has
    for name in ("other", "cnn"):
        with pytest.raises(InputError):
            run(f"--baseline={name}")
    assert {*pairs(run())} == {("autoencoder_cls_scratch", "cnn")}


@pytest.mark.parametrize(
    ("changed", "what"), [({"labelled": 0.125}, "LABELLED"), ({"kept_sha256": "all", "reduced": []}, "REDUCED")]
)
def test_runs_on_more_or_fewer_of_the_same_pictures_are_compared_where_named_alone(study, changed, what):
    write("cnn_b", [0.8, 0.82, 0.8], **changed)
    assert "cnn_b" in run()["left_out"]
    (row,) = run("--runs=cnn cnn_b")["comparisons"]
    assert (row["run"], row["baseline"]) == ("cnn_b", "cnn") and row["unlike"].startswith(what)
    assert row["reduced_minus_others"]["classes"] == ["bird", "deer", "truck"]


def other_split(report):
    for fold in report["folds"].values():
        fold["record"]["data"]["train_sha256"] = "x"


def other_class(report):
    for fold in report["folds"].values():
        fold["record"]["data"]["class_names"] = ["AIRPLANE", *CLASSES[1:]]
        fold["recall"]["AIRPLANE"] = fold["recall"].pop("airplane")


@pytest.mark.parametrize(
    ("changed", "change"),
    [
        *(({key: "other"}, None) for key in ("sha256", "test_sha256", "split")),
        ({"val": 0.2}, None),
        ({"seed": 1}, None),
        ({}, other_split),
        ({}, other_class),
    ],
)
def test_runs_on_other_data_are_left_out_or_when_asked_for_refused(study, changed, change, capsys):
    write("mod_autoencoder_cls", {1: 0.5}, "frozen", **changed)
    if change:
        edit("mod_autoencoder_cls", change)
    found = run()
    assert list(found["runs"]) == ["autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn"]
    other_pictures = "sha256" in changed  # a reader's own, which the published files do not list
    assert list(found["left_out"]) == ["mod_autoencoder_cls"] * (not other_pictures)
    assert ("mod_autoencoder_cls" in found["text"]) == (not other_pictures)
    assert ("1 run on other pictures" in capsys.readouterr().out) == other_pictures
    with pytest.raises(InputError):
        run("--runs=cnn mod_autoencoder_cls")


def test_the_runs_trained_here_last_go_before_more_that_were_published(study):
    for age, name in enumerate(("cnn_a", "cnn_b", "cnn_c", "cnn_d")):
        write(name, {1: 0.5}, sha256="own" if name in ("cnn_b", "cnn_c") else "older")
        trained_here(name, age if name in ("cnn_b", "cnn_c") else 100)
    assert list(run()["runs"]) == ["cnn_b", "cnn_c"]
    for name in ("cnn_b", "cnn_c", "cnn_d"):  # one run alone compares with nothing
        (recipes.IMAGES / f"{name}_report.json").unlink()
    assert list(run()["runs"]) == ["autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn"]


def test_data_names_the_pictures(study):
    for name in ("cnn_a", "cnn_b"):
        write(name, {1: 0.5}, sha256=data.load_data("digits").sha256)
    assert list(run("--data=digits")["runs"]) == ["cnn_a", "cnn_b"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("cnn gone", "none of its 4 has"),
        ("cnn autoencoder_cls_noag", "near it are autoencoder_cls_noaug, autoencoder_cls_scratch$"),
        *(("cnn", "takes two"), ("cnn cnn", "takes two"), ("cnn broken", "evaluate that run again")),
        *(("cnn autoencoder_noaug", "reconstruct"), ("cnn turns", "quarter turns")),
        ("cnn cnn_twice", "imgs/a/cnn_twice_report.json and imgs/b/cnn_twice_report.json are of this name"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(study, words, reason):
    (recipes.IMAGES / "broken_report.json").write_text("{")
    write("cnn_turns", [0.9], task="turns").rename("imgs/turns_report.json")
    for folder in (recipes.IMAGES / "a", recipes.IMAGES / "b"):
        folder.mkdir()
        write("cnn_twice", [0.9]).rename(folder / "cnn_twice_report.json")
    with pytest.raises(InputError, match=reason):
        run(f"--runs={words}")
    assert not (recipes.IMAGES / "comparison.json").exists()


def test_runs_that_are_named_may_lie_in_a_folder_but_those_in_imgs_itself_go_before(study):
    folder = recipes.IMAGES / "more"
    folder.mkdir()
    for name in ("cnn_other", "cnn"):
        path = write(name, [0.6, 0.61, 0.62]).rename(folder / f"{name}_report.json")
    trained_here("cnn_other")  # whose report lies in that folder
    (folder / "broken_report.json").write_text("{")
    write("cnn", [0.70, 0.71, 0.72])
    found = run()
    assert "cnn_other" not in found["runs"] and not found["left_out"] and path.exists()
    assert pairs(run("--runs=cnn cnn_other"))["cnn_other", "cnn"]["mean"] == pytest.approx(-0.1)


def first(report):
    return report["folds"]["1"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.update(folds={}),
        lambda report: report.update(labels=report["labels"].replace("1", "2")),
        lambda report: first(report)["recall"].pop("bird"),
        lambda report: first(report)["record"]["settings"].update(reduced=[77]),
        lambda report: first(report).update(record=None),
        lambda report: first(report)["record"]["settings"].update(task="turns"),
    ],
)
def test_a_report_that_cannot_be_used_is_left_out(study, damage):
    write("mod_autoencoder_cls", [0.5, 0.5], "frozen")
    edit("mod_autoencoder_cls", damage)
    found = run()
    assert list(found["left_out"]) == ["mod_autoencoder_cls"] and len(found["runs"]) == 3


def test_what_is_not_evaluated_or_was_trained_again_is_printed_alone(study, capsys):
    names = ("cnn_fold1", "cnn_fold6", "cnn_new_fold1")
    for name in names:
        trained_here(name.removesuffix("_fold1")).rename(recipes.CHECKPOINTS / f"{name}.keras").write_text(name)
    for words in ([], ["--runs=cnn autoencoder_cls_noaug"]):
        found = run(*words)
        assert ", ".join(names) in capsys.readouterr().out
        assert not any(name in found["text"] for name in names) and not found["left_out"]


# --- What it says ---


@pytest.mark.parametrize(
    "script, name",
    [(compare, "comparison"), (compare, "comparison_halved"), (compare, "comparison_fair"), (curve, "curve_fair")],
)
def test_what_is_published_of_several_runs_is_of_their_reports(workdir, script, name):
    published = ROOT / "imgs"
    for folder in ("halved", "fair", "tried"):
        shutil.copytree(published / folder, recipes.IMAGES / folder)
    for path in published.glob("[!d]*_report.json"):  # those of digits are a reader's own
        shutil.copy(path, recipes.IMAGES)
    suffix = name.partition("_")[2]
    text = (ROOT / "docs" / ("fair.sh" if suffix == "fair" else "comparing.md")).read_text(encoding="utf-8")
    command = re.search(rf"^make {script.__name__} .*NAME={suffix}$", text, re.MULTILINE) if suffix else None
    typed = shlex.split(command[0])[2:] if command else []
    script.main([f"--{knob.lower()}={value}" for knob, _, value in (word.partition("=") for word in typed)])
    assert (recipes.IMAGES / f"{name}.txt").read_bytes() == (published / f"{name}.txt").read_bytes()
    found, expected = (
        # The last digits may be others with another processor or version of numpy.
        json.loads((folder / f"{name}.json").read_text(), parse_float=lambda text: float(f"{float(text):.12g}"))
        for folder in (recipes.IMAGES, published)
    )
    assert found == expected


def test_figures_are_over_the_folds_that_both_have(study):
    found = run()
    row = pairs(found)["autoencoder_cls_scratch", "cnn"]
    assert row["folds"] == [1, 2, 3] and row["differences"] == pytest.approx([0.04, 0.04, 0.01])
    expected = compare.corrected_t_test([0.04, 0.04, 0.01], 0.15)
    assert [row["t_test"][key] for key in ("low", "high", "p")] == pytest.approx(expected)
    assert row["bootstrap"]["low"] < 0.03 < row["bootstrap"]["high"]
    cnn = found["runs"]["cnn"]
    assert "(23.0 dB, 0.769)" in found["text"] and "calibration" not in found["text"]
    assert cnn["accuracy"] == pytest.approx({"mean": 0.708, "std": np.std([0.70, 0.71, 0.72, 0.71, 0.70], ddof=1)})
    assert cnn["minutes"]["mean"] == pytest.approx(13) and cnn["epochs"]["mean"] == 12


def test_the_reduced_classes_are_compared_with_the_others(study):
    def contrast(name, fold):
        recall = json.loads((recipes.IMAGES / f"{name}_report.json").read_text())["folds"][fold]["recall"]
        reduced = [recall.pop(name) for name in ("bird", "deer", "truck")]
        return np.mean(reduced) - np.mean([*recall.values()])

    row = pairs(run())["autoencoder_cls_noaug", "autoencoder_cls_scratch"]["reduced_minus_others"]
    names = "autoencoder_cls_noaug", "autoencoder_cls_scratch"
    expected = np.array([np.subtract(*(contrast(name, fold) for name in names)) for fold in "123"])
    assert row["differences"] == pytest.approx(expected)
    low, high, p = compare.corrected_t_test(expected, 0.15)
    assert [row["t_test"][key] for key in ("low", "high", "p")] == pytest.approx((low, high, p))
    assert f"{100 * low:+.1f} to {100 * high:+.1f}" in run()["text"]
    for name in ("cnn", "cnn_b"):  # where no class is reduced there is no such row
        write(name, [0.7, 0.72, 0.73], reduced=[])
    assert [row["reduced_minus_others"] for row in run("--runs=cnn cnn_b")["comparisons"]] == [None]


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ([0.80, 0.805, 0.79], "better"),
        ([0.60, 0.61, 0.60], "worse"),
        ([0.70, 0.80, 0.74], "no difference shown"),
        ([0.80, 0.805], "not tested: fewer than three folds"),
        ([0.75, 0.76, 0.74], "not tested: the same difference on every fold"),
    ],
)
def test_verdicts(study, right, verdict):
    write("autoencoder_cls_noaug", right, "frozen")
    row = pairs(run())["autoencoder_cls_noaug", "autoencoder_cls_scratch"]
    assert row["verdict"] == verdict and (row["t_test"] is None) == verdict.startswith("not tested")


def test_the_verdict_is_by_the_p_that_is_adjusted_for_the_rows_about_the_question(study):
    # Alone, p = .0304; with another encoder against the same control, whose p is larger, Holm's is twice that.
    write("autoencoder_cls_noaug", [0.78, 0.785, 0.785], "frozen")
    write("autoencoder_cls_scratch", [0.75, 0.74, 0.735], "scratch")
    write("cnn", [0.74, 0.76, 0.73])
    for p_holm, said in ((0.0304, "better"), (0.0607, "no difference shown")):
        row = pairs(run())["autoencoder_cls_noaug", "autoencoder_cls_scratch"]
        assert row["t_test"]["p_holm"] == pytest.approx(p_holm, abs=1e-4) and row["verdict"] == said
        write("autoencoder_cls_tuned", [0.74, 0.76, 0.73], "tuned")


@pytest.mark.parametrize(
    ("record", "other", "expected"),
    [
        ({}, {}, []),
        ({"code_sha256": "d" * 64, "device": "H200"}, {}, ["processor", "by other code"]),
        ({"precision": "mixed_bfloat16"}, {}, ["processor"]),
        ({"precision_reason": "the hardware has amx_bf16"}, {}, ["processor"]),
        ({"versions": {"jax": "1"}}, {}, ["processor"]),
        ({"code_sha256": ""}, {}, ["perhaps"]),
        ({"code_sha256": "", "commit": "1a"}, {"code_sha256": "", "commit": "1a"}, []),
        ({"code_sha256": "", "commit": "1a+"}, {"code_sha256": "", "commit": "1a+"}, ["perhaps"]),
        ({"code_sha256": "", "commit": None}, {"code_sha256": ""}, ["perhaps"]),
    ],
)
def test_other_code_and_processors_are_said(study, record, other, expected, capsys):
    write("autoencoder_cls_scratch", [0.74, 0.75, 0.73], "scratch", record=other)
    write("autoencoder_cls_noaug", [0.80, 0.805, 0.79], "frozen", record=record)
    (row,) = run("--runs=autoencoder_cls_noaug autoencoder_cls_scratch")["comparisons"]
    assert [word in said for word, said in zip(expected, row["trained_unlike"], strict=True)] == [True] * len(expected)
    assert ("by other code" in capsys.readouterr().out) == any(word != "processor" for word in expected)


def test_folds_of_one_run_may_be_of_different_code(study):
    edit("cnn", lambda report: report["folds"]["2"]["record"].update(code_sha256="d" * 64))
    found = run()
    assert found["runs"]["cnn"]["code"] == {"c0dec0de": [1, 3, 4, 5], "dddddddd": [2]}
    assert pairs(found)["autoencoder_cls_scratch", "cnn"]["trained_unlike"] == ["by other code (fold 2)"]


def test_drawn_are_the_comparisons_with_a_control_where_there_are_any_and_no_older_figure_stays(study):
    run()
    run("--runs=cnn autoencoder_cls_scratch")
    (recipes.IMAGES / "comparison.png").touch()
    for name in ("cnn_a", "cnn_b"):
        write(name, {1: 0.7}, sha256="own")
        trained_here(name)
    assert run()["comparisons"] == [] and not (recipes.IMAGES / "comparison.png").exists()
    drawn = [[row["run"] for row in rows] for plot, (rows, *_) in study if plot == "plot_differences"]
    assert drawn == [["autoencoder_cls_noaug"], ["autoencoder_cls_scratch"]]


FROZEN = {"model": "autoencoder_cls", "encoder": "frozen"}
TUNED = {**FROZEN, "encoder": "tuned", "encoder_rate_factor": 0.03}


@pytest.mark.parametrize(
    ("name", "settings", "source", "words"),
    [
        ("my_cnn_fast_all", {"model": "cnn_fast"}, "", "fast CNN from scratch (all)"),
        ("autoencoder_cls_random", {**FROZEN, "encoder": "random"}, "", "deeper CNN on random, frozen layers"),
        ("my_autoencoder_cls_tuned_original_demo", TUNED, "my_autoencoder_original", "x 0.03) of an autoencoder"),
        ("my_autoencoder_cls_tuned_original_demo", TUNED, "my_autoencoder_original", "to undo augmentation (demo)"),
        ("autoencoder_cls", {**FROZEN, "encoder_sha256": "t"}, "", "on frozen layers of a network that learnt quarter"),
        ("autoencoder_cls", {**FROZEN, "encoder_sha256": "c"}, "", "supervised"),
        ("autoencoder_cls", FROZEN, "cnn_x", "frozen layers of cnn_x"),
        ("of_mine", {"model": "of_mine"}, "", "of_mine"),
    ],
)
def test_runs_are_called_by_words(name, settings, source, words):
    record = {"settings": settings, "encoder_from": source}
    assert words in runs.in_words(name, record, "my", runs.learnt_before(record, {"t": "turns", "c": "classes"}))


@pytest.fixture
def draw(monkeypatch):
    """draw(plot, what it takes...): the axes and the figure that it draws."""
    figures = []
    monkeypatch.setattr(plots, "write_atomically", lambda path, save: figures.append(save.__self__))

    def draw(plot, *what):
        plot("figure.png", *what)
        return figures[-1].axes[0], figures[-1]

    return draw


def test_the_figure_shows_the_figures_and_names_the_runs_in_words(study, draw):
    compared, words = run()["comparisons"], dict(study)["plot_differences"][1]
    axes, _ = draw(PLOTS[0], compared, words)
    by_label = {}
    for line in axes.lines:
        by_label.setdefault(line.get_label(), []).append(np.array(line.get_xdata()) / 100)
    assert len(by_label["mean"]) == len(compared)
    for place, row in enumerate(compared):
        assert by_label["each fold"][place] == pytest.approx(row["differences"])
        assert by_label["mean"][place] == pytest.approx(row["mean"])
        for label, found in (("over folds", row["t_test"]), ("over test images", row["bootstrap"])):
            assert by_label[f"95 % interval {label}"][place] == pytest.approx([found["low"], found["high"]])
        (said,) = (text.get_text() for text in axes.texts if f"{words[row['run']]}, 3 folds" in text.get_text())
        assert words[row["baseline"]] in said
    axes, _ = draw(PLOTS[0], compared[:1], words)
    assert words[compared[0]["baseline"]] in axes.get_xlabel()


def test_the_plot_of_recalls_shows_the_recalls(study, draw):
    found = run()
    axes, figure = draw(PLOTS[1], found["runs"].values(), found["reduced"])
    expected = [
        value
        for figures in found["runs"].values()
        for value in (*(figures["recall"][name] for name in ("bird", "deer", "truck")), figures["accuracy"])
    ]
    for (middle, _, (bar,)), value in zip(axes.containers, expected, strict=True):
        (low, _), (high, _) = bar.get_segments()[0]
        ends = [100 * (value["mean"] + sign * value["std"]) for sign in (-1, 1)]
        assert [low, middle.get_xdata()[0], high] == pytest.approx([ends[0], 100 * value["mean"], ends[1]])
    assert [text.get_text().split()[-1] for text in figure.legends[0].get_texts()] == [*found["reduced"], "classes"]
    shown = [label.get_text().replace("\n", " ") for label in axes.get_yticklabels()]
    assert shown == [figures["words"] for figures in found["runs"].values()]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target": "augmented", "noise": 0.0, "masked": 0.0}, "an autoencoder"),
        ({"target": "augmented", "noise": 0.2, "masked": 0.0}, "a denoising autoencoder"),
        ({"target": "original", "noise": 0.0, "masked": 0.5}, "a masked autoencoder"),
        ({"task": "turns"}, "a network that learnt quarter turns"),
    ],
)
def test_a_source_is_called_by_what_it_learnt(settings, words):
    assert runs.LEARNT[runs.learnt({"settings": settings})] == words
