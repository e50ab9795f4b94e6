"""Settings and results of Monte Carlo Dropout (Gal & Ghahramani, 2016).

`McDropout` holds the settings of the stochastic passes. `McPrediction` holds their result, and
derives the uncertainties from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.metrics import Floats


@dataclass(frozen=True)
class McDropout:
    """Settings of the stochastic passes.

    Attributes:
        n_samples: S, the number of passes.
        shared_masks: Whether all examples of a pass share one mask. Each pass is then one thinned
            network, a function of its input; otherwise each example has masks of its own.
        seed: Root of all random draws.
        batch_size: The largest number of images in a compiled call. No result depends on it.
        memory_mb: Limit, in MB, on the features, activations and sums of a compiled call. Batches
            become smaller where they would exceed it.
        from_logits: Whether the model returns logits, which need a softmax. None counts as False
            here; a search replaces it by what the loss of the model says.
    """

    n_samples: int
    shared_masks: bool
    seed: int
    batch_size: int
    memory_mb: float
    from_logits: bool | None

    def __post_init__(self) -> None:
        """Raise ConfigError if a setting is out of range."""
        for name in ("n_samples", "batch_size", "memory_mb"):
            value = getattr(self, name)
            if value <= 0:
                raise ConfigError(f"uncertainty.{name} must be above 0, but is {value}.")


@dataclass(frozen=True)
class McPrediction:
    """Result of S passes over N examples of C classes.

    It holds sums over the passes rather than the passes, so its size does not depend on S.

    Attributes:
        probs: Mean of the distributions of the passes, (N, C).
        expected_entropy: Mean of their entropies, (N,), in nats: aleatoric uncertainty.
        variance: Variance of the probability of each class over the passes, (N, C).
        votes: Share of passes whose most probable class is this class, (N, C).
        label_probs: Mean probability of the label in each group of passes, (G, N), where
            G = ceil(S / group_size).
        group_size: Number of passes in a group; the last group may have fewer.
        n_samples: S.
    """

    probs: Floats
    expected_entropy: Floats
    variance: Floats
    votes: Floats
    label_probs: Floats
    group_size: int
    n_samples: int

    @property
    def predictive_entropy(self) -> Floats:
        """Entropy of the mean distribution, (N,), in nats: total uncertainty."""
        return metrics.predictive_entropy(self.probs)

    @property
    def mutual_information(self) -> Floats:
        """Predictive minus expected entropy, (N,), in nats: epistemic uncertainty."""
        difference = self.predictive_entropy - self.expected_entropy
        return np.maximum(difference, 0.0)

    @property
    def variation_ratio(self) -> Floats:
        """Share of passes that vote against the most frequent vote, (N,), in [0, 1 - 1 / C]."""
        return np.asarray(1.0 - self.votes.max(axis=1))
