"""Figures in the README are those of the tracked JSON."""

import json
import re
import shutil

import numpy as np
import pytest
from conftest import ROOT

import bench
import compare
import recipes
import reporting

README = (ROOT / "README.md").read_text(encoding="utf-8")
FLAT = " ".join(README.split())
MAKE = {"cnn": "cnn", "autoencoder": "ae", "autoencoder_cls": "ae_cls"}  # the target of each model


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_benchmark_is_the_published_one():
    assert bench.show_table(published("benchmark")["models"]) in README


def bare(text):
    """Without the zeros before points: '.676' for '0.676'."""
    return re.sub(r"\b0(?=[.])", "", text)


def short(figure, digits):
    return bare(reporting.show(figure, digits))


def row_of(name, run):
    """A run's row in the first table, less what it is in words and what its document says."""
    epochs = reporting.show({**run["epochs"], "std": run["epochs"]["std"] or None}, 0)
    folds = published(f"{name}_report")["folds"].values()
    accuracies = " ".join(bare(f"{fold['accuracy']:.3f}") for fold in folds)
    recalls = " | ".join(short(recall, 2) for recall in run["recall"].values())
    ensemble = bare(f"{run['ensemble']['accuracy']:.3f}")
    return f"`{name}` | {epochs} | {accuracies} | {short(run['accuracy'], 3)} | {ensemble} | {recalls} |"


def difference_of(row):
    over_folds = compare.between(row["t_test"]) if row["t_test"] else row["untested"]
    figures = f"{100 * row['mean']:+.1f} | {over_folds} | {compare.between(row['bootstrap'])}"
    return f"| `{row['run']}` - `{row['baseline']}` | {len(row['folds'])} | {figures} |"


def test_the_first_screen_is_the_comparison():
    found = published("comparison")
    assert found["runs"].keys() == {"cnn", "autoencoder_cls_scratch", "autoencoder_cls_noaug"}
    for name, run in found["runs"].items():
        assert row_of(name, run) in README
    assert [difference_of(row) for row in found["comparisons"]] == [
        line for line in README.splitlines() if line.startswith("| `") and "` - `" in line
    ]
    pretrained, deeper = found["comparisons"]
    each = ", ".join(f"{100 * difference:+.1f}" for difference in pretrained["differences"])
    assert (
        f"scores {-100 * pretrained['mean']:.1f} points less than the same network trained from scratch: {each} "
        in FLAT
    )
    test = pretrained["t_test"]
    assert f"95 % interval {compare.between(test)}, p {compare.show_p(test['p_holm'])} after Holm's" in FLAT
    assert pretrained["folds"] == deeper["folds"]  # or they would not add up
    assert f"it is {-100 * (pretrained['mean'] + deeper['mean']):.1f} points lower on the same folds" in FLAT
    quality = found["runs"]["autoencoder_cls_noaug"]["autoencoder"]
    assert f"{quality['PSNR (dB)']['mean']:.1f} dB, SSIM {short({**quality['SSIM'], 'std': None}, 3)} on" in README
    reference = published("autoencoder_noaug_report")["summary"]["SSIM with the reference's data_range=2"]
    assert f"(`data_range=2`) is {short({**reference, 'std': None}, 3)}." in README
    fold = published("cnn_report")["folds"]["1"]
    ours = bare(f"ours, on fold 1, {fold['accuracy']:.3f} with epoch {fold['record']['best_epoch']}, ")
    assert f"{ours}having stopped after {len(fold['record']['history']['loss'])}, " in FLAT


def test_what_the_first_screen_says_of_learning():
    frozen, scratch, cnn = (
        [fold for _, fold in sorted(published(f"{name}_report")["folds"].items())]
        for name in ("autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn")
    )
    learnt = [np.mean([fold["record"]["history"]["accuracy"][-1] for fold in folds]) for folds in (frozen, scratch)]
    assert "({:.0%} of them right in the last epoch, against {:.0%})".format(*learnt).replace("%", " %") in FLAT
    for name in ("deer", "truck"):
        assert all(one["recall"][name] < other["recall"][name] for one, other in zip(frozen, scratch, strict=True))

    def jumps(folds):
        return [np.median(np.abs(np.diff(fold["record"]["history"]["val_accuracy"][3:]))) for fold in folds]

    low, high = (round(100 * jump) for jump in (min(jumps(scratch + cnn)), max(jumps(scratch + cnn))))
    few, more = (round(100 * jump) for jump in (min(jumps(frozen)), max(jumps(frozen))))
    assert f"validation accuracy moves by {low} to {high} points, with frozen layers by {few} to {more} " in FLAT


def test_the_comparison_is_of_the_published_reports(workdir):
    (workdir / "imgs").mkdir()
    for path in ROOT.glob("imgs/[!d]*_report.json"):  # those of digits are a reader's own
        shutil.copy(path, workdir / "imgs")
    compare.main([])
    assert json.loads((workdir / "imgs/comparison.json").read_text())["text"] == published("comparison")["text"]


@pytest.mark.parametrize(
    "make, model, arch", [(m, model, arch) for model, m in MAKE.items() for arch in recipes.ARCHS[model]]
)
def test_the_other_networks_figures_are_those_of_their_reports(make, model, arch):
    report = published(f"{model}_{arch}_report")
    record = report["folds"]["1"]["record"]
    summary, best = report["summary"], record["best_epoch"]
    if model == "autoencoder":
        figures = f"MSE {record['history']['val_loss'][best - 1]:.4f}; {summary['PSNR (dB)']['mean']:.1f} dB"
    else:
        figures = f"{summary['accuracy']['mean']:.3f}"
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `{make} ARCH={arch}` |"))
    assert row.endswith(f"| {bare(figures)} |")
    assert arch not in ("pool3", "wide5") or best == 5
    if arch in ("elu", "dropout"):  # not to its document's end
        epochs, minutes = record["settings"]["epochs"], f"{record['seconds'] / 60:.0f}"
        assert f"`make cnn ARCH={arch} EPOCHS={epochs}`, {minutes} minutes of two" in FLAT
    else:
        assert len(record["history"]["loss"]) == recipes.RECIPES[f"{model}_{arch}"].epochs


def test_what_is_said_of_the_convolutional_autoencoder():
    records = [published(f"{model}_cae_report")["folds"]["1"]["record"] for model in ("autoencoder", "autoencoder_cls")]
    assert "in {:.0f} and {:.0f} minutes; ".format(*(record["seconds"] / 60 for record in records)) in FLAT
    validation = records[1]["history"]["val_accuracy"][records[1]["best_epoch"] - 1]
    assert bare(f"its classifier has {validation:.3f} in validation, ") in FLAT


@pytest.fixture(scope="module")
def trainings():
    """The first fold of the reports of both precisions: {precision: [of seed 0, 1, 2]}."""
    return {
        precision: [published(f"precision/cnn_{precision}-seed{seed}_report")["folds"]["1"] for seed in range(3)]
        for precision in ("float32", "bfloat16")
    }


def test_the_precisions_differ_in_nothing_else(trainings):
    for one, other in zip(*trainings.values(), strict=True):
        settings = [dict(fold["record"]["settings"]) for fold in (one, other)]
        assert [s.pop("precision") for s in settings] == ["float32", "mixed_bfloat16"]
        assert settings[0] == settings[1]
        assert one["record"]["commit"] == other["record"]["commit"]


def test_the_table_of_precisions_is_that_of_the_reports(trainings):
    def figures(fold):
        history = fold["record"]["history"]
        return (
            history["loss"][-1],
            history["accuracy"][-1],
            np.mean(history["val_accuracy"]),
            max(history["val_accuracy"]),
            fold["accuracy"],
        )

    values = {precision: np.array([figures(fold) for fold in folds]) for precision, folds in trainings.items()}
    values["difference"] = values["bfloat16"] - values["float32"]
    for name, rows in values.items():
        mean, spread = rows.mean(axis=0), rows.std(axis=0, ddof=1)
        cells = (f"{m:.3f} ± {s:.3f}" for m, s in zip(mean, spread, strict=True))
        assert f"| {name} | " + " | ".join(cells) + " |" in README
