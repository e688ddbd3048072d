"""The README and docs/: their figures are those of the tracked JSON, their links lead somewhere."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import bench
import common
import compare
import data
import recipes
from util import plots

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
TEXTS = {"README.md": README} | {f"docs/{name}.md": text for name, text in DOCUMENTS.items()}
COMPARING, METHOD, NETWORKS, SPEED = (DOCUMENTS[name] for name in ("comparing", "method", "networks", "speed"))
MAKE = {"cnn": "cnn", "autoencoder": "ae", "autoencoder_cls": "ae_cls"}  # the target of each model


def flat(text):
    """Without its line breaks."""
    return " ".join(text.split())


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


# --- Figures --------------------------------------------------------------------------------------------------------


def test_the_benchmark_is_the_published_one():
    assert bench.show_table(published("benchmark")["models"]) in SPEED


def bare(text):
    """Without the zeros before points: '.676' for '0.676'."""
    return re.sub(r"\b0(?=[.])", "", text)


def short(figure, digits):
    return bare(plots.show(figure, digits))


def row_of(name, run):
    """A run's row in the first table, less what it is in words and what its document says."""
    recalls = " | ".join(short(recall, 2) for recall in run["recall"].values())
    ensemble = bare(f"{run['ensemble']['accuracy']:.3f}") if run["ensemble"] else ""
    return f"| `{name}` | {short(run['accuracy'], 3)} | {ensemble} | {recalls} |"


def folds_of(name, run):
    """A run's row in the table of single folds."""
    epochs = plots.show({**run["epochs"], "std": run["epochs"]["std"] or None}, 0)
    accuracies = [fold["accuracy"] for fold in published(f"{name}_report")["folds"].values()]
    return f"| `{name}` | {epochs} | {' '.join(bare(f'{accuracy:.3f}') for accuracy in accuracies)} |"


def difference_of(row):
    over_folds = compare.between(row["t_test"]) if row["t_test"] else row["untested"]
    figures = f"{100 * row['mean']:+.1f} | {over_folds} | {compare.between(row['bootstrap'])}"
    return f"| `{row['run']}` - `{row['baseline']}` | {len(row['folds'])} | {figures} |"


def jumps(folds):
    """How far validation accuracy moves from epoch to epoch, in points: medians of trainings, from the fourth on."""
    return [100 * np.median(np.abs(np.diff(fold["record"]["history"]["val_accuracy"][3:]))) for fold in folds]


def comparison_of(found, run, baseline):
    (row,) = [row for row in found["comparisons"] if (row["run"], row["baseline"]) == (run, baseline)]
    return row


FOLDS = {"cnn": 5, "cnn_fast": 5, "autoencoder_cls_scratch": 5, "autoencoder_cls_noaug": 5}
FOLDS |= {"autoencoder_cls_random": 1, "mod_autoencoder_cls_noaug": 1}
FOLDS |= {"autoencoder_cls_fast": 5, "autoencoder_cls_fast_tuned": 5, "autoencoder_cls_fast_random": 5}


def test_the_first_screen_is_the_comparison():
    found = published("comparison")
    assert {name: len(run["folds"]) for name, run in found["runs"].items()} == FOLDS
    _, _, *rows = re.search(r"(^\|.*\n)+", README, re.MULTILINE)[0].splitlines()
    assert len(rows) == len(found["runs"])
    for name, run in found["runs"].items():
        assert len([row for row in rows if row_of(name, run) in row]) == 1

    frozen = comparison_of(found, "autoencoder_cls_fast", "cnn_fast")
    said = f"scores {-100 * frozen['mean']:.1f} points of accuracy less than the same network from scratch"
    assert f"{said} (95 % interval {compare.between(frozen['t_test'])})" in flat(README)
    tuned = comparison_of(found, "autoencoder_cls_fast_tuned", "cnn_fast")
    said = f"it scores {-100 * tuned['mean']:.1f} points less ({compare.between(tuned['t_test'])}), which is no signif"
    assert said in flat(README) and tuned["t_test"]["p_holm"] > 1 - compare.LEVEL
    learnt = comparison_of(found, "autoencoder_cls_fast", "autoencoder_cls_fast_random")
    assert f"on random ones, frozen, it scores another {100 * learnt['mean']:.1f} points less." in flat(README)
    deeper = comparison_of(found, "autoencoder_cls_noaug", "autoencoder_cls_scratch")
    said = f"frozen layers score {-100 * deeper['mean']:.1f} points less ({compare.between(deeper['t_test'])})."
    assert said in flat(README)
    assert all(row["t_test"]["p_holm"] < 1 - compare.LEVEL for row in (frozen, learnt, deeper))
    fewest = min(point["labelled"] for point in published("curve")["points"])
    assert f"down to one picture in {1 / fewest:.0f}, the same holds." in flat(README)


def test_the_comparison_in_full():
    found = published("comparison")
    rows = [line for line in COMPARING.splitlines() if line.startswith("| `")]
    assert sorted(row for row in rows if "` - `" not in row) == sorted(
        folds_of(name, run) for name, run in found["runs"].items()
    )
    assert [row for row in rows if "` - `" in row] == [difference_of(row) for row in found["comparisons"]]
    pretrained = comparison_of(found, "autoencoder_cls_noaug", "autoencoder_cls_scratch")
    each = ", ".join(f"{100 * difference:+.1f}" for difference in pretrained["differences"])
    assert f"it is the same: {each} points on the five folds." in flat(COMPARING)
    closed = 100 * comparison_of(found, "autoencoder_cls_noaug", "autoencoder_cls_random")["mean"]
    gap = -100 * comparison_of(found, "autoencoder_cls_random", "autoencoder_cls_scratch")["mean"]
    said = f"There they have {closed:.1f} points less than the autoencoder's and {gap:.1f} less than scratch: "
    assert f"{said}again about half of the gap." in flat(COMPARING) and 0.45 < closed / gap < 0.55
    frozen, scratch, cnn = (
        100 * found["runs"][name]["accuracy"]["mean"]
        for name in ("autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn")
    )
    assert f"It has {scratch - cnn:.1f} points more than the plain CNN" in flat(COMPARING)
    assert f"On frozen layers it has {frozen - cnn:.1f} more, in the study 10." in flat(COMPARING)
    errors = {name: bare(f"{run['calibration_error']['mean']:.3f}") for name, run in found["runs"].items()}
    said = (
        "error is {cnn_fast} from scratch, {autoencoder_cls_fast} on frozen, {autoencoder_cls_fast_tuned} on fine-tuned"
    )
    assert said.format(**errors) in flat(COMPARING)
    said = "{autoencoder_cls_scratch} and {autoencoder_cls_noaug} from scratch and on frozen layers of the deeper one."
    assert said.format(**errors) in flat(COMPARING)
    before, control = (
        published(f"tried/autoencoder_cls_{kind}_earlier_report")["folds"] for kind in ("noaug", "scratch")
    )
    each = ", ".join(f"{100 * (before[fold]['accuracy'] - control[fold]['accuracy']):+.1f}" for fold in "123")
    assert f"differed by {each} points on folds 1, 2, 3." in flat(COMPARING)
    lengths = [len(fold["record"]["history"]["loss"]) for fold in (before["1"], control["1"])]
    lengths.append(len(published("tried/autoencoder_noaug_earlier_report")["folds"]["1"]["record"]["history"]["loss"]))
    assert lengths == [12, 12, 8]
    other, control = (
        published(f"autoencoder_cls_cae{kind}_report")["summary"]["accuracy"] for kind in ("", "_scratch")
    )
    said = f"has {short(other, 3)}, the same network from scratch (`make ae_cls ARCH=cae ENCODER=scratch`) "
    assert f"{said}{short(control, 3)}, on its one split" in flat(COMPARING)
    augmented = published("autoencoder_report")
    assert len(augmented["folds"]["1"]["record"]["history"]["loss"]) == 30
    figures = augmented["summary"]["PSNR (dB)"]["mean"], short({**augmented["summary"]["SSIM"], "std": None}, 3)
    assert "it has {:.1f} dB, SSIM {}.".format(*figures) in flat(COMPARING)
    record = published("autoencoder_noaug_report")["folds"]["1"]["record"]
    assert record["best_epoch"] == len(record["history"]["loss"]) == 100
    quality = found["runs"]["autoencoder_cls_noaug"]["autoencoder"]
    ssim = short({**quality["SSIM"], "std": None}, 3)
    assert f"{quality['PSNR (dB)']['mean']:.1f} dB, SSIM {ssim} on" in flat(COMPARING)
    reference = published("autoencoder_noaug_report")["summary"]["SSIM with the reference's data_range=2"]
    assert f"(`data_range=2`) is {short({**reference, 'std': None}, 3)} (" in flat(COMPARING)


def test_what_is_said_of_the_reference_program_beside_ours():
    for name, words in (("tried/cnn_reference", "ours, trained the reference's way"), ("cnn", "ours")):
        fold = published(f"{name}_report")["folds"]["1"]
        best, epochs = fold["record"]["best_epoch"], len(fold["record"]["history"]["loss"])
        ours = f"| {words}, best weights, those of epoch {best} | {epochs} | {fold['accuracy']:.3f} |"
        assert bare(ours) in METHOD.splitlines()


def test_the_tables_of_what_was_tried_of_statistics_and_clean_ends():
    seeds = published("tried/statistics")["seeds"]
    kinds = list(seeds["0"][0]["validation"])[:-1]  # the last are two kinds together
    cells = {kind: [] for kind in kinds}
    for epochs in seeds.values():
        first, more, clean = (
            np.array([[one["validation"][kind][1] for kind in kinds] for one in epochs if one["phase"] == phase])
            for phase in ("augmented", "then augmented", "then clean")
        )
        assert (len(first), len(more), len(clean)) == (20, 3, 3)
        jumps = 100 * np.median(np.abs(np.diff(first[3:], axis=0)), axis=0)
        for kind, *figures in zip(kinds, first[-1], jumps, more[-1], clean[-1], strict=True):
            cells[kind].append(figures)
    for figures in cells.values():
        means, deviations = np.mean(figures, axis=0), np.std(figures, axis=0, ddof=1)
        words = bare(
            " | ".join(
                f"{mean:.{digits}f} ± {deviation:.{digits}f}"
                for mean, deviation, digits in zip(means, deviations, (3, 1, 3, 3), strict=True)
            )
        )
        assert len([row for row in METHOD.splitlines() if row.endswith(f" | {words} |")]) == 1

    fold = published("cnn_report")["folds"]["1"]["record"]
    fifth, two = (
        record["history"]["val_accuracy"][record["best_epoch"] - 1]
        for record in (published("tried/cnn_clean-fifth"), fold)
    )
    assert bare(f"accuracy of {fifth:.3f}, with the last two fifths at {two:.3f}.") in flat(METHOD)


def test_what_is_said_of_the_fast_network_with_a_frozen_encoder():
    found = published("comparison")
    scratch, frozen = (found["runs"][name]["recall"] for name in ("cnn_fast", "autoencoder_cls_fast"))
    lost = {name: f"{100 * (scratch[name]['mean'] - frozen[name]['mean']):.0f}" for name in ("bird", "deer", "truck")}
    said = "bird loses {bird}, deer {deer}, truck {truck} points of recall".format(**lost)
    assert said in flat(COMPARING)
    tuned = comparison_of(found, "autoencoder_cls_fast_tuned", "cnn_fast")["differences"]
    each = ", ".join(f"{100 * difference:+.1f}" for difference in tuned)
    assert f"that encoder gives {each} points on the five folds." in flat(COMPARING)
    pretrained = comparison_of(found, "autoencoder_cls_fast", "autoencoder_cls_fast_random")["mean"]
    random = comparison_of(found, "autoencoder_cls_fast_random", "cnn_fast")["mean"]
    said = (
        f"{100 * pretrained:.1f} points less than its own, and {-100 * random:.1f} less than the network from scratch"
    )
    assert f"Random layers, frozen, have {said}." in flat(COMPARING)
    whole, low_resolution = (
        [bare(f"{published(f'{name}_report')['folds'][fold]['accuracy']:.3f}") for fold in "12"]
        for name in ("tried/autoencoder_cls_fast_whole", "autoencoder_cls_fast")
    )
    said = f"frozen layers have {' and '.join(whole)} instead of {' and '.join(low_resolution)}."
    assert said in flat(COMPARING)
    learnt = [
        np.mean([fold["record"]["history"]["accuracy"][-1] for fold in published(f"{name}_report")["folds"].values()])
        for name in ("autoencoder_cls_fast", "cnn_fast")
    ]
    said = "({:.0%} of them right in the last epoch, against {:.0%})".format(*learnt).replace("%", " %")
    assert said in flat(COMPARING)
    quality = published("autoencoder_fast_report")["summary"]
    said = (
        f"{quality['PSNR (dB)']['mean']:.1f} dB, SSIM {short({**quality['SSIM'], 'std': None}, 3)} on the test images"
    )
    assert f"it has {said}" in flat(COMPARING)


def test_what_is_said_of_halved_and_other_classes_with_an_encoder():
    def lost(run, baseline):
        """Points of recall: the mean of the halved classes, that of the others, and of each."""
        recalls = [
            [fold["recall"] for fold in published(f"{name}_report")["folds"].values()] for name in (run, baseline)
        ]
        each = {
            name: 100 * np.mean([other[name] - one[name] for one, other in zip(*recalls, strict=True)])
            for name in data.CIFAR10_CLASSES
        }
        halved = [each.pop(data.CIFAR10_CLASSES[number]) for number in data.HALVED]
        return np.mean(halved), np.mean(list(each.values())), each

    halved, others, each = lost("autoencoder_cls_fast", "cnn_fast")
    said = f"frozen layers cost them {halved:.1f} points of mean recall, the others {others:.1f}, "
    assert f"{said}*cat* most: {each['cat']:.1f}." in flat(COMPARING) and each["cat"] == max(each.values())
    tuned, deeper = (
        " and ".join(f"{round(points, 1) + 0.0:.1f}" for points in lost(*pair)[:2])  # no -0.0
        for pair in (("autoencoder_cls_fast_tuned", "cnn_fast"), ("autoencoder_cls_noaug", "autoencoder_cls_scratch"))
    )
    assert f"Fine-tuned, it is {tuned}. On the deeper network, frozen, it is {deeper}." in flat(COMPARING)


def test_what_is_said_of_the_halved_classes():
    found = published("comparison_halved")
    differences = {row["run"]: row for row in found["comparisons"]}
    for name, run in found["runs"].items():
        difference = "  |  |"
        if row := differences.get(name):
            difference = f" {100 * row['mean']:+.1f} | {compare.between(row['t_test'])} |"
        cells = row_of(name, run).replace(f"| `{name}` |", f"| `{name}` | {len(run['folds'])} |")
        assert f" {cells}{difference}\n" in COMPARING
    cost = differences.pop("cnn_fast_all")
    said = f"**Halving costs {100 * cost['mean']:.1f} points of accuracy where nothing is done**, which is significant"
    assert bare(f"{said} (p {cost['t_test']['p_holm']:.3f} by Holm's method)") in flat(COMPARING)
    assert cost["t_test"]["p_holm"] < 1 - compare.LEVEL < min(row["t_test"]["p_holm"] for row in differences.values())
    p = [f"{row['t_test']['p_holm']:.3f}" for row in differences.values()]
    assert bare(f"none of the three ways is significant (p {min(p)} to {max(p)}).") in flat(COMPARING)
    balanced, adjusted = (f"{100 * differences[name]['mean']:.1f}" for name in ("cnn_fast_balanced", "cnn_fast"))
    assert f"Balanced batches get back {balanced}, logit adjustment {adjusted} of that." in flat(COMPARING)
    assert f"Halving costs the fast CNN {100 * cost['mean']:.1f} points; [balanced batches or logit" in flat(README)
    assert f") get {balanced} or {adjusted} back, not significantly." in flat(README)

    def recall(name, fast):
        folds = published(f"{'halved/' * (fast != 'cnn_fast')}{fast}_report")["folds"]
        return np.mean([folds[number]["recall"][name] for number in "123"])

    ways = ["cnn_fast_nothing", "cnn_fast_balanced", "cnn_fast", "cnn_fast_weights"]
    of = {name: [recall(name, way) for way in ways] for name in ("bird", "deer", "truck", "cat")}
    more = {name: [f"{100 * (value - found[0]):+.1f}" for value in found[1:]] for name, found in of.items()}
    said = ", ".join(f"{name} {' and '.join(more[name][:2])}" for name in ("bird", "deer", "truck"))
    assert f"{said}. Class weights give {', '.join(more[name][2] for name in ('bird', 'deer', 'truck'))}." in flat(
        COMPARING
    )
    cats = "{:.2f} of the cats are found with nothing, {:.2f} with balanced batches, {:.2f} with".format(*of["cat"][:3])
    assert bare(cats) in flat(COMPARING)


def test_what_is_said_of_learning():
    frozen, scratch, cnn = (
        [fold for _, fold in sorted(published(f"{name}_report")["folds"].items())]
        for name in ("autoencoder_cls_noaug", "autoencoder_cls_scratch", "cnn")
    )
    kept, last = (
        [np.mean([fold["record"]["history"]["accuracy"][epoch] for fold in folds]) for folds in (frozen, scratch)]
        for epoch in (18, -1)
    )
    said = "By then {:.0%} of the training images are right on frozen layers, {:.0%} from scratch".format(*kept)
    (end,) = {f"{share:.0%}" for share in last}
    assert f"{said}, in the end {end} in either.".replace("%", " %") in flat(COMPARING)
    assert "Frozen layers find fewer birds, deer and trucks on every fold." in flat(COMPARING)
    for name in ("bird", "deer", "truck"):
        assert all(one["recall"][name] < other["recall"][name] for one, other in zip(frozen, scratch, strict=True))

    assert {fold["record"]["best_epoch"] for fold in frozen + scratch} == {19}
    assert recipes.phases(30, 0, frozen[0]["record"]["settings"]["unaugmented"]) == (0, 18)
    gained = []
    for folds in (frozen, scratch):
        accuracies = [fold["record"]["history"]["val_accuracy"] for fold in folds]
        more = [100 * (max(accuracy) - accuracy[18]) for accuracy in accuracies]
        gained += [f"{min(more):.1f}", f"{max(more):.1f}"]
    said = "frozen layers would gain {} to {} points in validation, the network from scratch {} to {}:".format(*gained)
    assert said in flat(COMPARING)

    (low, high), (least, most) = (
        [f"{end(jumps(folds)):.1f}" for end in (min, max)] for folds in (frozen + scratch, cnn)
    )
    said = f"moves by {low} to {high} points in the deeper CNNs, by {least} to {most} in the plain one (medians"
    assert said in flat(COMPARING)


def test_what_is_said_of_fewer_labels():
    points = published("curve")["points"]
    of = {(point["images"], point["encoder"]): point for point in points}
    shares = sorted({images for images, _ in of})
    for images in shares:
        accuracies = [short(of[images, kind]["accuracy"], 3) for kind in ("scratch", "frozen", "tuned")]
        differences = [of[images, kind]["difference"] for kind in ("frozen", "tuned")]
        cells = [f"{100 * row['mean']:+.1f} | {compare.between(row['t_test'])}" for row in differences]
        assert f"\n| {images:,} | {' | '.join([*accuracies, *cells])} |\n" in COMPARING
        assert differences[0]["t_test"]["high"] < 0 and not any(row["unlike"] for row in differences)
    tests = [of[images, "tuned"]["difference"]["t_test"] for images in shares]
    assert all(test["low"] < 0 < test["high"] for test in tests)
    said = f"gains of up to {100 * max(test['high'] for test in tests):.1f} points"
    few = of[shares[0], "tuned"]["difference"]
    said += f", with {shares[0]:,} labels of up to {100 * few['t_test']['high']:.1f}. There all three folds gain"
    least, most = (100 * end(few["differences"]) for end in (min, max))
    assert f"{said}, {least:.1f} to {most:.1f} points." in flat(COMPARING) and len(few["differences"]) == 3
    other = of[shares[0], "tuned"]["autoencoder"]
    ssim = short({**other["SSIM"], "std": None}, 3)
    assert f"It has {other['PSNR (dB)']['mean']:.1f} dB, SSIM {ssim} ([its report]" in flat(COMPARING)
    named = {of[images, kind]["autoencoder"]["name"] for images in shares[:-1] for kind in ("frozen", "tuned")}
    assert named == {"autoencoder_fast_gpu"} != {of[shares[-1], "tuned"]["autoencoder"]["name"]}
    frozen = [-100 * of[images, "frozen"]["difference"]["mean"] for images in shares]
    assert f"**Frozen, it costs {min(frozen):.0f} to {max(frozen):.0f} points** on average" in COMPARING
    errors = ([of[images, kind]["calibration_error"]["mean"] for images in shares] for kind in ("scratch", "tuned"))
    most = max(abs(one - other) for one, other in zip(*errors, strict=True))
    assert bare(f"their calibration error differs from scratch's by at most {most:.3f}.") in flat(COMPARING)


def test_the_lengths_of_trainings_with_fewer_labels():
    tried = {(one["labelled"], one["batch_size"], one["epochs"]): one for one in published("tried/curve")["trainings"]}
    means = []
    for batch, epochs in ((1000, 18), (1000, 9), (500, 9), (2000, 18)):
        lengths = [(share, *recipes.share_of_length(share, batch, epochs)) for share in (1 / 32, 1 / 8)]
        accuracies = [tried[length]["val_accuracy"] for length in lengths]
        means.append(np.mean(accuracies))
        cells = " | ".join(bare(f"{accuracy:.4f}") for accuracy in (*accuracies, means[-1]))
        assert f"| {batch:,} | {epochs} | {cells} |\n" in COMPARING
    assert means[0] == max(means)
    for point in published("curve")["points"]:
        if (share := point["labelled"]) < 1:
            folds = published(f"curve/{point['run']}_report")["folds"].values()
            (length,) = {tuple(fold["record"]["settings"][key] for key in ("batch_size", "epochs")) for fold in folds}
            assert length == recipes.share_of_length(share, 1000, 18)


@pytest.mark.parametrize(
    "make, model, arch", [(m, model, arch) for model, m in MAKE.items() for arch in recipes.ARCHS[model]]
)
def test_the_other_networks_figures_are_those_of_their_reports(make, model, arch):
    report, recipe = published(f"{model}_{arch}_report"), recipes.RECIPES[f"{model}_{arch}"]
    record = report["folds"]["1"]["record"]
    summary, best = report["summary"], record["best_epoch"]
    if model == "autoencoder":
        figures = f"MSE {record['history']['val_loss'][best - 1]:.4f}; {summary['PSNR (dB)']['mean']:.1f} dB"
    else:
        figures = f"{summary['accuracy']['mean']:.3f}{', five folds' if len(report['folds']) == 5 else ''}"
    epochs, asked = (settings["epochs"] for settings in (record["settings"], recipe.settings.model_dump()))
    if epochs < asked:  # not to its document's end
        figures += f" after {epochs} of {asked} epochs"
        assert f"| `make cnn ARCH={arch} EPOCHS={epochs}` | {minutes(record)} minutes" in NETWORKS
    else:
        assert len(record["history"]["loss"]) == asked
    (row,) = (line for line in NETWORKS.splitlines() if line.startswith(f"| `{make} ARCH={arch}` |"))
    assert row.endswith(f"| {bare(figures)} |")
    assert f" | {record['parameters']:,} {frozen(record)}| " in row
    assert arch not in ("pool3", "wide5") or best == 5


def frozen(record):
    """How many of the parameters are trainable, where some are frozen."""
    trainable = record["trainable_parameters"]
    return f"({trainable:,}) " if "frozen" in record else ""


@pytest.mark.parametrize("run", ["cnn", "autoencoder_noaug", "autoencoder_cls_noaug"])
def test_the_references_networks_have_the_parameters_of_the_records(run):
    record = published(f"{run}_report")["folds"]["1"]["record"]
    model = run.removesuffix("_noaug")
    (row,) = (line for line in METHOD.splitlines() if line.startswith(f"| `{model}` | "))
    assert row.endswith(f" | {record['parameters']:,} ({record['trainable_parameters']:,}) |")


def minutes(record):
    return f"{record['seconds'] / 60:.0f}"


def test_how_long_the_other_networks_took():
    def took(*runs):
        return [minutes(published(f"{run}_report")["folds"]["1"]["record"]) for run in runs]

    said = "in {}, {} and {} minutes.".format(*took("cnn_leaky", "cnn_pool3", "cnn_wide5"))
    row = f"| `make cnn ARCH=leaky`, and so `pool3`, `wide5` | To their documents' ends, {said} |"
    assert row in NETWORKS.splitlines()
    autoencoder, classifier = took("autoencoder_cae", "autoencoder_cls_cae")
    assert f"| `make ae ARCH=cae` | To its document's end, in {autoencoder} minutes. |" in NETWORKS.splitlines()
    assert f"| `make ae_cls ARCH=cae` | To its document's end, in {classifier} minutes. It has " in NETWORKS


def test_what_trainings_took_on_a_gpu():
    runs = {
        "autoencoder_noaug": "autoencoder, 100 epochs",
        "autoencoder_cls_noaug": "classifier, 30 epochs, median of five folds",
        "autoencoder_cls_scratch": "classifier from scratch, 30 epochs, median of five folds",
        "curve/cnn_fast_half": "fast network, half of the labels, 25 epochs, median of three folds",
    }
    for run, words in runs.items():
        records = [fold["record"] for fold in published(f"{run}_report")["folds"].values()]
        assert {record["device"] for record in records} == {"NVIDIA H200"}
        rate, seconds = (np.median([record[key] for record in records]) for key in ("images_per_second", "seconds"))
        assert f"| {words} | {rate:,.0f} | {seconds / 60:.1f} |" in SPEED.splitlines()
    dropout, control = (
        published(f"{run}_report")["folds"]["1"] for run in ("cnn_dropout", "autoencoder_cls_cae_scratch")
    )
    said = f"in {minutes(dropout['record'])} minutes of [a GPU](speed.md#on-a-gpu). "
    assert f"{said}Its best epoch is the {dropout['record']['best_epoch']}th." in NETWORKS
    said = f"as many epochs, in {minutes(control['record'])} minutes of a GPU: "
    assert f"{said}{bare(format(control['accuracy'], '.3f'))}, [beside" in NETWORKS


def test_how_soon_the_cnns_are_how_good():
    for name in ("cnn", "cnn_fast"):
        history = published(f"{name}_report")["folds"]["1"]["record"]["history"]
        seconds, reached = np.cumsum(history["seconds"]), np.maximum.accumulate(history["val_accuracy"])
        times = [seconds[np.argmax(reached >= level)] if reached[-1] >= level else None for level in (0.676, 0.8, 0.88)]
        cells = " | ".join("not reached" if time is None else f"{time:.0f}" for time in times)
        assert f"| `{name}` | {cells} |" in SPEED.splitlines()


def fast_operations(images, side, widths=(64, 256, 256), bias=False, deeper=False):
    """Of a training step of the fast network, by hand; with a `bias` that learns before its first convolution.

    With `deeper`, the second and third blocks have three convolutions.
    """
    (first, second, third), at = widths, [(side - 1) // 2**pools for pools in range(4)]
    whitening, before = at[0] ** 2 * 2 * 2 * 3 * 24, 9 * at[0] ** 2 * 24 * first
    convolutions = (
        at[1] ** 2 * (first + second) * first + at[2] ** 2 * (second + third) * second + at[3] ** 2 * third**2
    )
    if deeper:
        convolutions += at[2] ** 2 * second**2 + at[3] ** 2 * third**2
    return 2 * images * (whitening + (2 + bias) * before + 3 * (9 * convolutions + 10 * third))


@pytest.mark.parametrize("side", [32, recipes.LOW_RESOLUTION_SIDE])
def test_the_fast_networks_operations_are_those_that_make_bench_counts(side, monkeypatch):
    monkeypatch.setattr(common, "IMAGE_SHAPE", (side, side, 3))
    model = common.finished_model(common.build_fast, recipes.RECIPES["cnn_fast"].settings, 10, "fast")
    assert bench.operations(model, 7) == fast_operations(7, side)


# In the order of their table: {name: what differs in the network}.
TRIALS = {"sgd": {}, "sgd-lookahead": {}, "muon": {}, "shift3": {}, "cutout": {}, "bias": {"bias": True}}
TRIALS |= {"wide": {"widths": (64, 320, 320)}, "low_resolution": {}, "muon34": {}}
TRIALS |= {"deep": {"widths": (64, 192, 320), "deeper": True}}


def test_what_is_said_of_the_fast_networks_trials():
    rows = [line for line in NETWORKS.splitlines() if re.search(r"\| \.\d{3} \| \d+ \| \.\d{3} \|", line)]
    trials = {f"tried/cnn_fast_{name}": network for name, network in TRIALS.items()} | {"cnn_fast": {}}
    for (name, network), row in zip(trials.items(), rows, strict=True):
        fold = published(f"{name}_report")["folds"]["1"]
        record, history = fold["record"], fold["record"]["history"]
        settings, epochs = record["settings"], len(history["loss"])
        low_resolution, _ = recipes.phases(epochs, settings["low_resolution"], 0)
        images = sum(record["data"]["train_counts"]) // settings["batch_size"] * settings["batch_size"]
        one, other = (fast_operations(images, side, **network) for side in (recipes.LOW_RESOLUTION_SIDE, 32))
        operations = (low_resolution * one + (epochs - low_resolution) * other) / 1e15
        accuracies = history["accuracy"][-1], history["val_accuracy"][record["best_epoch"] - 1], fold["accuracy"]
        figures = " | ".join(f"{accuracy:.3f}" for accuracy in accuracies)
        assert row.endswith(bare(f" | {epochs} | {operations:.3f} | {minutes(record)} | {figures} |"))
    for name, found in published("tried/fast_ends")["accuracy"].items():
        cells = (bare(f"{found[fold]:.3f}") if fold in found else "" for fold in "12")
        assert f"\n| {' | '.join([name, *cells])} |\n" in NETWORKS
    run = published("comparison")["runs"]["cnn_fast"]
    together = bare(f"{run['ensemble']['accuracy']:.3f}")
    assert f"On five folds it has {short(run['accuracy'], 3)}, its ensemble {together}." in flat(NETWORKS)
    whole = published("comparison_halved")["runs"]["cnn_fast_all"]["accuracy"]
    assert f"with no class halved](comparing.md#what-helps-the-halved-classes) it has {short(whole, 3)}." in flat(
        NETWORKS
    )


def test_what_is_said_of_the_convolutional_autoencoders_classifier():
    record = published("autoencoder_cls_cae_report")["folds"]["1"]["record"]
    validation = record["history"]["val_accuracy"][record["best_epoch"] - 1]
    assert bare(f"It has {validation:.3f} in validation, ") in flat(NETWORKS)


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
        assert f"| {name} | " + " | ".join(cells) + " |" in SPEED.splitlines()
    moves = jumps([fold for folds in trainings.values() for fold in folds])
    assert f"validation accuracy moves by {min(moves):.0f} to {max(moves):.0f} points" in flat(SPEED)


# --- Form -----------------------------------------------------------------------------------------------------------


def test_the_readme_is_no_longer_than_can_be_read():
    assert len(README.splitlines()) <= 200
    assert len(README.split()) <= 2000


def test_the_table_of_knobs_and_settings_is_that_of_the_code():
    for which, there in (("knobs", README), ("settings", NETWORKS)):
        (table,) = re.findall(rf"<!-- {which} -->\n(.*?)<!-- /{which} -->\n", there, re.DOTALL)
        command = [sys.executable, ROOT / "util/knobs.py", which]
        assert table == subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
        assert [text for text in TEXTS.values() if f"<!-- {which} -->" in text] == [there]


def anchors(text):
    """Where a link may lead within a document: its headings, as GitHub makes anchors of them."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", outside, re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def links(text):
    """Where the links and pictures of a document lead."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", outside)


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name):
    tracked = []
    if shutil.which("git"):
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.splitlines()
    inside = [link for link in links(TEXTS[name]) if not link.startswith("https://")]
    assert not [link for link in inside if ":" in link or link.startswith("/")]
    for link in inside:
        file, _, anchor = link.partition("#")
        path = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        assert path.exists(), link
        if tracked:  # what a reader of the repository does not get, does not count
            assert any(path in (ROOT / one, *(ROOT / one).parents) for one in tracked), link
        if anchor:
            assert anchors(path.read_text(encoding="utf-8")).count(anchor) == 1, link


def test_every_document_is_linked_from_the_readme_and_every_text_has_links():
    assert {f"docs/{name}.md" for name in DOCUMENTS} <= {link.partition("#")[0] for link in links(README)}
    assert all(links(text) for text in TEXTS.values())
