"""What MC Dropout is asked for and what it answers (Gal & Ghahramani, 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.metrics import Floats

MASKS = ("example", "pass")


@dataclass(frozen=True)
class McDropout:
    """Settings of the stochastic passes.

    Attributes:
        n_samples: S, the number of passes.
        mask: "example": each image has its own masks. "pass": all images of a pass share one
            thinned network.
        seed: Root of all draws.
        batch_size: Images in a compiled call, at most; no number depends on it.
        memory_mb: Bound on features, activations and sums of a compiled call; makes batches smaller
            where it binds.
        from_logits: Whether the model's output wants a softmax.
    """

    n_samples: int
    mask: str
    seed: int
    batch_size: int
    memory_mb: float
    from_logits: bool

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            ConfigError: One of them is out of range.
        """
        if self.mask not in MASKS:
            raise ConfigError(
                f"There is no uncertainty.mask={self.mask}.{did_you_mean(str(self.mask), MASKS)}"
            )
        for name in ("n_samples", "batch_size", "memory_mb"):
            if getattr(self, name) <= 0:
                raise ConfigError(
                    f"uncertainty.{name} must be above 0, but is {getattr(self, name)}."
                )


@dataclass(frozen=True)
class McPrediction:
    """What S passes said about N examples of C classes, as sums: its size does not depend on S.

    Attributes:
        probs: Mean of the samples' distributions, (N, C).
        expected_entropy: Mean of their entropies, (N,), nats.
        variance: Variance of each class's probability over samples, (N, C).
        votes: Share of samples whose most probable class is this one, (N, C).
        label_probs: Mean probability of the label in each group of passes, (G, N), G = ceil(S /
            group_size).
        group_size: Passes in a group; the last group may have fewer.
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
        """Entropy of the mean distribution, (N,), nats: total uncertainty."""
        return metrics.predictive_entropy(self.probs)

    @property
    def mutual_information(self) -> Floats:
        """Predictive minus expected entropy, (N,), nats: epistemic uncertainty."""
        return metrics.information(self.predictive_entropy, self.expected_entropy)

    @property
    def variation_ratio(self) -> Floats:
        """Share of samples that vote against the most frequent vote, (N,)."""
        return np.asarray(1.0 - self.votes.max(axis=1))
