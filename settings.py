"""What a run is trained with: a row of RECIPES, what CONFIG and the command line change of it; how two runs differ.

Like options.py, without TensorFlow: what a CONFIG may not hold is refused at once.
"""

import dataclasses
import json

from options import ENCODERS, OPTIONS, InputError, Number
from recipes import DIGITS_RANGES, RECIPES, Ranges, Recipe, model_of

# --- What a CONFIG may hold -----------------------------------------------------------------------------------------

YES_OR_NO = (True, False)
# What each setting may be: Numbers, one of several, a list of any length, or a part with settings of its own.
ALLOWED = {
    "model": tuple(RECIPES),
    "encoder": ENCODERS,
    "target": OPTIONS["target"][1]["choices"],
    "augment": YES_OR_NO,
    "network": {},  # see NETWORKS
    "scale": Number(float, 0, open_low=True),
    "offset": Number(float),
    "ranges": {
        "rotation": Number(float, 0, 180),
        "shift": Number(float, 0, 1),
        "shear": Number(float, 0, 90, open_high=True),
        "zoom": Number(float, 0, 1, open_high=True),
        "flip": YES_OR_NO,
    },
    "balanced": YES_OR_NO,
    "class_weights": YES_OR_NO,
    "reduced": [(Number(int, 0), str)],
    "keep": (None, OPTIONS["keep"][1]["type"], [OPTIONS["keep"][1]["type"]]),
    "split": ("shuffle", "first", "last"),
    **{name: OPTIONS[name][1]["type"] for name in ("val", "seed", "epochs")},
    "precision": OPTIONS["precision"][1]["choices"],
    "loss": ("categorical_crossentropy",),
    "optimizer": ("adam", "adamax", "adamw", "nadam", "rmsprop", "sgd"),
    "learning_rate": OPTIONS["learning-rate"][1]["type"],
    "schedule": (None, "plateau", Number(float, 0, 1, open_low=True)),
    "batch_size": OPTIONS["batch-size"][1]["type"],
    "monitor": ("val_loss", "val_accuracy"),
    "patience": (None, OPTIONS["patience"][1]["type"]),
    **dict.fromkeys(("sha256", "kept_sha256", "train_sha256"), str),  # follow from the data
}
OF_AUTOENCODERS = {
    "class_weights": (False,),
    "loss": ("mean_squared_error", "mean_absolute_error", "binary_crossentropy"),
    "monitor": ("val_loss", "val_psnr"),
}
RATE = Number(float, 0, 1, open_high=True)
NETWORKS = {  # of an ARCH, where more is to be said of a setting than the kind of its default
    "cae": {
        "blocks": Number(int, 1, 5),
        "layers_per_block": Number(int, 1, 16),
        "first_width": Number(int, 1, 1024),
        **{"dropout": RATE, "head_dropout": RATE},
        **dict.fromkeys(("input_noise", "hidden_noise"), Number(float, 0, 1)),
        **dict.fromkeys(("kernel_l1", "kernel_l2", "activity_l1", "activity_l2"), Number(float, 0)),
        "pooling": ("flatten", "max", "average"),
    },
}
KINDS = {bool: YES_OR_NO, int: Number(int), float: Number(float), str: str}
# What an autoencoder and the classifier on it have in common.
SHARED = ("reduced", "keep", "split", "val", "seed", "scale", "offset", "network")


def allowed_for(name, chosen):
    """What CONFIG may hold for a row of RECIPES, the run's `chosen` settings included."""
    limits = NETWORKS.get(name.removeprefix(f"{model_of(name)}_"), {})
    network = {key: limits.get(key, KINDS.get(type(value), value)) for key, value in RECIPES[name].network.items()}
    allowed = {**ALLOWED, **(OF_AUTOENCODERS if model_of(name) == "autoencoder" else {}), "network": network}
    if "encoder" in chosen:
        allowed["autoencoder_sha256"] = str
    others = {"encoder", "target", "augment"} - chosen.keys()
    return {key: value for key, value in allowed.items() if key not in others}


def in_words(allowed):
    if isinstance(allowed, tuple):
        return " or ".join(map(in_words, allowed))
    if isinstance(allowed, list):
        return f"a list of {in_words(allowed[0])}"
    if isinstance(allowed, Number):
        return str(allowed)
    return "a text" if allowed is str else json.dumps(allowed)


def shown(value):
    """A value as JSON, in ASCII, cut after 80 letters."""
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def require_allowed(path, settings, allowed, within=""):
    """Raise InputError, naming it and what is allowed, for the first of `settings` that is not."""
    for key, value in settings.items():
        if key not in allowed:
            known = f"the settings there are {', '.join(allowed)}" if allowed else "there are none there"
            raise InputError(f"CONFIG {path!r} holds {shown(within + key)}, which is no setting of this model; {known}")
        if isinstance(allowed[key], dict) and isinstance(value, dict):
            require_allowed(path, value, allowed[key], f"{key}.")
        elif isinstance(allowed[key], dict) or not has_form(value, allowed[key]):
            words = "a dictionary" if isinstance(allowed[key], dict) else in_words(allowed[key])
            raise InputError(f"CONFIG {path!r} holds {within}{key} = {shown(value)}; it may be {words}")


def renamed(settings):
    """A record's settings by the names of today."""
    if "reduce_lr" not in settings:
        return settings
    kept = {key: value for key, value in settings.items() if key != "reduce_lr"}
    return {**kept, "schedule": "plateau" if settings["reduce_lr"] else None}


def resolve(args, name, **chosen):
    """The row `name` of RECIPES, with what CONFIG and, before that, the command line set in place of its values.

    `chosen` are settings that the run's name tells: a CONFIG that has them must say the same. Raises InputError.
    """
    row, (path, config) = RECIPES[name], args.config or ("", {})
    if args.data == "digits" and row.ranges != Ranges():
        row = dataclasses.replace(row, ranges=DIGITS_RANGES)
    config = dict(renamed(config))
    if args.if_missing:
        config = {key: config[key] for key in SHARED if key in config}
        if isinstance(config.get("network"), dict):
            config["network"] = {key: value for key, value in config["network"].items() if key in row.network}
    require_allowed(path, config, allowed_for(name, chosen))
    for key, value in {"model": name, **chosen}.items():
        if config.get(key, value) != value:
            raise InputError(
                f"CONFIG {path!r} is of {key} {json.dumps(config[key])}, and this run of {json.dumps(value)}: "
                "type the target, ARCH, ENCODER, NOAUG and TARGET of that run, or take this line out of the file"
            )
    if args.fold and config.get("split", "shuffle") != "shuffle":
        raise InputError(
            f"CONFIG {path!r} is of the {config['split']} images held out, and a fold is a shuffle split: "
            "take this line out of the file, or train an ARCH without FOLDS"
        )

    names = ("reduced", "keep", "val", "seed", "epochs", "batch_size", "learning_rate", "patience", "precision")
    knobs = {key: getattr(args, key) for key in names if getattr(args, key) is not None}
    if "reduced" in knobs and isinstance(config.get("keep"), list):  # one number each, of classes that are others now
        del config["keep"]
    values = {**config, **knobs}
    reduced, keep = values.get("reduced", row.reduced), values.get("keep")
    if keep and not reduced and "reduced" not in knobs:  # so many of which classes?
        reduced = values["reduced"] = Recipe.reduced
    if isinstance(keep, list) and len(keep) != len(reduced):
        raise InputError(
            f"CONFIG {path!r} keeps images of {len(keep)} classes, and {len(reduced)} are reduced; give each a number"
        )
    values["ranges"] = dataclasses.replace(row.ranges, **config.get("ranges", {}))
    values["network"] = {**row.network, **config.get("network", {})}
    kinds = {field.name: field.type for field in dataclasses.fields(Recipe)}
    own = {key: value for key, value in values.items() if key in kinds}
    return dataclasses.replace(
        row, **{key: float(value) if kinds[key] is float else value for key, value in own.items()}
    )


def on_autoencoder(recipe, record):
    """The recipe of a classifier with the pixels' scale and the encoder of the autoencoder that the record is of."""
    there = completed(record["settings"])
    network = {key: there["network"].get(key, value) for key, value in recipe.network.items()}
    return dataclasses.replace(recipe, scale=there["scale"], offset=there["offset"], network=network)


def could_be_of(record, config):
    """True where an autoencoder's record has the encoder and the pixels' scale that a classifier's CONFIG asks for."""
    there = completed(record["settings"])
    wanted = {key: config[key] for key in ("scale", "offset") if key in config}
    network = {key: value for key, value in config.get("network", {}).items() if key in there["network"]}
    return wanted.items() <= there.items() and network.items() <= there["network"].items()


# --- The form of JSON that is read again ------------------------------------------------------------------------------

RECORD = {  # the form of what is read of a record again
    "settings": {"model": str},
    "data": {
        **{"source": str, "sha256": str, "kept_sha256": str, "class_names": [str]},
        **{"reduced": [int], "train_counts": [int], "val_counts": [int]},
    },
    "history": tuple(
        {key: [(int, float)] for key in ("loss", "val_loss", score, f"val_{score}")} for score in ("accuracy", "psnr")
    ),
    "best_epoch": int,
    "checkpoint_sha256": str,
}


def has_form(value, form):
    """True where JSON has a form.

    A form is a type, Numbers, a value, {key: form} (and maybe other keys), [form of each item], or one of (forms).
    """
    if isinstance(form, dict):
        return isinstance(value, dict) and all(has_form(value.get(key), part) for key, part in form.items())
    if isinstance(form, list):
        return isinstance(value, list) and all(has_form(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return any(has_form(value, one) for one in form)
    if isinstance(form, Number):
        number = isinstance(value, int if form.kind is int else (int, float)) and not isinstance(value, bool)
        return number and value in form
    return isinstance(value, form) if isinstance(form, type) else type(value) is type(form) and value == form


# --- How two runs differ --------------------------------------------------------------------------------------------


def settings_of(recipe):
    """A recipe's settings, as JSON has them."""
    values = dataclasses.asdict(recipe)
    return json.loads(json.dumps({key: values[key] for key in ALLOWED if key in values}))


def completed(settings):
    """A record's settings by the names of today; those that came after it was written were the recipe's own."""
    row = RECIPES.get(str(settings.get("model")))
    return {**(settings_of(row) if row else {}), **renamed(settings)}


def flat(key, value):
    """A setting as (name, value) pairs: those of a part, such as 'ranges', one by one."""
    return [(f"{key}.{name}", one) for name, one in value.items()] if isinstance(value, dict) else [(key, value)]


def differing_settings(first, second, form):
    """What differs between the settings of two trainings, as words: `form` puts (knob, first's, second's) into each."""
    first, second = (
        {name: value for key, values in completed(settings).items() for name, value in flat(key, values)}
        for settings in (first, second)
    )
    knobs = {option.replace("-", "_"): knob for option, (knob, _) in OPTIONS.items()}
    differing = [key for key in {**second, **first} if first.get(key) != second.get(key)]
    chosen = [key for key in differing if not key.endswith("sha256")]  # hashes differ where a knob does, or the data
    if differing and not chosen:
        return "another autoencoder" if differing == ["autoencoder_sha256"] else "other images"
    return "; ".join(form.format(knobs.get(key, key), first.get(key), second.get(key)) for key in chosen)


def require_same_settings(found, wanted, what):
    """Raise InputError naming, as knobs, the settings that differ between a run that is there and the one asked for."""
    differing = differing_settings(found, wanted, "{} {} there, {} now")
    if differing:
        raise InputError(
            f"{what} has other settings ({differing}): repeat with its own, choose NAME=... to keep both, "
            "or FORCE=1 to replace it"
        )
