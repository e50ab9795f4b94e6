"""The hyperparameters that a study has drawn, each as an axis: where on its scale a value lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from hpsearch.spaces.bounds import COMPLEMENT, Value


@dataclass(frozen=True)
class Dimension:
    """A hyperparameter with the bounds from which the latest trial drew it.

    Attributes:
        name: As people read it: `momentum`, never `one_minus_momentum`.
        low: Its lowest value; of `choices`, 0.
        high: Its highest value; of `choices`, the place of the last one.
        scale: linear, log or log_complement.
        choices: The values of one that has no order.
    """

    name: str
    low: float
    high: float
    scale: str = "linear"
    choices: tuple[Value, ...] = ()

    @classmethod
    def of(cls, stored: str, drawn_from: BaseDistribution) -> Dimension:
        """Return the dimension that a study stores under a name."""
        if isinstance(drawn_from, CategoricalDistribution):
            choices: tuple[Value, ...] = tuple(drawn_from.choices)  # type: ignore[arg-type]
            return cls(stored, 0, len(choices) - 1, choices=choices)
        low, high, log = drawn_from.low, drawn_from.high, drawn_from.log  # type: ignore[attr-defined]
        if stored.startswith(COMPLEMENT):
            return cls(stored.removeprefix(COMPLEMENT), 1 - high, 1 - low, "log_complement")
        return cls(stored, low, high, "log" if log else "linear")

    def position(self, value: Value) -> float:
        """Return where a value lies: 0 at `low`, 1 at `high`, outside where older bounds were wider."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = self.choices.index(value) if self.choices and value in self.choices else self._scaled(value)
        return (at - low) / (high - low) if high > low else 0.5

    def _scaled(self, value: Value) -> float:
        number = float(value) if not isinstance(value, str) else 0.0
        if self.scale == "log":
            return math.log(number)
        return -math.log(1 - number) if self.scale == "log_complement" else number

    def value(self, position: float) -> float:
        """Return the number at a position; the inverse of `position` for what has an order."""
        low, high = self._scaled(self.low), self._scaled(self.high)
        at = low + position * (high - low)
        if self.scale == "log":
            return math.exp(at)
        return 1 - math.exp(-at) if self.scale == "log_complement" else at

    def __str__(self) -> str:
        if self.choices:
            return f"{self.name} of {', '.join(map(str, self.choices))}"
        scale = "" if self.scale == "linear" else f" ({self.scale})"
        return f"{self.name} {self.shown(self.low)} to {self.shown(self.high)}{scale}"

    def rounded(self, number: float) -> float:
        """Return a number in two digits, as a person would set it as a bound."""
        if self.scale == "log_complement":
            return float(f"{1 - float(f'{1 - number:.1g}'):.6g}")
        short = float(f"{number:.2g}")
        return round(short) if isinstance(self.low, int) else short

    def shown(self, value: Value) -> str:
        """Return a value as people read it."""
        return f"{value:.3g}" if isinstance(value, float) else str(value)


def dimensions(trials: Sequence[FrozenTrial]) -> list[Dimension]:
    """Return the hyperparameters that varied, the earliest asked for first."""
    latest: dict[str, BaseDistribution] = {}
    for trial in trials:
        latest |= trial.distributions
    return [Dimension.of(name, drawn_from) for name, drawn_from in latest.items() if not drawn_from.single()]
