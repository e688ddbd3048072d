"""Draw how accuracy grows with the labelled pictures: the network from scratch, and on pretrained encoders.

Reads the reports of evaluate.py of one network trained with several LABELLED, also in folders of imgs/, or those that
--runs names; writes imgs/curve.txt, .json and .png. Trains nothing.
"""

from common import titled
from compare import between, choose, compare_all, differing_trainings, figures_of, in_points, latest_group, read_reports
from recipes import IMAGES, PRETRAINED, RECIPES, RunSuffix, Settings, row_name, run_name
from runs import encoder_in_words
from util import cli, plots
from util.cli import InputError
from util.files import write_json, write_text
from util.options import Part, parse, setting

# The settings that the points of a curve have in common. Lengths, batches and rates are chosen for each.
COMMON = {key for key in Settings.model_fields if not key.endswith("sha256") and "rate" not in key}
COMMON -= {"model", "labelled", "epochs", "validate_every", "batch_size", "patience", "warmup"}


class Options(Part):
    arch: str = setting("fast", "the network whose curves to draw", knob="ARCH")
    name: RunSuffix | None = setting(None, "a suffix of the files' names", knob="NAME")
    runs: str | None = setting(None, "runs to draw (unset: those that were trained alike)", knob="RUNS")


def main(argv=None):
    options = parse(__doc__, Options, argv=argv)
    network = RECIPES[row_name("autoencoder_cls", options.arch)]
    runs, autoencoders, unusable = read_reports()
    if names := (options.runs or "").split():
        runs, _ = choose(runs, unusable, names)
    of_network = [run for run in runs if run.builder is network.build]
    if names and (others := [run.name for run in runs if run not in of_network]):
        raise InputError(f"{', '.join(others)}: no network of ARCH={options.arch}; leave those out of RUNS")
    runs = dict(sorted(one_a_point(of_network if names else trained_alike(of_network)).items()))
    if len({share for share, _ in runs}) < 2:
        raise InputError(
            f"a curve takes reports of two shares of labels and more, in {IMAGES}: run "
            f"`make ae_cls ARCH={options.arch} LABELLED=0.25 NAME=quarter` and the like"
        )
    points = {place: point(run, *place, autoencoders) for place, run in runs.items()}
    pairs = {}
    for (share, kind), run in runs.items():
        scratch = runs.get((share, "scratch"))
        if scratch not in (None, run) and run.folds.keys() & scratch.folds.keys():
            pairs[share, kind] = run, scratch
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
    words = {}
    for (_, kind), run in runs.items():
        words.setdefault(kind, []).append(encoder_in_words(run.record, run.before, rate=False))
    words = {kind: " / ".join(dict.fromkeys(of)) for kind, of in words.items()}
    alike = [kind for kind in words if list(words.values()).count(words[kind]) > 1]  # such as of two autoencoders
    words |= {kind: f"{words[kind]} ({kind.partition(' from ')[2]})" for kind in alike}
    title = f"{network.words or options.arch}, on {data['source']}"
    plots.plot_learning_curves(path.with_suffix(".png"), title, points, words)
    print(f"{text}\n\n{path}.txt, .json and .png are written")


def trained_alike(runs):
    """Those of the runs that were trained alike, on several shares where there are any."""

    def alike(one, other):
        pictures = all(value == other.same_data[what] for what, value in one.same_data.items() if what != "LABELLED")
        return pictures and all(one.settings.get(key) == other.settings.get(key) for key in COMMON)

    return latest_group(runs, alike, lambda group: len({run.settings["labelled"] for run in group}))


def one_a_point(runs):
    """{(share of labels, kind of encoder): run}: of several runs for one point the one with most folds."""
    found = {}
    for run in sorted(runs, key=lambda run: (-len(run.folds), -run.trained_here, run.name)):
        kind = (run.encoder or "scratch") + (f" from {run.encoder_from}" if run.encoder in PRETRAINED else "")
        found.setdefault((run.settings["labelled"], kind), run)
    return found


def point(run, share, kind, autoencoders):
    counts = [sum(fold["record"]["data"]["train_counts"]) for fold in run.folds.values()]
    about = {"run": run.name, "labelled": share, "images": round(sum(counts) / len(counts)), "encoder": kind}
    return {**figures_of(run, run.reduced, autoencoders), **about, "reduced": run.reduced}


def table_row(point):
    """A point as {title of a column: word}."""
    row = {"labelled images": f"{point['images']:,}", "encoder": point["encoder"], "folds": str(len(point["folds"]))}
    row |= {title: plots.show(figure, 3) for title, figure in titled(point, point["reduced"]).items()}
    if found := point.get("difference"):
        row["minus scratch, in points"] = in_points(found["mean"])
        row["95 % over folds"] = between(found["t_test"]) if found["t_test"] else ""
        row["verdict"] = found["verdict"]
        if contrast := found["reduced_minus_others"]:
            row["reduced - others"] = in_points(contrast["mean"])
            row["its 95 %"] = between(contrast["t_test"]) if contrast["t_test"] else ""
            row["its verdict"] = contrast["verdict"]
    return {**row, "run": point["run"]}


if __name__ == "__main__":
    cli.run(main)
