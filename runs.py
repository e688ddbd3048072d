"""A run's files: its checkpoint, its record and its state; the autoencoder that a classifier is built on."""

import contextlib
import dataclasses
import glob
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from data import class_names_of, data_prefix, source_name
from recipes import (
    CHECKPOINTS,
    RECIPES,
    autoencoder_name,
    chosen_name,
    could_be_of,
    differing_settings,
    make_command,
    name_and_fold,
    require_same_settings,
)
from util.backend import keras
from util.cli import InputError, raise_what_was_heard
from util.files import file_sha256, locked, read_arrays, reading, strict, sync, write_atomically, write_json
from util.options import form, read_config, require_form


def record_sha256(record):
    """SHA-256 of all that a record says, but for the SHA-256 itself."""
    content = json.dumps(strict({key: value for key, value in record.items() if key != "record_sha256"}))
    return hashlib.sha256(content.encode()).hexdigest()


# What a record has to hold, beside whatever else, where a report repeats it.
Record = form(settings=form(model=str), data=dict, history=dict, best_epoch=int, checkpoint_sha256=str)
RECORD_VERSION = 2  # of the form of the records that are written; 1 had no version
REPLACE = "choose NAME=... to keep both, or FORCE=1 to replace it"


def require_same_classes(what, found, other, wanted, remedy):
    """Raise InputError, naming both, where two lists of class names differ, if only in their order."""
    if list(found) != list(wanted):
        raise InputError(f"{what} has the classes {', '.join(found)}, and {other} {', '.join(wanted)}: {remedy}")


def as_columns(epochs):
    """[{figure: value} of each epoch] -> {figure: [value of each epoch, None where there is none]}."""
    keys = dict.fromkeys(key for figures in epochs for key in figures)
    return {key: [figures.get(key) for figures in epochs] for key in keys}


def best_epoch(history, monitor):
    """Index of the best of the validated epochs' figures by what is watched, of equals the first."""
    watched = {epoch: figures[monitor] for epoch, figures in enumerate(history) if monitor in figures}
    return (min if monitor == "val_loss" else max)(watched, key=watched.get)


@dataclasses.dataclass(frozen=True)
class Run:
    """The files of one run: `checkpoints/<name>[_fold<k>].keras`, its record and its state."""

    name: str
    fold: int | None = None
    folder: Path = CHECKPOINTS

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
            require_form(record, form(record_sha256=str, checkpoint_sha256=str))
            if record["record_sha256"] != record_sha256(record):
                raise ValueError("the record does not match its own checksum")
            if record["checkpoint_sha256"] != file_sha256(self.checkpoint):
                raise ValueError("the checkpoint is not the one of the record")
        return record

    def load_model(self, taken=None, given=None):
        """The finished model; nothing but Keras's own layers is made of it. Raises InputError where it cannot be.

        Also where it does not map pictures of shape `taken` to outputs of shape `given`.
        """
        what, remedy = f"{self.checkpoint} cannot be opened", "give a whole .keras file of Keras's own layers"
        with reading(what, remedy, TypeError, KeyError, IndexError):  # as Keras raises them
            model = keras.saving.load_model(self.checkpoint, compile=False)
            if not getattr(model, "inputs", None):
                raise ValueError("it holds no model, or one without a fixed input")
        shapes = (model.input_shape, model.output_shape)
        if taken and shapes != ((None, *taken), (None, *given)):
            raise InputError(
                f"{self.checkpoint} maps {shapes[0][1:]} to {shapes[1][1:]}, not {taken} to {given}: "
                "choose the MODEL that it is"
            )
        return model

    def predict(self, model, images, batch_size=500):
        """The output of the finished model, (n, ...) float32. Raises InputError where it is not finite."""
        outputs = model.predict(images, batch_size=batch_size, verbose=0).astype(np.float32)
        raise_what_was_heard()  # Keras then gives fewer outputs
        if not np.isfinite(outputs).all():
            raise InputError(
                f"{self.checkpoint} gives numbers that are not finite: train it again, or give another file"
            )
        return outputs

    def read_state(self):
        """What the state of an unfinished training holds, as (note, its groups of arrays). Raises InputError."""
        with reading(f"{self.state} is damaged", "FORCE=1 starts this training again"):
            arrays = read_arrays(self.state)
        note = json.loads(arrays["note"].tobytes())
        groups = [
            [arrays[f"{name}{i}"] for i in range(note.get(name, 0))]
            for name in ("weights", "best", "optimizer", "draws")
        ]
        return note, groups

    def unfinished(self, settings, class_names):
        """The state of an unfinished training with these settings and classes, as read_state gives it, or None.

        Next to a finished file, which stays until a forced training can replace it, a state of other settings is left
        alone, and the finished file decides; otherwise it raises InputError.
        """
        if not self.state.exists():
            return None
        note, groups = self.read_state()
        if self.checkpoint.exists():
            with contextlib.suppress(InputError):  # stopped between the record and the checkpoint
                if note["finished"] and self.read_record()["history"] == as_columns(note["history"]):
                    self.state.unlink()  # it is what the finished file came from
                    return None
            if differing_settings(note["settings"], settings, "{}"):
                return None
        what = f"the unfinished training {self.state}"
        require_same_settings(note["settings"], settings, what)
        require_same_classes(what, note.get("class_names", class_names), "the data now", class_names, REPLACE)
        return note, groups

    def already_finished(self, settings, class_names):
        """True where this run is there with these settings and classes. Raises InputError where it is with others."""
        if not self.checkpoint.exists():
            return False
        record, what = self.read_record(), f"the finished {self.checkpoint}"
        require_same_settings(record["settings"], settings, what)
        require_same_classes(what, record["data"]["class_names"], "the data now", class_names, REPLACE)
        print(f"{self.checkpoint} is finished already, with these settings; FORCE=1 trains it again")
        return True

    @contextlib.contextmanager
    def lock(self, wait=False):
        """Hold this run alone, until the block or the process ends. A second process is refused, or waits."""

        def busy():
            if not wait:
                raise InputError(f"{self.title} is being trained by another process; wait for that to end")
            print(f"{self.title} is being trained by another process; waiting for it", flush=True)

        with locked(self.folder / f".{self.stem}.lock", busy) as held:
            if held:  # what a killed process was writing; nobody else writes these files now
                for part in self.folder.glob(f".{glob.escape(self.stem)}.*.part*"):
                    part.unlink()
            yield

    def finish(self, model, record):
        """Write the checkpoint and its record. The checkpoint's name comes last: that name means done."""

        def write(part):
            model.save(part)
            sync(part)  # a full disk shows here, before an older checkpoint loses its record
            whole = {"version": RECORD_VERSION, **record, "checkpoint_sha256": file_sha256(part)}
            write_json(self.path(".json"), {**whole, "record_sha256": record_sha256(whole)})

        write_atomically(self.checkpoint, write)
        self.path("_predictions.npz").unlink(missing_ok=True)  # an older checkpoint's
        self.state.unlink(missing_ok=True)


def find_source(name, fold_number, fold):
    """The finished run that FROM names, as (run, record): of the same fold where it has folds.

    Raises InputError where there is none, where it is of other pictures, and where it has learnt the labels of this
    fold's validation pictures.
    """
    runs = [Run(name, fold_number), Run(*name_and_fold(name))]
    run = next((run for run in runs if run.checkpoint.is_file()), None)
    if not run:
        raise InputError(
            f"FROM={name}: there is neither {runs[0].checkpoint} nor {runs[1].checkpoint}; train it first, or name "
            "another finished run"
        )
    record = run.read_record()
    data = record["data"]
    if data["sha256"] != fold.record["sha256"]:
        raise InputError(
            f"FROM={name}: {run.checkpoint} was trained on other pictures ({data['source']}); take another run"
        )
    if learnt(record) == "classes" and data["val_sha256"] != fold.record["val_sha256"]:
        raise InputError(
            f"FROM={name}: {run.checkpoint} has learnt the labels of pictures that validate here; take a run of this "
            "fold, with the same REDUCED, KEEP, VAL and SEED"
        )
    return run, record


def find_autoencoder(choice, fold):
    """The finished autoencoder for these images, as (run, record): the one of this NAME, else the unnamed; else None.

    It may have been trained with any settings of its own, but on the same kept images, and with the encoder that a
    CONFIG asks for.
    """
    config = read_config(choice.config) if choice.config else {}
    for name in dict.fromkeys((choice.name, None)):
        run = Run(autoencoder_name(choice, fold.prefix, name))
        if run.checkpoint.exists():
            record = run.read_record()
            same_images = all(record["data"][key] == fold.record[key] for key in ("sha256", "kept_sha256"))
            if same_images and could_be_of(record, config):
                return run, record
    return None


# --- The finished trainings of a run ----------------------------------------------------------------------------------


def finished_trainings(name, folder=CHECKPOINTS):
    """The finished trainings of a run, all folds."""
    runs = [Run(*name_and_fold(path.stem), folder) for path in folder.glob("*.keras")]
    return sorted((run for run in runs if run.name == name), key=lambda run: run.fold or 0)


def no_training(name, choice):
    """The error that a run has no finished training, with the command that makes some."""
    command = make_command(choice.model, choice)
    return InputError(f"there is no finished training of {name} in {CHECKPOINTS}: run `{command}`")


def finished_run(choice):
    """(name, {training: record}) of the run that a ModelChoice chooses, folds of one study, without reading its DATA.

    Raises InputError where there is none, or where DATA is there and has other classes.
    """

    names = [chosen_name(choice, data_prefix(choice.data))] if choice.data else []
    for name in (*names, chosen_name(choice, "")):  # a .npz of CIFAR-10 does not begin its run's name
        records = {run: run.read_record() for run in finished_trainings(name)}
        if choice.data:  # names of runs may be alike, so the record decides
            wanted = source_name(choice.data)
            records = {run: record for run, record in records.items() if record["data"]["source"] == wanted}
        if records:
            break
    if not records:
        raise no_training((*names, name)[0], choice)
    require_one_study(records)
    run, record = next(iter(records.items()))
    classes = class_names_of(choice.data) if choice.data else None
    if classes and record["settings"]["task"] == "classes":
        found, remedy = record["data"]["class_names"], "give the DATA of its training"
        require_same_classes(run.checkpoint, found, "DATA now", classes, remedy)
    return run.name, records


def require_one_study(records):
    """Raise InputError where trainings, as {training: record}, differ in more than their fold."""
    (first, old), *others = records.items()
    for run, record in others:
        settings = [{k: v for k, v in r["settings"].items() if k != "train_sha256"} for r in (old, record)]
        sources = [name_and_fold(r.get("encoder_from") or "") for r in (old, record)]
        same_folds = [(sources[0][0], one.fold) for one in (first, run)]
        if sources == same_folds:  # each fold's layers come from the same fold of one run, such as cnn_fast
            settings = [{k: v for k, v in of_one.items() if k != "encoder_sha256"} for of_one in settings]
        remedy = "train one of them anew with FORCE=1, or under a NAME of its own"
        if differing := differing_settings(*settings, "{} {} and {}"):
            raise InputError(
                f"{first.checkpoint} and {run.checkpoint} are no folds of one study ({differing}): {remedy}"
            )
        classes = [one["data"]["class_names"] for one in (old, record)]
        require_same_classes(first.checkpoint, classes[0], run.checkpoint, classes[1], remedy)


# --- A run in words ---------------------------------------------------------------------------------------------------

ENCODERS = {
    "frozen": "on frozen layers of {source}",
    "tuned": "on fine-tuned layers{rate} of {source}",
    "random": "on random, frozen layers",
    "scratch": "from scratch",
}
LEARNT = {
    "images": "an autoencoder",
    "noisy images": "a denoising autoencoder",
    "masked images": "a masked autoencoder",
    "classes": "a supervised network",
    "turns": "a network that learnt quarter turns",
}
AUTOENCODERS = {"noaug": "trained without augmentation", "original": "trained to undo augmentation"}


def learnt(record):
    """What a run learnt, as LEARNT has it: to reconstruct images, or to tell `classes` or quarter `turns`."""
    settings = record["settings"]
    if "target" not in settings:
        return settings.get("task", "classes")
    return "noisy images" if settings.get("noise") else "masked images" if settings.get("masked") else "images"


def require_classes(views, name, record):
    """Raise InputError where VIEWS is given for a run that does not tell classes."""
    if views != "one" and learnt(record) != "classes":
        raise InputError(f"VIEWS is about the classes of pictures, which {name} does not tell; leave it out")


def learnt_before(record, known):
    """What the run learnt that a classifier's layers come from, as `learnt` gives it; None where that is unknown.

    `known` is {SHA-256 of a checkpoint: what it learnt}. Where that run has no report, its name tells an autoencoder.
    """
    autoencoder = re.match(r"(.*_)?autoencoder(?!_cls)", record.get("encoder_from") or "autoencoder")
    return known.get(record["settings"].get("encoder_sha256"), "images" if autoencoder else None)


def encoder_in_words(record, before, rate=True):
    """Where the first layers of a classifier come from; `before` is what learnt_before gives.

    With `rate`, the learning rate of fine-tuned layers stands there as well.
    """
    factor = record["settings"].get("encoder_rate_factor", 1)
    return ENCODERS[record["settings"].get("encoder") or "scratch"].format(
        source=LEARNT.get(before) or record["encoder_from"], rate=f" (learning rate x {factor:g})" if rate else ""
    )


def in_words(name, record, prefix, before):
    """What plots and pages call a run: 'fast CNN on frozen layers of an autoencoder (NAME)'."""
    model, encoder = record["settings"]["model"], record["settings"].get("encoder")
    network = (RECIPES[model].words if model in RECIPES else "") or model
    how = [encoder_in_words(record, before)] if encoder else []
    return " ".join(
        [network, *how, *(AUTOENCODERS.get(part, f"({part})") for part in parts_of_name(name, record, prefix))]
    )


def parts_of_name(name, record, prefix):
    """What a run's name says after its model and ENCODER: `noaug` or `original`, and its NAME, where it has them."""
    model, encoder = record["settings"]["model"], record["settings"].get("encoder")
    parts = name.removeprefix(f"{prefix}_").removeprefix(model).split("_")
    return [part for part in parts if part not in ("", encoder)]
