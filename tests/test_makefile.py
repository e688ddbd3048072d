"""The Makefile, run for real in a copy of the project, with stand-ins that write down what they were called with."""

import json
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, copy_project, make
from test_options import TAKES

from util import knobs

KNOBS = sorted(set().union(*TAKES.values()))
SCRIPTS = {
    "cnn": "train_cnn.py",
    "ae": "train_autoencoder.py",
    "ae_cls": "train_ae_classifier.py",
    "mod_ae_cls": "train_ae_classifier.py",
    "test-eval": "evaluate.py",
    "compare": "compare.py",
    "predict": "predict.py",
    "export": "export.py",
}

# In place of a Python with the packages: logs its arguments when it starts and when it is done. Where TOGETHER is set,
# a classifier waits until that many folds are under way.
PYTHON = """
import json, os, sys, time
if sys.argv[1:3] == ["-I", "-c"]:  # whether it starts, and has what was installed
    print("yes")
    sys.exit("import" in sys.argv[3] and os.path.exists("fail-import"))
if "pip" in sys.argv and os.environ.get("PIP_USER") != "0":
    sys.exit("pip would install for the user")
def log(event):
    with open("calls", "a") as file:
        line = [event, sys.argv[1:], os.environ.get("LAUNCHED"), os.environ.get("KERAS_BACKEND")]
        file.write(json.dumps(line) + "\\n")
log("start")
time.sleep(0.05)
deadline = time.monotonic() + 20
folds = int(os.environ.get("TOGETHER", 0)) if "--check" not in sys.argv and "classifier" in sys.argv[1] else 0
while open("calls").read().count("--fold") < folds:
    if time.monotonic() > deadline:
        sys.exit("the folds do not run side by side")
    time.sleep(0.01)
log("end")
sys.exit(os.path.exists("fail-pip") and "pip" in sys.argv)
"""
# In place of python3: claims to be Python $VERSION, and `-m venv` makes an environment out of the stand-in above.
PYTHON3 = """
import os, shutil, sys
version = tuple(map(int, os.environ["VERSION"].split(".")))
if sys.argv[1] == "-V":
    print("Python", os.environ["VERSION"])
elif sys.argv[1] == "-c":
    sys.version_info = version
    exec(sys.argv[2])
elif sys.argv[1:4] == ["-m", "venv", "--clear"]:
    shutil.rmtree(sys.argv[4], ignore_errors=True)
    os.makedirs(sys.argv[4] + "/bin")
    shutil.copy("stub", sys.argv[4] + "/bin/python")
else:
    os.execv(sys.executable, [sys.executable, "-I", "-S", *sys.argv[1:]])
"""

WAIT = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; done\n"  # a shell hears a signal between two commands


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of the files that make reads, in a folder whose name has a space."""

    def __init__(self, folder):
        self.folder = copy_project(folder / "a project")
        for name in ("requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.folder)
        (self.folder / "stub.py").write_text(PYTHON)
        self.python = self.folder / "stub"
        executable(self.python, f'#!/bin/sh\nexec "{sys.executable}" -IS stub.py "$@"\n')
        (self.folder / "python3.py").write_text(PYTHON3)
        executable(self.folder / "bin/python3", f'#!/bin/sh\nexec "{sys.executable}" -S python3.py "$@"\n')
        executable(self.folder / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")

    def make(self, *arguments, status=0, python=True, **environment):
        """Run make; `python` gives it the stand-in as PYTHON, so that no environment is made."""
        environment = {"VERSION": "3.12.1", **environment, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        result = make(self.folder, *arguments, python=self.python if python else None, **environment)
        assert result.returncode == status, result.stdout + result.stderr
        return result

    def events(self):
        log = self.folder / "calls"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def all_calls(self):
        """Arguments of every call so far, words such as EPOCHS=5 sorted: make has no order of its own for them."""
        calls = [argv for event, argv, *_ in self.events() if event == "start"]
        return [sorted(argv, key=lambda word: word if word.partition("=")[0] in KNOBS else "") for argv in calls]

    def calls(self):
        """The same, less the classifier's check of its options (`--check`)."""
        return [argv for argv in self.all_calls() if "--check" not in argv]

    def refused(self, *arguments, **more):
        """make's one sentence about `arguments`; nothing may have been run or made."""
        before = sorted(self.folder.rglob("*"))
        result = self.make(*arguments, status=2, **more)
        assert sorted(self.folder.rglob("*")) == before
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        return result.stderr

    def refused_by_script(self, *arguments):
        """A script's one sentence about `arguments`, of a Python with the packages; nothing may have been made."""
        before = sorted(self.folder.rglob("*"))
        result = make(self.folder, *arguments, PYTHONDONTWRITEBYTECODE="1")
        assert sorted(self.folder.rglob("*")) == before
        assert result.returncode == 2
        sentence, noise = result.stderr.splitlines()
        assert noise.startswith("make: ***")
        return sentence


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_help_lists_every_target_and_knob(project):
    text = project.make(python=False).stdout
    assert text == project.make("help", python=False).stdout
    listed = re.findall(r"^  ([\w-]+)", text, re.MULTILINE)
    documented = {"demo", "curve", "report", "test", "test-all", "lint", "bench", "unaugmented", "clean-runs", *SCRIPTS}
    assert set(listed) == documented | set(KNOBS) | {"FOLDS", "LAUNCH", "PYTHON", "KERAS_BACKEND", "GPU"}
    assert len(listed) == len(set(listed))
    assert {knob for *_, knob in knobs.declared() if knob} == set(KNOBS)


@pytest.mark.parametrize("target", SCRIPTS)
def test_targets_hand_every_knob_to_their_script(project, target):
    """Which says what it takes; `env` and the shell have the values from the environment."""
    folds = ["FOLDS=1"] if target in ("cnn", "ae_cls", "mod_ae_cls") else []
    shown = project.make("-n", target, *folds, *(f"{knob}=1" for knob in KNOBS)).stdout
    lines = [line for line in shown.splitlines() if SCRIPTS[target] in line]
    assert lines
    for line in lines:
        words = re.findall(r'\b([A-Z]+)="\$([A-Z]+)"', line)
        assert sorted(words) == [(knob, knob) for knob in KNOBS]


@pytest.mark.parametrize(
    ("target", "knob"),
    [
        *(("cnn", "ENCODER"), ("cnn", "RUNS"), ("ae", "ENCODER"), ("ae_cls", "MODEL"), ("mod_ae_cls", "BASELINE")),
        *(("test-eval", "EPOCHS"), ("compare", "VAL"), ("predict", "BATCH"), ("export", "OUT")),
    ],
)
def test_what_a_script_would_ignore_it_refuses(project, target, knob):
    script = SCRIPTS[target]
    required = {"test-eval": ["MODEL=cnn"], "predict": ["MODEL=cnn", "IMAGE=a.png"], "export": ["MODEL=cnn"]}
    sentence = project.refused_by_script(target, f"{knob}=1", *required.get(target, []))
    known = re.fullmatch(rf"{script}: it does not take {knob}; it takes ([A-Z, ]+)", sentence)[1]
    (takes,) = (names for module, names in TAKES.items() if f"{module.__name__}.py" == script)
    assert set(known.split(", ")) == takes


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("cnn EPOCHS=0", "train_cnn.py: EPOCHS: '0' is not a whole number, at least 1 and at most 1000000; "),
        (
            "ae NAME=$(shell touch pwned)",
            "train_autoencoder.py: NAME: '$(shell touch pwned)' may hold letters, digits ",
        ),
        ("ae_cls EPOCHS=0", "train_ae_classifier.py: EPOCHS: '0' is not a whole number, at least 1 and at most 100000"),
        ("mod_ae_cls ARCH=cae", "train_ae_classifier.py: ARCH=cae is no network of mod_autoencoder_cls; leave it out"),
        (
            "ae_cls CONFIG=a`touch pwned`.json",
            "train_ae_classifier.py: CONFIG: there is no file 'a`touch pwned`.json'; ",
        ),
        ("test-eval MODEL=resnet", "evaluate.py: MODEL: 'resnet' is not cnn or autoencoder or autoencoder_cls or mod_"),
        ("test-eval", "evaluate.py: the following arguments are required: --model; evaluate.py --help lists the optio"),
        ("compare RUNS=$HOME", "compare.py: '$HOME' cannot be compared: "),
    ],
)
def test_wrong_values_are_refused_before_anything_is_trained(project, words, sentence):
    assert project.refused_by_script(*words.split(maxsplit=1)).startswith(sentence)


@pytest.mark.parametrize("target", ["help", "demo", "report", "test", "lint", "bench", "unaugmented", "clean-runs"])
def test_other_targets_take_no_knobs(project, target):
    for knob in ["LAUNCH", "FOLDS", *KNOBS]:
        assert f"make {target} does not take {knob}" in project.refused(target, f"{knob}=1")
    assert "make clean does not take EPOCHS" in project.refused("cnn", "unaugmented", "EPOCHS=1")


@pytest.mark.parametrize("target", ["ae", "test-eval", "compare", "predict", "export"])
def test_folds_are_of_classifiers(project, target):
    assert f"make {target} does not take FOLDS" in project.refused(target, "FOLDS=1")


@pytest.mark.parametrize("target", ["test-eval", "compare", "predict", "export"])
def test_launch_is_of_trainings(project, target):
    assert f"make {target} does not take LAUNCH" in project.refused(target, "LAUNCH=srun")


def test_cnn_trains_every_fold_then_evaluates(project):
    given = ["BATCH=32", "DATA=digits", "EPOCHS=7", "FORCE=1", "LR=0.1", "NAME=a"]
    project.make("cnn", *given)
    *folds, evaluation = project.calls()
    assert folds == [["train_cnn.py", f"--fold={k}", *given] for k in range(1, 6)]
    assert evaluation == ["evaluate.py", "--model=cnn", "--shared", *given]


def test_one_fold_is_a_target_of_its_own(project):
    project.make("cnn-fold2", "NAME=a")
    assert project.calls() == [["train_cnn.py", "--fold=2", "NAME=a"]]


def test_an_arch_is_trained_on_its_own_split_or_on_the_folds_asked_for(project):
    project.make("cnn", "ARCH=elu", "EPOCHS=7")
    project.make("cnn", "ARCH=elu", "FOLDS=2 3", "KEEP=9")
    evaluation = ["evaluate.py", "--model=cnn", "--shared", "ARCH=elu"]
    folds = [["train_cnn.py", f"--fold={k}", "ARCH=elu", "KEEP=9"] for k in (2, 3)]
    assert project.calls() == [
        ["train_cnn.py", "ARCH=elu", "EPOCHS=7"],
        [*evaluation, "EPOCHS=7"],
        *folds,
        [*evaluation, "KEEP=9"],
    ]


def test_an_arch_of_the_classifier_is_one_of_its_autoencoder_too(project):
    given = ["ARCH=cae", "CONFIG=a b.json", "EPOCHS=7"]
    project.make("ae_cls", *given)
    assert project.all_calls() == [
        ["train_ae_classifier.py", "--check", *given],
        ["train_autoencoder.py", "--if-missing", "--shared", *given],
        ["train_ae_classifier.py", *given],
        ["evaluate.py", "--model=autoencoder_cls", "--shared", *given],
    ]


def test_ae_trains_then_evaluates(project):
    given = ["EPOCHS=7", "KEEP=9", "NOAUG=1"]
    project.make("ae", *given)
    assert project.calls() == [
        ["train_autoencoder.py", *given],
        ["evaluate.py", "--model=autoencoder", "--shared", *given],
    ]


@pytest.mark.parametrize("parallel", ["-j1", "-j4"])
@pytest.mark.parametrize(
    ("target", "model", "extra"),
    [("ae_cls", "autoencoder_cls", []), ("mod_ae_cls", "mod_autoencoder_cls", ["--modified"])],
)
def test_autoencoder_before_folds_before_evaluation(project, parallel, target, model, extra):
    given = ["DATA=digits", "KEEP=9", "REDUCED=1,2", "VAL=0.2", "SEED=3", "NOAUG=1", "PRECISION=float32", "NAME=a"]
    given = sorted([*given, "EPOCHS=7", "BATCH=32", "LR=0.1", "PATIENCE=4", "FORCE=1"])
    project.make(parallel, target, "FOLDS=1 2 3", *given, TOGETHER="3" if parallel == "-j4" else "0")
    autoencoder, *folds, evaluation = project.calls()
    assert autoencoder == ["train_autoencoder.py", "--if-missing", "--shared", *given]
    assert evaluation == ["evaluate.py", f"--model={model}", "--shared", *given]
    assert sorted(folds) == [["train_ae_classifier.py", *extra, f"--fold={k}", *given] for k in (1, 2, 3)]

    moments = [(event, argv[0]) for event, argv, *_ in project.events() if "--check" not in argv]
    assert moments[:2] == [("start", "train_autoencoder.py"), ("end", "train_autoencoder.py")]
    assert moments[-2:] == [("start", "evaluate.py"), ("end", "evaluate.py")]


@pytest.mark.parametrize("target", ["ae_cls", "mod_ae_cls"])
@pytest.mark.parametrize(("encoder", "trained"), [("tuned", 1), ("frozen", 1), ("scratch", 0), ("random", 0)])
def test_controls_without_an_autoencoder_train_none(project, target, encoder, trained):
    given = [f"ENCODER={encoder}", "NAME=a"]
    project.make(target, "FOLDS=1", *given)
    *autoencoder, fold, evaluation = project.calls()
    assert autoencoder == trained * [["train_autoencoder.py", "--if-missing", "--shared", *given]]
    assert fold[-3:] == ["--fold=1", *given]
    assert evaluation[2:] == ["--shared", *given]


def test_classifier_checks_its_options_before_the_autoencoder(project):
    project.make("ae_cls", "EPOCHS=7", "FOLDS=1")
    assert project.all_calls()[0] == ["train_ae_classifier.py", "--check", "EPOCHS=7"]
    (project.folder / "calls").unlink()
    project.make("mod_ae_cls", "EPOCHS=7", "FOLDS=1")
    assert project.all_calls()[0] == ["train_ae_classifier.py", "--modified", "--check", "EPOCHS=7"]


def test_one_autoencoder_for_all_who_need_it(project):
    project.make("-j4", "ae", "ae_cls", "mod_ae_cls")
    moments = [(event, argv[0]) for event, argv, *_ in project.events()]
    assert moments[:2] == [("start", "train_autoencoder.py"), ("end", "train_autoencoder.py")]
    assert moments[2:4] == [("start", "evaluate.py"), ("end", "evaluate.py")]
    assert moments.count(("start", "train_autoencoder.py")) == 2  # the second with --if-missing


def test_compare(project):
    given = ["BASELINE=cnn", "NAME=a", "RUNS=cnn  autoencoder_cls"]
    project.make("compare", *given)
    project.make("compare")
    assert project.calls() == [["compare.py", *given], ["compare.py"]]


def test_test_eval(project):
    given = ["BATCH=64", "MODEL=mod_autoencoder_cls", "TARGET=original"]
    project.make("test-eval", *given)
    assert project.calls() == [["evaluate.py", *given]]


def test_predict(project):
    (project.folder / "a.png").touch()
    given = ["IMAGE=*.png 'my cat [1].jpg' a$b.png", "MODEL=cnn", "NAME=a", "OUT=my table.csv"]
    project.make("predict", *given)
    assert project.calls() == [["predict.py", *given]]  # its patterns are the script's, not the shell's


def test_export(project):
    project.make("export", "FORMAT=onnx", "MODEL=cnn")
    assert project.calls() == [["export.py", "FORMAT=onnx", "MODEL=cnn"]]


HOSTILE = [
    "$(shell touch pwned)",
    "$(error pwned)",
    "`touch pwned`",
    "$$(touch pwned)",
    "$HOME ${HOME} $$ $@ %",
    "\"; touch pwned; '",
    "'; touch pwned #",
    "two\nlines; touch pwned\n",
    "a  b\tc\\",
    "--force",
    "*,),(",
    "x=y:z",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_reach_the_scripts_literally(project, value):
    given = [f"{knob}={value}" for knob in ("ARCH", "DATA", "EPOCHS", "NAME", "NOAUG")]
    project.make("ae", *given)
    project.make("test-eval", f"MODEL={value}")
    assert project.calls() == [
        ["train_autoencoder.py", *given],
        ["evaluate.py", "--model=autoencoder", "--shared", *given],
        ["evaluate.py", f"MODEL={value}"],
    ]
    assert not (project.folder / "pwned").exists()


def test_empty_values_count_as_not_given(project):
    project.make("cnn", "EPOCHS=", "NAME=", "NOAUG=", "FOLDS=", "ARCH=")
    *folds, evaluation = project.calls()
    assert folds == [["train_cnn.py", f"--fold={k}"] for k in range(1, 6)]
    assert evaluation == ["evaluate.py", "--model=cnn", "--shared"]


def test_flags(project):
    project.make("ae", "NOAUG=0", "FORCE=0")
    assert project.calls()[0] == ["train_autoencoder.py", "FORCE=0", "NOAUG=0"]
    for word in ("NOAUG=2", "FORCE=1 0", "NOAUG=$(shell touch pwned)"):
        assert project.refused_by_script("ae", word) == f"train_autoencoder.py: {word} is neither 1 nor 0"


def test_folds(project):
    assert project.make("cnn", "FOLDS=10 2 2").stderr == ""
    assert sorted(argv[1] for argv in project.calls()[:-1]) == ["--fold=10", "--fold=2"]
    values = ["1 x", "0", "01", "-1", "1.5", "1;2", "%", "cnn", "$(shell touch pwned)", "1 `touch pwned`", "1 1001"]
    for value in values:
        sentence = f'FOLDS={value} is not a list of whole numbers from 1 to 1000, such as "1 2 3".  Stop.\n'
        assert project.refused("cnn", f"FOLDS={value}").endswith(sentence)


def test_misspelt_knob_is_named(project):
    message = project.refused("cnn", "NOUAG=1")
    assert "no knob NOUAG" in message
    assert all(re.search(rf"\b{knob}\b", message) for knob in (*KNOBS, "FOLDS", "LAUNCH", "PYTHON", "KERAS_BACKEND"))
    assert project.refused("cnn", "NOUAG=1", python=False) == message  # before an environment is made
    for name in ("epochs", "KNOBS", "GOALS", "FOLD_LIST", "DEMO", "SHELL", "TYPED", "OWN", "KNOWN"):
        for value in ("1", name, *([""] if name != "SHELL" else [])):  # make itself takes an empty SHELL for none
            assert project.refused("cnn", f"{name}={value}").endswith(message.partition("NOUAG")[2])
    assert "no knob NOUAG" in project.refused("NOUAG=$(shell touch pwned)")


def test_an_encoder_in_the_environment_is_no_knob_either(project):
    project.make("ae_cls", "FOLDS=1", ENCODER="scratch")
    assert [argv[0] for argv in project.calls()] == ["train_autoencoder.py", "train_ae_classifier.py", "evaluate.py"]
    assert not any("ENCODER" in word for argv in project.calls() for word in argv)


def test_environment_variables_are_no_knobs(project):
    names = "LAUNCH FOLDS ENVIRONMENT OWN KNOWN TYPED GIVEN FOLD_LIST NEEDED DEMO GPU_BUILD"
    variables = {knob: "1" for knob in [*KNOBS, *names.split()]}
    project.make("cnn", **{**variables, "PYTHON": "/nowhere"})
    assert len(project.calls()) == 6
    assert project.calls()[0] == ["train_cnn.py", "--fold=1"]
    assert project.calls()[-1] == ["evaluate.py", "--model=cnn", "--shared"]


def test_launch_is_in_front_of_trainings_only(project):
    project.make("ae_cls", "FOLDS=1", "LAUNCH=env LAUNCHED=$(echo yes)")
    launched = {argv[0]: launched for event, argv, launched, _ in project.events() if "--check" not in argv}
    assert launched == {"train_autoencoder.py": "yes", "train_ae_classifier.py": "yes", "evaluate.py": None}


@pytest.mark.parametrize("target", ["cnn", "demo", "test-eval"])
def test_what_ends_make_ends_its_scripts(project, target):
    """SIGTERM goes to make alone, as from a scheduler or `kill`; Ctrl-C reaches every process by itself."""
    executable(project.python, "#!/bin/sh\ntrap 'echo end >> calls; exit 143' TERM\necho start >> calls\n" + WAIT)
    log, words = project.folder / "calls", ["MODEL=cnn"] if target == "test-eval" else ["LAUNCH=LAUNCHED=yes"]
    command = ["make", target, *(words if target != "demo" else []), f"PYTHON={project.python}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    process = subprocess.Popen(command, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    assert process.wait(10) != 0
    said = log.read_text().split()
    assert said.count("start") == said.count("end") > 0


def test_python_may_have_any_path_and_no_environment_is_made(project):
    project.python = project.python.rename(project.folder / "my $(python) 'n' \"3\"")
    project.make("test", "lint", "cnn")
    assert ["train_cnn.py", "--fold=1"] in project.calls()
    assert ["-m", "pytest", "-q", "-n", "2", "--dist", "loadfile"] in project.calls()
    assert ["-m", "ruff", "check", "."] in project.calls()
    project.make("demo", "KERAS_BACKEND=jax")
    assert {backend for *_, backend in project.events()[-20:]} == {"jax"}
    assert not list(project.folder.glob(".venv*"))


def test_demo_runs_the_whole_chain_on_digits(project):
    shown = project.make("demo").stdout
    assert [argv[0] for argv in project.calls()] == [
        *["train_cnn.py", "train_cnn.py", "evaluate.py"],
        *["train_autoencoder.py", "evaluate.py"],
        *["train_autoencoder.py", "train_ae_classifier.py", "train_ae_classifier.py", "evaluate.py"],
    ]
    assert all("DATA=digits" in argv for argv in project.calls())
    trainings = [argv for argv in project.calls() if argv[0] != "evaluate.py" and "--if-missing" not in argv]
    assert all({"BATCH=32", "FORCE=1", "NAME=demo"} < set(argv) for argv in trainings)
    assert "imgs/digits_" in shown.splitlines()[-1]


def test_environment_is_made_once_and_again_when_its_list_changes(project):
    install = ["-I", "-m", "pip", "install", "-q", "-r", "requirements.txt"]
    assert "venv --clear .venv" in project.make("-n", "cnn", python=False).stdout
    assert not (project.folder / ".venv").exists()
    shown = project.make("test-eval", "MODEL=cnn", python=False).stdout
    assert "Installing requirements.txt into .venv" in shown
    assert project.calls() == [install, ["evaluate.py", "MODEL=cnn"]]

    os.utime(project.folder / "requirements.txt", (1, 1))
    project.make("test-eval", "MODEL=cnn", python=False)
    assert project.calls().count(install) == 1
    (project.folder / ".venv/dropped").touch()
    os.utime(project.folder / "requirements.txt", (4e9, 4e9))
    project.make("test-eval", "MODEL=cnn", python=False)
    assert project.calls().count(install) == 2
    assert not (project.folder / ".venv/dropped").exists()


def test_a_failed_installation_starts_over(project):
    (project.folder / "fail-pip").touch()
    project.make("cnn", "FOLDS=1", python=False, status=2)
    assert [argv[:3] for argv in project.calls()] == [["-I", "-m", "pip"]]
    (project.folder / "fail-pip").unlink()
    project.make("cnn", "FOLDS=1", python=False)
    assert [argv[:3] for argv in project.calls()].count(["-I", "-m", "pip"]) == 2


def test_an_environment_that_lacks_what_was_installed_is_not_believed(project):
    (project.folder / "fail-import").touch()
    sentence = project.make("cnn", "FOLDS=1", python=False, status=2).stderr.splitlines()[0]
    assert sentence == ".venv lacks what was to be installed into it: see above; mend that and repeat"
    assert not (project.folder / ".venv/ready").exists()
    (project.folder / "fail-import").unlink()
    project.make("cnn", "FOLDS=1", python=False)
    assert (project.folder / ".venv/ready").exists()


def test_an_environment_whose_python_is_gone_is_made_anew(project):
    project.make("test-eval", "MODEL=cnn", python=False)
    (project.folder / ".venv/bin/python").unlink()
    (project.folder / ".venv/dropped").touch()
    project.make("test-eval", "MODEL=cnn", python=False)
    assert [argv[:3] for argv in project.calls()].count(["-I", "-m", "pip"]) == 2
    assert not (project.folder / ".venv/dropped").exists()


def test_the_user_s_pip_settings_do_not_count(project):
    project.make("test-eval", "MODEL=cnn", python=False, PIP_USER="1", PYTHONPATH="/nowhere")
    assert [argv[:3] for argv in project.calls()].count(["-I", "-m", "pip"]) == 1


def test_gpu_build_where_make_sees_no_driver(project):
    install = ["-I", "-m", "pip", "install", "-q", "-r", "requirements.txt"]
    project.make("cnn", "FOLDS=1", python=False)
    project.make("cnn", "FOLDS=1", "GPU=1", python=False)
    project.make("cnn", "FOLDS=1", "GPU=1", python=False)
    project.make("cnn", "FOLDS=1", python=False)
    assert [argv for argv in project.calls() if "pip" in argv] == [install, [*install, "tensorflow[and-cuda]"]]
    os.utime(project.folder / "requirements.txt", (4e9, 4e9))
    project.make("cnn", "FOLDS=1", python=False)  # made anew, it is the GPU build again
    assert [argv for argv in project.calls() if "pip" in argv][-1] == [*install, "tensorflow[and-cuda]"]
    assert "GPU=2 is neither 1 nor 0" in project.refused("cnn", "GPU=2")
    assert "make compare does not take GPU" in project.refused("compare", "GPU=1")


def test_the_backend_reaches_a_launched_script_that_gets_no_environment(project):
    launch = "LAUNCH=env -u KERAS_BACKEND"
    project.make("cnn", "FOLDS=1", launch, "KERAS_BACKEND=jax")
    project.make("cnn", "FOLDS=1", launch, KERAS_BACKEND="torch")
    project.make("cnn", "FOLDS=1", launch)
    backends = [backend for event, argv, _, backend in project.events() if "train" in argv[0] and event == "start"]
    assert backends == ["jax", "torch", None]


def test_gpu_build_where_a_driver_answers(project):
    executable(project.folder / "bin/nvidia-smi", "#!/bin/sh\nexit 0\n")
    project.make("test-eval", "MODEL=cnn", python=False)
    assert project.calls()[0] == ["-I", "-m", "pip", "install", "-q", "-r", "requirements.txt", "tensorflow[and-cuda]"]


def test_tools_are_installed_for_test_and_lint_only(project):
    project.make("lint", python=False)
    assert project.calls()[0] == ["-I", "-m", "pip", "install", "-q", "-r", "requirements-dev.txt"]
    assert not (project.folder / ".venv").exists()
    project.make("-j4", "test", python=False)
    project.make("test", python=False)
    lists = [argv[-1] for argv in project.calls() if "pip" in argv]
    assert lists == ["requirements-dev.txt", "requirements.txt", "requirements-dev.txt"]
    project.make("test-all", python=False)
    assert project.calls()[-1] == ["-m", "pytest", "-q", "-m", ""]


@pytest.mark.parametrize("version", ["3.6.15", "3.10.13", "3.11.0", "3.13.9", "3.14.0"])
def test_python_versions(project, version):
    supported = version in ("3.11.0", "3.13.9")
    result = project.make("test-eval", "MODEL=cnn", python=False, status=0 if supported else 2, VERSION=version)
    assert (project.folder / ".venv").exists() == supported
    if not supported:
        sentence, noise = result.stderr.splitlines()
        assert f"Python 3.11 to 3.13 is needed, and python3 is Python {version}" in sentence
        assert noise.startswith("make: ***")


def test_clean(project):
    kept = ["checkpoints/.gitkeep", ".venv/ready", ".venv-lint/ready", "imgs/cnn_report.txt"]
    kept += ["imgs/digits_cnn_demo2_report.txt"]
    runs = ["checkpoints/cnn_fold1.keras", "checkpoints/digits_cnn_fold1.keras", "checkpoints/autoencoder.state"]
    runs += ["checkpoints/digits_cnn_demo2_fold1.keras"]
    runs += ["checkpoints/cnn_fold1_saved_model/variables/index"]
    demo = ["checkpoints/digits_cnn_demo_fold1.keras", "checkpoints/.digits_cnn_demo_fold1.lock"]
    demo += ["checkpoints/digits_autoencoder_noaug_demo.keras", "imgs/digits_samples_demo.png"]
    demo += ["checkpoints/digits_cnn_demo_fold1_saved_model/variables/index"]
    demo += ["checkpoints/.digits_cnn_demo_fold1.1a2b.part.state", "imgs/.digits_cnn_demo_report.1a2b.part.txt"]
    gone = [*demo, "imgs/digits_cnn_demo_report.txt", "__pycache__/a", ".ruff_cache/a"]
    gone += ["util/__pycache__/a", "tests/__pycache__/a", ".pytest_cache/a"]
    for name in kept + runs + gone:
        executable(project.folder / name, "")
    for venv in (".venv", ".venv-lint"):  # one that no longer starts would be made anew
        executable(project.folder / venv / "bin/python", "#!/bin/sh\necho yes\n")

    def left():
        return {name for name in kept + runs + gone if (project.folder / name).exists()}

    project.make("unaugmented")
    assert left() == {*kept, *runs}
    project.make("clean-runs")
    assert left() == {*kept}
