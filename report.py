"""One page of what was evaluated and compared, and of unfinished trainings: imgs/report.html. Trains nothing.

Reads what evaluate.py and compare.py wrote, and the states of unfinished trainings. The page needs no other file.
"""

import base64
import io
import json
import re
from datetime import datetime
from pathlib import Path
from typing import NotRequired

import jinja2
from PIL import Image

from recipes import CHECKPOINTS, IMAGES, MODELS, PRETRAINED, RECIPES, name_and_fold, run_name
from runs import Record, Run
from util import cli
from util.cli import InputError
from util.files import first_line, write_text
from util.options import Part, form, parse, require_form
from util.plots import show, spread

# Each network in words. One without a row is called by its name.
NETWORKS = {
    "cnn": "plain CNN",
    "cnn_fast": "fast CNN",
    "cnn_elu": "CNN with ELU",
    "cnn_leaky": "CNN with leaky ReLU",
    "cnn_pool3": "CNN with three poolings",
    "cnn_wide5": "CNN with kernels of 5x5",
    "cnn_dropout": "wide CNN with dropout",
    "autoencoder": "large autoencoder",
    "autoencoder_cae": "small autoencoder (CAE)",
    "autoencoder_fast": "autoencoder for the fast CNN",
    "autoencoder_cls": "deeper CNN",
    "autoencoder_cls_fast": "fast CNN",
    "autoencoder_cls_cae": "small CNN (CAE)",
    "mod_autoencoder_cls": "network of dense layers",
}
ENCODERS = {
    "frozen": "on the frozen layers of {}",
    "tuned": "on the fine-tuned layers of {}",
    "random": "on random, frozen layers",
    "scratch": "from scratch",
}
AUTOENCODERS = {"noaug": "trained without augmentation", "original": "trained to undo augmentation"}
RUN_NAME = re.compile(
    rf"(?:(?P<data>[a-z0-9-]+)_)??(?P<model>{'|'.join(sorted(RECIPES, key=len, reverse=True))})"
    rf"(?:_(?P<encoder>{'|'.join(ENCODERS)}))?(?P<of>(?:_(?:{'|'.join(AUTOENCODERS)}))*)(?:_(?P<name>[A-Za-z0-9-]+))?"
)
GROUPS = (
    "The study's networks",
    "The fast network",
    "Other documents' networks",
    "Own runs, on other pictures or with a NAME",
    "Autoencoders",
)
PLOTS = ("accuracy", "psnr", "loss", "heatmap", "predictions", "reconstructions", "architecture")
WIDEST = 1100  # pixels of an embedded plot

# What is read of a report and of a comparison, which hold more.
Pictures = form(source=str, prefix=str, test_images=int)
Summary = dict[str, form(mean=float, std=float | None)]
Ensemble = NotRequired[form(accuracy=float)]
Report = form(data=Pictures, summary=Summary, folds=dict[str, form(record=Record)], ensemble=Ensemble)
Difference = {"mean": float, "t_test": form(low=float, high=float, p_holm=float) | None, "verdict": str}
Contrast = form(mean=float, verdict=str) | None
Pair = form(run=str, baseline=str, control=bool, folds=list[int], reduced_minus_others=Contrast, **Difference)
Comparison = form(data=Pictures, runs=dict[str, form(encoder_from=NotRequired[str])], comparisons=list[Pair])


def main(argv=None):
    parse(__doc__, Part, argv=argv)
    faults = {}
    runs = read_each(read_run, sorted(IMAGES.glob("*_report.json")), faults)
    comparisons = read_each(read_comparison, written_as("comparison"), faults)
    trainings = read_each(read_training, sorted(CHECKPOINTS.glob("[!.]*.state")), faults)
    if not (runs or comparisons or trainings or faults):
        raise InputError(f"{IMAGES} and {CHECKPOINTS} hold nothing to show yet: run `make cnn`, or `make demo`")
    sources = {name: figures.get("encoder_from", "") for one in comparisons for name, figures in one["runs"].items()}
    sources |= {run["name"]: run["source"] for run in runs}
    for one in comparisons:
        asked = [row for row in one["comparisons"] if row["control"]]
        one |= {"answer": answer(asked, sources), "findings": [finding(row, sources) for row in asked]}
    runs.sort(key=lambda run: -run["best"])
    for one in (*runs, *comparisons):
        one["plots"] = read_plots(one["plots"], faults)
    curves = [path.with_suffix(".png") for path in written_as("curve")]
    pictures = [IMAGES / f"{run_name(what, run['prefix'])}.png" for run in runs for what in ("samples", "distribution")]
    content = {
        "comparisons": comparisons,
        "groups": [(title, group) for title in GROUPS if (group := [run for run in runs if run["group"] == title])],
        "trainings": trainings,
        "curves": read_plots(curves, faults),
        "pictures": read_plots(pictures, faults),
        "faults": faults,
        "now": f"{datetime.now():%Y-%m-%d %H:%M}",
    }
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "util")
    templates = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    templates.filters |= {"columns": columns, "in_words": lambda name: " ".join(in_words(name, sources)).strip()}
    page = templates.get_template("report.html.j2").render(content)
    write_text(IMAGES / "report.html", page)
    print(f"{IMAGES / 'report.html'} is written, {len(page) / 1e6:.1f} MB: open it in a browser")


def read_each(read, paths, faults):
    """[What `read` makes of a file]; a damaged one is left out, and `faults` says in a line what is wrong with it."""
    found = []
    for path in paths:
        try:
            found.append(read(path))
        except (OSError, ValueError, SyntaxError, InputError) as error:  # SyntaxError: Pillow's, of a broken PNG
            faults[str(path)] = first_line(error)
    return found


def read_json(path, expected):
    content = json.loads(path.read_text(encoding="utf-8"))
    require_form(content, expected)
    return content


def read_plots(paths, faults):
    return read_each(read_plot, [path for path in dict.fromkeys(paths) if path.exists()], faults)


def read_plot(path):
    with Image.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    content = io.BytesIO()
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(content, "PNG")  # half of a plot's bytes
    data = base64.b64encode(content.getvalue()).decode()
    return {"name": path.stem.replace("_", " "), "size": picture.size, "data": data}


def columns(rows):
    """The columns of a table: those of its fullest row, then what others have besides."""
    fullest_first = sorted(rows, key=lambda one: -len(one["row"]))
    return list(dict.fromkeys(title for one in fullest_first for title in one["row"]))


def written_as(what):
    """The files of comparisons or curves, the study's own first; a run of such a NAME has a report instead."""
    return sorted(path for path in IMAGES.glob(f"*{what}*.json") if not path.stem.endswith("_report"))


# --- Runs -----------------------------------------------------------------------------------------------------------


def in_words(name, sources):
    """The name of a run in words, as (network, where its layers come from): ('deeper CNN', 'from scratch').

    `sources` is {run: the run whose layers its encoder took, or ''}, which is an autoencoder where nothing is known.
    """
    found = RUN_NAME.fullmatch(name)
    if not found:
        return name, ""
    how, source = [], sources.get(name, "")
    if encoder := encoder_of(name):
        of = "an autoencoder" if is_autoencoder(source) else " ".join(["the", *in_words(source, {})]).strip()
        how.append(ENCODERS[encoder].format(of))
    how += [AUTOENCODERS[option] for option in found["of"].split("_")[1:]]
    how += [f"({found['name']})"] if found["name"] else []
    return NETWORKS.get(found["model"], found["model"].replace("_", " ")), " ".join(how)


def encoder_of(name):
    found = RUN_NAME.fullmatch(name)
    return (found["encoder"] or "frozen") if found and "autoencoder_cls" in found["model"] else None


def is_autoencoder(source):
    found = RUN_NAME.fullmatch(source)
    return not source or bool(found and found["model"].startswith("autoencoder") and not encoder_of(source))


def read_run(path):
    """What the page shows of the run whose report is in the file `path`."""
    report, name = read_json(path, Report), path.name.removesuffix("_report.json")
    summary, folds, found = report["summary"], report["folds"], RUN_NAME.fullmatch(name)
    (fold, first), *_ = folds.items()
    record = first["record"]
    figure, *_ = summary.values()  # the accuracy, or the PSNR
    row = {title: show(value, 1 if "dB" in title else 3) for title, value in summary.items()}
    if "ensemble" in report:
        row["accuracy of the ensemble"] = f"{report['ensemble']['accuracy']:.3f}"
    row["trainable parameters"] = f"{record['trainable_parameters']:,}"
    row["minutes"] = show(spread([fold["record"]["seconds"] / 60 for fold in folds.values()]), 0)
    if "PSNR (dB)" in summary:
        group = GROUPS[4]
    elif not found or found["data"] or found["name"]:
        group = GROUPS[3]
    else:
        group = GROUPS[1 if found["model"].endswith("_fast") else 0 if found["model"] in MODELS else 2]
    if group in GROUPS[3:]:
        row["pictures"] = report["data"]["source"]
    text = path.with_suffix(".txt")
    return {
        "name": name,
        "group": group,
        "best": figure["mean"],
        "row": row,
        "record": record,
        "source": name_and_fold(record.get("encoder_from") or "")[0],
        "prefix": report["data"]["prefix"],
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


def answer(rows, sources):
    """The answer by the tested comparisons of an autoencoder's layers with the same network from scratch, or ''."""
    words = {"better": "more accurate", "worse": "less accurate", "no difference shown": "not shown to differ"}
    verdicts = [
        row["verdict"]
        for row in rows
        if encoder_of(row["run"]) in PRETRAINED and is_autoencoder(sources.get(row["run"], ""))
        if encoder_of(row["baseline"]) in (None, "scratch") and row["t_test"]
    ]
    if not verdicts:
        return ""
    counts = [f"{said} in {verdicts.count(one)}" for one, said in words.items() if one in verdicts]
    short = "Yes" if {*verdicts} == {"better"} else "In part" if "better" in verdicts else "No"
    return (
        f"{short}. In {len(verdicts)} comparison{'s'[: len(verdicts) > 1]} with the same network trained from scratch, "
        f"the network on an autoencoder's layers is {' and '.join(counts)}."
    )


def finding(row, sources):
    """A comparison of two trainings of one network in a sentence, or two where rare classes come off otherwise."""
    first = " ".join(["The", *in_words(row["run"], sources)]).strip()
    _, how = in_words(row["baseline"], sources)
    second = f"the same network {how if encoder_of(row['baseline']) else f'from scratch {how}'}".strip()
    difference = f"{100 * abs(row['mean']):.1f} points {'more' if row['mean'] > 0 else 'less'} accurate"
    if not row["t_test"]:
        return f"{first} is {difference} than {second}, but this is {row['verdict']}."
    interval = f"95 % interval {100 * row['t_test']['low']:+.1f} to {100 * row['t_test']['high']:+.1f}"
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
