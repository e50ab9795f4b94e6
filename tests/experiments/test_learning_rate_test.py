"""Tests of the learning rate test: smoothing, largest stable rate, upper bound and first trial."""

from __future__ import annotations

import numpy as np
import pytest

from hpsearch.errors import ConfigError
from hpsearch.experiments.learning_rate_test import Curve, RangeTest, below, middles
from hpsearch.space.space import Space

SETTINGS = RangeTest(low=1e-6, high=1.0, n_points=80, steps_per_point=5, margin=1.0)
BOUNDS = {
    "learning_rate": {"low": 1e-4, "high": 1e-1, "scale": "log"},
    "momentum": {"low": 0.9, "high": 0.999, "scale": "log_complement"},
    "dropout_rate": 0.2,
}


def valley(lowest=1e-2):
    rates = np.geomspace(1e-6, 1.0, 61)
    return Curve(rates, 1 + np.abs(np.log10(rates / lowest)))


def test_the_largest_stable_rate_is_that_of_the_lowest_loss_up_to_smoothing():
    curve = valley()
    # Ten points a decade; the running mean, which keeps 0.7 of itself, lags by one of them.
    assert curve.largest_stable == pytest.approx(10**-1.9)
    assert curve.proposal == pytest.approx(10**-1.9 / 4)


def test_smoothing_starts_at_the_first_loss_and_keeps_a_constant():
    # 3, then (0.7 * 0.3 * 3 + 0.3 * 1) / (1 - 0.7**2) = 0.93 / 0.51
    smooth = Curve(np.array([0.1, 1.0]), np.array([3.0, 1.0])).smooth()
    np.testing.assert_allclose(smooth, [3.0, 0.93 / 0.51])
    np.testing.assert_allclose(Curve(np.ones(5), np.full(5, 3.0)).smooth(), 3.0)


def test_the_upper_bound_is_never_raised():
    space = Space(BOUNDS)
    assert below(space, 1e-2).rules["learning_rate"].high == 1e-2
    assert below(space, 10.0).rules["learning_rate"].high == 1e-1
    assert below(space, 1e-9).rules["learning_rate"].high == 2e-4  # a range is left
    assert space.rules["learning_rate"].high == 1e-1
    fixed = Space({"learning_rate": 1e-3})
    assert below(fixed, 1e-5) is fixed


def test_the_first_trial_has_the_proposed_rate_and_the_middle_of_all_other_bounds():
    space = Space(BOUNDS)
    assert middles(space) == pytest.approx(
        {"learning_rate": 10**-2.5, "momentum": 0.99, "dropout_rate": 0.2}
    )
    curve = valley()
    found = SETTINGS.advice(space, curve)
    assert found["first"] == pytest.approx(
        {"learning_rate": curve.proposal, "one_minus_momentum": 0.01}
    )
    assert found["bounds"]["high"] == curve.largest_stable


def test_a_fixed_rate_is_left_alone():
    assert SETTINGS.advice(Space({"learning_rate": 1e-3}), valley())["first"] == {}


def test_impossible_settings_name_their_key():
    with pytest.raises(
        ConfigError, match=r"range_test\.low must lie between 0 and range_test\.high=1\.0, but is 2"
    ):
        RangeTest(low=2.0, high=1.0, n_points=10, steps_per_point=1, margin=1.0)
