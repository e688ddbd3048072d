"""The command line that the scripts share: options, run names, messages, exit status.

Standard library only, as recipes.py and settings.py, so that `--help` and every refused option answer at once, without
TensorFlow. `python options.py` prints the table of knobs that `make help` shows.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import os
import re
import shlex
import signal
import sys
from pathlib import Path

from recipes import ARCHS, MODELS, RECIPES, Ranges

CHECKPOINTS = Path("checkpoints")
IMAGES = Path("imgs")

ENCODERS = ("frozen", "tuned", "scratch", "random")
ALL_ARCHS = tuple(dict.fromkeys(itertools.chain(*ARCHS.values())))
PRETRAINED = ("frozen", "tuned")  # those that take an autoencoder's weights


class InputError(Exception):
    """Arguments or input that cannot be used; its text is one sentence that says what to do (exit status 2)."""


class RunFailed(Exception):
    """A run that started and could not finish (exit status 1)."""


class Terminated(BaseException):
    """SIGTERM arrived; a BaseException, like KeyboardInterrupt, so that no handler of errors swallows it."""


@dataclasses.dataclass(frozen=True)
class Number:
    """Numbers of `kind` (int or float) in [low, high], `open_*` leaves that end out; called, a parser of them."""

    kind: type
    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __str__(self):
        words = ["a whole number" if self.kind is int else "a number"]
        if self.low > -math.inf:
            words.append(f"{'more than' if self.open_low else 'at least'} {self.low}")
        if self.high < math.inf:
            words.append(f"{'less than' if self.open_high else 'at most'} {self.high}")
        return words[0] + (", " if words[1:] else "") + " and ".join(words[1:])

    def __contains__(self, value):
        try:
            finite = math.isfinite(value)
        except OverflowError:  # a whole number beyond measure
            return False
        above = self.low < value if self.open_low else self.low <= value
        return finite and above and (value < self.high if self.open_high else value <= self.high)

    def __call__(self, text):
        try:
            value = self.kind(text)
        except ValueError:
            value = math.nan
        if value not in self:
            raise argparse.ArgumentTypeError(f"{text!r} is not {self}")
        return value


def run_suffix(text):
    if text in ALL_ARCHS or re.fullmatch(rf"noaug|original|cls|fold\d+|{'|'.join(ENCODERS)}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is a word that run names hold already; choose another")
    if not re.fullmatch(r"[A-Za-z0-9-]{1,40}", text):
        raise argparse.ArgumentTypeError(f"{text!r} may hold letters, digits and '-' only, 40 at most")
    return text


def class_list(text):
    """'bird,deer,truck' or '2,4,9' -> a list of words; 'none' -> []. The data decides which of them exist."""
    words = [word.strip() for word in text.split(",")]
    if words == ["none"]:
        return []
    if not all(words):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as bird,deer,truck or 2,4,9, or none")
    return words


def run_words(text):
    """'cnn autoencoder_cls_noaug' -> the names of runs."""
    if not re.fullmatch(r"\s*[\w-]+(\s+[\w-]+)*\s*", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} names no runs; they are such as cnn autoencoder_cls_noaug")
    return text.split()


def file_path(text):
    if not text:
        raise argparse.ArgumentTypeError("an empty text is no path; leave the option out, or give a file")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", text):  # it has to go into plots, records and one-line messages
        raise argparse.ArgumentTypeError(f"{text!a} holds what cannot be printed; rename the file")
    return text


def without_repeats(pairs):
    """The dictionary of a JSON object, for json.loads, which would let the last of a key's values win."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"{max(keys, key=keys.count)!r} is in it twice")
    return content


def config_file(path):
    """The path of a record, or of its settings alone, as JSON -> (path, settings)."""
    if not os.path.isfile(file_path(path)):
        raise argparse.ArgumentTypeError(f"there is no file {path!r}")
    try:
        text = Path(path).read_text(encoding="utf-8-sig")  # Notepad begins a file with a mark
        content = json.loads(text, object_pairs_hook=without_repeats)
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise argparse.ArgumentTypeError(f"{path!r} cannot be read as JSON ({error})") from None
    if isinstance(content, dict) and isinstance(content.get("settings"), dict):
        content = content["settings"]
    if not isinstance(content, dict):
        raise argparse.ArgumentTypeError(f"{path!r} holds no settings; give a record, or its settings alone")
    return path, content


# Option -> (make's knob, what argparse needs). `make help` and every `--help` print these words.
OPTIONS = {
    "model": ("MODEL", {"choices": MODELS, "required": True, "help": "the model to evaluate: " + ", ".join(MODELS)}),
    "arch": (
        "ARCH",
        {
            "choices": ALL_ARCHS,
            "help": "another network, trained as its document says: " + ", ".join(ALL_ARCHS),
        },
    ),
    "modified": (
        None,
        {"action": "store_true", "help": "freeze the whole encoder and classify with dense layers only"},
    ),
    "data": (
        "DATA",
        {
            "type": file_path,
            "metavar": "FILE",
            "help": "a .npz of pictures, or digits; unset: CIFAR-10, downloaded once",
        },
    ),
    "keep": (
        "KEEP",
        {"type": Number(int, 2), "metavar": "N", "help": "images kept of each reduced class (default: half of them)"},
    ),
    "reduced": (
        "REDUCED",
        {
            "type": class_list,
            "metavar": "CLASSES",
            "help": "classes to reduce, names or numbers, or none (default: 2,4,9, in CIFAR-10 bird,deer,truck; with "
            "an ARCH and no KEEP: none)",
        },
    ),
    "val": (
        "VAL",
        {
            "type": Number(float, 0, 1, open_low=True, open_high=True),
            "metavar": "SHARE",
            "help": "share of the images held out for validation (default: 0.15, or the ARCH's own)",
        },
    ),
    "fold": (
        "FOLDS",
        {"type": Number(int, 1, 1000), "metavar": "K", "help": "fold (default: 1, or the one split of the ARCH)"},
    ),
    "seed": (
        "SEED",
        {
            "type": Number(int, 0, 2**32 - 1),
            "metavar": "N",
            "help": "seed of every draw (default: 0, or the ARCH's own)",
        },
    ),
    "noaug": (
        "NOAUG",
        {"action": "store_true", "help": "the autoencoder is (for a classifier: was) trained without augmentation"},
    ),
    "target": (
        "TARGET",
        {
            "choices": ("augmented", "original"),
            "default": "augmented",
            "help": "what the autoencoder reconstructs: the picture it sees (default: augmented), or the original",
        },
    ),
    "encoder": (
        "ENCODER",
        {
            "choices": ENCODERS,
            "default": "frozen",
            "help": "a classifier's encoder: frozen (default: pretrained, then frozen), tuned (pretrained, trained "
            "on); controls: scratch (all of it trained from nothing), random (as frozen, but never trained)",
        },
    ),
    "epochs": (
        "EPOCHS",
        {"type": Number(int, 1), "metavar": "N", "help": "epochs at most (default: 100, or the ARCH's own)"},
    ),
    "batch-size": (
        "BATCH",
        {"type": Number(int, 1, 2**16), "metavar": "N", "help": "images a batch (default: 128, or the ARCH's own)"},
    ),
    "learning-rate": (
        "LR",
        {
            "type": Number(float, 0),
            "metavar": "RATE",
            "help": "learning rate at the start (default: 0.001, or the ARCH's own)",
        },
    ),
    "patience": (
        "PATIENCE",
        {
            "type": Number(int, 1),
            "metavar": "N",
            "help": "epochs without a better validation before training stops (default: 15, or the ARCH's own)",
        },
    ),
    "precision": (
        "PRECISION",
        {
            "choices": ("auto", "float32", "mixed_bfloat16"),
            "help": "auto (default: mixed_bfloat16 where the hardware has it), float32 or mixed_bfloat16",
        },
    ),
    "name": (
        "NAME",
        {"type": run_suffix, "help": "a suffix of the run's name, to keep runs side by side"},
    ),
    "force": (
        "FORCE",
        {"action": "store_true", "help": "train again, and replace what is there when that is finished"},
    ),
    "runs": (
        "RUNS",
        {
            "type": run_words,
            "metavar": "NAMES",
            "help": "runs to compare (default: the most that are of the same data)",
        },
    ),
    "baseline": (
        "BASELINE",
        {
            "type": run_words,
            "metavar": "NAME",
            "help": "the run to compare with (default: a classifier's scratch control, else cnn)",
        },
    ),
    "config": (
        "CONFIG",
        {"type": config_file, "metavar": "FILE", "help": "a record, or settings like a record's, to train with"},
    ),
    "check": (None, {"action": "store_true", "help": "only find out whether these options can be used"}),
    "if-missing": (
        None,
        {
            "action": "store_true",
            "help": "do nothing where this autoencoder exists already; --config is a classifier's",
        },
    ),
    "model-path": (
        None,
        {"type": file_path, "metavar": "FILE", "help": "evaluate this .keras file instead of the run's own"},
    ),
}
DATA_OPTIONS = ("data", "keep", "reduced", "val", "seed")
TRAINING_OPTIONS = ("epochs", "batch-size", "learning-rate", "patience", "precision", "config", "name", "force")


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}; {self.prog} --help lists the options")


def parse(description, names, argv=None):
    """Parse `argv` (default: the process's own) by the OPTIONS called `names`. Raises InputError."""
    parser = Parser(description=description, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in names:
        parser.add_argument(f"--{name}", **OPTIONS[name][1])
    # What a script without the option has.
    parser.set_defaults(arch=None, noaug=False, target="augmented", encoder="frozen", fold=None, if_missing=False)
    args = parser.parse_args(argv)
    chosen = args.noaug or args.target == "original"
    if args.noaug and args.target == "original":
        raise InputError("--target original needs augmentation, so it cannot go with --noaug; drop one of the two")
    if args.encoder not in PRETRAINED and chosen:
        raise InputError(
            f"--encoder {args.encoder} takes no autoencoder, so --noaug and --target have none to choose; "
            "leave them out"
        )
    autoencoder = RECIPES.get(f"autoencoder_{args.arch}")
    if autoencoder and autoencoder.ranges == Ranges() and chosen:
        raise InputError(
            f"the autoencoder of --arch {args.arch} is not augmented, so --noaug and --target have nothing to choose; "
            "leave them out"
        )
    return args


def data_prefix(source):
    """Prefix of a run's name for a data source: '' for CIFAR-10 (unset), else the word or the file's stem."""
    if source is None:
        return ""
    prefix = re.sub(r"[^A-Za-z0-9]+", "-", Path(source).stem).strip("-").lower()[:40] or "data"
    return "mod-data" if prefix == "mod" else prefix  # mod_autoencoder_cls is a model's name


def model_name(model, arch=None):
    """The row of RECIPES for a model and an ARCH of it. Raises InputError where there is none."""
    if arch and arch not in ARCHS[model]:
        there = f"its networks are {', '.join(ARCHS[model])}" if ARCHS[model] else "leave it out"
        raise InputError(f"ARCH={arch} is no network of {model}; {there}")
    return f"{model}_{arch}" if arch else model


def run_name(model, prefix="", noaug=False, target="augmented", name=None, encoder="frozen"):
    """`[data_]model[_arch][_encoder][_noaug][_original][_NAME]`, the name of a run in files, titles and messages.

    `model` has its arch with it, as `model_name` gives it.
    """
    chosen = encoder if encoder != "frozen" else None
    parts = [prefix, model, chosen, noaug and "noaug", target == "original" and "original", name]
    return "_".join(part for part in parts if part)


def name_and_fold(stem):
    """'cnn_fold2' -> ('cnn', 2), 'autoencoder' -> ('autoencoder', None): what a file's stem says."""
    name, fold = re.fullmatch(r"(.*?)(?:_fold([1-9]\d*))?", stem, re.DOTALL).groups()
    return name, fold and int(fold)


def autoencoder_name(args, prefix, name):
    """The run of the autoencoder that `args` choose, of itself or for a classifier."""
    return run_name(model_name("autoencoder", args.arch), prefix, args.noaug, args.target, name)


def make_command(target, args):
    """The make command for `target` with the knobs of `args` that choose a run, for messages that tell what to type."""
    given = {"DATA": args.data, "NOAUG": "1" if args.noaug else None, "NAME": args.name}
    given["TARGET"] = args.target if args.target == "original" else None
    given["ARCH"] = args.arch
    if target.endswith("cls"):
        given["ENCODER"] = args.encoder if args.encoder != "frozen" else None
    return " ".join([f"make {target}", *(f"{knob}={shlex.quote(value)}" for knob, value in given.items() if value)])


HEARD = []  # what a signal raised


@contextlib.contextmanager
def terminate_politely():
    """While inside, SIGTERM raises Terminated and Ctrl-C KeyboardInterrupt, and HEARD keeps it."""

    def handler(signum, frame):
        HEARD.append(Terminated() if signum == signal.SIGTERM else KeyboardInterrupt())
        raise HEARD[0]

    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # as in a shell's background
    signals = [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGINT]
    before = {number: signal.signal(number, handler) for number in signals}
    try:
        yield
    finally:
        for number, plain in before.items():
            signal.signal(number, plain)
        HEARD.clear()


def raise_what_was_heard():
    """Raise what a signal raised, where somebody swallowed it: Keras does when it reads the figures of a batch."""
    if HEARD:
        raise HEARD[0]


def run(main):
    """Call `main()` and leave the process with the exit status of the README; errors are one line on stderr."""
    script = os.path.basename(sys.argv[0])
    try:
        if sys.version_info < (3, 11):  # noqa: UP036, PYTHON=... may be any
            raise InputError(f"Python 3.11 or newer is needed, this is {sys.version.split()[0]}")
        with terminate_politely():
            main()
            print(end="", flush=True)  # what does not fit on the disk shows here, not when Python ends
        status = 0
    except (InputError, RunFailed) as error:
        print(f"{script}:", *str(error).splitlines(), file=sys.stderr)  # one line, whatever was typed
        status = 2 if isinstance(error, InputError) else 1
    except OSError as error:  # what no one foresaw of a disk, such as a log that cannot grow
        print(f"{script}: {error}; mend that and repeat", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would try once more when it ends, and say so
        status = 1
    except (KeyboardInterrupt, Terminated) as signal_:
        word, status = ("stopped", 130) if isinstance(signal_, KeyboardInterrupt) else ("terminated", 143)
        more = "; the same command, without FORCE=1, goes on" if script.startswith("train_") else ""
        print(f"\n{script}: {word}{more}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    for knob, keywords in OPTIONS.values():
        if knob:
            text = "folds to train (default: 1 2 3 4 5)" if knob == "FOLDS" else keywords["help"]
            print(f"  {knob + '=1' if 'action' in keywords else knob:<10} {text}")
