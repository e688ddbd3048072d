"""What the scripts share, in the order in which an image meets it.

data -> balanced batches -> augmentation -> models -> hardware -> the training model -> runs -> training.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import options
from files import (
    array_header,
    commit,
    commit_arrays,
    commit_json,
    file_lock,
    file_sha256,
    first_line,
    open_zip,
    read_array,
    read_arrays,
    reading,
    sha256,
    sync,
)
from options import CHECKPOINTS, InputError, RunFailed, data_prefix, raise_what_was_heard
from recipes import Ranges
from settings import RECORD, completed, could_be_of, has_form, require_same_settings, settings_of

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX: take GPU memory as needed, folds share it


@contextlib.contextmanager
def silent_stderr():
    """Hide what TensorFlow prints while it loads, before its log level counts; show it where loading fails."""
    with tempfile.TemporaryFile() as notes:
        stderr = os.dup(2)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except Exception:  # not where it is stopped, which is told in one line
            notes.seek(0)
            os.write(stderr, notes.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


try:
    with silent_stderr():
        import joblib
        import keras
        import numpy as np
        from keras import layers, ops
        from sklearn.model_selection import StratifiedShuffleSplit
        from sklearn.utils.class_weight import compute_class_weight
except (ImportError, ValueError) as error:
    raise InputError(
        f"this environment cannot be used ({error}): install requirements.txt into it, or let make choose its own; "
        "KERAS_BACKEND is tensorflow, or jax where JAX is installed"
    ) from None


# --- Data -----------------------------------------------------------------------------------------------------------

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (32, 32, 3)


def draw(seed, *key):
    """A numpy generator that depends on `seed` and on what is drawn (`key`: words and numbers), on nothing else."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)])


@dataclasses.dataclass
class Images:
    """Pictures of one part of a data set: images (n, 32, 32, 3) uint8, labels (n,) integers."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple
    source: str
    prefix: str

    @functools.cached_property
    def sha256(self):
        return sha256(self.images, self.labels)


def load_data(source=None, part="train"):
    """Load one part ('train' or 'test') of CIFAR-10 (None), of scikit-learn's 'digits', or of a .npz file.

    Raises InputError where the data cannot be had; never falls back to other data.
    """
    if source is None:
        images, labels = load_cifar10()[0 if part == "train" else 1]
        labels, names, prefix = labels.reshape(-1).astype(np.int64), CIFAR10_CLASSES, ""
    elif source == "digits":
        images, labels, names, prefix = *load_digits(part), tuple("0123456789"), "digits"
    else:
        images, labels, names, prefix = load_npz(source, part)
    return Images(images, labels, names, Path(source or "cifar10").name, prefix)


@functools.cache
def load_cifar10():
    """CIFAR-10 by way of Keras, which downloads it once, checks its SHA-256 and keeps it: (train, test)."""
    home = Path(os.environ.get("KERAS_HOME", Path.home() / ".keras")) / "datasets"
    try:
        with file_lock(home / ".cifar10.lock"):  # Keras unpacks at every call, over what another fold may be reading
            return keras.datasets.cifar10.load_data()
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise InputError(
            f"CIFAR-10 cannot be had from {home} nor downloaded ({first_line(error)}): connect and repeat, "
            f"or save cifar-10-python.tar.gz as {home / 'cifar-10-batches-py-target_archive'}, "
            "or give pictures of your own with DATA=file.npz, or try `make demo`, which needs no download"
        ) from None


def load_digits(part):
    """scikit-learn's 1,797 handwritten digits as 32x32 colour pictures; a stratified tenth is the test set."""
    from skimage.transform import resize
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = train_test_split(np.arange(len(digits.target)), test_size=0.1, stratify=digits.target, random_state=0)
    rows = np.sort(rows[0] if part == "train" else rows[1])
    grey = np.stack([resize(digit / 16, IMAGE_SHAPE[:2], order=1, mode="edge") for digit in digits.images[rows]])
    images = np.repeat(np.rint(grey * 255).astype(np.uint8)[..., None], 3, axis=-1)
    return images, digits.target[rows].astype(np.int64)


def load_npz(path, part):
    """One part of a .npz with x_train, y_train, x_test, y_test (uint8 n x 32 x 32 x 3; 0-9) and maybe class_names."""
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
        full_size = [array_header(file, f"x_{name}")[0][:1] for name in ("train", "test")] == [(50_000,), (10_000,)]
        names = read_array(file, "class_names") if "class_names.npy" in members else np.array(CIFAR10_CLASSES)
        images, labels = read_array(file, f"x_{part}"), read_array(file, f"y_{part}")

    words = names.ndim == 1 and names.dtype.kind == "U" and len(names) <= 1000 and names.itemsize <= 400
    names = tuple(names.tolist()) if words else ()
    if not names or not all(name and name.isprintable() for name in names) or len(set(names)) < len(names):
        raise InputError(
            f"class_names in {path!r} must be different words, one for each class: "
            "at most 1,000, of at most 100 printable letters"
        )
    if images.dtype != np.uint8 or images.shape[1:] != IMAGE_SHAPE:
        raise InputError(
            f"x_{part} in {path!r} is {images.dtype} of shape {images.shape}; it must be uint8 of shape (n, 32, 32, 3)"
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
    return images, labels, names, "" if full_size and names == CIFAR10_CLASSES else data_prefix(path)


def class_numbers(words, class_names):
    """['bird', '4', 9] -> [2, 4, 9]. Raises InputError, naming the classes there are."""
    numbers, known = [], [str(number) for number in range(len(class_names))]
    for word in words:  # a record's are numbers already, and no names
        if word in class_names:
            numbers.append(class_names.index(word))
        elif str(word) in known:
            numbers.append(int(word))
        else:
            there = ", ".join(f"{number} {name}" for number, name in enumerate(class_names))
            raise InputError(f"REDUCED names a class {str(word)[:80]!r} that the data does not have; it has {there}")
    return numbers


def reduce_classes(labels, keep, seed):
    """Indices, ascending, of the images kept: of each class in `keep` that many at random (None: half), else all.

    Depends on `seed` alone, so every model and every fold of a study works on the same images.
    """
    kept = np.ones(len(labels), bool)
    for number, count in keep.items():
        members = np.flatnonzero(labels == number)
        count = len(members) // 2 if count is None else count
        if not 2 <= count <= len(members):
            raise InputError(
                f"KEEP={count} cannot be kept of class {number}, which has {len(members)}; change KEEP or REDUCED"
            )
        kept[draw(seed, "keep", number).permutation(members)[count:]] = False
    return np.flatnonzero(kept)


def split_fold(labels, fold, share, seed, split="shuffle"):
    """(train, validation) indices of the `fold`-th (from 1) stratified shuffle split, `share` held out.

    Fold k is the same whatever other folds are asked for. With `split` 'first' or 'last', those images are held out,
    whatever fold and seed. Raises InputError where a class is too small to split.
    """
    if split == "shuffle":
        try:
            splits = StratifiedShuffleSplit(n_splits=fold, test_size=share, random_state=seed)
            train, val = list(splits.split(np.zeros(len(labels)), labels))[-1]
        except ValueError as error:
            raise InputError(f"these images cannot be split with VAL={share:g} ({error}); change VAL or KEEP") from None
    else:
        count = int(len(labels) * share)
        first, second = np.split(np.arange(len(labels)), [count if split == "first" else len(labels) - count])
        val, train = (first, second) if split == "first" else (second, first)
        if not count:
            raise InputError(f"VAL={share:g} of {len(labels)} images leaves none to validate on; choose a larger VAL")
    missing = np.setdiff1d(labels, labels[train])
    if len(missing):
        raise InputError(f"VAL={share:g} leaves no training image of class {missing[0]}; choose a smaller VAL")
    return np.sort(train), np.sort(val)


@dataclasses.dataclass
class Fold:
    """The images of one fold, uint8, and the record of where they come from."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    class_names: tuple
    prefix: str
    record: dict


def prepare_fold(source, recipe, fold=None):
    """Load, reduce and split the training data as the recipe says; print what came out.

    Without a `fold`, the recipe's own split, which for 'shuffle' is the first.
    """
    data = load_data(source)
    split, number = (recipe.split, 1) if fold is None else ("shuffle", fold)
    reduced = class_numbers(recipe.reduced, data.class_names)
    keep = recipe.keep if isinstance(recipe.keep, list) else [recipe.keep] * len(reduced)
    if isinstance(recipe.keep, list) and len(set(reduced)) < len(reduced):
        raise InputError("CONFIG reduces a class twice, and keeps a number of images of each; name it once")
    keep = dict(sorted(zip(reduced, keep, strict=True)))
    kept = reduce_classes(data.labels, keep, recipe.seed)
    train, val = (kept[rows] for rows in split_fold(data.labels[kept], number, recipe.val, recipe.seed, split))
    classes = len(data.class_names)
    record = {
        "source": data.source,
        "sha256": data.sha256,
        "kept_sha256": sha256(kept),
        "train_sha256": sha256(train),
        "val_sha256": sha256(val),
        "class_names": list(data.class_names),
        "split": split,
        "val": recipe.val,
        "reduced": list(keep),
        "keep": [int((data.labels[kept] == number).sum()) for number in keep],
        "train_counts": np.bincount(data.labels[train], minlength=classes).tolist(),
        "val_counts": np.bincount(data.labels[val], minlength=classes).tolist(),
    }
    cut = ", ".join(f"{data.class_names[c]} {n:,}" for c, n in zip(keep, record["keep"], strict=True))
    held_out = f"fold {number}" if split == "shuffle" else f"{split} {recipe.val:.0%} held out"
    print(
        f"data: {data.source}, {len(kept):,} of {len(data.labels):,} images{f' ({cut})' if cut else ''}; "
        f"{held_out}: {len(train):,} train, {len(val):,} validation"
    )
    arrays = data.images[train], data.labels[train], data.images[val], data.labels[val]
    return Fold(*arrays, data.class_names, data.prefix, record)


# --- Balanced batches -----------------------------------------------------------------------------------------------


class BalancedBatches(keras.utils.PyDataset):
    """Endless training batches with equal class counts: ((batch, 32, 32, 3) uint8, (batch,) labels) for each step.

    Slot number `step * batch_size + j` of the endless stream belongs to class `slot % classes`, so a batch of 128 holds
    each of ten classes 12 or 13 times and the extra ones rotate. A class is drawn in permutations: no image comes a
    third time before every one of its class has come twice. `balanced=False` takes all images as one class: shuffling.

    A batch is a pure function of (seed, fold, step), whatever the epoch, the order of calls or the worker.
    """

    num_batches = None  # endless: with `steps_per_epoch`, fit counts the index on across epochs

    def __init__(self, images, labels, batch_size, seed=0, fold=1, balanced=True, first_step=0):
        super().__init__()
        self.images, self.labels, self.batch_size, self.first_step = images, labels, batch_size, first_step
        self.groups = [np.flatnonzero(labels == c) for c in np.unique(labels)] if balanced else [np.arange(len(labels))]
        self.steps_per_epoch = max(1, len(self.groups) * max(map(len, self.groups)) // batch_size)
        # A batch touches one or two permutations of each group.
        self.permutation = functools.lru_cache(3 * len(self.groups))(
            lambda group, turn: draw(seed, "batches", fold, group, turn).permutation(self.groups[group])
        )

    def rows(self, step):
        """Indices of the images of batch `step`."""
        slots = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rows = np.empty(self.batch_size, np.int64)
        for group, members in enumerate(self.groups):
            mine = np.flatnonzero(slots % len(self.groups) == group)
            turns, places = np.divmod(slots[mine] // len(self.groups), len(members))
            for turn in np.unique(turns):
                rows[mine[turns == turn]] = self.permutation(group, int(turn))[places[turns == turn]]
        return rows

    def __getitem__(self, index):
        rows = self.rows(self.first_step + index)
        return self.images[rows], self.labels[rows]


# --- Augmentation ---------------------------------------------------------------------------------------------------


def affine_parameters(uniform, ranges):
    """Numbers in [0, 1), (batch, 7) -> (angle, shift_x, shift_y, shear, zoom_x, zoom_y, flip), each (batch,).

    Each fills its range: angle and shear in radians, shifts in shares of the picture's side, flip -1 or 1.
    """
    u = [uniform[:, column] for column in range(7)]
    radians = math.pi / 180
    return (
        (2 * u[0] - 1) * ranges.rotation * radians,
        (2 * u[1] - 1) * ranges.shift,
        (2 * u[2] - 1) * ranges.shift,
        (2 * u[3] - 1) * ranges.shear * radians,
        1 + (2 * u[4] - 1) * ranges.zoom,
        1 + (2 * u[5] - 1) * ranges.zoom,
        ops.where(u[6] < 0.5, -1.0, 1.0) if ranges.flip else ops.ones_like(u[6]),
    )


def affine_matrices(parameters, height, width):
    """(batch, 8) rows [a0 a1 a2 b0 b1 b2 0 0] that map an output pixel (x, y) to the input (a0 x + a1 y + a2, b0 ...).

    Rotation . shift . shear . zoom . flip about the picture's centre, in the order of the reference's generator.
    """
    angle, shift_x, shift_y, shear, zoom_x, zoom_y, flip = parameters
    cos, sin = ops.cos(angle), ops.sin(angle)
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    # Columns of shear . zoom . flip, in (x, y); the reference shears along its rows: x by cos, y by -sin.
    sheared_xx, sheared_yx = ops.cos(shear) * zoom_x * flip, -ops.sin(shear) * zoom_x * flip
    sheared_yy = zoom_y
    shift_x, shift_y = shift_x * width, shift_y * height
    # The reference's rotation turns (row, column); in (x, y) that is the opposite sense.
    a0, a1 = cos * sheared_xx + sin * sheared_yx, sin * sheared_yy
    b0, b1 = -sin * sheared_xx + cos * sheared_yx, cos * sheared_yy
    a2 = center_x + cos * shift_x + sin * shift_y - a0 * center_x - a1 * center_y
    b2 = center_y - sin * shift_x + cos * shift_y - b0 * center_x - b1 * center_y
    zero = ops.zeros_like(a0)
    return ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)


class Augment(layers.Layer):
    """Random affine augmentation: (batch, 32, 32, 3) 0-255 -> the same shape, float32; identity unless training.

    One matrix and one bilinear interpolation per picture, edge pixels repeated. Stays float32 in every precision: in
    bfloat16, pictures were off by 0.008 of their range on average.
    """

    def __init__(self, ranges, **kwargs):
        super().__init__(dtype="float32", **kwargs)
        self.ranges = ranges
        self.seed_generator = keras.random.SeedGenerator(0)  # set for each run by seed_layers

    def call(self, images, training=False):
        images = ops.cast(images, "float32")
        if not training or self.ranges == Ranges():
            return images
        uniform = keras.random.uniform((ops.shape(images)[0], 7), seed=self.seed_generator)
        matrices = affine_matrices(affine_parameters(uniform, self.ranges), *images.shape[1:3])
        return ops.image.affine_transform(images, matrices, interpolation="bilinear", fill_mode="nearest")

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(images.shape, "float32")


# --- Models ---------------------------------------------------------------------------------------------------------


def finished_model(recipe, classes, name):
    """The model that is kept: stock Keras layers, float32, uncompiled; takes pictures as they are, 0-255."""
    image = keras.Input(IMAGE_SHAPE, name="image")
    scaled = layers.Rescaling(recipe.scale, recipe.offset, name="rescale")(image)
    return keras.Model(image, recipe.build(scaled, classes, **recipe.network), name=name)


def layers_up_to(model, last):
    """The layers with weights up to the one named `last`, in the order of a chain."""
    names = [layer.name for layer in model.layers]
    return [layer for layer in model.layers[: names.index(last) + 1] if layer.weights]


def take_weights(target, source, last):
    """Copy the weights of `target`'s layers up to the one named `last` from `source`, by name; returns their names.

    Raises InputError where one is missing or misshapen.
    """
    taken = layers_up_to(target, last)
    for layer in taken:
        try:
            layer.set_weights(source.get_layer(layer.name).get_weights())
        except ValueError as error:
            raise InputError(f"the autoencoder's layer {layer.name!r} cannot be taken: {first_line(error)}") from None
    return [layer.name for layer in taken]


def freeze(model, last):
    """Freeze the layers up to the one named `last`; returns the names of those with weights."""
    frozen = layers_up_to(model, last)
    for layer in frozen:
        layer.trainable = False
    return [layer.name for layer in frozen]


def count_trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def copy_weights(target, source):
    """Copy every layer's weights by layer name between two models of the same layers.

    A bias that `source` does without stays as it is in `target`.
    """
    for layer in target.layers:
        weights, own = source.get_layer(layer.name).get_weights(), layer.get_weights()
        layer.set_weights(weights[: len(own)] + own[len(weights) :])


# --- Hardware, and what depends on the backend ----------------------------------------------------------------------


def processor_name():
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()


def processor_has_bfloat16():
    """Name of the instruction set that makes bfloat16 fast on this processor, or None."""
    with contextlib.suppress(OSError):
        flags = set(Path("/proc/cpuinfo").read_text().split())
        return next((flag for flag in ("amx_bf16", "avx512_bf16", "bf16") if flag in flags), None)
    if sys.platform == "darwin":
        answer = subprocess.run(["sysctl", "-n", "hw.optional.arm.FEAT_BF16"], capture_output=True, text=True)
        return "FEAT_BF16" if answer.stdout.strip() == "1" else None
    return None


@functools.cache
def set_up_device():
    """Make the backend ready; returns (description of the device, why bfloat16 is fast on it, or None)."""
    cores = joblib.cpu_count()  # those that this process may use: its affinity, and a container's limit
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(cores)
        tf.config.threading.set_inter_op_parallelism_threads(cores)
        logging.getLogger("tensorflow").setLevel("ERROR")  # its advice on retracing is not for a user of these scripts
        gpus = tf.config.list_physical_devices("GPU")
        for gpu in gpus:
            tf.config.experimental.set_memory_growth(gpu, True)
        if gpus:
            details = tf.config.experimental.get_device_details(gpus[0])
            capability = details.get("compute_capability", (0, 0))
            fast = f"compute capability {capability[0]}.{capability[1]}" if capability >= (8, 0) else None
            return details.get("device_name", "GPU"), fast
    elif keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform != "cpu":
            capability = getattr(device, "compute_capability", "0")
            return device.device_kind, f"compute capability {capability}" if float(capability) >= 8 else None
        return f"CPU, {cores} cores", None  # XLA emulates bfloat16 convolutions on a processor
    return f"CPU, {cores} cores", processor_has_bfloat16()


def tensorflow_on_processor():
    """True where fast_layers are known to be faster; on a GPU, where XLA compiles Keras's own, none was measured."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    return not tf.config.list_physical_devices("GPU")


def resolve_precision(requested):
    """('float32' or 'mixed_bfloat16', the reason in words)."""
    _, fast = set_up_device()
    if requested != "auto":
        return requested, "as asked for"
    return ("mixed_bfloat16", f"the hardware has {fast}") if fast else ("float32", "no fast bfloat16 here")


# --- The training model ---------------------------------------------------------------------------------------------


def cancelled_bias(layer, following):
    """True for a layer with a bias of 0 whose output goes straight into a batch normalisation that learns.

    That normalisation subtracts the bias again, so its gradient is 0 but for rounding. In bfloat16, Adam turns the
    rounding into full steps: the bias wanders, the moving mean lags behind it, and validation jumps up and down.
    """
    linear = isinstance(layer, (layers.Conv2D, layers.Dense)) and layer.activation is keras.activations.linear
    normalised = isinstance(following, layers.BatchNormalization) and following.trainable
    return linear and normalised and layer.use_bias and not layer.get_weights()[1].any()


def fast_twin(model, precision):
    """A twin of `model` to train: the same layers by name and the same weights, computed faster, in `precision`."""
    # The builders' models are chains, so the next in the list is what follows.
    without_bias = {layer.name for layer, after in itertools.pairwise(model.layers) if cancelled_bias(layer, after)}
    classes = {}
    if tensorflow_on_processor():
        import fast_layers

        lacks_amx = precision == "mixed_bfloat16" and processor_has_bfloat16() == "avx512_bf16"
        classes = fast_layers.fastest(model, gradients_by_products=lacks_amx)

    def twin(layer):
        config = layer.get_config()
        # bfloat16's eight bits are enough inside the network, not for pictures, probabilities and reconstructions, nor
        # for sums over all of a layer.
        exact = isinstance(layer, (layers.Rescaling, layers.ActivityRegularization)) or layer is model.layers[-1]
        config["dtype"] = "float32" if exact else precision
        if layer.name in without_bias:
            config["use_bias"] = False
        return classes.get(layer.name, type(layer)).from_config(config)

    core = keras.models.clone_model(model, clone_function=twin)
    copy_weights(core, model)
    return core


def augmented(core, ranges, target=None):
    """`core` behind augmentation: uint8 pictures -> what `core` returns.

    With `target` ('augmented' or 'original') -> (batch, 2, 32, 32, 3): the reconstruction and what was to be
    reconstructed, in [0, 1].
    """
    images = keras.Input(IMAGE_SHAPE, dtype="uint8", name="image")
    seen = Augment(ranges, name="augment")(images)
    outputs = core(seen)
    if target:
        goal = seen if target == "augmented" else ops.cast(images, "float32")
        outputs = ops.stack([outputs, goal / 255], axis=1)
    return keras.Model(images, outputs)


def training_model(model, ranges, precision, target=None):
    """What is trained in place of `model`, and within it the twin of `model`: (training model, its core)."""
    core = fast_twin(model, precision)
    return augmented(core, ranges, target), core


def new_optimizer(name, learning_rate):
    """The optimizer that Keras calls `name`, computed faster where there is a way."""
    kind = type(keras.optimizers.get(name))
    if kind is keras.optimizers.Adam and tensorflow_on_processor():
        import fast_layers

        kind = fast_layers.Adam
    return kind(learning_rate)


def compile_model(training, optimizer, loss):
    """Give a training model its optimizer, and the loss and the metric of a classifier or of an autoencoder."""
    classifier = loss == "categorical_crossentropy"
    training.compile(
        optimizer,
        loss="sparse_categorical_crossentropy" if classifier else reconstruction_loss(loss),  # labels are numbers
        metrics=["accuracy" if classifier else psnr],
    )


def seed_layers(training, core, seed, fold, step):
    """Set every random layer so that its draws follow from (seed, fold, step): a resumed run needs no saved state."""
    for number, layer in enumerate([training.get_layer("augment"), *core.layers]):
        if hasattr(layer, "seed_generator"):
            key = int(draw(seed, "layers", fold, number).integers(2**31))
            layer.seed_generator.state.assign([key, step])  # a step draws once and moves the second number by one


def reconstruction_loss(name):
    """The loss that Keras calls `name`, between the pictures of (batch, 2, ...) pairs in [0, 1]: -> (batch,)."""
    error = keras.losses.get(name)

    def loss(labels, pair):
        reconstruction, goal = ops.unstack(pair, axis=1)  # its gradient is one copy; a slice's, two passes of zeros
        return ops.mean(error(goal, reconstruction), axis=(1, 2))

    return loss


def psnr(labels, pair):
    """Peak signal-to-noise ratio per picture of a (batch, 2, ...) pair, in dB; peak 1."""
    error = reconstruction_loss("mean_squared_error")(labels, pair)
    return -10 * ops.log10(ops.maximum(error, 1e-10))


# --- Runs -----------------------------------------------------------------------------------------------------------


def versions():
    packages = ("keras", "numpy", "sklearn", "skimage", keras.backend.backend())
    return {
        "python": platform.python_version(),
        **{name: importlib.import_module(name).__version__ for name in packages},
    }


def code_sha256():
    """SHA-256 of this code, committed or not."""
    return sha256(*(np.fromfile(path, np.uint8) for path in sorted(Path(__file__).parent.glob("*.py"))))


def current_commit():
    """The commit of this code, with '+' where the working tree differs; None outside a repository."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        git = ["git", "-C", Path(__file__).parent, "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    return None


def record_sha256(record):
    """SHA-256 of all that a record says, but for the SHA-256 itself."""
    content = json.dumps({key: value for key, value in record.items() if key != "record_sha256"})
    return hashlib.sha256(content.encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of one run: `checkpoints/<name>[_fold<k>].keras`, its record and its state."""

    name: str
    fold: int | None = None
    folder: Path = CHECKPOINTS

    @classmethod
    def at(cls, checkpoint):
        """The run whose finished file is `checkpoint`, wherever that is."""
        path = Path(checkpoint)
        if path.suffix != ".keras" or not path.is_file():
            raise InputError(f"there is no finished model {str(checkpoint)!r}; give the path of a .keras file")
        return cls(*options.name_and_fold(path.stem), path.parent)

    @property
    def stem(self):
        return self.name if self.fold is None else f"{self.name}_fold{self.fold}"

    @property
    def title(self):
        return self.name if self.fold is None else f"{self.name} fold {self.fold}"

    def path(self, suffix):
        return self.folder / f"{self.stem}{suffix}"

    @property
    def checkpoint(self):
        return self.path(".keras")

    @property
    def state(self):
        return self.path(".state")

    def read_record(self):
        """The record of a finished run. Raises InputError where record or checkpoint are damaged or do not match."""
        with reading(
            f"{self.checkpoint} and its record {self.path('.json').name} do not belong together, or one is damaged",
            "train it again with FORCE=1",
        ):
            record = json.loads(self.path(".json").read_text(encoding="utf-8"))
            if not has_form(record, RECORD):
                raise ValueError("the record lacks what records hold")
            if record.get("record_sha256") not in (None, record_sha256(record)):  # None: of an older version
                raise ValueError("the record does not match its own checksum")
            if record["checkpoint_sha256"] != file_sha256(self.checkpoint):
                raise ValueError("the checkpoint is not the one of the record")
        return record

    def load_model(self):
        """The finished model; nothing but Keras's own layers is made of it. Raises InputError where it cannot be."""
        with (
            reading(f"{self.checkpoint} cannot be opened", "give a whole .keras file of Keras's own layers"),
            open_zip(self.checkpoint),
        ):
            model = keras.saving.load_model(self.checkpoint, compile=False)
            if not getattr(model, "inputs", None):
                raise ValueError("it holds no model, or one without a fixed input")
            return model

    def begun(self, settings):
        """What the state of an unfinished training with these settings holds, as (note, its groups of arrays), or None.

        Next to a finished file, which stays until a forced training can replace it, a state of other settings is left
        alone, and the finished file decides; otherwise it raises InputError.
        """
        if not self.state.exists():
            return None
        with reading(f"{self.state} is damaged", "FORCE=1 starts this training again"):
            arrays = read_arrays(self.state)
            note = json.loads(arrays["note"].tobytes())
            groups = [[arrays[f"{name}{i}"] for i in range(note[name])] for name in ("weights", "best", "optimizer")]
            written = self.state.stat().st_mtime_ns
        if self.checkpoint.exists():
            if note["finished"] and written < self.checkpoint.stat().st_mtime_ns:  # killed before it could be removed
                self.state.unlink()
                return None
            if completed(note["settings"]) != settings:
                return None
        require_same_settings(note["settings"], settings, f"the unfinished training {self.state}")
        return note, groups

    def already_finished(self, settings):
        """True where this run is there with these settings. Raises InputError where it is there with others."""
        if not self.checkpoint.exists():
            return False
        require_same_settings(self.read_record()["settings"], settings, f"the finished {self.checkpoint}")
        print(f"{self.checkpoint} is finished already, with these settings; FORCE=1 trains it again")
        return True

    def lock(self, wait=False):
        """Hold this run alone, until the block or the process ends. A second process is refused, or waits."""

        def busy(owner):
            if not wait:
                raise InputError(f"{self.title} is being trained by process {owner}; wait for it")
            print(f"{self.title} is being trained by process {owner}; waiting for it", flush=True)

        return file_lock(self.folder / f".{self.stem}.lock", busy)

    def finish(self, model, record):
        """Commit the checkpoint and its record. The checkpoint's name comes last: that name means done."""

        def write(neighbour):
            model.save(neighbour)
            sync(neighbour)  # a full disk shows here, before an older checkpoint loses its record
            whole = {**record, "checkpoint_sha256": file_sha256(neighbour)}
            commit_json(self.path(".json"), {**whole, "record_sha256": record_sha256(whole)})

        commit(self.checkpoint, write)
        self.path("_predictions.npz").unlink(missing_ok=True)  # an older checkpoint's
        self.state.unlink(missing_ok=True)


def find_autoencoder(args, fold):
    """The finished autoencoder for these images, as (run, record): the one of this NAME, else the unnamed; else None.

    It may have been trained with any settings of its own, but on the same kept images, and with the encoder that a
    CONFIG asks for.
    """
    config = args.config[1] if args.config else {}
    for name in dict.fromkeys((args.name, None)):
        run = Run(options.autoencoder_name(args, fold.prefix, name))
        if run.checkpoint.exists():
            record = run.read_record()
            same_images = all(record["data"][key] == fold.record[key] for key in ("sha256", "kept_sha256"))
            if same_images and could_be_of(record, config):
                return run, record
    return None


# --- Training -------------------------------------------------------------------------------------------------------


class Progress(keras.callbacks.Callback):
    """One line an epoch; on a terminal also one that moves within the epoch. Stops a run whose loss is not finite."""

    def __init__(self, fold, epochs, steps, batch_size):
        super().__init__()
        self.epochs, self.steps, self.batch_size = epochs, steps, batch_size
        self.label = f"fold {fold}  " if fold else ""  # tells the folds of `make -j` apart
        # Within the epoch only on a terminal, and not under make -j, where many would share the one line.
        self.live = sys.stdout.isatty() and "jobserver" not in os.environ.get("MAKEFLAGS", "")
        self.first = True

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch + 1
        self.began = self.looked = time.perf_counter()
        self.trained = None

    def on_train_batch_end(self, batch, logs=None):
        raise_what_was_heard()
        now = time.perf_counter()
        if now - self.looked > 1:  # reading the loss makes a GPU wait, so not at every step
            self.looked = now
            self.require_finite(float(logs["loss"]))
            if self.live:
                done = 30 * (batch + 1) // self.steps
                rate = (batch + 1) * self.batch_size / (now - self.began)
                line = f"epoch {self.epoch}/{self.epochs}  [{'#' * done}{'.' * (30 - done)}]"
                print(f"\r{line}  loss {float(logs['loss']):.4f}  {rate:,.0f} images/s\033[K", end="", flush=True)

    def on_test_begin(self, logs=None):
        self.trained = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.require_finite(logs["loss"])
        self.require_finite(logs["val_loss"])
        seconds = time.perf_counter() - self.began
        logs["learning_rate"] = learning_rate(self.model)
        logs["seconds"] = seconds
        logs["images_per_second"] = self.steps * self.batch_size / (self.trained - self.began)
        score = "accuracy" if "accuracy" in logs else "psnr"
        form = ".4f" if score == "accuracy" else ".2f"
        if self.live:
            print("\r\033[K", end="")
        print(
            f"{self.label}epoch {self.epoch}/{self.epochs}  loss {logs['loss']:.4f}  {score} {logs[score]:{form}}  "
            f"val_loss {logs['val_loss']:.4f}  val_{score} {logs['val_' + score]:{form}}  "
            f"lr {logs['learning_rate']:.2g}  {logs['images_per_second']:,.0f} images/s  {seconds:.0f} s",
            flush=True,
        )
        left = self.epochs - self.epoch
        if self.first and left:
            print(f"{self.label}at most {duration(left * seconds)} to go; early stopping may end it sooner", flush=True)
        self.first = False

    def require_finite(self, loss):
        if not math.isfinite(loss):
            raise RunFailed(
                f"the loss became {loss} in epoch {self.epoch}; "
                f"start again with FORCE=1 and a smaller LR than {learning_rate(self.model):g}"
            )


def learning_rate(model):
    return float(ops.convert_to_numpy(model.optimizer.learning_rate))


def duration(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class KeepState(keras.callbacks.Callback):
    """Keeps the best weights, and commits after each epoch all that an exact continuation needs.

    The counters of early stopping and of the learning-rate schedule follow from the history, so a continued run replays
    the history through those callbacks instead of saving what is inside them.
    """

    def __init__(self, path, core, note, callbacks):
        super().__init__()
        self.path, self.core, self.note, self.replayed = path, core, note, callbacks
        self.history, self.best, self.finished = [], [], False

    def restore(self, note, groups):
        """Take up what Run.begun read."""
        weights, self.best, optimizer = groups
        try:
            self.core.set_weights(weights)
            for variable, value in zip(self.model.optimizer.variables, optimizer, strict=True):
                variable.assign(value)
        except ValueError:
            raise InputError(
                f"{self.path} is of another version of this code: finish it with that, or FORCE=1 starts it again"
            ) from None
        self.history, self.finished = note["history"], note["finished"]
        if note["machine"] != self.note["machine"]:
            print(
                f"begun with {note['machine']}, now {self.note['machine']}: "
                "it goes on, but no longer bit for bit as it would have there"
            )

    def on_train_begin(self, logs=None):
        # From the first epoch's rate, which the schedule lowers again as it did; the state's is lowered already.
        self.model.optimizer.learning_rate = self.note["settings"]["learning_rate"]
        for callback in self.replayed:  # their own on_train_begin, which forgets, has run: this callback comes last
            for epoch, past in enumerate(self.history):
                callback.on_epoch_end(epoch, dict(past))

    def on_epoch_end(self, epoch, logs=None):
        self.history.append({key: float(value) for key, value in logs.items()})
        if best_epoch(self.history, self.note["settings"]["monitor"]) == epoch:
            self.best = self.core.get_weights()
        self.finished = bool(self.model.stop_training) or epoch + 1 == self.note["settings"]["epochs"]
        self.commit()

    def commit(self):
        optimizer = [ops.convert_to_numpy(variable) for variable in self.model.optimizer.variables]
        groups = {"weights": self.core.get_weights(), "best": self.best, "optimizer": optimizer}
        note = {
            **self.note,
            "history": self.history,
            "finished": self.finished,
            **{group: len(arrays) for group, arrays in groups.items()},
        }
        arrays = {f"{group}{i}": array for group, members in groups.items() for i, array in enumerate(members)}
        commit_arrays(self.path, note=np.frombuffer(json.dumps(note).encode(), np.uint8), **arrays)


def best_epoch(history, monitor):
    """Index of the best of the epochs' figures by what is watched, of equals the first."""
    watched = [figures[monitor] for figures in history]
    return watched.index(min(watched) if monitor == "val_loss" else max(watched))


def resolved_settings(name, recipe, fold, **more):
    """Everything that the result follows from, as it goes into the record, and as CONFIG takes it."""
    data_keys = ("split", "val", "reduced", "keep", "sha256", "kept_sha256", "train_sha256")
    return {"model": name, **settings_of(recipe), **{key: fold.record[key] for key in data_keys}, **more}


def train(name, recipe, run, fold, force=False, prepare=None, **more):
    """Train on `fold` what the recipe called `name` says; write checkpoint and record, going on from a state.

    `more` are the settings that the result follows from besides the recipe's. `prepare(model)` may put weights into the
    new model and freeze layers; what it returns goes into the record. Does nothing where the run is finished with the
    same settings, unless `force`.
    """
    settings = resolved_settings(name, recipe, fold, **more)
    begun = None if force else run.begun(settings)
    if not force and not begun and run.already_finished(settings):
        return
    number = run.fold or 1
    device, _ = set_up_device()
    precision, reason = resolve_precision(recipe.precision)
    if begun and begun[0]["precision"] != precision:
        precision, reason = begun[0]["precision"], "as this training was begun"
    keras.utils.set_random_seed(int(draw(recipe.seed, "weights", number).integers(2**32)))
    model = finished_model(recipe, len(fold.class_names), run.name)
    notes = prepare(model) if prepare else {}
    record = {
        "run": run.name,
        "fold": run.fold,
        "settings": settings,
        "data": fold.record,
        "parameters": model.count_params(),
        "trainable_parameters": count_trainable(model),
        **notes,
        "device": device,
        "precision": precision,
        "precision_reason": reason,
        "versions": versions(),
        "commit": current_commit(),
    }
    print(f"model: {run.title}, {record['parameters']:,} parameters, {record['trainable_parameters']:,} trainable")
    backend = f"{keras.backend.backend()} {record['versions'][keras.backend.backend()]}"
    print(f"device: {device}; {precision} ({reason}); Keras {keras.__version__} on {backend}", flush=True)

    # What equality bit for bit takes.
    machine = f"{processor_name()}, {device}, Keras {keras.__version__} on {backend}, code {code_sha256()[:8]}"
    note = {"settings": settings, "precision": precision, "machine": machine}
    state = fit(model, run, fold, recipe, note, begun, force)
    history = {key: [logs[key] for logs in state.history] for key in state.history[0]}
    best = best_epoch(state.history, recipe.monitor)
    record |= {
        "history": history,
        "best_epoch": best + 1,
        "seconds": sum(history["seconds"]),
        "images_per_second": float(np.median(history["images_per_second"])),
    }
    run.finish(model, record)
    score = "val_psnr" if "val_psnr" in history else "val_accuracy"
    print(
        f"{run.checkpoint}: best epoch {best + 1} of {len(state.history)}, val_loss {history['val_loss'][best]:.4f}, "
        f"{score} {history[score][best]:.4f}, {duration(record['seconds'])}"
    )


def fit(model, run, fold, recipe, note, begun, anew):
    """Bring `model` to the weights of its best epoch; returns the KeepState with the history."""
    settings, number = note["settings"], run.fold or 1
    ranges = recipe.ranges if settings.get("augment", True) else Ranges()
    training, core = training_model(model, ranges, note["precision"], settings.get("target"))
    compile_model(training, new_optimizer(recipe.optimizer, recipe.learning_rate), recipe.loss)
    training.optimizer.build(training.trainable_variables)

    callbacks = []
    if recipe.patience:
        mode = "min" if recipe.monitor == "val_loss" else "max"
        callbacks.append(keras.callbacks.EarlyStopping(monitor=recipe.monitor, patience=recipe.patience, mode=mode))
    if recipe.schedule == "plateau":
        callbacks.append(
            keras.callbacks.ReduceLROnPlateau(monitor="val_loss", factor=0.3, patience=10, min_lr=1e-4, cooldown=1)
        )
    elif recipe.schedule:
        callbacks.append(
            keras.callbacks.LearningRateScheduler(lambda epoch: recipe.learning_rate * recipe.schedule**epoch)
        )
    state = KeepState(run.state, core, note, callbacks)
    state.set_model(training)
    if begun:
        state.restore(*begun)
    elif anew:  # at once, so that the same command without FORCE=1 goes on with this, not with what it will replace
        state.commit()
    done = len(state.history)
    if done:
        print(f"going on after epoch {done} of {run.state}")

    batches = BalancedBatches(fold.x_train, fold.y_train, recipe.batch_size, recipe.seed, number, recipe.balanced)
    steps = batches.steps_per_epoch
    batches.first_step = done * steps
    seed_layers(training, core, recipe.seed, number, done * steps)
    if not state.finished:
        training.fit(
            batches,
            steps_per_epoch=steps,
            epochs=recipe.epochs,
            initial_epoch=done,
            validation_data=(fold.x_val, fold.y_val),
            validation_batch_size=500,
            class_weight=class_weights(fold.y_train) if recipe.class_weights else None,
            callbacks=[Progress(run.fold, recipe.epochs, steps, recipe.batch_size), *callbacks, state],
            shuffle=False,  # the batches are drawn already
            verbose=0,
        )
    core.set_weights(state.best)
    copy_weights(model, core)
    return state


def class_weights(labels):
    """{class: images / (classes * images of the class)}, by which a class's losses are multiplied."""
    classes = np.unique(labels)
    return dict(zip(classes.tolist(), compute_class_weight("balanced", classes=classes, y=labels), strict=True))
