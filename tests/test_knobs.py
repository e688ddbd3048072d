"""Knobs and settings are declared once: what make reads of the sources is what the scripts are made of."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, copy_project, make

import bench
import common
import compare
import curve
import evaluate
import export
import predict
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from util import knobs
from util.settings import Part, knob_of

MODULES = (
    recipes,
    common,
    evaluate,
    compare,
    curve,
    predict,
    export,
    train_cnn,
    train_autoencoder,
    train_ae_classifier,
    bench,
)
BY_KNOB = {knob: text for *_, text, knob in reversed(knobs.declared()) if knob}  # of equal knobs the first


def settings_of(module):
    """(class, field, the field) of each that a class of the module declares by `setting`, in order."""
    for name, kind in vars(module).items():
        if (
            isinstance(kind, type)
            and issubclass(kind, Part)
            and (kind.__module__, name) == (module.__name__, kind.__name__)
        ):
            for key in kind.__annotations__:
                field = kind.model_fields.get(key)
                if field and field.json_schema_extra and key != "fold":  # make's FOLDS are folds
                    yield name, key, field


def as_typed(field):
    """A default as make shows it; a number or a Part stays as it is."""
    if field.is_required() or field.default in (None, "") or field.default is False or field.default == Part():
        return ""
    return {True: "true"}.get(field.default) if isinstance(field.default, bool) else field.default


def test_what_make_reads_is_what_the_models_declare():
    declared = [line for module in MODULES for line in settings_of(module)]
    found = {(kind, name, text, knob): default for kind, name, default, text, knob in knobs.declared()}
    assert len(declared) == len(found) > 40
    assert found.keys() == {(kind, name, field.description, knob_of(field)) for kind, name, field in declared}
    for kind, name, field in declared:
        default, expected = found[kind, name, field.description, knob_of(field)], as_typed(field)
        if isinstance(expected, list):
            assert default == ",".join(expected)
        elif isinstance(expected, str):
            assert default == expected
        else:
            value = eval(default, {**vars(common)})
            assert (value, type(value)) == (expected, type(expected))


def test_each_module_s_settings_are_read():
    kinds = {kind for kind, *_ in knobs.declared()}
    assert kinds >= {
        "Choice",
        "AutoencoderChoice",
        "ClassifierChoice",
        "Training",
        "Settings",
        "Augmentation",
        "Options",
    }
    assert kinds >= {"AutoencoderSettings", "CaeEncoder", "CaeAutoencoder", "CaeClassifier"}
    every = {path.stem for path in ROOT.glob("*.py") if re.search(r"\bsetting\(", path.read_text(encoding="utf-8"))}
    assert every <= {module.__name__ for module in MODULES}


def test_the_makefile_knows_the_same_knobs():
    result = make(ROOT, "NOUAG=1", python=None)
    assert result.returncode == 2
    known = re.fullmatch(r".*there is no knob NOUAG; the knobs are ([A-Z_ ]+)\.  Stop\.\n", result.stderr)[1].split()
    assert known == sorted(BY_KNOB.keys() | knobs.OF_MAKE.keys())


def test_a_knob_of_several_scripts_is_one_thing_in_each():
    """make hands EPOCHS on to whatever script a target runs: NAME of a comparison and BATCH of an evaluation, too."""
    several = {}
    for kind, name, *_, knob in knobs.declared():
        if knob:
            several.setdefault(knob, set()).add((kind, name))
    assert {knob: where for knob, where in several.items() if len(where) > 1} == {
        "ARCH": {("Choice", "arch"), ("Options", "arch")},
        "DATA": {("Choice", "data"), ("Options", "data")},
        "NAME": {("Choice", "name"), ("Options", "name")},
        "BATCH": {("Settings", "batch_size"), ("Options", "batch_size")},
    }


def table(*words, folder=ROOT):
    """What util/knobs.py prints in a Python without packages, called from elsewhere."""
    command = [sys.executable, "-I", "-S", str(folder / "util/knobs.py"), *words]
    result = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=60, check=True)
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_table_of_knobs_names_every_knob_once_and_needs_no_packages():
    lines = table()
    assert [re.match(r"  ([A-Z_]+) +\S", line)[1] for line in lines] == [
        *dict.fromkeys(knob for *_, knob in knobs.declared() if knob),
        *knobs.OF_MAKE,
    ]
    words = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}
    for knob, text in BY_KNOB.items():
        assert words[knob].startswith(text)
    assert words["EPOCHS"] == "epochs at most; of the autoencoder 100 (default: 30)"
    assert words["LR"].endswith(" (default: 0.001)")
    assert words["TARGET"].endswith(" (default: augmented)")
    assert not any(
        "default:" in words[knob] for knob in ("NOAUG", "FORCE", "KEEP", "REDUCED", "ARCH", "CONFIG", "MODEL")
    )


def cells_of(which, head, line):
    first, second, *rows = table(which)
    assert (first, second) == (head, line)
    assert {row.count("|") for row in rows} == {line.count("|")}
    cells = [[cell.strip(" `") for cell in row.split("|")[1:-1]] for row in rows]
    assert all(row[0] and row[-1] for row in cells)
    return cells


def test_table_of_the_readme_names_every_knob_once():
    cells = cells_of("knobs", "| knob | default | what it is |", "|---|---|---|")
    assert [row[0] for row in cells] == [line.split()[0] for line in table()]


def test_table_of_settings_names_every_setting_once():
    cells = cells_of("settings", "| setting | knob | default | what it is |", "|---|---|---|---|")
    settings = {name for name, field in recipes.Settings.model_fields.items() if field.json_schema_extra}
    augmentation = {f"augmentation.{name}" for name in common.Augmentation.model_fields}
    assert sorted(row[0] for row in cells) == sorted(settings | augmentation | {"loss"})  # that of an autoencoder


@pytest.mark.parametrize(
    ("path", "before"), [("recipes.py", "    sha256: str | None = "), ("evaluate.py", "    batch_size: int = ")]
)
def test_a_new_knob_is_declared_in_one_place(tmp_path, path, before):
    folder = copy_project(tmp_path / "project")
    source = (folder / path).read_text(encoding="utf-8")
    assert source.count(before) == 1
    line = '    extra: int = setting(3, "of one\'s own", knob="EXTRA", ge=1)\n'
    (folder / path).write_text(source.replace(before, line + before), encoding="utf-8")
    assert "  EXTRA      of one's own (default: 3)" in table(folder=folder)
    target = ["cnn", "FOLDS=1"] if path == "recipes.py" else ["test-eval", "MODEL=cnn"]
    assert 'EXTRA="$EXTRA"' in make(folder, "-n", *target, "EXTRA=5").stdout
    result = make(folder, *target, "EXTRA=0")
    assert result.returncode == 2
    script = "train_cnn.py" if path == "recipes.py" else path
    sentence = f"{script}: EXTRA: '0' is not a whole number, at least 1; {script} --help lists the options"
    assert result.stderr.splitlines()[0] == sentence
