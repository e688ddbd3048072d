"""Compare evaluated classifiers on the same data: differences, with their uncertainty. Trains nothing.

Reads the reports of evaluate.py, imgs/<run>_report.json; writes imgs/comparison.txt, .json and .png, and recalls.png.
Without --runs and --data it compares the runs on the pictures that were trained on here last, else the largest group on
the same pictures, and says what it leaves out. Reports of runs that --runs names may lie in folders of imgs/.
"""

import difflib
import itertools
import json
import textwrap

import numpy as np

from common import METRICS, titled
from data import load_data
from recipes import (
    CHECKPOINTS,
    IMAGES,
    PRETRAINED,
    RECIPES,
    FilePath,
    RunSuffix,
    completed,
    differing_settings,
    name_and_fold,
    run_name,
)
from runs import AUTOENCODERS, Record, Run, in_words, learnt, learnt_before, parts_of_name
from util import cli, plots
from util.backend import Later
from util.cli import InputError
from util.files import file_sha256, reading, write_json, write_text
from util.options import Part, parse, require_form, setting
from util.plots import markdown_table, show, spread

stats = Later("scipy.stats")
LEVEL = 0.95
DRAWS = 10_000  # of the bootstrap
FOLDS_TO_TEST = 3
# The calibration error is left out: label smoothing decides it, which some recipes have and others do not.
COMPARED = {key: metric for key, metric in METRICS.items() if metric.title and key != "calibration_error"}
PICTURES = "the training pictures"
# What may differ between runs that RUNS names, because it may be the question.
MAY_DIFFER = {"the images kept of reduced classes", "LABELLED"}
AUTOENCODER = "it learnt to reconstruct pictures, not to tell classes"


class Options(Part):
    data: FilePath | None = setting(None, "compare runs on these pictures, as a training names them", knob="DATA")
    name: RunSuffix | None = setting(None, "a suffix of the comparison's name", knob="NAME")
    runs: str | None = setting(None, "runs to compare (unset: those trained here last, on the same data)", knob="RUNS")
    baseline: str | None = setting(None, "the run to compare with (unset: each run's control, or cnn)", knob="BASELINE")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    names = (options.runs or "").split()
    runs, autoencoders, unusable = read_reports()
    if options.data:
        pictures = load_data(options.data).sha256
        runs = [run for run in runs if run.settings["sha256"] == pictures]
    chosen, left_out = choose(runs, unusable, names)
    reduced = list(dict.fromkeys(itertools.chain(*(run.reduced for run in chosen))))
    content = {
        "data": chosen[0].data,
        "reduced": reduced,
        "runs": {run.name: figures_of(run, reduced, autoencoders) for run in chosen},
        "comparisons": compare_all(find_pairs(chosen, options.baseline, names)),
        "left_out": left_out,
    }
    text = as_text(content)
    name, recalls = (run_name(what, chosen[0].data["prefix"], name=options.name) for what in ("comparison", "recalls"))
    write_text(IMAGES / f"{name}.txt", f"{text}\n")
    write_json(IMAGES / f"{name}.json", content)
    # Drawn are the comparisons of a pretrained encoder with the same network without one, or all where there are none.
    question = [row for row in content["comparisons"] if row["control"]] or content["comparisons"]
    (IMAGES / f"{name}.png").unlink(missing_ok=True)  # of another comparison
    if question:
        plots.plot_differences(IMAGES / f"{name}.png", question, {run.name: run.words for run in chosen})
    figures = content["runs"].values()  # in the order of RUNS, or without it each network's side by side
    figures = figures if names else sorted(figures, key=lambda of: of["words"])
    plots.plot_recalls(IMAGES / f"{recalls}.png", figures, reduced)
    print(f"{text}\n\n{name}.* and {recalls}.png are written to {IMAGES}/")


# --- Reports ----------------------------------------------------------------------------------------------------------


class Evaluated:
    """The report of one run, as evaluate.py writes it.

    `folds` is {number: its figures and its record}, `right` {number: which test images it got right}, `recall`
    {number: that of each class}. `record` is that of one fold: all have the same settings, but code and processor may
    differ. `before` is what the run learnt that its layers come from; `words` is what plots call this run.
    """

    before, words = None, ""  # until all reports are read

    def __init__(self, path, report):
        self.name, self.path = path.name.removesuffix("_report.json"), path
        self.data, self.ensemble = report["data"], report.get("ensemble")
        self.folds = {int(number): fold for number, fold in report["folds"].items()}
        for fold in self.folds.values():
            require_form(fold["record"], Record)
        self.record = next(iter(self.folds.values()))["record"]
        self.settings, self.class_names = completed(self.record["settings"]), self.record["data"]["class_names"]
        self.model, self.encoder = self.settings["model"], self.settings.get("encoder")
        self.builder = RECIPES[self.model].build if self.model in RECIPES else self.model
        self.encoder_from = name_and_fold(self.record.get("encoder_from") or "")[0]
        parts = parts_of_name(self.name, self.record, self.data["prefix"])
        self.suffix = "_".join(part for part in parts if part not in AUTOENCODERS)  # NAME
        self.reduced = [self.class_names[number] for number in self.settings["reduced"]]
        self.same_data = {  # what two runs must have in common to be compared
            PICTURES: self.settings["sha256"],
            "the images kept of reduced classes": self.settings["kept_sha256"],
            "the test pictures": self.data["test_sha256"],
            "the classes' names": self.class_names,
            "how the validation images are chosen": self.settings["split"],
            "VAL": self.settings["val"],
            "LABELLED": self.settings["labelled"],
            "SEED": self.settings["seed"],
        }
        self.split = {n: fold["record"]["data"]["train_sha256"] for n, fold in self.folds.items()}
        self.processor = {n: processor(fold["record"]) for n, fold in self.folds.items()}
        self.code = {n: code(fold["record"]) for n, fold in self.folds.items()}
        labels = np.array(report["labels"].split())
        self.right = {n: (np.array(fold["predicted"].split()) == labels) * 1.0 for n, fold in self.folds.items()}
        self.recall = {n: np.array([fold["recall"][c] for c in self.class_names]) for n, fold in self.folds.items()}
        if not all(np.isclose(self.right[number].mean(), fold["accuracy"]) for number, fold in self.folds.items()):
            raise ValueError("an accuracy is not that of the predictions")
        # When the last fold was trained here; 0 where none was: published reports come without checkpoints.
        files = [Run(self.name, fold).checkpoint for fold in self.folds]
        self.trained_here = max((file.stat().st_mtime for file in files if file.exists()), default=0)

    def contrast(self, classes, folds):
        """The mean recall of these classes minus that of the others, on each of the folds."""
        recall, among = np.array([self.recall[fold] for fold in folds]), np.isin(self.class_names, classes)
        return recall[:, among].mean(axis=1) - recall[:, ~among].mean(axis=1)

    def same_network(self, other):
        return self.builder == other.builder and self.settings["network"] == other.settings["network"]


def read_reports():
    """([classifiers as Evaluated], {SHA-256 of an autoencoder: its figures}, {report: why it cannot be compared}).

    Reports in folders of imgs/ as well, unless one of the same name lies in imgs/ itself. Prints which finished
    trainings have no report.
    """
    runs, autoencoders, unusable, known, places = [], {}, {}, {}, {}
    for path in sorted(IMAGES.glob("**/*_report.json")):
        places.setdefault(path.name, []).append(path)
    for file, paths in sorted(places.items()):
        path = IMAGES / file if IMAGES / file in paths else paths[-1]
        if path.parent != IMAGES and len(paths) > 1:
            unusable[path] = f"{' and '.join(map(str, paths))} are of this name; rename one of them"
        try:
            said = f"{path} is not as evaluate.py writes it", "evaluate that run again"
            with reading(*said, TypeError, KeyError, IndexError):  # of JSON of another form: a report has no checksum
                report = json.loads(path.read_text(encoding="utf-8"))
                records = [fold["record"] for fold in report["folds"].values()]
                known |= {record["checkpoint_sha256"]: learnt(record) for record in records}
                kind = learnt(records[0])
                if "images" in kind:
                    quality = {key: report["summary"][key] for key in ("PSNR (dB)", "SSIM")}
                    name = path.name.removesuffix("_report.json")
                    autoencoders[records[0]["checkpoint_sha256"]] = {"name": name, **quality}
                    unusable[path] = AUTOENCODER
                elif kind == "turns":
                    unusable[path] = "it learnt to tell quarter turns, not classes"
                else:
                    runs.append(Evaluated(path, report))
        except InputError as error:
            unusable[path] = str(error)
    for run in runs:
        run.before = learnt_before(run.record, known)
        run.words = in_words(run.name, run.record, run.data["prefix"], run.before)
    trained = sorted(CHECKPOINTS.glob("[!.]*_fold*.keras"))
    if missing := [path.stem for path in trained if file_sha256(path) not in known]:
        print(f"note: not evaluated, or trained again since: {', '.join(missing)}; run make test-eval with their MODEL")
    return runs, autoencoders, unusable


# --- Which runs, against which ----------------------------------------------------------------------------------------


def choose(runs, unusable, names):
    """(The runs called `names`, or without names a group on the same data in imgs/ itself, {what is left out: why}).

    Raises InputError where they cannot be compared.
    """
    if names:
        by_name = {run.name: run for run in runs}
        reasons = {path.name.removesuffix("_report.json"): why for path, why in unusable.items()}
        for name in names:
            if name in reasons or name not in by_name:
                near = ", ".join(difflib.get_close_matches(name, by_name, n=5))
                there = f"names near it are {near}" if near else f"none of its {len(by_name)} has a name near it"
                none = f"{IMAGES} has no such report; {there}"
                raise InputError(f"{name!r} cannot be compared: {reasons.get(name, none)}")
        chosen, left_out = [by_name[name] for name in dict.fromkeys(names)], {}
    else:
        runs = [run for run in runs if run.path.parent == IMAGES]
        chosen = latest_group(runs, lambda one, other: not difference_of_data(one, other))
        others = [run for run in runs if run not in chosen]
        same = [run for run in others if run.same_data[PICTURES] == chosen[0].same_data[PICTURES]]
        left_out = {run.name: difference_of_data(chosen[0], run) for run in same}
        left_out |= {
            path.name.removesuffix("_report.json"): why
            for path, why in unusable.items()
            if path.parent == IMAGES and why != AUTOENCODER
        }
        if count := len(others) - len(same):
            print(f"note: {count} run{'s'[: count > 1]} on other pictures: DATA or RUNS compares them")
    if len(chosen) < 2:
        more = "".join(f"; {name} is left out: {reason}" for name, reason in left_out.items())
        raise InputError(
            f"a comparison takes two evaluated classifiers on the same data: run `make cnn` and others{more}"
        )
    for run in chosen[1:]:
        if differing := difference_of_data(chosen[0], run, MAY_DIFFER):
            raise InputError(f"{chosen[0].name} and {run.name} cannot be compared: {differing}; leave one of them out")
    return chosen, left_out


def latest_group(runs, alike, count=len):
    """Of the groups of runs that are `alike` the one that was trained here last, then the largest.

    Groups of which `count` gives one come after all others.
    """
    groups = [[other for other in runs if alike(run, other)] for run in runs]
    ranks = [(count(group) > 1, max(run.trained_here for run in group), len(group)) for group in groups]
    return groups[ranks.index(max(ranks))] if groups else []


def difference_of_data(first, second, allowed=frozenset()):
    """In what two runs' data differ, in words, or ''; also '' where that is `allowed`."""
    differing = [what for what, value in first.same_data.items() if value != second.same_data[what]]
    if not differing:
        shared = sorted(first.folds.keys() & second.folds.keys())
        differing = [f"the splits of fold {n}" for n in shared if first.split[n] != second.split[n]]
    return "" if allowed >= {*differing} else f"{', '.join(differing)} differ"


def find_pairs(runs, baseline, names):
    """[(run, what it is compared with)]: the run called `baseline`, if any, else its controls.

    Of runs that were named and are no controls of each other, all are compared with the first. Raises InputError.
    """
    pairs = [] if baseline else [(run, other) for run in runs for other in controls(run, runs)]
    if pairs or not (baseline or names):
        return pairs
    baseline = baseline or runs[0].name
    other = next((run for run in runs if run.name == baseline), None)
    if not other:
        raise InputError(f"BASELINE={baseline!r} is none of the runs compared: {', '.join(run.name for run in runs)}")
    for run in runs:
        if not run.folds.keys() & other.folds.keys():
            raise InputError(f"{run.name} and {baseline} have no fold in common: leave one of them out")
    return [(run, other) for run in runs if run is not other]


def controls(run, runs):
    """The controls of a run.

    A classifier on an encoder is compared with the same network trained from scratch, which may be a cnn, and a frozen
    one also with the same random one, since both pay what freezing costs. What has no such control is compared with the
    model cnn. Of several candidates those on the same data count, of them those of the same NAME, else those without.
    """
    others = [one for one in runs if one is not run and one.folds.keys() & run.folds.keys()]
    same = [one for one in others if one.same_network(run)]
    scratch, alone, random = ([one for one in same if one.encoder == kind] for kind in ("scratch", None, "random"))
    cnn = [one for one in others if one.model == "cnn" != run.model]
    found = []
    for candidates in (
        cnn if run.encoder in (None, "scratch") else scratch or alone or cnn,
        random if run.encoder == "frozen" else [],
    ):
        far = [(difference_of_data(run, one) != "", one.suffix != run.suffix, one.suffix != "") for one in candidates]
        found += [one for one, distance in zip(candidates, far, strict=True) if distance == min(far)]
    return found


# --- Statistics -------------------------------------------------------------------------------------------------------


def corrected_t_test(differences, correlation):
    """Corrected resampled t-test of differences over folds, whose training sets overlap: (low, high, p), two-sided.

    `differences` is (folds,), or (..., folds) of several tests. The variance of the mean is
    s^2 (1 / folds + correlation / (1 - correlation)), and the correlation of two folds the share of the images that is
    held out. Nadeau and Bengio 2003, Inference for the Generalization Error.
    """
    folds, mean = np.shape(differences)[-1], np.mean(differences, axis=-1)
    error = np.sqrt(np.var(differences, axis=-1, ddof=1) * (1 / folds + correlation / (1 - correlation)))
    low, high = stats.t.interval(LEVEL, folds - 1, mean, error)
    return low, high, 2 * stats.t.sf(abs(mean / error), folds - 1)


def paired_bootstrap(differences, seed=0):
    """Bootstrap of the mean difference over test images: (low, high, p), percentile interval, two-sided.

    `differences` (n,): of each image, how much more often one model is right than the other. Conditional on the trained
    models: it says nothing of what another training would have given.
    """
    levels, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    # Resampling n images is drawing how often each of the few levels comes.
    means = np.random.default_rng(seed).multinomial(n, counts / n, DRAWS) @ levels / n
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    beyond = min(np.sum(means <= 0), np.sum(means >= 0))
    return low, high, min(1.0, 2 * (beyond + 1) / (DRAWS + 1))


def holm(p_values):
    """p-values adjusted for their number (Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure)."""
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values)
    adjusted = np.maximum.accumulate(p_values[order] * np.arange(len(p_values), 0, -1))
    return np.minimum(adjusted, 1)[np.argsort(order)]


def compare_all(pairs):
    """Comparisons of (run, baseline) pairs, each figure with a verdict by its p, adjusted for their number.

    Rows that are about the question, a pretrained encoder against its control, and the rest are a family each, so that
    what else is compared does not weaken the answer.
    """
    compared = [compare(run, baseline) for run, baseline in pairs]
    for control in (True, False):
        rows = [row for row in compared if row["control"] == control]
        for figures in (rows, [row["reduced_minus_others"] for row in rows if row["reduced_minus_others"]]):
            tested = [figure["t_test"] for figure in figures if figure["t_test"]]
            for test, p in zip(tested, holm([test["p"] for test in tested]), strict=True):
                test["p_holm"] = float(p)
            for figure in figures:
                figure["verdict"] = verdict(figure)
    return compared


def compare(run, baseline):
    """Two runs on the folds that both have: accuracy, and the recall of reduced classes minus that of the others."""
    folds = sorted(run.folds.keys() & baseline.folds.keys())
    correlation = run.settings["val"]
    right, other = (np.array([one.right[fold] for fold in folds]) for one in (run, baseline))
    classes, contrast = list(dict.fromkeys([*run.reduced, *baseline.reduced])), None
    if 0 < len(classes) < len(run.class_names):
        differences = run.contrast(classes, folds) - baseline.contrast(classes, folds)
        contrast = {"classes": classes, **over_folds(differences, correlation)}
    apart = {"model", "encoder", *(["network"] if run.model != baseline.model else [])}
    shared = [key for key in run.settings if key in baseline.settings and key not in apart and "sha256" not in key]
    unlike = ({key: one.settings[key] for key in shared} for one in (run, baseline))
    pretrained = [one.encoder in PRETRAINED for one in (run, baseline)]
    return {
        "run": run.name,
        "baseline": baseline.name,
        "control": run.same_network(baseline) and sum(pretrained) == 1 and not difference_of_data(run, baseline),
        "folds": folds,
        "correlation": correlation,
        **over_folds(right.mean(axis=1) - other.mean(axis=1), correlation),
        "bootstrap": interval(paired_bootstrap((right - other).mean(axis=0))),
        "reduced_minus_others": contrast,
        "unlike": differing_settings(*unlike, "{} {} and {}"),
        "trained_unlike": unlike_trainings(run, baseline, folds),
    }


def over_folds(differences, correlation):
    untested = "fewer than three folds" if len(differences) < FOLDS_TO_TEST else ""
    if not untested and np.ptp(differences) < 1e-9:  # a few test images: nothing to estimate a spread from
        untested = "the same difference on every fold"
    test = None if untested else interval(corrected_t_test(differences, correlation))
    mean = float(differences.mean())
    return {"differences": differences.tolist(), "mean": mean, "t_test": test, "untested": untested}


def interval(low_high_p):
    return dict(zip(("low", "high", "p"), map(float, low_high_p), strict=True))


def verdict(figure):
    if not figure["t_test"]:
        return f"not tested: {figure['untested']}"
    if figure["t_test"]["p_holm"] >= 1 - LEVEL:
        return "no difference shown"
    return "better" if figure["mean"] > 0 else "worse"


# --- By what code and on what processor -------------------------------------------------------------------------------


def processor(record):
    """What a training ran on: device, precision with the instruction set that it was chosen for, backend."""
    backend = next(name for name in ("tensorflow", "jax") if name in record["versions"])
    reason = record["precision_reason"].removeprefix("the hardware has ")
    return f"{record['device']}, {record['precision']} ({reason}), {backend}"


def code(record):
    """The hash of the code that trained; of an older record, which lacks it, the commit, + with changes to it."""
    return record.get("code_sha256", "")[:8] or f"unknown, commit {record.get('commit') or 'unknown'}"


def other_code(first, second):
    if first == second:
        return "perhaps by other code" if first.endswith(("+", "unknown")) else ""
    return "perhaps by other code" if "unknown" in first + second else "by other code"


def unlike_trainings(run, baseline, folds):
    """Whether two runs were trained on other processors or by other code, as words, by their records of each fold."""
    processors = ["on another processor" if run.processor[n] != baseline.processor[n] else "" for n in folds]
    codes = [other_code(run.code[n], baseline.code[n]) for n in folds]
    return [words for kind in (processors, codes) for words in by_fold(grouped(folds, kind))]


def grouped(folds, words):
    """{word: the folds that have it} of a word for each fold."""
    return {word: [n for n, one in zip(folds, words, strict=True) if one == word] for word in dict.fromkeys(words)}


def by_fold(groups):
    """The words of `grouped`, each with its folds where there are several."""
    return [
        f"{word} (fold{'s'[: len(of) > 1]} {', '.join(map(str, of))})" if len(groups) > 1 else word
        for word, of in groups.items()
        if word
    ]


# --- What is written --------------------------------------------------------------------------------------------------

RUNS_COLUMNS = (
    "Mean ± standard deviation over folds. The ensemble averages the probabilities of as many folds as it says: "
    "ensembles of different sizes do not compare. All on {test_images:,} test images of {source}."
)
DIFFERENCES_COLUMNS = (
    "Differences in percentage points. Over folds: corrected resampled t-test. An interval holds for its row "
    "alone; p and the verdict are adjusted (Holm's method) for the number of rows of the same figure, separately "
    "for the rows about the question (a pretrained encoder minus the same network without one) and for all "
    'others. So an interval without 0 can stand beside "no difference shown". Over test images: paired bootstrap,'
    ' for these trained models alone. "reduced - others": mean recall of the reduced classes minus that of the '
    'others; "worse" says that the reduced classes lose more, or gain less.'
)
ORIGINS = "Processor and code of each run (unknown: its record is older than the code's hash; +: uncommitted changes):"


def figures_of(run, reduced, autoencoders):
    """Mean and standard deviation over folds of what a run scored and cost, its ensemble, and how it was trained."""
    numbers = sorted(run.folds)
    folds = [run.folds[number] for number in numbers]
    records = [fold["record"] for fold in folds]
    scores = {}
    for key, metric in COMPARED.items():
        if all(key in fold for fold in folds):  # a metric may be newer than a report
            values = [fold[key] for fold in folds]
            if metric.per_class:
                scores[key] = {name: spread([of[name] for of in values]) for name in reduced}
            else:
                scores[key] = spread(values)
    return {
        "words": run.words,
        "encoder": run.encoder,
        "learnt_before": run.before if run.encoder in PRETRAINED else None,
        "folds": numbers,
        **scores,
        "epochs": spread([len(record["history"]["loss"]) for record in records]),
        "minutes": spread([record["seconds"] / 60 for record in records]),
        "parameters": run.record["parameters"],
        "trainable_parameters": run.record["trainable_parameters"],
        "encoder_from": run.encoder_from,
        "autoencoder": autoencoders.get(run.settings.get("encoder_sha256")),
        "ensemble": run.ensemble and {key: run.ensemble[key] for key in COMPARED if key in run.ensemble},
        "processors": grouped(numbers, [run.processor[n] for n in numbers]),
        "code": grouped(numbers, [run.code[n] for n in numbers]),
    }


def run_row(name, run, reduced):
    """A run's figures, as figures_of gives them, as {title of a column: word}."""
    quality = run["autoencoder"]
    quality = f" ({quality['PSNR (dB)']['mean']:.1f} dB, {quality['SSIM']['mean']:.3f})" if quality else ""
    return {
        "run": name,
        "folds": str(len(run["folds"])),
        **{title: show(value, 3) for title, value in titled(run, reduced).items()},
        "ensemble": run["ensemble"] and f"{run['ensemble']['accuracy']:.3f} (of {len(run['folds'])})",
        "parameters (trainable)": f"{run['parameters']:,} ({run['trainable_parameters']:,})",
        "epochs": show(run["epochs"], 0),
        "minutes a fold": show(run["minutes"], 0),
        "encoder from (PSNR, SSIM)": f"{run['encoder_from']}{quality}",
    }


def difference_row(row, title, figure):
    """A figure of a comparison as {title of a column: word}."""
    return {
        "comparison": f"{row['run']} minus {row['baseline']}",
        "figure": title,
        "folds": str(len(row["folds"])),
        "difference": in_points(figure["mean"]),
        "95 % over folds": figure["t_test"] and between(figure["t_test"]),
        "p (Holm)": figure["t_test"] and show_p(figure["t_test"]["p_holm"]),
        "verdict": figure["verdict"],
        "95 % over test images": between(figure["bootstrap"]) if "bootstrap" in figure else "",
    }


def in_points(share):
    """A difference of shares, in percentage points: '-1.2', '+0.3', '0.0'."""
    return f"{round(100 * share, 1) or 0.0:+.1f}".replace("+0.0", "0.0")


def between(found):
    return f"{in_points(found['low'])} to {in_points(found['high'])}"


def show_p(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def as_text(content):
    """The two tables, each with what its columns mean and how its runs were trained; then what was left out."""
    runs, compared, reduced = content["runs"], content["comparisons"], content["reduced"]
    trained = {
        name: [*by_fold(run["processors"]), *by_fold({f"code {word}": of for word, of in run["code"].items()})]
        for name, run in runs.items()
    }
    parts = [
        markdown_table([run_row(name, run, reduced) for name, run in runs.items()]),
        textwrap.fill(RUNS_COLUMNS.format(**content["data"]), 120),
        listed(ORIGINS, trained),
    ]
    if compared:
        rows = [difference_row(row, "accuracy", row) for row in compared]
        of_reduced = [row for row in compared if row["reduced_minus_others"]]
        rows += [difference_row(row, "reduced - others", row["reduced_minus_others"]) for row in of_reduced]
        parts += [markdown_table(rows), textwrap.fill(DIFFERENCES_COLUMNS, 120), differing_trainings(compared)]
    parts.append(listed("Left out:", {name: [reason] for name, reason in content["left_out"].items()}))
    return "\n\n".join(filter(None, parts))


def differing_trainings(compared):
    """How else the runs of each comparison differ: processor, code and settings."""
    found = {f"{row['run']} minus {row['baseline']}": [*row["trained_unlike"], row["unlike"]] for row in compared}
    return listed("Trained differently:", {names: [*filter(None, words)] for names, words in found.items()})


def listed(title, points):
    """A title above a list of `name: words`, or '' where there are none."""
    lines = [f"- {name}: {'; '.join(words)}" for name, words in points.items() if words]
    return "\n".join([title, *(textwrap.fill(line, 120, subsequent_indent="  ") for line in lines)]) if lines else ""


if __name__ == "__main__":
    cli.run(main)
