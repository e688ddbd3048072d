"""The comparison: its statistics against known answers and by simulation, its choice of runs, what it says."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import typing

import numpy as np
import pytest
from conftest import CLASSES, ROOT
from scipy import stats

import common
import compare
import curve
import recipes
from util import plots
from util.cli import InputError

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
        "device": "CPU",
    }
    return {
        "accuracy": float(hits.mean()),
        "macro_f1": float(hits.mean()) - 0.01,
        "calibration_error": 0.02,
        "recall": {name: float(hits[label == LABELS].mean()) for label, name in enumerate(CLASSES)},
        "predicted": " ".join(map(str, predicted)),
        "record": record,
    }


def write(name, right, encoder=None, test_sha256="t", **changed):
    """Write the report of a run: `right` is {fold: share of the test images that is right}."""
    model = next(model for model in sorted(recipes.MODELS, key=len, reverse=True) if name.startswith(model))
    settings = {"model": model, "seed": 0, "val": 0.15, "epochs": 12, "sha256": "s", "kept_sha256": "k"}
    settings |= {"reduced": [2, 4, 9], "encoder": encoder} if encoder else {"reduced": [2, 4, 9]}
    settings |= {"encoder_sha256": AUTOENCODER} if encoder in recipes.PRETRAINED else {}
    folds = {
        str(number): fold_figures(number, {**settings, **changed}, share, seed=len(name) + encoder_number(encoder))
        for number, share in right.items()
    }
    data = {"source": "cifar10.npz", "prefix": "", "test_images": IMAGES, "test_sha256": test_sha256}
    report = {
        "run": name,
        "data": data,
        "summary": {"accuracy": {}},
        "folds": folds,
        "labels": " ".join(map(str, LABELS)),
    }
    if len(folds) > 1:
        report["ensemble"] = {**folds["1"], "accuracy": 0.8123}
    path = recipes.IMAGES / f"{name}_report.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report))
    return path


def encoder_number(encoder):
    return 100 * ENCODERS.index(encoder) if encoder else 0


def run(words=()):
    compare.main(list(words))
    return json.loads((recipes.IMAGES / "comparison.json").read_text())


@pytest.fixture
def study(workdir):
    """Reports of a CNN, a classifier on an autoencoder, its control, and of that autoencoder."""
    write("cnn", dict(enumerate([0.70, 0.71, 0.72, 0.71, 0.70], 1)))
    write("autoencoder_cls_scratch", dict(enumerate([0.74, 0.75, 0.73], 1)), "scratch")
    write("autoencoder_cls_noaug", dict(enumerate([0.80, 0.805, 0.79], 1)), "frozen")
    summary = {"PSNR (dB)": {"mean": 23.04, "std": 1}, "SSIM": {"mean": 0.769, "std": 1}}
    record = {"checkpoint_sha256": AUTOENCODER}
    report = {"run": "autoencoder_noaug", "summary": summary, "folds": {"1": {"record": record}}}
    (recipes.IMAGES / "autoencoder_noaug_report.json").write_text(json.dumps(report))
    return workdir


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
    share_below = (expected.bootstrap_distribution <= 0).mean()
    assert p == pytest.approx(2 * share_below, abs=0.03)
    assert 0.05 < p < 0.5
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


def rejected(differences):
    return np.mean([compare.corrected_t_test(one, 0.15)[2] < 0.05 for one in differences])


def test_false_alarms_with_overlapping_training_sets():
    differences = online_perceptrons(np.random.default_rng(0), 1500, gap=0)
    assert abs(differences.mean()) < 0.01  # no difference is planted
    assert rejected(differences) <= 0.07
    assert 0.02 < rejected(differences[:, :3]) < 0.05
    assert 0.05 < np.mean(stats.ttest_1samp(differences[:, :3], 0, axis=1).pvalue < 0.05) < 0.065
    between, within = differences.mean(axis=1).var(), differences.var(axis=1, ddof=1).mean()
    assert 0.05 < (between - within / 5) / (between - within / 5 + within) < 0.15  # how folds' differences correlate
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


def test_each_against_its_control_and_the_control_against_the_cnn(study):
    found = run()
    pairs = {(row["run"], row["baseline"]): row["control"] for row in found["comparisons"]}
    assert pairs == {
        ("autoencoder_cls_noaug", "autoencoder_cls_scratch"): True,
        ("autoencoder_cls_scratch", "cnn"): False,
    }


def test_a_frozen_encoder_is_compared_with_a_random_one_too(study):
    write("autoencoder_cls_random", dict(enumerate([0.75, 0.74, 0.74], 1)), "random")
    write("autoencoder_cls_tuned", dict(enumerate([0.85, 0.855, 0.84], 1)), "tuned")
    found = run()
    pairs = {(row["run"], row["baseline"]): row["control"] for row in found["comparisons"]}
    assert pairs == {
        ("autoencoder_cls_noaug", "autoencoder_cls_scratch"): True,
        ("autoencoder_cls_noaug", "autoencoder_cls_random"): True,
        ("autoencoder_cls_tuned", "autoencoder_cls_scratch"): True,
        ("autoencoder_cls_random", "autoencoder_cls_scratch"): False,
        ("autoencoder_cls_scratch", "cnn"): False,
    }
    text = " ".join(found["text"].split())
    assert text.count("This includes what freezing costs.") == 1
    assert re.search(r"than autoencoder_cls_scratch \([^)]*\)\. This includes what freezing costs\. autoenc", text)
    first, _, besides = text.partition("Besides: ")
    assert "autoencoder_cls_noaug is better than autoencoder_cls_random (" in first
    assert "autoencoder_cls_random is not shown to differ from autoencoder_cls_scratch (" in besides


def test_an_older_record_without_encoder_is_of_a_frozen_one(study):
    path = write("mod_autoencoder_cls", {1: 0.5, 2: 0.55, 3: 0.52}, "frozen")
    write("mod_autoencoder_cls_scratch", {1: 0.6, 2: 0.64, 3: 0.62}, "scratch")
    path.write_text(path.read_text().replace('"encoder": "frozen", ', ""))
    row = next(row for row in run()["comparisons"] if row["run"] == "mod_autoencoder_cls")
    assert (row["baseline"], row["control"]) == ("mod_autoencoder_cls_scratch", True)


def test_without_a_control_against_the_cnn_and_no_answer(study):
    (recipes.IMAGES / "autoencoder_cls_scratch_report.json").unlink()
    found = run()
    assert [(row["run"], row["baseline"]) for row in found["comparisons"]] == [("autoencoder_cls_noaug", "cnn")]
    assert "Whether a pretrained encoder helps cannot be concluded" in " ".join(found["text"].split())


def test_a_baseline_of_ones_own(study):
    found = run(["--baseline", "autoencoder_cls_noaug"])
    assert {(row["run"], row["baseline"]) for row in found["comparisons"]} == {
        ("autoencoder_cls_scratch", "autoencoder_cls_noaug"),
        ("cnn", "autoencoder_cls_noaug"),
    }
    text = " ".join(found["text"].split())
    assert (
        "help, compared with the same network without? autoencoder_cls_scratch is worse than autoencoder_cls_noaug"
        in text
    )
    with pytest.raises(InputError, match=r"BASELINE=other is none of the runs compared: .*cnn"):
        run(["--baseline", "other"])


def test_the_control_of_the_same_name_is_the_nearest(study):
    write("autoencoder_cls_scratch_b", {1: 0.5}, "scratch")
    write("autoencoder_cls_noaug_b", {1: 0.6}, "frozen")
    write("cnn_b", {1: 0.6})
    pairs = {row["run"]: row["baseline"] for row in run()["comparisons"]}
    assert pairs["autoencoder_cls_noaug"] == "autoencoder_cls_scratch"
    assert pairs["autoencoder_cls_noaug_b"] == "autoencoder_cls_scratch_b"
    assert pairs["autoencoder_cls_scratch_b"] == "cnn_b"


def test_the_same_network_without_an_autoencoder_is_a_control(study):
    write("autoencoder_cls_fast", {1: 0.9, 2: 0.91, 3: 0.92}, "frozen", model="autoencoder_cls_fast")
    assert dict(pairs_of(run()))["autoencoder_cls_fast"] == ("cnn", False)
    write("cnn_fast", {1: 0.88, 2: 0.9, 3: 0.9}, model="cnn_fast")
    found = run()
    assert dict(pairs_of(found))["autoencoder_cls_fast"] == ("cnn_fast", True)
    assert "without? autoencoder_cls_fast" in " ".join(found["text"].split())
    write("autoencoder_cls_fast_scratch", {1: 0.88, 2: 0.9, 3: 0.9}, "scratch", model="autoencoder_cls_fast")
    assert dict(pairs_of(run()))["autoencoder_cls_fast"] == ("autoencoder_cls_fast_scratch", True)


@pytest.mark.parametrize(
    ("changed", "what", "said"),
    [
        ({"labelled": 0.125}, "LABELLED", "LABELLED 0.125 and 1.0"),
        ({"kept_sha256": "all", "reduced": []}, "the images kept of reduced classes", "REDUCED [] and [2, 4, 9]"),
    ],
)
def test_runs_on_other_training_images_are_compared_where_named_alone(study, changed, what, said):
    write("cnn_b", {1: 0.8, 2: 0.82, 3: 0.8}, **changed)
    assert run()["left_out"] == {"cnn_b": f"{what} differ"}
    found = run(["--runs", "cnn cnn_b"])
    assert [(row["run"], row["baseline"], row["unlike"]) for row in found["comparisons"]] == [("cnn_b", "cnn", said)]
    assert found["reduced"] == ["bird", "deer", "truck"]


def test_other_training_images_are_said_first_and_make_no_control(study):
    more = {"epochs": 100, "batch_size": 64, "learning_rate": 0.5, "patience": 3, "labelled": 0.5}
    write("autoencoder_cls_noaug", {1: 0.8, 2: 0.8, 3: 0.81}, "frozen", **more)
    found = run(["--runs", "autoencoder_cls_noaug autoencoder_cls_scratch"])
    assert pairs_of(found) == [("autoencoder_cls_noaug", ("autoencoder_cls_scratch", False))]
    assert "Their settings differ: LABELLED 0.5 and 1.0; " in " ".join(found["text"].split())


def test_a_control_on_the_same_images_goes_before_one_on_others(study):
    write("autoencoder_cls_scratch_b", {1: 0.5}, "scratch", labelled=0.5)
    write("autoencoder_cls_scratch_c", {1: 0.5}, "scratch")
    write("autoencoder_cls_noaug_b", {1: 0.6}, "frozen")
    found = run(["--runs", "autoencoder_cls_scratch_b autoencoder_cls_scratch_c autoencoder_cls_noaug_b"])
    assert pairs_of(found)[-1] == ("autoencoder_cls_noaug_b", ("autoencoder_cls_scratch_c", True))


def pairs_of(found):
    return [(row["run"], (row["baseline"], row["control"])) for row in found["comparisons"]]


def test_a_control_has_the_same_network(study):
    def write_cae(name, encoder, **network):
        settings = {"model": "autoencoder_cls_cae", "network": recipes.CaeClassifier(**network).model_dump()}
        write(name, {1: 0.6}, encoder, **settings)

    write_cae("autoencoder_cls_cae", "frozen", blocks=2)
    write_cae("autoencoder_cls_cae_scratch", "scratch")
    assert ("autoencoder_cls_cae", "cnn") in {(row["run"], row["baseline"]) for row in run()["comparisons"]}
    rows = run(["--runs", "autoencoder_cls_cae autoencoder_cls_cae_scratch"])["comparisons"]
    assert [(row["control"], row["unlike"]) for row in rows] == [(False, "network.blocks 3 and 2")]
    write_cae("autoencoder_cls_cae_scratch_b", "scratch", blocks=2)
    (row,) = (row for row in run()["comparisons"] if row["run"] == "autoencoder_cls_cae")
    assert (row["baseline"], row["control"]) == ("autoencoder_cls_cae_scratch_b", True)


def test_settings_that_came_later_are_no_difference(study):
    old = {"reduce_lr": True}
    new = {"schedule": "plateau", "loss": "categorical_crossentropy", "class_weights": False}
    write("cnn", {1: 0.7}, **old)
    write("autoencoder_cls_scratch", {1: 0.74}, "scratch", **new)
    assert [row["unlike"] for row in run(["--runs", "cnn autoencoder_cls_scratch"])["comparisons"]] == [""]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"sha256": "other"}, "the training pictures differ"),
        ({"test_sha256": "other"}, "the test pictures differ"),
        ({"val": 0.2}, "VAL differ"),
        ({"seed": 1}, "SEED differ"),
    ],
)
def test_runs_on_other_data_are_left_out_or_when_asked_for_refused(study, changed, sentence):
    write("mod_autoencoder_cls", {1: 0.5}, "frozen", **changed)
    found = run()
    assert list(found["runs"]) == ["autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn"]
    assert found["left_out"] == {"mod_autoencoder_cls": sentence}
    assert f"Left out:\n- mod_autoencoder_cls: {sentence}" in found["text"]
    with pytest.raises(InputError, match=f"cnn and mod_autoencoder_cls cannot be compared: {sentence}; leave"):
        run(["--runs", "cnn mod_autoencoder_cls"])


def own_runs(*names, **changed):
    """Reports of runs that were trained here, the last one last."""
    recipes.CHECKPOINTS.mkdir(exist_ok=True)
    for age, name in enumerate(reversed(names)):
        write(name, {1: 0.5}, **changed)
        checkpoint = recipes.CHECKPOINTS / f"{name}_fold1.keras"
        checkpoint.touch()
        os.utime(checkpoint, (1e9 - age, 1e9 - age))


def test_runs_trained_here_go_before_more_that_were_published(study, capsys):
    own_runs("cnn_a", "cnn_b", sha256="own")
    assert list(run()["runs"]) == ["cnn_a", "cnn_b"]
    assert capsys.readouterr().out.startswith(
        "compared are the runs on cifar10.npz, trained on here last; RUNS or DATA "
    )


def test_of_own_runs_those_on_the_pictures_trained_on_last_are_compared(study):
    own_runs("cnn_a", "cnn_b", "cnn_c", "cnn_d", sha256="own")
    write("cnn_a", {1: 0.5}, sha256="other")
    write("cnn_d", {1: 0.5}, sha256="other")
    assert list(run()["runs"]) == ["cnn_a", "cnn_d"]


def test_one_own_run_alone_compares_with_nothing(study, capsys):
    own_runs("cnn_a", sha256="own")
    assert list(run()["runs"]) == ["autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn"]
    said = capsys.readouterr().out
    assert said.startswith("no two runs trained here are on the same data: RUNS='cnn_a' says what differs\n")


def test_data_names_the_pictures(study):
    pictures = common.load_data("digits").sha256
    write("cnn_a", {1: 0.5}, sha256=pictures)
    write("cnn_b", {1: 0.5}, sha256=pictures)
    found = run(["DATA=digits"])
    assert (list(found["runs"]), found["left_out"]) == (["cnn_a", "cnn_b"], {})
    with pytest.raises(InputError, match=r"no report of a classifier 'cnn' in imgs; there are: cnn_a, cnn_b$"):
        run(["DATA=digits", "RUNS=cnn cnn_a"])


def test_another_split_of_the_same_fold_is_no_same_data(study):
    path = write("mod_autoencoder_cls", {1: 0.5, 2: 0.5}, "frozen")
    report = json.loads(path.read_text())
    report["folds"]["2"]["record"]["data"]["train_sha256"] = "other"
    path.write_text(json.dumps(report))
    assert run()["left_out"] == {"mod_autoencoder_cls": "the split of fold 2 differs"}
    with pytest.raises(InputError, match="the split of fold 2 differs"):
        run(["--runs", "cnn mod_autoencoder_cls"])


def test_other_names_of_the_same_pictures_classes_are_other_data(study, monkeypatch):
    monkeypatch.setitem(SPLITS, "class_names", [name.upper() for name in CLASSES])
    path = write("mod_autoencoder_cls", {1: 0.5}, "frozen")
    path.write_text(path.read_text().replace('"airplane": ', '"AIRPLANE": '))
    assert "mod_autoencoder_cls" in run()["left_out"]


def test_other_reduced_classes_of_the_same_images_are_further_columns(study):
    write("mod_autoencoder_cls", {1: 0.5}, "frozen", reduced=[3])
    found = run()
    assert found["reduced"] == ["bird", "deer", "truck", "cat"]
    assert all(list(figures["recall"]) == found["reduced"] for figures in found["runs"].values())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("cnn gone", "no report of a classifier 'gone' in imgs; there are: .*cnn"),
        ("cnn", "one run alone"),
        ("cnn cnn", "one run alone"),
        ("cnn autoencoder_noaug", "no report of a classifier 'autoencoder_noaug'"),
        ("cnn broken", "broken cannot be compared: .* evaluate that run again"),
    ],
)
def test_runs_that_cannot_be_compared_are_named(study, words, sentence):
    (recipes.IMAGES / "broken_report.json").write_text("{")
    with pytest.raises(InputError, match=sentence):
        run(["--runs", words])
    assert not (recipes.IMAGES / "comparison.json").exists()


def test_runs_that_are_named_may_lie_in_a_folder_but_those_in_imgs_itself_go_before(study):
    folder = recipes.IMAGES / "more"
    folder.mkdir()
    for name in ("cnn_other", "cnn"):
        write(name, dict(enumerate([0.6, 0.61, 0.62], 1))).rename(folder / f"{name}_report.json")
    write("cnn", dict(enumerate([0.70, 0.71, 0.72], 1)))
    recipes.CHECKPOINTS.mkdir(exist_ok=True)
    (recipes.CHECKPOINTS / "cnn_other_fold1.keras").touch()  # whose report lies in that folder
    found = run()
    assert "cnn_other" not in found["runs"] and not found["left_out"]
    (row,) = run(["RUNS=cnn cnn_other"])["comparisons"]
    assert (row["run"], row["baseline"]) == ("cnn_other", "cnn")
    assert row["mean"] == pytest.approx(-0.1)


def test_nothing_to_compare_is_one_sentence(workdir):
    with pytest.raises(InputError, match=r"no two evaluated classifiers .* run `make cnn`"):
        run()
    write("cnn", {1: 0.7})
    (recipes.IMAGES / "broken_report.json").write_text("{")
    with pytest.raises(InputError, match=r"no two evaluated classifiers .*; broken is left out: .* evaluate that run"):
        run()


def first_fold(report):
    return report["folds"]["1"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda report: report.clear(),
        lambda report: report.update(folds={}),
        lambda report: report.update(run="../cnn"),
        lambda report: report.update(ensemble=5),
        lambda report: report.update(labels=report["labels"].replace("1", "2")),
        lambda report: report["data"].update(prefix="../../up"),
        lambda report: report["folds"].update(x=first_fold(report)),
        lambda report: first_fold(report).update(predicted="1 2"),
        lambda report: first_fold(report).update(predicted="a b"),
        lambda report: first_fold(report).update(recall={}),
        lambda report: first_fold(report)["record"].update(settings={}),
        lambda report: first_fold(report)["record"]["settings"].update(reduced=[77]),
        lambda report: first_fold(report)["record"].pop("seconds"),
        lambda report: first_fold(report)["record"]["settings"].pop("model"),
        lambda report: first_fold(report)["record"]["settings"].update(sha256=[]),
        lambda report: first_fold(report).pop("recall"),
        lambda report: first_fold(report).update(macro_f1="0.5"),
        lambda report: first_fold(report).update(calibration_error=None),
        lambda report: first_fold(report)["recall"].update(bird="0.5"),
        lambda report: first_fold(report)["recall"].update(another=0.5),
        lambda report: report["ensemble"].pop("accuracy"),
        lambda report: report["ensemble"]["recall"].pop("bird"),
        lambda report: first_fold(report)["record"]["history"].pop("val_accuracy"),
        lambda report: first_fold(report)["record"]["settings"].update(seed=True),
        lambda report: first_fold(report)["record"]["settings"].update(val="0.15"),
        lambda report: report["data"].update(test_images=2000.5),
    ],
)
def test_a_report_that_is_not_as_written_is_left_out(study, damage):
    path = write("mod_autoencoder_cls", {1: 0.5, 2: 0.5}, "frozen")
    report = json.loads(path.read_text())
    damage(report)
    path.write_text(json.dumps(report))
    found = run()
    assert list(found["left_out"]) == ["mod_autoencoder_cls"]
    assert found["left_out"]["mod_autoencoder_cls"].startswith(f"{path} is not as evaluate.py writes it (")
    assert "mod_autoencoder_cls" not in found["runs"] and len(found["runs"]) == 3


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda report: report.pop("labels"), "it lacks 'labels', or has something else there"),
        (
            lambda report: first_fold(report)["record"].pop("seconds"),
            "it lacks 'folds.1.record.seconds', or has something else there",
        ),
        (
            lambda report: first_fold(report)["record"]["settings"].update(sha256=[]),
            "it lacks 'folds.1.record.settings.sha256', or has something else there",
        ),
        (lambda report: report.update(folds={}), "it lacks what reports hold"),
        (lambda report: report.update(run="cnn"), "it is of another name"),
        (lambda report: first_fold(report)["recall"].pop("bird"), "it lacks a class's recall"),
        (
            lambda report: first_fold(report).update(accuracy=0.9),
            "the accuracy of fold 1 is not that of its predictions",
        ),
    ],
)
def test_the_reason_says_what_is_wrong_with_a_report(study, damage, reason):
    path = write("mod_autoencoder_cls", {1: 0.5, 2: 0.5}, "frozen")
    report = json.loads(path.read_text())
    damage(report)
    path.write_text(json.dumps(report))
    assert run()["left_out"] == {
        "mod_autoencoder_cls": f"{path} is not as evaluate.py writes it ({reason}): evaluate that run again"
    }


def test_what_is_not_whole_or_not_evaluated_is_left_out_with_its_reason(study):
    path = write("mod_autoencoder_cls", {1: 0.5}, "frozen")
    report = json.loads(path.read_text())
    report["folds"]["1"]["accuracy"] = 0.9
    path.write_text(json.dumps(report))
    path = write("mod_autoencoder_cls_old", {1: 0.5}, "frozen")
    report = json.loads(path.read_text())
    del report["folds"]["1"]["predicted"]
    path.write_text(json.dumps(report))
    recipes.CHECKPOINTS.mkdir()
    for name in (
        "cnn_fold1",
        "cnn_fold2",
        "cnn_fold6",
        "cnn_new_fold1",
        "cnn_fold1_old",
        ".cnn_fold7.ab12.part",
        "cnn",
    ):
        (recipes.CHECKPOINTS / f"{name}.keras").write_text(name)
    path = recipes.IMAGES / "cnn_report.json"
    report = json.loads(path.read_text())
    report["folds"]["2"]["record"]["checkpoint_sha256"] = hashlib.sha256(b"cnn_fold2").hexdigest()
    path.write_text(json.dumps(report))
    write("cnn_fold3", {1: 0.5})
    left_out = run()["left_out"]
    assert left_out.pop("cnn_fold3") == "it is of one file, evaluated with --model-path"
    assert "fold 1 is not that of its predictions" in left_out.pop("mod_autoencoder_cls")
    assert "evaluate that run again" in left_out.pop("mod_autoencoder_cls_old")
    assert left_out.keys() == {"cnn_fold1", "cnn_fold6", "cnn_new_fold1"}
    assert left_out["cnn_fold1"].startswith("it was trained again since it was evaluated")
    assert all("make test-eval" in reason for reason in left_out.values())
    of_cnn = {"cnn_fold1", "cnn_fold3", "cnn_fold6"}
    assert run(["--runs", "cnn autoencoder_cls_noaug"])["left_out"].keys() == of_cnn


# --- What it says ---


@pytest.mark.parametrize(
    "script, number, name", [(compare, 0, "comparison"), (compare, 1, "comparison_halved"), (curve, 0, "curve")]
)
def test_what_is_published_of_several_runs_is_of_their_reports(workdir, script, number, name):
    published = ROOT / "imgs"
    for folder in ("halved", "curve"):
        shutil.copytree(published / folder, recipes.IMAGES / folder)
    for path in published.glob("[!d]*_report.json"):  # those of digits are a reader's own
        shutil.copy(path, recipes.IMAGES)
    said = (ROOT / "docs/comparing.md").read_text(encoding="utf-8").splitlines()
    script.main(shlex.split([line for line in said if line.startswith(f"make {script.__name__}")][number])[2:])
    assert (recipes.IMAGES / f"{name}.txt").read_bytes() == (published / f"{name}.txt").read_bytes()
    found, expected = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"), parse_float=twelve_digits)
        for folder in (recipes.IMAGES, published)
    )
    assert found == expected


def twelve_digits(text):
    """A number of a JSON file without the last digits, which another processor or version of numpy may give anew."""
    return float(f"{float(text):.12g}")


def test_figures_are_over_the_folds_that_both_have(study):
    found = run()
    row = next(row for row in found["comparisons"] if row["baseline"] == "cnn")
    assert row["folds"] == [1, 2, 3]
    assert row["differences"] == pytest.approx([0.04, 0.04, 0.01])
    assert row["mean"] == pytest.approx(0.03)
    expected = compare.corrected_t_test([0.04, 0.04, 0.01], 0.15)
    assert [row["t_test"][key] for key in ("low", "high", "p")] == pytest.approx(expected)
    adjusted = compare.holm([row["t_test"]["p"] for row in found["comparisons"]])
    assert [row["t_test"]["p_holm"] for row in found["comparisons"]] == pytest.approx(adjusted)
    cnn = found["runs"]["cnn"]
    assert cnn["accuracy"] == pytest.approx({"mean": 0.708, "std": np.std([0.70, 0.71, 0.72, 0.71, 0.70], ddof=1)})
    assert cnn["minutes"]["mean"] == pytest.approx(13) and cnn["epochs"]["mean"] == 12
    assert cnn["ensemble"]["accuracy"] == 0.8123 and cnn["autoencoder"] is None
    classifier = found["runs"]["autoencoder_cls_noaug"]
    assert classifier["autoencoder"]["SSIM"]["mean"] == 0.769


def test_the_text_answers_the_question(study, capsys):
    found = run()
    text = " ".join(found["text"].split())
    answer = (
        r"Does a pretrained encoder help, compared with the same network without\? "
        r"autoencoder_cls_noaug is better than autoencoder_cls_scratch "
        r"\(\+5\.8 points of accuracy on folds 1, 2, 3; 95 % interval \S+ to \S+; p 0\.\d+\)\. "
        r"This includes what freezing costs\. Besides: autoencoder_cls_scratch is not shown to differ from cnn \("
    )
    assert re.search(answer, text)
    assert re.search(r"\| its ensemble +\| of 3 +\| 0\.812 ", found["text"])
    assert "23.0 dB, 0.769" in found["text"]
    written = (recipes.IMAGES / "comparison.txt").read_text()
    assert found["text"] + "\n" == written and written in capsys.readouterr().out
    assert max(len(line) for line in written.splitlines() if not line.startswith("|")) <= 120
    assert (recipes.IMAGES / "comparison.png").stat().st_size > 5000
    assert (recipes.IMAGES / "recalls.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("right", "verdict"), [([0.60, 0.61, 0.60], "is worse than"), ([0.70, 0.80, 0.74], "is not shown to differ from")]
)
def test_other_answers(study, right, verdict):
    write("autoencoder_cls_noaug", dict(enumerate(right, 1)), "frozen")
    text = " ".join(run()["text"].split())
    assert f"network without? autoencoder_cls_noaug {verdict} autoencoder_cls_scratch (" in text


def test_runs_without_an_encoder_are_not_asked_whether_one_helps(study):
    write("cnn_other", dict(enumerate([0.6, 0.605, 0.6], 1)))
    text = run(["RUNS=cnn cnn_other"])["text"]
    assert "encoder helps" not in text and "\n\ncnn_other is worse than cnn (" in text


def test_two_folds_are_too_few_for_a_test_over_folds(study):
    write("autoencoder_cls_noaug", {1: 0.80, 2: 0.805}, "frozen")
    found = run()
    row = next(row for row in found["comparisons"] if row["run"] == "autoencoder_cls_noaug")
    assert row["t_test"] is None and row["bootstrap"]["low"] > 0
    text = " ".join(found["text"].split())
    low, high = (100 * row["bootstrap"][end] for end in ("low", "high"))
    assert "cannot be tested over folds against autoencoder_cls_scratch (+5." in text
    assert f"folds 1, 2: fewer than three folds; over test images, for these trained models, {low:+.1f} to" in text
    assert f"to {high:+.1f}). This" in text


def test_the_same_difference_on_every_fold_is_not_certainty(study):
    write("autoencoder_cls_scratch", {1: 0.75, 2: 0.76, 3: 0.77}, "scratch")
    write("cnn", {1: 0.74, 2: 0.75, 3: 0.76})
    row = next(row for row in run()["comparisons"] if row["baseline"] == "cnn")
    assert row["differences"] == pytest.approx([0.01] * 3)
    assert row["t_test"] is None and row["untested"] == "the same difference on every fold"


def test_what_else_differs_is_said(study):
    write("autoencoder_cls_noaug", {1: 0.8, 2: 0.8, 3: 0.8}, "frozen", epochs=100)
    assert "Their settings differ: EPOCHS 100 and 12." in " ".join(run()["text"].split())
    more = {"epochs": 100, "batch_size": 64, "learning_rate": 0.5, "patience": 3, "optimizer": "sgd"}
    write("autoencoder_cls_noaug", {1: 0.8, 2: 0.8, 3: 0.8}, "frozen", **more)
    found = run()
    (unlike,) = [row["unlike"] for row in found["comparisons"] if row["run"] == "autoencoder_cls_noaug"]
    first, second, third, *rest = unlike.split("; ")
    assert len(rest) == 2
    said = f"Their settings differ: {first}; {second}; {third}; and 2 more, which the .json has."
    assert said in " ".join(found["text"].split())


def test_so_is_another_precision_or_device(study):
    path = recipes.IMAGES / "autoencoder_cls_noaug_report.json"
    path.write_text(path.read_text().replace('"CPU"', '"H200"').replace('"float32"', '"mixed_bfloat16"'))
    text = " ".join(run()["text"].split())
    assert "PRECISION mixed_bfloat16 and float32; device H200 and CPU." in text


def test_the_verdict_is_by_the_adjusted_p(study):
    # Alone, p = .0296; the other comparison's is larger, so Holm's is .059.
    write("autoencoder_cls_noaug", {1: 0.78, 2: 0.785, 3: 0.785}, "frozen")
    write("autoencoder_cls_scratch", {1: 0.75, 2: 0.74, 3: 0.735}, "scratch")
    write("cnn", {1: 0.74, 2: 0.76, 3: 0.73})
    found = run()
    row = next(row for row in found["comparisons"] if row["control"])
    assert row["t_test"]["p"] < 0.05 < row["t_test"]["p_holm"]
    text = " ".join(found["text"].split())
    assert "autoencoder_cls_noaug is not shown to differ from autoencoder_cls_scratch (" in text
    assert f"p {row['t_test']['p_holm']:.3f})" in text


def test_the_share_held_out_is_the_runs_own_and_the_bootstrap_is_over_all_folds(study):
    right = {"cnn": [0.70, 0.71, 0.72], "autoencoder_cls_scratch": [0.80, 0.71, 0.74]}
    write("cnn", dict(enumerate(right["cnn"], 1)), val=0.3)
    write("autoencoder_cls_scratch", dict(enumerate(right["autoencoder_cls_scratch"], 1)), "scratch", val=0.3)
    (row,) = run(["--runs", "cnn autoencoder_cls_scratch"])["comparisons"]
    differences = np.array([0.10, 0.0, 0.02])
    error = np.sqrt(differences.var(ddof=1) * (1 / 3 + 0.3 / 0.7))
    assert row["t_test"]["p"] == pytest.approx(2 * stats.t.sf(differences.mean() / error, 2), abs=1e-6)
    assert row["bootstrap"]["low"] < 0.04 < row["bootstrap"]["high"] < 0.07
    assert (row["bootstrap"]["low"] + row["bootstrap"]["high"]) / 2 == pytest.approx(0.04, abs=0.003)


def test_without_a_fold_in_common_another_baseline_or_none(study):
    write("autoencoder_cls_noaug", {4: 0.8}, "frozen")
    pairs = {(row["run"], row["baseline"]) for row in run()["comparisons"]}
    assert ("autoencoder_cls_noaug", "cnn") in pairs and len(pairs) == 2
    write("autoencoder_cls_noaug", {6: 0.8}, "frozen")
    assert [row["run"] for row in run()["comparisons"]] == ["autoencoder_cls_scratch"]
    with pytest.raises(InputError, match="autoencoder_cls_noaug and autoencoder_cls_scratch have no fold in common"):
        run(["--baseline", "autoencoder_cls_scratch"])


def test_runs_without_a_baseline_among_them_are_compared_with_the_first(study):
    write("cnn_b", {1: 0.6})
    assert [(row["run"], row["baseline"]) for row in run(["--runs", "cnn_b cnn"])["comparisons"]] == [("cnn", "cnn_b")]


def test_drawn_are_the_comparisons_with_a_control_where_there_are_any(study, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "plot_differences", lambda path, rows: drawn.append([row["run"] for row in rows]))
    assert len(run()["comparisons"]) == 2
    run(["--runs", "cnn autoencoder_cls_scratch"])
    assert drawn == [["autoencoder_cls_noaug"], ["autoencoder_cls_scratch"]]


def test_no_older_figure_stays_beside_a_text_without_comparison(workdir):
    write("cnn", {1: 0.7})
    write("cnn_b", {1: 0.6})
    figure = recipes.IMAGES / "comparison.png"
    figure.touch()
    found = run()
    assert found["comparisons"] == [] and not figure.exists()
    assert "t-test" not in found["text"] and "bootstrap" not in found["text"]


def test_every_cell_of_a_row(study):
    path = write("cnn", {1: 0.70, 2: 0.72})
    report = json.loads(path.read_text())
    for fold, error in (("1", 0.031), ("2", 0.035)):
        report["folds"][fold]["calibration_error"] = error
        report["folds"][fold]["recall"] |= {"bird": 0.5, "deer": 0.6, "truck": 0.8}
    scores = {"accuracy": 0.7511, "macro_f1": 0.7422, "calibration_error": 0.0633}
    recall = {**report["folds"]["1"]["recall"], "bird": 0.55, "deer": 0.66, "truck": 0.77}
    report["ensemble"] = {**scores, "recall": recall}
    path.write_text(json.dumps(report))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in run()["text"].splitlines() if "|" in line]
    place = next(number for number, row in enumerate(rows) if row[0] == "cnn")
    recalls = [f"{value:.3f} ± 0.000" for value in (0.5, 0.6, 0.8)]
    scores = ["0.710 ± 0.014", "0.700 ± 0.014", *recalls, "0.033 ± 0.003"]
    assert rows[place] == ["cnn", "2", *scores, "2,170,378 (2,170,122)", "12 ± 0", "12 ± 1", ""]
    together = ["0.751", "0.742", "0.550", "0.660", "0.770", "0.063"]
    assert rows[place + 1] == ["its ensemble", "of 2", *together, "", "", "", ""]
    (row,) = (row for row in rows if row[0] == "autoencoder_cls_scratch - cnn")
    assert row[1:4] == ["2", "+3.5", ""] and row[7] == "< 0.001"


def test_the_figure_shows_the_figures(study, monkeypatch):
    compared = run()["comparisons"]
    figures = []
    monkeypatch.setattr(plots, "commit", lambda path, save: figures.append(save.__self__))
    plots.plot_differences("differences.png", compared)
    ((axes,),) = (figure.axes for figure in figures)
    for place, row in enumerate(compared):
        lines = [line.get_xydata() for line in axes.lines[5 * place : 5 * place + 5]]
        np.testing.assert_allclose(lines[0], [[100 * value, place] for value in row["differences"]], atol=1e-9)
        for ends, middle, found in ((lines[1], lines[2], row["t_test"]), (lines[3], lines[4], row["bootstrap"])):
            assert ends[:, 0].tolist() == pytest.approx([100 * found["low"], 100 * found["high"]])
            assert middle[0, 0] == pytest.approx(100 * row["mean"])
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == [f"{row['run']}\n- {row['baseline']}" for row in compared]


def test_the_plot_of_recalls_shows_the_recalls(study, monkeypatch):
    found, figures = run(), []
    monkeypatch.setattr(plots, "commit", lambda path, save: figures.append(save.__self__))
    plots.plot_recalls("recalls.png", found["runs"], found["reduced"])
    ((axes,),) = (figure.axes for figure in figures)
    expected = [
        value
        for figures in found["runs"].values()
        for value in (*(figures["recall"][name] for name in ("bird", "deer", "truck")), figures["accuracy"])
    ]
    assert len(axes.containers) == len(expected)
    for (middle, _, (bar,)), value in zip(axes.containers, expected, strict=True):
        (first, _), (last, _) = bar.get_segments()[0]
        ends = [100 * (value["mean"] + sign * (value["std"] or 0)) for sign in (-1, 1)]
        assert [first, middle.get_xdata()[0], last] == pytest.approx([ends[0], 100 * value["mean"], ends[1]])
    words = [text.get_text() for text in figures[0].legends[0].get_texts()]
    assert words == ["recall of bird", "recall of deer", "recall of truck", "accuracy over all classes"]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(found["runs"])


def test_a_name_keeps_comparisons_side_by_side(study):
    run()
    before = (recipes.IMAGES / "comparison.json").read_bytes()
    compare.main(["--runs", "cnn autoencoder_cls_noaug", "--name", "two"])
    assert (recipes.IMAGES / "comparison.json").read_bytes() == before
    assert list(json.loads((recipes.IMAGES / "comparison_two.json").read_text())["runs"]) == [
        "cnn",
        "autoencoder_cls_noaug",
    ]


def test_it_does_not_wait_for_tensorflow(study):
    code = "import sys; sys.path[0] = sys.argv.pop(1); import compare; compare.main([]); print(sorted(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code, ROOT], capture_output=True, text=True, check=True, timeout=60)
    *_, modules = result.stdout.splitlines()
    found = {module.strip("'") for module in modules.strip("[]").split(", ")}
    assert "util.files" in found and not {"keras", "tensorflow", "jax", "training"} & found
