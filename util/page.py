"""A self-contained HTML page: Jinja's templates beside this file, with pictures and curves that need no other file."""

import base64
import io
import math
from pathlib import Path

from util.backend import Later
from util.files import commit_text

jinja2, pillow = Later("jinja2"), Later("PIL.Image")

WIDEST, COLOURS = 1100, 256  # of a picture: half of a plot's bytes, and hardly to be told from it
WIDTH, HEIGHT = 300, 100  # of a curve


def write_page(path, template, content):
    """Write the page `path` of a template and what is to stand in it; returns its size in bytes."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = pages.get_template(template).render(content).encode(errors="replace")  # not every name of a file is text
    commit_text(path, page.decode())
    return len(page)


def embedded(path):
    """A picture's file as {size: (width, height), data: a PNG as base64}."""
    with pillow.open(path) as file:
        picture = file.convert("RGB")
    picture.thumbnail((WIDEST, 10 * WIDEST))
    content = io.BytesIO()
    picture.quantize(COLOURS, pillow.Quantize.FASTOCTREE).save(content, "PNG", compress_level=3)
    return {"size": picture.size, "data": base64.b64encode(content.getvalue()).decode()}


def curves(lines):
    """{name: values, one an epoch} as {points: {name: [(x, y)] in an SVG}, latest: {name: word}, ends: of the axis}."""
    finite = [value for line in lines.values() for value in line if math.isfinite(value)] or [0]
    low, high = min(finite), max(finite)

    def points(line):
        across, up = WIDTH / max(len(line) - 1, 1), HEIGHT / ((high - low) or 1)
        return [(round(i * across, 1), round((high - y) * up, 1)) for i, y in enumerate(line) if math.isfinite(y)]

    return {
        "points": {name: points(line) for name, line in lines.items()},
        "latest": {name: f"{line[-1]:.3g}" for name, line in lines.items()},
        "ends": [f"{low:.3g}", f"{high:.3g}"],
    }
