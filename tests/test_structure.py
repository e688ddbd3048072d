"""Promises of the design about who imports whom."""

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
