"""Where pictures come from: CIFAR-10, scikit-learn's digits, a .npz or a folder of one's own; how a picture is read."""

import contextlib
import dataclasses
import functools
import glob
import os
import pickle
import re
import shlex
import tarfile
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from util.backend import Later, keras, keras_home
from util.cli import InputError, RunFailed
from util.files import file_sha256, first_line, locked, open_arrays, read_arrays, reading, sha256, write_arrays

Image, ImageOps, tqdm = map(Later, ("PIL.Image", "PIL.ImageOps", "tqdm"))
datasets, model_selection, transform = map(Later, ("sklearn.datasets", "sklearn.model_selection", "skimage.transform"))

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_CLASSES = tuple("0123456789")
HALVED = (2, 4, 9)  # of these two; of other pictures, what REDUCED says
IMAGE_SHAPE = (32, 32, 3)


@dataclasses.dataclass
class Images:
    """Pictures of one part of a data set: images (n, 32, 32, 3) uint8, labels (n,) integers."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    prefix: str  # of the names of runs
    source: str
    halved: tuple  # classes of which images are left out where REDUCED is unset

    @functools.cached_property
    def sha256(self):
        return sha256(self.images, self.labels)


def load_data(data=None, part="train"):
    """Load one part ('train' or 'test') of what DATA names: the first of SOURCES that fits it.

    Raises InputError where the pictures cannot be had; never falls back to others.
    """
    images, labels, names, prefix = source_of(data).load(data, part)
    halved = HALVED if names == CIFAR10_CLASSES or source_of(data).load is load_digits else ()
    return Images(images, labels, names, prefix, Path(os.path.abspath(data)).name if data else "cifar10", halved)


# A loader takes DATA and the part, and returns (images, labels, class names, prefix of the names of runs).


def load_cifar10(data, part):
    """CIFAR-10 by way of Keras, which downloads it once, checks its SHA-256 and keeps it for all programs."""
    return *fetch_cifar10()[0 if part == "train" else 1], CIFAR10_CLASSES, ""


def load_digits(data, part):
    """scikit-learn's 1,797 handwritten digits as 32x32 colour pictures; a stratified tenth is the test set."""
    digits = datasets.load_digits()
    rows = held_out_tenth(digits.target, part)
    small = digits.images[rows] / 16
    grey = np.stack([transform.resize(one, IMAGE_SHAPE[:2], order=1, mode="edge") for one in small])
    images = np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return images, digits.target[rows].astype(np.int64), DIGITS_CLASSES, "digits"


def held_out_tenth(labels, part):
    """Indices of 'train' or 'test' where a data set has no test part: a stratified tenth, the same for every seed."""
    try:
        rows = model_selection.train_test_split(np.arange(len(labels)), test_size=0.1, stratify=labels, random_state=0)
    except ValueError as error:
        raise InputError(f"a tenth cannot be held out as test pictures ({error}): give more of them") from None
    return np.sort(rows[0] if part == "train" else rows[1])


def load_npz(path, part):
    """One part of a .npz with x_train, y_train, x_test, y_test (uint8 n x 32 x 32 x 3; 0-9) and maybe class_names."""
    images, labels, names, sizes = read_npz(path, part, IMAGE_SHAPE, CIFAR10_CLASSES)
    cifar10 = sizes == [(50_000,), (10_000,)] and names == CIFAR10_CLASSES
    return images, labels, names, "" if cifar10 else data_prefix(path)


def load_folder(path, part):
    """One part of a folder of pictures, cut and shrunk to 32x32; without a test folder, a stratified tenth is it."""
    arrays, names = read_folder(path, IMAGE_SHAPE[:2])
    there = part if "x_test" in arrays else "train"
    rows = slice(None) if "x_test" in arrays else held_out_tenth(arrays["y_train"], part)
    return arrays[f"x_{there}"][rows], arrays[f"y_{there}"][rows], names, data_prefix(path)


def data_prefix(path):
    """What the names of runs on own pictures begin with: the file's stem, as far as it is fit for a file's name."""
    path = os.path.abspath(path)  # of `.`, too
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", Path(path).stem).strip("-").lower()[:40] or "data"
    return "mod-data" if prefix == "mod" else prefix  # mod_autoencoder_cls is a model's name


# A mirrored or half turned digit is another, or none.
DIGITS_AUGMENTATION = {"rotation": 10, "shift": 0.1, "shear": 0.2, "zoom": 0.1}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from: whether it `fits` a DATA, its loader, and the augmentation that its pictures bear."""

    fits: Callable
    load: Callable
    augmentation: dict | None = None  # None: that of the recipe


SOURCES = (
    Source(lambda data: data is None, load_cifar10),
    Source(lambda data: data == "digits", load_digits, DIGITS_AUGMENTATION),
    Source(os.path.isdir, load_folder),
    Source(lambda data: True, load_npz),
)


def source_of(data):
    return next(source for source in SOURCES if source.fits(data))


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------

CIFAR10_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@functools.cache
def fetch_cifar10():
    """(train, test), each (images, labels): out of Keras's archive, which is downloaded where it is not there yet."""
    home = keras_home() / "datasets"
    archive = home / "cifar-10-batches-py-target_archive"  # where Keras puts it
    there = archive.is_file()
    try:
        if not there or file_sha256(archive) != CIFAR10_SHA256:
            with locked(home / ".cifar10.lock"):  # one process downloads it for all
                archive = keras.utils.get_file(archive.name, CIFAR10_ADDRESS, file_hash=CIFAR10_SHA256)
        return read_cifar10(archive)
    except Exception as error:  # Keras raises a bare Exception for a failed download
        wrong = f"{archive} is another file; " if there else ""
        raise InputError(
            f"CIFAR-10 cannot be had from {home} nor downloaded ({wrong}{first_line(error)}): connect and repeat, "
            f"or save cifar-10-python.tar.gz as {archive}, "
            "or give pictures of your own with DATA=file.npz, or try `make demo`, which needs no download"
        ) from None


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


# --- One picture -----------------------------------------------------------------------------------------------------

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
    """Pictures as uint8 (n, *size, 3), read side by side. Raises InputError, naming all that cannot be read."""

    def read(path):
        try:
            return read_picture(path, size)
        except Exception as error:  # a damaged file makes Pillow raise anything
            return error

    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        found = list(with_progress(pool.map(read, paths), len(paths), "reading pictures"))
    bad = [
        f"{in_words(path)} ({first_line(one)})"
        for path, one in zip(paths, found, strict=True)
        if isinstance(one, Exception)
    ]
    if bad:
        raise InputError(
            f"{len(bad)} of {len(paths):,} pictures cannot be read; mend or remove "
            f"{'it' if len(bad) == 1 else 'them'}: {', '.join(bad)}"
        )
    return np.stack(found)


def with_progress(items, count, what):
    """The items, with a bar on a terminal while they are taken."""
    return tqdm.tqdm(items, what, count, disable=None, leave=False, unit="")


# --- A folder --------------------------------------------------------------------------------------------------------


@functools.cache
def read_folder(path, size):
    """Pictures in `path`/train/<class> and `path`/test/<class>, or in `path`/<class> alone.

    Returns {"x_train", "y_train" and, where there is a test folder, "x_test", "y_test": arrays} and the classes' names
    in alphabetical order. Prints what a user may want to know; raises InputError, naming what is wrong.
    """
    root = Path(path)
    train = root / "train" if (root / "train").is_dir() else root
    parts = {"train": train} | ({"test": root / "test"} if train != root and (root / "test").is_dir() else {})
    names = tuple(sorted(folder.name for folder in visible(train) if folder.is_dir()))
    if len(names) < 2:
        raise InputError(
            f"{str(train)!r} holds {len(names)} folders of pictures; give DATA a folder with one for each class, "
            "two at least, as train/<class> or <class>"
        )
    if odd := [name for name in names if not name.isprintable()]:
        raise InputError(f"the class {in_words(train / odd[0])} has a name that cannot be printed; rename the folder")
    files, others = {}, 0
    for part, folder in parts.items():
        if strange := sorted({one.name for one in visible(folder) if one.is_dir()} - {*names}):
            raise InputError(f"{folder / strange[0]} is of a class that {train} does not have; mend or remove it")
        for label, name in enumerate(names):
            there = [one for one in visible(folder / name) if one.is_file()] if (folder / name).is_dir() else []
            pictures = [one for one in there if one.suffix.lower() in PICTURES]
            others += len(there) - len(pictures)
            files |= {one: (part, label) for one in pictures}
            if part == "train" and not pictures:
                raise InputError(f"{folder / name} holds no pictures ({', '.join(PICTURES)}); add some, or remove it")
    arrays = read_cached(files, root, size)
    if others:
        print(f"note: {others} files in {path} are no pictures ({', '.join(PICTURES)}), and are left out")
    if "x_test" not in arrays:
        print(f"note: {path} has no test pictures of its own, so a tenth of each class is held out for the test")
        return arrays, names
    known = {picture.tobytes() for picture in arrays["x_train"]}
    double = sum(picture.tobytes() in known for picture in arrays["x_test"])
    if double:
        print(f"note: {double} of the {len(arrays['x_test'])} test pictures in {path} are training pictures, too")
    return arrays, names


def visible(folder):
    """What is in a folder, in the order of its names, but for hidden files such as .DS_Store."""
    return sorted(one for one in folder.iterdir() if not one.name.startswith("."))


def read_cached(files, root, size):
    """The arrays of {file: (part, label)}: out of Keras's folder where these files were read before, or read now.

    They are known by the SHA-256 of all their contents, so a picture that changed is read again.
    """
    with ThreadPoolExecutor() as pool:
        digests = with_progress(pool.map(file_sha256, files), len(files), "looking for changes")
        about = [
            f"{one.relative_to(root)} {part} {label} {digest}"
            for (one, (part, label)), digest in zip(files.items(), digests, strict=True)
        ]
    listed = "\n".join([str(size), *about]).encode(errors="surrogateescape")  # names of files are bytes on Linux
    digest = sha256(np.frombuffer(listed, np.uint8))
    cache = keras_home() / "datasets" / f"folder-{digest[:20]}.npz"
    with contextlib.suppress(Exception):  # not there, or damaged: what it holds can be read again
        return read_arrays(cache)
    pictures, arrays = read_pictures(list(files), size), {}
    labels = np.array([label for _, label in files.values()], np.int64)
    for part in ("train", "test"):
        rows = [row for row, (its, _) in enumerate(files.values()) if its == part]
        if rows:
            arrays |= {f"x_{part}": pictures[rows], f"y_{part}": labels[rows]}
    with contextlib.suppress(RunFailed):  # where nothing can be written, they are read anew each time
        write_arrays(cache, **arrays)
    return arrays


# --- A .npz ----------------------------------------------------------------------------------------------------------


def read_npz(path, part, shape, class_names):
    """One part of a .npz, as (images, labels, class names, numbers of training and test images as (n,)).

    It holds x_train, y_train, x_test, y_test: uint8 pictures of `shape`, labels from 0, and maybe class_names.
    Raises InputError, naming what is wrong.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"there is no file {path!r}; give DATA a folder of pictures, the path of a .npz, or digits")
    with (
        reading(f"{path!r} cannot be read as a .npz of plain arrays", "save it anew with numpy.savez"),
        open_arrays(path) as file,
    ):
        missing = [name for name in ("x_test", "x_train", "y_test", "y_train") if name not in file]
        if missing:
            raise InputError(f"{path!r} lacks {', '.join(missing)}; give DATA a .npz with all four arrays")
        # Of the other part only the labels are read: training never sees the test pictures.
        sizes = [file[f"y_{name}"].shape[:1] for name in ("train", "test")]
        names = file["class_names"] if "class_names" in file else np.array(class_names)
        images, labels = file[f"x_{part}"], file[f"y_{part}"]

    if names.dtype.kind == "S":  # as numpy keeps words that came from HDF5, MATLAB or Python 2
        names = np.char.decode(names, "utf-8", "replace")
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
