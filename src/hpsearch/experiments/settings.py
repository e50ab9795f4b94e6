"""The settings of the learning rate test, which are checked before anything is trained.

This module imports no Keras, so that a mistake in a setting is answered at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpsearch.errors import ConfigError


@dataclass(frozen=True)
class RangeTest:
    """Settings of the test; see conf/range_test.

    Attributes:
        low: The first learning rate, above 0.
        high: The last learning rate, above `low`.
        n_points: The number of learning rates, evenly spaced on a log scale.
        steps_per_point: The number of training steps at each learning rate.
        margin: The upper bound divided by the largest stable learning rate.

    Raises:
        ConfigError: `low` does not lie between 0 and `high`.
    """

    low: float
    high: float
    n_points: int
    steps_per_point: int
    margin: float

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ConfigError(
                f"range_test.low must lie between 0 and range_test.high={self.high}, but is "
                f"{self.low}."
            )
