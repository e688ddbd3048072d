"""What the benchmark counts and prints; no test asks how fast anything is."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_pictures, tiny_classifier
from keras import layers

import bench
import common
import recipes
from util.cli import InputError


def test_operations_count_output_kernel_gradient_and_input_gradient():
    image = keras.Input((8, 8, 3))  # which needs no gradient
    x = layers.Conv2D(5, 3, padding="same", strides=2)(image)  # 4 x 4 pixels out
    x = layers.BatchNormalization()(x)
    x = layers.Conv2DTranspose(2, 3, strides=2, padding="same")(x)  # 4 x 4 pixels in
    model = keras.Model(image, layers.Dense(7)(layers.Flatten()(x)))
    first, second, last = 16 * 27 * 5, 16 * 9 * 5 * 2, 128 * 7
    assert bench.operations(model, 10) == 20 * (2 * first + 3 * (second + last))
    for layer in model.layers[:3]:
        layer.trainable = False
    assert bench.operations(model, 10) == 20 * (first + 2 * second + 3 * last)


def test_the_pictures_measured_are_as_many_as_in_the_study():
    images, labels, val_images, val_labels = bench.pictures()
    assert (len(images), len(val_images)) == (len(labels), len(val_labels)) == (36_125, 6_375)
    assert np.bincount(labels).tolist() == [2125 if number in (2, 4, 9) else 4250 for number in range(10)]


def test_things_are_timed_in_turn_there_and_back_after_a_first_call(monkeypatch):
    monkeypatch.setattr(bench, "WINDOWS", 3)
    monkeypatch.setattr(bench, "SECONDS", 1)
    calls = []

    def timer(name, each):
        return lambda count: calls.append((name, count)) or each * count

    seconds = bench.time_in_turn({"a": timer("a", 0.3), "b": timer("b", 5)})
    assert calls[:4] == [("a", 1), ("a", 1), ("b", 1), ("b", 1)]
    assert calls[4:] == [("a", 4), ("b", 1), ("b", 1), ("a", 4), ("a", 4), ("b", 1)]
    assert seconds["a"] == pytest.approx([0.3] * 3) and seconds["b"] == pytest.approx([5] * 3)


def test_figures_and_their_table():
    table = bench.show_table({"cnn": {"a": [999.6, 1234.4, 2000], "b": 7.123}, "other": {"c": [1, 25.26, 30]}})
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert cells[0] == ["", "cnn", "other"]
    assert cells[2:] == [["a", "1,234 [1,000 2,000]", ""], ["b", "7.12", ""], ["c", "", "25.3 [1.0 30.0]"]]


class InThisProcess:
    """In place of a pool of one process."""

    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def submit(self, function, *args):
        found = function(*args)
        return type("Done", (), {"result": lambda self: found})()


# In place of a Python with PyTorch: a step takes 0.25 seconds, compiled 0.5. It notes in a file that it has ended.
PEER = """#!/bin/sh
echo 1.2.3 7
while read count; do echo $count $6 | awk '{ print $1 * ($2 == "compile" ? 0.5 : 0.25) }'; done
echo $2 $6 >> ended
"""


@pytest.mark.parametrize(
    ("text", "words"), [("", "cannot be started: No such file"), ("#!/bin/sh\necho no torch >&2", "the reason above")]
)
def test_a_python_without_pytorch_is_said_before_anything_is_measured(text, words, workdir, capfd):
    path = workdir / "python"
    if text:
        path.write_text(text)
        path.chmod(0o755)
    with pytest.raises(InputError, match=words):
        bench.main(["--torch", str(path)])
    assert capfd.readouterr().err == ("no torch\n" if text else "")


def test_the_benchmark_writes_every_figure_of_a_model_and_of_pytorch_beside_it(workdir, monkeypatch, capsys):
    monkeypatch.setattr(bench, "WINDOWS", 2)
    monkeypatch.setattr(bench, "SECONDS", 1e-9)
    monkeypatch.setattr(bench, "ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr(bench, "MODELS", ("autoencoder_cls",))
    monkeypatch.setattr(bench, "pictures", lambda: small_pictures(5) * 2)
    row = recipes.RECIPES["autoencoder_cls"]
    settings = row.settings.model_copy(update={"batch_size": 10})
    monkeypatch.setitem(recipes.RECIPES, "autoencoder_cls", recipes.Recipe(tiny_classifier, settings, "conv"))
    peer = workdir / "python"
    peer.write_text(PEER)
    peer.chmod(0o755)
    monkeypatch.setattr(common, "count_trainable", lambda model: 7)
    bench.main(["--torch", str(peer)])
    found = json.loads((workdir / recipes.IMAGES / "benchmark.json").read_text())
    assert found["precision"] in ("float32", "mixed_bfloat16")
    assert bench.show_table(found["models"]) in capsys.readouterr().out
    figures = found["models"]["autoencoder_cls"]
    for key in ("fit", "step", "step, stock Keras in float32", "step, nothing frozen", "prediction"):
        low, middle, high = figures[f"{key}, images/s"]
        assert 0 < low <= middle <= high
    assert {"step / stock Keras in float32", "of a matrix product's GFLOP/s, %", "both, % of a step"} < figures.keys()
    assert figures["peak memory of fit, GB"] > 0
    assert found["versions"]["torch"] == "1.2.3"
    assert figures["step in PyTorch, images/s"] == [40] * 3
    assert figures["step in PyTorch, compiled, images/s"] == [20] * 3
    assert Path("ended").read_text().split("\n") == ["cnn compile", "autoencoder_cls compile", "autoencoder_cls", ""]
    expected = [rate / 40 for rate in figures["step, images/s"]]
    assert figures["step / the faster PyTorch"] == pytest.approx(expected)
