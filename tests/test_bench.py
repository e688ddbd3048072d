"""What the benchmark counts and prints; how fast anything is, no test asks."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import bench
import common
import recipes

CNN = 1024 * 27 * 64 + 256 * 576 * 64 + 4096 * 512 + 512 * 64 + 64 * 10  # multiply-adds for one image, by hand


def test_operations_of_a_step_count_output_kernel_gradient_and_input_gradient():
    first = 1024 * 27 * 64  # which needs no gradient of its input, the picture
    assert bench.operations(bench.new_model("cnn"), 128) == 2 * 128 * (3 * CNN - first)


def test_operations_leave_out_the_gradients_of_frozen_layers():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(5, 3, padding="same", strides=2, name="frozen")(image)  # 4 x 4 pixels out
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    model = keras.Model(image, layers.Dense(2)(layers.Dense(7)(x)))
    frozen, rest, last = 16 * 27 * 5, 80 * 7, 7 * 2
    assert bench.operations(model, 10) == 20 * (2 * frozen + 3 * (rest + last))
    for layer in model.layers[:3]:
        layer.trainable = False
    assert bench.operations(model, 10) == 20 * (frozen + 2 * rest + 3 * last)


def test_the_classifier_measured_is_frozen_as_it_is_trained():
    trainable = common.count_trainable(bench.new_model("autoencoder_cls"))
    assert trainable == 1_826_634
    assert common.count_trainable(bench.new_model("autoencoder_cls", frozen=False)) > trainable


@pytest.mark.parametrize("name", ["cnn", "cnn_fast"])
def test_evaluation_is_timed_of_every_network(name, workdir):
    assert 0 < bench.evaluation(name, bench.new_model(name), images=100) < 300


def test_the_pictures_measured_are_as_many_as_in_the_study():
    images, labels, val_images, val_labels = bench.pictures()
    assert (len(images), len(val_images)) == (len(labels), len(val_labels)) == (36_125, 6_375)
    assert images.dtype == np.uint8 and np.bincount(labels).tolist() == [
        2125 if number in (2, 4, 9) else 4250 for number in range(10)
    ]


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


def test_quartiles_and_their_table():
    assert bench.quartiles(np.array([5, 1, 4, 2, 3])) == [2, 3, 4]
    table = bench.show_table({"cnn": {"a": [999.6, 1234.4, 2000], "b": 7.123}, "other": {"c": [1, 25.26, 30]}})
    assert table.splitlines() == [
        "|   | cnn                 | other           |",
        "|---|---------------------|-----------------|",
        "| a | 1,234 [1,000 2,000] |                 |",
        "| b | 7.12                |                 |",
        "| c |                     | 25.3 [1.0 30.0] |",
    ]


def test_every_figure_of_a_model_is_measured(monkeypatch):
    monkeypatch.setattr(bench, "WINDOWS", 2)
    monkeypatch.setattr(bench, "SECONDS", 1e-9)
    monkeypatch.setattr(bench, "evaluation", lambda name, model: 1.0)
    about, figures = bench.measure("cnn", 0.0)
    assert about["processor"] and about["precision"] in ("float32", "mixed_bfloat16")
    assert {"fit, images/s", "step / stock Keras", "step, GFLOP/s", "peak memory of fit, GB"} < set(figures)
    assert all(np.all(np.isfinite(figure)) for figure in figures.values())


@pytest.mark.long
def test_the_benchmark_writes_its_table(workdir, capsys):
    bench.main([])
    found = json.loads((workdir / recipes.IMAGES / "benchmark.json").read_text())
    assert list(found["models"]) == list(bench.MODELS)
    printed = capsys.readouterr().out
    assert bench.show_table(found["models"]) in printed and "imgs/benchmark.json is written" in printed
    classifier, cnn = found["models"]["autoencoder_cls"], found["models"]["cnn"]
    assert "step, nothing frozen, images/s" in classifier and "step, nothing frozen, images/s" not in cnn
    assert cnn["evaluate.py, 10,000 images, s"] > 0
