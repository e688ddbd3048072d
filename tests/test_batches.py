"""Balanced batches: equal class counts, permutations, and a pure function of (seed, fold, step)."""

from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest

import common

# A fold of the reference: 4,250 training images a class, 2,125 of the three that are reduced.
REFERENCE = np.random.default_rng(0).permutation(
    np.arange(10).repeat([2125 if c in (2, 4, 9) else 4250 for c in range(10)])
)
SMALL = np.random.default_rng(1).permutation(np.arange(10).repeat([7 if c in (2, 4, 9) else 14 for c in range(10)]))


def batches_of(labels, batch_size=128, **settings):
    return common.BalancedBatches(labels[:, None], labels, batch_size, **settings)


def test_steps_an_epoch_are_the_reference_s():
    assert batches_of(REFERENCE).steps_per_epoch == 332
    assert batches_of(REFERENCE, balanced=False).steps_per_epoch == 36_125 // 128
    assert batches_of(SMALL, 1000).steps_per_epoch == 1


def test_every_batch_holds_each_class_equally_and_the_extra_ones_rotate():
    batches = batches_of(REFERENCE)
    total = np.zeros(10, int)
    extra = np.zeros(10, int)
    for step in range(332):
        counts = np.bincount(batches[step][1], minlength=10)
        assert counts.sum() == 128
        assert set(counts) == {12, 13}
        total += counts
        extra += counts == 13
        assert total.max() - total.min() <= 1
    assert extra.max() - extra.min() <= 1


@pytest.mark.parametrize("batch_size", [128, 3, 1000])
def test_no_image_comes_a_third_time_before_all_of_its_class_came_twice(batch_size):
    batches = batches_of(SMALL, batch_size)
    times = np.zeros(len(SMALL), int)
    for step in range(3 * len(SMALL) * 2 // batch_size + 1):
        for row in batches.rows(step)[0]:
            its_class = np.isin(SMALL, SMALL[row])
            assert times[row] == times[its_class].min()
            times[row] += 1
    assert times.min() >= 2
    orders = [rows[SMALL[rows] == 0] for rows in (batches_of(SMALL, 140).rows(step)[0] for step in (0, 1))]
    assert not np.array_equal(*orders)  # each permutation is another one


def test_labels_and_uint8_pictures_belong_together():
    images = np.random.default_rng(2).integers(0, 256, (len(SMALL), 4, 4, 3), np.uint8)
    batches = common.BalancedBatches(images, SMALL, 128)
    (x, y), (rows, _) = batches[5], batches.rows(5)
    assert x.dtype == np.uint8 and np.array_equal(x, images[rows]) and np.array_equal(y, SMALL[rows])


def test_a_batch_is_a_pure_function_of_seed_fold_and_step():
    first = batches_of(REFERENCE, seed=3, fold=2)
    rows = [first.rows(step)[0] for step in range(40)]
    again = batches_of(REFERENCE, seed=3, fold=2)
    keras.utils.set_random_seed(99)
    order = np.random.default_rng(0).permutation(np.arange(40).repeat(3))
    with ThreadPoolExecutor(8) as pool:
        for step, found in zip(order, pool.map(lambda step: again.rows(step)[0], order), strict=True):
            assert np.array_equal(found, rows[step])
    for other in ({"seed": 4, "fold": 2}, {"seed": 3, "fold": 1}):
        assert not np.array_equal(batches_of(REFERENCE, **other).rows(0)[0], rows[0])


def test_without_balance_every_image_comes_once_in_a_turn():
    batches = batches_of(SMALL, 17, balanced=False)
    rows = np.concatenate([batches.rows(step)[0] for step in range(21)])
    turns = rows[: 3 * len(SMALL)].reshape(3, -1)
    assert np.array_equal(np.sort(turns), [np.arange(len(SMALL))] * 3)
    assert not np.array_equal(turns[0], turns[1])


def test_a_batch_may_be_larger_than_the_data():
    counts = np.bincount(batches_of(SMALL, 1000).rows(0)[0], minlength=len(SMALL))
    for number in range(10):
        of_class = counts[number == SMALL]
        assert of_class.sum() == 100 and np.ptp(of_class) <= 1


def test_classes_that_are_absent_take_no_place():
    labels = np.array([1, 1, 5, 5, 5, 7])
    counts = np.bincount(batches_of(labels, 9)[0][1], minlength=8)
    assert counts.tolist() == [0, 3, 0, 0, 0, 3, 0, 3]
