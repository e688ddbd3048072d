"""The command line: options, refusals, run names, exit status; none of it waits for TensorFlow."""

import itertools
import os
import re
import signal
import subprocess
import sys
import typing

import pytest
from conftest import ROOT, copy_project

import data
import evaluate
import predict
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from util import cli
from util.cli import InputError

ENCODERS = typing.get_args(recipes.Encoder)
SCRIPTS = ("train_cnn", "train_autoencoder", "train_ae_classifier", "evaluate", "compare", "curve", "report", "predict")
SCRIPTS += ("export", "bench")


# --- Options ---


def test_defaults_are_those_of_the_study(arguments):
    choice, typed = arguments()
    assert typed == {}
    assert choice.model_dump() == {
        **{"arch": None, "data": None, "name": None, "noaug": False, "target": "augmented", "encoder": "frozen"},
        **{"config": None, "force": False, "fold": None},
    }
    settings = recipes.RECIPES["cnn"].settings
    assert (settings.val, settings.split, settings.reduced) == (0.15, "shuffle", None)
    assert (settings.seed, settings.precision, settings.keep) == (0, "auto", None)
    assert (settings.epochs, settings.batch_size, settings.learning_rate, settings.patience) == (30, 128, 1e-3, None)


def test_values_have_their_types(arguments):
    choice, typed = arguments(
        "--epochs=5", "--val", ".2", "--learning-rate", "1e-2", "--seed", 2**32 - 1, "--name", "a-1B"
    )
    assert typed == {"epochs": 5, "val": 0.2, "learning_rate": 0.01, "seed": 2**32 - 1}
    assert [type(value) for value in typed.values()] == [int, float, float, int]
    assert choice.name == "a-1B"
    for text, words in (("bird, 4,truck", ["bird", "4", "truck"]), ("none", []), ("none,2", ["none", "2"])):
        assert arguments("--reduced", text)[1] == {"reduced": words}
    for words, given in ((["--noaug"], True), (["--noaug", 1], True), (["--noaug", 0], False), ([], False)):
        assert arguments(*words)[0].noaug is given


def test_what_is_typed_goes_before_the_recipe(resolved):
    changed = resolved("--epochs", 5, "--learning-rate", 0, "--keep", 9, row="cnn_elu").settings
    row = recipes.RECIPES["cnn_elu"].settings
    typed = {"epochs": 5, "learning_rate": 0.0, "keep": 9, "reduced": None, "model": "cnn_elu"}
    assert changed == row.model_copy(update=typed)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--epochs", value) for value in ("0", "1.5", "many", "true", "", "1" + "0" * 400, "9" * 5000, "two\nlines")),
        *(("--batch-size", "65537"), ("--patience", "0"), ("--keep", "1"), ("--keep", "[5, 6]")),
        *(("--fold", "0"), ("--fold", "1001"), ("--seed", "-1"), ("--seed", "4294967296"), ("--val", "0")),
        *(("--val", "1"), ("--val", "nan"), ("--learning-rate", "inf"), ("--learning-rate", "-1")),
        *(("--name", "a_b"), ("--name", "../a"), ("--name", 41 * "a"), ("--reduced", "bird,,deer"), ("--data", "")),
        *(("--precision", "float16"), ("--target", "x"), ("--encoder", "x"), ("--noaug", "2"), ("--force", "")),
        *(("--name", word) for word in ("noaug", "original", "cls", "fold2", "elu", "cae", "report", *ENCODERS)),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_by_its_option(arguments, option, value):
    with pytest.raises(InputError) as refusal:
        arguments(f"{option}={value}")
    assert str(refusal.value).startswith(option) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        *(("--epoch 5", "--epochs"), ("--epohcs=5", "--epochs"), ("EPOCHS=5", "--epochs"), ("--nouag", "--noaug")),
        *(("stray", "stray"), ("--epochs 5 --xyzzy", "--help"), ("--name", "--name")),
    ],
)
def test_an_unknown_option_is_refused_with_a_near_one(arguments, words, meant):
    with pytest.raises(InputError, match=meant):
        arguments(*words.split())


def test_what_is_required_is_named():
    with pytest.raises(InputError, match="--model"):
        evaluate.main([])
    with pytest.raises(InputError, match="--image"):
        predict.main(["--model", "cnn"])
    with pytest.raises(InputError, match="mod_autoencoder_cls"):
        evaluate.main(["--model", "resnet"])


@pytest.mark.parametrize(
    "argv",
    [
        *("--noaug --target original", "--encoder scratch --noaug", "--encoder random --target original"),
        *("--arch cae --noaug", "--arch cae --target original"),
    ],
)
def test_what_does_not_go_together_is_refused(resolved, argv):
    with pytest.raises(InputError, match="noaug"):
        resolved(*argv.split(), row="autoencoder_cls")


def test_what_is_typed_is_never_read_by_a_shell_or_as_a_pattern(arguments, workdir):
    for value in ("$(touch pwned)", "`touch pwned`", "a  b\tc\\", "*,),(", "x=y:z", "%s %d", "--force"):
        assert arguments(f"--data={value}")[0].data == value
    assert not list(workdir.iterdir())


# --- Help, and modules that cannot be loaded ---


@pytest.mark.parametrize(
    ("script", "words", "defaults"),
    [
        (train_cnn, [], {"epochs": "30", "batch-size": "128", "learning-rate": "0.001", "val": "0.15", "seed": "0"}),
        (train_cnn, ["--arch", "fast"], {"epochs": "18", "batch-size": "1000", "learning-rate": "1"}),
        (train_cnn, ["--arch", "elu"], {"epochs": "200", "patience": "35", "val": "0.2", "reduced": "none"}),
        (train_autoencoder, [], {"epochs": "100", "patience": "15", "target": "augmented"}),
        (train_ae_classifier, ["--modified", "--encoder=tuned"], {"epochs": "30", "encoder": "frozen"}),
        (evaluate, [], {"batch-size": "500"}),
    ],
)
def test_help_shows_the_defaults_that_will_be_used(script, words, defaults, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        script.main([*words, "--help"])
    assert end.value.code == 0
    shown = dict(re.findall(r"^  --([a-z-]+) \S+\s+.*\(default: ([^)]*)\)$", capsys.readouterr().out, re.MULTILINE))
    assert shown.items() >= defaults.items()


def test_help_and_refusals_load_no_heavy_package():
    code = f"""
import contextlib, importlib, io, sys
from util.cli import InputError
for script in {SCRIPTS}:
    for word in ("--help", "--nouag"):
        with contextlib.suppress(SystemExit, InputError), contextlib.redirect_stdout(io.StringIO()):
            importlib.import_module(script).main([word])
            sys.exit(f"{{script}} took {{word}}")
print({{name.split(".")[0] for name in sys.modules if "." in name}})
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert not eval(result.stdout) & {"tensorflow", "keras", "jax", "sklearn", "skimage", "matplotlib", "training"}


@pytest.mark.parametrize("module", ["training.py", "common.py", "util/files.py"])
def test_a_fault_of_our_own_shows_its_traceback_and_its_line(tmp_path, module):
    folder = copy_project(tmp_path / "project")
    source = (folder / module).read_text()
    (folder / module).write_text(source.replace("\nimport ", "\nmissing_name\nimport ", 1))
    line = source.partition("\nimport ")[0].count("\n") + 2
    result = subprocess.run(
        [sys.executable, "train_cnn.py", "--data", "digits"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    assert f'{module}", line {line}' in result.stderr and "NameError" in result.stderr


# --- Names of runs ---


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"model": "cnn"}, "cnn"),
        ({"model": "cnn", "prefix": "digits"}, "digits_cnn"),
        ({"model": "autoencoder", "noaug": True}, "autoencoder_noaug"),
        ({"model": "autoencoder", "target": "original"}, "autoencoder_original"),
        ({"model": "autoencoder_cls", "encoder": "tuned", "noaug": True, "name": "a"}, "autoencoder_cls_tuned_noaug_a"),
    ],
)
def test_run_names(parts, name):
    assert recipes.run_name(**parts) == name


def test_different_runs_have_different_names():
    prefixes = ["", "digits", *map(data.data_prefix, ("some/other.npz", "mod.npz"))]
    variants = [(False, "augmented"), (True, "augmented"), (False, "original")]
    runs = list(itertools.product(recipes.RECIPES, prefixes, variants, [None, "a", "b-c"], ENCODERS))
    names = {recipes.run_name(model, prefix, *variant, *rest) for model, prefix, variant, *rest in runs}
    assert len(names) == len(runs)


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        *(("cnn_fold2", ("cnn", 2)), ("cnn_fold10", ("cnn", 10)), ("autoencoder", ("autoencoder", None))),
        *(("cnn_fold1_fold3", ("cnn_fold1", 3)), ("cnn_fold2_old", ("cnn_fold2_old", None))),
        ("my_fold01", ("my_fold01", None)),  # fold 1 is not written so
    ],
)
def test_name_and_fold_of_a_file(stem, parts):
    assert recipes.name_and_fold(stem) == parts


@pytest.mark.parametrize(
    ("script", "argv", "model"),
    [
        (train_cnn, [], "cnn"),
        (train_autoencoder, [], "autoencoder"),
        (train_ae_classifier, [], "autoencoder_cls"),
        (train_ae_classifier, ["--modified"], "mod_autoencoder_cls"),
        (evaluate, ["--model=cnn"], "cnn"),
    ],
)
@pytest.mark.parametrize("arch", ["resnet", "two\nlines", "../a"])
def test_an_arch_that_is_none_is_refused_with_those_there_are(script, argv, model, arch, workdir):
    with pytest.raises(InputError, match=", ".join(recipes.ARCHS[model]) or "leave it out"):
        script.main([*argv, f"--arch={arch}"])
    assert not list(workdir.iterdir())


# --- Exit status and signals ---


@pytest.mark.parametrize("script", ["train_cnn.py", "evaluate.py"])
@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (None, 0, ""),
        (InputError("the input;\nmend it"), 2, "the input; mend it"),
        (cli.RunFailed("the run; repeat it"), 1, "the run; repeat it"),
        (KeyboardInterrupt(), 130, "stopped"),
        (cli.Terminated(), 143, "terminated"),
    ],
)
def test_exit_status_and_one_line(monkeypatch, capsys, script, error, status, word):
    monkeypatch.setattr(sys, "argv", [f"a folder/{script}"])

    def main():
        if error:
            raise error

    if status:
        with pytest.raises(SystemExit) as end:
            cli.run(main)
        assert end.value.code == status
    else:
        cli.run(main)
    printed = capsys.readouterr()
    assert printed.out == "" and word in printed.err
    assert len(printed.err.strip().splitlines()) == (1 if error else 0)
    assert ("goes on" in printed.err) == (status > 2 and script == "train_cnn.py")  # only a training does


@pytest.mark.parametrize("error", [ZeroDivisionError, OSError, ModuleNotFoundError, RuntimeError])
def test_other_errors_keep_their_traceback(error):
    def main():
        raise error

    with pytest.raises(error):
        cli.run(main)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_end_a_process_with_their_status(number, status):
    # Where the tests run in a shell's background, SIGINT is ignored, and so would it be in what they start.
    code = "from util import cli; import signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "cli.run(lambda: [print('ready', flush=True), time.sleep(60)])"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=-1, stderr=-1, text=True) as process:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
        process.send_signal(number)
        _, error = process.communicate(timeout=30)
    assert process.returncode == status
    assert "Traceback" not in error


def test_termination_is_polite_only_while_asked_for():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(cli.Terminated), cli.terminate_politely():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert signal.getsignal(signal.SIGTERM) == before
