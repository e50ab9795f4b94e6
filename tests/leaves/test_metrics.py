import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from hpsearch import metrics

PROBS = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.0, 0.4, 0.6]])
LABELS = np.array([0, 1, 1])


@pytest.fixture
def samples():
    rng = np.random.default_rng(0)
    return rng.dirichlet([0.5, 0.5, 0.5, 0.5], size=(7, 50))


@pytest.fixture
def labels():
    return np.random.default_rng(1).integers(0, 4, 50)


def test_nll_is_the_mean_of_minus_log_the_labels_probability():
    assert metrics.nll(PROBS, LABELS) == pytest.approx(
        -(math.log(0.5) + math.log(0.8) + math.log(0.4)) / 3
    )


def test_nll_of_an_impossible_label_is_large_but_finite():
    assert metrics.nll([[1.0, 0.0]], [1]) == pytest.approx(-math.log(np.finfo(float).eps))


def test_nll_and_brier_agree_with_scikit_learn(samples, labels):
    probs = samples[0]
    assert metrics.nll(probs, labels) == pytest.approx(log_loss(labels, probs, labels=range(4)))
    assert metrics.brier_score(probs, labels) == pytest.approx(
        brier_score_loss(labels, probs, labels=range(4))
    )


def test_brier_is_summed_over_classes():
    assert metrics.brier_score([[0.5, 0.25, 0.25]], [0]) == pytest.approx(0.25 + 0.0625 + 0.0625)
    assert metrics.brier_score([[0.0, 1.0]], [0]) == 2.0


def test_accuracy_counts_right_answers():
    assert metrics.accuracy(PROBS, LABELS) == pytest.approx(2 / 3)


def test_ece_weights_bins_by_their_size():
    # Bin of 0.5: one example, right: gap 0.5. Bin of 0.9: three examples, two right: gap |2/3 -
    # 0.9|.
    probs = np.array([[0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.9, 0.1, 0.0]])
    expected = 0.25 * 0.5 + 0.75 * abs(2 / 3 - 0.9)
    assert metrics.ece(probs, np.array([0, 0, 0, 1])) == pytest.approx(expected)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below():
    bins = metrics.Reliability.of([0.2, 0.2000001, 1.0], [True, True, True], n_bins=5)
    assert bins.count.tolist() == [1, 1, 0, 0, 1]


def test_perfectly_calibrated_bins_have_no_error():
    probs = np.tile([0.75, 0.25], (4, 1))
    assert metrics.ece(probs, np.array([0, 0, 0, 1])) == pytest.approx(0.0)


def test_uniform_gives_log_c():
    uniform = np.full((5, 8, 10), 0.1)
    assert metrics.predictive_entropy(uniform[0]) == pytest.approx(np.full(8, math.log(10)))
    assert metrics.expected_entropy(uniform) == pytest.approx(np.full(8, math.log(10)))
    assert metrics.nll(uniform[0], np.arange(8)) == pytest.approx(math.log(10))


def test_a_certain_prediction_has_entropy_zero():
    assert metrics.predictive_entropy([[1.0, 0.0]]).tolist() == [0.0]


def test_two_certain_samples_that_disagree_are_all_epistemic():
    samples = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert metrics.expected_entropy(samples).tolist() == [0.0]
    assert metrics.mutual_information(samples) == pytest.approx([math.log(2)])
    assert metrics.variation_ratio(samples).tolist() == [0.5]


def test_information_lies_between_zero_and_the_predictive_entropy(samples):
    information = metrics.mutual_information(samples)
    total = metrics.predictive_entropy(samples.mean(axis=0))
    assert (information >= 0).all()
    assert (information <= total + 1e-12).all()
    assert (total <= math.log(4) + 1e-12).all()


def test_variation_ratio_counts_votes_against_the_mode():
    votes = [0, 0, 1, 2, 0]
    samples = np.eye(3)[votes][:, None, :]
    assert metrics.variation_ratio(samples) == pytest.approx([0.4])


def test_risk_coverage_by_hand():
    # From certain to doubtful: right, wrong, right, wrong: risks 0, 1/2, 1/3, 1/2.
    coverage, risk = metrics.risk_coverage([0.4, 0.1, 0.3, 0.2], [False, True, True, False])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert metrics.aurc([0.4, 0.1, 0.3, 0.2], [False, True, True, False]) == pytest.approx(
        (1 / 2 + 1 / 3 + 1 / 2) / 4
    )
    assert metrics.risk_at_coverage(
        [0.4, 0.1, 0.3, 0.2], [False, True, True, False], 0.75
    ) == pytest.approx(1 / 3)


def test_ties_do_not_depend_on_the_order_of_examples():
    right = np.array([True, False, False, True])
    for order in ([0, 1, 2, 3], [1, 0, 3, 2]):
        assert metrics.aurc(np.zeros(4), right[order]) == pytest.approx(0.5)


def test_risk_at_full_coverage_is_the_error_rate(samples, labels):
    probs = samples[0]
    right = metrics.correct(probs, labels)
    assert metrics.risk_at_coverage(1 - probs.max(axis=1), right, 1.0) == pytest.approx(
        1 - right.mean()
    )


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        ([[0.5, 0.5]], [2], r"Expected labels from 0 to 1. Received: labels from 2 to 2."),
        ([[0.5, 0.5]], [0, 1], r"Expected 1 whole-number labels. Received: labels=int64\(2,\)."),
        ([[0.5, 0.5]], [0.0], r"Expected 1 whole-number labels. Received: labels=float64\(1,\)."),
        (
            [[2.0, -1.0]],
            [0],
            r"Expected rows of probabilities that sum to one. Received: values from -1 to 2",
        ),
        ([[np.nan, 1.0]], [0], r"Expected rows of probabilities that sum to one."),
        (
            [[1.0]],
            [0],
            r"Expected probabilities of shape \(N, C\), C >= 2. Received: shape=\(1, 1\).",
        ),
    ],
)
def test_what_is_no_prediction_is_refused(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        metrics.nll(probs, labels)


def test_summary_names_the_common_measures():
    assert list(metrics.summary(PROBS, LABELS)) == [
        "accuracy", "nll", "brier_score", "ece", "predictive_entropy", "aurc", "risk_at_80",
    ]  # fmt: skip


def test_bins_of_equal_mass_on_a_hand_worked_case():
    # Five answers in two bins: (0.5, 0.6, 0.7) and (0.8, 0.9).
    confidence = np.array([0.9, 0.5, 0.7, 0.6, 0.8])
    labels = np.array([0, 1, 0, 0, 1])
    probs = np.stack([confidence, 1 - confidence], axis=1)
    # Right: 0.9, 0.7, 0.6. The gaps are |2/3 - 0.6| and |1/2 - 0.85|.
    expected = 3 / 5 * (2 / 3 - 0.6) + 2 / 5 * 0.35
    assert metrics.adaptive_ece(probs, labels, n_bins=2) == pytest.approx(expected)
    assert metrics.adaptive_ece(probs[:1], labels[:1]) == pytest.approx(0.1)


@pytest.mark.parametrize("seed", range(5))
def test_adaptive_ece_is_that_of_sorted_parts_and_does_not_depend_on_the_order(seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), 203)
    labels = rng.integers(0, 4, 203)
    order = np.argsort(probs.max(axis=1))
    right = (probs.argmax(axis=1) == labels)[order]
    confidence = probs.max(axis=1)[order]
    expected = sum(
        len(part) * abs(right[part].mean() - confidence[part].mean())
        for part in np.array_split(np.arange(203), 15)
    )
    assert metrics.adaptive_ece(probs, labels) == pytest.approx(expected / 203, abs=1e-12)
    rounded = np.round(probs * 20) / 20  # many equal confidences
    rounded[:, 0] += 1 - rounded.sum(axis=1)
    rounded = np.abs(rounded) / np.abs(rounded).sum(axis=1, keepdims=True)
    shuffled = rng.permutation(203)
    assert metrics.adaptive_ece(rounded[shuffled], labels[shuffled]) == pytest.approx(
        metrics.adaptive_ece(rounded, labels), abs=1e-12
    )
