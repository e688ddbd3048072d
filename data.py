"""Where pictures come from: CIFAR-10, scikit-learn's digits, a .npz or a folder of one's own; how a picture is read."""

import collections
import contextlib
import dataclasses
import functools
import glob
import http.client
import math
import os
import re
import shlex
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tqdm
from PIL import Image, ImageOps

from util.backend import Later, keras, keras_home
from util.cli import InputError
from util.files import DAMAGE, first_line, locked, reading, sha256

datasets, model_selection, transform = map(Later, ("sklearn.datasets", "sklearn.model_selection", "skimage.transform"))

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_SIZES = [50_000, 10_000]
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
    source = source_of(data)
    images, labels, names, prefix = source.load(data, part)
    halved = HALVED if names == CIFAR10_CLASSES or source.load is load_digits else ()
    return Images(images, labels, names, prefix, source_name(data), halved)


def source_name(data):
    """What records call the source of their pictures: the file's or the folder's name, without its path."""
    return Path(os.path.abspath(data)).name if data else "cifar10"


def data_prefix(data):
    """What the names of runs on this DATA begin with: the folder's or file's name, as far as it fits a run's name."""
    if data == "digits":
        return data
    prefix = re.sub(r"[\W_]+", "-", source_name(data).removesuffix(".npz")).strip("-").lower()[:40] or "data"
    return f"{prefix}-data" if prefix in ("mod", "digits") else prefix  # which names of runs hold already


def class_names_of(data):
    """The class names of own pictures, without reading these; None for other sources, and where DATA is not there."""
    if not data or data == "digits" or not os.path.exists(data):
        return None
    if os.path.isdir(data):
        return class_folders(data)[1]
    with reading_npz(data) as file:
        names = file.get("class_names")
    return CIFAR10_CLASSES if names is None else checked_class_names(names, data)


def count_known(images, known):
    """How many of these pictures are among those known."""
    known = {picture.tobytes() for picture in known}
    return sum(picture.tobytes() in known for picture in images)


def note_test_pictures_known(images, known, path):
    """Tell the user where test pictures are training pictures as well."""
    if count := count_known(images, known):
        print(f"note: {count} of the {len(images)} test pictures in {path} are training pictures, too")


def held_out_tenth(images, labels, part, class_names):
    """Indices of 'train' or 'test' where a data set has no test part: a stratified tenth, the same for every seed.

    Each class has a test picture, and copies of a picture are all in the same part. Raises InputError.
    """
    first_copy = {}
    originals = np.array([first_copy.setdefault(image.tobytes(), row) for row, image in enumerate(images)])
    distinct = np.unique(originals)
    counts = np.bincount(labels[distinct], minlength=len(class_names))
    if counts.min() < 3:
        raise InputError(
            f"the class {class_names[counts.argmin()]} has {counts.min()} different pictures; without a folder of test "
            "pictures each class needs at least three, one each to train, to validate and to test: add some"
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
    images, labels = fetch_cifar10()[PARTS.index(part)]
    return np.ascontiguousarray(images), labels.reshape(-1).astype(np.int64), CIFAR10_CLASSES, ""


@functools.cache
def fetch_cifar10():
    """(train, test), each (images, labels), as Keras gives them. Raises InputError where it cannot be downloaded."""
    home = keras_home() / "datasets"
    try:
        with locked(home / ".cifar10.lock"):  # one process downloads and unpacks it for all
            return keras.datasets.cifar10.load_data()
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, OSError | ValueError | http.client.HTTPException):
            raise  # Keras raises a bare Exception for a failed download
        raise InputError(
            f"CIFAR-10 cannot be downloaded into {home} ({first_line(error)}): connect and repeat, or save "
            "cifar-10-python.tar.gz there as cifar-10-batches-py-target_archive, or give pictures of your own with "
            "DATA=file.npz, or try `make demo`, which needs no download"
        ) from None


def load_digits(data, part):
    """scikit-learn's 1,797 handwritten digits as 32x32 colour pictures; a stratified tenth is the test set."""
    if part == "train" and os.path.isdir("digits"):
        print("note: DATA=digits means scikit-learn's digits; DATA=./digits means the folder of that name")
    digits = datasets.load_digits()
    rows = held_out_tenth(digits.images, digits.target, part, DIGITS_CLASSES)
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
        raise InputError(f"there is no {path!r}; give DATA a folder of pictures, the path of a .npz, or digits")
    with reading_npz(path) as file:
        arrays = {name.removesuffix(".npy") for name in file.zip.namelist() if name.endswith(".npy")}
        if missing := sorted({f"{kind}_{one}" for kind in "xy" for one in PARTS} - arrays):
            raise InputError(f"{path!r} lacks {', '.join(missing)}; save x_train, y_train, x_test and y_test in it")
        headers = {one: array_header(file, f"x_{one}") for one in PARTS}
        labels = {one: np.asarray(file[f"y_{one}"]) for one in PARTS}  # numpy gives bytes for what is no array
        names = file.get("class_names")
        like_cifar10 = [shape[:1] for shape, _ in headers.values()] == [(size,) for size in CIFAR10_SIZES]
        names = CIFAR10_CLASSES if names is None and like_cifar10 else checked_class_names(names, path)
        labels = {one: checked_labels(labels[one], one, *headers[one], names, path) for one in PARTS}
        images = file[f"x_{part}"]  # last, since wrong pictures may fill the memory
    if images.max() <= 1:
        raise InputError(
            f"x_{part} in {path!r} holds only 0 and 1; pictures scaled to 0-1 become that as uint8: save them as 0-255"
        )
    if like_cifar10 and names == CIFAR10_CLASSES:
        return images, labels[part], names, ""
    if part == "test":
        with reading_npz(path) as file:
            note_test_pictures_known(images, file["x_train"], path)
    return images, labels[part], names, data_prefix(path)


def load_folder(path, part):
    """One part of a folder of pictures, cut and shrunk to 32x32; without a test folder, a stratified tenth is it."""
    arrays, names = read_folder(path)
    if "test" in arrays:
        return *arrays[part], names, data_prefix(path)
    images, labels = arrays["train"]
    rows = held_out_tenth(images, labels, part, names)
    return images[rows], labels[rows], names, data_prefix(path)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where pictures come from: whether it `fits` a DATA, its loader, and what it makes of a recipe's augmentation."""

    fits: Callable
    load: Callable
    augmentation: Callable = lambda augmentation: augmentation


def upright(augmentation):
    """The augmentation with all that leaves a digit's label as it is: flips and large turns change it."""
    return augmentation.model_copy(update={"rotation": min(augmentation.rotation, 10), "flip": False})


SOURCES = (
    Source(lambda data: data is None, load_cifar10),
    Source(lambda data: data == "digits", load_digits, upright),
    Source(os.path.isdir, load_folder),
    Source(lambda data: True, load_npz),
)


def source_of(data):
    return next(source for source in SOURCES if source.fits(data))


# --- Pictures in files ------------------------------------------------------------------------------------------------

# Files with these endings are read, whatever the case; of several frames the first.
PICTURES = (".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tga")
PICTURES += (".tif", ".tiff", ".webp")


def read_picture(path):
    """A picture of any size as the networks take it, uint8 (height, width, 3): upright, cut to a square at its centre.

    It is made smaller with antialiasing, and what is transparent becomes white. Raises ValueError for pictures of
    32-bit numbers, and what Pillow raises for a file that it cannot read.
    """
    with Image.open(path) as file:
        file.draft(None, (256, 256))  # a large JPEG is decoded at a part of its size, which is several times faster
        picture = ImageOps.exif_transpose(file)
        if picture.mode.startswith("I;16"):  # of which Pillow's convert would keep the dark ones
            picture = Image.fromarray((np.asarray(picture) / 65535 * 255 + 0.5).astype(np.uint8))
        if picture.mode in ("I", "F"):
            raise ValueError("it holds 32-bit numbers, whose black and white are not known: save it with 8 or 16 bits")
        if picture.has_transparency_data:
            picture = picture.convert("RGBA")
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
        fitted = ImageOps.fit(picture.convert("RGB"), IMAGE_SHAPE[1::-1], Image.Resampling.BICUBIC)
    return np.asarray(fitted)


def read_pictures(paths):
    """Pictures as uint8 (n, height, width, 3), read side by side. Raises InputError, naming all that cannot be read."""

    def read(path):
        try:
            return read_picture(path)
        except (*DAMAGE, Image.DecompressionBombError) as error:
            return f"{in_words(path)} ({first_line(error)})"

    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor() as pool:  # Pillow decodes outside Python's lock
        found = list(with_progress(pool.map(read, paths), len(paths), "reading pictures"))
    if bad := [one for one in found if isinstance(one, str)]:
        raise InputError(
            f"{len(bad)} of {len(paths):,} pictures cannot be read; mend or remove "
            f"{'it' if len(bad) == 1 else 'them'}: {', '.join(bad)}"
        )
    return np.stack(found)


def with_progress(items, count, what):
    """The items, with a bar on a terminal while they are taken."""
    tqdm.tqdm.monitor_interval = 0  # no thread that outlives the bar: beside one, TensorFlow's notes are shown
    return tqdm.tqdm(items, what, count, disable=None, leave=False, unit="")


def in_words(path):
    """A path as a terminal can show it."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def files_in(folder):
    """(Pictures, other files) in a folder and its folders, links as well, in order; hidden ones are left out."""
    found, known = [], set()
    for place, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in known:  # a link to where the walk has been
            folders.clear()
            continue
        known.add(os.path.realpath(place))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    pictures = [path for path in sorted(found) if path.suffix.lower() in PICTURES and path.is_file()]
    return pictures, sorted(set(found).difference(pictures))


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
        raise InputError(f"IMAGE: {text!r} is no list of names ({error}); quote names that have a space") from None
    found, others = {}, []
    for word in words:
        found[word] = []
        for match in [word] if os.path.exists(word) else sorted(glob.glob(word, recursive=True)):
            pictures, left = files_in(match) if os.path.isdir(match) else ([Path(match)], [])
            found[word] += pictures
            others += left
    missing = [in_words(word) for word, paths in found.items() if not paths]
    if missing or not found:
        raise InputError(
            f"IMAGE: there is no picture {', '.join(missing)}; name files, folders with {', '.join(PICTURES)} in them, "
            "or patterns such as photos/*.png"
        )
    note_left_out(others, "the folders of IMAGE")
    return list(dict.fromkeys(path for paths in found.values() for path in paths))


# --- A folder ---------------------------------------------------------------------------------------------------------


def wrong_folder(what):
    """The error that a folder cannot be used: `what` is wrong, and how it has to be."""
    return InputError(
        f"{what}; DATA takes a folder with train/<class>/ and test/<class>/, or <class>/ alone, of the same two or "
        "more classes, each with pictures"
    )


def visible_folders(folder):
    """The folders in a folder, in the order of their names, but for hidden ones."""
    return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))


def class_folders(path):
    """({"train": folder of the classes' folders and, where there is one, "test": the same}, the classes' names).

    Raises InputError where a folder is missing or has a name that cannot be used.
    """
    inside = {one.name.lower(): one for one in visible_folders(Path(path))}  # of `Train` and `train`, the latter
    if "train" in inside:
        parts = {part: inside[part] for part in PARTS if part in inside}
    elif strange := inside.keys() & {"test", "testing", "training", "val", "valid", "validation"}:
        raise wrong_folder(f"{path!r} has a folder {inside[min(strange)].name!r} and none called 'train'")
    else:
        parts = {"train": Path(path)}
    names = tuple(folder.name for folder in visible_folders(parts["train"]))
    if len(names) < 2:
        raise wrong_folder(f"{str(parts['train'])!r} has {len(names)} folders of pictures")
    for folder in (one for part in parts.values() for one in visible_folders(part)):
        if not folder.name.isprintable():
            raise wrong_folder(f"the name of the folder {in_words(folder)} cannot be printed")
        if folder.name not in names:
            raise wrong_folder(f"{folder} is of a class that {parts['train']} does not have")
    return parts, names


@functools.cache
def read_folder(path):
    """Pictures in `path`/train/<class> and `path`/test/<class>, or in `path`/<class> alone, and in folders of these.

    Returns {"train" and, where there is a test folder, "test": (images, labels)} and the classes' names in alphabetical
    order. Prints what a user may want to know; raises InputError, naming what is wrong.
    """
    parts, names = class_folders(path)
    files, others, arrays = [], [], {}
    for part, folder in parts.items():
        others += [one for one in folder.iterdir() if not one.is_dir() and not one.name.startswith(".")]
        for label, name in enumerate(names):
            pictures, left = files_in(folder / name) if (folder / name).is_dir() else ([], [])
            if not pictures:
                raise wrong_folder(f"{folder / name} holds no pictures{f' but {len(left)} other files' * bool(left)}")
            files += [(one, part, label) for one in pictures]
            others += left
    images = read_pictures([one for one, *_ in files])
    for part in parts:
        rows = [row for row, (_, its, _) in enumerate(files) if its == part]
        arrays[part] = images[rows], np.array([files[row][2] for row in rows], np.int64)
    note_left_out(others, path)
    unused = [one.name for one in visible_folders(Path(path)) if one not in parts.values()]
    if unused and parts["train"] != Path(path):
        print(
            f"note: {', '.join(unused)} in {path} is not used, only train and test; VAL says which share of the "
            "training pictures validates"
        )
    if "test" in parts:
        note_test_pictures_known(arrays["test"][0], arrays["train"][0], path)
    else:
        print(f"note: {path} has no test pictures of its own, so a tenth of each class is held out for the test")
    return arrays, names


# --- A .npz -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reading_npz(path):
    """An open .npz, whose arrays are read when they are asked for and never unpickled. Raises InputError."""
    what = f"{path!r} cannot be read as a .npz of plain arrays"
    with reading(what, "save it anew with numpy.savez"), np.lib.npyio.NpzFile(path) as file:
        yield file


def array_header(file, name):
    """(shape, dtype) of an array in an open .npz, without reading the array."""
    with file.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def checked_class_names(names, path):
    """A .npz's class names as a tuple of words. Raises InputError."""
    if names is None:
        raise InputError(
            f"{path!r} holds no class_names, and it is not CIFAR-10, which has 50,000 and 10,000 pictures: add the "
            "names of the classes in the order of their labels, as in numpy.savez(..., class_names=['cat', 'dog'])"
        )
    names = np.asarray(names)
    if names.dtype.kind == "S":  # as numpy keeps words that came from HDF5, MATLAB or Python 2
        names = np.char.decode(names, "utf-8", "replace")
    names = tuple(names.tolist()) if names.ndim == 1 and names.dtype.kind == "U" else ()
    if not names or not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise InputError(f"class_names in {path!r} must be different words in printable letters, one for each class")
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
