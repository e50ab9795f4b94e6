"""Temperature scaling, the null band of ECE, conformal sets, and the curve of passes."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.calibration import (
    Calibration,
    Conformal,
    ConformalSets,
    scaled,
    temperature,
)
from hpsearch.evaluation.number_of_passes import NumberOfPasses
from hpsearch.mc_dropout.prediction import McPrediction


def drawn(n, sharpness, seed, n_classes=4):
    """Return distributions, and labels drawn from their `1 / sharpness` powers: that temperature is
    right.
    """
    rng = np.random.default_rng(seed)
    truth = rng.dirichlet(np.ones(n_classes), n)
    labels = (rng.random((n, 1)) > truth.cumsum(axis=1)).sum(axis=1).clip(max=n_classes - 1)
    return scaled(truth, 1 / sharpness), labels


def test_scaling_by_one_changes_nothing_and_by_two_takes_roots():
    probs = np.array([[0.64, 0.36]])
    assert scaled(probs, 1.0) == pytest.approx(probs)
    assert scaled(probs, 2.0) == pytest.approx(np.array([[0.8, 0.6]]) / 1.4)


def test_the_temperature_of_an_overconfident_model_is_found():
    probs, labels = drawn(5000, 2.0, 0)
    found = temperature(probs, labels)
    assert found == pytest.approx(2.0, rel=0.1)
    best = minimize_scalar(
        lambda t: metrics.nll(scaled(probs, t), labels), bounds=(0.1, 10), method="bounded"
    )
    assert found == pytest.approx(best.x, rel=1e-2)


def test_a_calibrated_model_lies_in_its_null_band_and_an_overconfident_one_above():
    for sharpness, inside in ((1.0, True), (3.0, False)):
        probs, labels = drawn(2000, sharpness, 1)
        low, high = Calibration(500, 0.01, 0).null_band(probs.max(axis=1), "plain")
        assert 0 < low < high
        assert (low <= metrics.ece(probs, labels) <= high) == inside


def test_the_null_band_holds_calibrated_models_as_often_as_it_says():
    n_held = 0
    for seed in range(50):
        probs, labels = drawn(300, 1.0, seed)
        low, high = Calibration(200, 0.1, seed).null_band(probs.max(axis=1), "plain")
        n_held += low <= metrics.ece(probs, labels) <= high
    assert 38 <= n_held <= 50


def test_conformal_sets_on_a_hand_worked_case():
    # Nine probabilities of the label, 0.1 to 0.9; coverage 0.8 wants the ceil(10 * 0.8) = 8th
    # smallest 1 - p: p = 0.2.
    p, labels = np.arange(1, 10) / 10, np.arange(9) % 2
    probs = np.stack([np.where(labels == 0, p, 1 - p), np.where(labels == 1, p, 1 - p)], axis=1)
    assert ConformalSets(probs, labels, 0.8).threshold == pytest.approx(0.2)


def test_the_served_threshold_makes_mapies_sets_and_they_cover():
    probs, labels = drawn(4000, 2.0, 2)
    sets = ConformalSets(probs[:2000], labels[:2000], 0.9)
    held = sets.of(probs[2000:])
    np.testing.assert_array_equal(held, probs[2000:] >= sets.threshold - 1e-12)
    assert held[np.arange(2000), labels[2000:]].mean() == pytest.approx(0.9, abs=0.03)


def test_an_impossible_coverage_is_refused():
    with pytest.raises(
        ConfigError, match=r"parts.conformal.coverage must lie between 0 and 1, but is 1.5"
    ):
        Conformal(1.5)


def prediction(label_probs):
    n_samples, n = label_probs.shape
    rest = np.stack([label_probs.mean(axis=0), 1 - label_probs.mean(axis=0)], axis=1)
    return McPrediction(rest, np.zeros(n), np.zeros((n, 2)), rest, label_probs, 1, n_samples)


def test_nll_falls_with_the_inverse_of_the_passes():
    rng = np.random.default_rng(0)
    centre = rng.uniform(0.3, 0.9, 500)
    label_probs = rng.beta(20 * centre, 20 * (1 - centre), (200, 500))
    law = NumberOfPasses(0.001, 10, 0).law(prediction(label_probs))
    theory = float((centre * (1 - centre) / 21 / (2 * centre**2)).mean())
    assert law.slope == pytest.approx(theory, rel=0.25)
    assert law.at_infinity == pytest.approx(float(-np.log(centre).mean()), abs=0.003)
    assert law.n_within(law.slope / 50) == 50


def test_passes_that_agree_are_enough_at_one():
    law = NumberOfPasses(0.001, 3, 0).law(prediction(np.full((20, 30), 0.5)))
    assert law.at_infinity == pytest.approx(math.log(2))
    assert law.n_within(1e-3) == 1


def test_too_few_passes_have_no_curve():
    assert NumberOfPasses(0.001, 3, 0).law(prediction(np.full((7, 5), 0.5))) is None
    assert NumberOfPasses(0.001, 3, 0).law(prediction(np.full((8, 5), 0.5))) is not None
    with pytest.raises(ConfigError, match="positive tolerance"):
        NumberOfPasses(0.0, 1, 0)
