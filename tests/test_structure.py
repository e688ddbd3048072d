"""The order of the house: who may import whom, that a knob is declared once."""

import ast
import subprocess

import pytest
from conftest import ROOT

FILES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.glob("*.py")}
FILES |= {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.glob("util/*.py")}
# Of the floors, from the ground up: each stands on those before it.
FLOORS = [
    {name for name in FILES if name.startswith("util.")},
    {"data"},
    {"common"},
    {"networks"},
    {"recipes"},
    {"runs"},
    {"training"},
    {"train_cnn", "train_autoencoder", "train_ae_classifier", "evaluate", "compare", "predict", "export", "bench"},
    {"report", "curve"},
]


def imported(path):
    """Names of the project's own files that one imports, `Later("name")` included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "Later":
            names |= {word.value for word in node.args if isinstance(word, ast.Constant)}
    return names & FILES.keys()


def test_every_file_has_its_floor():
    assert set.union(*FLOORS) == FILES.keys()


@pytest.mark.parametrize("floor", range(1, len(FLOORS)))
def test_nothing_imports_upwards_or_beside(floor):
    below = set.union(*FLOORS[:floor])
    for name in FLOORS[floor]:
        assert imported(FILES[name]) <= below, name


def test_util_imports_nothing_from_outside_and_has_no_circle():
    names = set(FLOORS[0])
    while names:
        free = {name for name in names if not imported(FILES[name]) & names}
        assert free, f"a circle among {names}"
        names -= free
    assert all(imported(FILES[name]) <= FLOORS[0] for name in FLOORS[0])


def test_imports_are_at_the_top():
    for name, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                inside = [one for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom)]
                assert not inside, f"{name}.{node.name} imports"


def test_what_the_makefile_says_of_a_knob_it_says_once():
    knobs = subprocess.run(["python3", "util/knobs.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    makefile = [line for line in (ROOT / "Makefile").read_text().splitlines() if not line.startswith("#")]
    for knob in ("EPOCHS", "BATCH", "KEEP", "REDUCED", "VAL", "SEED", "LR", "PATIENCE", "PRECISION", "CONFIG", "RUNS"):
        assert f"  {knob} " in knobs
        uses = [line for line in makefile if knob in line.split("##")[0] and not line.startswith(("DEMO", "\t@e"))]
        assert not uses, f"{knob} is declared in its settings alone"
