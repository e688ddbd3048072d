"""What a classifier's encoder starts from and what of it learns, for each ENCODER and both classifiers."""

import numpy as np
import pytest

import common
import recipes
import train_ae_classifier
import training
from runs import Run
from util.cli import InputError

PLACES = ("1_{}1", "1_{}2", "2_{}1", "2_{}2", "3_{}1", "3_{}2", "3_{}3")
NAMES = [f"block{place.format(kind)}" for place in PLACES for kind in ("conv", "norm")]
TWO_BLOCKS = NAMES[:8]


@pytest.fixture(scope="module", autouse=True)
def narrow():
    """Encoders and decoders of a sixteenth of their width."""
    whole = common.conv_relu_norms
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "conv_relu_norms", lambda x, filters, *more: whole(x, filters // 16, *more))
        yield


def new_model(recipe):
    return common.finished_model(recipe.build, recipe.settings, 10, "any")


@pytest.fixture(scope="module")
def autoencoder(narrow):
    """An autoencoder whose weights differ from those that a new model has."""
    model = new_model(recipes.RECIPES["autoencoder"])
    model.set_weights([weight + 0.01 for weight in model.get_weights()])
    return model


@pytest.fixture
def prepared(workdir, monkeypatch, npz, autoencoder):
    """prepared('--encoder scratch') -> (new model, its weights before, run, settings, what goes into the record)."""

    def found(choice, fold):
        settings = recipes.RECIPES["autoencoder"].settings.model_dump()
        return Run("autoencoder"), {"checkpoint_sha256": "abc", "settings": settings}

    def prepared(words):
        calls = []
        monkeypatch.setattr(train_ae_classifier, "find_autoencoder", found)
        monkeypatch.setattr(Run, "load_model", lambda self: autoencoder)
        monkeypatch.setattr(training, "train", lambda *args, **more: calls.append((args, more)))
        train_ae_classifier.main(["--data", str(npz), *words.split()])
        (((recipe, run, *_), more),) = calls
        model = new_model(recipe)
        before = {layer.name: layer.get_weights() for layer in model.layers}
        notes = more.pop("prepare")(model)
        return model, before, run, recipe.settings.model_dump() | more, notes

    return prepared


def same(layer, weights):
    return all(map(np.array_equal, layer.get_weights(), weights))


@pytest.mark.parametrize(
    ("words", "name", "taken", "frozen"),
    [
        ("--noaug", "autoencoder_cls_noaug", TWO_BLOCKS, TWO_BLOCKS),
        ("--encoder tuned --noaug", "autoencoder_cls_tuned_noaug", NAMES, []),
        ("--encoder scratch", "autoencoder_cls_scratch", [], []),
        ("--encoder random", "autoencoder_cls_random", [], TWO_BLOCKS),
        ("--modified", "mod_autoencoder_cls", NAMES, NAMES),
        ("--modified --encoder tuned", "mod_autoencoder_cls_tuned", NAMES, []),
        ("--modified --encoder scratch --name a", "mod_autoencoder_cls_scratch_a", [], []),
        ("--modified --encoder random", "mod_autoencoder_cls_random", [], NAMES),
    ],
)
def test_what_is_taken_and_what_is_frozen(prepared, autoencoder, words, name, taken, frozen):
    model, before, run, settings, notes = prepared(words)
    assert run.stem == f"small_{name}_fold1"
    for layer in model.layers:
        if layer.name in taken:
            assert same(layer, autoencoder.get_layer(layer.name).get_weights())
        elif layer.name in frozen and "norm" in layer.name:  # gamma and beta stay, the statistics do not
            assert same(layer, [*before[layer.name][:2], *layer.get_weights()[2:]])
            assert not np.allclose(layer.get_weights()[2], 0)
        else:
            assert same(layer, before[layer.name])
        assert layer.trainable == (layer.name not in frozen)
    assert notes.get("taken", []) == taken and notes.get("frozen", []) == frozen
    assert ("encoder_from" in notes) == bool(taken)
    defaults = recipes.RECIPES[settings["model"]].settings.model_dump()
    differing = {key: value for key, value in settings.items() if defaults.get(key, settings) != value}
    encoder = words.partition("--encoder ")[2].split(" ")[0] or "frozen"
    own = {"model": settings["model"], "encoder": encoder, "encoder_sha256": "abc" if taken else None}
    assert differing.items() <= own.items()


def test_a_control_asks_for_no_autoencoder_and_the_others_say_how_to_get_one(workdir, npz, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *args, **more: None)
    for encoder in ("scratch", "random"):
        train_ae_classifier.main(["--data", str(npz), "--encoder", encoder])
    for encoder in recipes.PRETRAINED:
        with pytest.raises(InputError, match="make ae "):
            train_ae_classifier.main(["--data", str(npz), "--encoder", encoder])


def test_pictures_that_do_not_fit_a_classifier_are_refused_before_its_autoencoder_is_trained(workdir):
    (workdir / "config.json").write_text('{"low_resolution": 0.5}')
    with pytest.raises(InputError, match="low_resolution"):
        train_ae_classifier.main(["--check", "--config", "config.json"])
    train_ae_classifier.main(["--check", "--config", "config.json", "--arch", "fast"])


def test_a_block_that_the_network_has_not_is_refused_before_its_autoencoder_is_trained(workdir):
    words = ["--check", "--config", "config.json", "--arch", "fast"]
    (workdir / "config.json").write_text('{"encoder_blocks": 9}')
    with pytest.raises(InputError, match="9"):
        train_ae_classifier.main(words)
    (workdir / "config.json").write_text('{"encoder_blocks": 1}')
    train_ae_classifier.main(words)
