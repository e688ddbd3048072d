"""The order of the house: who may import whom."""

import ast

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
    {"kernels", "optimizers", "resume"},
    {"training_model"},
    {"training"},
    {"train_cnn", "train_autoencoder", "train_ae_classifier", "evaluate", "compare", "predict", "export", "bench"},
    {"report", "curve"},
]


def imported(path):
    """Names of the project's own files that one imports, those of `Later` included."""
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
