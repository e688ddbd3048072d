"""The subject: from pictures to figures, in the order in which an image meets it.

the imbalance -> the split -> balanced batches -> augmentation -> networks -> metrics.
"""

import dataclasses
import functools
import math
import zlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from data import IMAGE_SHAPE, count_known, load_data
from util.backend import Later, keras, layers, ops
from util.cli import InputError
from util.files import first_line, sha256
from util.options import Part, setting

image_metrics, metrics, model_selection = map(Later, ("skimage.metrics", "sklearn.metrics", "sklearn.model_selection"))


def rng(seed, *key):
    """A numpy generator that depends on `seed` and on what is drawn (`key`: words and numbers), on nothing else."""
    return np.random.default_rng([seed, *(zlib.crc32(k.encode()) if isinstance(k, str) else k for k in key)])


class Augmentation(Part):
    """How far augmentation goes, at random and in either direction; 0 or false leaves that out."""

    rotation: float = setting(0.0, "degrees", ge=0, le=180)
    shift: float = setting(0.0, "share of the picture's height and width", ge=0, le=1)
    shear: float = setting(0.0, "degrees", ge=0, lt=90)
    zoom: float = setting(0.0, "each axis times 1 - zoom to 1 + zoom", ge=0, lt=1)
    pixels: int = setting(0, "whole pixels, over mirrored edges", ge=0, le=16)
    cutout: int = setting(0, "a square of this side takes the picture's mean colour", ge=0, le=32)
    flip: bool | Literal["alternating"] = setting(
        False, "left to right, every other picture; alternating: each picture every other time it comes"
    )


# --- The imbalance, and the split -------------------------------------------------------------------------------------


def class_numbers(words, class_names):
    """The numbers of classes given by name or number: ['bird', '4', 9] -> [2, 4, 9].

    Raises InputError where the data does not have a class.
    """
    numbers, known = [], [str(number) for number in range(len(class_names))]
    for word in words:
        if word in class_names:
            numbers.append(class_names.index(word))
        elif str(word) in known:
            numbers.append(int(word))
        else:
            there = ", ".join(f"{number} {name}" for number, name in enumerate(class_names))
            raise InputError(f"REDUCED names a class {str(word)[:80]!r} that the data does not have; it has {there}")
    return numbers


def counts_to_keep(settings, data):
    """{class: how many of its images to keep, None for half of them}, by ascending class, from `reduced` and `keep`.

    Raises InputError where the two settings do not go together.
    """
    reduced = class_numbers(data.halved if settings.reduced is None else settings.reduced, data.class_names)
    if settings.keep and not reduced:
        raise InputError("KEEP says how many images to keep, and no class is reduced: name some with REDUCED")
    if not isinstance(settings.keep, list):
        return dict.fromkeys(sorted(reduced), settings.keep)
    if len(settings.keep) != len(reduced):
        raise InputError(
            f"CONFIG keeps images of {len(settings.keep)} classes, and {len(reduced)} are reduced; give each a number"
        )
    if len(set(reduced)) < len(reduced):
        raise InputError("CONFIG reduces a class twice, and keeps a number of images of each; name it once")
    return dict(sorted(zip(reduced, settings.keep, strict=True)))


def reduce_classes(labels, keep, seed):
    """Indices, ascending, of the images kept: of each class in `keep` so many at random, or half of them for None.

    Of other classes all images are kept. The choice depends on `seed` alone, so every model and every fold of a study
    works on the same images. Raises InputError where a class has too few images.
    """
    kept = np.ones(len(labels), bool)
    for number, count in keep.items():
        members = np.flatnonzero(labels == number)
        count = len(members) // 2 if count is None else count
        if not 2 <= count <= len(members):
            raise InputError(
                f"{count} images of class {number} cannot be kept: it has {len(members)}, and at least 2 have to stay; "
                "change KEEP or REDUCED"
            )
        kept[rng(seed, "keep", number).permutation(members)[count:]] = False
    return np.flatnonzero(kept)


def split_fold(labels, fold, share, seed, split="shuffle"):
    """(train, validation) indices of the `fold`-th stratified shuffle split, counted from 1, with `share` held out.

    Fold k is the same whatever other folds are asked for. With `split` 'first' or 'last', the first or the last images
    are held out, whatever the fold and the seed. Raises InputError where a class is too small to split.
    """
    if split == "shuffle":
        try:
            splits = model_selection.StratifiedShuffleSplit(n_splits=fold, test_size=share, random_state=seed)
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


def labelled_rows(labels, share, seed, fold):
    """Indices, ascending, of the images whose labels may be seen: the same share of each class, and at least one image.

    The images of a smaller share are among the images of a larger share.
    """
    rows, order = [], rng(seed, "labelled", fold).permutation(len(labels))
    for number in np.unique(labels):
        members = order[labels[order] == number]
        rows.extend(members[: max(1, round(share * len(members)))])
    return np.sort(rows)


TURNS = ("0 degrees", "90 degrees", "180 degrees", "270 degrees")


def turn(images, quarters):
    """Pictures (n, side, side, channels), each turned anticlockwise by its number of quarter turns, 0 to 3."""
    turned = np.empty_like(images)
    for quarter in range(4):
        turned[quarters == quarter] = np.rot90(images[quarters == quarter], quarter, axes=(1, 2))
    return turned


def turn_in_order(images):
    """(Pictures turned by 0, 1, 2, 3, 0, 1, ... quarter turns, the numbers of turns), for validation and test."""
    quarters = np.arange(len(images)) % 4
    return turn(images, quarters), quarters


@dataclasses.dataclass
class Fold:
    """The uint8 images and the labels of one fold, and the record of where they come from."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_val: np.ndarray
    y_val: np.ndarray
    class_names: tuple
    prefix: str
    record: dict


def prepare_fold(source, settings, fold=None):
    """Load, reduce and split the training data as the settings say, and print a line about the result.

    Without a `fold`, the split is the one that the settings name, and for 'shuffle' the first fold.
    """
    data = load_data(source)
    split, number = (settings.split, 1) if fold is None else ("shuffle", fold)
    keep = counts_to_keep(settings, data)
    kept = reduce_classes(data.labels, keep, settings.seed)
    train, val = (kept[rows] for rows in split_fold(data.labels[kept], number, settings.val, settings.seed, split))
    train = train[labelled_rows(data.labels[train], settings.labelled, settings.seed, number)]
    classes, turned = len(data.class_names), settings.task == "turns"
    record = {
        "source": data.source,
        "sha256": data.sha256,
        "kept_sha256": sha256(kept),
        "train_sha256": sha256(train),
        "val_sha256": sha256(val),
        "class_names": list(TURNS if turned else data.class_names),
        "split": split,
        "val": settings.val,
        "reduced": list(keep),
        "keep": [int((data.labels[kept] == number).sum()) for number in keep],
        "train_counts": np.bincount(data.labels[train], minlength=classes).tolist(),
        "val_counts": np.bincount(data.labels[val], minlength=classes).tolist(),
    }
    cut = ", ".join(f"{data.class_names[c]} {n:,}" for c, n in zip(keep, record["keep"], strict=True))
    if settings.reduced is None and not keep:
        cut = "no class is reduced without REDUCED"
    held_out = f"fold {number}" if split == "shuffle" else f"{split} {settings.val:.0%} held out"
    print(
        f"data: {data.source}, {len(kept):,} of {len(data.labels):,} images{f' ({cut})' if cut else ''}; "
        f"{held_out}: {len(train):,} train, {len(val):,} validation"
    )
    if count := count_known(data.images[val], data.images[train]):
        print(f"note: {count:,} of the {len(val):,} validation pictures are training pictures, too")
    validation = turn_in_order(data.images[val]) if turned else (data.images[val], data.labels[val])
    arrays = data.images[train], data.labels[train], *validation
    return Fold(*arrays, tuple(record["class_names"]), data.prefix, record)


# --- Balanced batches -----------------------------------------------------------------------------------------------


class BalancedBatches:
    """Endless training batches with equal class counts: ((batch, 32, 32, 3) uint8, (batch,) labels) for each step.

    The batches are cut from an endless stream of images whose slot `step * batch_size + j` belongs to class
    `slot % classes`. A batch of 128 so holds each of ten classes 12 or 13 times, and the classes that come 13 times
    rotate. The images of a class come in random permutations, one permutation after another, so no image comes a third
    time before every image of its class has come twice. With `balanced=False` all images are treated as one class,
    which is plain shuffling.

    With `alternating`, an image is mirrored left to right every other time that it comes, and whether it is mirrored
    the first time is drawn at random (Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU). With independent
    flips, some images would be seen from the same side for several epochs.

    A batch is a pure function of (seed, fold, step), whatever the epoch, the order of calls or the worker.
    """

    def __init__(self, images, labels, batch_size, seed=0, fold=1, balanced=True, alternating=False):
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.mirrored_first = rng(seed, "mirrored", fold).integers(2, size=len(labels)) if alternating else None
        self.groups = [np.flatnonzero(labels == c) for c in np.unique(labels)] if balanced else [np.arange(len(labels))]
        self.steps_per_epoch = max(1, len(self.groups) * max(map(len, self.groups)) // batch_size)
        # Most batches use one or two permutations of each group, and the cache holds three.
        self.permutation = functools.lru_cache(3 * len(self.groups))(
            lambda group, time: rng(seed, "batches", fold, group, time).permutation(self.groups[group])
        )

    def rows(self, step):
        """Indices of the images of batch `step`, and how many times each came before: two arrays (batch,)."""
        slots = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        rows, times = np.empty((2, self.batch_size), np.int64)
        for group, members in enumerate(self.groups):
            mine = np.flatnonzero(slots % len(self.groups) == group)
            times[mine], places = np.divmod(slots[mine] // len(self.groups), len(members))
            for time in np.unique(times[mine]):
                now = times[mine] == time
                rows[mine[now]] = self.permutation(group, int(time))[places[now]]
        return rows, times

    def __getitem__(self, step):
        rows, times = self.rows(step)
        images = self.images[rows]
        if self.mirrored_first is not None:
            mirrored = (self.mirrored_first[rows] + times) % 2 == 1
            images[mirrored] = images[mirrored, :, ::-1]
        return images, self.labels[rows]


class TurnedBatches:
    """Batches of pictures turned at random by 0 to 3 quarter turns; the number of turns replaces the label.

    A network that learns to tell the turns learns about pictures without their labels (Gidaris et al. 2018,
    Unsupervised Representation Learning by Predicting Image Rotations). BalancedBatches has mirrored the pictures
    already: a picture that is mirrored after a quarter turn looks as if it had been turned the other way.
    """

    def __init__(self, batches, seed=0, fold=1):
        self.batches, self.seed, self.fold = batches, seed, fold
        self.steps_per_epoch = batches.steps_per_epoch

    def __getitem__(self, step):
        images, _ = self.batches[step]
        quarters = rng(self.seed, "turns", self.fold, step).integers(4, size=len(images))
        return turn(images, quarters), quarters


# --- Augmentation ---------------------------------------------------------------------------------------------------


def affine_parameters(uniform, augmentation):
    """Uniform numbers in [0, 1), (batch, 7) -> (angle, shift_x, shift_y, shear, zoom_x, zoom_y, flip), each (batch,).

    Each parameter is uniform over its range. Angle and shear are in radians, shifts are shares of the picture's side,
    and flip is -1 or 1.
    """
    u = [uniform[:, column] for column in range(7)]
    radians = math.pi / 180
    return (
        (2 * u[0] - 1) * augmentation.rotation * radians,
        (2 * u[1] - 1) * augmentation.shift,
        (2 * u[2] - 1) * augmentation.shift,
        (2 * u[3] - 1) * augmentation.shear * radians,
        1 + (2 * u[4] - 1) * augmentation.zoom,
        1 + (2 * u[5] - 1) * augmentation.zoom,
        ops.where(u[6] < 0.5, -1.0, 1.0) if augmentation.flip is True else ops.ones_like(u[6]),
    )


def affine_matrices(parameters, height, width):
    """Rows [a0 a1 a2 b0 b1 b2 0 0], (batch, 8): output pixel (x, y) is input (a0 x + a1 y + a2, b0 x + b1 y + b2).

    Each row is the product rotation . shift . shear . zoom . flip about the picture's centre, in the order of the
    study's generator.
    """
    angle, shift_x, shift_y, shear, zoom_x, zoom_y, flip = parameters
    cos, sin = ops.cos(angle), ops.sin(angle)
    center_x, center_y = (width - 1) / 2, (height - 1) / 2
    # The entries of shear . zoom . flip, in (x, y). The study's shear scales x by cos and moves y by -sin.
    sheared_xx, sheared_yx = ops.cos(shear) * zoom_x * flip, -ops.sin(shear) * zoom_x * flip
    sheared_yy = zoom_y
    shift_x, shift_y = shift_x * width, shift_y * height
    # The study rotates (row, column) coordinates, which in (x, y) is a rotation the other way round.
    a0, a1 = cos * sheared_xx + sin * sheared_yx, sin * sheared_yy
    b0, b1 = -sin * sheared_xx + cos * sheared_yx, cos * sheared_yy
    a2 = center_x + cos * shift_x + sin * shift_y - a0 * center_x - a1 * center_y
    b2 = center_y - sin * shift_x + cos * shift_y - b0 * center_x - b1 * center_y
    zero = ops.zeros_like(a0)
    return ops.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)


def transform_affinely(images, seeds, augmentation):
    """Rotation, shift, shear, zoom and flip by one matrix and one bilinear interpolation a picture; edges repeat."""
    ranges = augmentation.rotation, augmentation.shift, augmentation.shear, augmentation.zoom
    if not any(ranges) and augmentation.flip is not True:
        return images
    uniform = keras.random.uniform((ops.shape(images)[0], 7), seed=seeds)
    matrices = affine_matrices(affine_parameters(uniform, augmentation), *images.shape[1:3])
    return ops.image.affine_transform(images, matrices, interpolation="bilinear", fill_mode="nearest")


def shift_whole_pixels(images, seeds, augmentation):
    """Shifts by a whole number of pixels along each axis; what comes in at an edge mirrors the picture beside it."""
    reach, (height, width) = augmentation.pixels, images.shape[1:3]
    if not reach:
        return images
    start = ops.cast(keras.random.randint((ops.shape(images)[0], 2), 0, 2 * reach + 1, seed=seeds), "float32")
    zero = ops.zeros_like(start[:, 0])
    matrices = ops.stack([zero + 1, zero, start[:, 0], zero, zero + 1, start[:, 1], zero, zero], axis=1)
    padded = ops.pad(images, [[0, 0], [reach, reach], [reach, reach], [0, 0]], mode="reflect")
    return ops.image.affine_transform(padded, matrices, interpolation="nearest")[:, :height, :width]


def cut_out(images, seeds, augmentation):
    """Fills a square, which may lie partly outside, with the picture's mean colour.

    DeVries and Taylor 2017, Improved Regularization of Convolutional Neural Networks with Cutout.
    """
    side = augmentation.cutout
    if not side:
        return images
    height, width = images.shape[1:3]
    shares = keras.random.uniform((ops.shape(images)[0], 2), seed=seeds)

    def within(size, share):  # (batch, size): whether the square covers a row or a column
        first = ops.floor(share[:, None] * (size + side - 1)) - (side - 1)
        place = ops.arange(size, dtype="float32")[None]
        return ops.logical_and(place >= first, place < first + side)

    square = ops.logical_and(within(height, shares[:, 0])[:, :, None], within(width, shares[:, 1])[:, None, :])
    return ops.where(square[..., None], ops.mean(images, axis=(1, 2), keepdims=True), images)


# Applied in this order; an operation takes (batch, 32, 32, 3) float32 pictures, a Keras SeedGenerator and an
# Augmentation, and returns pictures. Where its settings are 0, it returns the same pictures and draws no number.
AUGMENTATIONS = (transform_affinely, shift_whole_pixels, cut_out)


def augment(images, generator, augmentation):
    """Random augmentation by all of AUGMENTATIONS: (batch, 32, 32, 3) 0-255 -> the same shape, float32."""
    images = ops.cast(images, "float32")
    for operation in AUGMENTATIONS:
        images = operation(images, generator, augmentation)
    return images


# --- Networks -------------------------------------------------------------------------------------------------------
# A builder takes scaled pictures, the number of classes, and the settings of its network if it has any. It returns the
# network's output. Layers may branch and join. `finished_model` makes a model of it.


def dense_head(x, classes):
    x = layers.Dense(512, activation="relu", name="dense1")(x)
    x = layers.Dropout(0.4, name="dropout")(x)
    x = layers.Dense(64, activation="relu", name="dense2")(x)
    return layers.Dense(classes, activation="softmax", name="probabilities")(x)


def build_cnn(x, classes):
    """The study's CNN: (batch, height, width, channels) -> (batch, classes) probabilities."""
    for block in (1, 2):
        x = layers.Conv2D(64, 3, padding="same", name=f"conv{block}")(x)
        x = layers.BatchNormalization(name=f"norm{block}")(x)
        # The study has ReLU before pooling. The result is the same, and ReLU has a quarter of the values.
        x = layers.MaxPooling2D(name=f"pool{block}")(x)
        x = layers.ReLU(name=f"relu{block}")(x)
    return dense_head(layers.Flatten(name="flatten")(x), classes)


def conv_relu_norms(x, filters, depth, block, batch_norm=True, kernel_l1=0.0, kernel_l2=0.0):
    penalty = {"class_name": "L1L2", "config": {"l1": kernel_l1, "l2": kernel_l2}} if kernel_l1 or kernel_l2 else None
    kind = {"padding": "same", "activation": "relu", "kernel_regularizer": penalty}
    for layer in range(1, depth + 1):
        x = layers.Conv2D(filters, 3, **kind, name=f"{block}_conv{layer}")(x)
        if batch_norm:
            x = layers.BatchNormalization(name=f"{block}_norm{layer}")(x)
    return x


def build_encoder(x):
    """VGG-like encoder with ReLU before batch normalisation: (batch, 32, 32, 3) -> code (batch, 8, 8, 256)."""
    for block, filters in (("block1", 64), ("block2", 128)):
        x = conv_relu_norms(x, filters, 2, block)
        x = layers.MaxPooling2D(name=f"{block}_pool")(x)
        x = layers.Dropout(0.3, name=f"{block}_dropout")(x)
    return conv_relu_norms(x, 256, 3, "block3")


ENCODER_END = "block3_norm3"  # the last layer of build_encoder


def build_autoencoder(x, classes):
    """The study's autoencoder: (batch, 32, 32, 3) -> its reconstruction, the same shape, in [0, 1]."""
    x = conv_relu_norms(build_encoder(x), 256, 3, "block4")
    for block, filters in (("block5", 128), ("block6", 64)):
        x = conv_relu_norms(x, filters, 2, block)
        x = layers.UpSampling2D(name=f"{block}_upsample")(x)
    return layers.Conv2D(3, 3, padding="same", activation="sigmoid", name="reconstruction")(x)


def build_ae_classifier(x, classes):
    """The CNN on the encoder's code: (batch, 32, 32, 3) -> (batch, classes) probabilities."""
    return build_cnn(build_encoder(x), classes)


def build_modified_ae_classifier(x, classes):
    """Dense layers on the encoder's code: (batch, 32, 32, 3) -> (batch, classes) probabilities."""
    return dense_head(layers.Flatten(name="flatten")(build_encoder(x)), classes)


def fast_block(x, filters, block):
    for layer in (1, 2):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"block{block}_conv{layer}")(x)
        if layer == 1:
            x = layers.MaxPooling2D(name=f"block{block}_pool")(x)
        x = layers.BatchNormalization(scale=False, name=f"block{block}_norm{layer}")(x)
        x = layers.Activation("silu", name=f"block{block}_silu{layer}")(x)
    return x


def build_fast_encoder(x):
    """Whitened patches, then two blocks of two convolutions: (batch, 32, 32, 3) -> code (batch, 7, 7, 256).

    After Jordan 2024, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU. `start_fast` sets the first weights.
    """
    x = layers.Conv2D(24, 2, use_bias=False, trainable=False, name="whiten")(x)
    x = layers.Activation("silu", name="silu")(x)
    return fast_block(fast_block(x, 64, 1), 256, 2)


FAST_ENCODER_END = "block2_norm2"  # the last layer of build_fast_encoder that has weights


def build_fast(x, classes):
    """The fast encoder, a third block and a linear layer: (batch, 32, 32, 3) -> (batch, classes) probabilities."""
    x = layers.GlobalMaxPooling2D(name="max")(fast_block(build_fast_encoder(x), 256, 3))
    x = layers.Dense(classes, use_bias=False, name="logits")(x)
    return layers.Softmax(name="probabilities")(layers.Rescaling(1 / 9, name="soften")(x))


def build_fast_autoencoder(x, classes, *, code_width):
    """The fast encoder, then transposed convolutions: (batch, 32, 32, 3) -> its reconstruction, in [0, 1].

    With a `code_width`, a 1x1 convolution reduces the code to so many channels before the decoder.
    """
    x = build_fast_encoder(x)
    if code_width:
        x = layers.Conv2D(code_width, 1, name="narrow")(x)
    for block, filters in ((3, 64), (4, 24)):  # to 15 x 15 and 31 x 31
        x = layers.Conv2DTranspose(filters, 3, strides=2, use_bias=False, name=f"block{block}_conv")(x)
        x = layers.BatchNormalization(scale=False, name=f"block{block}_norm")(x)
        x = layers.Activation("silu", name=f"block{block}_silu")(x)
    return layers.Conv2DTranspose(3, 2, activation="sigmoid", name="reconstruction")(x)


def whitening(images):
    """Kernel of a convolution that whitens 2x2 patches of (n, height, width, channels) pictures.

    Shape (2, 2, channels, filters). The filters are the eigenvectors of the patches' second moments, each divided by
    the square root of its eigenvalue, and the negatives of these. They are the principal components of the patches
    without centring: the encoder that a linear autoencoder would learn, scaled to a code of unit power.
    """
    patches = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    rows = patches.reshape(-1, 4 * images.shape[-1])
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    kernel = (vectors / np.sqrt(values + 5e-4)).reshape(2, 2, images.shape[-1], -1)
    return np.concatenate([kernel, -kernel], axis=-1)


def start_fast(model, images):
    """Set the first weights of a network on build_fast_encoder: whitening, and convolutions that begin as identities.

    Of each 3x3 convolution, the first filters, as many as there are input channels, each pass on one channel (Dirac
    initialisation). The other filters stay random.
    """
    scaled = ops.convert_to_numpy(model.get_layer("rescale")(images))
    model.get_layer("whiten").set_weights([whitening(scaled)])
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == (3, 3):
            (kernel,) = layer.get_weights()
            channels = np.arange(min(kernel.shape[2:]))
            kernel[..., : len(channels)] = 0
            kernel[1, 1, channels, channels] = 1
            layer.set_weights([kernel])


# --- From network to model, from autoencoder to classifier ------------------------------------------------------------


def finished_model(build, settings, classes, name):
    """The model that is kept: stock Keras layers in float32, not compiled, for pictures with values from 0 to 255."""
    image = keras.Input(IMAGE_SHAPE, name="image")
    scaled = layers.Rescaling(settings.scale, settings.offset, name="rescale")(image)
    return keras.Model(image, build(scaled, classes, **settings.network.model_dump()), name=name)


def layers_up_to(model, last):
    """The layers with weights from the input to the layer named `last`, in order and with that layer."""
    return [layer for layer in keras.Model(model.input, model.get_layer(last).output).layers if layer.weights]


def end_of_block(model, block):
    """The name of the last layer with weights in an encoder's block, whose layers are called block<k>_...

    Raises InputError where there is no such block.
    """
    names = [layer.name for layer in model.layers if layer.weights and layer.name.startswith(f"block{block}_")]
    if not names:
        raise InputError(f"encoder_blocks = {block}: this network has no block {block}; choose fewer")
    return names[-1]


def take_weights(target, source, last):
    """Copy the weights of the layers up to the one named `last` from `source` to `target`, by name.

    Returns the names of the layers. Raises InputError where `source` lacks a layer or has one of another shape.
    """
    taken = layers_up_to(target, last)
    for layer in taken:
        try:
            layer.set_weights(source.get_layer(layer.name).get_weights())
        except ValueError as error:
            raise InputError(
                f"{source.name} has no layer {layer.name!r} that fits this network ({first_line(error)}): "
                "take the encoder from a run of the same ARCH"
            ) from None
    return [layer.name for layer in taken]


def freeze(model, last):
    """Freeze the layers with weights up to the one named `last`; returns their names."""
    frozen = layers_up_to(model, last)
    for layer in frozen:
        layer.trainable = False
    return [layer.name for layer in frozen]


def count_trainable(model):
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


# --- Views of a picture ---------------------------------------------------------------------------------------------

VIEWS = ("one", "mirror", "six")


def views(images, kind):
    """Views of pictures (n, height, width, channels), over which a classifier's probabilities may be averaged.

    `one`: the pictures as they are. `mirror`: these and their mirror images. `six`: these two, and the pictures shifted
    by one pixel diagonally, up-left and down-right over reflected edges, each with its mirror image: after Jordan 2024,
    94% on CIFAR-10 in 3.29 Seconds on a Single GPU, where views that are not shifted weigh twice as much.
    """
    seen = [images]
    if kind == "six":
        padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
        seen += [padded[:, 2:, 2:], padded[:, :-2, :-2]]
    return seen if kind == "one" else [view for one in seen for view in (one, one[:, :, ::-1])]


# --- Metrics ----------------------------------------------------------------------------------------------------------


def accuracy(labels, probabilities):
    return metrics.accuracy_score(labels, probabilities.argmax(axis=1))


def calibration_error(labels, probabilities, bins=15):
    """Expected calibration error (Guo et al. 2017, On Calibration of Modern Neural Networks).

    Pictures are put into `bins` equal intervals by the probability of their predicted class. The error of an interval
    is the difference between its accuracy and its mean probability; the result is the mean over pictures.
    """
    sure, right = probabilities.max(axis=1).astype(np.float64), probabilities.argmax(axis=1) == labels
    members = np.minimum((sure * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(members, weights=right - sure)).sum() / len(labels))


def log_loss(labels, probabilities):
    """Cross-entropy. Keras's float32 probabilities add up to 1 only approximately, so they are normalised first."""
    exact = probabilities.astype(np.float64)
    return metrics.log_loss(labels, exact / exact.sum(axis=1, keepdims=True), labels=np.arange(exact.shape[1]))


def recall(labels, probabilities):
    """The share of each class's pictures that are recognised: (classes,)."""
    classes = np.arange(probabilities.shape[1])
    return metrics.recall_score(labels, probabilities.argmax(axis=1), labels=classes, average=None, zero_division=0)


def macro_f1(labels, probabilities):
    """The mean over classes of F1, the harmonic mean of precision and recall."""
    classes = np.arange(probabilities.shape[1])
    return metrics.f1_score(labels, probabilities.argmax(axis=1), labels=classes, average="macro", zero_division=0)


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a classifier: `of(labels (n,), probabilities (n, classes))` is a number, or one for each class."""

    of: Callable
    title: str = ""  # in summaries and comparisons; a metric without a title is only in the report's .json
    per_class: bool = False  # summaries and comparisons show it for the reduced classes


METRICS = {
    "accuracy": Metric(accuracy, "accuracy"),
    "loss": Metric(log_loss),
    "macro_f1": Metric(macro_f1, "macro F1"),
    "recall": Metric(recall, "recall", per_class=True),
    "calibration_error": Metric(calibration_error, "calibration error"),
}


def titled(figures, classes):
    """{title: figure} of a classifier's METRICS that have a title; a figure per class is given for these `classes`."""
    found = {}
    for key, metric in METRICS.items():
        if metric.title and key in figures and metric.per_class:
            found |= {f"{metric.title} {name}": figures[key][name] for name in classes}
        elif metric.title and key in figures:
            found[metric.title] = figures[key]
    return found


def psnr(originals, copies):
    """Peak signal-to-noise ratio of (n, height, width, 3) pictures in [0, 1]: (n,), in dB.

    At most 100, as in training: an exact copy's would be infinite, which JSON does not have.
    """
    error = np.mean((originals.astype(np.float64) - copies) ** 2, axis=(1, 2, 3))
    return -10 * np.log10(np.maximum(error, 1e-10))


def ssim(originals, copies, data_range=1.0):
    """Structural similarity of (n, height, width, 3) pictures: (n,).

    Wang et al. 2004, Image Quality Assessment: From Error Visibility to Structural Similarity.
    """
    pairs = zip(originals.astype(np.float64), copies.astype(np.float64), strict=True)
    similarity = image_metrics.structural_similarity
    return np.array([similarity(*pair, channel_axis=-1, data_range=data_range) for pair in pairs])


# The metrics of an autoencoder, by title: (originals, copies), pictures in [0, 1] -> a figure for each picture.
QUALITY = {
    "PSNR (dB)": psnr,
    "SSIM": ssim,
    "SSIM with the reference's data_range=2": lambda originals, copies: ssim(originals, copies, 2.0),
}
