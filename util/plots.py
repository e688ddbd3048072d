"""Figures in words, tables and plots, drawn from plain numbers."""

import functools
import textwrap

import numpy as np

from util.backend import Later
from util.files import write_atomically

matplotlib, agg, figures = map(Later, ("matplotlib", "matplotlib.backends.backend_agg", "matplotlib.figure"))
font_manager = Later("matplotlib.font_manager")

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE = "#0072B2", "#D55E00"
# Matplotlib takes each letter from the first of these that has it: its own font, then those of other scripts.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
)
FONTS += (
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)


def spread(values):
    """Mean and, of two values and more, sample standard deviation."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def show(value, digits):
    return f"{value['mean']:.{digits}f}" + (f" ± {value['std']:.{digits}f}" if value["std"] is not None else "")


def duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def markdown_table(rows):
    """Rows as {title of the column: word} as a Markdown table that reads well in a terminal too."""
    titles = list(dict.fromkeys(title for row in rows for title in row))
    rows = [titles, *([row.get(title) or "" for title in titles] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def new_figure(rows=1, columns=1, size=(7, 4)):
    """A figure that opens no window; size in inches, 120 dots each: about the width of a README's column."""
    matplotlib.rcdefaults()  # not the user's matplotlibrc, which may be of another style or need LaTeX
    matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a file or class is a $
    installed = font_manager.get_font_names()
    matplotlib.rcParams["font.family"] = [font for font in FONTS if font in installed]
    figure = figures.Figure(figsize=size, dpi=120, layout="constrained")
    agg.FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def plot(draw):
    """Makes of `draw(*args)`, which returns a figure, `plot(path, *args)`, which writes it."""

    @functools.wraps(draw)
    def write(path, *args):
        write_atomically(path, draw(*args).savefig)

    return write


def legend_below(figure, axes, ncols=4, **style):
    """One entry for each label, below the plot."""
    entries = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=ncols, frameon=False, **style)


def separate_rows(axes, count):
    """Make room for this many rows, the first above, with lines between them."""
    for place in range(count - 1):
        axes.axhline(place + 0.5, color="0.85", linewidth=1)
    axes.set_ylim(count - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)


def put_title(figure, title):
    """Put a title above the whole figure, in letters small enough for its width."""
    figure.suptitle(title, fontsize=min(12, 115 * figure.get_figwidth() / len(title)))


def name_ticks(axis, names):
    slanted = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axis.set_ticks(np.arange(len(names)), names, **slanted)


@plot
def plot_curve(title, history, key, label, best, note):
    """Training (`note`: how) and validation curves of a figure of the epochs; the epoch that was kept is marked."""
    figure, axes = new_figure()
    put_title(figure, title)
    epochs = np.arange(1, len(history[key]) + 1)
    style = {"marker": "o" if len(epochs) < 20 else None, "markersize": 4}
    axes.plot(epochs, history[key], color=BLUE, label=f"training{note}", **style)
    validation = np.array(history[f"val_{key}"], float)  # NaN where an epoch was not validated
    validated = np.isfinite(validation)
    axes.plot(epochs[validated], validation[validated], color=ORANGE, label="validation", **style)
    axes.axvline(best, color="0.6", linestyle="--", linewidth=1, label=f"best epoch, {best}")
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return figure


@plot
def plot_confusion(title, counts, class_names):
    """Confusion matrix in shares of each true class: the diagonal is recall. Of many classes without numbers."""
    counts = np.array(counts)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    scale = np.clip(len(counts) / 12, 1, 3)
    figure, axes = new_figure(size=(7 * scale, 6.2 * scale))
    put_title(figure, title)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")  # equal would cut long names off
    for row, column in np.argwhere(shares >= 0.005) if len(counts) <= 36 else ():
        value = shares[row, column]
        style = {"color": "white" if value > 0.5 else "black", "weight": "bold" if row == column else "normal"}
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=9, **style)
    name_ticks(axes.xaxis, class_names)
    axes.set_yticks(np.arange(len(class_names)), class_names)
    axes.set(xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, label="share of the true class (diagonal: recall)", shrink=0.9)
    return figure


def picture_grid(title, rows, columns, height):
    """A figure of `height` inches with a grid of axes (rows, columns) that show nothing yet."""
    figure, axes = new_figure(rows, columns, size=(9, height))
    put_title(figure, title)
    axes = np.reshape(axes, (rows, columns))
    for axis in axes.flat:
        axis.axis("off")
    return figure, axes


def show_picture(axis, image, words="", color="black"):
    """Show a picture under its words, in lines no longer than it is wide."""
    axis.imshow(image)
    letters = int(140 / axis.get_subplotspec().get_gridspec().ncols)
    lines = [line for part in words.splitlines() for line in textwrap.wrap(part, letters)]
    axis.set_title("\n".join(lines), fontsize=8, color=color)


@plot
def plot_predictions(title, images, labels, probabilities, class_names):
    """Example images with predicted class and probability: the surest right, the least sure, the surest wrong."""
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    right = predicted == labels
    order = np.argsort(-sure, kind="stable")
    groups = {"sure and right": order[right[order]], "unsure": order[::-1], "sure and wrong": order[~right[order]]}
    figure, axes = picture_grid(title, len(groups), 8, height=5.2)
    for row, (group, members) in zip(axes, groups.items(), strict=True):
        row[0].text(-0.15, 0.5, group, transform=row[0].transAxes, rotation=90, ha="right", va="center", fontsize=10)
        for axis, index in zip(row, members, strict=False):
            words, color = f"{class_names[predicted[index]]} ({sure[index]:.2f})", "black"
            if not right[index]:
                words, color = f"{words}\nis {class_names[labels[index]]}", ORANGE
            show_picture(axis, images[index], words, color)
    return figure


@plot
def plot_pictures(title, images, words):
    """Each image under its words, eight a row."""
    rows = -(-len(images) // 8)
    figure, axes = picture_grid(title, rows, 8, height=0.5 + 1.5 * rows)
    for axis, image, said in zip(axes.flat, images, words, strict=False):
        show_picture(axis, image, said)
    return figure


@plot
def plot_reconstructions(title, originals, copies, decibels, similarities):
    """Originals over their reconstructions: at most twelve, from the worst PSNR to the best, evenly spaced."""
    order, columns = np.argsort(decibels), 12
    chosen = order[np.linspace(0, len(order) - 1, min(columns, len(order))).round().astype(int)]
    figure, axes = picture_grid(title, 2, columns, height=2.3)
    for index, above, below in zip(chosen, *axes, strict=False):
        above.imshow(np.clip(originals[index], 0, 1))
        below.imshow(np.clip(copies[index], 0, 1))
        words = f"{decibels[index]:.1f} dB\nSSIM {similarities[index]:.2f}"
        below.text(0.5, -0.08, words, fontsize=8, transform=below.transAxes, ha="center", va="top")
    return figure


@plot
def plot_samples(title, rows, names):
    """Rows of pictures (columns, height, width, 3), 0-255, and the class of each column."""
    figure, axes = picture_grid(title, len(rows), len(names), height=0.9 + 0.8 * len(rows))
    for axis, picture, name in zip(axes.flat, np.concatenate(rows), [*names] + [""] * axes.size, strict=False):
        show_picture(axis, np.clip(picture / 255, 0, 1), name)
    return figure


@plot
def plot_distribution(title, train, val, class_names):
    """Images of each class in the training and validation sets, given as their counts."""
    train, val = np.array(train), np.array(val)
    highest = (train + val).max()
    figure, axes = new_figure(size=(np.clip(0.5 * len(train), 7, 25), 3.6))
    put_title(figure, title)
    for counts, bottom, color, words in ((train, 0, BLUE, "training"), (val, train, ORANGE, "validation")):
        bars = axes.bar(np.arange(len(train)), counts, bottom=bottom, color=color, label=f"{words} ({counts.sum():,})")
        numbers = [f"{count:,}" if count > 0.05 * highest else "" for count in counts]  # where the bar has room
        axes.bar_label(bars, numbers, label_type="center", color="white", fontsize=8)
    name_ticks(axes.xaxis, class_names)
    axes.set(xlabel="class", ylabel="images")
    axes.set_ylim(top=1.2 * highest)
    axes.legend(frameon=False, ncols=2, loc="upper right")
    return figure


@plot
def plot_differences(compared, words):
    """Each comparison's difference in accuracy, on every fold and on average, with both intervals.

    `words` is {run: what the plot calls it}. What all are compared with stands below, else in each row.
    """
    baselines = {row["baseline"] for row in compared}
    figure, axes = new_figure(size=(8, 1.7 + (0.62 if len(baselines) == 1 else 0.8) * len(compared)))
    for place, row in enumerate(compared):
        points, folds = 100 * np.array(row["differences"]), len(row["folds"])
        for found, height, look in (
            (row["t_test"], 0.17, {"color": BLUE, "linewidth": 5, "label": "95 % interval over folds"}),
            (row["bootstrap"], 0.34, {"color": ORANGE, "linewidth": 1.5, "label": "95 % interval over test images"}),
        ):
            if found:
                ends = [100 * found["low"], 100 * found["high"]]
                axes.plot(ends, [place + height] * 2, solid_capstyle="butt", **look)
        dot = {"marker": "o", "linestyle": "none", "markersize": 5, "markeredgewidth": 0.8, "markeredgecolor": "black"}
        axes.plot(points.mean(), place + 0.17, "|", color="black", markersize=13, markeredgewidth=2, label="mean")
        axes.plot(points, np.full(folds, place + 0.17), color="white", label="each fold", **dot)
        names = f"{words[row['run']]}, {folds} fold{'s'[: folds > 1]}"
        names += f"\nminus {words[row['baseline']]}" if len(baselines) > 1 else ""
        style = {"va": "top", "fontsize": 8.5, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
        axes.text(0.01, place - 0.43, names, transform=axes.get_yaxis_transform(), **style)
    zero = f"the {words[baselines.pop()]}" if len(baselines) == 1 else "what is subtracted"
    axes.axvline(0, color="0.3", linewidth=1)
    axes.set_yticks([])
    axes.set(xlabel=f"difference in test accuracy, in percentage points\n0: as accurate as {zero}")
    separate_rows(axes, len(compared))
    legend_below(figure, axes)
    return figure


@plot
def plot_recalls(runs, reduced):
    """Recall of each reduced class, and the accuracy over all classes, of each run, given as its figures."""
    kinds = [(f"recall of {name}", f"C{place % 10}", "os^vPX*<d"[place % 9]) for place, name in enumerate(reduced)]
    kinds.append(("accuracy over all classes", "0.3", "D"))
    figure, axes = new_figure(size=(8, 1.4 + (0.25 + 0.1 * len(kinds)) * len(runs)))
    for place, figures in enumerate(runs):
        values = [*(figures["recall"][name] for name in reduced), figures["accuracy"]]
        heights = place + np.linspace(-0.5, 0.5, len(kinds) + 2)[1:-1]
        for (label, color, mark), value, height in zip(kinds, values, heights, strict=True):
            style = {"color": color, "marker": mark, "markersize": 5, "capsize": 2, "linestyle": "none", "label": label}
            axes.errorbar(100 * value["mean"], height, xerr=100 * (value["std"] or 0), **style)
    axes.set_yticks(range(len(runs)), [textwrap.fill(figures["words"], 34) for figures in runs], fontsize=8.5)
    axes.set(xlabel="% of the test images (bars: standard deviation over folds)")
    separate_rows(axes, len(runs))
    legend_below(figure, axes)
    return figure


ENCODER_LOOKS = {
    # A ring, which another's mark in the same place does not hide.
    "scratch": {"color": BLUE, "marker": "o", "markersize": 10, "fillstyle": "none", "linewidth": 3, "alpha": 0.7},
    "random": {"color": "0.4", "marker": "v"},
    "frozen": {"marker": "s"},
    "tuned": {"marker": "^", "linestyle": "--"},
}
# Which the colour-blind can tell apart as well (Okabe and Ito).
SOURCE_COLORS = (ORANGE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


@plot
def plot_learning_curves(title, points, words):
    """Accuracy against labelled images, mean and standard deviation over folds; and differences from scratch.

    `words` is {kind of encoder: what the plot calls it}; of pretrained ones, a kind is 'tuned from <run>' or the like.
    """
    figure, (above, below) = new_figure(rows=2, size=(9, 8))
    sources = sorted({kind.partition(" from ")[2] for kind in words} - {""})
    for kind in sorted(words, key=lambda kind: (kind != "scratch", *kind.split(" ")[::-1])):
        encoder, _, source = kind.partition(" from ")
        color = SOURCE_COLORS[sources.index(source) % len(SOURCE_COLORS)] if source else None
        style = {"markersize": 5, "capsize": 3, "label": words[kind], "color": color, **ENCODER_LOOKS[encoder]}
        mine = [point for point in points if point["encoder"] == kind]
        accuracy = 100 * np.array([[point["accuracy"]["mean"], point["accuracy"]["std"] or 0] for point in mine])
        above.errorbar([point["images"] for point in mine], *accuracy.T, **style)
        if compared := [point for point in mine if "difference" in point]:
            means = np.array([point["difference"]["mean"] for point in compared])
            tests = [point["difference"]["t_test"] or {"low": np.nan, "high": np.nan} for point in compared]
            ends = [means - [test["low"] for test in tests], [test["high"] for test in tests] - means]
            below.errorbar([point["images"] for point in compared], 100 * means, 100 * np.array(ends), **style)
    ticks = sorted({point["images"] for point in points})
    for axes in (above, below):
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
        axes.set_xticks([], minor=True)
        axes.grid(alpha=0.3)
    above.set(title=title, ylabel="test accuracy (%)\nbars: standard deviation over folds")
    below.axhline(0, color="0.3", linewidth=1)
    below.set(xlabel="labelled training images", ylabel="minus from scratch (percentage points)\nbars: 95 % over folds")
    legend_below(figure, above, ncols=2, fontsize=9)
    return figure
