"""The command line: options, refusals, run names, exit status, and that none of it waits for TensorFlow."""

import itertools
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT

import options
import recipes

SCRIPTS = ("train_cnn.py", "train_autoencoder.py", "train_ae_classifier.py", "evaluate.py")


def test_defaults_are_the_reference_study(arguments):
    args = arguments()
    assert (args.data, args.keep, args.val, args.fold, args.seed, args.reduced) == (None, None, None, None, None, None)
    recipe = recipes.RECIPES["cnn"]
    assert (recipe.val, recipe.split, recipe.reduced) == (0.15, "shuffle", ("2", "4", "9"))
    assert (recipe.seed, recipe.precision, recipe.keep) == (0, "auto", None)
    assert (args.noaug, args.target, args.precision, args.name, args.force) == (False, "augmented", None, None, False)
    assert (args.epochs, args.batch_size, args.learning_rate, args.patience) == (None, None, None, None)


def test_values_are_converted(arguments):
    args = arguments(
        "--epochs", "5", "--val", ".2", "--learning-rate", "1e-2", "--seed", "4294967295", "--name", "a-1B"
    )
    assert (args.epochs, args.val, args.learning_rate, args.seed, args.name) == (5, 0.2, 0.01, 2**32 - 1, "a-1B")


@pytest.mark.parametrize(
    ("text", "words"), [("bird, 4,truck", ["bird", "4", "truck"]), ("none", []), ("none,2", ["none", "2"])]
)
def test_list_of_classes(arguments, text, words):
    assert arguments("--reduced", text).reduced == words


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--epochs 0", "'0' is not a whole number, at least 1"),
        ("--epochs 1.5", "'1.5' is not a whole number, at least 1"),
        ("--epochs many", "'many' is not a whole number, at least 1"),
        ("--batch-size 0", "'0' is not a whole number, at least 1"),
        ("--patience 0", "'0' is not a whole number, at least 1"),
        ("--keep 1", "'1' is not a whole number, at least 2"),
        ("--fold 0", "'0' is not a whole number, at least 1 and at most 1000"),
        ("--seed -1", "'-1' is not a whole number, at least 0"),
        ("--seed 4294967296", "'4294967296' is not a whole number, at least 0 and at most 4294967295"),
        ("--val 0", "'0' is not a number, more than 0 and less than 1"),
        ("--val 1", "'1' is not a number, more than 0 and less than 1"),
        ("--val nan", "'nan' is not a number"),
        ("--learning-rate inf", "'inf' is not a number, at least 0"),
        ("--learning-rate -1", "'-1' is not a number, at least 0"),
        ("--name a_b", "'a_b' may hold letters, digits and '-' only"),
        ("--name ../a", "'../a' may hold letters, digits and '-' only"),
        ("--name", "--name: expected one argument"),
        ("--reduced bird,,deer", "'bird,,deer' is not a list such as bird,deer,truck or 2,4,9, or none"),
        ("--precision float16", "invalid choice: 'float16'"),
        ("--target x", "invalid choice: 'x'"),
        ("--epoch 5", "unrecognized arguments: --epoch 5"),  # no abbreviations
        ("--nouag", "unrecognized arguments: --nouag"),
        ("stray", "unrecognized arguments: stray"),
    ],
)
def test_unusable_options_are_refused_in_one_sentence(arguments, argv, sentence):
    with pytest.raises(options.InputError) as refusal:
        arguments(*argv.split())
    assert sentence in str(refusal.value)
    assert str(refusal.value).endswith("--help lists the options")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("epochs", ["1" + "0" * 400, "9" * 5000])
def test_numbers_beyond_measure_are_refused_too(arguments, epochs):
    with pytest.raises(options.InputError, match="whole number"):
        arguments("--epochs", epochs)


def test_original_target_without_augmentation_is_refused(arguments):
    with pytest.raises(options.InputError, match=r"--target original .* --noaug"):
        arguments("--noaug", "--target", "original")


@pytest.mark.parametrize("encoder", ["scratch", "random"])
@pytest.mark.parametrize("choice", ["--noaug", "--target original"])
def test_an_autoencoder_chosen_for_an_encoder_that_takes_none_is_refused(arguments, encoder, choice):
    with pytest.raises(options.InputError, match=rf"--encoder {encoder} .* leave them out"):
        arguments("--encoder", encoder, *choice.split())
    assert arguments("--encoder", "tuned", *choice.split()).encoder == "tuned"


@pytest.mark.parametrize("name", ["noaug", "original", "cls", "fold2", "elu", *options.ENCODERS])
def test_names_that_are_words_of_run_names_are_refused(arguments, name):
    with pytest.raises(options.InputError, match=name):
        arguments("--name", name)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"model": "cnn"}, "cnn"),
        ({"model": "cnn", "prefix": "digits"}, "digits_cnn"),
        ({"model": "autoencoder", "noaug": True}, "autoencoder_noaug"),
        ({"model": "autoencoder", "target": "original"}, "autoencoder_original"),
        ({"model": "autoencoder_cls", "encoder": "scratch"}, "autoencoder_cls_scratch"),
        ({"model": "autoencoder_cls", "encoder": "tuned", "noaug": True, "name": "a"}, "autoencoder_cls_tuned_noaug_a"),
        (
            {"model": "mod_autoencoder_cls", "prefix": "a", "noaug": True, "name": "x-1"},
            "a_mod_autoencoder_cls_noaug_x-1",
        ),
    ],
)
def test_run_names(parts, name):
    assert options.run_name(**parts) == name


def test_an_arch_makes_another_model_and_has_to_be_one_of_its_own():
    assert options.model_name("cnn") == "cnn"
    assert {options.model_name("cnn", arch) for arch in recipes.ARCHS["cnn"]} < recipes.RECIPES.keys()
    assert recipes.ARCHS["cnn"] == ["elu", "leaky", "pool3", "wide5", "dropout"]
    with pytest.raises(options.InputError, match="ARCH=cae is no network of cnn; its networks are elu, leaky"):
        options.model_name("cnn", "cae")


def test_different_runs_have_different_names():
    data = [options.data_prefix(source) for source in (None, "digits", "some/other.npz", "mod.npz")]
    variants = [(False, "augmented"), (True, "augmented"), (False, "original")]
    runs = list(itertools.product(recipes.RECIPES, data, variants, [None, "a", "b-c"], options.ENCODERS))
    names = {options.run_name(model, prefix, *variant, *rest) for model, prefix, variant, *rest in runs}
    assert len(names) == len(runs)


@pytest.mark.parametrize(
    ("source", "prefix"),
    [(None, ""), ("digits", "digits"), ("/some/My Data_v2.npz", "my-data-v2"), ("___.npz", "data"), ("é.npz", "data")],
)
def test_data_prefix_is_fit_for_a_file_name(source, prefix):
    assert options.data_prefix(source) == prefix


@pytest.mark.parametrize("name", [name for name, (_, words) in options.OPTIONS.items() if words.get("default")])
def test_help_names_the_default(name):
    default = re.escape(str(options.OPTIONS[name][1]["default"]))
    assert re.search(rf"default: {default}[),;]|\b{default} \(default", options.OPTIONS[name][1]["help"])


def python(*argv, **more):
    more = {"cwd": ROOT, **more}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("script", [*SCRIPTS, "compare.py"])
@pytest.mark.parametrize(("option", "status"), [("--help", 0), ("--nouag", 2)])
def test_answers_without_loading_the_heavy_packages(script, option, status):
    required = ["--model", "cnn"] if script == "evaluate.py" else []
    result = python("-X", "importtime", script, *required, option)
    assert result.returncode == status
    imported = {line.split("|")[-1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "options" in imported
    assert not imported & {"tensorflow", "keras", "jax", "sklearn", "skimage", "matplotlib", "common"}
    if status:
        (message,) = [line for line in result.stderr.splitlines() if "import time:" not in line]
        assert message.startswith(f"{script}: ")
        assert "--nouag" in message
        assert result.stdout == ""
    else:
        assert "--name" in result.stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_backend_that_is_not_there_is_one_sentence(script, tmp_path):
    required = ["--model", "cnn"] if script == "evaluate.py" else []
    environment = {**os.environ, "KERAS_BACKEND": "foo"}
    result = python(ROOT / script, *required, "--data", "digits", cwd=tmp_path, env=environment)
    assert result.returncode == 2
    assert result.stdout == ""
    sentence = rf"{script}: this environment cannot be used \(.*foo\): .*; KERAS_BACKEND is tensorflow, or jax .*\n"
    assert re.fullmatch(sentence, result.stderr)
    assert not list(tmp_path.iterdir())


def test_table_of_knobs_names_every_knob():
    table = python("options.py").stdout
    knobs = [f"{knob}=1" if knob in ("NOAUG", "FORCE") else knob for knob, _ in options.OPTIONS.values() if knob]
    assert [line.split()[0] for line in table.splitlines()] == knobs


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, 0, ""),
        (options.InputError("the input; mend it"), 2, "the input; mend it"),
        (options.RunFailed("the run; repeat it"), 1, "the run; repeat it"),
        (KeyboardInterrupt(), 130, "stopped; the same command"),
        (options.Terminated(), 143, "terminated; the same command"),
    ],
)
def test_exit_status_and_message(monkeypatch, capsys, error, status, message):
    monkeypatch.setattr(sys, "argv", ["train_cnn.py"])

    def main():
        if error:
            raise error

    with pytest.raises(SystemExit) as end:
        options.run(main)
    assert end.value.code == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == (1 if error else 0)


@pytest.mark.parametrize("script", ["train_cnn.py", "evaluate.py"])
def test_only_a_training_that_is_stopped_goes_on(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"a folder/{script}"])

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        options.run(main)
    more = "; the same command, without FORCE=1, goes on" if script == "train_cnn.py" else ""
    assert capsys.readouterr().err == f"\n{script}: stopped{more}\n"


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("cnn_fold2", ("cnn", 2)),
        ("cnn_fold10", ("cnn", 10)),
        ("autoencoder", ("autoencoder", None)),
        ("cnn_fold1_fold3", ("cnn_fold1", 3)),
        ("my_fold01", ("my_fold01", None)),  # fold 1 is not written so
        ("cnn_fold2_old", ("cnn_fold2_old", None)),
    ],
)
def test_name_and_fold_of_a_file(stem, parts):
    assert options.name_and_fold(stem) == parts


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        options.run(lambda: 1 / 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_process_with_their_status(number, status):
    # Where the tests run in a shell's background, SIGINT is ignored, and so would it be in what they start.
    code = "import options, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "options.run(lambda: [print('ready', flush=True), time.sleep(60)])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in error


def test_termination_is_polite_only_while_asked_for():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(options.Terminated), options.terminate_politely():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) == before
