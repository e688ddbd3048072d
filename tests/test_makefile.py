"""The Makefile, run for real in a copy of the project, with stand-ins that write down what they were called with."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from conftest import ROOT, copy_project, make

import options

KNOBS = {knob: name for name, (knob, _) in options.OPTIONS.items() if knob}  # such as EPOCHS: "epochs"
SCRIPTS = {
    "cnn": "train_cnn.py",
    "ae": "train_autoencoder.py",
    "ae_cls": "train_ae_classifier.py",
    "mod_ae_cls": "train_ae_classifier.py",
    "test-eval": "evaluate.py",
    "compare": "compare.py",
}

# In place of a Python with the packages: logs its arguments when it starts and when it is done. Where TOGETHER is set,
# a classifier waits until that many folds are under way.
PYTHON = """
import json, os, sys, time
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
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""

WAIT = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; done\n"  # a shell hears a signal between two commands


def executable(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of the files that make reads, in a folder whose name has a space."""

    def __init__(self, folder):
        names = ("Makefile", "knobs.mk", "options.py", "recipes.py", "requirements.txt", "requirements-dev.txt")
        self.folder = copy_project(folder / "a project", *names)
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

    def calls(self):
        """Arguments of every call so far, less the classifier's check of its options (`--check`)."""
        return [argv for event, argv, *_ in self.events() if event == "start" and argv[-1] != "--check"]

    def refused(self, *arguments, **more):
        """make's one sentence about `arguments`; nothing may have been run or made."""
        before = sorted(self.folder.rglob("*"))
        result = self.make(*arguments, status=2, **more)
        assert sorted(self.folder.rglob("*")) == before
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1, result.stderr
        return result.stderr


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def test_help_lists_every_target_and_knob(project):
    text = project.make(python=False).stdout
    assert text == project.make("help", python=False).stdout
    listed = set(re.findall(r"^  ([\w-]+)", text, re.MULTILINE))
    documented = {"demo", "test", "test-all", "lint", "bench", "clean", "clean-runs", *SCRIPTS}
    assert listed == documented | set(KNOBS) | {"LAUNCH", "PYTHON", "KERAS_BACKEND"}


@pytest.mark.parametrize("target", SCRIPTS)
def test_targets_take_the_knobs_of_their_script(project, target):
    usage = subprocess.run(
        [sys.executable, SCRIPTS[target], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "usage:" in usage
    required = ["MODEL=cnn"] if target == "test-eval" else []
    for knob, option in KNOBS.items():
        arguments = ["-n", target, *required, f"{knob}=1"]
        if re.search(rf"--{option}\b(?!-)", usage):
            line = next(line for line in project.make(*arguments).stdout.splitlines() if f"--{option}" in line)
            assert SCRIPTS[target] in line
        else:
            assert f"make {target} does not take {knob}" in project.refused(*arguments)


@pytest.mark.parametrize("target", ["help", "demo", "test", "lint", "bench", "clean", "clean-runs"])
def test_other_targets_take_no_knobs(project, target):
    for knob in ["LAUNCH", *KNOBS]:
        assert f"make {target} does not take {knob}" in project.refused(target, f"{knob}=1")
    assert "make clean does not take EPOCHS" in project.refused("cnn", "clean", "EPOCHS=1")


def test_cnn_trains_every_fold_then_evaluates(project):
    project.make("cnn", "EPOCHS=7", "BATCH=32", "LR=0.1", "NAME=a", "DATA=digits", "FORCE=1")
    given = ["--data=digits", "--epochs=7", "--batch-size=32", "--learning-rate=0.1", "--name=a", "--force"]
    *folds, evaluation = project.calls()
    assert folds == [["train_cnn.py", f"--fold={k}", *given] for k in range(1, 6)]
    assert evaluation == ["evaluate.py", "--model=cnn", "--data=digits", "--name=a"]


def test_an_arch_is_trained_on_its_own_split_or_on_the_folds_asked_for(project):
    project.make("cnn", "ARCH=elu", "EPOCHS=7")
    project.make("cnn", "ARCH=elu", "FOLDS=2 3", "KEEP=9")
    evaluation = ["evaluate.py", "--model=cnn", "--arch=elu"]
    folds = [["train_cnn.py", f"--fold={k}", "--arch=elu", "--keep=9"] for k in (2, 3)]
    assert project.calls() == [["train_cnn.py", "--arch=elu", "--epochs=7"], evaluation, *folds, evaluation]


def test_an_arch_of_the_classifier_is_one_of_its_autoencoder_too(project):
    project.make("ae_cls", "ARCH=cae", "CONFIG=a b.json", "EPOCHS=7")
    check, *_ = (argv for event, argv, *_ in project.events() if event == "start")
    given = ["--arch=cae", "--epochs=7", "--config=a b.json"]
    assert check == ["train_ae_classifier.py", *given, "--check"]
    assert project.calls() == [
        ["train_autoencoder.py", "--if-missing", "--arch=cae", "--config=a b.json"],
        ["train_ae_classifier.py", *given],
        ["evaluate.py", "--model=autoencoder_cls", "--arch=cae"],
    ]


def test_ae_trains_then_evaluates(project):
    project.make("ae", "NOAUG=1", "KEEP=9", "EPOCHS=7")
    assert project.calls() == [
        ["train_autoencoder.py", "--keep=9", "--noaug", "--epochs=7"],
        ["evaluate.py", "--model=autoencoder", "--noaug"],
    ]


@pytest.mark.parametrize("parallel", ["-j1", "-j4"])
@pytest.mark.parametrize(
    ("target", "model", "extra"),
    [("ae_cls", "autoencoder_cls", []), ("mod_ae_cls", "mod_autoencoder_cls", ["--modified"])],
)
def test_autoencoder_before_folds_before_evaluation(project, parallel, target, model, extra):
    shared = ["DATA=digits", "KEEP=9", "REDUCED=1,2", "VAL=0.2", "SEED=3", "NOAUG=1", "PRECISION=float32", "NAME=a"]
    own = ["EPOCHS=7", "BATCH=32", "LR=0.1", "PATIENCE=4", "FORCE=1"]
    project.make(parallel, target, "FOLDS=1 2 3", *shared, *own, TOGETHER="3" if parallel == "-j4" else "0")
    handed_on = ["--data=digits", "--keep=9", "--reduced=1,2", "--val=0.2", "--seed=3", "--noaug"]
    handed_on += ["--precision=float32", "--name=a"]
    autoencoder, *folds, evaluation = project.calls()
    assert autoencoder == ["train_autoencoder.py", "--if-missing", *handed_on]
    assert evaluation == ["evaluate.py", f"--model={model}", "--data=digits", "--noaug", "--name=a"]
    assert {tuple(fold[: 2 + len(extra)]) for fold in folds} == {
        ("train_ae_classifier.py", *extra, f"--fold={k}") for k in (1, 2, 3)
    }
    everything = {*handed_on, "--epochs=7", "--batch-size=32", "--learning-rate=0.1", "--patience=4", "--force"}
    assert all(set(fold[2 + len(extra) :]) == everything for fold in folds)

    moments = [(event, argv[0]) for event, argv, *_ in project.events() if argv[-1] != "--check"]
    assert moments[:2] == [("start", "train_autoencoder.py"), ("end", "train_autoencoder.py")]
    assert moments[-2:] == [("start", "evaluate.py"), ("end", "evaluate.py")]


@pytest.mark.parametrize("target", ["ae_cls", "mod_ae_cls"])
@pytest.mark.parametrize(("encoder", "trained"), [("tuned", 1), ("frozen", 1), ("scratch", 0), ("random", 0)])
def test_controls_without_an_autoencoder_train_none(project, target, encoder, trained):
    project.make(target, "FOLDS=1", f"ENCODER={encoder}", "NAME=a")
    *autoencoder, fold, evaluation = project.calls()
    assert autoencoder == trained * [["train_autoencoder.py", "--if-missing", "--name=a"]]
    assert fold[-3:] == ["--fold=1", f"--encoder={encoder}", "--name=a"]
    assert evaluation[2:] == [f"--encoder={encoder}", "--name=a"]


def test_classifier_checks_its_options_before_the_autoencoder(project):
    project.make("ae_cls", "EPOCHS=7", "FOLDS=1")
    assert project.events()[0][1] == ["train_ae_classifier.py", "--epochs=7", "--check"]
    (project.folder / "calls").unlink()
    project.make("mod_ae_cls", "EPOCHS=7", "FOLDS=1")
    assert project.events()[0][1] == ["train_ae_classifier.py", "--modified", "--epochs=7", "--check"]


def test_one_autoencoder_for_all_who_need_it(project):
    project.make("-j4", "ae", "ae_cls", "mod_ae_cls")
    moments = [(event, argv[0]) for event, argv, *_ in project.events()]
    assert moments[:2] == [("start", "train_autoencoder.py"), ("end", "train_autoencoder.py")]
    assert moments[2:4] == [("start", "evaluate.py"), ("end", "evaluate.py")]
    assert moments.count(("start", "train_autoencoder.py")) == 2  # the second with --if-missing


def test_compare(project):
    project.make("compare", "RUNS=cnn  autoencoder_cls", "BASELINE=cnn", "NAME=a")
    project.make("compare")
    first = ["compare.py", "--name=a", "--runs=cnn  autoencoder_cls", "--baseline=cnn"]
    assert project.calls() == [first, ["compare.py"]]


def test_test_eval(project):
    project.make("test-eval", "MODEL=mod_autoencoder_cls", "BATCH=64", "TARGET=original")
    assert project.calls() == [["evaluate.py", "--target=original", "--batch-size=64", "--model=mod_autoencoder_cls"]]
    assert "MODEL" in project.refused("test-eval")


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
    project.make("ae", f"DATA={value}", f"NAME={value}", f"EPOCHS={value}")
    project.make("test-eval", f"MODEL={value}")
    assert project.calls() == [
        ["train_autoencoder.py", f"--data={value}", f"--epochs={value}", f"--name={value}"],
        ["evaluate.py", "--model=autoencoder", f"--data={value}", f"--name={value}"],
        ["evaluate.py", f"--model={value}"],
    ]
    assert not (project.folder / "pwned").exists()


def test_empty_values_count_as_not_given(project):
    project.make("cnn", "EPOCHS=", "NAME=", "NOAUG=", "FOLDS=")
    *folds, evaluation = project.calls()
    assert folds == [["train_cnn.py", f"--fold={k}"] for k in range(1, 6)]
    assert evaluation == ["evaluate.py", "--model=cnn"]


def test_flags(project):
    project.make("ae", "NOAUG=0", "FORCE=0")
    assert project.calls()[0] == ["train_autoencoder.py"]
    for value in ("2", "yes", "1 1", "1 0", "$(shell touch pwned)"):
        assert f"NOAUG={value} is neither 1 nor 0" in project.refused("ae", f"NOAUG={value}")
        assert f"FORCE={value} is neither 1 nor 0" in project.refused("ae", f"FORCE={value}")


def test_folds(project):
    assert project.make("cnn", "FOLDS=10 2 2").stderr == ""
    assert sorted(argv[1] for argv in project.calls()[:-1]) == ["--fold=10", "--fold=2"]
    for value in ("1 x", "0", "01", "-1", "1.5", "1;2", "%", "cnn", "$(shell touch pwned)", "1 `touch pwned`"):
        assert "is not a list of whole numbers" in project.refused("cnn", f"FOLDS={value}")


def test_misspelt_knob_is_named(project):
    message = project.refused("cnn", "NOUAG=1")
    assert "no knob NOUAG" in message
    assert all(knob in message for knob in KNOBS)
    assert "no knob NOUAG" in project.refused("NOUAG=$(shell touch pwned)")


def test_an_encoder_in_the_environment_is_no_knob_either(project):
    project.make("ae_cls", "FOLDS=1", ENCODER="scratch")
    assert [argv[0] for argv in project.calls()] == ["train_autoencoder.py", "train_ae_classifier.py", "evaluate.py"]
    assert not any("encoder=" in word for argv in project.calls() for word in argv)


def test_environment_variables_are_no_knobs(project):
    variables = {knob: "1" for knob in [*KNOBS, "LAUNCH", "ENVIRONMENT", "TYPED", "GIVEN", "DEMO", "GPU_BUILD"]}
    project.make("cnn", **{**variables, "PYTHON": "/nowhere"})
    assert len(project.calls()) == 6
    assert project.calls()[0] == ["train_cnn.py", "--fold=1"]
    assert project.calls()[-1] == ["evaluate.py", "--model=cnn"]


def test_launch_is_in_front_of_trainings_only(project):
    project.make("ae_cls", "FOLDS=1", "LAUNCH=env LAUNCHED=$(echo yes)")
    launched = {argv[0]: launched for event, argv, launched, _ in project.events() if argv[-1] != "--check"}
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
    assert all("--data=digits" in argv for argv in project.calls())
    trainings = [argv for argv in project.calls() if argv[0] != "evaluate.py" and "--if-missing" not in argv]
    assert all({"--batch-size=32", "--force"} < set(argv) for argv in trainings)
    assert "imgs/digits_" in shown.splitlines()[-1]


def test_environment_is_made_once_and_again_when_its_list_changes(project):
    install = ["-m", "pip", "install", "-q", "-r", "requirements.txt"]
    assert "venv --clear .venv" in project.make("-n", "cnn", python=False).stdout
    assert not (project.folder / ".venv").exists()
    shown = project.make("test-eval", "MODEL=cnn", python=False).stdout
    assert "Installing requirements.txt into .venv" in shown
    assert project.calls() == [install, ["evaluate.py", "--model=cnn"]]

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
    assert [argv[:2] for argv in project.calls()] == [["-m", "pip"]]
    (project.folder / "fail-pip").unlink()
    project.make("cnn", "FOLDS=1", python=False)
    assert [argv[:2] for argv in project.calls()].count(["-m", "pip"]) == 2


def test_gpu_build_where_a_driver_answers(project):
    executable(project.folder / "bin/nvidia-smi", "#!/bin/sh\nexit 0\n")
    project.make("test-eval", "MODEL=cnn", python=False)
    assert project.calls()[0] == ["-m", "pip", "install", "-q", "-r", "requirements.txt", "tensorflow[and-cuda]"]


def test_tools_are_installed_for_test_and_lint_only(project):
    project.make("lint", python=False)
    assert project.calls()[0] == ["-m", "pip", "install", "-q", "-r", "requirements-dev.txt"]
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
    runs = ["checkpoints/cnn_fold1.keras", "checkpoints/digits_cnn_fold1.keras", "checkpoints/autoencoder.state"]
    demo = ["checkpoints/digits_cnn_demo_fold1.keras", "checkpoints/.digits_cnn_demo_fold1.lock"]
    demo += ["checkpoints/.digits_cnn_demo_fold1.1a2b.part.state", "imgs/.digits_cnn_demo_report.1a2b.part.txt"]
    gone = [*demo, "imgs/digits_cnn_demo_report.txt", "__pycache__/a", ".ruff_cache/a"]
    for name in kept + runs + gone:
        executable(project.folder / name, "")

    def left():
        return {name for name in kept + runs + gone if (project.folder / name).exists()}

    project.make("clean")
    assert left() == {*kept, *runs}
    project.make("clean-runs")
    assert left() == {*kept}
