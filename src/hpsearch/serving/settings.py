"""The settings by which the best model is registered, which are checked before the search.

This module imports neither Keras nor MLflow, so that a mistake in a setting is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.evaluation.settings import MEASURES


@dataclass(frozen=True)
class Registration:
    """Settings for making a version of a trained model.

    Attributes:
        coverage: How often the served conformal sets hold the right class, in (0, 1).
        measure: Measure on validation data by which a challenger must be better to become the
            champion.
        level: Probability that an equally good challenger is called better and becomes the
            champion, in (0, 1).
        n_resamples: Number of resamples of this test, at least 1 / level.
        seed: Seed of the resampling.
    """

    coverage: float
    measure: str
    level: float
    n_resamples: int
    seed: int

    def __post_init__(self) -> None:
        """Raise ConfigError if a setting is out of range."""
        if self.measure not in MEASURES:
            hint = did_you_mean(self.measure, MEASURES)
            raise ConfigError(f"There is no registration.measure={self.measure}.{hint}")
        are_shares = 0 < self.coverage < 1 and 0 < self.level < 1
        if not are_shares or self.n_resamples * self.level < 1:
            raise ConfigError(
                "Expected coverage and level between 0 and 1 and at least 1 / level resamples, "
                f"received coverage={self.coverage}, level={self.level}, "
                f"n_resamples={self.n_resamples}."
            )
