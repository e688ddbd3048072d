"""How fast this machine trains, predicts and evaluates, and how near to its limit: some seven minutes on two cores.

Random pictures in the shape of CIFAR-10. What is compared is timed in turn, in repeated windows of one process.
"""

from util import cli  # isort: split

import itertools
import math
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np

import common
from common import BalancedBatches
from data import IMAGE_SHAPE
from recipes import IMAGES, PLAIN, RECIPES, model_of
from util import hardware
from util.backend import Later, keras, ops
from util.cli import RunFailed
from util.files import write_json
from util.options import Part, parse
from util.plots import markdown_table

training, training_model, optimizers = map(Later, ("training", "training_model", "optimizers"))

MODELS = ("cnn", "cnn_fast", "autoencoder", "autoencoder_cls")
WINDOWS, SECONDS = 5, 0.5  # how often each thing is timed, and for how long about
FORMULA = (
    "operations of a step: 2 x images x multiply-adds of every layer (convolution: kernel height x kernel width x "
    "channels in x filters x pixels out, of a transposed one pixels in; dense: inputs x outputs), counted once for the "
    "output, once for the kernel's gradient where the layer learns, once for the input's where a layer before it learns"
)


def main(argv=None):
    parse(__doc__, Part, argv=argv)
    models = {}
    for name in MODELS:
        print(f"measuring {name}", flush=True)
        # Each in a process of its own: start and peak memory are that model's.
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            about, models[name] = pool.submit(measure, name, time.monotonic()).result()

    print(f"{about['processor']}: {about['device']}; {about['precision']} ({about['precision_reason']})")
    print(show_table(models))
    path = IMAGES / "benchmark.json"
    write_json(path, {**about, "windows": WINDOWS, "formula": FORMULA, "models": models})
    print(f"median [quartiles] of {WINDOWS} windows, or measured once; {FORMULA}", f"{path} is written", sep="\n")


def measure(name, began):
    """(About the machine, {figure: [lower quartile, median, upper one] over windows, or a number}) of a model."""

    class AlwaysAugment(training_model.Augment):
        def call(self, images, training=False):
            return super().call(images, training=True)

    device, _ = hardware.set_up_device()
    precision, reason = hardware.resolve_precision("auto")
    settings, target = RECIPES[name].settings, "augmented" if name == "autoencoder" else None
    images, labels, val_images, val_labels = pictures()
    batches = BalancedBatches(images, labels, settings.batch_size, balanced=settings.balanced)
    inputs, answers = batches[0]
    model = new_model(name)

    def compiled(core, augmentation, optimizer):
        whole = training_model.augmented(core, augmentation, target)
        training_model.compile_model(whole, optimizer, settings)
        return whole

    def fast(model, precision, augmentation=PLAIN):
        return compiled(training_model.fast_twin(model, precision), augmentation, optimizers.new_optimizer(settings))

    fit = Fit(fast(model, precision, settings.augmentation), batches)
    fit(1)
    figures = {"start to end of first step, s": fit.first - began}
    fit.model.evaluate(val_images, val_labels, batch_size=500, verbose=0)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    figures["peak memory of fit, GB"] = peak / 1e9

    steps = {"step": fast(model, precision)}
    if precision != "float32":
        steps["step in float32"] = fast(model, "float32")
    stock = new_model(name)
    steps["step, stock Keras in float32"] = compiled(stock, PLAIN, stock_optimizer(settings.optimizer))
    if RECIPES[name].frozen_until:
        steps["step, nothing frozen"] = fast(new_model(name, frozen=False), precision)
    image = keras.Input(IMAGE_SHAPE, dtype="uint8")
    augment, call = (
        keras.Model(image, AlwaysAugment(augmentation)(image)) for augmentation in (settings.augmentation, PLAIN)
    )
    number = itertools.count()
    matrix = ops.ones((3000, 3000), "bfloat16" if precision == "mixed_bfloat16" else "float32")
    seconds = time_in_turn(
        {"fit": fit}
        | {key: repeat(lambda it=it: it.train_on_batch(inputs, answers)) for key, it in steps.items()}
        | {
            "prediction": repeat(lambda: model.predict_on_batch(val_images[:500])),
            "generator": repeat(lambda: batches[next(number)]),
            "augmentation": repeat(lambda: augment.predict_on_batch(inputs)),
            "call": repeat(lambda: call.predict_on_batch(inputs)),  # that of a model which does nothing
            "matrix product": repeat(lambda: float(ops.matmul(matrix, matrix)[0, 0])),
        }
    )
    augmentation = seconds["augmentation"] - seconds["call"]
    rate = operations(model, settings.batch_size) / seconds["step"] / 1e9
    limit = 2 * 3000**3 / seconds["matrix product"] / 1e9
    images_per_second = {key: settings.batch_size / seconds[key] for key in ("fit", *steps)}
    images_per_second["prediction"] = 500 / seconds["prediction"]
    figures = (
        {f"{key}, images/s": quartiles(values) for key, values in images_per_second.items()}
        | {
            "step / stock Keras": quartiles(seconds["step, stock Keras in float32"] / seconds["step"]),
            "fit / step": quartiles(seconds["step"] / seconds["fit"]),
            "step, GFLOP/s": quartiles(rate),
            "of a matrix product's GFLOP/s, %": quartiles(100 * rate / limit),
            "generator, ms a batch": quartiles(1e3 * seconds["generator"]),
            "augmentation, ms a batch": quartiles(1e3 * augmentation),
            "both, % of a step": quartiles(100 * (seconds["generator"] + augmentation) / seconds["step"]),
            "evaluate.py, 10,000 images, s": evaluation(name, model),
        }
        | figures
    )
    about = {
        "processor": hardware.processor_name(),
        "device": device,
        "precision": precision,
        "precision_reason": reason,
    }
    return {**about, "versions": hardware.versions(), "commit": hardware.current_commit(Path(__file__).parent)}, figures


def pictures():
    """Random pictures, reduced and split as CIFAR-10 is: (train images, labels, validation images, labels)."""
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, (50_000, *IMAGE_SHAPE), np.uint8), np.arange(50_000) % 10
    kept = common.reduce_classes(labels, dict.fromkeys((2, 4, 9)), 0)
    train, val = (kept[rows] for rows in common.split_fold(labels[kept], 1, 0.15, 0))
    return images[train], labels[train], images[val], labels[val]


def new_model(name, frozen=True):
    recipe = RECIPES[name]
    model = common.finished_model(recipe.build, recipe.settings, 10, name)
    if frozen and recipe.frozen_until:
        common.freeze(model, recipe.frozen_until)
    return model


class Fit:
    """Times steps within Keras's fit, with generator and augmentation, as a training runs them."""

    def __init__(self, model, batches):
        self.model, self.batches, self.first = model, training.Batches(batches), None
        self.ended = []
        self.callback = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda step, logs: self.ended.append(time.monotonic())
        )

    def __call__(self, count):
        """Seconds of `count` steps, beginning with the end of one."""
        self.ended.clear()
        self.model.fit(self.batches, steps_per_epoch=count + 1, verbose=0, shuffle=False, callbacks=[self.callback])
        self.first = self.first or self.ended[0]
        return self.ended[-1] - self.ended[0]


def repeat(function):
    """A timer: seconds of so many calls of `function`."""

    def timer(count):
        began = time.perf_counter()
        for _ in range(count):
            function()
        return time.perf_counter() - began

    return timer


def time_in_turn(timers):
    """{key: seconds of one, in each window}: a window times each of `timers`, so that all see the same machine.

    Every other window goes backwards, so that none always follows the same neighbour.
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


def quartiles(values):
    return np.quantile(values, [0.25, 0.5, 0.75]).tolist()


def stock_optimizer(chosen):
    return keras.optimizers.get(chosen if isinstance(chosen, str) else chosen.model_dump())


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


def evaluation(name, model, images=10_000):
    """Seconds that evaluate.py takes for so many pictures, from start to plots."""
    random = np.random.default_rng(1)
    parts = {"train": 10, "test": images}
    arrays = {f"x_{part}": random.integers(0, 256, (count, 32, 32, 3), np.uint8) for part, count in parts.items()}
    arrays |= {f"y_{part}": np.arange(count) % 10 for part, count in parts.items()}
    arrays["class_names"] = np.array([f"class {number}" for number in range(10)])
    script = Path(__file__).with_name("evaluate.py").resolve()
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "pictures.npz"), **arrays)
        model.save(Path(folder, "model.keras"))
        chosen = ["--model", model_of(name), "--model-path", "model.keras"]
        command = [sys.executable, script, *chosen, "--data", "pictures.npz"]
        began = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RunFailed(f"evaluate.py failed: {done.stderr.strip()}")
        return time.perf_counter() - began


def show_table(models):
    """The figures as a Markdown table, a column for each model."""

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
