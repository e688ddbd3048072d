"""What nobody needs to read: command line, files, hardware, faster layers, plots. Imports nothing from outside.

The first that a script imports, so that one sentence says what the Python lacks that it runs in: PYTHON=... may be any.
"""

import importlib.util
import os
import sys


def refuse(reason):
    print(f"{os.path.basename(sys.argv[0])}: {reason}", file=sys.stderr)
    sys.exit(2)


if sys.version_info < (3, 11):  # noqa: UP036
    refuse(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
for package in ("numpy", "pydantic"):
    if not importlib.util.find_spec(package):
        refuse(
            f"this environment cannot be used (No module named {package!r}): install requirements.txt into it, or let "
            "make choose its own"
        )
