"""Files that are there whole or not at all, locks, checksums, and reading that refuses damaged files."""

import contextlib
import hashlib
import json
import math
import os
import secrets
import struct
import textwrap
import tokenize
import zipfile
import zlib
from pathlib import Path

import filelock
import numpy as np

from util.cli import InputError, RunFailed

# --- Reading ----------------------------------------------------------------------------------------------------------

# What a damaged or foreign file makes zipfile, numpy, json and Pillow raise. A TypeError or a KeyError, say, is a bug.
DAMAGE = (OSError, EOFError, ValueError, RuntimeError, OverflowError, MemoryError, SyntaxError)
DAMAGE += (zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError)


def first_line(error):
    """The first line of an error's message; the error's type where it has no message."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def reading(what, remedy, *more):
    """While a file is read: an error that a damaged file can cause becomes an InputError, `what` (reason): `remedy`.

    `more` are kinds of errors that only this file's reader raises.
    """
    try:
        yield
    except (*DAMAGE, *more) as error:
        raise InputError(f"{what} ({textwrap.shorten(first_line(error), 200, placeholder=' ...')}): {remedy}") from None


def sha256(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_arrays(path):
    """{name: array} of a file that write_arrays wrote. Raises ValueError, among others, where it is damaged."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    if arrays.pop("sha256", None) != sha256(*arrays.values()):
        raise ValueError("its content does not match its checksum")
    return arrays


# --- Writing ----------------------------------------------------------------------------------------------------------


def write_atomically(path, write):
    """Write a file so that it is there whole or not at all: `write(part)` beside it, to the disk, then rename.

    Raises RunFailed where that is not possible.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")  # Keras saves by the ending
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        sync(part)
        os.replace(part, path)
        with contextlib.suppress(OSError):  # not every file system can do this
            sync(path.parent)
    except OSError as error:
        raise RunFailed(f"{path} cannot be written ({error.strerror or error}); mend that and repeat") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def sync(path):
    """Have a file, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path, text):
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def strict(content):
    """`content` as JSON can hold it: null in place of numbers that are not finite."""
    if isinstance(content, dict):
        return {key: strict(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [strict(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def write_json(path, content):
    write_text(path, json.dumps(strict(content), indent=1, allow_nan=False) + "\n")


def write_arrays(path, **arrays):
    """Write a .npz of these arrays and their checksum."""
    arrays = {name: np.asarray(array) for name, array in arrays.items()}

    def write(part):
        with open(part, "wb") as file:  # given a name, savez would add .npz to it
            np.savez(file, **arrays, sha256=sha256(*arrays.values()))

    write_atomically(path, write)


def require_writable(folder):
    """Raise RunFailed where nothing can be written into a folder: said before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFailed(f"{folder} cannot be written to ({error.strerror}); mend that and repeat") from None


@contextlib.contextmanager
def locked(path, busy=lambda: None):
    """Hold a lock that ends with its process; where another process holds it, call `busy()`, then wait.

    Gives the block whether the lock is held: some file systems have no locks, and some may only be read.
    """
    lock = filelock.FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            busy()
            lock.acquire()
    except OSError as error:
        print(f"note: {path} cannot be locked ({error.strerror or error}): start no second process beside this one")
    try:
        yield lock.is_locked
    finally:
        lock.release()
