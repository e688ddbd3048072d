"""What there is to choose: every knob and setting, once; the networks and how each is trained; the names of runs.

A field of Settings is a setting of a training: it stands in the record, and a CONFIG may give it. One with a knob can
be typed as well. A network is a builder in common.py or networks.py and a row of RECIPES.
"""

import dataclasses
import math
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import pydantic
from pydantic import Field

import common
import networks
from common import Augmentation
from data import source_of
from util.backend import ops
from util.cli import InputError
from util.options import Part, knob_of, merged, read_config, setting, with_config

CHECKPOINTS = Path("checkpoints")
IMAGES = Path("imgs")
MODELS = ("cnn", "autoencoder", "autoencoder_cls", "mod_autoencoder_cls")

# --- Which run --------------------------------------------------------------------------------------------------------

Encoder = Literal["frozen", "tuned", "scratch", "random"]
PRETRAINED = ("frozen", "tuned")  # those that take an autoencoder's weights
Target = Literal["augmented", "original"]
FilePath = Annotated[str, Field(min_length=1)]


def run_suffix(text):
    if any(text in archs for archs in ARCHS.values()) or re.fullmatch(
        r"noaug|original|cls|fold\d+|frozen|tuned|scratch|random|report|comparison", text
    ):
        raise ValueError(f"{text!r} is a word that run names hold already; choose another")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,40}", text):
        raise ValueError(f"{text!r} may hold letters, digits and '-' only, 40 at most")
    return text


RunSuffix = Annotated[str, pydantic.AfterValidator(run_suffix)]


class Choice(Part):
    """What chooses a run, of a CNN or any other model: its name says all of it."""

    arch: str | None = setting(None, "another network, which is trained in its own way", knob="ARCH")
    data: FilePath | None = setting(
        None, "a folder of pictures by class, a .npz, or digits; unset: CIFAR-10, downloaded once", knob="DATA"
    )
    name: RunSuffix | None = setting(None, "a suffix of the run's name, to keep runs side by side", knob="NAME")


class AutoencoderChoice(Choice):
    """What chooses an autoencoder, of itself or for a classifier on it."""

    noaug: bool = setting(
        False, "train the autoencoder without augmentation; for a classifier: build on that autoencoder", knob="NOAUG"
    )
    target: Target = setting(
        "augmented", "what the autoencoder reconstructs: the picture it sees, or the original", knob="TARGET"
    )


class ClassifierChoice(AutoencoderChoice):
    encoder: Encoder = setting(
        "frozen",
        "what happens to the classifier's encoder: frozen (pretrained, then frozen), tuned (pretrained, then "
        "fine-tuned); or a control: scratch (nothing is pretrained), random (frozen without ever being trained)",
        knob="ENCODER",
    )


class ModelChoice(ClassifierChoice):
    """What chooses a run of any model, for the scripts that use what is trained."""

    model: Literal[MODELS] = setting(..., "the model to evaluate, predict with or export", knob="MODEL")


class Training(Part):
    """What every script that trains may be told besides."""

    config: FilePath | None = setting(None, "a record, or settings like a record's, to train with", knob="CONFIG")
    force: bool = setting(False, "train again, and replace what is there when that is finished", knob="FORCE")


def fold_setting():
    return setting(None, "fold to train (unset: 1, or the one split of the ARCH)", ge=1, le=1000)


def views_setting():
    text = (
        "average a classifier's probabilities over several views of each picture: mirror (the picture and its mirror "
        "image), or six (these, and both shifted by a pixel diagonally, either way)"
    )
    return setting("one", text, knob="VIEWS")


# --- Settings of a training -------------------------------------------------------------------------------------------

LOW_RESOLUTION_SIDE = 24  # of the pictures that `low_resolution` is about
# Of the run that is done, a share from 0 to 1 -> the factor of the learning rate; `warmup` comes before.
SCHEDULES = {"linear": lambda share: 1 - share, "cosine": lambda share: (1 + ops.cos(math.pi * share)) / 2}


def class_list(value, info):
    """'bird,deer,truck' or '2,4,9' -> a list of words, 'none' -> []; a list stays. The data decides which there are."""
    if info.mode == "json" or not isinstance(value, str):
        return value
    words = [word.strip() for word in value.split(",")]
    if words == ["none"]:
        return []
    if not all(words):
        raise ValueError(f"{value!r} is not a list such as bird,deer,truck or 2,4,9, or none")
    return words


class OptimizerConfig(Part):
    """A Keras optimizer's configuration, as keras.optimizers.serialize gives it, but for the learning rate."""

    class_name: str
    config: dict[str, bool | int | float | str | list[str] | None] = Field({})

    @pydantic.model_validator(mode="before")
    @classmethod
    def without_where_keras_finds_it(cls, value):
        drop = ("module", "registered_name")
        return {key: one for key, one in value.items() if key not in drop} if isinstance(value, dict) else value

    @pydantic.field_validator("config")
    @classmethod
    def text_as_the_name_alone(cls, config):
        for key, value in config.items():
            if isinstance(value, str) and key != "name":  # which Keras may find out only in the first step
                raise ValueError(f"{key} is the text {value!r}, and Keras takes a number")
        return config


class Settings(Part):
    """What a training follows from, besides the code: a recipe's values, or those of CONFIG and the command line."""

    model: str = ""  # the row of RECIPES
    network: Part = setting(Part(), "the network's own settings, where it has any, as a dictionary")
    scale: float = setting(1 / 255, "the network sees each pixel, 0 to 255, multiplied by this number ...", gt=0)
    offset: float = setting(0.0, "... plus this number")
    augmentation: Augmentation = setting(
        Augmentation(rotation=40, shift=0.2, shear=0.2, zoom=0.2, flip=True),
        "how far augmentation goes, as a dictionary",
    )
    balanced: bool = setting(True, "whether batches hold the same number of images of each class")
    class_weights: bool = setting(
        False, "whether the loss of an image is multiplied by images / (classes x images of its class)"
    )
    reduced: Annotated[list[Annotated[int, Field(ge=0)] | str] | None, pydantic.BeforeValidator(class_list)] = setting(
        None,
        "classes of which only some images are kept, by name or number, or none (unset: bird,deer,truck of CIFAR-10 "
        "and 2,4,9 of the digits; no class of other pictures, nor for the CNNs of other documents)",
        knob="REDUCED",
    )
    keep: Annotated[int, Field(ge=2)] | list[Annotated[int, Field(ge=2)]] | None = setting(
        None, "how many images of each reduced class are kept (unset: half of them)", knob="KEEP"
    )
    task: Literal["classes", "turns"] = setting(
        "classes",
        "what the network learns to tell: classes, or turns (by how many quarter turns each picture was turned; labels "
        "are not used)",
        knob="TASK",
    )
    split: Literal["shuffle", "first", "last"] = setting(
        "shuffle", "which images validate: shuffle (drawn anew for each fold, stratified), first or last"
    )
    val: float = setting(0.15, "share of the images held out for validation", knob="VAL", gt=0, lt=1)
    validate_every: int = setting(1, "epochs from one validation to the next; the last epoch is always validated", ge=1)
    labelled: float = setting(
        1.0, "share of the training images that a classifier is trained on", knob="LABELLED", gt=0, le=1
    )
    seed: int = setting(0, "seed of all that is drawn at random", knob="SEED", ge=0, le=2**32 - 1)
    precision: Literal["auto", "float32", "mixed_bfloat16"] = setting(
        "auto", "float32, mixed_bfloat16, or auto: mixed_bfloat16 where the hardware is fast at it", knob="PRECISION"
    )
    loss: Literal["categorical_crossentropy"] = "categorical_crossentropy"
    logit_adjustment: float = setting(
        0.0,
        "while training, this number times the log of a class's share of the images is added to its logit",
        ge=0,
        le=10,
    )
    label_smoothing: float = setting(0.0, "share of each label that is spread over all classes", ge=0, lt=1)
    statistics: Literal["moving", "precise"] = setting(
        "precise",
        "batch normalisation's statistics: moving averages, or precise (computed anew from 2,000 training images "
        "without augmentation before each validation)",
    )
    low_resolution: float = setting(
        0.0, "share of the epochs, the first ones, that see pictures shrunk to 24x24", ge=0, lt=1
    )
    unaugmented: float = setting(
        0.4, "share of the epochs, the last ones, that augment by alternating flips alone", ge=0, lt=1
    )
    optimizer: Literal["adam", "adamax", "adamw", "nadam", "rmsprop", "sgd"] | OptimizerConfig = setting(
        "adam", "adam, adamax, adamw, nadam, rmsprop, sgd, or the configuration of a Keras optimizer"
    )
    learning_rate: float = setting(1e-3, "learning rate at the start, or after the warm-up", knob="LR", ge=0)
    bias_rate_factor: float = setting(1.0, "the learning rate of biases is multiplied by this number", gt=0)
    muon_rate_factor: float = setting(
        0.0, "above 0, convolutions learn by Muon, and their learning rate is multiplied by this number", ge=0
    )
    schedule: Literal[("plateau", *SCHEDULES)] | Annotated[float, Field(gt=0, le=1)] | None = setting(
        "linear",
        "how the learning rate falls: linear or cosine (to 0 at the end), plateau (times 0.3 after 10 epochs without a "
        "better val_loss), a number (times that number after each epoch), or null (not at all)",
    )
    warmup: float = setting(
        0.0, "share of the steps, the first ones, in which a linear or cosine schedule rises from 0", ge=0, lt=1
    )
    batch_size: int = setting(128, "images in a batch", knob="BATCH", ge=1, le=2**16)
    epochs: int = setting(30, "how many epochs to train at most", knob="EPOCHS", ge=1, le=10**6)
    monitor: Literal["val_loss", "val_accuracy"] = setting(
        "val_loss", "the figure that chooses the best epoch and stops training: val_loss, val_accuracy or val_psnr"
    )
    patience: Annotated[int, Field(ge=1, le=10**6)] | None = setting(
        None, "epochs without a better validation after which training stops (unset: never)", knob="PATIENCE"
    )
    # Of the pictures, the indices of those kept and of those trained on: what follows from the data.
    sha256: str | None = None
    kept_sha256: str | None = None
    train_sha256: str | None = None


class AutoencoderSettings(Settings):
    task: Literal["classes"] = "classes"  # there is no other: an autoencoder looks at no label
    class_weights: Literal[False] = False
    labelled: Literal[1.0] = 1.0
    logit_adjustment: Literal[0.0] = 0.0
    label_smoothing: Literal[0.0] = 0.0
    loss: Literal["mean_squared_error", "mean_absolute_error", "binary_crossentropy"] = setting(
        "mean_squared_error",
        "the loss of an autoencoder: mean_squared_error, mean_absolute_error or binary_crossentropy",
    )
    monitor: Literal["val_loss", "val_psnr"] = "val_loss"
    target: Target = "augmented"
    augment: bool = True
    noise: float = setting(
        0.0,
        "standard deviation of the noise on the picture that the network sees while training, as a share of 255; the "
        "target is the picture without noise (a denoising autoencoder)",
        ge=0,
        le=1,
    )
    masked: float = setting(
        0.0,
        "share of the squares of 4x4 pixels that are hidden from the network while training; the target is the whole "
        "picture (a masked autoencoder)",
        ge=0,
        lt=1,
    )


class ClassifierSettings(Settings):
    """Of a classifier on an encoder."""

    task: Literal["classes"] = "classes"
    encoder: Encoder = "frozen"
    encoder_blocks: int | None = setting(
        None,
        "how many blocks of the encoder are pretrained, and frozen if ENCODER says so (unset: the recipe's choice)",
        ge=1,
    )
    encoder_rate_factor: float = setting(
        1.0, "with ENCODER=tuned, the learning rate of the pretrained layers is multiplied by this number", gt=0, le=1
    )
    frozen_share: float = setting(
        0.0,
        "with ENCODER=tuned, share of the steps, the first ones, in which the pretrained layers do not change",
        ge=0,
        lt=1,
    )
    encoder_sha256: str | None = None  # of the file that the encoder's weights were taken from


class FastAutoencoder(Part):
    code_width: int = setting(0, "channels of 7x7 numbers that the decoder gets of the code; 0: all 256", ge=0)


class CaeEncoder(Part):
    """Settings of an encoder, and so of its autoencoder and its classifier."""

    blocks: int = setting(3, "blocks of convolutions", ge=1, le=5)
    layers_per_block: int = setting(2, "convolutions a block", ge=1, le=16)
    first_width: int = setting(32, "filters of the first block; each further one has twice as many", ge=1, le=1024)
    batch_norm: bool = setting(True, "batch normalisation after each convolution")
    dropout: float = setting(0.2, "dropout after each block", ge=0, lt=1)
    input_noise: float = setting(0.0, "standard deviation of Gaussian noise on the pictures", ge=0, le=1)
    hidden_noise: float = setting(0.0, "standard deviation of Gaussian noise after each block", ge=0, le=1)


class CaeAutoencoder(CaeEncoder):
    kernel_l1: float = setting(0.0, "penalty on the kernels of hidden convolutions", ge=0)
    kernel_l2: float = setting(0.0, "penalty on their squares", ge=0)
    activity_l1: float = setting(0.0, "penalty on the code", ge=0)
    activity_l2: float = setting(0.0, "penalty on its squares", ge=0)


class CaeClassifier(CaeEncoder):
    pooling: Literal["flatten", "max", "average"] = setting("flatten", "flatten, max or average")
    dense: bool = setting(True, "two dense layers before the last")
    head_batch_norm: bool = setting(True, "batch normalisation in the classifier")
    head_dropout: float = setting(0.0, "dropout after its dense layers", ge=0, lt=1)


# --- Recipes ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A network and how it is trained, where CONFIG and the command line say no other."""

    build: Callable
    settings: Settings
    frozen_until: str | None = None  # the encoder's last layer that is frozen, where ENCODER has some frozen
    encoder_end: str | None = None  # the encoder's last layer
    start: Callable | None = None  # puts first weights into the network, which follow from training images
    words: str = ""  # what plots and pages call the network, instead of its name


def row(build, kind=Settings, frozen_until=None, encoder_end=None, start=None, network=None, words="", **values):
    """A Recipe of `kind` with these settings; `network` is a Part, the defaults of what `build` takes besides."""
    if network:
        kind = pydantic.create_model(kind.__name__, __base__=kind, network=(type(network), setting(network, "")))
    return Recipe(build, kind(**values), frozen_until, encoder_end, start, words)


PLAIN = Augmentation()  # no augmentation
# How all but the study's own classifiers are trained: as Keras does by itself.
PLAINLY = {"unaugmented": 0.0, "schedule": None, "balanced": False}
# How the other documents train their CNNs: on the whole training set, with Keras's moving averages.
WHOLE = {**PLAINLY, "statistics": "moving", "reduced": []}
OVERFITTING = {**WHOLE, "scale": 1.0, "augmentation": PLAIN, "split": "last", "val": 0.2, "epochs": 20}
CAE = {**PLAINLY, "val": 0.22, "seed": 42, "batch_size": 64}

FAST_PIXELS = {
    "start": common.start_fast,
    "scale": 1 / 64,  # about CIFAR-10's mean 120.7 and deviation 64 of all channels
    "offset": -120.7 / 64,
    "balanced": False,
    "unaugmented": 0.0,
}
FAST = {
    **FAST_PIXELS,
    "augmentation": Augmentation(pixels=2, cutout=8, flip="alternating"),
    "logit_adjustment": 1.25,
    "label_smoothing": 0.2,
    "low_resolution": 0.7,
    "optimizer": {"class_name": "SGD", "config": {"momentum": 0.85, "nesterov": True, "weight_decay": 0.013}},
    "learning_rate": 1.0,
    "bias_rate_factor": 60,
    "muon_rate_factor": 0.3,
    "batch_size": 1000,
    "epochs": 18,
    "monitor": "val_accuracy",
}

# A model, or a model and an ARCH of it, with the values that differ from Settings'; sources in docs/networks.md.
RECIPES = {
    "cnn": row(common.build_cnn, words="plain CNN"),
    "cnn_fast": row(common.build_fast, words="fast CNN from scratch", **FAST),
    "cnn_elu": row(
        networks.build_elu,
        words="CNN with ELU",
        **WHOLE,
        augmentation=Augmentation(rotation=17, shift=0.08, flip=True),
        split="first",
        val=0.2,
        optimizer="nadam",
        learning_rate=2.5e-3,
        batch_size=64,
        epochs=200,
        monitor="val_accuracy",
        patience=35,
    ),
    "cnn_leaky": row(
        networks.build_leaky,
        words="CNN with leaky ReLU",
        **{**WHOLE, "schedule": 0.9},
        offset=-0.5,
        augmentation=PLAIN,
        optimizer="adamax",
        learning_rate=5e-3,
        batch_size=32,
        epochs=10,
    ),
    "cnn_pool3": row(networks.build_pool3, words="CNN with three poolings", **OVERFITTING),
    "cnn_wide5": row(networks.build_wide5, words="CNN with kernels of 5x5", **OVERFITTING),
    "cnn_dropout": row(networks.build_dropout, words="wide CNN with dropout", **{**OVERFITTING, "epochs": 30}),
    "autoencoder": row(
        common.build_autoencoder,
        AutoencoderSettings,
        words="large autoencoder",
        **PLAINLY,
        optimizer="rmsprop",
        epochs=100,
        patience=15,
    ),
    "autoencoder_cae": row(
        networks.build_cae,
        AutoencoderSettings,
        words="small autoencoder (CAE)",
        network=CaeAutoencoder(),
        **CAE,
        augmentation=PLAIN,
        epochs=50,
    ),
    "autoencoder_fast": row(
        common.build_fast_autoencoder,
        AutoencoderSettings,
        words="autoencoder for the fast CNN",
        network=FastAutoencoder(),
        **FAST_PIXELS,
        augmentation=PLAIN,
        learning_rate=2e-3,
        batch_size=256,
        epochs=10,
    ),
    "autoencoder_cls": row(
        common.build_ae_classifier,
        ClassifierSettings,
        words="deeper CNN",
        frozen_until="block2_norm2",
        encoder_end=common.ENCODER_END,
    ),
    "autoencoder_cls_fast": row(
        common.build_fast,
        ClassifierSettings,
        words="fast CNN",
        frozen_until=common.FAST_ENCODER_END,
        encoder_end=common.FAST_ENCODER_END,
        **FAST,
    ),
    "autoencoder_cls_cae": row(
        networks.build_cae_classifier,
        ClassifierSettings,
        words="small CNN (CAE)",
        frozen_until=networks.CODE,
        encoder_end=networks.CODE,
        network=CaeClassifier(),
        **CAE,
        augmentation=Augmentation(rotation=40, shift=0.1, zoom=0.1, flip=True),
        epochs=100,
    ),
    "mod_autoencoder_cls": row(
        common.build_modified_ae_classifier,
        ClassifierSettings,
        words="network of dense layers",
        frozen_until=common.ENCODER_END,
        encoder_end=common.ENCODER_END,
    ),
}


def model_of(name):
    """The model of a row: 'autoencoder_cls' of 'autoencoder_cls_cae'."""
    return max((model for model in MODELS if f"{name}_".startswith(f"{model}_")), key=len)


ARCHS = {
    model: [name.removeprefix(f"{model}_") for name in RECIPES if model_of(name) == model != name] for model in MODELS
}


def row_name(model, arch=None):
    """The row of RECIPES for a model and an ARCH of it. Raises InputError where there is none."""
    if arch is not None and arch not in ARCHS[model]:
        there = f"its networks are {', '.join(ARCHS[model])}" if ARCHS[model] else "leave it out"
        raise InputError(f"ARCH={arch[:80]} is no network of {model}; {there}")
    return f"{model}_{arch}" if arch else model


def require_choice(choice):
    """Raise InputError where a run is chosen by what does not go together."""
    noaug, target = getattr(choice, "noaug", False), getattr(choice, "target", "augmented")
    encoder, model = getattr(choice, "encoder", "frozen"), getattr(choice, "model", None)
    if model:
        row_name(model, choice.arch)
    if noaug and target == "original":
        raise InputError("--target original needs augmentation, so it cannot go with --noaug; drop one of the two")
    autoencoder, nothing = RECIPES.get(f"autoencoder_{choice.arch}"), None
    if encoder not in PRETRAINED:
        nothing = f"--encoder {encoder} takes no autoencoder"
    elif autoencoder and autoencoder.settings.augmentation == PLAIN:
        nothing = f"the autoencoder of --arch {choice.arch} is never augmented"
    if nothing and (noaug or target == "original"):
        raise InputError(f"{nothing}, so --noaug and --target have nothing to choose; leave them out")


# Settings that an autoencoder has in common with the classifier that is built on it.
SHARED = ("network", "scale", "offset", "reduced", "keep", "split", "val", "seed", "precision")


def resolve(name, choice, typed, on_demand=False, **chosen):
    """The row `name` of RECIPES with what CONFIG and, before that, the command line (`typed`) set in its place.

    `chosen` are settings that the run's name tells: a CONFIG that has them must say the same. `on_demand`: the CONFIG
    is of a classifier that lacks this autoencoder, so it counts as far as the two share it. Raises InputError.
    """
    require_choice(choice)
    recipe, path = RECIPES[name], choice.config
    chosen = {"model": name, **chosen}
    base = recipe.settings.model_copy(update=chosen)
    base = base.model_copy(update={"augmentation": source_of(choice.data).augmentation(base.augmentation)})
    config = read_config(path) if path else {}
    if on_demand:
        config = {key: config[key] for key in SHARED if key in config}
        if isinstance(config.get("network"), dict):
            own = type(base.network).model_fields
            config["network"] = {key: value for key, value in config["network"].items() if key in own}
    settings = with_config(base, path, config)
    for key, value in chosen.items():
        if getattr(settings, key) != value:
            raise InputError(
                f"CONFIG {path!r} is of {key} {config[key]!r}, and this run of {value!r}: "
                "type the target, ARCH, ENCODER, NOAUG and TARGET of that run, or take this line out of the file"
            )
    if getattr(choice, "fold", None) and config.get("split", "shuffle") != "shuffle":
        raise InputError(f"CONFIG {path!r} holds a split of its own, which has no folds: leave out one of the two")
    changes = dict(typed)
    if "reduced" in typed and isinstance(settings.keep, list):  # one number each, of classes that are others now
        changes.setdefault("keep", base.keep)
    if "keep" in typed and not settings.reduced and "reduced" not in typed:
        changes["reduced"] = None  # so many of which classes? the usual ones
    settings = settings.model_copy(update=changes)
    require_settings(settings)
    if settings.task == "turns":  # no label may decide what is learnt from, and no mirror image come after the turn
        flip = settings.augmentation.flip and "alternating"
        augmentation = settings.augmentation.model_copy(update={"flip": flip})
        no_labels = {"balanced": False, "class_weights": False, "logit_adjustment": 0.0}
        settings = settings.model_copy(update={**no_labels, "augmentation": augmentation})
    length = settings.batch_size, settings.epochs
    if settings.labelled < 1 and length == (recipe.settings.batch_size, recipe.settings.epochs):
        batch, epochs = share_of_length(settings.labelled, *length)
        print(f"note: with fewer labels an epoch has fewer steps; BATCH={batch} EPOCHS={epochs} makes up for it")
    return dataclasses.replace(recipe, settings=settings)


def require_settings(settings):
    """Raise InputError where settings do not go together."""
    if settings.warmup and settings.schedule not in SCHEDULES:
        raise InputError(f"warmup takes a schedule of {' or '.join(SCHEDULES)}; add one, or leave warmup out")
    own = settings.optimizer if isinstance(settings.optimizer, OptimizerConfig) else OptimizerConfig(class_name="")
    if "learning_rate" in own.config:
        raise InputError("optimizer.config holds a learning_rate; move it out, to learning_rate beside optimizer")
    for key in ("use_ema", "gradient_accumulation_steps"):
        if own.config.get(key):
            raise InputError(f"optimizer.config holds {key}, which no training here supports; take it out")
    if settings.muon_rate_factor and not (own.class_name.lower() == "sgd" and own.config.get("momentum")):
        raise InputError(
            f"muon_rate_factor = {settings.muon_rate_factor:g} takes the optimizer SGD with momentum: give that, or a "
            "muon_rate_factor of 0"
        )
    if settings.validate_every > 1 and (settings.patience or settings.schedule == "plateau"):
        raise InputError(
            "patience and the schedule plateau judge every epoch, and with validate_every not every epoch is "
            "validated: set patience to null and choose another schedule, or leave validate_every out"
        )
    if (encoder := getattr(settings, "encoder", "tuned")) != "tuned":
        for key in ("encoder_rate_factor", "frozen_share", *["encoder_blocks"] * (encoder == "scratch")):
            if getattr(settings, key) != ClassifierSettings.model_fields[key].default:
                raise InputError(f"{key} changes nothing with ENCODER={encoder}: add ENCODER=tuned, or leave it out")


def share_of_length(share, batch_size, epochs):
    """(Images a batch, epochs) by which a training on this share of the images has about as many steps as on all."""
    return max(1, round(batch_size * math.sqrt(share))), round(epochs / math.sqrt(share))


def on_autoencoder(recipe, record):
    """The recipe of a classifier with the pixels' scale and the encoder of the autoencoder that the record is of."""
    there, network = record["settings"], recipe.settings.network
    shared = {key: value for key, value in there["network"].items() if key in type(network).model_fields}
    taken = {"scale": there["scale"], "offset": there["offset"], "network": network.model_copy(update=shared)}
    return dataclasses.replace(recipe, settings=recipe.settings.model_copy(update=taken))


def could_be_of(record, config):
    """True where an autoencoder's record has the encoder and the pixels' scale that a classifier's CONFIG asks for."""
    there = record["settings"]
    wanted = {key: config[key] for key in ("scale", "offset") if key in config}
    network = {key: value for key, value in config.get("network", {}).items() if key in there["network"]}
    return wanted.items() <= there.items() and network.items() <= there["network"].items()


def phases(epochs, low_resolution, unaugmented):
    """How many of a run's first epochs are on pictures of low resolution (never the last), and how many augmented."""
    return min(round(low_resolution * epochs), epochs - 1), epochs - round(unaugmented * epochs)


# --- Names of runs ----------------------------------------------------------------------------------------------------


def run_name(model, prefix="", noaug=False, target="augmented", name=None, encoder="frozen"):
    """`[data_]model[_arch][_encoder][_noaug][_original][_NAME]`, the name of a run in files, titles and messages.

    `model` has its arch with it, as `row_name` gives it.
    """
    chosen = encoder if encoder != "frozen" else None
    parts = [prefix, model, chosen, noaug and "noaug", target == "original" and "original", name]
    return "_".join(part for part in parts if part)


def chosen_name(choice, prefix):
    """The run that a ModelChoice chooses among those on data with this prefix."""
    more = choice.model_dump(include={"noaug", "target", "name", "encoder"})
    return run_name(row_name(choice.model, choice.arch), prefix, **more)


def name_and_fold(stem):
    """'cnn_fold2' -> ('cnn', 2), 'autoencoder' -> ('autoencoder', None): what a file's stem says."""
    name, fold = re.fullmatch(r"(.*?)(?:_fold([1-9]\d*))?", stem, re.DOTALL).groups()
    return name, fold and int(fold)


def autoencoder_name(choice, prefix, name):
    """The run of the autoencoder that `choice` is of, itself or for a classifier."""
    return run_name(row_name("autoencoder", choice.arch), prefix, choice.noaug, choice.target, name)


def make_command(target, choice):
    """The make command for `target` with the knobs that choose this run, for messages that tell what to type."""
    target = target.replace("autoencoder", "ae")  # of a model
    kind = ClassifierChoice if target.endswith("cls") else Choice if target == "cnn" else AutoencoderChoice
    words = [
        f"{knob_of(field)}={shlex.quote(str(value + 0 if isinstance(value, bool) else value))}"
        for key, field in kind.model_fields.items()
        if (value := getattr(choice, key)) != field.default
    ]
    return " ".join(["make", target, *words])


# --- How two runs differ ----------------------------------------------------------------------------------------------


def flat(key, value):
    """A setting as (name, value) pairs: those of a part, such as 'augmentation', one by one."""
    if not isinstance(value, dict):
        return [(key, value)]
    return [pair for name, one in value.items() for pair in flat(f"{key}.{name}", one)]


def completed(settings):
    """The settings of a record. Settings that are newer than the record get their defaults."""
    row = RECIPES.get(settings.get("model"))  # the network may be gone
    return merged(type(row.settings)(augmentation=PLAIN), settings) if row else settings


def differing_settings(first, second, form):
    """What differs between the settings of two trainings, as words: `form` puts (knob, first's, second's) into each."""
    first, second = (
        dict(pair for key, value in completed(settings).items() for pair in flat(key, value))
        for settings in (first, second)
    )
    fields = {**Settings.model_fields, **ClassifierChoice.model_fields}
    knobs = {key: knob for key, field in fields.items() if (knob := knob_of(field))}
    differing = [key for key in {**second, **first} if first.get(key) != second.get(key)]
    chosen = [key for key in differing if not key.endswith("sha256")]  # hashes differ where a knob does, or the data
    if differing and not chosen:
        return "another autoencoder" if differing == ["encoder_sha256"] else "other images"
    return "; ".join(form.format(knobs.get(key, key), first.get(key), second.get(key)) for key in chosen)


def require_same_settings(found, wanted, what):
    """Raise InputError naming, as knobs, the settings that differ between a run that is there and the one asked for."""
    differing = differing_settings(found, wanted, "{} {} there, {} now")
    if differing:
        raise InputError(
            f"{what} has other settings ({differing}): repeat with its own, choose NAME=... to keep both, "
            "or FORCE=1 to replace it"
        )
