"""One page of all that was evaluated, of the comparisons and of the trainings under way: imgs/report.html.

Reads what evaluate.py and compare.py wrote, and the states of unfinished trainings; trains nothing. The page needs no
other file and no network.
"""

from util import cli  # isort: split

import json
import re
from datetime import datetime
from pathlib import Path

import numpy as np

from compare import difference_row, figures_of, finding, read_reports, run_row
from recipes import CHECKPOINTS, IMAGES, RECIPES, differing_settings, name_and_fold, run_name
from runs import Record, Run, best_epoch
from util.cli import InputError
from util.files import reading
from util.page import curves, embedded, write_page
from util.plots import duration, show, spread
from util.settings import Part, form, parse, require_form

PICTURES = ("predictions", "reconstructions", "samples")  # photographs, which stay as they are on a dark page
PLOTS = ("heatmap", "accuracy", "psnr", "loss", "predictions", "reconstructions", "architecture")
MINUTE = "%Y-%m-%d %H:%M"
Note = form(settings=dict, finished=bool, history=list[form(loss=float, val_loss=float, seconds=float)])


def main(argv=None):
    parse(__doc__, Part, argv=argv)
    runs, autoencoders, faults = read_reports()
    encoders = each(faults, read_autoencoder, [report_of(found["name"]) for found in autoencoders.values()])
    sections = {report_of(run.name): classifier_section(run) for run in runs}
    sections |= {report_of(name): (name, {None: record}, headline) for name, record, _, headline in encoders}
    content = {
        "comparisons": each(faults, lambda path: comparison(faults, path), files_of("comparison")),
        "curves": each(faults, lambda path: plot(path.with_suffix(".png")), files_of("curve")),
        "tables": tables(faults, runs, autoencoders),
        "autoencoders": [row for *_, row, _ in encoders],
        "trainings": each(faults, training, under_way()),
        "sections": each(faults, lambda path: details(faults, *sections[path]), sections),
        "faults": faults,
    }
    if not any(content.values()):
        raise InputError(f"{IMAGES} and {CHECKPOINTS} hold nothing to show yet: run `make cnn`, or `make demo`")
    path, now = IMAGES / "report.html", f"{datetime.now():{MINUTE}}"
    size = write_page(path, "report.html", {**content, "now": now})
    print(f"{path} is written, {size / 1e6:.1f} MB: open it in a browser")


def each(faults, make, paths):
    """[What `make` makes of a file]; of one that does not allow it, `faults` says why."""
    found = []
    for path in paths:
        try:
            with reading(f"{path} is not as it was written", "make it again"):
                found.append(make(path))
        except InputError as error:
            if path.exists():  # else a training ended just now
                faults[path.name] = str(error)
    return found


def report_of(name):
    return IMAGES / f"{name}_report.json"


# --- Every run ------------------------------------------------------------------------------------------------------


def files_of(what):
    """Those of `make compare` ("comparison") or `make curve` ("curve"), the newest first."""
    name = re.compile(rf"([a-z0-9-]+_)?{what}(_(?!report)[A-Za-z0-9-]+)?")
    found = [path for path in IMAGES.glob(f"*{what}*.json") if name.fullmatch(path.stem)]
    return sorted(found, key=lambda path: -path.stat().st_mtime)


def comparison(faults, path):
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = content["comparisons"]
    drawn = [path.with_suffix(".png"), path.with_name(f"{path.stem.replace('comparison', 'recalls', 1)}.png")]
    return {
        "title": f"{path.stem}: {content['data']['source']}",
        "findings": [finding(row) for row in rows if row["control"]],
        "rows": list(map(difference_row, rows)),
        "paragraphs": [part for part in content["text"].split("\n\n") if not part.startswith("|")],
        "plots": each(faults, plot, filter(Path.exists, drawn)),
    }


def tables(faults, runs, autoencoders):
    """The classifiers' figures, and what they saw: a table for each set of test pictures, as others do not compare."""
    groups = {}
    for run in runs:
        groups.setdefault(run.data["test_sha256"], []).append(run)
    found = []
    for group in groups.values():
        reduced, rows = dict.fromkeys(name for run in group for name in run.reduced), []
        for run in group:
            known = [name for name in reduced if name in run.class_names]
            row = run_row(run.name, figures_of(run, known, autoencoders), known)
            rows.append(row | {"ensemble's accuracy": run.ensemble and f"{run.ensemble['accuracy']:.3f}"})
        seen = [IMAGES / f"{run_name(what, group[0].data['prefix'])}.png" for what in ("samples", "distribution")]
        found.append({"data": group[0].data, "rows": rows, "plots": each(faults, plot, filter(Path.exists, seen))})
    return found


def read_autoencoder(path):
    """(Name, record, row of the table, headline) of an autoencoder's report."""
    report = json.loads(path.read_text(encoding="utf-8"))
    (fold,), summary = report["folds"].values(), report["summary"]
    record, name = fold["record"], path.name.removesuffix("_report.json")
    require_form(record, Record)
    decibels, similarity = show(summary["PSNR (dB)"], 1), show(summary["SSIM"], 3)
    row = {
        "run": name,
        "PSNR (dB)": decibels,
        "SSIM": similarity,
        "test pictures of": report["data"]["source"],
        "parameters": f"{record['parameters']:,}",
        "epochs": len(record["history"]["loss"]),
        "minutes": f"{record['seconds'] / 60:.0f}",
    }
    return name, record, row, f"PSNR {decibels} dB, SSIM {similarity}"


# --- Trainings under way --------------------------------------------------------------------------------------------


def under_way():
    """States of unfinished trainings, and those that a first epoch is going to write."""
    locked = {CHECKPOINTS / f"{path.stem[1:]}.state" for path in CHECKPOINTS.glob(".*.lock")}
    running = {path for path in locked if Run(*name_and_fold(path.stem)).trained_by()}
    return sorted(running | {*CHECKPOINTS.glob("[!.]*.state")})


def training(path):
    run = Run(*name_and_fold(path.stem))
    found = {"title": run.title, "process": run.trained_by()}
    if found["process"] and not path.exists():
        return found
    written = datetime.fromtimestamp(path.stat().st_mtime)
    note, _ = run.read_state()
    require_form(note, Note)
    settings, history = note["settings"], note["history"]
    found |= {"finished": note["finished"], "written": f"{written:{MINUTE}}"}
    found |= {"epochs": len(history), "most": settings["epochs"], "curves": {}}
    if history:
        left = settings["epochs"] - len(history)
        found["left"] = duration(left * np.mean([epoch["seconds"] for epoch in history]))
        found["best"] = best_epoch(history, settings["monitor"]) + 1
        for key in sorted(history[0].keys() & {"accuracy", "psnr", "loss"}):
            training, validation = ([epoch[one] for epoch in history] for one in (key, f"val_{key}"))
            found["curves"][key] = curves({"training": training, "validation": validation})
    return found


# --- Each run -------------------------------------------------------------------------------------------------------


def classifier_section(run):
    accuracy = show(spread([fold["accuracy"] for fold in run.folds.values()]), 3)
    return run.name, {number: run.folds[number]["record"] for number in sorted(run.folds)}, f"accuracy {accuracy}"


def details(faults, name, records, headline):
    """How a run was trained and in what that differs from its recipe; its plots and texts."""
    stems = [name if fold is None else f"{name}_fold{fold}" for fold in records]
    plots = [IMAGES / f"{stem}_{kind}.png" for stem in dict.fromkeys([*stems, name]) for kind in PLOTS]
    texts = [IMAGES / f"{name}_{kind}.txt" for kind in ("report", "architecture")]
    trained = list(map(told, records.values()))  # where folds differ, of each
    return {
        "name": name,
        "headline": headline,
        "trained": {what: "; ".join(dict.fromkeys(one[what] for one in trained)) for what in trained[0]},
        "plots": each(faults, plot, filter(Path.exists, plots)),
        "texts": each(faults, lambda path: (path, path.read_text(encoding="utf-8")), filter(Path.exists, texts)),
    }


def told(record):
    """How a run was trained, as {what: words}."""
    settings, data = record["settings"], record["data"]
    recipe = RECIPES[settings["model"]].settings.model_dump()
    # What the data decides is no difference.
    recipe |= {key: value for key, value in settings.items() if key in ("model", "reduced", "keep") or "sha256" in key}
    return {
        "differs from its recipe": differing_settings(settings, recipe, "{} {} instead of {}") or "in nothing",
        "pictures": data["source"],
        "reduced classes": ", ".join(
            f"{data['class_names'][n]} ({images:,} images)"
            for n, images in zip(data["reduced"], data["keep"], strict=True)
        ),
        "best epoch": f"{record['best_epoch']} of {len(record['history']['loss'])}",
        "device": record["device"],
        "precision": f"{record['precision']}, {record.get('precision_reason', 'as asked for')}",
        "versions": ", ".join(map(" ".join, record.get("versions", {}).items())),
        "commit": record.get("commit") or "",
    }


def plot(path):
    kind = "picture" if path.stem.endswith(PICTURES) else "plot"
    return {"kind": kind, "name": path.stem.replace("_", " "), **embedded(path)}


if __name__ == "__main__":
    cli.run(main)
