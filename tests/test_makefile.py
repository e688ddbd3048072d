"""The Makefile: what it would run, by `make -n`; and run for real, with a stand-in for Python that logs its calls."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time

import pytest
from conftest import ROOT, copy_project, make, wait_until

# In place of a Python with the packages.
PYTHON = """
import json, os, sys
def log(event):
    with open("calls", "a") as file:
        file.write(json.dumps([event, sys.argv[1:], os.environ.get("KERAS_BACKEND")]) + "\\n")
log("start")
log("end")
sys.exit(os.path.exists("fail-pip") and "pip" in sys.argv)
"""
# In place of python3: claims to be Python $VERSION, and `-m venv` makes an environment out of the stand-in above.
PYTHON3 = """
import os, shutil, sys
if sys.argv[1] == "-c":
    sys.version_info = tuple(map(int, os.environ["VERSION"].split(".")))
    exec(sys.argv[2])
elif sys.argv[1:4] == ["-m", "venv", "--clear"]:
    shutil.rmtree(sys.argv[4], ignore_errors=True)
    os.makedirs(sys.argv[4] + "/bin")
    shutil.copy("python", sys.argv[4] + "/bin/python")
"""


def executable(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Project:
    """A copy of the files that make reads, in a folder whose name has a space, as the Python that it is given has."""

    def __init__(self, folder):
        self.folder = copy_project(folder / "a project")
        for name in ("requirements.txt", "requirements-dev.txt"):
            shutil.copy(ROOT / name, self.folder)
        for name, text in (("python", PYTHON), ("bin/python3", PYTHON3)):
            (self.folder / f"{name.replace('/', '-')}.py").write_text(text)
            executable(self.folder / name, f'#!/bin/sh\nexec "{sys.executable}" -IS {name.replace("/", "-")}.py "$@"\n')
        executable(self.folder / "bin/nvidia-smi", "#!/bin/sh\nexit 9\n")

    def make(self, *arguments, status=0, python=True, **environment):
        """Run make; `python` gives it the stand-in as PYTHON, so that no environment is made."""
        environment = {"VERSION": "3.12.1", **environment, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"}
        result = make(self.folder, *arguments, python=self.folder / "python" if python else None, **environment)
        assert result.returncode == status, result.stdout + result.stderr
        return result

    def events(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def calls(self):
        return [argv for event, argv, _ in self.events() if event == "start"]

    def installations(self):
        return [argv[argv.index("-r") + 1 :] for argv in self.calls() if "pip" in argv]


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def shown(*arguments, **environment):
    """The commands of `make -n`, without Python's own name."""
    result = make(ROOT, "-n", *arguments, python="python", **environment)
    assert result.returncode == 0, result.stderr
    return [" ".join(line.removeprefix("'python' ").split()) for line in result.stdout.splitlines()]


def folds(command, numbers=(1, 2, 3, 4, 5)):
    return [command.replace("FOLD", str(number)) for number in numbers]


CHECK, TRAIN, EVALUATE = "train_ae_classifier.py --check", "train_ae_classifier.py", "evaluate.py --model"


@pytest.mark.parametrize(
    ("words", "commands"),
    [
        ("cnn EPOCHS= FOLDS= ARCH=", [*folds("train_cnn.py --fold FOLD"), f"{EVALUATE} cnn"]),
        (
            "cnn EPOCHS=5 NAME=a KEEP=9 FOLDS='10 2 2' FORCE=1 VIEWS=six",
            [
                *folds("train_cnn.py --fold FOLD --name 'a' --keep '9' --epochs '5' --force '1'", (10, 2)),
                f"{EVALUATE} cnn --name 'a' --views 'six'",
            ],
        ),
        ("cnn-fold7 NAME=a", ["train_cnn.py --fold 7 --name 'a'"]),
        ("cnn ARCH=elu", ["train_cnn.py --arch 'elu'", f"{EVALUATE} cnn --arch 'elu'"]),
        ("cnn ARCH=elu FOLDS=3", ["train_cnn.py --fold 3 --arch 'elu'", f"{EVALUATE} cnn --arch 'elu'"]),
        ("cnn ARCH=mine", [*folds("train_cnn.py --fold FOLD --arch 'mine'"), f"{EVALUATE} cnn --arch 'mine'"]),
        (
            "ae NOAUG=1 EPOCHS=7",
            ["train_autoencoder.py --noaug '1' --epochs '7'", f"{EVALUATE} autoencoder --noaug '1'"],
        ),
        (  # the autoencoder takes what it shares with the classifier, and its CONFIG
            "ae_cls NOAUG=1 VAL=.2 EPOCHS=7 FOLDS='1 2' CONFIG='a b.json'",
            [
                f"{CHECK} --noaug '1' --val '.2' --config 'a b.json' --epochs '7'",
                "train_autoencoder.py --if-missing --noaug '1' --val '.2' --config 'a b.json'",
                *folds(f"{TRAIN} --fold FOLD --noaug '1' --val '.2' --config 'a b.json' --epochs '7'", (1, 2)),
                f"{EVALUATE} autoencoder_cls --noaug '1'",
            ],
        ),
        (
            "mod_ae_cls ENCODER=tuned ARCH=cae",
            [
                f"{CHECK} --modified --arch 'cae' --encoder 'tuned'",
                "train_autoencoder.py --if-missing --arch 'cae'",
                f"{TRAIN} --modified --arch 'cae' --encoder 'tuned'",
                f"{EVALUATE} mod_autoencoder_cls --arch 'cae' --encoder 'tuned'",
            ],
        ),
        *(
            (
                f"ae_cls ENCODER={encoder} FOLDS=1",
                [f"{TRAIN} --fold 1 --encoder '{encoder}'", f"{EVALUATE} autoencoder_cls --encoder '{encoder}'"],
            )
            for encoder in ("scratch", "random")
        ),
        ("ae_cls FROM=cnn FOLDS=1", [f"{TRAIN} --fold 1 --from 'cnn'", f"{EVALUATE} autoencoder_cls"]),
        ("report", ["report.py"]),
        ("test-eval MODEL=cnn BATCH=64", [f"{EVALUATE} 'cnn' --batch-size '64'"]),
        ("test", ['-m pytest -q -n 2 --dist worksteal -m "not long and not system"']),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_target_runs(words, commands):
    assert shown(*shlex.split(words)) == commands


def test_the_environment_counts_where_a_name_is_unmistakable_and_is_said_to_be_ignored_elsewhere():
    assert shown("cnn-fold1", EPOCHS="5", NAME="pc") == ["train_cnn.py --fold 1 --epochs '5'"]
    for name in ("NAME", "DATA", "ENCODER", "LAUNCH"):
        result = make(ROOT, "-n", "ae_cls-fold1", **{name: "pc"})
        assert name in result.stderr and "pc" not in result.stdout
    assert make(ROOT, "-n", "help", NAME="pc", EPOCHS="5").stderr == ""


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["cnn", "NOUAG=1"], "NOUAG"),
        (["NOUAG=$(shell touch pwned)"], "NOUAG"),
        (["cnn", "SHELL=/bin/true"], "SHELL"),
        (["cnn", "ENCODER=tuned"], "ENCODER"),
        (["cnn", "clean", "EPOCHS=1"], "EPOCHS"),
        (["demo", "NAME=a"], "NAME"),
        (["ae", "FOLDS=1"], "FOLDS"),
        (["compare", "LAUNCH=srun"], "LAUNCH"),
        (["cnn", "fast"], "no target fast"),
        *((["cnn", f"FOLDS={value}"], "FOLDS") for value in ("1 x", "0", "01", "%", "$(shell touch pwned)")),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_run_or_made(project, words, named):
    before = sorted(project.folder.rglob("*"))
    for python in (True, False):
        result = project.make(*words, python=python, status=2)
        assert (result.stdout, len(result.stderr.splitlines())) == ("", 1)
        assert named in result.stderr
    assert sorted(project.folder.rglob("*")) == before


def test_from_elsewhere_make_says_what_to_type(tmp_path):
    result = make(tmp_path, "-f", ROOT / "Makefile", "cnn")
    assert result.returncode == 2 and "make -C" in result.stderr


@pytest.mark.parametrize("target", ["help", "cnn"])
def test_a_dry_run_makes_and_removes_nothing(project, target):
    executable(project.folder / ".venv/ready")
    os.utime(project.folder / "requirements.txt", (4e9, 4e9))
    before = sorted(project.folder.rglob("*"))
    project.make("-n", target, python=False)
    assert sorted(project.folder.rglob("*")) == before


@pytest.mark.parametrize(
    "value",
    ["$(shell touch pwned)", "`touch pwned` $HOME $$ %", "\"; touch pwned; '; touch pwned #", "--force", "a  *,),(\\"],
)
def test_values_reach_the_scripts_literally(project, value):
    given = {"ARCH": "--arch", "DATA": "--data", "NAME": "--name", "NOAUG": "--noaug", "EPOCHS": "--epochs"}
    project.make("ae", *(f"{knob}={value}" for knob in given))
    words = [word for option in given.values() for word in (option, value)]
    assert project.calls() == [["train_autoencoder.py", *words], ["evaluate.py", "--model", "autoencoder", *words[:-2]]]
    project.make("ae", f"NAME={value}\ntouch pwned\n", status=2)
    assert not (project.folder / "pwned").exists()


@pytest.mark.parametrize("parallel", ["-j1", "-j5"])
def test_one_autoencoder_before_folds_before_evaluation(project, parallel):
    project.make(parallel, "ae", "ae_cls")
    moments = [(event, argv[0]) for event, argv, _ in project.events() if "--check" not in argv]
    autoencoder, evaluation, classifier = "train_autoencoder.py", "evaluate.py", "train_ae_classifier.py"
    expected = [autoencoder, evaluation, autoencoder]
    assert moments[:6] == [(event, script) for script in expected for event in ("start", "end")]
    assert {script for _, script in moments[6:-2]} == {classifier} and len(moments[6:-2]) == 10
    assert moments[-2:] == [("start", evaluation), ("end", evaluation)]


def test_launch_is_in_front_of_trainings_and_the_backend_arrives_behind_it(project, monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)  # the tests' own
    words = ["ae_cls", "FOLDS=1", "LAUNCH=env -u KERAS_BACKEND"]
    project.make(*words, "KERAS_BACKEND=jax")
    project.make(*words, KERAS_BACKEND="torch")
    project.make(*words)
    backends = [backend for event, argv, backend in project.events() if event == "start" and "--fold" in argv]
    assert backends == ["jax", "torch", None]
    launched = [line for line in shown(*words) if line.startswith("env ")]
    assert len(launched) == 2 and all("train_" in line for line in launched)


@pytest.mark.parametrize("target", ["cnn", "demo", "test-eval"])
def test_what_ends_make_ends_its_scripts(project, target):
    """SIGTERM goes to make alone, as from a scheduler or `kill`; Ctrl-C reaches every process by itself."""
    wait = "for i in 1 2 3 4 5 6 7 8 9; do sleep 0.5; done\n"  # a shell hears a signal between two commands
    executable(
        project.folder / "python", f"#!/bin/sh\ntrap 'echo end >> calls; exit 143' TERM\necho start >> calls\n{wait}"
    )
    log, words = project.folder / "calls", {"test-eval": ["MODEL=cnn"], "cnn": ["LAUNCH=LAUNCHED=yes"]}
    command = ["make", target, *words.get(target, []), f"PYTHON={project.folder / 'python'}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    process = subprocess.Popen(command, cwd=project.folder, env=environment, stderr=subprocess.DEVNULL)
    wait_until(log.exists, process, "a script", 20)
    process.terminate()
    assert process.wait(10) != 0
    said = log.read_text().split()
    assert said.count("start") == said.count("end") > 0


def test_demo_runs_the_whole_chain_on_digits_alone(project):
    project.make("demo", "KERAS_BACKEND=jax")
    assert {backend for *_, backend in project.events()} == {"jax"}
    calls = [argv for argv in project.calls() if "--check" not in argv]
    chain = ["train_cnn.py", "train_cnn.py", "evaluate.py", "train_autoencoder.py", "evaluate.py"]
    chain += ["train_autoencoder.py", "train_ae_classifier.py", "train_ae_classifier.py", "evaluate.py"]
    assert [argv[0] for argv in calls] == chain
    assert all({"--data", "digits", "--name", "demo"} <= set(argv) for argv in calls)
    assert not list(project.folder.glob(".venv*"))


# --- The environment ---


def test_environment_is_made_once_and_anew_when_its_list_changes_its_python_is_gone_or_it_failed(project):
    def install(installations, status=0):
        (project.folder / ".venv").mkdir(exist_ok=True)
        (project.folder / ".venv/dropped").touch()
        project.make("test-eval", "MODEL=cnn", python=False, status=status)
        assert project.installations() == [["requirements.txt"]] * installations

    (project.folder / "fail-pip").touch()
    install(1, status=2)
    (project.folder / "fail-pip").unlink()
    install(2)
    install(2)
    os.utime(project.folder / "requirements.txt", (time.time() + 1, time.time() + 1))
    time.sleep(1.1)
    install(3)
    (project.folder / ".venv/bin/python").unlink()
    install(4)
    assert not (project.folder / ".venv/dropped").exists()
    project.make("-j4", "test", "lint", python=False)
    assert project.installations()[4:] == [["requirements-dev.txt"]]


def test_gpu_build(project):
    install = ["requirements.txt", "tensorflow[and-cuda]"]
    for words in (["GPU=1"], ["GPU=1"], []):
        project.make("cnn", "FOLDS=1", *words, python=False)
    assert project.installations() == [["requirements.txt"], install]
    (project.folder / ".venv/bin/python").unlink()
    project.make("cnn", "FOLDS=1", python=False)  # made anew, it is the GPU build again
    assert project.installations()[2:] == [install]
    shutil.rmtree(project.folder / ".venv")
    executable(project.folder / "bin/nvidia-smi", "#!/bin/sh\nexit 0\n")
    project.make("cnn", "FOLDS=1", python=False)
    assert project.installations()[3:] == [install]


@pytest.mark.parametrize(("version", "supported"), [("3.10.13", False), ("3.13.9", True), ("3.14.0", False)])
def test_python_versions(project, version, supported):
    result = project.make("test-eval", "MODEL=cnn", python=False, status=0 if supported else 2, VERSION=version)
    assert (project.folder / ".venv").exists() == supported
    assert supported or "Python 3.11 to 3.13" in result.stderr


def test_clean(project):
    kept = {"checkpoints/.gitkeep", ".venv/ready", "imgs/cnn_report.txt", "imgs/digits_cnn_demo2_report.txt"}
    runs = {"checkpoints/cnn_fold1.keras", "checkpoints/autoencoder.state", "checkpoints/digits_cnn_demo2_fold1.keras"}
    runs |= {"checkpoints/cnn_fold1_saved_model/variables/index"}
    gone = {"checkpoints/digits_cnn_demo_fold1.keras", "checkpoints/.digits_cnn_demo_fold1.lock"}
    gone |= {"checkpoints/digits_autoencoder_noaug_demo.keras", "imgs/digits_samples_demo.png"}
    gone |= {"checkpoints/digits_cnn_demo_fold1_saved_model/variables/index", "util/__pycache__/a", ".pytest_cache/a"}
    for name in kept | runs | gone:
        executable(project.folder / name)
    for target, left in (("clean", kept | runs), ("clean-runs", kept)):
        project.make(target)
        assert {name for name in kept | runs | gone if (project.folder / name).exists()} == left


def test_clean_runs_deletes_what_a_linked_folder_holds(project, tmp_path):
    executable(tmp_path / "large disk/cnn_fold1.keras")
    (project.folder / "checkpoints").symlink_to(tmp_path / "large disk")
    project.make("clean-runs")
    assert (project.folder / "checkpoints").is_dir() and not list((tmp_path / "large disk").iterdir())
