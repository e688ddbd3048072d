"""Predict own pictures by a run's finished trainings: their classes by the mean probability of its folds.

Of an autoencoder: reconstructions and how good they are. Prints a table, writes imgs/<run>_predict.png and, with OUT,
the table as CSV. Reads pictures of any size and kind, cut to a square about their centre; needs no data set.
"""

from util import cli  # isort: split

import csv
import os
from pathlib import Path

import numpy as np

from common import IMAGE_SHAPE, QUALITY
from recipes import IMAGES, FilePath, ModelChoice, require_choice
from runs import finished_run
from util import plots
from util.cli import InputError
from util.files import commit, require_writable
from util.hardware import set_up_device
from util.options import parse, setting
from util.pictures import in_words, named_pictures, read_pictures, with_progress

CHUNK = 500  # pictures that are predicted at once
SHOWN = 24  # pictures in the plot; of reconstructions, half as many


class Options(ModelChoice):
    image: FilePath = setting(..., "pictures to predict: files, folders, patterns", knob="IMAGE")
    out: FilePath | None = setting(None, "a CSV file for the predictions", knob="OUT")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    paths = named_pictures(options.image)
    if options.out and os.path.lexists(options.out):
        raise InputError(f"OUT: {options.out!r} is there already; choose another file, or remove it")
    name, records = finished_run(options)
    images = read_pictures(paths, IMAGE_SHAPE[:2])
    for folder in {IMAGES, *([Path(options.out).parent] if options.out else ())}:
        require_writable(folder)

    set_up_device()
    reconstructs = options.model == "autoencoder"
    class_names = next(iter(records.values()))["data"]["class_names"]
    models = {run: run.load_model(IMAGE_SHAPE, IMAGE_SHAPE if reconstructs else (len(class_names),)) for run in records}
    by = "one finished training"
    if len(models) > 1:
        by = f"mean probability of {len(models)} folds ({', '.join(str(run.fold or 1) for run in models)})"
    print(f"{name}: {len(paths):,} picture{'s'[: len(paths) > 1]}, {by}")
    rows, shown = [], []
    starts = range(0, len(images), CHUNK)
    for start in with_progress(starts, len(starts), "predicting"):
        part = images[start : start + CHUNK]
        outputs = np.mean([run.predict(model, part) for run, model in models.items()], axis=0)
        rows += quality(part, outputs) if reconstructs else likeliest(outputs, class_names)
        shown = shown if start else outputs[:SHOWN]

    cells = [as_cells(row) for row in rows]
    print(plots.markdown_table([{"file": in_words(p), **row} for p, row in zip(paths, cells, strict=True)]))
    path = IMAGES / f"{name}_predict.png"
    if reconstructs:
        count = min(SHOWN // 2, len(shown))
        title = f"{name}: pictures over their reconstructions, from the worst PSNR to the best"
        figures = [[row[key] for row in rows[:count]] for key in ("PSNR (dB)", "SSIM")]
        plots.plot_reconstructions(path, title, images[:count] / 255, shown[:count], *figures)
    else:
        words = [row["class 1"] for row in cells[:SHOWN]]
        plots.plot_pictures(path, f"{name}: likeliest class and its probability", images[:SHOWN], words)
    if options.out:
        commit(options.out, lambda file: write_csv(file, paths, rows))
    print(f"{path}{f' and {options.out} are' if options.out else ' is'} written")


def likeliest(probabilities, class_names):
    """Of each picture, {'class 1': the likeliest, 'probability 1': its probability} and so on, three at most."""
    rows = []
    for found in probabilities:
        row = {}
        for place, number in enumerate(np.argsort(-found, kind="stable")[:3], 1):
            row |= {f"class {place}": class_names[number], f"probability {place}": float(found[number])}
        rows.append(row)
    return rows


def quality(images, copies):
    """Of each picture, {'PSNR (dB)': ..., 'SSIM': ...} of its reconstruction."""
    figures = {key: QUALITY[key](images.astype(np.float32) / 255, copies) for key in ("PSNR (dB)", "SSIM")}
    return [dict(zip(figures, map(float, row), strict=True)) for row in zip(*figures.values(), strict=True)]


def as_cells(row):
    """A row as the terminal shows it, a class and its probability in one cell."""
    cells = {}
    for key, value in row.items():
        if key.startswith("probability"):
            cells[key.replace("probability", "class")] += f" ({value:.3f})"
        else:
            cells[key] = f"{value:.3f}" if isinstance(value, float) else value
    return cells


def write_csv(path, paths, rows):
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:  # names are bytes on Linux
        writer = csv.DictWriter(file, ["file", *rows[0]])
        writer.writeheader()
        writer.writerows({"file": picture, **row} for picture, row in zip(paths, rows, strict=True))


if __name__ == "__main__":
    cli.run(main)
