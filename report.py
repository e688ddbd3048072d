"""One page of what was evaluated and compared, and of unfinished trainings: imgs/report.html. Trains nothing.

Reads what evaluate.py and compare.py wrote, and the states of unfinished trainings. The page needs no other file.
"""

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import NotRequired

import jinja2

from compare import between, show_p
from recipes import CHECKPOINTS, IMAGES, MODELS, name_and_fold, run_name
from runs import AUTOENCODERS, Record, Run, in_words, learnt, learnt_before, parts_of_name
from util import cli
from util.cli import InputError
from util.files import first_line, write_text
from util.options import Part, form, parse, require_form
from util.plots import show, spread

GROUPS = (
    "The study's networks",
    "The fast network",
    "Other documents' networks",
    "Own runs, on other pictures or with a NAME",
    "Autoencoders",
)
PLOTS = ("accuracy", "psnr", "loss", "heatmap", "predictions", "reconstructions")

# What is read of a report and of a comparison, which hold more.
Pictures = form(source=str, prefix=str, test_images=int)
Summary = dict[str, form(mean=float, std=float | None)]
Ensemble = NotRequired[form(accuracy=float)]
Report = form(data=Pictures, summary=Summary, folds=dict[str, form(record=Record)], ensemble=Ensemble)
Difference = {"mean": float, "t_test": form(low=float, high=float, p_holm=float) | None, "verdict": str}
Contrast = form(mean=float, verdict=str) | None
Pair = form(run=str, baseline=str, control=bool, folds=list[int], reduced_minus_others=Contrast, **Difference)
Figures = form(words=str, encoder=str | None, learnt_before=str | None)
Comparison = form(data=Pictures, runs=dict[str, Figures], comparisons=list[Pair])


def main(argv=None):
    parse(__doc__, Part, argv=argv)
    faults = {}
    runs = read_each(read_run, sorted(IMAGES.glob("*_report.json")), faults)
    comparisons = read_each(read_comparison, written_as("comparison"), faults)
    trainings = read_each(read_training, sorted(CHECKPOINTS.glob("[!.]*.state")), faults)
    if not (runs or comparisons or trainings or faults):
        raise InputError(f"{IMAGES} and {CHECKPOINTS} hold nothing to show yet: run `make cnn`, or `make demo`")
    known = {sha256: run["learnt"] for run in runs for sha256 in run["hashes"]}
    words = {}
    for run in runs:
        before = learnt_before(run["record"], known)
        words[run["name"]] = in_words(run["name"], run["record"], run["prefix"], before)
    for one in comparisons:
        words |= {name: figures["words"] for name, figures in one["runs"].items()}
        asked = [row for row in one["comparisons"] if row["control"]]
        one |= {"answer": answer(asked, one["runs"]), "findings": [finding(row, one["runs"]) for row in asked]}
    runs.sort(key=lambda run: -run["best"])
    pictures = [IMAGES / f"{run_name(what, run['prefix'])}.png" for run in runs for what in ("samples", "distribution")]
    content = {
        "comparisons": comparisons,
        "groups": [(title, group) for title in GROUPS if (group := [run for run in runs if run["group"] == title])],
        "trainings": trainings,
        "curves": [path.with_suffix(".png") for path in written_as("curve")],
        "pictures": dict.fromkeys(pictures),
        "faults": faults,
        "words": words,
        "now": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "util")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"between": between, "show_p": show_p, "base64": base64.b64encode}
    page = templates.get_template("report.html.j2").render(content)
    write_text(IMAGES / "report.html", page)
    print(f"{IMAGES / 'report.html'} is written, {len(page) / 1e6:.1f} MB: open it in a browser")


def read_each(read, paths, faults):
    """[What `read` makes of a file]; a damaged one is left out, and `faults` says in a line what is wrong with it."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except (OSError, ValueError, InputError) as error:
            faults[str(path)] = first_line(error)
    return found


def read_json(path, expected):
    content = json.loads(path.read_text(encoding="utf-8"))
    require_form(content, expected)
    return content


def written_as(what):
    """The files [<data>_]<what>[_<NAME>].json of comparisons or curves, the study's own first.

    No NAME is `comparison` or `report`, so what could be of either kind is a comparison, and a run has a report.
    """
    ends = {path: path.stem.split("_")[-2:] for path in sorted(IMAGES.glob(f"*{what}*.json"))}
    return [
        path
        for path, end in ends.items()
        if what in end and end[-1] != "report" and (what == "comparison" or "comparison" not in end)
    ]


# --- Runs -----------------------------------------------------------------------------------------------------------


def read_run(path):
    """What the page shows of the run whose report is in the file `path`."""
    report, name = read_json(path, Report), path.name.removesuffix("_report.json")
    summary, folds, prefix = report["summary"], report["folds"], report["data"]["prefix"]
    (fold, first), *_ = folds.items()
    record, model = first["record"], first["record"]["settings"]["model"]
    figure, *_ = summary.values()  # the accuracy, or the PSNR
    row = {title: show(value, 1 if "dB" in title else 3) for title, value in summary.items()}
    if "ensemble" in report:
        row["accuracy of the ensemble"] = f"{report['ensemble']['accuracy']:.3f}"
    row["trainable parameters"] = f"{record['trainable_parameters']:,}"
    row["minutes"] = show(spread([fold["record"]["seconds"] / 60 for fold in folds.values()]), 0)
    if "PSNR (dB)" in summary:
        group = GROUPS[4]
    elif prefix or {*parts_of_name(name, record, prefix)} - AUTOENCODERS.keys():
        group = GROUPS[3]
    else:
        group = GROUPS[1 if model.endswith("_fast") else 0 if model in MODELS else 2]
    if group in GROUPS[3:]:
        row["pictures"] = report["data"]["source"]
    text, data = path.with_suffix(".txt"), record["data"]
    kept = zip(data["reduced"], data["keep"], strict=True)
    names = data["class_names"] if learnt(record) != "turns" else {}  # the classes then are turns, not the data's
    reduced = ", ".join(f"{names[number] if names else f'class {number}'} {count}" for number, count in kept)
    return {
        "name": name,
        "group": group,
        "best": figure["mean"],
        "row": row,
        "facts": {
            "pictures": data["source"],
            "images kept of reduced classes": reduced or "none is reduced",
            "best epoch": f"{record['best_epoch']} of {len(record['history']['loss'])}",
            "device": f"{record['device']}, {record['precision']}",
            "versions": ", ".join(f"{package} {version}" for package, version in record.get("versions", {}).items()),
            "commit": record.get("commit"),
        },
        "record": record,
        "learnt": learnt(record),
        "hashes": [fold["record"]["checkpoint_sha256"] for fold in folds.values()],
        "prefix": prefix,
        "plots": [IMAGES / f"{stem}_{kind}.png" for kind in PLOTS for stem in (f"{name}_fold{fold}", name)],
        "text": text.read_text(encoding="utf-8", errors="replace") if text.exists() else "",
    }


def read_training(path):
    """How far the unfinished training is whose state is in the file `path`."""
    run = Run(*name_and_fold(path.stem))
    note, _ = run.read_state()
    latest = {key: value for epoch in note["history"] for key, value in epoch.items() if key.startswith("val_")}
    row = {
        "fold": run.fold or "",
        "epochs": f"{len(note['history'])} of {note['settings']['epochs']}",
        "last validation": ", ".join(f"{key.removeprefix('val_')} {value:.3f}" for key, value in latest.items()),
        "written": f"{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}",
    }
    return {"name": run.name, "row": row}


# --- Comparisons ----------------------------------------------------------------------------------------------------


def read_comparison(path):
    content = read_json(path, Comparison)
    recalls = path.with_name(path.name.replace("comparison", "recalls", 1))
    return {**content, "stem": path.stem, "plots": [path.with_suffix(".png"), recalls.with_suffix(".png")]}


def answer(rows, runs):
    """The answer by the tested comparisons of an autoencoder's layers with the same network from scratch, or ''."""
    words = {"better": "more accurate", "worse": "less accurate", "no difference shown": "not shown to differ"}
    verdicts = [
        row["verdict"]
        for row in rows
        if "images" in (runs[row["run"]]["learnt_before"] or "")
        and runs[row["baseline"]]["encoder"] in (None, "scratch")
        if row["t_test"]
    ]
    if not verdicts:
        return ""
    counts = [f"{said} in {verdicts.count(one)}" for one, said in words.items() if one in verdicts]
    short = "Yes" if {*verdicts} == {"better"} else "In part" if "better" in verdicts else "No"
    return (
        f"{short}. In {len(verdicts)} comparison{'s'[: len(verdicts) > 1]} with the same network trained from scratch, "
        f"the network on an autoencoder's layers is {' and '.join(counts)}."
    )


def finding(row, runs):
    """A comparison of two trainings of one network in a sentence, or two where rare classes come off otherwise."""
    first, second = f"The {runs[row['run']]['words']}", f"the {runs[row['baseline']]['words']}"
    difference = f"{100 * abs(row['mean']):.1f} points {'more' if row['mean'] > 0 else 'less'} accurate"
    if not row["t_test"]:
        return f"{first} is {difference} than {second}, but this is {row['verdict']}."
    interval = f"95 % interval {between(row['t_test'])}"
    if row["verdict"] == "no difference shown":
        found = f"{first} is not shown to differ from {second}: it is {difference} ({interval})."
    else:
        found = f"{first} is {difference} than {second} ({interval})."
    contrast = row["reduced_minus_others"]
    if contrast and contrast["verdict"] in ("better", "worse"):
        points = f"{100 * abs(contrast['mean']):.1f} points {contrast['verdict']}"
        found += f" In recall, the reduced classes come off {points} than the others."
    return found


if __name__ == "__main__":
    cli.run(main)
