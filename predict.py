"""Predict own pictures by a run's finished trainings: their classes by the mean probability of its folds.

Of an autoencoder: reconstructions and how good they are. Prints a table, writes imgs/<run>_predict.png and, with OUT,
the table as CSV. Reads pictures of any size and kind, cut to a square about their centre; needs no data set. Where
nothing has been trained yet, the model that comes with the project predicts.
"""

import csv
import os
from pathlib import Path
from typing import Literal

import numpy as np

from common import QUALITY, VIEWS, views
from data import IMAGE_SHAPE, in_words, named_pictures, read_pictures, with_progress
from recipes import (
    CHECKPOINTS,
    IMAGES,
    MODELS,
    FilePath,
    ModelChoice,
    chosen_name,
    make_command,
    model_of,
    name_and_fold,
    require_choice,
    views_setting,
)
from runs import finished_run, finished_trainings, learnt, require_classes
from util import cli, plots
from util.cli import InputError
from util.files import require_writable, write_atomically
from util.hardware import set_up_device
from util.options import parse, setting

CHUNK = 500  # pictures that are predicted at once
SHOWN = 24  # pictures in the plot; of reconstructions, half as many
PROVIDED = Path("pretrained")  # models that come with the project, with their records, as in checkpoints/


class Options(ModelChoice):
    model: Literal[MODELS] | None = setting(None, "the model to predict with", knob="MODEL")
    image: FilePath = setting(..., "pictures to predict: files, folders, patterns", knob="IMAGE")
    out: FilePath | None = setting(None, "a CSV file for the predictions", knob="OUT")
    views: Literal[VIEWS] = views_setting()


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    require_choice(options)
    paths = named_pictures(options.image)
    if options.out and os.path.lexists(options.out):
        raise InputError(f"OUT: {options.out!r} is there already; choose another file, or remove it")
    name, records = chosen_run(options)
    record = next(iter(records.values()))
    require_classes(options.views, name, record)
    set_up_device()  # before pictures are read by several threads, so that TensorFlow's notes stay off the terminal
    images = read_pictures(paths)
    for folder in {IMAGES, *([Path(options.out).parent] if options.out else ())}:
        require_writable(folder)

    reconstructs, class_names = "images" in learnt(record), record["data"]["class_names"]
    models = {run: run.load_model(IMAGE_SHAPE, IMAGE_SHAPE if reconstructs else (len(class_names),)) for run in records}
    by = "one finished training"
    if len(models) > 1:
        by = f"mean probability of {len(models)} folds ({', '.join(str(run.fold or 1) for run in models)})"
    print(f"{name}: {len(paths):,} picture{'s'[: len(paths) > 1]}, {by}")
    rows, shown = [], []
    starts = range(0, len(images), CHUNK)
    for start in with_progress(starts, len(starts), "predicting"):
        part = images[start : start + CHUNK]
        seen = views(part, options.views)
        outputs = np.mean([run.predict(model, view) for run, model in models.items() for view in seen], axis=0)
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
        write_atomically(options.out, lambda file: write_csv(file, paths, rows))
    print(f"{path}{f' and {options.out} are' if options.out else ' is'} written")


def chosen_run(options):
    """(name, {training: record}) of the run to predict with: one that was trained here, or else a provided one."""
    provided = names_of_runs(PROVIDED)
    if not options.model:
        trained = [one for one in names_of_runs(CHECKPOINTS) if one.startswith(MODELS)]  # not on other data
        if trained or not provided or options.model_dump(exclude_defaults=True, exclude={"image", "out", "views"}):
            here = f"; trained here: {', '.join(trained)}" if trained else ""
            raise InputError(f"MODEL is missing, the model to predict with, such as MODEL=cnn{here}")
    name = chosen_name(options, "") if options.model else provided[0]
    if options.data or name not in provided or finished_trainings(name):
        return finished_run(options)
    model = model_of(name)
    own = ModelChoice(model=model, arch=name.removeprefix(model).strip("_") or None)
    command = make_command(model, own)
    print(f"note: no {name} was trained here, so the one in {PROVIDED}/ predicts; `{command}` trains your own")
    return name, {run: run.read_record() for run in finished_trainings(name, PROVIDED)}


def names_of_runs(folder):
    return sorted({name_and_fold(path.stem)[0] for path in folder.glob("*.keras")})


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
    if "class 1" not in row:
        return {key: f"{value:.3f}" for key, value in row.items()}
    places = range(1, len(row) // 2 + 1)
    return {f"class {place}": f"{row[f'class {place}']} ({row[f'probability {place}']:.3f})" for place in places}


def write_csv(path, paths, rows):
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:  # names are bytes on Linux
        writer = csv.DictWriter(file, ["file", *rows[0]])
        writer.writeheader()
        writer.writerows({"file": picture, **row} for picture, row in zip(paths, rows, strict=True))


if __name__ == "__main__":
    cli.run(main)
