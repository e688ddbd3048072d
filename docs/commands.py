"""Every command of the fair test, as docs/fair.sh, from the records of its trainings. `make docs` writes the file."""

import json
import shlex

from docs import results
from docs.results import FEW, ROOT, Run, published
from recipes import RECIPES, share_of_length

HEAD = """\
#!/usr/bin/env bash
# Every command of the fair test (docs/comparing.md). Written by `make docs`, from the records of the trainings.
#
#     bash docs/fair.sh    # from the repository's root: about {hours} hours on one core of a recent server
#
# What is finished is not trained again, so you can stop it and go on. A try is trained on fold 1 and not evaluated, so
# that only the chosen ones meet the test images. The reports replace the published ones in imgs/, which git keeps.
set -e
python=${{PYTHON:-.venv/bin/python}}
mkdir -p checkpoints/fair
"""
SOURCES = """\
# --- What the first two blocks come from
make cnn ARCH=fast
make cnn ARCH=fast TASK=turns NAME=turns FOLDS=1
make cnn ARCH=fast TASK=turns REDUCED=none NAME=turns-allimages FOLDS=1
make ae ARCH=fast
make ae ARCH=fast REDUCED=none NAME=allimages
make ae ARCH=fast SEED=1 NAME=seed1
"""
AUTOENCODERS = {"denoising": {"noise": 0.2}, "masked": {"masked": 0.5}, "narrow": {"network": {"code_width": 16}}}
ALL_LABELS = """\
# --- All labels
make ae_cls ARCH=fast
make ae_cls ARCH=fast ENCODER=tuned
"""
OF_ALL_LABELS = ("cnn_fast", "autoencoder_cls_fast", "autoencoder_cls_fast_tuned")
IN_CURVE = (None, "cnn_fast", "cnn_fast_turns", "autoencoder_fast")


def config(name, **values):
    """(Path of a CONFIG with these values, the command that writes it)."""
    path = f"checkpoints/fair/{name}.json"
    return path, f"echo {shlex.quote(json.dumps(values))} > {path}"


def knobs(one):
    """The knobs of a try, {knob: value}, and the command that writes its CONFIG, or ''."""
    share, factor, encoder = one["labelled"], one["encoder_rate_factor"], one["encoder"]
    found = {"ARCH": "fast"}
    if encoder in ("tuned", "random"):
        found["ENCODER"] = encoder
    if encoder in ("frozen", "tuned"):  # the networks of quarter turns are of one fold, for all folds
        found["FROM"] = one["from"] + ("_fold1" if "turns" in one["from"] else "")
    if one["learning_rate"] != 1:
        found["LR"] = f"{one['learning_rate']:g}"
    settings, write = {}, ""
    if share < 1:
        recipe = RECIPES["cnn_fast"].settings
        batch, epochs = share_of_length(share, recipe.batch_size, recipe.epochs)
        found |= {"LABELLED": f"{share:g}", "BATCH": str(batch), "EPOCHS": str(epochs)}
        settings["validate_every"] = 34 if share < FEW else 17
    if factor not in (None, 1):
        settings["encoder_rate_factor"] = factor
    if one["frozen_share"]:
        settings["frozen_share"] = one["frozen_share"]
    if settings:
        values = "-".join(f"{value:g}" for value in settings.values())
        found["CONFIG"], write = config(values + "-frozen" * ("frozen_share" in settings), **settings)
    name = one["run"].removeprefix("autoencoder_cls_fast").removeprefix("cnn_fast")
    return found | {"NAME": name.removeprefix("_random").removeprefix("_tuned").removeprefix("_")}, write


def typed(knobs):
    return " ".join(f"{knob}={shlex.quote(value)}" for knob, value in knobs.items())


OPTIONS = {"LR": "learning-rate", "BATCH": "batch-size"}


def trainings():
    """The tries, and the trainings and evaluations of the chosen ones: commands, in order."""
    lines, share = [], None
    counts = {point["labelled"]: point["images"] for point in published("curve_fair")["points"]}
    for one in published("fair/tries"):
        if one["labelled"] == 1 and one["from"] in (None, "autoencoder_fast") and one.get("chosen"):
            continue  # which are OF_ALL_LABELS
        if share != one["labelled"]:
            share = one["labelled"]
            lines.append(f"# --- {counts[share]:,} labelled images: LABELLED={share:g}")
        given, write = knobs(one)
        if write and write not in lines:
            lines.append(write)
        if one.get("chosen"):
            target, run = "cnn" if one["encoder"] == "scratch" else "ae_cls", f"fair/{one['run']}"
            if (numbers := Run(run).numbers) != list("12345"):
                given["FOLDS"] = " ".join(numbers)
            lines.append(f"make {target} {typed(given)}")
            if (ROOT / f"imgs/{run}-none_report.json").exists():
                lines.append(f"make {target} {typed(given | {'REDUCED': 'none', 'NAME': given['NAME'] + '-none'})}")
        else:
            script = "train_cnn" if one["encoder"] == "scratch" else "train_ae_classifier"
            options = " ".join(f"--{OPTIONS.get(knob, knob.lower())} {value}" for knob, value in given.items())
            lines.append(f"$python {script}.py --fold 1 {options}")
    return lines


def chosen(fits, sources):
    """The chosen runs whose share of labels fits, and whose first blocks come from these sources."""
    found = [one for one in published("fair/tries") if one.get("chosen") and fits(one["labelled"])]
    found = [one for one in found if one["from"] in sources]
    return [one["run"] for one in sorted(found, key=lambda one: results.in_order((one["from"], one["encoder"])))]


def comparisons():
    """The comparison and the curve, as {NAME: (target, knobs)}."""
    runs = chosen(lambda share: share == FEW, results.SOURCES)
    curve = [*chosen(lambda share: share < 1, IN_CURVE), *OF_ALL_LABELS]
    curve += chosen(lambda share: share == 1, ["cnn_fast_turns"])
    return [
        ("compare", {"RUNS": " ".join(runs), "BASELINE": runs[0], "NAME": "fair"}),
        ("curve", {"RUNS": " ".join(curve), "NAME": "fair"}),
    ]


def fair():
    runs = [f"fair/{path.name.removesuffix('_report.json')}" for path in (ROOT / "imgs/fair").glob("*_report.json")]
    seconds = sum(fold["record"]["seconds"] for run in (*runs, *OF_ALL_LABELS[1:]) for fold in Run(run).folds)
    seconds += sum(one["seconds"] for one in published("fair/tries") if not one.get("chosen"))
    lines = [HEAD.format(hours=round(seconds / 3600)), SOURCES.rstrip()]
    for name, values in AUTOENCODERS.items():
        path, write = config(name, **values)
        lines += [write, f"make ae ARCH=fast CONFIG={path} NAME={name}"]
    lines += [ALL_LABELS.rstrip(), *trainings(), "# --- Comparison and curve"]
    lines += [f"make {target} {typed(given)}" for target, given in comparisons()]
    return "\n".join(lines) + "\n"
