"""The command line: options, make's words, refusals, run names, exit status; none of it waits for TensorFlow."""

import ast
import itertools
import os
import re
import signal
import subprocess
import sys
import typing

import pytest
from conftest import ROOT, Everything

import common
import compare
import data
import evaluate
import export
import predict
import recipes
import train_ae_classifier
import train_autoencoder
import train_cnn
from recipes import Settings
from util import cli
from util.cli import InputError
from util.settings import knob_of, option_of, parse

ENCODERS = typing.get_args(recipes.Encoder)
SCRIPTS = ("train_cnn.py", "train_autoencoder.py", "train_ae_classifier.py", "evaluate.py")
ALL_SCRIPTS = (*SCRIPTS, "compare.py", "curve.py", "report.py", "predict.py", "export.py", "bench.py")
TRAINING = "ARCH DATA NAME CONFIG FORCE REDUCED KEEP VAL SEED PRECISION LR BATCH EPOCHS PATIENCE"
TAKES = {  # the knobs of each script
    train_cnn: {*TRAINING.split(), "LABELLED"},
    train_autoencoder: {*TRAINING.split(), "NOAUG", "TARGET"},
    train_ae_classifier: {*TRAINING.split(), "LABELLED", "NOAUG", "TARGET", "ENCODER"},
    evaluate: {"ARCH", "DATA", "NAME", "NOAUG", "TARGET", "ENCODER", "MODEL", "BATCH"},
    compare: {"DATA", "NAME", "RUNS", "BASELINE"},
    predict: {"ARCH", "DATA", "NAME", "NOAUG", "TARGET", "ENCODER", "MODEL", "IMAGE", "OUT"},
    export: {"ARCH", "DATA", "NAME", "NOAUG", "TARGET", "ENCODER", "MODEL", "FORMAT"},
}
REQUIRED = {
    "evaluate.py": ["--model=cnn"],
    "predict.py": ["--model=cnn", "--image=a.png"],
    "export.py": ["--model=cnn"],
}
# What the steps of a chain share; ENCODER of a classifier and its evaluation, CONFIG as far as an autoencoder has it.
SHARED = TAKES[train_ae_classifier] - {"FORCE", "LR", "BATCH", "EPOCHS", "PATIENCE", "LABELLED"}


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


def test_values_are_converted(arguments):
    choice, typed = arguments(
        "--epochs", "5", "--val", ".2", "--learning-rate", "1e-2", "--seed", "4294967295", "--name", "a-1B"
    )
    assert typed == {"epochs": 5, "val": 0.2, "learning_rate": 0.01, "seed": 2**32 - 1}
    assert [type(value) for value in typed.values()] == [int, float, float, int]
    assert choice.name == "a-1B"


def test_what_is_typed_goes_before_the_recipe(resolved):
    changed = resolved("--epochs", 5, "--learning-rate", 0, "--keep", 9, row="cnn_elu").settings
    row = recipes.RECIPES["cnn_elu"].settings
    typed = {"epochs": 5, "learning_rate": 0.0, "keep": 9, "reduced": None, "model": "cnn_elu"}
    assert changed == row.model_copy(update=typed)


@pytest.mark.parametrize(
    ("text", "words"), [("bird, 4,truck", ["bird", "4", "truck"]), ("none", []), ("none,2", ["none", "2"])]
)
def test_list_of_classes(arguments, text, words):
    assert arguments("--reduced", text)[1] == {"reduced": words}


WHOLE = "is not a whole number, at least"
BAD = [  # option, its knob or None, what is typed, the sentence about it
    ("--epochs", "EPOCHS", "0", f"'0' {WHOLE} 1 and at most 1000000"),
    ("--epochs", "EPOCHS", "1.5", f"'1.5' {WHOLE} 1 and at most 1000000"),
    ("--epochs", "EPOCHS", "many", f"'many' {WHOLE} 1 and at most 1000000"),
    ("--epochs", "EPOCHS", "true", f"'true' {WHOLE} 1 and at most 1000000"),
    ("--epochs", "EPOCHS", "", f"'' {WHOLE} 1 and at most 1000000"),
    ("--epochs", "EPOCHS", "--force", f"'--force' {WHOLE} 1 and at most 1000000"),
    ("--batch-size", "BATCH", "0", f"'0' {WHOLE} 1 and at most 65536"),
    ("--batch-size", "BATCH", "65537", f"'65537' {WHOLE} 1 and at most 65536"),
    ("--patience", "PATIENCE", "0", f"'0' {WHOLE} 1 and at most 1000000"),
    ("--keep", "KEEP", "1", f"'1' {WHOLE} 2"),
    ("--keep", "KEEP", "[5, 6]", f"'[5, 6]' {WHOLE} 2"),
    ("--fold", None, "0", f"'0' {WHOLE} 1 and at most 1000"),
    ("--fold", None, "1001", f"'1001' {WHOLE} 1 and at most 1000"),
    ("--seed", "SEED", "-1", f"'-1' {WHOLE} 0 and at most 4294967295"),
    ("--seed", "SEED", "4294967296", f"'4294967296' {WHOLE} 0 and at most 4294967295"),
    ("--val", "VAL", "0", "'0' is not a number, more than 0 and less than 1"),
    ("--val", "VAL", "1", "'1' is not a number, more than 0 and less than 1"),
    ("--val", "VAL", "nan", "'nan' is not a number, more than 0 and less than 1"),
    ("--learning-rate", "LR", "inf", "'inf' is not a number, at least 0"),
    ("--learning-rate", "LR", "-1", "'-1' is not a number, at least 0"),
    ("--name", "NAME", "a_b", "'a_b' may hold letters, digits and '-' only, 40 at most"),
    ("--name", "NAME", "../a", "'../a' may hold letters, digits and '-' only, 40 at most"),
    ("--name", "NAME", 41 * "a", f"'{41 * 'a'}' may hold letters, digits and '-' only, 40 at most"),
    ("--reduced", "REDUCED", "bird,,deer", "'bird,,deer' is not a list such as bird,deer,truck or 2,4,9, or none"),
    ("--precision", "PRECISION", "float16", "'float16' is not auto or float32 or mixed_bfloat16"),
    ("--target", "TARGET", "x", "'x' is not augmented or original"),
    ("--encoder", "ENCODER", "x", "'x' is not frozen or tuned or scratch or random"),
    ("--data", "DATA", "", "an empty text is no path; leave the option out, or give a file"),
    ("--data", "DATA", "a\nb.npz", r"'a\nb.npz' holds what cannot be printed; rename the file"),
    ("--config", "CONFIG", "\x1b.json", r"'\x1b.json' holds what cannot be printed; rename the file"),
    ("--config", "CONFIG", "\udcff.json", r"'\udcff.json' holds what cannot be printed; rename the file"),
]


@pytest.mark.parametrize(("option", "knob", "text", "sentence"), BAD)
def test_unusable_values_are_refused_in_one_sentence(arguments, option, knob, text, sentence):
    called = [(f"{option}={text}", f"argument {option}")]
    if knob:
        called += [(f"{knob}={text}", knob)]
    for word, name in called:
        with pytest.raises(InputError) as refusal:
            arguments(word)
        assert re.fullmatch(rf"{name}: {re.escape(sentence)}; .* --help lists the options", str(refusal.value))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ("--name", "argument --name: expected one argument"),
        ("--epoch 5", "unrecognized arguments: --epoch"),  # no abbreviations
        ("--nouag", "unrecognized arguments: --nouag"),
        ("stray", "unrecognized arguments: stray"),
        ("--epochs 5 EPOCHS", "unrecognized arguments: EPOCHS"),
        ("--noaug=1", "argument --noaug: ignored explicit argument '1'"),
    ],
)
def test_unusable_options_are_refused_in_one_sentence(arguments, argv, sentence):
    with pytest.raises(InputError) as refusal:
        arguments(*argv.split())
    assert re.fullmatch(rf"{re.escape(sentence)}; .* --help lists the options", str(refusal.value))


@pytest.mark.parametrize("option", ["--epochs", "EPOCHS", "--seed", "SEED"])
@pytest.mark.parametrize("number", ["1" + "0" * 400, "9" * 5000])
def test_numbers_beyond_measure_are_refused_too(arguments, option, number):
    with pytest.raises(InputError, match="whole number"):
        arguments(f"{option}={number}")


@pytest.mark.parametrize("argv", [("--noaug", "--target", "original"), ("NOAUG=1", "TARGET=original")])
def test_original_target_without_augmentation_is_refused(resolved, argv):
    with pytest.raises(InputError, match=r"--target original .* --noaug"):
        resolved(*argv)


@pytest.mark.parametrize("encoder", ["scratch", "random"])
@pytest.mark.parametrize("choice", ["--noaug", "--target original"])
def test_an_autoencoder_chosen_for_an_encoder_that_takes_none_is_refused(resolved, arguments, encoder, choice):
    with pytest.raises(InputError, match=rf"--encoder {encoder} .* leave them out"):
        resolved("--encoder", encoder, *choice.split())
    assert resolved("--encoder", "tuned", *choice.split())
    assert arguments("--encoder", "tuned", *choice.split())[0].encoder == "tuned"


@pytest.mark.parametrize("choice", ["--noaug", "--target original"])
def test_an_autoencoder_without_augmentation_has_none_to_choose(resolved, choice):
    with pytest.raises(InputError, match=r"of --arch cae is not augmented, so --noaug and --target .*leave them out"):
        resolved("--arch", "cae", *choice.split(), row="autoencoder_cls_cae")


@pytest.mark.parametrize("name", ["noaug", "original", "cls", "fold2", "elu", "cae", "report", "comparison", *ENCODERS])
def test_names_that_are_words_of_run_names_are_refused(arguments, name):
    with pytest.raises(InputError, match=f"'{name}' is a word that run names hold already; choose another"):
        arguments("--name", name)


def test_a_model_has_to_be_named_and_to_be_there():
    for argv, words in (
        ([], "the following arguments are required: --model"),
        (["MODEL=resnet"], "MODEL: 'resnet' is not cnn or autoencoder or autoencoder_cls or mod_autoencoder_cls"),
    ):
        with pytest.raises(InputError, match=f"^{words}; .* --help lists the options$"):
            evaluate.main(argv)


# --- make's words, KNOB=value ---

WORDS = {  # of every knob of a training, something that may be typed
    **{"ARCH": "cae", "DATA": "some file.npz", "NAME": "a", "TARGET": "original", "ENCODER": "tuned"},
    **{"CONFIG": "a=b.json", "REDUCED": "bird, 4", "KEEP": "9", "VAL": "0.3", "SEED": "7", "PRECISION": "float32"},
    **{"LR": "1e-2", "BATCH": "32", "EPOCHS": "5", "PATIENCE": "4", "LABELLED": "0.5", "NOAUG": "1", "FORCE": "1"},
}
FIELDS = {knob_of(field): (name, field) for name, field in (Settings.model_fields | Everything.model_fields).items()}


@pytest.mark.parametrize("knob", sorted(knob for knob in FIELDS if knob))
def test_a_word_of_make_s_is_the_option(arguments, knob):
    name, field = FIELDS[knob]
    option = f"--{option_of(name, field)}"
    as_option = [option] if field.annotation is bool else [option, WORDS[knob]]
    by_word = arguments(f"{knob}={WORDS[knob]}")
    assert by_word == arguments(*as_option) != arguments()


def test_words_and_options_may_be_mixed_and_the_word_goes_first(arguments):
    choice, typed = arguments("EPOCHS=5", "--fold", 3, "NAME=a", "--seed=2", "--epochs", 7, "FORCE=0", "EPOCHS=6")
    assert (choice.fold, choice.name, choice.force, typed) == (3, "a", False, {"epochs": 6, "seed": 2})


HOSTILE = ["$(touch pwned)", "`touch pwned`", "\"; touch pwned; '", "a  b\tc\\", "--force", "*,),(", "x=y:z", "%s %d"]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_are_taken_literally(arguments, workdir, value):
    if "\t" not in value:
        assert arguments(f"DATA={value}")[0].data == value
        assert arguments(f"CONFIG={value}")[0].config == value
    assert arguments(f"ARCH={value}")[0].arch == value
    with pytest.raises(InputError, match=f"^EPOCHS: {re.escape(repr(value))} is not a whole number"):
        arguments(f"EPOCHS={value}")
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("value", ["2", "yes", "", "1 1", "01", "true", "$(touch pwned)"])
@pytest.mark.parametrize("knob", ["NOAUG", "FORCE"])
def test_a_flag_is_1_or_0(arguments, knob, value):
    assert arguments(f"{knob}=0")[0].model_dump() == arguments()[0].model_dump()
    with pytest.raises(InputError) as refusal:
        arguments(f"{knob}={value}")
    assert str(refusal.value) == f"{knob}={value} is neither 1 nor 0"


@pytest.mark.parametrize("script", TAKES)
def test_what_a_script_does_not_take_is_refused_by_name(script, workdir):
    every = set().union(*TAKES.values())
    for knob in (*sorted(every - TAKES[script]), "FOLDS", "NOUAG", "epochs", ""):
        with pytest.raises(InputError) as refusal:
            script.main([f"{knob}=1"])
        known = re.fullmatch(rf".* does not take {knob}; it takes ([A-Z, ]+)", str(refusal.value))[1]
        assert set(known.split(", ")) == TAKES[script]
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("script", TAKES)
def test_of_what_a_chain_shares_each_script_takes_its_part(script):
    settings = {train_cnn: Settings, train_autoencoder: recipes.AutoencoderSettings}.get(script, Settings)
    words = [f"{knob}={value}" for knob, value in WORDS.items()]
    more = REQUIRED.get(f"{script.__name__}.py", [])
    trains = script not in (evaluate, compare, predict, export)
    found = parse("a step", script.Options, settings if trains else None, [*more, *words, "--shared"])
    choice, typed = found if isinstance(found, tuple) else (found, {})
    given = {name for name in choice.model_fields_set if knob_of(type(choice).model_fields[name])} | typed.keys()
    knobs = {name: knob_of(field) for name, field in (Settings.model_fields | type(choice).model_fields).items()}
    expected = TAKES[script] & SHARED
    if script is compare:
        expected = set()  # its NAME is not a run's
    assert {knobs[name] for name in given} - {"MODEL", "IMAGE"} == expected


def test_shared_words_are_still_refused_where_they_are_wrong(arguments):
    for word, sentence in (
        ("NAME=a_b", "NAME: 'a_b' may hold"),
        ("VAL=1", "VAL: '1' is not a number"),
        ("NOAUG=2", "NOAUG=2 is neither 1 nor 0"),
    ):
        with pytest.raises(InputError, match=f"^{sentence}"):
            arguments("--shared", word)
    assert arguments("--shared", "EPOCHS=0", "FORCE=2", "RUNS=x", "MODEL=x") == arguments()


# --- Names of runs ---


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
    assert recipes.run_name(**parts) == name


def test_an_arch_makes_another_model_and_has_to_be_one_of_its_own():
    assert recipes.row_name("cnn") == "cnn"
    assert {recipes.row_name("cnn", arch) for arch in recipes.ARCHS["cnn"]} < recipes.RECIPES.keys()
    assert recipes.ARCHS["cnn"] == ["fast", "elu", "leaky", "pool3", "wide5", "dropout"]
    for model, arch, sentence in (
        ("cnn", "cae", "ARCH=cae is no network of cnn; its networks are fast, elu, leaky, pool3, wide5, dropout"),
        ("autoencoder", "x" * 99, f"ARCH={'x' * 80} is no network of autoencoder; its networks are cae, fast"),
        ("mod_autoencoder_cls", "cae", "ARCH=cae is no network of mod_autoencoder_cls; leave it out"),
    ):
        with pytest.raises(InputError) as refusal:
            recipes.row_name(model, arch)
        assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    ("script", "argv", "model"),
    [
        (train_cnn, [], "cnn"),
        (train_autoencoder, [], "autoencoder"),
        (train_ae_classifier, ["--check"], "autoencoder_cls"),
        (train_ae_classifier, ["--modified"], "mod_autoencoder_cls"),
        (evaluate, ["MODEL=cnn"], "cnn"),
        (predict, ["MODEL=cnn", "IMAGE=a.png"], "cnn"),
        (export, ["MODEL=cnn"], "cnn"),
    ],
)
@pytest.mark.parametrize("arch", ["resnet", "two\nlines", "../a"])
def test_an_arch_that_is_none_is_refused_by_every_script(script, argv, model, arch, workdir):
    with pytest.raises(InputError, match=re.escape(f"ARCH={arch} is no network of {model}; ")):
        script.main([*argv, f"ARCH={arch}"])
    assert not list(workdir.iterdir())


def test_different_runs_have_different_names():
    prefixes = ["", "digits", *map(data.data_prefix, ("some/other.npz", "mod.npz"))]
    variants = [(False, "augmented"), (True, "augmented"), (False, "original")]
    runs = list(itertools.product(recipes.RECIPES, prefixes, variants, [None, "a", "b-c"], ENCODERS))
    names = {recipes.run_name(model, prefix, *variant, *rest) for model, prefix, variant, *rest in runs}
    assert len(names) == len(runs)


def test_cifar10_has_no_prefix_and_the_digits_have_their_word(monkeypatch):
    monkeypatch.setattr(data, "fetch_cifar10", lambda: 2 * [(common.np.zeros(0), common.np.zeros(0))])
    assert data.load_data().prefix == ""
    assert data.load_data("digits", "test").prefix == "digits"


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
    assert recipes.name_and_fold(stem) == parts


# --- Help, and a Python that cannot be used ---


@pytest.mark.parametrize("script", TAKES)
def test_help_names_every_option_with_its_default(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as end:
        script.main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    lines = dict(re.findall(r"^  (--[a-z-]+)(?: [A-Z_]+)?\s+(.*)$", text, re.MULTILINE))
    training = TAKES[script] & {"EPOCHS"}
    kind = recipes.AutoencoderSettings if script is train_autoencoder else Settings
    of_settings = {name: field for name, field in kind.model_fields.items() if training and knob_of(field)}
    fields = of_settings | script.Options.model_fields
    assert lines.keys() - {"--shared"} == {f"--{option_of(name, field)}" for name, field in fields.items()}
    defaults = {"--epochs": "30", "--learning-rate": "0.001", "--val": "0.15", "--seed": "0", "--labelled": "1"}
    defaults |= {"--batch-size": "500" if script is evaluate else "128", "--precision": "auto"}
    defaults |= {"--target": "augmented", "--encoder": "frozen", "--format": "tf_saved_model"}
    for name, field in fields.items():
        option = f"--{option_of(name, field)}"
        default = f" (default: {defaults[option]})" if option in defaults else ""
        assert lines[option] == f"{field.description}{default}"


def python(*argv, **more):
    more = {"cwd": ROOT, **more}
    return subprocess.run([sys.executable, *argv], capture_output=True, text=True, timeout=60, **more)


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("--nouag", 2), ("NOUAG=1", 2)])
def test_answers_without_loading_the_heavy_packages(script, word, status):
    result = python("-X", "importtime", script, *REQUIRED.get(script, []), word)
    assert result.returncode == status
    imported = {line.split("|")[-1].strip() for line in result.stderr.splitlines() if "|" in line}
    assert imported >= {"util.settings", "recipes", "common"}
    heavy = {"tensorflow", "keras", "jax", "sklearn", "skimage", "scipy", "matplotlib", "training"}
    assert not {name.split(".")[0] for name in imported} & heavy
    if status:
        (message,) = [line for line in result.stderr.splitlines() if "import time:" not in line]
        assert message.startswith(f"{script}: ")
        assert word.partition("=")[0] in message
        assert result.stdout == ""
    else:
        assert script in ("report.py", "bench.py") or "--name" in result.stdout


def processor_time(*argv):
    """Seconds of the processor that Python takes, user and system."""
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_help_takes_little_time(script):
    """At most 0.6 s or, on a slow or busy machine, thrice what importing numpy and pydantic takes there."""
    times = []
    for _ in range(10):
        limit = max(0.6, 3 * processor_time("-c", "import numpy, pydantic"))
        times.append(processor_time(script, "--help"))
        if times[-1] < limit:
            return
    pytest.fail(f"{times} s, and the limit is {limit:.2f} s")


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_backend_that_is_not_there_is_one_sentence(script, tmp_path):
    (tmp_path / "a.keras").touch()
    required = {"evaluate.py": ["--model=cnn", "--model-path=a.keras"], "train_ae_classifier.py": ["ENCODER=scratch"]}
    environment = {**os.environ, "KERAS_BACKEND": "foo"}
    result = python(ROOT / script, *required.get(script, []), "DATA=digits", cwd=tmp_path, env=environment)
    assert result.returncode == 2
    before = r"a: 1 finished training, 180 test images\n" if script == "evaluate.py" else r"data: digits, [^\n]*\n"
    assert re.fullmatch(before, result.stdout)
    sentence = rf"{script}: this environment cannot be used \(.*foo\): .*; KERAS_BACKEND may say tensorflow, or jax.*\n"
    assert re.fullmatch(sentence, result.stderr)
    assert [path.name for path in tmp_path.rglob("[!.]*") if path.is_file()] == ["a.keras"]


@pytest.mark.parametrize("script", ALL_SCRIPTS)
@pytest.mark.parametrize("version", ["3.6.15", "3.10.13"])
def test_an_older_python_is_one_sentence(script, version):
    """Whatever is installed there: -S is without packages."""
    code = (
        f"import runpy, sys; sys.version_info = {tuple(map(int, version.split('.')))}; sys.version = '{version} (main)'"
    )
    code += f"; sys.argv = ['a folder/{script}']; runpy.run_path({script!r}, run_name='__main__')"
    result = python("-S", "-c", code)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"{script}: Python 3.11 or newer is needed, this is {version}\n"


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_an_older_python_can_read_as_far_as_the_sentence(script):
    for path in (script, "util/__init__.py"):
        ast.parse((ROOT / path).read_text(encoding="utf-8"), feature_version=(3, 8))
    first = next(line for line in ast.parse((ROOT / script).read_text(encoding="utf-8")).body[1:])
    assert ast.unparse(first) == "from util import cli"


@pytest.mark.parametrize("script", ALL_SCRIPTS)
def test_a_python_without_packages_is_one_sentence(script):
    result = python("-S", script, "--help")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"{script}: this environment cannot be used (No module named 'numpy'): install requirements.txt into it, "
        "or let make choose its own\n"
    )


# --- Exit status and signals ---


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (None, 0, ""),
        (InputError("the input; mend it"), 2, "the input; mend it"),
        (cli.RunFailed("the run; repeat it"), 1, "the run; repeat it"),
        (KeyboardInterrupt(), 130, "stopped; the same command"),
        (cli.Terminated(), 143, "terminated; the same command"),
    ],
)
def test_exit_status_and_message(monkeypatch, capsys, error, status, message):
    monkeypatch.setattr(sys, "argv", ["train_cnn.py"])

    def main():
        if error:
            raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert len(printed.err.strip().splitlines()) == (1 if error else 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("EPOCHS=two\nlines; touch pwned", r"EPOCHS: 'two\nlines; touch pwned' is not a whole number, at least 1 and "),
        ("NOAUG=1\r\n", "it does not take NOAUG; it takes "),
        ("FORCE=1\n\n0", "FORCE=1  0 is neither 1 nor 0"),
        ("two\nLINES=1", "it does not take two LINES; it takes "),
        ("--two\nlines", "unrecognized arguments: --two lines; train_cnn.py --help lists the options"),
        ("ARCH=two\nlines", "ARCH=two lines is no network of cnn; its networks are fast, "),
    ],
)
def test_a_refusal_is_one_line_whatever_was_typed(monkeypatch, capsys, workdir, word, message):
    monkeypatch.setattr(sys, "argv", ["train_cnn.py", word])
    with pytest.raises(SystemExit) as end:
        cli.run(train_cnn.main)
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"train_cnn.py: {message}")
    assert printed.err.count("\n") == 1
    assert not list(workdir.iterdir())


@pytest.mark.parametrize("script", ["train_cnn.py", "evaluate.py"])
def test_only_a_training_that_is_stopped_goes_on(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"a folder/{script}"])

    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit):
        cli.run(main)
    more = "; the same command, without FORCE=1, goes on" if script == "train_cnn.py" else ""
    assert capsys.readouterr().err == f"\n{script}: stopped{more}\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 / 0)


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
