"""The verdict: hand-worked tests, and its error rate on models of which none is better."""

import numpy as np
import pytest
from scipy import stats

from hpsearch import metrics
from hpsearch.evaluation.differences import (
    MEASURES,
    Difference,
    compare,
    holm,
    mcnemar,
    smallest_gain,
)


def test_mcnemar_looks_at_the_examples_that_one_arm_alone_gets_right():
    first = np.array([True] * 9 + [False] * 1 + [True] * 50)
    second = np.array([False] * 9 + [True] * 1 + [True] * 50)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 10) / 2**10)
    assert mcnemar(first, first) == 1.0


def test_holm_on_a_hand_worked_case():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("n_discordant", [0, 1, 7, 40, 101])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_the_smallest_gain_is_the_first_that_the_test_calls(n_discordant, level):
    gain = smallest_gain(n_discordant, level)
    n = max(n_discordant, gain)
    assert (n - gain) % 2 == 0
    assert stats.binomtest((n - gain) // 2, n).pvalue <= level
    assert gain < 2 or (n > gain - 2 and stats.binomtest((n - gain) // 2 + 1, n).pvalue > level)


def similar_pair(rng, n=150, n_classes=3):
    """Return two models of equal quality on the same examples: neither is better but by chance."""
    labels = rng.integers(0, n_classes, n)
    shared = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    logits = shared + rng.normal(scale=0.7, size=(2, n, n_classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probs[0], probs[1], labels


@pytest.mark.slow
def test_200_pairs_of_equal_models_are_called_different_at_most_as_often_as_the_level():
    level, n_pairs, wrong = 0.05, 200, 0
    for seed in range(n_pairs):
        first, second, labels = similar_pair(np.random.default_rng(seed))
        found = compare(first, second, labels, n_resamples=119, level=level, seed=seed)
        wrong += any(d.verdict(level) != "no detectable difference" for d in found)
    assert wrong / n_pairs <= level


def test_identical_predictions_do_not_differ():
    first, _, labels = similar_pair(np.random.default_rng(0))
    found = compare(first, first, labels, n_resamples=100, level=0.05, seed=0)
    assert [d.measure for d in found] == list(MEASURES)
    for d in found:
        assert (d.value, d.low, d.high, d.p) == (0, 0, 0, 1)
        assert d.verdict(0.05) == "no detectable difference"


def test_a_clear_gain_is_called_and_its_interval_holds_it():
    first, _, labels = similar_pair(np.random.default_rng(0), n=400)
    second = 0.5 * first + 0.5 * np.eye(3)[labels]
    found = {
        d.measure: d for d in compare(first, second, labels, n_resamples=500, level=0.05, seed=0)
    }
    assert list(found) == list(MEASURES) == ["accuracy", "nll", "brier_score", "ece", "aurc"]
    assert {found[m].verdict(0.05) for m in ("accuracy", "nll", "brier_score", "aurc")} == {
        "better"
    }
    d = found["nll"]
    assert d.values == pytest.approx((metrics.nll(first, labels), metrics.nll(second, labels)))
    assert d.low < d.value < d.high < 0
    worse = compare(second, first, labels, n_resamples=500, level=0.05, seed=0, measures=("nll",))
    assert [w.verdict(0.05) for w in worse] == ["worse"]


def test_measures_are_those_of_metrics():
    first, second, labels = similar_pair(np.random.default_rng(3))
    found = compare(first, second, labels, n_resamples=100, level=0.05, seed=0)
    assert [d.measure for d in found] == list(MEASURES)
    for d in found:
        assert d.values[0] == pytest.approx(metrics.summary(first, labels)[d.measure])
        assert d.values[1] == pytest.approx(metrics.summary(second, labels)[d.measure])


def test_the_bootstrap_interval_has_the_width_of_the_normal_one():
    first, second, labels = similar_pair(np.random.default_rng(5), n=1000)
    (d,) = compare(first, second, labels, n_resamples=4000, level=0.05, seed=0, measures=("nll",))
    each = metrics.example_nll(second, labels) - metrics.example_nll(first, labels)
    assert d.high - d.low == pytest.approx(2 * 1.96 * each.std() / np.sqrt(len(each)), rel=0.08)
    assert d.detectable == pytest.approx(1.96 * each.std() / np.sqrt(len(each)), rel=0.08)


def test_more_is_better_for_accuracy_and_worse_for_all_else():
    up = {"values": (0.1, 0.2), "low": 0.05, "high": 0.15, "p": 0.001, "detectable": 0.01}
    assert Difference("accuracy", **up).verdict(0.05) == "better"
    assert Difference("nll", **up).verdict(0.05) == "worse"
    assert Difference("nll", **up | {"p": 0.06}).verdict(0.05) == "no detectable difference"
