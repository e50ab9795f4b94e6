"""How good predicted class probabilities are, and how uncertain: NumPy, in nats.

Shapes: S samples, N examples, C classes. `probs` is (N, C), `samples` is (S, N, C), `labels` is
(N,). Every function computes in float64, refuses what is not a set of distributions, and returns a
float or an array of one value an example.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64] | NDArray[np.int32]

N_BINS = 15
SMALLEST = float(
    np.finfo(np.float64).eps
)  # as scikit-learn clips a probability before its logarithm
SUM_TOLERANCE = 1e-3  # float16 models miss one by this much


def nll(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the negative log-likelihood: mean over examples of -log p(label), in nats.

    For MC Dropout give the mean of the samples: the average of the samples' own NLLs is another,
    larger number.
    """
    return float(example_nll(probs, labels).mean())


def example_nll(probs: ArrayLike, labels: ArrayLike) -> Floats:
    """Return -log p(label) of each example, (N,), in nats."""
    values, truth = _checked(probs, labels)
    return np.asarray(-np.log(np.maximum(values[np.arange(len(truth)), truth], SMALLEST)))


def brier_score(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the multiclass Brier score, summed over classes, in [0, 2] (Brier, 1950)."""
    return float(example_brier(probs, labels).mean())


def example_brier(probs: ArrayLike, labels: ArrayLike) -> Floats:
    """Return sum_c (p_c - [c = label])^2 of each example, (N,)."""
    values, truth = _checked(probs, labels)
    errors = values.copy()
    errors[np.arange(len(truth)), truth] -= 1.0
    return np.asarray(np.square(errors).sum(axis=1))


def accuracy(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of examples whose most probable class is the label."""
    return float(correct(probs, labels).mean())


def correct(probs: ArrayLike, labels: ArrayLike) -> NDArray[np.bool_]:
    """Return whether the most probable class is the label, (N,)."""
    values, truth = _checked(probs, labels)
    return np.asarray(values.argmax(axis=1) == truth)


@dataclass(frozen=True)
class Reliability:
    """Examples sorted into equal-width bins of confidence; an empty bin has confidence and accuracy
    0.

    Attributes:
        count: Examples in each bin, (B,).
        confidence: Mean probability of the predicted class in each bin, (B,).
        accuracy: Share of right answers in each bin, (B,).
    """

    count: Ints
    confidence: Floats
    accuracy: Floats

    @property
    def ece(self) -> float:
        """Mean of |accuracy - confidence| over bins, weighted by their counts."""
        gap = np.abs(self.accuracy - self.confidence)
        return float((self.count * gap).sum() / self.count.sum())


def reliability(confidence: ArrayLike, right: ArrayLike, n_bins: int = N_BINS) -> Reliability:
    """Sort examples by confidence into the bins ((i - 1) / n_bins, i / n_bins].

    Args:
        confidence: Probability of the predicted class, (N,).
        right: Whether the prediction is right, (N,).
        n_bins: How many bins of equal width.
    """
    conf = np.asarray(confidence, np.float64)
    bins = np.clip(np.ceil(conf * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    count = np.bincount(bins, minlength=n_bins)
    filled = np.maximum(count, 1)
    sum_conf = np.bincount(bins, weights=conf, minlength=n_bins)
    sum_right = np.bincount(bins, weights=np.asarray(right, np.float64), minlength=n_bins)
    return Reliability(count, sum_conf / filled, sum_right / filled)


def ece(probs: ArrayLike, labels: ArrayLike, n_bins: int = N_BINS) -> float:
    """Return the expected calibration error of the predicted class, in [0, 1] (Guo et al., 2017)."""
    values, truth = _checked(probs, labels)
    return reliability(values.max(axis=1), values.argmax(axis=1) == truth, n_bins).ece


def entropy(distributions: ArrayLike) -> Floats:
    """Return -sum_c p_c log p_c over the last axis, in nats."""
    p = np.asarray(distributions, np.float64)
    return np.asarray(-(p * np.log(np.where(p > 0, p, 1.0))).sum(axis=-1))


def predictive_entropy(probs: ArrayLike) -> Floats:
    """Return the entropy of the (averaged) distribution of each example, (N,): total uncertainty,
    [0, log C].
    """
    return entropy(_distributions(probs))


def expected_entropy(samples: ArrayLike) -> Floats:
    """Return the mean over samples of their entropies, (N,): aleatoric uncertainty, [0, log C]."""
    return np.asarray(entropy(_samples(samples)).mean(axis=0))


def mutual_information(samples: ArrayLike) -> Floats:
    """Return predictive minus expected entropy, (N,): epistemic uncertainty (BALD; Houlsby et al.,
    2011).
    """
    values = _samples(samples)
    return information(entropy(values.mean(axis=0)), entropy(values).mean(axis=0))


def information(total: Floats, aleatoric: Floats) -> Floats:
    """Return `total - aleatoric`, (N,), never below zero: Jensen's inequality, but for rounding."""
    return np.maximum(total - aleatoric, 0.0)


def variation_ratio(samples: ArrayLike) -> Floats:
    """Return the share of samples that vote against the most frequent vote, (N,), in [0, 1 - 1 /
    C].
    """
    values = _samples(samples)
    votes = np.eye(values.shape[2])[values.argmax(axis=2)].sum(axis=0)
    return np.asarray(1.0 - votes.max(axis=1) / len(values))


def risk_coverage(uncertainty: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    """Return coverage and risk, (N,) each: the error rate among the k most certain examples, k = 1
    .. N.

    Equally uncertain examples have no order, so each counts the mean error of them all: the curve
    is the expectation over the ways of breaking ties (Geifman & El-Yaniv, 2017).
    """
    doubt = np.asarray(uncertainty, np.float64)
    wrong = 1.0 - np.asarray(right, np.float64)
    if doubt.ndim != 1 or doubt.shape != wrong.shape or not doubt.size:
        raise ValueError(
            f"Expected two equally long vectors. Received: shapes={doubt.shape}, {wrong.shape}."
        )
    _, group = np.unique(doubt, return_inverse=True)
    group = group.ravel()
    shared = np.bincount(group, weights=wrong) / np.bincount(group)
    k = np.arange(1, len(doubt) + 1)
    return k / len(doubt), np.cumsum(shared[np.sort(group)]) / k


def aurc(uncertainty: ArrayLike, right: ArrayLike) -> float:
    """Return the area under the risk-coverage curve: mean risk over all coverages; lower is better."""
    return float(risk_coverage(uncertainty, right)[1].mean())


def risk_at_coverage(uncertainty: ArrayLike, right: ArrayLike, coverage: float = 0.8) -> float:
    """Return the error rate among the `coverage` most certain examples (rounded up to a whole
    example).
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"Expected a coverage in (0, 1]. Received: coverage={coverage}.")
    risks = risk_coverage(uncertainty, right)[1]
    return float(risks[math.ceil(coverage * len(risks) - 1e-9) - 1])


def summary(probs: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the measures that every set of predictions has, by their names in MLflow."""
    values = _distributions(probs)
    doubt, right = 1.0 - values.max(axis=1), correct(values, labels)
    return {
        "accuracy": accuracy(values, labels),
        "nll": nll(values, labels),
        "brier_score": brier_score(values, labels),
        "ece": ece(values, labels),
        "predictive_entropy": float(predictive_entropy(values).mean()),
        "aurc": aurc(doubt, right),
        "risk_at_80": risk_at_coverage(doubt, right, 0.8),
    }


def _checked(probs: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    values = _distributions(probs)
    truth = np.asarray(labels)
    if truth.ndim != 1 or len(truth) != len(values) or not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(
            f"Expected {len(values)} whole-number labels. Received: "
            f"labels={truth.dtype}{truth.shape}."
        )
    if truth.min() < 0 or truth.max() >= values.shape[1]:
        raise ValueError(
            f"Expected labels from 0 to {values.shape[1] - 1}. Received: labels from {truth.min()} "
            f"to {truth.max()}."
        )
    return values, truth.astype(np.int64)


def _samples(samples: ArrayLike) -> Floats:
    values = np.asarray(samples, np.float64)
    if values.ndim != 3:
        raise ValueError(f"Expected samples of shape (S, N, C). Received: shape={values.shape}.")
    return _distributions(values.reshape(-1, values.shape[2])).reshape(values.shape)


def _distributions(probs: ArrayLike) -> Floats:
    values = np.asarray(probs, np.float64)
    if values.ndim != 2 or not len(values) or values.shape[1] < 2:
        raise ValueError(
            f"Expected probabilities of shape (N, C), C >= 2. Received: shape={values.shape}."
        )
    if not (values >= 0).all() or not (np.abs(values.sum(axis=1) - 1.0) <= SUM_TOLERANCE).all():
        raise ValueError(
            "Expected rows of probabilities that sum to one. "
            f"Received: values from {values.min():.4g} to {values.max():.4g}, "
            f"sums from {values.sum(axis=1).min():.4g} to {values.sum(axis=1).max():.4g}."
        )
    return values
