"""Tables of published figures for README.md and docs/*.md, from the reports and records in imgs/.

A function of TABLES returns the Markdown that stands between <!-- name --> and <!-- /name -->; `make docs` puts it
there. What a row is in words stands here, every figure of ours comes from a file.
"""

import json
import re
from pathlib import Path

import numpy as np

import recipes

ROOT = Path(__file__).resolve().parent.parent
HALVED = ("bird", "deer", "truck")


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


def folds_of(name):
    """The folds of a run's report, in their order: {'1': figures, ...}."""
    folds = published(f"{name}_report")["folds"]
    return {number: folds[number] for number in sorted(folds, key=int)}


def record_of(name, fold="1"):
    return folds_of(name)[fold]["record"]


def history_of(name):
    return record_of(name)["history"]


# --- How figures are shown ------------------------------------------------------------------------------------------


def table(titles, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))


def bare(text):
    """Without the zeros before points: '.676' for '0.676'."""
    return re.sub(r"\b0(?=[.])", "", text)


def figure(value, digits=3):
    """A number, or {'mean': ..., 'std': ...}, without the zero before its point."""
    if not isinstance(value, dict):
        return bare(f"{value:.{digits}f}")
    more = f" ± {value['std']:.{digits}f}" if value["std"] is not None else ""
    return bare(f"{value['mean']:.{digits}f}{more}")


def of_several(values, digits):
    """Mean ± standard deviation of at least two values."""
    return figure({"mean": np.mean(values), "std": np.std(values, ddof=1)}, digits)


def points(share):
    """A difference of accuracies, in percentage points."""
    return f"{100 * share:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def interval(test):
    return f"{points(test['low'])} to {points(test['high'])}" if test else ""


def p_value(test):
    return "" if not test else "< .001" if test["p_holm"] < 0.001 else figure(test["p_holm"])


def code(word):
    return f"`{word}`" if word else ""


# --- The study, and the fast network on an encoder ------------------------------------------------------------------

RUNS = {
    "cnn": "CNN",
    "autoencoder_cls_scratch": "deeper CNN, from scratch",
    "autoencoder_cls_noaug": "deeper CNN, first half frozen",
    "autoencoder_cls_random": "deeper CNN, first half random",
    "mod_autoencoder_cls_noaug": "dense layers, encoder frozen",
    "cnn_fast": "fast network, from scratch",
    "autoencoder_cls_fast": "fast network, two blocks frozen",
    "autoencoder_cls_fast_random": "fast network, two blocks random",
    "autoencoder_cls_fast_tuned": "fast network, fine-tuned (superseded)",
}


def runs():
    """Every run of the comparison with the accuracy of each fold."""
    titles = ("network", "run", "test accuracy", "of each fold", "ensemble", "recall bird", "deer", "truck")
    found, rows = published("comparison")["runs"], []
    for name in [*(name for name in RUNS if name in found), *(name for name in found if name not in RUNS)]:
        run = found[name]
        each = " ".join(figure(fold["accuracy"]) for fold in folds_of(name).values())
        ensemble = figure(run["ensemble"]["accuracy"]) if run["ensemble"] else ""
        recalls = (figure(recall, 2) for recall in run["recall"].values())
        rows.append((RUNS.get(name, ""), code(name), figure(run["accuracy"]), each, ensemble, *recalls))
    return table(titles, rows)


def tested(found):
    """A difference and its interval over folds, in points."""
    return f"{points(found['mean'])} ({interval(found['t_test'])})" if found["t_test"] else points(found["mean"])


def differences():
    """Each run of the comparison minus its control: accuracy, and recall of the halved classes minus the others'."""
    titles = ("difference in accuracy, in points", "folds", "mean", "95 % over folds", "verdict")
    titles += ("95 % over test images", "recall of halved minus other classes", "verdict")
    rows = []
    for row in published("comparison")["comparisons"]:
        recalls, verdict = row["reduced_minus_others"], row["verdict"].replace(": fewer than three folds", "")
        cells = interval(row["t_test"]), verdict, interval(row["bootstrap"]), tested(recalls)
        pair = f"{code(row['run'])} minus {code(row['baseline'])}"
        verdict = recalls["verdict"].replace(": fewer than three folds", "")
        rows.append((pair, str(len(row["folds"])), points(row["mean"]), *cells, verdict))
    return table(titles, rows)


def mean_recall(fold, names):
    return np.mean([fold["recall"][name] for name in names])


def recall_lost():
    """Recall that an encoder costs the halved classes and the others, fold by fold on average."""
    pairs = {
        "the fast network's, frozen": ("autoencoder_cls_fast", "cnn_fast"),
        "the fast network's, fine-tuned (superseded)": ("autoencoder_cls_fast_tuned", "cnn_fast"),
        "the deeper CNN's, frozen": ("autoencoder_cls_noaug", "autoencoder_cls_scratch"),
    }
    rows = []
    for words, (run, baseline) in pairs.items():
        one, other = folds_of(run), folds_of(baseline)
        names = list(one["1"]["recall"])
        groups = [[name] for name in HALVED] + [HALVED, [name for name in names if name not in HALVED]]
        changes = (np.mean([mean_recall(one[k], g) - mean_recall(other[k], g) for k in one]) for g in groups)
        rows.append((words, *map(points, changes)))
    return table(("encoder", *HALVED, "mean of the three", "mean of the other seven"), rows)


def few_labels():
    """The learning curve: each share of the labels from scratch, frozen and fine-tuned."""
    found = {(point["images"], point["encoder"]): point for point in published("curve")["points"]}
    kinds = ("scratch", "frozen", "tuned")
    rows = []
    for images in sorted({images for images, _ in found}):
        pairs = (found[images, kind]["difference"] for kind in kinds[1:])
        cells = [cell for row in pairs for cell in (points(row["mean"]), interval(row["t_test"]))]
        folds = str(len(found[images, "frozen"]["folds"]))
        rows.append((f"{images:,}", folds, *(figure(found[images, kind]["accuracy"]) for kind in kinds), *cells))
    titles = ("labelled images", "folds", "from scratch", "frozen", "fine-tuned (superseded)")
    titles += ("frozen minus scratch, in points", "95 % over folds", "fine-tuned minus scratch", "95 % over folds")
    return table(titles, rows)


def few_labels_lengths():
    """How the length of trainings with few labels was chosen: validation accuracy on fold 1 at two shares."""
    tried = {(one["labelled"], one["batch_size"], one["epochs"]): one for one in published("tried/curve")["trainings"]}
    rows = []
    for batch, epochs in ((1000, 18), (1000, 9), (500, 9), (2000, 18)):
        lengths = [(share, *recipes.share_of_length(share, batch, epochs)) for share in (1 / 32, 1 / 8)]
        accuracies = [tried[length]["val_accuracy"] for length in lengths]
        shown = (figure(accuracy, 4) for accuracy in (*accuracies, np.mean(accuracies)))
        rows.append((f"{batch:,}", str(epochs), *shown))
    return table(("batch / √share", "epochs x √share", "1,129 labels", "4,515 labels", "mean"), rows)


WAYS = {
    "cnn_fast_nothing": "nothing",
    "cnn_fast_balanced": "balanced batches",
    "cnn_fast_weights": "class weights",
    "cnn_fast": "logit adjustment",
    "cnn_fast_all": "no class is halved",
}


def halved():
    """What helps the halved classes: each way against the imbalance beside nothing."""
    found = published("comparison_halved")
    rows_of = {row["run"]: row for row in found["comparisons"]}
    rows = []
    for name, words in WAYS.items():
        run, row = found["runs"][name], rows_of.get(name)
        ensemble = f"{figure(run['ensemble']['accuracy'])} (of {len(run['folds'])})"
        recalls = row and row["reduced_minus_others"]
        more = (tested(row), p_value(row["t_test"]), tested(recalls), p_value(recalls["t_test"])) if row else [""] * 4
        rows.append((words, code(name), str(len(run["folds"])), figure(run["accuracy"]), ensemble, *more))
    titles = (
        "against the imbalance",
        "run",
        "folds",
        "test accuracy",
        "ensemble",
        "minus nothing, in points",
        "p (Holm)",
    )
    return table((*titles, "recall of halved minus other classes, minus nothing", "p (Holm)"), rows)


def halved_recalls():
    """Recall of the halved classes, and of the class that pays most, on the folds that all ways have."""
    reports = {name: folds_of(name if name == "cnn_fast" else f"halved/{name}") for name in WAYS}
    shared = set.intersection(*(set(folds) for folds in reports.values()))
    rows = [
        (words, *(figure(np.mean([reports[name][k]["recall"][one] for k in shared])) for one in (*HALVED, "cat")))
        for name, words in WAYS.items()
    ]
    return table((f"recall, folds {', '.join(sorted(shared))}", *HALVED, "cat"), rows)


# --- The study's networks and how they are trained ------------------------------------------------------------------

STUDY = {
    "cnn": "[conv 3x3 64, batch norm, pool, ReLU] x 2, dense 512, dropout 0.4, dense 64, softmax 10",
    "autoencoder_noaug": "encoder: [conv + ReLU, batch norm] x 2 at 64, x 2 at 128, x 3 at 256, code 8x8x256; the "
    "decoder is its mirror image",
    "autoencoder_cls_noaug": "the encoder (its first two blocks taken and frozen, its third new), then the CNN",
    "mod_autoencoder_cls_noaug": "the whole encoder, taken and frozen, then the CNN's dense layers",
}


def study_networks():
    rows = []
    for name, words in STUDY.items():
        record = record_of(name)
        parameters = f"{record['parameters']:,} ({record['trainable_parameters']:,})"
        rows.append((code(name.removesuffix("_noaug")), words, parameters))
    return table(("model", "layers", "parameters (trainable)"), rows)


def reference_program():
    """The study's program beside our CNN; the program is not in this repository, so its two rows are copied."""
    rows = [
        ("the study's program, its last weights, which it reports", "100", ".690"),
        ("the study's program, its best weights", "100", ".704"),
    ]
    for name, words in (("tried/cnn_reference", "ours, trained the study's way"), ("cnn", "ours")):
        fold = folds_of(name)["1"]
        best, epochs = fold["record"]["best_epoch"], len(fold["record"]["history"]["loss"])
        rows.append((f"{words}, its best weights (epoch {best})", str(epochs), figure(fold["accuracy"])))
    return table(("CNN, fold 1", "epochs", "test accuracy"), rows)


STATISTICS = (
    "moving averages of the augmented pictures",
    "1,000 unaugmented pictures",
    "2,000 unaugmented pictures",
    "4,000 unaugmented pictures",
    "8,000 unaugmented pictures",
    "4,000 pictures, flipped and shifted by up to two pixels",
    "4,000 pictures, augmented as in training",
)


def statistics():
    """Which pictures batch normalisation takes its statistics from: validation accuracy of the CNN, over seeds."""
    seeds = published("tried/statistics")["seeds"]
    kinds = list(seeds["0"][0]["validation"])[:-1]  # the last are two kinds together
    cells = {kind: [] for kind in kinds}
    for epochs in seeds.values():
        first, more, unaugmented = (
            np.array([[one["validation"][kind][1] for kind in kinds] for one in epochs if one["phase"] == phase])
            for phase in ("augmented", "then augmented", "then clean")
        )
        jumps = 100 * np.median(np.abs(np.diff(first[3:], axis=0)), axis=0)
        for kind, *figures in zip(kinds, first[-1], jumps, more[-1], unaugmented[-1], strict=True):
            cells[kind].append(figures)
    rows = [
        (words, *map(of_several, np.transpose(figures), (3, 1, 3, 3)))
        for words, figures in zip(STATISTICS, cells.values(), strict=True)
    ]
    titles = ("statistics of", "after 20 epochs", "median jump from epoch to epoch, in points")
    return table((*titles, "after 3 more, augmented", "after 3 more, unaugmented"), rows)


# --- Other networks -------------------------------------------------------------------------------------------------

OTHERS = {  # the test accuracy that each document states
    "cnn_elu": ".890",
    "cnn_leaky": "not stated",
    "cnn_pool3": ".618",
    "cnn_wide5": ".598",
    "cnn_dropout": ".804",
    "autoencoder_cae": "validation MSE .003 to .006",
    "autoencoder_cls_cae": ".71 (.73 in validation)",
    "autoencoder_cls_cae_scratch": "no such control",
    "autoencoder_fast": "",
}


def other_networks():
    rows = []
    for name, stated in OTHERS.items():
        record, summary = record_of(name), published(f"{name}_report")["summary"]
        history, best, asked = record["history"], record["best_epoch"], record["settings"]["epochs"]
        recipe = recipes.RECIPES[name.removesuffix("_scratch")].settings
        epochs = str(asked) if asked == recipe.epochs else f"{asked} of {recipe.epochs}"
        if "accuracy" in summary:
            result = f"{figure(summary['accuracy']['mean'])} ({figure(history['val_accuracy'][best - 1])})"
        else:
            similarity = figure(summary["SSIM"]["mean"])
            result = (
                f"{summary['PSNR (dB)']['mean']:.1f} dB, SSIM {similarity} (MSE {history['val_loss'][best - 1]:.4f})"
            )
        device = "one H200" if "H200" in record["device"] else "two cores"
        cells = (epochs, str(best), f"{record['seconds'] / 60:.0f} on {device}")
        rows.append((code(name), f"{record['parameters']:,}", stated, result, *(bare(cell) for cell in cells)))
    titles = ("run", "parameters", "its document's test result", "here: test (validation)", "epochs", "best epoch")
    return table((*titles, "minutes"), rows)


# What was tried of the fast network, in the order in which it was: {record: (words, what differs in its operations)}.
TRIALS = {
    "sgd": ("SGD with Nesterov momentum, batches of 512, warm-up over 23 % of the run", {}),
    "sgd-lookahead": ("the same with lookahead, one epoch more", {}),
    "muon": ("convolutions by Muon (`muon_rate_factor` .24), batches of 2,000, no warm-up, no lookahead", {}),
    "shift3": ("shifts of up to three pixels instead of two, one epoch more", {}),
    "cutout": ("cutout of 8 and shifts of two, batches of 1,000, `muon_rate_factor` .17 (paused for a while)", {}),
    "bias": ("half of 16 epochs at low resolution; whitened channels normalised, with a trained bias", {"bias": True}),
    "wide": ("9 of 13 epochs at low resolution; no such bias; widths 64, 320, 320", {"widths": (64, 320, 320)}),
    "coarse": ("12 of 18 epochs at low resolution, widths as before, `muon_rate_factor` .24", {}),
    "muon34": ("13 of 18 epochs at low resolution, `muon_rate_factor` .34", {}),
    "deep": (
        "`muon_rate_factor` .3, `logit_adjustment` 1.25; widths 64, 192, 320; a third, residual convolution in the "
        "last two blocks",
        {"widths": (64, 192, 320), "deeper": True},
    ),
    "": ("as it is now: `muon_rate_factor` .3, `logit_adjustment` 1.25 instead of 1, widths 64, 256, 256", {}),
}


def fast_operations(images, side, widths=(64, 256, 256), bias=False, deeper=False):
    """Operations of a training step of the fast network, as bench.py counts them.

    With `bias`, one learns before the first convolution; with `deeper`, the last two blocks have three convolutions.
    """
    (first, second, third), at = widths, [(side - 1) // 2**pools for pools in range(4)]
    whitening, before = at[0] ** 2 * 2 * 2 * 3 * 24, 9 * at[0] ** 2 * 24 * first
    convolutions = (
        at[1] ** 2 * (first + second) * first + at[2] ** 2 * (second + third) * second + at[3] ** 2 * third**2
    )
    if deeper:
        convolutions += at[2] ** 2 * second**2 + at[3] ** 2 * third**2
    return 2 * images * (whitening + (2 + bias) * before + 3 * (9 * convolutions + 10 * third))


def fast_trials():
    rows = []
    for trial, (words, network) in TRIALS.items():
        fold = folds_of(f"tried/cnn_fast_{trial}" if trial else "cnn_fast")["1"]
        record, history = fold["record"], fold["record"]["history"]
        settings, epochs = record["settings"], len(history["loss"])
        low_resolution, _ = recipes.phases(epochs, settings["low_resolution"], 0)
        images = sum(record["data"]["train_counts"]) // settings["batch_size"] * settings["batch_size"]
        small, whole = (fast_operations(images, side, **network) for side in (recipes.LOW_RESOLUTION_SIDE, 32))
        operations = (low_resolution * small + (epochs - low_resolution) * whole) / 1e15
        accuracies = history["accuracy"][-1], history["val_accuracy"][record["best_epoch"] - 1], fold["accuracy"]
        minutes = f"{record['seconds'] / 60:.0f}"
        rows.append((words, str(epochs), figure(operations), minutes, *map(figure, accuracies)))
    return table(("tried", "epochs", "PFLOP", "minutes", "training accuracy", "validation", "test"), rows)


ENDS = {
    "as it is now": "as it is now",
    "the mean of the weights of every third of the last 36 steps": "the mean of the weights of every third of the last "
    "36 steps",
    "the last two epochs clean, but mirrored": "the last two epochs unaugmented but for flips",
    "the last three clean": "the last three epochs unaugmented",
    "the last four clean": "the last four epochs unaugmented",
    "all five on whole pictures clean": "all five epochs at full resolution unaugmented",
    "the last three without cutout": "the last three epochs without cutout",
    "the last three without cutout, shifts of one pixel": "the last three epochs without cutout, with shifts of one "
    "pixel",
    "weak components less whitened (0.01 instead of 0.0005 added)": "weak components whitened less (0.01 instead of "
    "0.0005 added)",
    "the same, the last three clean": "weak components whitened less, the last three epochs unaugmented",
}


def fast_ends():
    found = published("tried/fast_ends")["accuracy"]
    rows = [
        (words, *(figure(found[key][fold]) if fold in found[key] else "" for fold in "12"))
        for key, words in ENDS.items()
    ]
    return table(("the end of the run, or the whitening", "fold 1", "fold 2"), rows)


# --- Speed ----------------------------------------------------------------------------------------------------------


def benchmark():
    import bench  # which imports what trains

    return bench.show_table(published("benchmark")["models"])


def on_a_gpu():
    runs = {
        "autoencoder_noaug": "autoencoder, 100 epochs",
        "autoencoder_cls_noaug": "classifier on frozen layers, 30 epochs, median of five folds",
        "autoencoder_cls_scratch": "classifier from scratch, 30 epochs, median of five folds",
        "curve/cnn_fast_half": "fast network, half of the labels, 25 epochs, median of three folds",
    }
    rows = []
    for name, words in runs.items():
        records = [fold["record"] for fold in folds_of(name).values()]
        rate, seconds = (np.median([record[key] for record in records]) for key in ("images_per_second", "seconds"))
        rows.append((words, f"{rate:,.0f}", f"{seconds / 60:.1f}"))
    return table(("training", "images/s", "minutes"), rows)


LEVELS = (0.676, 0.8, 0.88)


def seconds_to_accuracy():
    """Seconds of training after which fold 1 first has a validation accuracy."""
    rows = []
    for name in ("cnn", "cnn_fast"):
        history = history_of(name)
        seconds, reached = np.cumsum(history["seconds"]), np.maximum.accumulate(history["val_accuracy"])
        times = [seconds[np.argmax(reached >= level)] if reached[-1] >= level else None for level in LEVELS]
        rows.append((code(name), *("not reached" if time is None else f"{time:.0f}" for time in times)))
    return table(("seconds until a validation accuracy of", *(figure(level, 3) for level in LEVELS)), rows)


def precisions():
    """The CNN in both precisions: mean ± standard deviation over three seeds, and over their differences."""

    def figures(fold):
        history = fold["record"]["history"]
        validation = history["val_accuracy"]
        return history["loss"][-1], history["accuracy"][-1], np.mean(validation), max(validation), fold["accuracy"]

    values = {
        kind: np.array([figures(folds_of(f"precision/cnn_{kind}-seed{seed}")["1"]) for seed in range(3)])
        for kind in ("float32", "bfloat16")
    }
    values["difference"] = values["bfloat16"] - values["float32"]
    rows = [(kind, *(of_several(column, 3) for column in found.T)) for kind, found in values.items()]
    titles = ("", "training loss, last epoch", "training accuracy, last epoch", "validation accuracy, mean over epochs")
    return table((*titles, "best validation accuracy", "test accuracy"), rows)


TABLES = {
    "runs": runs,
    "differences": differences,
    "recall-lost": recall_lost,
    "few-labels": few_labels,
    "few-labels-lengths": few_labels_lengths,
    "halved": halved,
    "halved-recalls": halved_recalls,
    "study-networks": study_networks,
    "reference-program": reference_program,
    "statistics": statistics,
    "other-networks": other_networks,
    "fast-trials": fast_trials,
    "fast-ends": fast_ends,
    "benchmark": benchmark,
    "on-a-gpu": on_a_gpu,
    "seconds-to-accuracy": seconds_to_accuracy,
    "precisions": precisions,
}
