"""Test dropout masks: their distribution, and that each step, layer and row has another mask."""

import itertools

import numpy as np
import pytest
from keras import ops

from hpsearch.models.dropout_masks import alpha_dropped, dropped, uniform_like

INPUTS = np.ones((64, 20, 15), np.float32)


def drawn(seed, step, kind=np.uint32):
    return ops.convert_to_numpy(uniform_like(INPUTS, np.array([seed, step], kind))) / 2**24


def test_numbers_are_even_and_those_of_other_steps_and_layers_are_unrelated():
    found = [
        drawn(*state)
        for state in ((0, 0), (0, 1), (1, 0), (7, 7), (2**31 - 1, 0), (2**31 - 1, 10**6))
    ]
    n = INPUTS.size
    for numbers in found:
        assert numbers.shape == INPUTS.shape
        assert 0 <= numbers.min() < numbers.max() < 1
        assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * n)
        rows = numbers.reshape(len(numbers), -1) - 0.5
        assert abs((rows[1:] * rows[:-1]).mean() * 12) < 5 / np.sqrt(n)  # neighbours in a batch
    for one, other in itertools.combinations(found, 2):
        assert abs(((one - 0.5) * (other - 0.5)).mean() * 12) < 5 / np.sqrt(n)


def test_the_same_state_draws_the_same_numbers_whatever_the_backend_counts_in():
    np.testing.assert_array_equal(drawn(5, 3), drawn(5, 3, np.int64))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_a_share_of_the_rate_is_dropped_and_mean_and_variance_stay(rate):
    uniform = uniform_like(INPUTS, np.array([5, 3], np.uint32))
    kept = ops.convert_to_numpy(dropped(INPUTS, uniform, rate))
    assert abs((kept == 0).mean() - rate) < 5 * np.sqrt(0.25 / INPUTS.size)
    assert np.allclose(kept[kept > 0], 1 / (1 - rate))
    normal = np.random.default_rng(0).standard_normal(INPUTS.shape).astype(np.float32)
    noisy = ops.convert_to_numpy(alpha_dropped(normal, uniform, rate))
    assert abs(noisy.mean()) < 0.05
    assert abs(noisy.std() - 1) < 0.05
