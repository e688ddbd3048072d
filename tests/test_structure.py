"""Promises of the design about who imports whom, and what an import does."""

import subprocess
import sys

from conftest import ROOT, imported

SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py") if '__name__ == "__main__"' in path.read_text())


def test_util_imports_nothing_from_outside_util():
    for path in ROOT.glob("util/*.py"):
        assert all(name.startswith("util/") for name in imported(path)), path


def test_nothing_imports_a_script():
    """But those that show what another one computes."""
    for path in ROOT.glob("*.py"):
        allowed = {"compare"} if path.stem in ("curve", "report") else set()
        assert imported(path) & set(SCRIPTS) <= allowed, path


def test_an_import_does_nothing_and_help_answers_without_tensorflow(tmp_path):
    """All that is printed is the help; nothing large is loaded, and no file is made."""
    code = "import importlib, sys\nfor name in sys.argv[1:]:\n"
    code += (
        "    try: importlib.import_module(name).main(['--help'])\n    except SystemExit as end: assert not end.code\n"
    )
    code += "assert not {'tensorflow', 'keras', 'jax'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", code, *SCRIPTS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: ") and done.stdout.count("usage: ") == len(SCRIPTS) >= 9
    assert not list(tmp_path.iterdir())
