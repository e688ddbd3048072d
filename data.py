"""Where pictures come from: CIFAR-10, scikit-learn's digits, a .npz or a folder of one's own; how a picture is read."""

import collections
import contextlib
import dataclasses
import functools
import glob
import http.client
import math
import os
import pickle
import re
import shlex
import struct
import tarfile
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm
from PIL import Image, ImageOps

from util.backend import Later, keras, keras_home
from util.cli import InputError, RunFailed
from util.files import file_sha256, first_line, locked, open_arrays, read_arrays, reading, sha256, write_arrays

datasets, model_selection, transform = map(Later, ("sklearn.datasets", "sklearn.model_selection", "skimage.transform"))

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS_CLASSES = tuple("0123456789")
HALVED = (2, 4, 9)  # of these two; of other pictures, what REDUCED says
IMAGE_SHAPE = (32, 32, 3)
PARTS = ("train", "test")


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
    return Images(images, labels, names, prefix, source_name(data), halved)


def source_name(data):
    """What records call the source of their pictures: the file's or the folder's name, without its path."""
    return Path(os.path.abspath(data)).name if data else "cifar10"


def data_prefix(data):
    """What the names of runs on this DATA begin with: the folder's or file's name, as far as it fits a run's name."""
    if data == "digits":
        return data
    name = Path(os.path.abspath(data)).name  # of `.`, too
    prefix = re.sub(r"[\W_]+", "-", name.removesuffix(".npz")).strip("-").lower()[:40] or "data"
    return f"{prefix}-data" if prefix in ("mod", "digits") else prefix  # which names of runs hold already


def class_names_of(data):
    """The class names of own pictures, without reading these; None for other sources, and where DATA is not there."""
    names = source_of(data).class_names
    return names(data) if names and os.path.exists(data) else None


def count_known(images, known):
    """How many of these pictures are among those known."""
    known = {picture.tobytes() for picture in known}
    return sum(picture.tobytes() in known for picture in images)


def note_test_pictures_known(images, known, path):
    """Tell the user where test pictures are training pictures as well."""
    if count := count_known(images, known):
        print(f"note: {count} of the {len(images)} test pictures in {path} are training pictures, too")


def held_out_tenth(labels, part, class_names, images=None):
    """Indices of 'train' or 'test' where a data set has no test part: a stratified tenth, the same for every seed.

    Each class has a test picture, and copies of one of the `images` are all in the same part. Raises InputError.
    """
    first_copy, originals = {}, np.arange(len(labels))
    if images is not None:
        originals = np.array([first_copy.setdefault(image.tobytes(), row) for row, image in enumerate(images)])
    distinct = np.unique(originals)
    counts = np.bincount(labels[distinct], minlength=len(class_names))
    if counts.min() < 3:
        raise InputError(
            f"the class {class_names[counts.argmin()]} has {counts.min()} different pictures, and without test "
            "pictures of their own, classes need three: one each to train, to validate and to test; add some"
        )
    size = max(math.ceil(0.1 * len(distinct)), len(class_names))
    rows = model_selection.train_test_split(distinct, test_size=size, stratify=labels[distinct], random_state=0)
    train, test = rows
    for number in np.setdiff1d(labels, labels[test]):  # a class of so few that its tenth was rounded to nothing
        moved = train[labels[train] == number][0]
        train, test = train[train != moved], np.append(test, moved)
    return np.flatnonzero(np.isin(originals, train if part == "train" else test))


# --- The sources ------------------------------------------------------------------------------------------------------
# A loader takes DATA and the part, and returns (images, labels, class names, prefix of the names of runs).


def load_cifar10(data, part):
    """CIFAR-10 by way of Keras, which downloads it once, checks its SHA-256 and keeps it for all programs."""
    return *fetch_cifar10()[0 if part == "train" else 1], CIFAR10_CLASSES, ""


def load_digits(data, part):
    """scikit-learn's 1,797 handwritten digits as 32x32 colour pictures; a stratified tenth is the test set."""
    if part == "train" and os.path.isdir("digits"):
        print("note: DATA=digits means scikit-learn's digits; DATA=./digits means the folder of that name")
    digits = datasets.load_digits()
    rows = held_out_tenth(digits.target, part, DIGITS_CLASSES)
    small = digits.images[rows] / 16
    grey = np.stack([transform.resize(one, IMAGE_SHAPE[:2], order=1, mode="edge") for one in small])
    images = np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return images, digits.target[rows].astype(np.int64), DIGITS_CLASSES, "digits"


def load_npz(path, part):
    """One part of a .npz with x_train, y_train, x_test, y_test (uint8 n x 32 x 32 x 3; labels from 0) and class_names.

    What can be said of the test part without reading its pictures is checked in any case, so that nothing is refused
    only after the training. Raises InputError.
    """
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"there is no file {path!r}; give DATA a folder of pictures, the path of a .npz, or digits")
    with reading_npz(path) as file:
        missing = [name for name in ("x_test", "x_train", "y_test", "y_train") if name not in file]
        if missing:
            raise InputError(f"{path!r} lacks {', '.join(missing)}; give DATA a .npz with all four arrays")
        headers = {one: array_header(file, f"x_{one}") for one in PARTS}
        labels = {one: np.asarray(file[f"y_{one}"]) for one in PARTS}  # numpy gives bytes for what is no array
        names, images = file.get("class_names"), file[f"x_{part}"]
    sizes = [headers[one][0][:1] for one in PARTS]
    names = checked_class_names(names, path, sizes == [(50_000,), (10_000,)])
    labels = {one: checked_labels(labels[one], one, *headers[one], names, path) for one in PARTS}
    if images.max() <= 1:
        raise InputError(
            f"x_{part} in {path!r} holds only 0 and 1: were these pictures scaled to 0-1 when they became uint8? "
            "Save them as 0 to 255"
        )
    if sizes == [(50_000,), (10_000,)] and names == CIFAR10_CLASSES:
        return images, labels[part], names, ""
    if part == "test":
        with reading_npz(path) as file:
            note_test_pictures_known(images, file["x_train"], path)
    return images, labels[part], names, data_prefix(path)


def load_folder(path, part):
    """One part of a folder of pictures, cut and shrunk to 32x32; without a test folder, a stratified tenth is it."""
    arrays, names = read_folder(path, IMAGE_SHAPE[:2])
    images, labels = arrays["x_train"], arrays["y_train"]
    if "x_test" not in arrays:
        rows = held_out_tenth(labels, part, names, images)
        return images[rows], labels[rows], names, data_prefix(path)
    return arrays[f"x_{part}"], arrays[f"y_{part}"], names, data_prefix(path)


def folder_class_names(path):
    return class_folders(part_folders(Path(path))["train"])


def npz_class_names(path):
    with reading_npz(path) as file:
        names = file.get("class_names")
    return CIFAR10_CLASSES if names is None else checked_class_names(names, path)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from: whether it `fits` a DATA, its loader, and the augmentation that its pictures bear."""

    fits: Callable
    load: Callable
    augmentation: dict | None = None  # None: that of the recipe. Flips and half turns change a digit's label
    class_names: Callable | None = None  # DATA -> its class names, where they may change from one day to the next


DIGITS_AUGMENTATION = {"rotation": 10, "shift": 0.1, "shear": 0.2, "zoom": 0.1}
SOURCES = (
    Source(lambda data: data is None, load_cifar10),
    Source(lambda data: data == "digits", load_digits, DIGITS_AUGMENTATION),
    Source(os.path.isdir, load_folder, class_names=folder_class_names),
    Source(lambda data: True, load_npz, class_names=npz_class_names),
)


def source_of(data):
    return next(source for source in SOURCES if source.fits(data))


# --- CIFAR-10 ---------------------------------------------------------------------------------------------------------

CIFAR10_ADDRESS = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
CIFAR10_SHA256 = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"


@functools.cache
def fetch_cifar10():
    """(train, test), each (images, labels): out of Keras's archive, which is downloaded where it is not there yet."""
    home = keras_home() / "datasets"
    archive = home / "cifar-10-batches-py-target_archive"  # where Keras puts it
    there = archive.is_file()
    if not there or file_sha256(archive) != CIFAR10_SHA256:
        try:
            with locked(home / ".cifar10.lock"):  # one process downloads it for all
                keras.utils.get_file(archive.name, CIFAR10_ADDRESS, file_hash=CIFAR10_SHA256)
        except Exception as error:
            if type(error) is not Exception and not isinstance(error, OSError | ValueError | http.client.HTTPException):
                raise  # Keras raises a bare Exception for a failed download
            wrong = f"{archive} is another file; " if there else ""
            raise InputError(
                f"CIFAR-10 cannot be had from {home} nor downloaded ({wrong}{first_line(error)}): connect and repeat, "
                f"or save cifar-10-python.tar.gz as {archive}, "
                "or give pictures of your own with DATA=file.npz, or try `make demo`, which needs no download"
            ) from None
    return read_cifar10(archive)


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


# --- Pictures in files ------------------------------------------------------------------------------------------------

# Files with these endings are read, whatever the case; of several frames the first.
PICTURES = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga")
PICTURES += (".tif", ".tiff", ".webp")


def read_picture(path, size=IMAGE_SHAPE[:2]):
    """A picture of any size as the networks take it, uint8 (height, width, 3): upright, cut to a square at its centre.

    It is made smaller with antialiasing, and what is transparent becomes white. Raises ValueError for pictures of
    32-bit numbers, and what Pillow raises for a file that it cannot read.
    """
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I;16"):  # of which Pillow's convert would keep the dark ones
            picture = Image.fromarray((np.asarray(picture) / 65535 * 255 + 0.5).astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise ValueError("it holds 32-bit numbers, whose black and white are not known: save it with 8 or 16 bits")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        fitted = ImageOps.fit(picture.convert("RGB"), size[::-1], Image.Resampling.BICUBIC)
    return np.asarray(fitted)


# What Pillow raises for files that are damaged, or no pictures.
UNREADABLE = (OSError, EOFError, ValueError, SyntaxError, IndexError, KeyError, TypeError, OverflowError)
UNREADABLE += (struct.error, zlib.error, Image.DecompressionBombError)


def read_pictures(paths, size):
    """Pictures as uint8 (n, *size, 3), read side by side. Raises InputError, naming all that cannot be read."""

    def read(path):
        try:
            return read_picture(path, size)
        except UNREADABLE as error:
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


def in_words(path):
    """A path as a terminal can show it."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def files_in(folder):
    """Paths of all files in a folder and its folders, through links as well, in order; hidden ones are left out."""
    found, known = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in known:  # a link to where the walk has been
            folders.clear()
            continue
        known.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def is_picture(path):
    return path.suffix.lower() in PICTURES and path.is_file()


def note_left_out(paths, where):
    """Tell the user how many files of which kind are not used."""
    kinds = collections.Counter(
        (path.suffix.lower() or "without an ending") if path.exists() else "links to nothing" for path in paths
    )
    if kinds:
        print(
            f"note: {len(paths)} files in {where} are left out, since they are not read as pictures: "
            + ", ".join(f"{count} {in_words(kind)}" for kind, count in kinds.most_common())
        )


def named_pictures(text):
    """Paths of the pictures that IMAGE names, each once: files, those in folders, what patterns fit. Raises InputError.

    A text that is a file's name is that file, whatever spaces, quotes or brackets it has.
    """
    try:
        words = [text] if os.path.exists(text) else [os.path.expanduser(word) for word in shlex.split(text)]
    except ValueError as error:
        raise InputError(f"IMAGE: {text!r} is no list of names ({error}); quote those that have a space") from None
    found, others = {}, []
    for word in words:
        found[word] = []
        for match in [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True)):
            inside = files_in(match) if os.path.isdir(match) else []
            others += [path for path in inside if not is_picture(path)]
            found[word] += filter(is_picture, inside) if os.path.isdir(match) else [Path(match)]
    missing = [in_words(word) for word, paths in found.items() if not paths]
    if missing or not found:
        raise InputError(
            f"IMAGE: there is no picture {', '.join(missing)}; name files, folders with {', '.join(PICTURES)} in them, "
            "or patterns such as photos/*.png"
        )
    note_left_out(others, "the folders of IMAGE")
    return list(dict.fromkeys(path for paths in found.values() for path in paths))


# --- A folder ---------------------------------------------------------------------------------------------------------


def visible_folders(folder):
    """The folders in a folder, in the order of their names, but for hidden ones."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def part_folders(root):
    """{"train": folder of the classes' folders and, where there is one, "test": the same}. Raises InputError."""
    inside = {one.name.lower(): one for one in visible_folders(root)}  # of `Train` and `train`, the latter
    if "train" in inside:
        return {part: inside[part] for part in PARTS if part in inside}
    if strange := inside.keys() & {"test", "testing", "training", "val", "valid", "validation"}:
        raise InputError(
            f"{str(root)!r} has a folder {inside[min(strange)].name!r} and none called 'train': name the folders of "
            "training and test pictures train and test, each with a folder for each class"
        )
    return {"train": root}


def class_folders(train):
    """The names of the classes, which are those of the folders of training pictures. Raises InputError."""
    names = tuple(folder.name for folder in visible_folders(train))
    if len(names) < 2:
        raise InputError(
            f"{str(train)!r} holds {len(names)} folders of pictures; give DATA a folder with one for each class, "
            "two at least, as train/<class> or <class>"
        )
    if odd := [name for name in names if not name.isprintable()]:
        raise InputError(f"the class {in_words(train / odd[0])} has a name that cannot be printed; rename the folder")
    return names


@functools.cache
def read_folder(path, size):
    """Pictures in `path`/train/<class> and `path`/test/<class>, or in `path`/<class> alone, and in folders of these.

    Returns {"x_train", "y_train" and, where there is a test folder, "x_test", "y_test": arrays} and the classes' names
    in alphabetical order. Prints what a user may want to know; raises InputError, naming what is wrong.
    """
    root = Path(path)
    parts = part_folders(root)
    names, files, others = class_folders(parts["train"]), {}, []
    for part, folder in parts.items():
        if strange := [one for one in visible_folders(folder) if one.name not in names]:
            raise InputError(f"{strange[0]} is of a class that {parts['train']} does not have; mend or remove it")
        others += [one for one in folder.iterdir() if not one.is_dir() and not one.name.startswith(".")]
        for label, name in enumerate(names):
            there = files_in(folder / name)
            pictures = list(filter(is_picture, there))
            if not pictures:
                left = f" but {len(there)} other files" if there else ""
                raise InputError(
                    f"{folder / name} holds no pictures{left} ({', '.join(PICTURES)}); add some, or remove this class"
                )
            files |= {one: (part, label) for one in pictures}
            others += [one for one in there if not is_picture(one)]
    arrays = read_cached(files, root, size)
    note_left_out(others, path)
    unused = [] if parts["train"] == root else [one.name for one in visible_folders(root) if one not in parts.values()]
    if unused:
        print(
            f"note: {', '.join(unused)} in {path} is not used, only train and test; VAL says which share of the "
            "training pictures validates"
        )
    if "x_test" in arrays:
        note_test_pictures_known(arrays["x_test"], arrays["x_train"], path)
    else:
        print(f"note: {path} has no test pictures of its own, so a tenth of each class is held out for the test")
    return arrays, names


def read_cached(files, root, size):
    """The arrays of {file: (part, label)}: out of Keras's folder where these files were read before, or read now.

    They are known by the SHA-256 of all their contents and of this code. One copy is kept for each folder of pictures.
    """
    with ThreadPoolExecutor() as pool:
        digests = with_progress(pool.map(file_sha256, files), len(files), "looking for changes")
        about = [
            f"{one.relative_to(root)} {part} {label} {digest}"
            for (one, (part, label)), digest in zip(files.items(), digests, strict=True)
        ]
    listed = "\n".join([str(size), file_sha256(__file__), *about])
    of = np.frombuffer(listed.encode(errors="surrogateescape"), np.uint8)  # names of files are bytes on Linux
    place = os.path.abspath(root).encode(errors="surrogateescape")
    cache = keras_home() / "datasets" / f"folder-{sha256(np.frombuffer(place, np.uint8))[:20]}.npz"
    with contextlib.suppress(OSError, InputError), reading(cache, ""):  # not there, or damaged: it is made again
        arrays = read_arrays(cache)
        if np.array_equal(arrays.pop("of"), of):
            return arrays
    pictures, arrays = read_pictures(list(files), size), {}
    labels = np.array([label for _, label in files.values()], np.int64)
    for part in PARTS:
        rows = [row for row, (its, _) in enumerate(files.values()) if its == part]
        if rows:
            arrays |= {f"x_{part}": pictures[rows], f"y_{part}": labels[rows]}
    with contextlib.suppress(RunFailed):  # where nothing can be written, they are read anew each time
        write_arrays(cache, of=of, **arrays)
    return arrays


# --- A .npz -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading_npz(path):
    with (
        reading(f"{path!r} cannot be read as a .npz of plain arrays", "save it anew with numpy.savez"),
        open_arrays(path) as file,
    ):
        yield file


def array_header(file, name):
    """(shape, dtype) of an array in an open .npz, without reading the array."""
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def checked_class_names(names, path, size_of_cifar10=False):
    """A .npz's class names as a tuple of words, where it has none CIFAR-10's if it has that size. Raises InputError."""
    if names is None:
        if size_of_cifar10:
            return CIFAR10_CLASSES
        raise InputError(
            f"{path!r} holds no class_names, and it is not CIFAR-10, which has 50,000 and 10,000 pictures: add the "
            "names of the classes in the order of their labels, as in numpy.savez(..., class_names=['cat', 'dog'])"
        )
    names = np.asarray(names)
    if names.dtype.kind == "S":  # as numpy keeps words that came from HDF5, MATLAB or Python 2
        names = np.char.decode(names, "utf-8", "replace")
    words = names.ndim == 1 and names.dtype.kind == "U" and len(names) <= 1000 and names.itemsize <= 400
    names = tuple(names.tolist()) if words else ()
    if not names or not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"class_names in {path!r} must be different words, one for each class: "
            "at most 1,000, of at most 100 printable letters"
        )
    return names


def checked_labels(labels, part, shape, dtype, names, path):
    """A part's labels as (n,) int64, some of each class, for pictures of this shape and dtype. Raises InputError."""
    if dtype != np.uint8 or shape[1:] != IMAGE_SHAPE or not shape[0]:
        raise InputError(
            f"x_{part} in {path!r} is {dtype} of shape {shape}; it must be uint8, 0 to 255, of shape "
            f"(n, {', '.join(map(str, IMAGE_SHAPE))})"
        )
    if labels.shape not in (shape[:1], (shape[0], 1)) or labels.dtype.kind not in "iu":
        raise InputError(
            f"y_{part} in {path!r} is {labels.dtype} of shape {labels.shape}; it must be {shape[0]} whole numbers"
        )
    labels = labels.reshape(-1).astype(np.int64)
    if labels.min() < 0 or labels.max() >= len(names):
        raise InputError(
            f"y_{part} in {path!r} holds labels {labels.min()} to {labels.max()}; the {len(names)} classes of "
            f"class_names have the labels 0 to {len(names) - 1}"
        )
    absent = np.setdiff1d(np.arange(len(names)), labels)
    if len(absent):
        raise InputError(
            f"y_{part} in {path!r} has no image of class {absent[0]} ({names[absent[0]]}): "
            "add some, or class_names without it"
        )
    return labels
