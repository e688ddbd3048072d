"""Tables of published figures for README.md and docs/*.md, from the reports and records in imgs/.

A function of TABLES returns the Markdown that stands between <!-- name --> and <!-- /name -->; `make docs` puts it
there. What a row is in words stands here, every figure of ours comes from a file.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

import bench
import compare
import recipes

ROOT = Path(__file__).resolve().parent.parent


def published(name):
    return json.loads((ROOT / "imgs" / f"{name}.json").read_text(encoding="utf-8"))


class Run:
    """A published run: the report of this path in imgs/, and what it is in words."""

    def __init__(self, path, words=""):
        report = published(f"{path}_report")
        self.name, self.words = path.rpartition("/")[2], words
        self.summary, self.ensemble = report["summary"], report.get("ensemble")
        self.numbers = sorted(report["folds"], key=int)
        self.folds = [report["folds"][number] for number in self.numbers]
        self.record = self.folds[0]["record"]

    def at_best(self, key):
        """A figure of the first fold's history at its best epoch, such as val_accuracy."""
        return self.record["history"][key][self.record["best_epoch"] - 1]


def comparisons(name):
    """{(run, baseline): row} of a published comparison."""
    return {(row["run"], row["baseline"]): row for row in published(name)["comparisons"]}


HALVED = ("bird", "deer", "truck")

# --- How figures are shown ------------------------------------------------------------------------------------------


def table(titles, rows):
    return "\n".join(f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows))


def table_of(items, columns):
    """A row for each item; `columns` is {title: function that makes an item's cell}."""
    return table(columns, [[cell(item) for cell in columns.values()] for item in items])


def table_of_runs(rows, columns):
    """A row for each run of {path of its report: words}."""
    return table_of([Run(*row) for row in rows.items()], columns)


def figure(value, digits=3):
    """A number, or {'mean': ..., 'std': ...}, without the zero before its point: '.676' for 0.676."""
    if isinstance(value, dict):
        more = "" if value["std"] is None else f" ± {figure(value['std'], digits)}"
        return figure(value["mean"], digits) + more
    return re.sub(r"\b0(?=[.])", "", f"{value:.{digits}f}")


def interval(test):
    return compare.between(test) if test else ""


def tested(row):
    """A difference in points, and in brackets its interval over folds where there is one."""
    return compare.in_points(row["mean"]) + (f" ({interval(row['t_test'])})" if row["t_test"] else "")


def p_value(row):
    return "< .001" if row["t_test"]["p_holm"] < 0.001 else figure(row["t_test"]["p_holm"])


def verdict(row):
    return row["verdict"].partition(":")[0]


def code(word):
    return f"`{word}`" if word else ""


def words(run):
    return run.words


def name(run):
    return code(run.name)


def folds(run):
    return str(len(run.folds))


def accuracy(run):
    return figure(run.summary["accuracy"])


# --- The study, and the fast CNN on an encoder ------------------------------------------------------------------

RUNS = {
    "cnn": "CNN",
    "autoencoder_cls_scratch": "deeper CNN, from scratch",
    "autoencoder_cls_noaug": "deeper CNN, two blocks frozen",
    "autoencoder_cls_random": "deeper CNN, two blocks random",
    "mod_autoencoder_cls_noaug": "dense layers, encoder frozen",
    "cnn_fast": "fast CNN, from scratch",
    "autoencoder_cls_fast": "fast CNN, two blocks frozen",
    "autoencoder_cls_fast_random": "fast CNN, two blocks random",
    "autoencoder_cls_fast_tuned": "fast CNN, fine-tuned",
}


def runs():
    """The runs of the comparison, with the accuracy of each fold."""
    columns = {
        "network": words,
        "run": name,
        "test accuracy": accuracy,
        "of each fold": lambda run: " ".join(figure(fold["accuracy"]) for fold in run.folds),
        "ensemble": lambda run: figure(run.ensemble["accuracy"]) if run.ensemble else "",
        "recall bird": lambda run: figure(run.summary["recall bird"], 2),
        "deer": lambda run: figure(run.summary["recall deer"], 2),
        "truck": lambda run: figure(run.summary["recall truck"], 2),
    }
    others = {run: "" for run in published("comparison")["runs"] if run not in RUNS}
    return table_of_runs(RUNS | others, columns)


def differences():
    """Each run of the comparison minus its control: accuracy, and recall of the halved classes minus the others'."""
    columns = {
        "difference in accuracy, in points": lambda row: f"{code(row['run'])} minus {code(row['baseline'])}",
        "folds": lambda row: str(len(row["folds"])),
        "mean": lambda row: compare.in_points(row["mean"]),
        "95 % over folds": lambda row: interval(row["t_test"]),
        "verdict": verdict,
        "95 % over test images": lambda row: interval(row["bootstrap"]),
        "recall of halved minus other classes": lambda row: tested(row["reduced_minus_others"]),
        "its verdict": lambda row: verdict(row["reduced_minus_others"]),
    }
    return table_of(published("comparison")["comparisons"], columns)


LAYERS = {
    "trained from scratch": ("autoencoder_cls_scratch", "cnn_fast"),
    "of the autoencoder, frozen": ("autoencoder_cls_noaug", "autoencoder_cls_fast"),
    "of the autoencoder, fine-tuned": (None, "autoencoder_cls_fast_tuned"),
    "random, frozen": ("autoencoder_cls_random", "autoencoder_cls_fast_random"),
}


def answer():
    """The README's first table: both networks on all labels, with the difference from scratch in points."""
    compared, rows = comparisons("comparison"), []
    controls = LAYERS["trained from scratch"]
    for text, pair in LAYERS.items():
        rows.append([text])
        for run, control in zip(pair, controls, strict=True):
            if not run:
                rows[-1] += ["not trained", ""]
                continue
            found = Run(run)
            difference = f", {tested(compared[run, control])}" if run != control else ""
            recall = np.mean([found.summary[f"recall {name}"]["mean"] for name in HALVED])
            rows[-1] += [accuracy(found) + difference, figure(recall, 2)]
    recall = "its recall of the halved classes"
    return table(("first layers", "the study's deeper CNN", recall, "the fast CNN", recall), rows)


# --- The fair test on few labels ------------------------------------------------------------------------------------

SOURCES = {  # FROM, the run that the first two blocks come from; a source without tries has no row
    None: "nothing: all layers are trained from scratch",
    "random": "nothing: random layers",
    "cnn_fast": "a network trained on the labels of all 36,125 images",
    "cnn_fast_turns": "a network that learnt quarter turns, without labels",
    "cnn_fast_turns-allimages": "a network that learnt turns, also from the images that halving leaves out",
    "autoencoder_fast": "the autoencoder, without labels",
    "autoencoder_fast_seed1": "a second autoencoder (SEED=1)",
    "autoencoder_fast_allimages": "an autoencoder that also learnt from the images that halving leaves out",
    "autoencoder_fast_denoising": "an autoencoder that removes noise, without labels",
    "autoencoder_fast_masked": "an autoencoder that fills in hidden squares, without labels",
    "autoencoder_fast_narrow": "an autoencoder with a narrow code, without labels",
}
FEW = 1 / 32  # LABELLED of the fair test with all its arms
THEN = {"scratch": "", "random": "frozen", "frozen": "frozen", "tuned": "fine-tuned"}


class Arm(NamedTuple):
    source: str | None
    encoder: str
    tried: dict  # {(way, rate), as rates_of has it: validation accuracy of fold 1}
    chosen: tuple  # the key of the chosen one
    run: Run  # which was trained so, and evaluated
    difference: str  # from scratch, with its interval


def rates_of(one):
    """A try as (way, rate): the learning rate of all layers, or of the fine-tuned ones, in multiples of the recipe's.

    The way of fine-tuning is (share of the steps in which these layers are frozen at first, the other layers' rate).
    """
    rate, factor = one["learning_rate"], one["encoder_rate_factor"]
    return ((one["frozen_share"], rate), round(rate * factor, 6)) if factor else ((0, None), rate)


def then(encoder, way):
    frozen_share, other_rate = way
    frozen = f", frozen for the first {100 * frozen_share:g} % of the steps" if frozen_share else ""
    return THEN[encoder] + frozen + (f", other layers x {other_rate:g}" if other_rate else "")


def arms():
    """The arms of the fair test, from scratch first."""
    compared, scratch = comparisons("comparison_fair"), None
    tries = {}  # {(source, encoder): {key: try}}
    for one in (one for one in published("fair/tries") if one["labelled"] == FEW):
        tries.setdefault((one["from"], one["encoder"]), {})[rates_of(one)] = one
    found = []
    for source, encoder in sorted(tries, key=in_order):
        tried = {key: one["val_accuracy"] for key, one in tries[source, encoder].items()}
        chosen = next(key for key, one in tries[source, encoder].items() if one.get("chosen"))
        run = tries[source, encoder][chosen]["run"]
        scratch = scratch or run
        difference = tested(compared[run, scratch]) if source else ""
        found.append(Arm(source, encoder, tried, chosen, Run(f"fair/{run}"), difference))
    return found


def in_order(arm):
    """The place of a (source, encoder) in tables."""
    return list(SOURCES).index(arm[0]), list(THEN).index(arm[1])


def arm_of(point):
    """The (source, encoder) of a point of the curve."""
    encoder, _, source = point["encoder"].partition(" from ")
    return source or {"scratch": None, "random": "random"}[encoder], encoder


def answer_few():
    """The README's second table: the fast CNN with each number of labels, by what its first blocks learnt."""
    found, images = {}, {}
    for point in published("curve_fair")["points"]:
        shown = tested(point["difference"]) if "difference" in point else figure(point["accuracy"])
        found.setdefault(arm_of(point), {})[point["labelled"]] = shown
        images[point["labelled"]] = point["images"]
    rows, before = [], ""
    for source, encoder in sorted(found, key=in_order):
        text = SOURCES[source]
        cells = (found[source, encoder].get(share, "") for share in sorted(images))
        rows.append((text if text != before else "", THEN[encoder], *cells))
        before = text
    counts = (f"{images[share]:,} labelled images" for share in sorted(images))
    return table(("the first two blocks come from", "and are then", *counts), rows)


def fair():
    """The tries of each arm on validation images, the one that was chosen, and what it gives on test images."""
    found, rows = arms(), []
    for arm in found:
        # The row with the chosen try comes first and has the arm's figures.
        ways = dict.fromkeys((arm.chosen[0], *sorted(way for way, _ in arm.tried)))
        rows += [(arm, way, way == arm.chosen[0]) for way in ways]

    def tried(row, rate):
        arm, way, _ = row
        shown = figure(arm.tried[way, rate], 4) if (way, rate) in arm.tried else ""
        return f"**{shown}**" if (way, rate) == arm.chosen else shown

    def of_chosen(cell):
        return lambda row: cell(row[0]) if row[2] else ""

    rates = sorted({rate for arm in found for _, rate in arm.tried}, reverse=True)
    tries = {times(rate): lambda row, rate=rate: tried(row, rate) for rate in rates}
    columns = {
        "first two blocks from": lambda row: SOURCES[row[0].source],
        "then": lambda row: then(row[0].encoder, row[1]),
        **tries,
        "test accuracy": of_chosen(lambda arm: accuracy(arm.run)),
        "folds": of_chosen(lambda arm: folds(arm.run)),
        "minus scratch, in points (95 % over folds)": of_chosen(lambda arm: arm.difference),
    }
    return table_of(rows, columns)


def times(factor):
    return f"x {f'{factor:g}'.removeprefix('0')}"


def other_shares():
    """The tries with other numbers of labels, on validation images of fold 1."""
    images = {point["labelled"]: point["images"] for point in published("curve_fair")["points"]}
    tried = {}
    for one in (one for one in published("fair/tries") if one["labelled"] != FEW):
        shown = figure(one["val_accuracy"], 4)
        shown = f"**{shown}**" if one.get("chosen") else shown
        tried.setdefault((one["labelled"], one["from"], one["encoder"]), {})[rates_of(one)] = shown
    columns = sorted({rate for tries in tried.values() for _, rate in tries}, reverse=True)
    rows = []
    for share, *arm in sorted(tried, key=lambda of: (of[0], *in_order(of[1:]))):
        shown = tried[share, *arm]
        for way in sorted({way for way, _ in shown}):
            cells = (shown.get((way, rate), "") for rate in columns)
            rows.append((f"{images[share]:,}", SOURCES[arm[0]], then(arm[1], way), *cells))
    return table(("labelled images", "first two blocks from", "then", *map(times, columns)), rows)


def few_recalls():
    """With each number of labels, how pretraining without labels changes the recall of the halved and other classes."""

    def recalls(name, numbers):
        """The mean recall of the halved classes and of the others, on each fold."""
        path = f"fair/{name}" if (ROOT / f"imgs/fair/{name}_report.json").exists() else name
        folds = published(f"{path}_report")["folds"]
        of_folds = np.array([list(folds[str(number)]["recall"].values()) for number in numbers])
        halved = np.isin(list(folds[str(numbers[0])]["recall"]), HALVED)
        return np.array([of_folds[:, halved].mean(axis=1), of_folds[:, ~halved].mean(axis=1)])

    rows = []
    points = [point for point in published("curve_fair")["points"] if "difference" in point]
    for point in sorted(points, key=lambda point: (point["labelled"], in_order(arm_of(point)))):
        (source, encoder), row = arm_of(point), point["difference"]
        if source == "cnn_fast":
            continue
        halved, others = recalls(row["run"], row["folds"]) - recalls(row["baseline"], row["folds"])
        tests = [tested(compare.over_folds(values, row["correlation"])) for values in (halved, others)]
        more = row["reduced_minus_others"]
        rows.append((f"{point['images']:,}", SOURCES[source], THEN[encoder], *tests, tested(more), p_value(more)))
    titles = ("labelled images", "first two blocks from", "then", "recall of the halved classes", "of the others")
    return table((*titles, "difference", "its p (Holm)"), rows)


OF_HALVING = {  # of a run as compare.py reads it, on one fold
    "accuracy": lambda run, fold: run.right[fold].mean(),
    "recall of halved minus other classes": lambda run, fold: run.contrast(HALVED, [fold])[0],
}


def halving():
    """What halving changes: each arm of the fair test that was trained with no class halved as well, minus scratch."""
    whole = {path.name for path in (ROOT / "imgs/fair").glob("*-none_report.json")}
    scratch, *others = arms()
    rows = []
    for arm in (arm for arm in others if f"{arm.run.name}-none_report.json" in whole):
        names = [f"{one.run.name}{end}" for end in ("", "-none") for one in (arm, scratch)]
        paths = [ROOT / f"imgs/fair/{name}_report.json" for name in names]
        runs = [compare.Evaluated(path, json.loads(path.read_text(encoding="utf-8"))) for path in paths]
        folds = sorted(set.intersection(*(set(run.folds) for run in runs)))
        for title, measure in OF_HALVING.items():
            of_runs = np.array([[measure(run, fold) for fold in folds] for run in runs])
            gains = of_runs[[0, 2]] - of_runs[[1, 3]]  # with these classes halved, and with all images
            tests = [compare.over_folds(values, runs[0].settings["val"]) for values in (*gains, gains[0] - gains[1])]
            rows.append((SOURCES[arm.source], THEN[arm.encoder], title, str(len(folds)), *map(tested, tests)))
    titles = ("first two blocks from", "then", "figure", "folds")
    titles += ("halved, minus scratch, in points", "not halved, minus scratch", "difference")
    return table(titles, rows)


INSTEAD = {  # a source: the usual one, which differs in its images only, or in the seed that also draws them
    "autoencoder_fast_seed1": "autoencoder_fast",
    "autoencoder_fast_allimages": "autoencoder_fast",
    "cnn_fast_turns-allimages": "cnn_fast_turns",
}


def other_sources():
    """What another seed or more images change: each arm on frozen layers of such a source, minus the usual one."""
    runs = {(arm.source, arm.encoder): arm.run for arm in arms()}
    rows = []
    for source, usual in INSTEAD.items():
        pair = runs[source, "frozen"], runs[usual, "frozen"]
        numbers = sorted(set(pair[0].numbers) & set(pair[1].numbers), key=int)
        right = np.array([[run.folds[run.numbers.index(number)]["accuracy"] for number in numbers] for run in pair])
        found = compare.over_folds(right[0] - right[1], pair[0].record["settings"]["val"])
        rows.append((SOURCES[source], SOURCES[usual], str(len(numbers)), tested(found)))
    return table(("first two blocks from", "instead of", "folds", "difference, in points"), rows)


# --- Remedies against the imbalance ---------------------------------------------------------------------------------

WAYS = {
    "halved/cnn_fast_nothing": "nothing",
    "halved/cnn_fast_balanced": "balanced batches",
    "halved/cnn_fast_weights": "class weights",
    "cnn_fast": "logit adjustment",
    "halved/cnn_fast_all": "no class is halved",
}


def halved():
    """What helps the halved classes: each way against the imbalance beside nothing."""
    compared = {run: row for (run, _), row in comparisons("comparison_halved").items()}

    def against(show, figure=None):  # the figure of a row, or the row itself, which is about accuracy
        def cell(run):
            row = compared.get(run.name)
            return show(row[figure] if figure else row) if row else ""

        return cell

    columns = {
        "against the imbalance": words,
        "run": name,
        "folds": folds,
        "test accuracy": accuracy,
        "minus nothing, in points": against(tested),
        "p (Holm)": against(p_value),
        "recall of halved minus other classes, minus nothing": against(tested, "reduced_minus_others"),
        "its p (Holm)": against(p_value, "reduced_minus_others"),
    }
    return table_of_runs(WAYS, columns)


# --- Networks -------------------------------------------------------------------------------------------------------

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
        if "accuracy" in run.summary:
            return f"{accuracy(run)} ({figure(run.at_best('val_accuracy'))})"
        decibels, similarity = (run.summary[key]["mean"] for key in ("PSNR (dB)", "SSIM"))
        return f"{decibels:.1f} dB, SSIM {figure(similarity)} (MSE {run.at_best('val_loss'):.4f})"

    def last(run):
        losses, accuracies = (run.record["history"].get(f"val_{what}") for what in ("loss", "accuracy"))
        return figure(accuracies[-1]) if accuracies else f"MSE {losses[-1]:.4f}"

    def epochs(run):
        asked = run.record["settings"]["epochs"]
        recipe = recipes.RECIPES[run.name.removesuffix("_scratch")].settings
        return str(asked) if asked == recipe.epochs else f"{asked} of {recipe.epochs}"

    def minutes(run):
        device = "one H200" if "H200" in run.record["device"] else "two cores"
        return f"{run.record['seconds'] / 60:.0f} on {device}"

    columns = {
        "run": name,
        "parameters": lambda run: f"{run.record['parameters']:,}",
        "its document's test result": words,
        "here: test (validation)": result,
        "validation after the last epoch": last,
        "epochs": epochs,
        "best epoch": lambda run: str(run.record["best_epoch"]),
        "minutes": minutes,
    }
    return table_of_runs(OTHERS, columns)


def benchmark():
    return bench.show_table(published("benchmark")["models"])


TABLES = (answer, answer_few, runs, differences, fair, other_shares, halved, study_networks, other_networks)
TABLES += (few_recalls, halving, other_sources, benchmark)
TABLES = {make.__name__.replace("_", "-"): make for make in TABLES}
