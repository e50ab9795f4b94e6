"""The verdict: hand-worked tests, and its error rate on models of which none is better."""

import numpy as np
import pytest
from scipy import stats

from hpsearch import metrics
from hpsearch.evaluation.differences import (
    MEASURES,
    NONE,
    Difference,
    compare,
    detectable_gain,
    holm,
    largest_difference,
    mcnemar,
    verdict_over_masks,
)

LEVEL = 0.05


def test_mcnemar_looks_at_the_examples_that_one_arm_alone_gets_right():
    first = np.array([True] * 9 + [False] * 1 + [True] * 50)
    second = np.array([False] * 9 + [True] * 1 + [True] * 50)
    chi_squared = (abs(9 - 1) - 1) ** 2 / 10
    assert mcnemar(first, second) == pytest.approx(stats.chi2(1).sf(chi_squared))
    assert mcnemar(first, second) > stats.binomtest(1, 10).pvalue  # the exact test's
    assert mcnemar(first, first) == 1.0


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (9, 1), (30, 12), (0, 20), (20, 20)])
def test_the_interval_of_accuracy_leaves_out_0_exactly_where_mcnemar_rejects(gained, lost):
    n = 60
    second = np.arange(n) < gained
    first = (np.arange(n) >= gained) & (np.arange(n) < gained + lost)
    for level in (0.2, 0.05, 0.01, 0.001):
        critical = stats.norm.isf(level / 2)
        high = largest_difference(gained, lost, n, critical)
        low = -largest_difference(lost, gained, n, critical)
        assert -1 <= low <= (gained - lost) / n <= high <= 1
        assert (low > 0 or high < 0) == (mcnemar(first, second) <= level)


def test_tango_s_interval_without_discordant_examples_is_wilson_s():
    z = 1.96
    n = 100
    without_correction = z**2 / (n + z**2)
    assert without_correction < largest_difference(0, 0, n, z) < without_correction + 2 / n


def test_a_detectable_gain_has_the_power_that_is_promised():
    rng = np.random.default_rng(0)
    for n_discordant in (2, 30, 400):
        gain = detectable_gain(n_discordant, 1.96)
        n = max(n_discordant, gain)
        wins = rng.poisson((n + gain) / 2, 20_000)
        losses = rng.poisson((n - gain) / 2, 20_000)
        called = wins - losses - 1 > 1.96 * np.sqrt(wins + losses)
        assert 0.79 < called.mean() < 0.93
        if n_discordant == 400:
            assert called.mean() == pytest.approx(0.8, abs=0.02)


def test_holm_on_a_hand_worked_case():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


def similar_pair(rng, n=150, n_classes=3):
    """Return two models of equal quality on the same examples: neither is better but by chance."""
    labels = rng.integers(0, n_classes, n)
    shared = rng.normal(size=(n, n_classes)) + 1.5 * np.eye(n_classes)[labels]
    logits = shared + rng.normal(scale=0.7, size=(2, n, n_classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    return probs[0], probs[1], labels


def opposite_pair(rng, n=300):
    """Return an overconfident and an equally underconfident model of the same examples."""
    logits = rng.normal(scale=2, size=(n, 10))
    powers = [np.exp(logits / t) for t in (1.0, 0.8, 1.2475)]
    truth, sharp, soft = (p / p.sum(axis=1, keepdims=True) for p in powers)
    labels = (truth.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(0, 9)
    return sharp, soft, labels


@pytest.mark.slow
def test_equal_values_are_called_different_at_most_as_often_as_the_level():
    """200 pairs of each kind; 17 of 200 is two standard errors above the level."""
    for pair, equal in ((similar_pair, MEASURES), (opposite_pair, ("squared_calibration_error",))):
        wrong = 0
        for seed in range(200):
            arms = pair(np.random.default_rng(seed))
            found = compare(*arms, n_resamples=400, level=LEVEL, seed=seed)
            wrong += any(d.verdict(LEVEL) != NONE for d in found if d.measure in equal)
        assert wrong <= 17


def test_a_verdict_never_contradicts_its_interval_and_swapped_arms_negate_it():
    for seed in range(8):
        rng = np.random.default_rng(seed)
        first, second, labels = similar_pair(rng, n=60)
        better = 0.9 * second + 0.1 * np.eye(3)[labels]
        for level in (0.3, 0.05):
            found = compare(first, better, labels, n_resamples=199, level=level, seed=1)
            back = compare(better, first, labels, n_resamples=199, level=level, seed=1)
            for d, negated in zip(found, back, strict=True):
                assert d.low <= d.value <= d.high
                assert (d.low > 0 or d.high < 0) == (d.verdict(level) != NONE)
                assert (negated.value, negated.p) == pytest.approx((-d.value, d.p))
                assert (negated.low, negated.high) == pytest.approx((-d.high, -d.low))


def test_the_squared_calibration_error_is_the_mean_of_products_of_two_examples():
    first = np.array([[0.9, 0.1]] * 3 + [[0.3, 0.7]])
    labels = np.array([0, 0, 1, 1])
    gaps = np.array([0.1, 0.1, -0.9])  # right minus confidence; the fourth is alone in its bin
    pairs = [gaps[0] * gaps[1], gaps[0] * gaps[2], gaps[1] * gaps[2]]
    (d,) = compare(
        first,
        np.full((4, 2), 0.5),
        labels,
        n_resamples=99,
        level=LEVEL,
        seed=0,
        measures=("squared_calibration_error",),
    )
    assert d.values[0] == pytest.approx(3 / 4 * np.mean(pairs))
    assert d.values[1] == pytest.approx((0 - 4 * 0.25) / 3 / 4)  # gaps of +-0.5 that sum to 0


def test_where_the_resamples_do_not_vary_nothing_is_called():
    first = np.array([[0.8, 0.2]] * 3)
    second = np.array([[0.9, 0.1]] * 3)
    labels = np.zeros(3, int)
    for d in compare(first, second, labels, n_resamples=199, level=LEVEL, seed=0):
        assert d.verdict(LEVEL) == NONE
        assert d.low < 0 < d.high
        assert d.detectable > 0.5
    for d in compare(first[:1], second[:1], 1 - labels[:1], n_resamples=199, level=LEVEL, seed=0):
        assert d.verdict(LEVEL) == NONE


def of_set(low, high, p):
    return Difference("nll", (0.5, 0.5 + (low + high) / 2), low, high, p, 0.1)


def test_a_verdict_on_which_the_sets_of_masks_disagree_says_so():
    worse, none = of_set(0.01, 0.05, 0.01), of_set(-0.01, 0.03, 0.3)
    assert verdict_over_masks([worse] * 3 + [none] * 2, LEVEL) == (
        "depends on the masks (worse with 3 of 5 sets)"
    )
    better = of_set(-0.05, -0.01, 0.01)
    assert verdict_over_masks([worse, better, none], LEVEL) == (
        "depends on the masks (better with 1 and worse with 1 of 3 sets)"
    )
    assert verdict_over_masks([worse] * 5, LEVEL) == "worse"
    assert verdict_over_masks([none] * 5, LEVEL) == NONE
    assert verdict_over_masks([worse], LEVEL) == "worse"


def test_a_verdict_that_one_more_set_may_change_says_so():
    ends = [0.001, 0.004, 0.002, 0.006, 0.003]
    narrow = [of_set(low, low + 0.04, 0.04) for low in ends]
    assert verdict_over_masks(narrow, LEVEL) == (
        "depends on the masks (worse with all 5 sets, but narrowly)"
    )
    clear = [of_set(low + 0.02, low + 0.06, 0.001) for low in ends]
    assert verdict_over_masks(clear, LEVEL) == "worse"
    unclear = [of_set(low - 0.007, low + 0.06, 0.06) for low in ends]
    assert verdict_over_masks(unclear, LEVEL) == (
        "depends on the masks (no detectable difference with all 5 sets, but narrowly)"
    )


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
    assert list(found) == list(MEASURES)
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
    first = first.round(1) / first.round(1).sum(axis=1, keepdims=True)  # many equal confidences
    found = compare(first, second, labels, n_resamples=100, level=0.05, seed=0)
    assert [d.measure for d in found] == list(MEASURES)
    for d in found:
        if d.measure == "squared_calibration_error":
            continue
        assert d.values[0] == pytest.approx(metrics.summary(first, labels)[d.measure])
        assert d.values[1] == pytest.approx(metrics.summary(second, labels)[d.measure])


def test_the_bootstrap_interval_has_the_width_of_the_normal_one():
    first, second, labels = similar_pair(np.random.default_rng(5), n=1000)
    (d,) = compare(first, second, labels, n_resamples=4000, level=0.05, seed=0, measures=("nll",))
    each = metrics.example_nll(second, labels) - metrics.example_nll(first, labels)
    error = each.std() / np.sqrt(len(each))
    assert d.high - d.low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert d.detectable == pytest.approx((1.96 + 0.84) * error, rel=0.08)


def test_more_is_better_for_accuracy_and_worse_for_all_else():
    up = {"values": (0.1, 0.2), "low": 0.05, "high": 0.15, "p": 0.001, "detectable": 0.01}
    assert Difference("accuracy", **up).verdict(0.05) == "better"
    assert Difference("nll", **up).verdict(0.05) == "worse"
    assert Difference("nll", **up | {"p": 0.06}).verdict(0.05) == "no detectable difference"
