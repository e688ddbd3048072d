"""Exact continuation: a training that was stopped, however, ends bit for bit as one that ran through.

Damaged files are in test_bad_inputs.py, full disks in test_safe_files.py.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import signal

import keras
import pytest
from conftest import (
    contents,
    copying_states,
    pooled_classifier,
    require_equal,
    tiny_autoencoder,
    tiny_classifier,
    tiny_recipe,
    without_timing,
)
from keras import layers

import recipes
import runs
import training
from util import files, hardware
from util.cli import InputError, RunFailed


def require_equal_states(path, other):
    """All that the last epochs left: of the optimizer, the weights, the best weights and what random layers draw by."""
    found = []
    for state in map(files.read_arrays, (path, other)):
        note = json.loads(state.pop("note").tobytes())
        note["history"] = [without_timing(figures) for figures in note["history"]]
        found.append((note, {name: array.tobytes() for name, array in state.items()}))
    assert found[0] == found[1]


@pytest.fixture
def run(tmp_path):
    return runs.Run("tiny", 1, tmp_path)


@pytest.fixture
def copy(finished, run):
    """A copy of the finished training."""
    shutil.copytree(finished.run.folder, run.folder, dirs_exist_ok=True)
    return run


@pytest.fixture
def stopped(finished, run):
    """The same training, stopped after the second of its four epochs."""
    shutil.copy(finished.states / "2", run.state)
    return run


@pytest.fixture
def no_fit(monkeypatch):
    """Make every training fail that begins an epoch."""
    monkeypatch.setattr(keras.Model, "fit", None)


@contextlib.contextmanager
def ctrl_c(owner, name, number, before=False):
    """Inside, Ctrl-C's signal comes just after, or before, the call of that `number` of `owner.name`."""
    plain, calls = getattr(owner, name), []

    def interrupted(*arguments, **options):
        calls.append(name)
        result = None if before and len(calls) == number else plain(*arguments, **options)
        if len(calls) == number:
            signal.raise_signal(signal.SIGINT)
        return result

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, name, interrupted)
            yield
    finally:
        signal.signal(signal.SIGINT, handler)


# --- Stopped at each kind of moment -----------------------------------------------------------------------------------

MOMENTS = {
    "in the first epoch": (training.Measure, "on_train_batch_end", 3),
    "in the third epoch": (training.Measure, "on_train_batch_end", 13),
    "in a validation": (training.Measure, "on_test_begin", 2),
    "before a state is there": (os, "replace", 2, True),
}
FILES = {  # with which a training ends
    "before them": (runs.Run, "finish", 1, True),
    "before the record": (os, "replace", 1, True),
    "between record and checkpoint": (os, "replace", 2, True),
    "before the state is removed": (os, "replace", 2),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_stopped_at_any_moment_the_same_command_ends_as_one_run_through(finished, fold, run, moment):
    with ctrl_c(*MOMENTS[moment]):
        training.train(finished.recipe, run, fold)
    training.train(finished.recipe, run, fold)
    require_equal(run, finished.run)


@pytest.mark.parametrize("moment", FILES)
def test_stopped_while_the_files_are_written_it_only_writes_them(finished, fold, run, no_fit, moment):
    shutil.copy(finished.states / "4", run.state)
    with ctrl_c(*FILES[moment]):
        training.train(finished.recipe, run, fold)
    assert run.checkpoint.exists() == (moment == "before the state is removed")
    training.train(finished.recipe, run, fold)
    require_equal(run, finished.run)


def test_stopped_after_the_rate_fell_and_before_the_early_end(stopped_early, wrong_labels, run, capsys):
    best = stopped_early.run.read_record()["best_epoch"]
    with ctrl_c(training.Measure, "on_train_batch_end", 5 * (best + 11) + 3):
        training.train(stopped_early.recipe, run, wrong_labels)
    training.train(stopped_early.recipe, run, wrong_labels)
    assert f"going on after epoch {best + 11} of {run.state}" in capsys.readouterr().out
    require_equal(run, stopped_early.run)


# --- Whatever the optimizer, the schedule and the random layers -------------------------------------------------------


def with_random_layers(x, classes):
    x = layers.RandomFlip("horizontal", name="flip")(x)
    x = layers.RandomErasing(1.0, value_range=(0, 1), name="erasing")(x)  # draws several times a step
    several = [layers.RandomRotation(0.1), layers.RandomContrast(0.1, value_range=(0, 1))]
    return tiny_classifier(keras.Sequential(several, name="several")(x), classes)


NESTEROV = {"class_name": "SGD", "config": {"momentum": 0.85, "nesterov": True}}
FAST = {
    **{"statistics": "precise", "low_resolution": 0.5, "unaugmented": 0.25, "balanced": False},
    **{"augmentation": {"rotation": 5, "pixels": 2, "cutout": 8, "flip": "alternating"}},
    **{"logit_adjustment": 1.0, "label_smoothing": 0.2, "schedule": "linear", "epochs": 4},
    **{"bias_rate_factor": 8, "muon_rate_factor": 0.1, "build": pooled_classifier},
    "optimizer": NESTEROV,
}
AUTOENCODER = {
    **{"kind": recipes.AutoencoderSettings, "build": tiny_autoencoder, "loss": "mean_squared_error"},
    **{"noise": 0.1, "masked": 0.5, "validate_every": 2, "schedule": None, "patience": None, "epochs": 4},
}
TUNED = {"kind": recipes.ClassifierSettings, "encoder_rate_factor": 0.3, "frozen_share": 0.4}
SETTINGS = {  # of a training, and the epochs after which it goes on; a schedule with warm-up rises during the first
    "nesterov-cosine": ({"optimizer": NESTEROV, "schedule": "cosine", "warmup": 0.3, "epochs": 4}, [1]),
    "decay-linear-bfloat16": (
        {
            **{"optimizer": {"class_name": "AdamW", "config": {"weight_decay": 0.02}}, "schedule": "linear"},
            **{"precision": "mixed_bfloat16", "monitor": "val_accuracy", "epochs": 3},
        },
        [2],
    ),
    "muon-factor": ({"optimizer": {"class_name": "Muon", "config": {}}, "schedule": 0.5, "epochs": 3}, [2]),
    "fast": (FAST, [1, 2, 3]),  # on pictures of low resolution, after those, and after augmentation ended
    "random-layers": ({"build": with_random_layers}, [1]),
    "autoencoder": (AUTOENCODER, [3]),
    "fine-tuned": ({**TUNED, "schedule": "linear", "epochs": 3}, [1]),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_all_settings_go_on_to_the_bit(wrong_labels, tmp_path, name, capsys):
    settings, epochs = SETTINGS[name]
    recipe, through = tiny_recipe(**{"learning_rate": 0.01, **settings}), runs.Run("tiny", 1, tmp_path / "through")
    prepare = (lambda model: {"taken": ["conv", "norm"]}) if name == "fine-tuned" else None
    with copying_states(tmp_path / "states"):
        training.train(recipe, through, wrong_labels, prepare=prepare)
    last = str(len(through.read_record()["history"]["loss"]))
    for epoch in epochs:
        later = runs.Run("tiny", 1, tmp_path / f"after{epoch}")
        later.folder.mkdir()
        shutil.copy(tmp_path / "states" / str(epoch), later.state)
        with copying_states(tmp_path / "later"):
            training.train(recipe, later, wrong_labels, prepare=prepare)
        assert f"going on after epoch {epoch} of" in capsys.readouterr().out
        require_equal_states(tmp_path / "later" / last, tmp_path / "states" / last)
        require_equal(later, through)
    record = through.read_record()
    history = record["history"]
    if name == "muon-factor":
        assert history["learning_rate"] == pytest.approx([0.01 * 0.5**epoch for epoch in range(3)])
    elif name == "decay-linear-bfloat16":  # and the best by its accuracy
        assert record["best_epoch"] == 1 + max(range(3), key=history["val_accuracy"].__getitem__)
    state = files.read_arrays(tmp_path / "states" / last)
    draws = [state[array] for array in state if array.startswith("draws")]
    # Augmentation, dropout and noise; two more layers and two within one; augmentation and corruption.
    assert len(draws) == {"random-layers": 7, "autoencoder": 2, "fast": 2}.get(name, 3)
    assert len({key for key, _ in draws}) == len(draws)


# --- What goes on no longer, or not to the bit ------------------------------------------------------------------------


def test_other_settings_than_the_state_s_are_refused(stopped, finished, fold, no_fit):
    before = contents(stopped.folder)
    other = finished.recipe.settings.model_copy(update={"batch_size": 32})
    with pytest.raises(InputError, match="BATCH 64 there, 32 now"):
        training.train(dataclasses.replace(finished.recipe, settings=other), stopped, fold)
    assert contents(stopped.folder) == before


def test_a_state_of_another_network_is_refused(stopped, finished, fold, no_fit):
    with pytest.raises(InputError, match="another version"):
        training.train(dataclasses.replace(finished.recipe, build=pooled_classifier), stopped, fold)


def test_going_on_elsewhere_is_said_and_in_the_precision_of_the_beginning(finished, fold, run, monkeypatch, capsys):
    shutil.copy(finished.states / "4", run.state)
    monkeypatch.setattr(training, "processor_name", lambda: "another processor")
    monkeypatch.setattr(hardware, "resolve_precision", lambda requested: ("mixed_bfloat16", "it is fast here"))
    capsys.readouterr()
    training.train(finished.recipe, run, fold)
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "bit for bit" in line]
    here = hardware.processor_name(), hardware.set_up_device()[0], keras.__version__, training.code_sha256()[:8]
    assert all(word in said for word in (*here, "another processor"))
    assert run.read_record()["precision"] == "float32"


# --- What is finished -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"epochs": 5}, "EPOCHS 4 there, 5 now"),
        ({"augmentation": recipes.PLAIN}, "augmentation.pixels 1"),
        ({"train_sha256": "0" * 64}, "other images"),
    ],
)
def test_other_settings_are_refused_naming_what_differs(copy, finished, fold, no_fit, change, word):
    with pytest.raises(InputError, match=word):
        training.train(finished.recipe, copy, fold, **change)


def test_a_fold_with_other_settings_than_the_finished_ones_is_refused_before_it_is_trained(copy, fold, no_fit):
    with pytest.raises(InputError, match=r"tiny_fold1\.keras and .*tiny_fold2\.keras.*EPOCHS 4 and 5"):
        training.train(tiny_recipe(epochs=5), runs.Run("tiny", 2, copy.folder), fold)


# --- FORCE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("same", "epoch"), [(True, 3), (False, 1)])
def test_force_keeps_what_is_finished_until_the_new_one_is(copy, finished, fold, capsys, same, epoch):
    """Stopped, it goes on without FORCE=1; with other settings, what is finished is still what it was."""
    copy.path("_predictions.npz").write_bytes(b"of the finished model")
    before = contents(copy.folder)
    recipe = finished.recipe if same else tiny_recipe(epochs=3)
    with ctrl_c(training.Measure, "on_train_batch_end", 5 * epoch - 2):
        training.train(recipe, copy, fold, force=True)
    begun = contents(copy.folder)
    assert begun == {**before, copy.state.name: begun[copy.state.name]}
    if not same:
        training.train(finished.recipe, copy, fold)
        assert "is finished already" in capsys.readouterr().out
        assert contents(copy.folder) == begun
    training.train(recipe, copy, fold)
    assert (f"going on after epoch {epoch - 1}" in capsys.readouterr().out) == (epoch > 1)
    assert contents(copy.folder).keys() == {"tiny_fold1.keras", "tiny_fold1.json"}
    assert copy.read_record()["settings"]["epochs"] == recipe.settings.epochs
    assert copy.read_record()["seconds"] != finished.run.read_record()["seconds"]


@pytest.mark.parametrize("moment", ["between record and checkpoint", "before the state is removed"])
def test_force_may_be_stopped_while_it_replaces_the_older_one(copy, fold, moment):
    """Between record and checkpoint the same command finishes the work; after it there is nothing to do."""
    recipe, before = tiny_recipe(epochs=1), copy.checkpoint.read_bytes()
    owner, name, number, *earlier = FILES[moment]
    with ctrl_c(owner, name, number + 2, *earlier):  # a state at once, and one after the epoch
        training.train(recipe, copy, fold, force=True)
    stopped = copy.checkpoint.read_bytes()
    assert (stopped == before) == bool(earlier)
    training.train(recipe, copy, fold)
    assert (copy.checkpoint.read_bytes() != stopped) == bool(earlier)
    assert copy.read_record()["settings"]["epochs"] == 1
    assert not copy.state.exists()


@pytest.mark.parametrize("age", [0, 2e9])  # older and newer than the finished file
def test_content_decides_whether_a_state_beside_a_finished_file_is_spent(copy, finished, fold, no_fit, age):
    settings = finished.run.read_record()["settings"]
    for epoch in (4, 2):
        shutil.copy(finished.states / str(epoch), copy.state)
        os.utime(copy.state, (age, age))
        assert bool(copy.unfinished(settings, fold.class_names)) == copy.state.exists() == (epoch == 2)


def test_force_that_comes_to_nothing_leaves_what_is_finished(copy, finished, fold):
    def refuse(model):
        raise InputError("the autoencoder's layer cannot be taken")

    before = contents(copy.folder)
    with pytest.raises(InputError, match="taken"):
        training.train(finished.recipe, copy, fold, force=True, prepare=refuse)
    assert contents(copy.folder) == before
    with pytest.raises(RunFailed, match=r"1e\+30"):  # a loss that is not finite
        training.train(tiny_recipe(learning_rate=1e30), copy, fold, force=True)
    assert contents(copy.folder).items() >= before.items()
