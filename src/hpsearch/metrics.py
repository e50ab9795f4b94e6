"""Measures of predicted class probabilities: accuracy, calibration and uncertainty.

Shapes: S samples (stochastic passes), N examples, C classes. `probs` is (N, C), `samples` is
(S, N, C), and `labels` is (N,) with whole numbers from 0 to C - 1. Entropies and log-likelihoods
are in nats, and everything is computed in float64 with NumPy. A function that takes `probs`,
`samples` or `labels` raises ValueError where they have another shape, or where the probabilities
of an example do not sum to one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64] | NDArray[np.int32]
Flags = NDArray[np.bool_]

SUM_TOLERANCE = 1e-3  # the sum of a float16 model's probabilities differs from one by this much


def nll(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the negative log-likelihood: the mean over examples of -log p(label), in nats.

    For MC Dropout, `probs` is the mean of the samples. The mean of the NLLs of the samples is
    another, larger number.
    """
    values = example_nll(probs, labels)
    return float(values.mean())


def example_nll(probs: ArrayLike, labels: ArrayLike) -> Floats:
    """Return -log p(label) of each example, (N,), in nats."""
    values, truth = _checked(probs, labels)
    rows = np.arange(len(truth))
    return -log(values[rows, truth])


def log(probs: Floats) -> Floats:
    """Return the logarithm of probabilities, clipped at 2.2e-16 as scikit-learn clips them."""
    smallest = np.finfo(np.float64).eps
    return np.log(np.maximum(probs, smallest))


def brier_score(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the multiclass Brier score, summed over classes, in [0, 2] (Brier, 1950)."""
    values = example_brier(probs, labels)
    return float(values.mean())


def example_brier(probs: ArrayLike, labels: ArrayLike) -> Floats:
    """Return sum_c (p_c - [c = label])^2 of each example, (N,), in [0, 2]."""
    values, truth = _checked(probs, labels)
    rows = np.arange(len(truth))
    errors = values.copy()
    errors[rows, truth] -= 1.0
    squares = np.square(errors)
    return np.asarray(squares.sum(axis=1))


def accuracy(probs: ArrayLike, labels: ArrayLike) -> float:
    """Return the share of examples whose most probable class is the label, in [0, 1]."""
    right = correct(probs, labels)
    return float(right.mean())


def correct(probs: ArrayLike, labels: ArrayLike) -> Flags:
    """Return whether the most probable class is the label, for each example, (N,)."""
    values, truth = _checked(probs, labels)
    predicted = values.argmax(axis=1)
    return np.asarray(predicted == truth)


@dataclass(frozen=True)
class Reliability:
    """Confidence and accuracy of examples in B bins.

    Attributes:
        count: Number of examples in each bin, (B,).
        confidence: Mean probability of the predicted class in each bin, (B,); 0 in an empty bin.
        accuracy: Share of right predictions in each bin, (B,); 0 in an empty bin.
    """

    count: Ints
    confidence: Floats
    accuracy: Floats
    N_BINS: ClassVar[int] = 15

    @staticmethod
    def equal_width(confidence: ArrayLike, n_bins: int = N_BINS) -> Ints:
        """Return the number i from 0 on of the bin (i / n_bins, (i + 1) / n_bins] of each example.

        Args:
            confidence: Probability of the predicted class, (N,), in [0, 1]; 0 is in bin 0.
            n_bins: Number of bins.
        """
        conf = np.asarray(confidence, np.float64)
        upper_edge = np.ceil(conf * n_bins)
        numbers = upper_edge.astype(np.int64) - 1
        return np.asarray(np.clip(numbers, 0, n_bins - 1))

    @staticmethod
    def equal_mass(confidence: ArrayLike, n_bins: int = N_BINS) -> Ints:
        """Return the number from 0 on of the bin of each example, in bins of equally many examples.

        The counts of the bins differ by one at most. Where several examples have the same
        confidence, all are in the bin of the first of them, so that their order changes nothing; a
        bin may then hold more examples, and others fewer or none.

        Args:
            confidence: Probability of the predicted class, (N,).
            n_bins: Number of bins.
        """
        conf = np.asarray(confidence, np.float64)
        ranks = np.searchsorted(np.sort(conf), conf)
        parts = np.array_split(np.arange(len(conf)), n_bins)
        sizes = [len(part) for part in parts]
        of_ranks = np.repeat(np.arange(n_bins), sizes)
        return np.asarray(of_ranks[ranks])

    @classmethod
    def of(
        cls,
        confidence: ArrayLike,
        right: ArrayLike,
        n_bins: int = N_BINS,
    ) -> Reliability:
        """Return confidence and accuracy in the bins of `equal_width`."""
        return cls.in_bins(cls.equal_width(confidence, n_bins), confidence, right, n_bins)

    @classmethod
    def in_bins(
        cls,
        bins: Ints,
        confidence: ArrayLike,
        right: ArrayLike,
        n_bins: int = N_BINS,
    ) -> Reliability:
        """Return confidence and accuracy in bins.

        Args:
            bins: The number of each example's bin, (N,), as `equal_width` or `equal_mass` gives it.
            confidence: Probability of the predicted class, (N,), in [0, 1].
            right: Whether the prediction is right, (N,).
            n_bins: Number of bins.
        """
        conf = np.asarray(confidence, np.float64)
        hits = np.asarray(right, np.float64)
        count = np.bincount(bins, minlength=n_bins)
        filled = np.maximum(count, 1)
        sum_conf = np.bincount(bins, conf, n_bins)
        sum_hits = np.bincount(bins, hits, n_bins)
        return cls(count, sum_conf / filled, sum_hits / filled)

    @property
    def ece(self) -> float:
        """Mean of |accuracy - confidence| over the bins, weighted by their counts."""
        gaps = np.abs(self.accuracy - self.confidence)
        weighted = self.count * gaps
        mean = weighted.sum() / self.count.sum()
        return float(mean)


def ece(
    probs: ArrayLike,
    labels: ArrayLike,
    n_bins: int = Reliability.N_BINS,
) -> float:
    """Return the expected calibration error (ECE), in [0, 1] (Guo et al., 2017).

    The confidence is the probability of the predicted class, in `n_bins` bins of equal width.
    """
    confidence, right = _answers(probs, labels)
    return Reliability.of(confidence, right, n_bins).ece


def adaptive_ece(
    probs: ArrayLike,
    labels: ArrayLike,
    n_bins: int = Reliability.N_BINS,
) -> float:
    """Return the expected calibration error in bins of equal mass, in [0, 1].

    Each of the `n_bins` bins holds equally many examples, as `Reliability.equal_mass` says. Most
    answers of an accurate model lie in the last bin of equal width, where too high and too low
    confidences cancel out; bins of equal mass tell them apart.

    References: Nguyen and O'Connor, "Posterior Calibration and Exploratory Analysis for Natural
    Language Processing Models", 2015; Nixon et al., "Measuring Calibration in Deep Learning", 2019.
    """
    confidence, right = _answers(probs, labels)
    bins = Reliability.equal_mass(confidence, n_bins)
    return Reliability.in_bins(bins, confidence, right, n_bins).ece


def _answers(probs: ArrayLike, labels: ArrayLike) -> tuple[Floats, Flags]:
    """Return the probability of each predicted class, and whether it is right, (N,) each."""
    values, truth = _checked(probs, labels)
    right = values.argmax(axis=1) == truth
    return values.max(axis=1), np.asarray(right)


def _entropy(distributions: ArrayLike) -> Floats:
    """Return -sum_c p_c log p_c over the last axis, in nats, in [0, log C].

    Args:
        distributions: Class probabilities, (..., C). They are not checked.
    """
    p = np.asarray(distributions, np.float64)
    positive = np.where(p > 0, p, 1.0)  # 0 log 0 is 0
    terms = p * np.log(positive)
    return np.asarray(-terms.sum(axis=-1))


def predictive_entropy(probs: ArrayLike) -> Floats:
    """Return the entropy of each distribution, (N,), in [0, log C]: total uncertainty.

    For MC Dropout, `probs` is the mean of the samples.
    """
    return _entropy(_distributions(probs))


def expected_entropy(samples: ArrayLike) -> Floats:
    """Return the mean of the samples' entropies, (N,), in [0, log C]: aleatoric uncertainty."""
    entropies = _entropy(_samples(samples))
    return np.asarray(entropies.mean(axis=0))


def mutual_information(samples: ArrayLike) -> Floats:
    """Return predictive minus expected entropy, (N,), in [0, log C]: epistemic uncertainty.

    This is the score of BALD (Houlsby et al., 2011). By Jensen's inequality it is never negative,
    except for rounding, which is cut off.
    """
    values = _samples(samples)
    total = _entropy(values.mean(axis=0))
    aleatoric = expected_entropy(samples)
    return np.maximum(total - aleatoric, 0.0)


def variation_ratio(samples: ArrayLike) -> Floats:
    """Return the share of samples that vote against the most frequent vote, (N,).

    The vote of a sample is its most probable class. The share is in [0, 1 - 1 / C].
    """
    values = _samples(samples)
    n_samples, _, n_classes = values.shape
    predicted = values.argmax(axis=2)
    one_hot = np.eye(n_classes)[predicted]
    votes = one_hot.sum(axis=0)
    most = votes.max(axis=1)
    return np.asarray(1.0 - most / n_samples)


def risk_coverage(uncertainty: ArrayLike, right: ArrayLike) -> tuple[Floats, Floats]:
    """Return the coverages k / N and the risks, (N,) each, for k = 1 to N.

    The risk is the error rate among the k most certain examples (Geifman & El-Yaniv, 2017).
    Equally uncertain examples have no order, so each of them counts as their mean error. The curve
    is therefore the expectation over all ways of breaking ties.

    Args:
        uncertainty: A number for each example, (N,), that is larger where it is less certain.
        right: Whether the prediction is right, (N,).

    Raises:
        ValueError: The two are not vectors of one length of at least 1.
    """
    doubt = np.asarray(uncertainty, np.float64)
    wrong = 1.0 - np.asarray(right, np.float64)
    are_vectors = doubt.ndim == 1 and doubt.shape == wrong.shape
    if not are_vectors or not doubt.size:
        raise ValueError(
            f"Expected two equally long vectors. Received: shapes={doubt.shape}, {wrong.shape}."
        )
    _, group = np.unique(doubt, return_inverse=True)
    sizes = np.bincount(group)
    shared = np.bincount(group, weights=wrong) / sizes
    errors = shared[np.sort(group)]
    n_examples = len(doubt)
    k = np.arange(1, n_examples + 1)
    risks = np.cumsum(errors) / k
    return k / n_examples, risks


def aurc(uncertainty: ArrayLike, right: ArrayLike) -> float:
    """Return the area under the risk-coverage curve, in [0, 1]; lower is better.

    This is the mean of the risks of `risk_coverage` over all coverages.
    """
    _, risks = risk_coverage(uncertainty, right)
    return float(risks.mean())


def risk_at_coverage(
    uncertainty: ArrayLike,
    right: ArrayLike,
    coverage: float = 0.8,
) -> float:
    """Return the error rate among the most certain share of the examples.

    Args:
        uncertainty: A number for each example, (N,), that is larger where it is less certain.
        right: Whether the prediction is right, (N,).
        coverage: The share, in (0, 1]; it is rounded up to a whole example.

    Raises:
        ValueError: The coverage is out of range.
    """
    if not 0 < coverage <= 1:
        raise ValueError(f"Expected a coverage in (0, 1]. Received: coverage={coverage}.")
    _, risks = risk_coverage(uncertainty, right)
    n_covered = math.ceil(coverage * len(risks) - 1e-9)  # 1e-9: not one more through rounding
    return float(risks[n_covered - 1])


def summary(probs: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Return the measures of a set of predictions by their names in MLflow."""
    values = _distributions(probs)
    doubt = 1.0 - values.max(axis=1)
    right = correct(values, labels)
    entropies = predictive_entropy(values)
    return {
        "accuracy": accuracy(values, labels),
        "nll": nll(values, labels),
        "brier_score": brier_score(values, labels),
        "ece": ece(values, labels),
        "predictive_entropy": float(entropies.mean()),
        "aurc": aurc(doubt, right),
        "risk_at_80": risk_at_coverage(doubt, right, 0.8),
    }


def _checked(probs: ArrayLike, labels: ArrayLike) -> tuple[Floats, Ints]:
    """Return probabilities and labels as arrays, or raise ValueError."""
    values = _distributions(probs)
    n_examples, n_classes = values.shape
    truth = np.asarray(labels)
    is_whole = np.issubdtype(truth.dtype, np.integer)
    if truth.shape != (n_examples,) or not is_whole:
        raise ValueError(
            f"Expected {n_examples} whole-number labels. Received: "
            f"labels={truth.dtype}{truth.shape}."
        )
    lowest = truth.min()
    highest = truth.max()
    if lowest < 0 or highest >= n_classes:
        raise ValueError(
            f"Expected labels from 0 to {n_classes - 1}. Received: labels from {lowest} "
            f"to {highest}."
        )
    return values, truth.astype(np.int64)


def _samples(samples: ArrayLike) -> Floats:
    """Return samples as an array (S, N, C), or raise ValueError."""
    values = np.asarray(samples, np.float64)
    if values.ndim != 3:
        raise ValueError(f"Expected samples of shape (S, N, C). Received: shape={values.shape}.")
    n_classes = values.shape[2]
    flat = _distributions(values.reshape(-1, n_classes))
    return flat.reshape(values.shape)


def _distributions(probs: ArrayLike) -> Floats:
    """Return probabilities as an array (N, C), or raise ValueError."""
    values = np.asarray(probs, np.float64)
    is_matrix = values.ndim == 2 and len(values) > 0
    if not is_matrix or values.shape[1] < 2:
        raise ValueError(
            f"Expected probabilities of shape (N, C), C >= 2. Received: shape={values.shape}."
        )
    sums = values.sum(axis=1)
    are_positive = (values >= 0).all()  # false for NaN
    gaps = np.abs(sums - 1.0)
    sum_to_one = (gaps <= SUM_TOLERANCE).all()
    if not are_positive or not sum_to_one:
        raise ValueError(
            "Expected rows of probabilities that sum to one. "
            f"Received: values from {values.min():.4g} to {values.max():.4g}, "
            f"sums from {sums.min():.4g} to {sums.max():.4g}."
        )
    return values
