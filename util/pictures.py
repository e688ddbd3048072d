"""Pictures out of files, read with care."""

import glob
import os
import pickle
import shlex
import tarfile
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from util.backend import Later
from util.cli import InputError
from util.files import array_header, open_zip, read_array, reading


def read_cifar10(archive):
    """(train, test), each (uint8 pictures (n, 32, 32, 3), labels (n,)), of CIFAR-10's archive of pickled batches.

    A pickle can run any code: the archive's SHA-256 has to be known before.
    """
    parts = ([f"data_batch_{number}" for number in range(1, 6)], ["test_batch"])
    with tarfile.open(archive) as file:
        batches = [
            [pickle.load(file.extractfile(f"cifar-10-batches-py/{name}"), encoding="bytes") for name in names]
            for names in parts
        ]
    return [
        (
            np.ascontiguousarray(
                np.concatenate([batch[b"data"] for batch in part]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            ),
            np.concatenate([batch[b"labels"] for batch in part]).astype(np.int64),
        )
        for part in batches
    ]


tqdm = Later("tqdm")
PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")  # files of theirs are read, of a gif its first frame


def read_picture(path, size):
    """A picture of any size and kind as uint8 (height, width, 3): upright, cut to `size`'s shape about its centre.

    Made smaller with antialiasing; what it leaves transparent is white. Raises whatever Pillow does.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I"):  # 16 bits of grey, of which Pillow's convert would keep the dark ones
            picture = Image.fromarray((np.asarray(picture) / 65535 * 255 + 0.5).clip(0, 255).astype(np.uint8))
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        fitted = ImageOps.fit(picture.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(fitted)


def pictures_in(folder):
    """Paths of the pictures in a folder and its folders, in order; hidden ones are left out."""
    paths = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in PICTURES and path.is_file())
    return [path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def named_pictures(text):
    """Paths of the pictures that IMAGE names, each once: files, those in folders, what patterns fit. Raises InputError.

    A text that is a file's name is that file, whatever spaces, quotes or brackets it has.
    """
    try:
        words = [text] if os.path.exists(text) else [os.path.expanduser(word) for word in shlex.split(text)]
    except ValueError as error:
        raise InputError(f"IMAGE: {text!r} is no list of names ({error}); quote those that have a space") from None
    found = {}
    for word in words:
        matches = [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True))
        inside = [pictures_in(match) if os.path.isdir(match) else [Path(match)] for match in matches]
        found[word] = [path for paths in inside for path in paths if path.is_file()]
    missing = [in_words(word) for word, paths in found.items() if not paths]
    if missing or not found:
        raise InputError(
            f"IMAGE: there is no picture {', '.join(missing)}; name files, folders with {', '.join(PICTURES)} in them, "
            "or patterns such as photos/*.png"
        )
    return list(dict.fromkeys(path for paths in found.values() for path in paths))


def in_words(path):
    """A path as a terminal can show it."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def read_pictures(paths, size):
    """(Pictures by read_picture as uint8 (n, *size, 3), the paths of those that cannot be read); a terminal sees a bar.

    So small that a hundred thousand fit into memory, and of the files themselves one is in it at a time.
    """
    images, unreadable = np.zeros((len(paths), *size, 3), np.uint8), []
    for number, path in enumerate(tqdm.tqdm(paths, "reading", leave=False, disable=None, unit=" pictures")):
        try:
            with warnings.catch_warnings(action="ignore"):
                images[number] = read_picture(path, size)
        except Exception:  # a damaged file makes Pillow raise anything
            unreadable.append(path)
    return images, unreadable


def read_npz(path, part, shape, class_names):
    """One part of a .npz, as (images, labels, class names, numbers of training and test images as (n,)).

    It holds x_train, y_train, x_test, y_test: uint8 pictures of `shape`, labels from 0, and maybe class_names.
    Raises InputError, naming what is wrong.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"there is no file {path!r}; give DATA the path of a .npz, or digits")
    with (
        reading(f"{path!r} cannot be read as a .npz of plain arrays", "save it anew with numpy.savez"),
        open_zip(path) as file,
    ):
        members = file.namelist()
        missing = [name for name in ("x_test", "x_train", "y_test", "y_train") if f"{name}.npy" not in members]
        if missing:
            raise InputError(f"{path!r} lacks {', '.join(missing)}; give DATA a .npz with all four arrays")
        # Of the other part only the header is read: training never sees the test pictures.
        sizes = [array_header(file, f"x_{name}")[0][:1] for name in ("train", "test")]
        names = read_array(file, "class_names") if "class_names.npy" in members else np.array(class_names)
        images, labels = read_array(file, f"x_{part}"), read_array(file, f"y_{part}")

    words = names.ndim == 1 and names.dtype.kind == "U" and len(names) <= 1000 and names.itemsize <= 400
    names = tuple(names.tolist()) if words else ()
    if not names or not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"class_names in {path!r} must be different words, one for each class: "
            "at most 1,000, of at most 100 printable letters"
        )
    if images.dtype != np.uint8 or images.shape[1:] != shape:
        raise InputError(
            f"x_{part} in {path!r} is {images.dtype} of shape {images.shape}; it must be uint8 of shape "
            f"(n, {', '.join(map(str, shape))})"
        )
    if labels.shape not in ((len(images),), (len(images), 1)) or labels.dtype.kind not in "iu":
        raise InputError(
            f"y_{part} in {path!r} is {labels.dtype} of shape {labels.shape}; it must be {len(images)} whole numbers"
        )
    labels = labels.reshape(-1).astype(np.int64)
    if len(labels) == 0 or labels.min() < 0 or labels.max() >= len(names):
        raise InputError(f"y_{part} in {path!r} must hold labels 0 to {len(names) - 1}, one of each image")
    absent = np.setdiff1d(np.arange(len(names)), labels)
    if part == "train" and len(absent):
        raise InputError(
            f"y_train in {path!r} has no image of class {absent[0]} ({names[absent[0]]}): "
            "add some, or class_names without it"
        )
    return images, labels, names, sizes
