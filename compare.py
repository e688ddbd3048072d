"""Compare finished and evaluated classifiers on the same data: differences, with their uncertainty. Trains nothing.

Reads the reports of evaluate.py, imgs/<run>_report.json; writes imgs/comparison.txt, .json and .png, and recalls.png.
Without --runs and --data it takes the runs on the pictures that were trained on here last, else the largest group on
the same pictures, and says what it leaves out. Reports of runs that --runs names may lie in folders of imgs/.
"""

from util import cli  # isort: split

import dataclasses
import itertools
import json
import re
import textwrap
from typing import Annotated, NotRequired

import numpy as np
import pydantic

from common import METRICS, load_data, titled
from recipes import (
    CHECKPOINTS,
    IMAGES,
    PRETRAINED,
    RECIPES,
    FilePath,
    RunSuffix,
    differing_settings,
    model_of,
    name_and_fold,
    run_name,
)
from runs import Record, Run
from util import plots
from util.backend import Later
from util.cli import InputError
from util.files import commit_json, commit_text, file_sha256, reading
from util.plots import markdown_table, show, spread
from util.settings import Part, form, parse, require_form, setting

stats = Later("scipy.stats")
LEVEL = 0.95
DRAWS = 10_000  # of the bootstrap
FOLDS_TO_TEST = 3
ARCHS_OF_CNN = [name for name in RECIPES if model_of(name) == "cnn"]
COMPARED = {key: metric for key, metric in METRICS.items() if metric.title}
# What may differ between runs that RUNS names, to see what it brings, and the knobs that say it.
MAY_DIFFER = {"the images kept of reduced classes": ["REDUCED", "KEEP"], "LABELLED": ["LABELLED"]}


def run_words(value):
    """'cnn autoencoder_cls_noaug' -> the names of runs."""
    if not re.fullmatch(r"\s*[\w-]+(\s+[\w-]+)*\s*", value, re.ASCII):
        raise ValueError(f"{value!r} names no runs; they are such as cnn autoencoder_cls_noaug")
    return value.split()


RunNames = Annotated[list[str], pydantic.BeforeValidator(run_words)]


class Options(Part):
    data: FilePath | None = setting(None, "compare runs on these pictures, as a training names them", knob="DATA")
    name: RunSuffix | None = setting(None, "a suffix of the comparison's name", knob="NAME")
    runs: RunNames | None = setting(
        None, "runs to compare (unset: those on the same pictures, the ones trained on here last)", knob="RUNS"
    )
    baseline: RunNames | None = setting(
        None, "the run to compare with (unset: a classifier's scratch control, else cnn)", knob="BASELINE"
    )


# --- The form of what is read of a report -----------------------------------------------------------------------------

Prefix = Annotated[str, pydantic.Field(pattern=r"^[a-z0-9-]*$")]
Scores = {key: NotRequired[dict[str, float] if metric.per_class else float] for key, metric in COMPARED.items()}
Scores |= {"accuracy": float, "recall": dict[str, float]}
Report = form(
    run=str,
    data=form(source=str, prefix=Prefix, test_images=int, test_sha256=str),
    labels=str,
    folds=dict[str, form(**Scores, predicted=str, record=Record)],
    ensemble=NotRequired[form(**Scores) | None],
)
Quality = form(**{title: form(mean=float) for title in ("PSNR (dB)", "SSIM")})  # of an autoencoder's report


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """The report of one run: {number of a fold: its figures and its record}, the ensemble's figures or None."""

    name: str
    folds: dict
    ensemble: "dict | None"
    data: dict
    labels: np.ndarray

    @property
    def record(self):
        """That of one fold; they differ in the fold alone."""
        return next(iter(self.folds.values()))["record"]

    @property
    def settings(self):
        return self.record["settings"]

    @property
    def model(self):
        return self.settings["model"]

    @property
    def network(self):
        """What tells networks of one model apart."""
        return self.settings.get("network")

    @property
    def encoder(self):
        """Its ENCODER; None where it has none."""
        return self.settings.get("encoder", "frozen" if "_cls" in self.model else None)

    @property
    def class_names(self):
        return self.record["data"]["class_names"]

    @property
    def same_data(self):
        """What two runs must have in common to be compared: {what it is: its value}."""
        return {
            "the training pictures": self.settings["sha256"],
            "the images kept of reduced classes": self.settings["kept_sha256"],
            "the test pictures": self.data["test_sha256"],
            "the classes' names": tuple(self.class_names),
            "how the validation images are chosen": self.settings.get("split", "shuffle"),
            "VAL": self.settings["val"],
            "LABELLED": self.settings.get("labelled", 1.0),
            "SEED": self.settings["seed"],
        }

    @property
    def trained_here(self):
        """When the last of its folds was, 0 where none was: published reports come without checkpoints."""
        files = (Run(self.name, fold).checkpoint for fold in self.folds)
        return max((file.stat().st_mtime for file in files if file.exists()), default=0)

    def predicted(self, fold):
        return np.array(self.folds[fold]["predicted"].split(), int)

    @property
    def reduced(self):
        """Names of the reduced classes."""
        return [self.class_names[number] for number in self.settings["reduced"]]


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    runs, autoencoders, unusable = read_reports(subfolders=bool(options.runs))
    if options.data:
        pictures = load_data(options.data).sha256
        runs = [run for run in runs if run.settings["sha256"] == pictures]
    chosen, left_out = require_runs(runs, unusable, options.runs) if options.runs else choose_group(runs, unusable)
    if left_out and not options.runs:
        own = [run.name for run in runs if run.trained_here]
        if any(run.trained_here for run in chosen):
            print(
                f"compared are the runs on {chosen[0].data['source']}, trained on here last; RUNS or DATA choose others"
            )
        elif own:
            print(f"no two runs trained here are on the same data: RUNS={' '.join(own)!r} says what differs")
    pairs = find_pairs(chosen, options.baseline)
    if options.runs and not pairs:
        pairs = find_pairs(chosen, [chosen[0].name])
    compared = compare_all(pairs)

    reduced = list(dict.fromkeys(itertools.chain(*(run.reduced for run in chosen))))
    content = {
        "data": chosen[0].data,
        "reduced": reduced,
        "runs": {run.name: figures_of(run, reduced, autoencoders) for run in chosen},
        "comparisons": compared,
        "left_out": left_out,
    }
    text = "\n\n".join([*tables(content), *paragraphs(content)])
    name, recalls = (run_name(what, content["data"]["prefix"], name=options.name) for what in ("comparison", "recalls"))
    commit_text(IMAGES / f"{name}.txt", f"{text}\n")
    commit_json(IMAGES / f"{name}.json", {**content, "text": text})
    drawings = {
        f"{name}.png": (plots.plot_differences, [the_question(compared)] if compared else None),
        f"{recalls}.png": (plots.plot_recalls, [content["runs"], reduced] if reduced else None),
    }
    for file, (draw, what) in drawings.items():
        if what:
            draw(IMAGES / file, *what)
        else:
            (IMAGES / file).unlink(missing_ok=True)  # of another comparison
    *others, last = ".txt", ".json", *(file for file, (_, what) in drawings.items() if what)
    print(f"{text}\n\n{IMAGES / name}{', '.join(others)} and {last} are written")


# --- What there is to compare ---------------------------------------------------------------------------------------


def read_reports(subfolders=False):
    """(Classifiers as Evaluated, {SHA-256 of an autoencoder: its figures}, {name: why a report cannot be used}).

    With `subfolders` also those in folders of imgs/; of two of one name that in imgs/ itself.
    """
    runs, autoencoders, unusable = [], {}, {}
    paths = sorted(IMAGES.glob("**/*_report.json"), key=lambda path: (-len(path.parts), path))
    paths = {path.name: path for path in paths}
    elsewhere = {file for file, path in paths.items() if path.parent != IMAGES and not subfolders}
    for file in sorted(paths.keys() - elsewhere):
        path, name = paths[file], file.removesuffix("_report.json")
        try:
            with reading(f"{path} is not as evaluate.py writes it", "evaluate that run again"):
                report = json.loads(path.read_text(encoding="utf-8"))
                if any(fold["record"] is None for fold in report["folds"].values()):
                    unusable[name] = "it was evaluated without a record of its training"
                elif name_and_fold(name)[1]:
                    unusable[name] = "it is of one file, evaluated with --model-path"
                elif "PSNR (dB)" in report["summary"]:
                    require_form(report["summary"], Quality)
                    sha256 = report["folds"]["1"]["record"]["checkpoint_sha256"]
                    autoencoders[sha256] = {"name": name, **report["summary"]}
                else:
                    runs.append(evaluated(report, name))
        except InputError as error:
            unusable[name] = str(error)
    reported = {f"{run.name}_fold{n}": fold["record"] for run in runs for n, fold in run.folds.items()}
    for path in sorted(CHECKPOINTS.glob("*.keras")):
        name, fold = name_and_fold(path.stem)
        if not fold or name in unusable or name.startswith(".") or f"{name}_report.json" in elsewhere:
            continue
        if path.stem not in reported:
            unusable[path.stem] = "it is finished, but not evaluated: run make test-eval with its MODEL"
        elif reported[path.stem]["checkpoint_sha256"] != file_sha256(path):
            unusable[path.stem] = (
                "it was trained again since it was evaluated, and the earlier one is compared: "
                "run make test-eval with its MODEL"
            )
    return runs, autoencoders, unusable


def evaluated(report, name):
    """A classifier's report as Evaluated. Raises an error where it lacks something or does not fit together."""
    require_form(report, Report)
    if report["run"] != name:
        raise ValueError("it is of another name")
    labels = np.array(report["labels"].split(), int)
    folds = {int(number): fold for number, fold in report["folds"].items()}
    run = Evaluated(name, folds, report.get("ensemble"), report["data"], labels)
    if not folds or not {*run.settings["reduced"]} <= {*range(len(run.class_names))}:
        raise ValueError("it lacks what reports hold")
    if any({*scores["recall"]} != {*run.class_names} for scores in (*folds.values(), *filter(None, [run.ensemble]))):
        raise ValueError("it lacks a class's recall")
    for number, fold in folds.items():
        if not np.isclose(np.mean(run.predicted(number) == labels), fold["accuracy"]):
            raise ValueError(f"the accuracy of fold {number} is not that of its predictions")
    return run


def require_runs(runs, unusable, names):
    """(The runs called `names`, {}). Raises InputError where one is not there, or two are of other data."""
    by_name = {run.name: run for run in runs}
    for name in names:
        if name in unusable:
            raise InputError(f"{name} cannot be compared: {unusable[name]}")
        if name not in by_name:
            there = ", ".join(sorted(by_name)) or "none"
            raise InputError(f"there is no report of a classifier {name!r} in {IMAGES}; there are: {there}")
    chosen = [by_name[name] for name in dict.fromkeys(names)]
    if len(chosen) < 2:
        raise InputError("one run alone compares with nothing; give RUNS two and more")
    for one, other in itertools.combinations(chosen, 2):
        if differing := difference_of_data(one, other, MAY_DIFFER.keys()):
            raise InputError(f"{one.name} and {other.name} cannot be compared: {differing}; leave one of them out")
    return chosen, {stem: why for stem, why in unusable.items() if name_and_fold(stem)[0] in names}


def choose_group(runs, unusable):
    """(Runs on the same data, {name of another run: why not}).

    Of several groups of two and more the one trained here last, then the largest, then that with the most folds.
    """
    groups = {}
    for run in runs:
        groups.setdefault(tuple(run.same_data.values()), []).append(run)
    group = max(
        groups.values(),
        key=lambda group: (
            len(group) > 1,
            max(run.trained_here for run in group),
            len(group),
            sum(len(run.folds) for run in group),
        ),
        default=[],
    )
    chosen, left_out = [], {}
    for run in sorted(runs, key=lambda run: run not in group):
        differing = next(filter(None, (difference_of_data(other, run) for other in chosen)), "")
        if differing:
            left_out[run.name] = differing
        else:
            chosen.append(run)
    left_out |= unusable
    if len(chosen) < 2:
        raise InputError(
            f"there are no two evaluated classifiers on the same data in {IMAGES}: run `make cnn` and `make ae_cls`"
            + "".join(f"; {name} is left out: {reason}" for name, reason in left_out.items())
        )
    return chosen, left_out


def difference_of_data(first, second, allowed=frozenset()):
    """In what two runs' data differ, in words, or ''; also '' where that is `allowed`."""
    differing = [what for what, value in first.same_data.items() if value != second.same_data[what]]
    if differing and allowed >= set(differing):
        return ""
    if not differing:
        for number in sorted(first.folds.keys() & second.folds.keys()):
            splits = {run.folds[number]["record"]["data"]["train_sha256"] for run in (first, second)}
            if len(splits) > 1:
                return f"the split of fold {number} differs"
    return f"{', '.join(differing)} differ" if differing else ""


def find_pairs(runs, wanted=None):
    """[(run, what it is compared with)]: the run named `wanted`; or its scratch control, else the CNN.

    That control may be the same network of the model cnn. A frozen encoder is compared with a random one as well, where
    there is one.
    """
    if wanted:
        baseline = next((run for run in runs if [run.name] == wanted), None)
        if not baseline:
            raise InputError(
                f"BASELINE={' '.join(wanted)} is none of the runs compared: {', '.join(r.name for r in runs)}"
            )
        for run in runs:
            if not run.folds.keys() & baseline.folds.keys():
                raise InputError(f"{run.name} and {baseline.name} have no fold in common: leave one of them out")
        return [(run, baseline) for run in runs if run is not baseline]

    pairs = []
    for run in runs:

        def nearest(model, encoder, run=run):  # of several, one on the same data, and of the same NAME
            return min(
                (
                    r
                    for r in runs
                    if (r.model, r.encoder) == (model, encoder)
                    and (r.model != run.model or r.network == run.network)
                    and r.folds.keys() & run.folds.keys()
                ),
                key=lambda r: (bool(difference_of_data(run, r)), len({*run.name.split("_")} ^ {*r.name.split("_")})),
                default=None,
            )

        if run.encoder and run.encoder != "scratch":
            alone = next((name for name in ARCHS_OF_CNN if builder(name) is builder(run.model)), "cnn")
            baselines = [nearest(run.model, "scratch") or nearest(alone, None) or nearest("cnn", None)]
            baselines += [nearest(run.model, "random")] if run.encoder == "frozen" else []
        else:
            baselines = [nearest("cnn", None)] if run.model != "cnn" else []
        pairs += [(run, baseline) for baseline in baselines if baseline]
    return pairs


def builder(model):
    """What builds the network of a row of RECIPES: two models with one are the same network."""
    return RECIPES[model].build if model in RECIPES else model


# --- Statistics -----------------------------------------------------------------------------------------------------


def corrected_t_test(differences, share):
    """Corrected resampled t-test of differences over folds, whose training sets overlap: (low, high, p), two-sided.

    `share` of the images is held out in each fold; the variance of the mean is s^2 (1 / folds + share / (1 - share)).
    Nadeau and Bengio 2003, Inference for the Generalization Error.
    """
    folds, mean = len(differences), np.mean(differences)
    error = np.sqrt(np.var(differences, ddof=1) * (1 / folds + share / (1 - share)))
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
    """Differences in accuracy of (run, baseline) pairs on the folds that both have: a list of figures for each pair."""
    compared = [compare(run, baseline, sorted(run.folds.keys() & baseline.folds.keys())) for run, baseline in pairs]
    tested = [row for row in compared if row["t_test"]]
    for row, p in zip(tested, holm([row["t_test"]["p"] for row in tested]), strict=True):
        row["t_test"]["p_holm"] = float(p)
    return compared


def compare(run, baseline, folds):
    right, other = (
        np.array([each.predicted(fold) == each.labels for fold in folds], float) for each in (run, baseline)
    )
    differences = right.mean(axis=1) - other.mean(axis=1)
    untested = "fewer than three folds" if len(folds) < FOLDS_TO_TEST else ""
    if not untested and np.ptp(differences) < 1e-9:  # a few test images: nothing to estimate a spread from
        untested = "the same difference on every fold"
    apart = ("model", "encoder", *(["network"] if run.model != baseline.model else []))
    unlike = [
        {key: value for key, value in each.settings.items() if key not in apart and "sha256" not in key}
        | {key: each.record[key] for key in ("precision", "device")}
        for each in (run, baseline)
    ]
    pretrained = [each.encoder in PRETRAINED for each in (run, baseline)]
    same_network = (builder(run.model), run.network) == (builder(baseline.model), baseline.network)
    return {
        "run": run.name,
        "baseline": baseline.name,
        "encoders": [run.encoder, baseline.encoder],
        "control": same_network and sum(pretrained) == 1 and not difference_of_data(run, baseline),
        "folds": folds,
        "differences": differences.tolist(),
        "mean": float(differences.mean()),
        "t_test": None if untested else interval(corrected_t_test(differences, run.settings["val"])),
        "untested": untested,
        "bootstrap": interval(paired_bootstrap((right - other).mean(axis=0))),
        "unlike": differing_settings(*unlike, "{} {} and {}"),
    }


def the_question(compared):
    """Of comparisons those of a pretrained encoder with the same network without, or all where there is none."""
    return [row for row in compared if row["control"]] or compared


def interval(low_high_p):
    return dict(zip(("low", "high", "p"), map(float, low_high_p), strict=True))


# --- What is said of it ---------------------------------------------------------------------------------------------


def figures_of(run, reduced, autoencoders):
    """Mean and standard deviation over folds of what a run scored and cost, and the figures of its ensemble."""

    def over_folds(figure):
        return spread([figure(fold) for fold in run.folds.values()])

    scores = {
        key: {name: over_folds(lambda fold, key=key, name=name: fold[key][name]) for name in reduced}
        if metric.per_class
        else over_folds(lambda fold, key=key: fold[key])
        for key, metric in COMPARED.items()
        if all(key in fold for fold in run.folds.values())  # a metric may be newer than a report
    }
    return {
        "folds": sorted(run.folds),
        **scores,
        "epochs": over_folds(lambda fold: len(fold["record"]["history"]["loss"])),
        "minutes": over_folds(lambda fold: fold["record"]["seconds"] / 60),
        "parameters": run.record["parameters"],
        "trainable_parameters": run.record["trainable_parameters"],
        "autoencoder": autoencoders.get(run.settings.get("encoder_sha256")),
        "ensemble": run.ensemble and {key: run.ensemble[key] for key in COMPARED if key in run.ensemble},
    }


def tables(content):
    """The table of the runs and, where there are comparisons, that of the differences."""
    rows, reduced = [], content["reduced"]
    for name, run in content["runs"].items():
        rows.append(run_row(name, run, reduced))
        if run["ensemble"]:
            scores = {title: f"{value:.3f}" for title, value in titled(run["ensemble"], reduced).items()}
            rows.append({"run": "its ensemble", "folds": f"of {len(run['folds'])}", **scores})
    differences = list(map(difference_row, content["comparisons"]))
    return [markdown_table(one) for one in (rows, differences) if one]


def run_row(name, run, reduced):
    """A run's figures, as figures_of gives them, as {title of a column: word}."""
    quality = run["autoencoder"]
    return {
        "run": name,
        "folds": str(len(run["folds"])),
        **{title: show(value, 3) for title, value in titled(run, reduced).items()},
        "parameters (trainable)": f"{run['parameters']:,} ({run['trainable_parameters']:,})",
        "epochs": show(run["epochs"], 0),
        "minutes a fold": show(run["minutes"], 0),
        "autoencoder's PSNR, SSIM": quality and f"{quality['PSNR (dB)']['mean']:.1f} dB, {quality['SSIM']['mean']:.3f}",
    }


def difference_row(row):
    """A comparison of two runs as {title of a column: word}."""
    test, images = row["t_test"], row["bootstrap"]
    return {
        "accuracy, in points": f"{row['run']} - {row['baseline']}",
        "folds": str(len(row["folds"])),
        "difference": f"{100 * row['mean']:+.1f}",
        "95 % over folds": test and between(test),
        "p": test and show_p(test["p"]),
        "p (Holm)": test and show_p(test["p_holm"]),
        "95 % over test images": between(images),
        "p over images": show_p(images["p"]),
    }


def between(found):
    return f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}"


def show_p(p):
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def paragraphs(content):
    """What can be concluded and what cannot, in plain words; then what was left out."""
    compared = content["comparisons"]
    controlled = [row for row in compared if row["control"]]
    if controlled:
        said = ["Does a pretrained encoder help, compared with the same network without?", *map(finding, controlled)]
    elif compared and not any(itertools.chain(*(row["encoders"] for row in compared))):
        said = []  # nobody asks that of these
    else:
        said = [
            "Whether a pretrained encoder helps cannot be concluded from these comparisons: that takes the same "
            "network trained from scratch (ENCODER=scratch); a gain over another network may be its depth."
        ]
    if others := [row for row in compared if not row["control"]]:
        said += [*(["Besides:"] if said else []), *map(finding, others)]
    said.append(f"All on {content['data']['test_images']:,} test images of {content['data']['source']}.")
    if any(row["t_test"] for row in compared):
        said.append(
            "Over folds: corrected resampled t-test, intervals for each comparison alone, p adjusted by Holm's method; "
            "it holds where chance in training outweighs what the folds share: the test images, the autoencoder and "
            "most training images."
        )
    if compared:
        said.append("Over test images: paired bootstrap, conditional on the trained models.")
    left_out = "\n".join(f"- {name}: {reason}" for name, reason in content["left_out"].items())
    return [textwrap.fill(" ".join(said), 120), *([f"Left out:\n{left_out}"] if left_out else [])]


def finding(row):
    """One comparison as a sentence or two."""
    test, images = row["t_test"], row["bootstrap"]
    if not test:
        verdict = "cannot be tested over folds against"
    elif test["p_holm"] >= 1 - LEVEL:
        verdict = "is not shown to differ from"
    else:
        verdict = "is better than" if row["mean"] > 0 else "is worse than"
    figures = f"{100 * row['mean']:+.1f} points of accuracy on fold{'s'[: len(row['folds']) > 1]} "
    figures += ", ".join(map(str, row["folds"]))
    if test:
        figures += f"; 95 % interval {between(test)}; p {show_p(test['p_holm'])}"
    else:
        figures += f": {row['untested']}; over test images, for these trained models, {between(images)}"
    said = f"{row['run']} {verdict} {row['baseline']} ({figures})."
    if row["control"] and "frozen" in row["encoders"] and "random" not in row["encoders"]:
        said += " This includes what freezing costs."
    unlike = row["unlike"].split("; ") if row["unlike"] else []
    of_data = [*itertools.chain(*MAY_DIFFER.values())]
    unlike.sort(key=lambda words: words.split()[0] not in of_data)  # those are said first
    if len(unlike) > 4:
        unlike[3:] = [f"and {len(unlike) - 3} more, which the .json has"]
    return said + (f" Their settings differ: {'; '.join(unlike)}." if unlike else "")


if __name__ == "__main__":
    cli.run(main)
