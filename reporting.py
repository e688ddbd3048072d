"""What evaluate.py, compare.py and bench.py write alike: figures, tables and plots. Loads no Keras."""

import numpy as np

from files import commit
from options import IMAGES

# Okabe and Ito's palette: told apart by colour-blind readers, and in grey.
BLUE, ORANGE = "#0072B2", "#D55E00"


def spread(values):
    """Mean and, of two values and more, sample standard deviation."""
    return {"mean": float(np.mean(values)), "std": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def show(value, digits):
    return f"{value['mean']:.{digits}f}" + (f" ± {value['std']:.{digits}f}" if value["std"] is not None else "")


def markdown_table(rows):
    """Rows of words, the first the head, as a Markdown table that reads well in a terminal too."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def new_figure(rows=1, columns=1, size=(7, 4)):
    """A figure that opens no window; size in inches, 120 dots each: about the width of a README's column."""
    from matplotlib import rcParams
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rcParams["text.parse_math"] = False  # a $ in the name of a file or class is a $
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns)


def save(figure, filename):
    commit(IMAGES / filename, figure.savefig)
