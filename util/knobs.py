"""The knobs and settings that the scripts declare, read from their source: make needs them before there are packages.

`python3 util/knobs.py` prints what `make help` shows; with `knobs`, the table of the README, with `settings` that of
docs/networks.md. Standard library only.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OF_MAKE = {
    "FOLDS": "folds to train (default: 1 2 3 4 5; of an ARCH but fast its one split)",
    "LAUNCH": 'a prefix of every training command, such as "srun --gres=gpu:1"',
    "GPU": "1: install TensorFlow's GPU build where make sees no driver, as on a cluster's login node",
    "PYTHON": "the python of an environment of your own, instead of .venv",
    "KERAS_BACKEND": "jax, with a PYTHON that has it (default: tensorflow)",
}
WITHIN = {"Augmentation": "augmentation."}  # how a CONFIG names the fields of a setting that is a dictionary


def declared(root=ROOT):
    """[(class, field, default as it is typed, text, knob or None)] of each field that a `setting` declares."""
    found = []
    for path in sorted(root.glob("*.py"), key=lambda path: (path.name != "recipes.py", path.name)):
        for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for line in kind.body if isinstance(kind, ast.ClassDef) else ():
                call = getattr(line, "value", None)
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "setting":
                    knob = next((word.value.value for word in call.keywords if word.arg == "knob"), None)
                    default, text = call.args
                    found.append((kind.name, line.target.id, as_typed(default), text.value, knob))
    return found


def as_typed(default):
    """The source of a default as a user would type it; '' for one that is not set."""
    try:
        value = ast.literal_eval(default)
    except ValueError:
        return ast.unparse(default) if getattr(default, "keywords", True) else ""
    if value in (None, "", ...) or value is False:
        return ""
    return ",".join(map(str, value)) if isinstance(value, list) else "true" if value is True else str(value)


def rows():
    """(knob or '', its name in a CONFIG or '', default, text) of each knob and setting, once."""
    seen = set()
    for kind, field, default, text, knob in declared():
        name = f"{WITHIN.get(kind, '')}{field}" if kind.endswith("Settings") or kind in WITHIN else ""
        if (knob or name) and (not knob or knob not in seen):
            yield knob or "", name, default, text
        seen.add(knob)
    yield from ((knob, "", "", text) for knob, text in OF_MAKE.items())


def for_help():
    for knob, _, default, text in rows():
        if knob:
            print(f"  {knob:<10} {text}{default and f' (default: {default})'}")


def table(first, of):
    """Print the Markdown table of those rows whose first word there is, as `of` puts them."""
    print(f"| {first} | default | what it is |\n|{'---|' * (first.count('|') + 3)}")
    for *words, text in map(of, rows()):
        if words[0]:
            print("|", " | ".join([*(word and f"`{word}`" for word in words), text]), "|")


if __name__ == "__main__":
    if sys.argv[1:] == ["knobs"]:
        table("knob", lambda row: (row[0], *row[2:]))
    elif sys.argv[1:] == ["settings"]:
        table("setting | knob", lambda row: (row[1], row[0], *row[2:]))
    else:
        for_help()
