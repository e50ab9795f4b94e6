"""Temperature scaling, the null band of ECE, and the curve of passes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.calibration import Calibration, scaled, temperature
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


UNIFORM = np.full((6, 3), 1 / 3)
SHARP = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.3, 0.1]])


@pytest.mark.parametrize(
    ("probs", "labels", "expected"),
    [
        (SHARP, [0, 1, 0], 0.25),  # all right
        (SHARP, [2, 2, 2], 100.0),  # all wrong
        (SHARP[:1], [0], 0.25),  # one example
        (SHARP[:1], [2], 100.0),
        (UNIFORM, [0, 1, 2, 0, 1, 1], 1.0),  # no temperature changes anything
        (np.eye(3), [0, 1, 2], 0.25),  # probabilities of exactly 0 and 1
        (np.eye(3), [1, 2, 0], 100.0),
        (np.eye(2)[[0] * 20], [0] * 19 + [1], None),  # one class, as in a val without the others
    ],
)
def test_a_temperature_is_found_for_any_data_and_lies_in_its_range(probs, labels, expected):
    found = temperature(probs, np.array(labels))
    assert 0.25 <= found <= 100.0
    if expected is None:
        assert metrics.nll(scaled(probs, found), labels) == pytest.approx(0.19852, abs=1e-4)
    else:
        assert found == expected


@pytest.mark.parametrize("seed", range(5))
def test_no_other_temperature_has_a_lower_nll_where_classes_are_missing(seed):
    probs, labels = drawn(40, 1.5, seed, n_classes=6)
    labels = np.where(np.isin(labels, [2, 5]), 0, labels)
    found = temperature(probs, labels)
    best = metrics.nll(scaled(probs, found), labels)
    for other in np.geomspace(0.25, 100, 300):
        assert best <= metrics.nll(scaled(probs, other), labels) + 1e-12


def test_the_page_says_that_a_temperature_is_at_its_end_and_on_what_it_was_fitted():
    probs, labels = drawn(60, 1.0, 0)
    sure, _ = drawn(50, 1.0, 1)
    answers = sure.argmax(axis=1).astype(np.int32)
    found = Calibration(20, 0.1, 0).examine(
        SimpleNamespace(
            test=SimpleNamespace(targets=labels),
            on_test={"plain": probs},
            on_calibrating={"plain": sure},
            calibrating=SimpleNamespace(targets=answers),
            calibrated_on="50 calibration examples",
        )
    )
    assert "fitted on 50 calibration examples" in found.text
    assert "The temperature 0.25 of plain is the end of the range from 0.25 to 100" in found.text
    assert [row[0] for row in found.table] == ["arm", "plain", "plain, scaled"]
    assert found.metrics["test/plain/adaptive_ece"] == metrics.adaptive_ece(probs, labels)
    assert found.metrics["test/plain_scaled/temperature"] == 0.25


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
