"""Draw how accuracy grows with the labelled pictures: the network from scratch, and on an autoencoder's encoder.

Reads the reports of evaluate.py of one network trained with several LABELLED, also in folders of imgs/; writes
imgs/curve.txt, .json and .png. Trains nothing.
"""

from util import cli  # isort: split

import json

from common import titled
from compare import between, builder, compare_all, figures_of, read_reports
from recipes import IMAGES, RunSuffix, Settings, row_name, run_name
from util import plots
from util.cli import InputError
from util.files import commit_json, commit_text
from util.settings import Part, parse, setting

ALIKE = Settings.model_fields.keys() - {"model", "labelled", "epochs", "batch_size", "patience"}
ALIKE -= {"learning_rate", "bias_rate_factor", "muon_rate_factor", "warmup"}
ALIKE -= {key for key in ALIKE if key.endswith("sha256")}  # of pictures those of same_data


class Options(Part):
    arch: str = setting("fast", "the network whose curves to draw", knob="ARCH")
    name: RunSuffix | None = setting(None, "a suffix of the files' names", knob="NAME")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    network = builder(row_name("autoencoder_cls", options.arch))
    runs, autoencoders, _ = read_reports(subfolders=True)
    of_network = [run for run in runs if builder(run.model) is network]
    runs = one_a_point(of_network)
    if len({share for share, _ in runs}) < 2:
        raise InputError(
            f"a curve takes reports of two shares of labels and more, in {IMAGES}: run "
            f"`make ae_cls ARCH={options.arch} LABELLED=0.25 NAME=quarter` and the like"
        )
    points = {(share, kind): point(run, share, kind, autoencoders) for (share, kind), run in sorted(runs.items())}
    places = [(share, kind) for share, kind in points if kind != "scratch" and (share, "scratch") in runs]
    places = [(share, kind) for share, kind in places if runs[share, kind].folds.keys() & runs[share, "scratch"].folds]
    compared = compare_all([(runs[share, kind], runs[share, "scratch"]) for share, kind in places])
    for each, row in zip(places, compared, strict=True):
        points[each]["difference"] = row

    data, points = next(iter(runs.values())).data, list(points.values())
    text = plots.markdown_table(list(map(table_row, points)))
    if others := sorted({run.name for run in of_network} - {point["run"] for point in points}):
        text += f"\n\nNot drawn, as trained otherwise or a second time for one point: {', '.join(others)}."
    name = run_name("curve", data["prefix"], name=options.name)
    commit_text(IMAGES / f"{name}.txt", f"{text}\n")
    commit_json(IMAGES / f"{name}.json", {"arch": options.arch, "data": data, "points": points})
    plots.plot_learning_curves(IMAGES / f"{name}.png", f"ARCH={options.arch}, {data['source']}", points)
    print(f"{text}\n\n{IMAGES / name}.txt, .json and .png are written")


def trained_alike(run):
    """What a curve's runs have in common: pictures and settings but for labels, encoder, length, batches and rates."""
    pictures = {what: value for what, value in run.same_data.items() if what != "LABELLED"}
    settings = {key: value for key, value in run.settings.items() if key in ALIKE}
    return json.dumps([pictures, settings], sort_keys=True)


def one_a_point(runs):
    """{(share of labels, encoder): run} of runs that were trained alike.

    Of several such groups one with several shares, then the one trained here last, then the largest.
    """
    groups = {}
    for run in runs:
        groups.setdefault(trained_alike(run), []).append(run)
    group = max(
        groups.values(),
        key=lambda group: (
            len({run.same_data["LABELLED"] for run in group}) > 1,
            max(run.trained_here for run in group),
            len(group),
        ),
        default=[],
    )
    found = {}
    for run in sorted(group, key=lambda run: (-len(run.folds), -run.trained_here, run.name)):
        share, kind = run.same_data["LABELLED"], run.encoder or "scratch"  # that is the network alone
        found.setdefault((share, kind), run)
    return found


def point(run, share, kind, autoencoders):
    counts = [sum(fold["record"]["data"]["train_counts"]) for fold in run.folds.values()]
    about = {"run": run.name, "labelled": share, "images": round(sum(counts) / len(counts)), "encoder": kind}
    return {**about, "reduced": run.reduced, **figures_of(run, run.reduced, autoencoders)}


def table_row(point):
    """A point as {title of a column: word}."""
    row = {"labelled images": f"{point['images']:,}", "encoder": point["encoder"], "folds": str(len(point["folds"]))}
    row |= {title: plots.show(figure, 3) for title, figure in titled(point, point["reduced"]).items()}
    if found := point.get("difference"):
        row["- scratch, in points"] = f"{100 * found['mean']:+.1f}"
        row["95 % over folds"] = between(found["t_test"]) if found["t_test"] else found["untested"]
        row |= {"settings that differ": found["unlike"]} if found["unlike"] else {}
    return {**row, "run": point["run"]}


if __name__ == "__main__":
    cli.run(main)
