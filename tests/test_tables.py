"""A knob is declared once, in a script's options or settings: make, its help and the documents have the same ones."""

import re
import subprocess

import pytest
from conftest import ROOT, make

import bench
import compare
import curve
import evaluate
import export
import predict
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from docs import commands, tables
from util.options import knob_of, option_of

MAKEFILE = (ROOT / "Makefile").read_text()
SCRIPTS = {  # target: (options, settings of its script)
    "cnn": (train_cnn.Options, recipes.Settings),
    "ae": (train_autoencoder.Options, recipes.AutoencoderSettings),
    "ae_cls": (train_ae_classifier.Options, recipes.ClassifierSettings),
    "test-eval": (evaluate.Options,),
    "compare": (compare.Options,),
    "curve": (curve.Options,),
    "predict": (predict.Options,),
    "export": (export.Options,),
    "bench": (bench.Options,),
}


def knobs_of(kinds):
    """{knob: option} of a script."""
    fields = [pair for kind in kinds for pair in kind.model_fields.items()]
    return {knob_of(field): option_of(name) for name, field in fields if knob_of(field)}


@pytest.mark.parametrize("target", SCRIPTS)
def test_make_hands_each_script_its_own_knobs(target):
    knobs = knobs_of(SCRIPTS[target])
    shown = make(ROOT, "-n", target, *(f"{knob}=1" for knob in knobs))
    assert shown.returncode == 0, shown.stderr
    script = next(line for line in shown.stdout.splitlines() if ".py" in line and "--if-missing" not in line)
    assert set(re.findall(r"--[a-z-]+(?= '1')", script)) == set(knobs.values())
    others = {knob for kinds in SCRIPTS.values() for knob in knobs_of(kinds)} - knobs.keys()
    others -= {"VIEWS"}  # of the evaluation that follows
    for knob in others:
        result = make(ROOT, "-n", target, f"{knob}=1")
        assert result.returncode == 2 and knob in result.stderr and result.stdout == ""


def test_the_tables_of_the_documents_are_those_of_the_code():
    for path in tables.documents():
        text = path.read_text(encoding="utf-8")
        assert text == tables.updated(text), f"{path.name} is out of date: run `make docs`"
    assert (ROOT / "docs/fair.sh").read_text(encoding="utf-8") == commands.fair()


def test_help_names_every_target_and_knob_where_no_package_is_installed(tmp_path):
    for program in ("make", "awk", "sh", "echo", "seq"):
        (tmp_path / program).symlink_to(f"/usr/bin/{program}")
    result = subprocess.run(["make"], cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    listed = re.findall(r"^  ([\w-]+)", result.stdout, re.MULTILINE)
    targets = re.findall(r"^([\w-]+):.*## ", MAKEFILE, re.MULTILINE)
    knobs = {knob for kinds in SCRIPTS.values() for knob in knobs_of(kinds)} | tables.OF_MAKE.keys()
    assert sorted(listed) == sorted([*targets, *knobs])
