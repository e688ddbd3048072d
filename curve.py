"""Draw how accuracy grows with the labelled pictures: the network from scratch, and on pretrained encoders.

Reads the reports of evaluate.py of one network trained with several LABELLED, also in folders of imgs/; writes
imgs/curve.txt, .json and .png. Trains nothing.
"""

from util import cli  # isort: split

import json

from common import titled
from compare import between, builder, compare_all, differing_trainings, figures_of, read_reports
from recipes import IMAGES, RunSuffix, Settings, name_and_fold, row_name, run_name
from util import plots
from util.cli import InputError
from util.files import write_json, write_text
from util.options import Part, parse, setting

# The points of a curve have the other settings in common. Lengths, batches and rates are chosen for each.
FREE = {"model", "labelled", "epochs", "batch_size", "patience", "validate_every", "warmup"}
FREE |= {key for key in Settings.model_fields if key.endswith("sha256") or "rate" in key}


class Options(Part):
    arch: str = setting("fast", "the network whose curves to draw", knob="ARCH")
    name: RunSuffix | None = setting(None, "a suffix of the files' names", knob="NAME")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    network = builder(row_name("autoencoder_cls", options.arch))
    runs, autoencoders, _ = read_reports(subfolders=True)
    of_network = [run for run in runs if builder(run.model) is network]
    runs = dict(sorted(one_a_point(of_network).items()))
    if len({share for share, _ in runs}) < 2:
        raise InputError(
            f"a curve takes reports of two shares of labels and more, in {IMAGES}: run "
            f"`make ae_cls ARCH={options.arch} LABELLED=0.25 NAME=quarter` and the like"
        )
    points = {place: point(run, *place, autoencoders) for place, run in runs.items()}
    pairs = {(share, kind): (run, runs.get((share, "scratch"))) for (share, kind), run in runs.items()}
    pairs = {place: (run, other) for place, (run, other) in pairs.items() if other and run is not other}
    pairs = {place: (run, other) for place, (run, other) in pairs.items() if run.folds.keys() & other.folds}
    compared = compare_all(pairs.values())
    for place, row in zip(pairs, compared, strict=True):
        points[place]["difference"] = row

    data, points = next(iter(runs.values())).data, list(points.values())
    others = sorted({run.name for run in of_network} - {point["run"] for point in points})
    left_out = others and f"Not drawn, as trained otherwise or a second time for one point: {', '.join(others)}."
    text = [plots.markdown_table(list(map(table_row, points))), differing_trainings(compared), left_out]
    text = "\n\n".join(filter(None, text))
    path = IMAGES / run_name("curve", data["prefix"], name=options.name)
    write_text(path.with_suffix(".txt"), f"{text}\n")
    write_json(path.with_suffix(".json"), {"arch": options.arch, "data": data, "points": points})
    plots.plot_learning_curves(path.with_suffix(".png"), f"ARCH={options.arch}, {data['source']}", points)
    print(f"{text}\n\n{path}.txt, .json and .png are written")


def one_a_point(runs):
    """{(share of labels, kind of encoder): run} of runs that were trained alike.

    Of several such groups one with several shares, then the one trained here last, then the largest. Of several runs
    for one point the one with most folds.
    """
    groups = {}
    for run in runs:
        pictures = {what: value for what, value in run.same_data.items() if what != "LABELLED"}
        settings = {key: value for key, value in run.settings.items() if key in Settings.model_fields.keys() - FREE}
        groups.setdefault(json.dumps([pictures, settings], sort_keys=True), []).append(run)

    def rank(group):
        shares = {run.same_data["LABELLED"] for run in group}
        return len(shares) > 1, max(run.trained_here() for run in group), len(group)

    found = {}
    group = max(groups.values(), key=rank, default=[])
    for run in sorted(group, key=lambda run: (-len(run.folds), -run.trained_here(), run.name)):
        found.setdefault((run.same_data["LABELLED"], kind_of(run)), run)
    return found


def kind_of(run):
    """Its ENCODER, and the run that the encoder comes from where that is no autoencoder; without one 'scratch'."""
    source = name_and_fold(run.record.get("encoder_from") or "")[0]
    return (
        f"{run.encoder} from {source}" if source and not source.startswith("autoencoder") else run.encoder or "scratch"
    )


def point(run, share, kind, autoencoders):
    counts = [sum(fold["record"]["data"]["train_counts"]) for fold in run.folds.values()]
    about = {"run": run.name, "labelled": share, "images": round(sum(counts) / len(counts)), "encoder": kind}
    return {**about, "reduced": run.reduced, **figures_of(run, run.reduced, autoencoders)}


def table_row(point):
    """A point as {title of a column: word}."""
    row = {"labelled images": f"{point['images']:,}", "encoder": point["encoder"], "folds": str(len(point["folds"]))}
    row |= {title: plots.show(figure, 3) for title, figure in titled(point, point["reduced"]).items()}
    if found := point.get("difference"):
        row["minus scratch, in points"] = f"{100 * found['mean']:+.1f}"
        row["95 % over folds"] = between(found["t_test"]) if found["t_test"] else ""
        row["verdict"] = found["verdict"]
    return {**row, "run": point["run"]}


if __name__ == "__main__":
    cli.run(main)
