"""Figures in the README are those of the tracked JSON."""

import json

import numpy as np
import pytest
from conftest import ROOT

import bench
import compare
import evaluate

README = (ROOT / "README.md").read_text(encoding="utf-8")


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_benchmark_is_the_published_one():
    assert bench.show_table(published("benchmark")["models"]) in README


def short(figure, digits):
    return evaluate.show(figure, digits).replace("0.", ".")


def row_of(name, run):
    """A run's row in the first table, less what its document says."""
    epochs = evaluate.show({**run["epochs"], "std": run["epochs"]["std"] or None}, 0)
    recalls = " / ".join(short({**recall, "std": None}, 2) for recall in run["recall"].values())
    ensemble = f"{run['ensemble']['accuracy']:.3f}".replace("0.", ".")
    return f"| `{name}` | {len(run['folds'])} | {epochs} | {short(run['accuracy'], 3)} | {ensemble} | {recalls} |"


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
    quality = found["runs"]["autoencoder_cls_noaug"]["autoencoder"]
    assert f"{quality['PSNR (dB)']['mean']:.1f} dB, SSIM {short({**quality['SSIM'], 'std': None}, 3)} on" in README
    reference = published("autoencoder_noaug_report")["summary"]["SSIM with the reference's data_range=2"]
    assert f"(`data_range=2`) is {short({**reference, 'std': None}, 3)}." in README
    fold = published("cnn_report")["folds"]["1"]
    first = f"{fold['accuracy']:.3f}".replace("0.", ".")
    assert f"ours, on fold 1, {first} after {len(fold['record']['history']['loss'])} epochs" in README


def test_the_comparison_is_of_the_published_reports():
    for name, run in published("comparison")["runs"].items():
        report = published(f"{name}_report")
        assert run["accuracy"]["mean"] == pytest.approx(report["summary"]["accuracy"]["mean"])
        assert run["folds"] == sorted(map(int, report["folds"]))


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
