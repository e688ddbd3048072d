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


class Run:
    """A published run: the report of this path in imgs/, and what it is in words."""

    def __init__(self, path, words=""):
        report = published(f"{path}_report")
        self.name, self.words = path.rpartition("/")[2], words
        self.summary, self.ensemble = report["summary"], report.get("ensemble")
        self.folds = {number: report["folds"][number] for number in sorted(report["folds"], key=int)}
        self.records = [fold["record"] for fold in self.folds.values()]
        self.record, self.history = self.records[0], self.records[0]["history"]

    @property
    def accuracies(self):
        return [fold["accuracy"] for fold in self.folds.values()]

    @property
    def epochs(self):
        return len(self.history["loss"])

    def recall(self, names, folds=None):
        """The mean recall of these classes over these folds, or all."""
        return np.mean([self.folds[fold]["recall"][name] for fold in folds or self.folds for name in names])


def record_of(path):
    return Run(path).record


# --- How figures are shown ------------------------------------------------------------------------------------------


def table(titles, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))


def cells_of_runs(rows, columns):
    """Rows of a table: {path of a run's report: words} and {title of a column: its cell of a Run}."""
    return [[cell(run) for cell in columns.values()] for run in (Run(*row) for row in rows.items())]


def table_of_runs(rows, columns):
    return table(columns, cells_of_runs(rows, columns))


def figure(value, digits=3):
    """A number, or {'mean': ..., 'std': ...}, without the zero before its point."""
    if isinstance(value, dict):
        more = "" if value["std"] is None else f" ± {value['std']:.{digits}f}"
        return bare(f"{value['mean']:.{digits}f}{more}")
    return bare(f"{value:.{digits}f}")


def bare(text):
    """Without the zeros before points: '.676' for '0.676'."""
    return re.sub(r"\b0(?=[.])", "", text)


def of_several(values, digits):
    """Mean ± standard deviation of at least two values."""
    return figure({"mean": np.mean(values), "std": np.std(values, ddof=1)}, digits)


def points(share):
    """A difference of accuracies, in percentage points."""
    return f"{100 * share:+.1f}".replace("-0.0", "0.0").replace("+0.0", "0.0")


def interval(test):
    return f"{points(test['low'])} to {points(test['high'])}" if test else ""


def tested(found):
    """A difference, and its interval over folds in brackets where it was tested; in points."""
    return points(found["mean"]) + (f" ({interval(found['t_test'])})" if found["t_test"] else "")


def p_value(test):
    return "< .001" if test["p_holm"] < 0.001 else figure(test["p_holm"])


def code(word):
    return f"`{word}`" if word else ""


def words(run):
    return run.words


def accuracy(run):
    return figure(run.summary["accuracy"])


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
    """The runs of the comparison, with the accuracy of each fold."""
    columns = {
        "network": words,
        "run": lambda run: code(run.name),
        "test accuracy": accuracy,
        "of each fold": lambda run: " ".join(map(figure, run.accuracies)),
        "ensemble": lambda run: figure(run.ensemble["accuracy"]) if run.ensemble else "",
        "recall bird": lambda run: figure(run.summary["recall bird"], 2),
        "deer": lambda run: figure(run.summary["recall deer"], 2),
        "truck": lambda run: figure(run.summary["recall truck"], 2),
    }
    others = {name: "" for name in published("comparison")["runs"] if name not in RUNS}
    return table_of_runs(RUNS | others, columns)


def differences():
    """Each run of the comparison minus its control: accuracy, and recall of the halved classes minus the others'."""
    titles = ("difference in accuracy, in points", "folds", "mean", "95 % over folds", "verdict")
    titles += ("95 % over test images", "recall of halved minus other classes", "verdict")
    rows = []
    for row in published("comparison")["comparisons"]:
        recalls = row["reduced_minus_others"]
        verdicts = [found["verdict"].replace(": fewer than three folds", "") for found in (row, recalls)]
        cells = points(row["mean"]), interval(row["t_test"]), verdicts[0], interval(row["bootstrap"])
        pair = f"{code(row['run'])} minus {code(row['baseline'])}"
        rows.append((pair, str(len(row["folds"])), *cells, tested(recalls), verdicts[1]))
    return table(titles, rows)


def recall_lost():
    """Recall that an encoder costs the halved classes and the others, fold by fold on average."""
    pairs = {
        "the fast network's, frozen": ("autoencoder_cls_fast", "cnn_fast"),
        "the fast network's, fine-tuned (superseded)": ("autoencoder_cls_fast_tuned", "cnn_fast"),
        "the deeper CNN's, frozen": ("autoencoder_cls_noaug", "autoencoder_cls_scratch"),
    }
    rows = []
    for encoder, pair in pairs.items():
        run, baseline = map(Run, pair)
        others = [name for name in run.folds["1"]["recall"] if name not in HALVED]
        groups = [*([name] for name in HALVED), HALVED, others]
        rows.append((encoder, *(points(run.recall(names) - baseline.recall(names)) for names in groups)))
    return table(("encoder", *HALVED, "mean of the three", "mean of the other seven"), rows)


def answer():
    """The README's first table: both networks on all labels, with the difference from scratch in points."""
    compared = {(row["run"], row["baseline"]): row for row in published("comparison")["comparisons"]}
    layers = {
        "trained from scratch": ("autoencoder_cls_scratch", "cnn_fast"),
        "of the autoencoder, frozen": ("autoencoder_cls_noaug", "autoencoder_cls_fast"),
        "random, frozen": ("autoencoder_cls_random", "autoencoder_cls_fast_random"),
    }

    def cell(run, baseline):
        found = compared.get((run, baseline))
        more = f", {points(found['mean'])}" if found else ""
        within = f" ({interval(found['t_test'])})" if found and found["t_test"] else ""
        return f"{accuracy(Run(run))}{more}{within}"

    baselines = layers["trained from scratch"]
    rows = [(words, *map(cell, runs, baselines)) for words, runs in layers.items()]
    return table(("first layers", "the study's deeper CNN", "the fast CNN"), rows)


def answer_few():
    """The README's second table: the fast network on few labels, frozen and fine-tuned, by what its blocks learnt."""
    compared = {row["run"]: row for row in published("comparison_fair")["comparisons"]}
    chosen = {(one["from"], one["encoder"]): one["run"] for one in published("fair/tries") if "chosen" in one}

    def cell(source, encoder):
        row = compared[chosen[source, encoder]]
        within = interval(row["t_test"] or row["bootstrap"])
        return f"{accuracy(Run('fair/' + row['run']))}, {points(row['mean'])} ({within})"

    scratch = accuracy(Run(f"fair/{chosen[None, 'scratch']}"))
    rows = [(SOURCES["scratch"], scratch, scratch)]
    rows += [(SOURCES[one], cell(one, "frozen"), cell(one, "tuned")) for one in SOURCES if one != "scratch"]
    return table(("the first two blocks come from", "frozen", "fine-tuned"), rows)


SOURCES = {
    "scratch": "nothing: all layers are trained from scratch",
    "supervised": "a network trained on the labels of all 36,125 images",
    "turns": "a network that learnt quarter turns, without labels",
    "autoencoder": "the autoencoder, without labels",
}


def fair():
    """The fair test: of each arm the tries on validation, the one that was chosen, and what it gives on test images."""
    tries, compared = published("fair/tries"), published("comparison_fair")["comparisons"]
    factors = sorted({one["factor"] for one in tries}, reverse=True)
    rows = []
    for source, text in SOURCES.items():
        for encoder in ("scratch",) if source == "scratch" else ("frozen", "tuned"):
            arm = [one for one in tries if (one["from"] or "scratch", one["encoder"]) == (source, encoder)]
            mine = {one["factor"]: one for one in arm}
            chosen = max(mine.values(), key=lambda one: one["val_accuracy"])
            shown = [figure(mine[factor]["val_accuracy"], 4) for factor in factors]
            shown[factors.index(chosen["factor"])] = f"**{shown[factors.index(chosen['factor'])]}**"
            row = next((row for row in compared if row["run"] == chosen["run"]), None)
            difference = f"{points(row['mean'])} ({interval(row['t_test'] or row['bootstrap'])})" if row else ""
            run = Run(f"fair/{chosen['run']}")
            how = {"tuned": "fine-tuned", "scratch": ""}.get(encoder, encoder)
            rows.append((text, how, *shown, accuracy(run), str(len(run.folds)), difference))
    titles = ("first two blocks from", "then", *(f"rate x {bare(f'{factor:g}')}" for factor in factors))
    return table((*titles, "test accuracy", "folds", "minus scratch, in points"), rows)


def few_labels():
    """The learning curve: each share of the labels from scratch, frozen and fine-tuned."""
    found = {(point["images"], point["encoder"]): point for point in published("curve")["points"]}
    rows = []
    for images in sorted({images for images, _ in found}):
        scratch, *encoders = (found[images, kind] for kind in ("scratch", "frozen", "tuned"))
        rows.append([f"{images:,}", str(len(encoders[0]["folds"]))])
        rows[-1] += [figure(point["accuracy"]) for point in (scratch, *encoders)]
        for point in encoders:
            rows[-1] += [points(point["difference"]["mean"]), interval(point["difference"]["t_test"])]
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
    "halved/cnn_fast_nothing": "nothing",
    "halved/cnn_fast_balanced": "balanced batches",
    "halved/cnn_fast_weights": "class weights",
    "cnn_fast": "logit adjustment",
    "halved/cnn_fast_all": "no class is halved",
}


def halved():
    """What helps the halved classes: each way against the imbalance beside nothing."""
    rows_of = {row["run"]: row for row in published("comparison_halved")["comparisons"]}
    columns = {
        "against the imbalance": words,
        "run": lambda run: code(run.name),
        "folds": lambda run: str(len(run.folds)),
        "test accuracy": accuracy,
        "ensemble": lambda run: f"{figure(run.ensemble['accuracy'])} (of {len(run.folds)})",
    }
    rows = cells_of_runs(WAYS, columns)
    for cells, path in zip(rows, WAYS, strict=True):
        row = rows_of.get(path.rpartition("/")[2])
        for found in (row, row["reduced_minus_others"]) if row else ():
            cells += [tested(found), p_value(found["t_test"])]
    rows[0] += [""] * 4
    more = "minus nothing, in points", "p (Holm)", "recall of halved minus other classes, minus nothing", "p (Holm)"
    return table((*columns, *more), rows)


def halved_recalls():
    """Recall of the halved classes, and of the class that pays most, on the folds that all ways have."""
    shared = sorted(set.intersection(*(set(Run(path).folds) for path in WAYS)))
    columns = {f"recall, folds {', '.join(shared)}": words}
    columns |= {name: lambda run, name=name: figure(run.recall([name], shared)) for name in (*HALVED, "cat")}
    return table_of_runs(WAYS, columns)


# --- The study's networks and how they are trained ------------------------------------------------------------------

STUDY = {
    "cnn": "[conv 3x3 64, batch norm, pool, ReLU] x 2, dense 512, dropout 0.4, dense 64, softmax 10",
    "autoencoder_noaug": "encoder: [conv + ReLU, batch norm] x 2 at 64, x 2 at 128, x 3 at 256, code 8x8x256; the "
    "decoder is its mirror image",
    "autoencoder_cls_noaug": "the encoder (its first two blocks taken and frozen, its third new), then the CNN",
    "mod_autoencoder_cls_noaug": "the whole encoder, taken and frozen, then the CNN's dense layers",
}


def study_networks():
    columns = {
        "model": lambda run: code(run.name.removesuffix("_noaug")),
        "layers": words,
        "parameters (trainable)": lambda run: "{parameters:,} ({trainable_parameters:,})".format(**run.record),
    }
    return table_of_runs(STUDY, columns)


def reference_program():
    """The study's program beside our CNN; the program is not in this repository, so its two rows are copied."""
    copied = [
        ("the study's program, its last weights, which it reports", "100", ".690"),
        ("the study's program, its best weights", "100", ".704"),
    ]
    columns = {
        "CNN, fold 1": lambda run: f"{run.words}, its best weights (epoch {run.record['best_epoch']})",
        "epochs": lambda run: str(run.epochs),
        "test accuracy": lambda run: figure(run.accuracies[0]),
    }
    ours = cells_of_runs({"tried/cnn_reference": "ours, trained the study's way", "cnn": "ours"}, columns)
    return table(columns, copied + ours)


def statistics():
    """Which pictures batch normalisation takes its statistics from: validation accuracy of the CNN, over seeds."""
    seeds = published("tried/statistics")["seeds"]
    cells = {kind: [] for kind in list(seeds["0"][0]["validation"])[:-1]}  # the last are two kinds together
    for epochs in seeds.values():
        for kind, figures in cells.items():
            first, more, unaugmented = (
                [one["validation"][kind][1] for one in epochs if one["phase"] == phase]
                for phase in ("augmented", "then augmented", "then unaugmented")
            )
            figures.append((first[-1], 100 * np.median(np.abs(np.diff(first[3:]))), more[-1], unaugmented[-1]))
    rows = [(kind, *map(of_several, np.transpose(figures), (3, 1, 3, 3))) for kind, figures in cells.items()]
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
    def result(run):
        best = run.record["best_epoch"] - 1
        if "accuracy" in run.summary:
            return f"{figure(run.accuracies[0])} ({figure(run.history['val_accuracy'][best])})"
        decibels, similarity = (run.summary[key]["mean"] for key in ("PSNR (dB)", "SSIM"))
        return f"{decibels:.1f} dB, SSIM {figure(similarity)} (MSE {run.history['val_loss'][best]:.4f})"

    def epochs(run):
        asked = run.record["settings"]["epochs"]
        recipe = recipes.RECIPES[run.name.removesuffix("_scratch")].settings
        return str(asked) if asked == recipe.epochs else f"{asked} of {recipe.epochs}"

    def minutes(run):
        device = "one H200" if "H200" in run.record["device"] else "two cores"
        return f"{run.record['seconds'] / 60:.0f} on {device}"

    columns = {
        "run": lambda run: code(run.name),
        "parameters": lambda run: f"{run.record['parameters']:,}",
        "its document's test result": words,
        "here: test (validation)": result,
        "epochs": epochs,
        "best epoch": lambda run: str(run.record["best_epoch"]),
        "minutes": minutes,
    }
    return table_of_runs(OTHERS, columns)


TRIALS = {  # of the fast network, in the order in which they were made
    "sgd": "SGD with Nesterov momentum, batches of 512, warm-up over 23 % of the run",
    "sgd-lookahead": "the same with lookahead, one epoch more",
    "muon": "convolutions by Muon (`muon_rate_factor` .24), batches of 2,000, no warm-up, no lookahead",
    "shift3": "shifts of up to three pixels instead of two, one epoch more",
    "cutout": "cutout of 8 and shifts of two, batches of 1,000, `muon_rate_factor` .17 (paused for a while)",
    "bias": "half of 16 epochs at low resolution; whitened channels normalised, with a trained bias",
    "wide": "9 of 13 epochs at low resolution; no such bias; widths 64, 320, 320",
    "coarse": "12 of 18 epochs at low resolution, widths as before, `muon_rate_factor` .24",
    "muon34": "13 of 18 epochs at low resolution, `muon_rate_factor` .34",
    "deep": "`muon_rate_factor` .3, `logit_adjustment` 1.25; widths 64, 192, 320; a third, residual convolution in the "
    "last two blocks",
}


def fast_trials():
    operations = published("tried/fast_operations")["operations"]
    rows = {f"tried/cnn_fast_{trial}": text for trial, text in TRIALS.items()}
    rows["cnn_fast"] = "as it is now: `muon_rate_factor` .3, `logit_adjustment` 1.25 instead of 1, widths 64, 256, 256"
    columns = {
        "tried": words,
        "epochs": lambda run: str(run.epochs),
        "PFLOP": lambda run: figure(operations[run.name] / 1e15),
        "minutes": lambda run: f"{run.record['seconds'] / 60:.0f}",
        "training accuracy": lambda run: figure(run.history["accuracy"][-1]),
        "validation": lambda run: figure(run.history["val_accuracy"][run.record["best_epoch"] - 1]),
        "test": lambda run: figure(run.accuracies[0]),
    }
    return table_of_runs(rows, columns)


def fast_ends():
    found = published("tried/fast_ends")["accuracy"]
    rows = [(tried, *(figure(of[fold]) if fold in of else "" for fold in "12")) for tried, of in found.items()]
    return table(("the end of the run, or the whitening", "fold 1", "fold 2"), rows)


# --- Speed ----------------------------------------------------------------------------------------------------------


def benchmark():
    import bench  # which imports what trains

    return bench.show_table(published("benchmark")["models"])


def on_a_gpu():
    rows = {
        "autoencoder_noaug": "autoencoder, 100 epochs",
        "autoencoder_cls_noaug": "classifier on frozen layers, 30 epochs, median of five folds",
        "autoencoder_cls_scratch": "classifier from scratch, 30 epochs, median of five folds",
        "curve/cnn_fast_half": "fast network, half of the labels, 25 epochs, median of three folds",
    }

    def median(run, key):
        return np.median([record[key] for record in run.records])

    columns = {
        "training": words,
        "images/s": lambda run: f"{median(run, 'images_per_second'):,.0f}",
        "minutes": lambda run: f"{median(run, 'seconds') / 60:.1f}",
    }
    return table_of_runs(rows, columns)


def seconds_to_accuracy():
    """Seconds of training after which fold 1 first has a validation accuracy."""

    def until(run, level):
        reached = np.array(run.history["val_accuracy"]) >= level
        return f"{np.cumsum(run.history['seconds'])[reached.argmax()]:.0f}" if reached.any() else "not reached"

    columns = {"seconds until a validation accuracy of": lambda run: code(run.name)}
    columns |= {figure(level): lambda run, level=level: until(run, level) for level in (0.676, 0.8, 0.88)}
    return table_of_runs(dict.fromkeys(("cnn", "cnn_fast")), columns)


def precisions():
    """The CNN in both precisions: mean ± standard deviation over three seeds, and over their differences."""

    def figures(run):
        validation = run.history["val_accuracy"]
        last = run.history["loss"][-1], run.history["accuracy"][-1]
        return *last, np.mean(validation), max(validation), run.accuracies[0]

    values = {
        kind: np.array([figures(Run(f"precision/cnn_{kind}-seed{seed}")) for seed in range(3)])
        for kind in ("float32", "bfloat16")
    }
    values["difference"] = values["bfloat16"] - values["float32"]
    rows = [(kind, *(of_several(column, 3) for column in found.T)) for kind, found in values.items()]
    titles = ("", "training loss, last epoch", "training accuracy, last epoch", "validation accuracy, mean over epochs")
    return table((*titles, "best validation accuracy", "test accuracy"), rows)


TABLES = (
    answer,
    answer_few,
    runs,
    differences,
    recall_lost,
    fair,
    few_labels,
    few_labels_lengths,
    halved,
    halved_recalls,
    study_networks,
)
TABLES += (reference_program, statistics, other_networks, fast_trials, fast_ends, benchmark, on_a_gpu)
TABLES += (seconds_to_accuracy, precisions)
TABLES = {make.__name__.replace("_", "-"): make for make in TABLES}
