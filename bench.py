"""How fast this machine trains and predicts, and how near it comes to its limit: six minutes of two cores.

The pictures are random, in the shape of CIFAR-10. What is compared is timed in turn, in repeated windows. With --torch,
training steps in PyTorch are timed as well (docs/peer_torch.py), in another minute.
"""

import contextlib
import itertools
import math
import resource
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import common
from common import BalancedBatches
from data import IMAGE_SHAPE
from recipes import IMAGES, PLAIN, RECIPES
from util import cli, hardware
from util.backend import Later, keras, ops
from util.files import write_json
from util.options import Part, parse, setting
from util.plots import markdown_table

joblib, training, training_model, optimizers = map(Later, ("joblib", "training", "training_model", "optimizers"))

MODELS = ("cnn", "cnn_fast", "autoencoder", "autoencoder_cls")
WINDOWS, SECONDS = 5, 0.5  # how often each thing is timed, and for about how long each time
FORMULA = (
    "operations of a step: 2 x images x multiply-adds of every layer (convolution: kernel height x kernel width x "
    "channels in x filters x pixels out, of a transposed one pixels in; dense: inputs x outputs), counted once for the "
    "output, once for the kernel's gradient where the layer learns, once for the input's where a layer before it learns"
)


class Options(Part):
    torch: str = setting(
        "", "the path of a Python that has PyTorch, whose training steps are timed as well", knob="TORCH"
    )


def main(argv=None):
    torch = parse(__doc__, Options, argv=argv).torch
    device, _ = hardware.set_up_device()
    precision, reason = hardware.resolve_precision("auto")
    versions = hardware.versions()
    if torch:
        if not device.startswith("CPU"):
            raise cli.InputError(f"TORCH is for processors, and this is {device}")
        with Peer(torch, "cnn", 1, precision, "compile") as peer:
            peer(1)
            versions["torch"] = peer.version
    processor, commit = hardware.processor_name(), hardware.current_commit(Path(__file__).parent)
    about = {"processor": processor, "device": device, "precision": precision, "precision_reason": reason}
    print(f"{processor}: {device}; {precision} ({reason})")
    models = {}
    for name in MODELS:
        print(f"measuring {name}", flush=True)
        # Each in a process of its own, so that its start and its peak memory are measured too.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            models[name] = pool.submit(measure, name, precision, time.monotonic(), torch).result()
    path = IMAGES / "benchmark.json"
    about |= {"versions": versions, "commit": commit, "windows": WINDOWS, "formula": FORMULA}
    write_json(path, about | {"models": models})
    print(show_table(models))
    print(f"median [quartiles] of {WINDOWS} windows, or measured once; {FORMULA}", f"{path} is written", sep="\n")


def measure(name, precision, began, torch):
    """Figures of a model: {name: [lower quartile, median, upper quartile] over windows, or one number}."""
    hardware.set_up_device()
    settings, model = RECIPES[name].settings, new_model(name)
    images, labels, val_images, val_labels = pictures()
    batches = BalancedBatches(images, labels, settings.batch_size, balanced=settings.balanced)
    inputs, answers = batches[0]
    target = "augmented" if name == "autoencoder" else None

    def compiled(network, augmentation, optimizer):
        whole = training_model.augmented(network, augmentation, target)
        training_model.compile_model(whole, optimizer, settings)
        return whole

    def fast(model, precision, augmentation=PLAIN):
        return compiled(training_model.fast_twin(model, precision), augmentation, optimizers.new_optimizer(settings))

    fit = Fit(fast(model, precision, settings.augmentation), batches)
    fit(1)
    once = {"start to end of first step, s": fit.ended[0] - began}
    fit.model.evaluate(val_images, val_labels, batch_size=500, verbose=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    once["peak memory of fit, GB"] = peak / 1e9

    chosen = settings.optimizer
    stock = keras.optimizers.get(chosen if isinstance(chosen, str) else chosen.model_dump())
    steps = {"step": fast(model, precision)}
    if precision != "float32":
        steps["step in float32"] = fast(model, "float32")
    steps["step, stock Keras in float32"] = compiled(new_model(name), PLAIN, stock)
    if RECIPES[name].frozen_until:
        steps["step, nothing frozen"] = fast(new_model(name, frozen=False), precision)

    class AlwaysAugment(training_model.Augment):
        def call(self, images, training=False):
            return super().call(images, training=True)

    image, number = keras.Input(IMAGE_SHAPE, dtype="uint8"), itertools.count()
    augment, nothing = (keras.Model(image, AlwaysAugment(how)(image)) for how in (settings.augmentation, PLAIN))
    matrix = ops.ones((3000, 3000), "bfloat16" if precision == "mixed_bfloat16" else "float32")
    calls = {key: lambda step=step: step.train_on_batch(inputs, answers) for key, step in steps.items()} | {
        "prediction": lambda: model.predict_on_batch(val_images[:500]),
        "generator": lambda: batches[next(number)],
        "augmentation": lambda: augment.predict_on_batch(inputs),
        "nothing": lambda: nothing.predict_on_batch(inputs),  # what calling a model costs
        "matrix product": lambda: float(ops.matmul(matrix, matrix)[0, 0]),
    }
    timers = {"fit": fit} | {key: repeat(call) for key, call in calls.items()}
    peers = {"step in PyTorch": [], "step in PyTorch, compiled": ["compile"]} if torch else {}
    with contextlib.ExitStack() as stack:
        for key, word in peers.items():
            timers[key] = stack.enter_context(Peer(torch, name, settings.batch_size, precision, *word))
            ours = common.count_trainable(steps["step"])
            if timers[key].parameters != ours:
                raise ValueError(f"{name} has {ours:,} trainable parameters, in PyTorch {timers[key].parameters:,}")
        seconds = time_in_turn(timers)
    augmentation = seconds["augmentation"] - seconds["nothing"]
    rate = operations(model, settings.batch_size) / seconds["step"] / 1e9
    limit = 2 * 3000**3 / seconds["matrix product"] / 1e9
    figures = {f"{key}, images/s": settings.batch_size / seconds[key] for key in ("fit", *steps, *peers)} | {
        "prediction, images/s": 500 / seconds["prediction"],
        "step / stock Keras in float32": seconds["step, stock Keras in float32"] / seconds["step"],
        "fit / step": seconds["step"] / seconds["fit"],
        "step, GFLOP/s": rate,
        "of a matrix product's GFLOP/s, %": 100 * rate / limit,
        "generator, ms a batch": 1e3 * seconds["generator"],
        "augmentation, ms a batch": 1e3 * augmentation,
        "both, % of a step": 100 * (seconds["generator"] + augmentation) / seconds["step"],
    }
    if torch:
        faster = min(peers, key=lambda key: np.median(seconds[key]))
        figures["step / the faster PyTorch"] = seconds[faster] / seconds["step"]
    return {key: np.quantile(values, [0.25, 0.5, 0.75]).tolist() for key, values in figures.items()} | once


def pictures():
    """Random pictures, reduced and split as CIFAR-10 is: (train images, labels, validation images, labels)."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (50_000, *IMAGE_SHAPE), np.uint8), np.arange(50_000) % 10
    kept = common.reduce_classes(labels, dict.fromkeys((2, 4, 9)), 0)
    train, val = (kept[rows] for rows in common.split_fold(labels[kept], 1, 0.15, 0))
    return images[train], labels[train], images[val], labels[val]


def new_model(name, frozen=True):
    """A new model of a row of RECIPES, for ten classes; a classifier's encoder is frozen as in its training."""
    recipe = RECIPES[name]
    model = common.finished_model(recipe.build, recipe.settings, 10, name)
    if frozen and recipe.frozen_until:
        common.freeze(model, recipe.frozen_until)
    return model


class Fit:
    """A timer of steps within Keras's fit, which draws batches and augments them as a training does."""

    def __init__(self, model, batches):
        self.model, self.batches, self.ended = model, training.Batches(batches), []

    def __call__(self, count):
        """Seconds that `count` steps take, from the end of the step before them."""
        self.ended.clear()
        note = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: self.ended.append(time.monotonic())
        )
        self.model.fit(self.batches, steps_per_epoch=count + 1, verbose=0, shuffle=False, callbacks=[note])
        return self.ended[-1] - self.ended[0]


class Peer:
    """A timer of a training step in PyTorch, in a process of its own that ends with the `with` block."""

    def __init__(self, torch, name, batch, precision, *words):
        options = map(str, (name, batch, precision, joblib.cpu_count(), *words))
        self.torch, command = torch, [torch, Path(__file__).parent / "docs/peer_torch.py", *options]
        try:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        except OSError as error:
            raise cli.InputError(f"TORCH {torch!r} cannot be started: {error.strerror}") from None
        self.version, parameters = self.answer().split()
        self.parameters = int(parameters)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.communicate()

    def __call__(self, count):
        print(count, file=self.process.stdin, flush=True)
        return float(self.answer())

    def answer(self):
        if answer := self.process.stdout.readline():
            return answer
        raise cli.InputError(f"docs/peer_torch.py, run by TORCH {self.torch!r}, ended for the reason above")


def repeat(function):
    """A timer of a function: the seconds that so many calls of it take."""

    def timer(count):
        began = time.monotonic()
        for _ in range(count):
            function()
        return time.monotonic() - began

    return timer


def time_in_turn(timers):
    """{key: seconds of one call in each window}: each window times all of `timers`, so that all see the same machine.

    Every other window goes backwards, so that no timer always follows the same neighbour.
    """
    counts = {}
    for key, timer in timers.items():
        timer(1)  # compiles
        counts[key] = math.ceil(SECONDS / timer(1))
    seconds = {key: [] for key in timers}
    for window in range(WINDOWS):
        for key in list(timers)[:: -1 if window % 2 else 1]:
            seconds[key].append(timers[key](counts[key]) / counts[key])
    return {key: np.array(values) for key, values in seconds.items()}


def operations(model, images):
    """Floating-point operations of one training step of a chain of layers, by FORMULA."""
    total, learns = 0, False
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            transposed = isinstance(layer, keras.layers.Conv2DTranspose)
            pixels = math.prod((layer.input if transposed else layer.output).shape[1:-1])  # 1 for a dense layer
            times = 1 + layer.trainable + learns
            total += 2 * images * times * math.prod(layer.kernel.shape) * pixels
        learns = learns or bool(layer.trainable_weights)
    return total


def show_table(models):
    """The figures as a Markdown table with a column for each model."""

    def show(figure):
        if figure is None:
            return ""
        low, middle, high = figure if isinstance(figure, list) else (None, figure, None)
        digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
        spread = "" if low is None else f" [{low:,.{digits}f} {high:,.{digits}f}]"
        return f"{middle:,.{digits}f}{spread}"

    keys = list(dict.fromkeys(key for figures in models.values() for key in figures))
    rows = [{"": key} | {name: show(figures.get(key)) for name, figures in models.items()} for key in keys]
    return markdown_table(rows)


if __name__ == "__main__":
    cli.run(main)
