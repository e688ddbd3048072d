"""Figures in the README are those of the tracked JSON."""

import json

import numpy as np
import pytest
from conftest import ROOT

import bench

README = (ROOT / "README.md").read_text(encoding="utf-8")


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_benchmark_is_the_published_one():
    assert bench.show_table(published("benchmark")["models"]) in README


def test_the_cnn_on_five_folds_is_the_published_one():
    report = published("cnn_report")
    epochs = [len(fold["record"]["history"]["loss"]) for fold in report["folds"].values()]
    minutes = [fold["record"]["seconds"] / 60 for fold in report["folds"].values()]
    summary = {title: {key: f"{value:.3f}"[1:] for key, value in of.items()} for title, of in report["summary"].items()}
    recalls = " / ".join(f"{report['summary'][f'recall {name}']['mean']:.2f}"[1:] for name in ("bird", "deer", "truck"))
    row = f"| `cnn` | five folds to their ends: {min(epochs)} to {max(epochs)} epochs, {min(minutes):.0f} to "
    row += f"{max(minutes):.0f} min each | {summary['accuracy']['mean']} ± {summary['accuracy']['std']}, "
    row += f"their ensemble {report['ensemble']['accuracy']:.3f} | {recalls} |".replace("ensemble 0", "ensemble ")
    assert row in README
    assert f"fold 1, {report['folds']['1']['accuracy']:.3f}".replace(" 0", " ") + f" after {epochs[0]} epochs" in README


@pytest.mark.parametrize("arch", ["leaky", "pool3"])
def test_the_other_networks_accuracies_are_those_of_their_reports(arch):
    report = published(f"cnn_{arch}_report")
    (row,) = (line for line in README.splitlines() if line.startswith(f"| `cnn ARCH={arch}` |"))
    assert row.endswith(f"| {report['summary']['accuracy']['mean']:.3f} |".replace("0.", "."))
    assert arch != "pool3" or report["folds"]["1"]["record"]["best_epoch"] == 5


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
