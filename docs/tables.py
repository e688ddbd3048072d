"""Writes the generated tables of README.md and docs/*.md anew, each between <!-- name --> and <!-- /name -->.

`make docs` calls this. Tables of knobs and settings are made here, those of published figures in results.py, and the
commands in docs/fair.sh by commands.py.
"""

import json
import re
from pathlib import Path

import bench
import compare
import evaluate
import export
import predict
import train_ae_classifier
from common import Augmentation
from docs import commands, results
from docs.results import code, table
from recipes import AutoencoderSettings, ClassifierSettings, ModelChoice, Settings, Training
from util.options import Part, as_typed, knob_of

ROOT = Path(__file__).resolve().parent.parent
KINDS = (ModelChoice, Training, train_ae_classifier.Options, Settings, AutoencoderSettings, ClassifierSettings)
KINDS += (compare.Options, evaluate.Options, export.Options, predict.Options, bench.Options)
OF_MAKE = {
    "FOLDS": "folds to train (unset: 1 2 3 4 5; of the documents' networks their one split)",
    "LAUNCH": 'a prefix of every training command, such as "srun --gres=gpu:1"',
    "GPU": "1: install TensorFlow's GPU build where make sees no driver, as on a cluster's login node",
    "PYTHON": "the python of an environment of your own, instead of .venv",
    "KERAS_BACKEND": "jax, with a PYTHON that has it (unset: tensorflow)",
}


def knobs():
    """Every knob of make, once."""
    fields = {}
    for kind in KINDS:
        for field in kind.model_fields.values():
            fields.setdefault(knob_of(field), field)
    rows = [(code(knob), default_of(field), field.description) for knob, field in fields.items() if knob]
    return table(("knob", "default", "what it is"), rows + [(code(knob), "", text) for knob, text in OF_MAKE.items()])


def settings():
    """Every setting that a CONFIG may give, once, but for those of a network's own."""
    fields = {}
    for kind in (Settings, AutoencoderSettings, ClassifierSettings):
        for name, field in kind.model_fields.items():
            if field.description:
                fields.setdefault(name, field)
    fields |= {f"augmentation.{name}": field for name, field in Augmentation.model_fields.items()}
    rows = [(code(name), code(knob_of(field)), default_of(field), field.description) for name, field in fields.items()]
    return table(("setting", "knob", "default", "what it is"), rows)


def default_of(field):
    default = field.default
    if isinstance(default, Part):
        default = default.model_dump(exclude_defaults=True)
        return code(json.dumps(default)) if default else ""
    return "" if field.is_required() or default in (None, "") or default is False else code(as_typed(default))


TABLES = {"knobs": knobs, "settings": settings, **results.TABLES}


def updated(text):
    """A document's text with every table in it as it is now."""
    for name, make in TABLES.items():
        between = rf"(?<=<!-- {name} -->\n).*?(?=<!-- /{name} -->)"
        text = re.sub(between, lambda _, make=make: f"{make()}\n", text, flags=re.DOTALL)
    return text


def documents():
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


if __name__ == "__main__":
    (ROOT / "docs/fair.sh").write_text(commands.fair(), encoding="utf-8")  # first: its end makes what the tables show
    for path in documents():
        path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
