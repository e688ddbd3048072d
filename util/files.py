"""Files that are there whole or not at all, read with care and written so that no kill, full disk or second process
harms what is there.
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import math
import os
import secrets
import shutil
import socket
import textwrap
import zipfile
from pathlib import Path

import numpy as np

from util.cli import InputError, RunFailed

# --- Reading ----------------------------------------------------------------------------------------------------------


def first_line(error):
    """What an error says, in one line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def reading(what, remedy):
    """Whatever goes wrong inside, while a file is read, is an InputError: `what` (the reason): `remedy`.

    A damaged or hostile file makes zip, numpy, JSON and Keras raise anything, MemoryError and RecursionError included.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # The bottom says what is wrong, which Keras passes on with advice and whole models; but of JSON the top does.
        while error.__context__ and not isinstance(error, json.JSONDecodeError):
            error = error.__context__
        reason = textwrap.shorten(first_line(error).split(". ")[0], 200, placeholder=" ...")
        raise InputError(f"{what} ({reason}): {remedy}") from None


def sha256(*arrays):
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def file_sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MOST_BYTES = 2**31  # that a compressed file may unpack to: twelve times CIFAR-10


@contextlib.contextmanager
def open_zip(path):
    """A .npz or .keras as a zipfile. Raises ValueError where it claims to unpack to more than it and MOST_BYTES are."""
    with zipfile.ZipFile(path) as file:
        claimed = sum(member.file_size for member in file.infolist())
        most = max(MOST_BYTES, os.path.getsize(path))
        if claimed > most:
            raise ValueError(f"it unpacks to {claimed:,} bytes, and {most:,} are the most that is read")
        yield file


def array_header(file, name):
    """(shape, bytes that the header claims, bytes that are there) of an array in an open .npz, without reading it.

    Raises ValueError where it is a pickled one.
    """
    member = file.getinfo(f"{name}.npy")
    with file.open(member) as content:
        version = np.lib.format.read_magic(content)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(content)
        if dtype.hasobject:
            raise ValueError(f"{name} holds Python objects, which are never loaded")
        return shape, math.prod(shape) * dtype.itemsize, member.file_size - content.tell()


def read_array(file, name):
    """An array of an open .npz. Raises ValueError where it is pickled or not whole."""
    _, claimed, found = array_header(file, name)
    if claimed != found:  # more would take memory for nothing, fewer leave the zip's own checksum unread
        raise ValueError(f"{name} claims {claimed:,} bytes and holds {found:,}")
    with file.open(f"{name}.npy") as content:
        return np.lib.format.read_array(content, allow_pickle=False)


def read_arrays(path):
    """{name: array} of a file that commit_arrays wrote. Raises ValueError, among others, where it is not as written."""
    with open_zip(path) as file:
        names = [name.removesuffix(".npy") for name in file.namelist()]
        arrays = {name: read_array(file, name) for name in names}
    if arrays.pop("sha256", None) != sha256(*arrays.values()):
        raise ValueError("its content does not match its checksum")
    return arrays


# --- Writing ----------------------------------------------------------------------------------------------------------


def commit(path, write):
    """Write a file so that it is there whole or not at all: `write(neighbour)`, to the disk, then rename.

    The neighbour is locked while its writer lives; one that is not is what a kill left, and is removed by the next
    writer of the same file. Raises RunFailed where writing is not possible.
    """
    path = Path(path)
    # Ends like the file: Keras saves by the ending.
    neighbour = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{glob.escape(path.stem)}.*.part{glob.escape(path.suffix)}"):
            with contextlib.suppress(OSError), open(left, "rb+") as file:  # in use, or no locks here
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                left.unlink()
        with open(neighbour, "wb") as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            write(neighbour)
            sync(neighbour)
            os.replace(neighbour, path)
        with contextlib.suppress(OSError):  # not every file system can do this
            sync(path.parent)
    except OSError as error:
        raise RunFailed(f"{path} cannot be written ({error.strerror or error}); mend that and repeat") from None
    finally:
        with contextlib.suppress(OSError):
            neighbour.unlink(missing_ok=True)


def commit_folder(path, write):
    """Write a folder that is not there yet, as `commit` writes a file: whole or not at all."""
    neighbour = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        for left in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
            with contextlib.suppress(OSError), locked_folder(left):
                shutil.rmtree(left)
        neighbour.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # no locks here
                stack.enter_context(locked_folder(neighbour))
            write(neighbour)
            for inside in [*neighbour.rglob("*"), neighbour]:
                sync(inside)
            os.rename(neighbour, path)
        with contextlib.suppress(OSError):
            sync(path.parent)
    except OSError as error:
        raise RunFailed(f"{path} cannot be written ({error.strerror or error}); mend that and repeat") from None
    finally:
        shutil.rmtree(neighbour, ignore_errors=True)


@contextlib.contextmanager
def locked_folder(path):
    """Hold a folder's lock; where another process holds it, or there are no locks, raise OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def sync(path):
    """Have a file, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit_text(path, text):
    commit(path, lambda file: file.write_text(text, encoding="utf-8"))


def commit_json(path, content):
    commit_text(path, json.dumps(content, indent=1) + "\n")


def commit_arrays(path, **arrays):
    arrays = {name: np.asarray(array) for name, array in arrays.items()}

    def write(neighbour):
        with open(neighbour, "wb") as file:  # given a name, savez would add .npz to it
            np.savez(file, **arrays, sha256=sha256(*arrays.values()))

    commit(path, write)


@contextlib.contextmanager
def file_lock(path, busy=None):
    """Hold a lock that dies with its owner, where one can be had; where another holds it, call `busy(who)`, then wait.

    It cannot be had on a file system without locks, as some clusters have, nor beside files that others may only read.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+"))
        except OSError:
            try:
                file = stack.enter_context(open(path))  # another user's, which can be locked all the same
            except OSError:
                file = None
        try:
            if file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy:
                busy(file.read().strip() or "unknown")
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass
        if file and file.writable():
            file.seek(0)
            file.truncate()
            file.write(f"{os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def lock_owner(path):
    """Who holds a file_lock now, or None; for an instant it is held here, so that nobody else can."""
    try:
        with open(path, errors="replace") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except OSError:  # no such file, or no locks here
        pass
    return None


def require_writable(folder):
    """Raise RunFailed where nothing can be written into a folder: said before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".{secrets.token_hex(4)}.part"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFailed(f"{folder} cannot be written to ({error.strerror}); mend that and repeat") from None
