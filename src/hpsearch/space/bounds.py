"""What a bound of a hyperparameter is once it has been checked: Fixed, Choices or Range.

Each knows three things: how to draw itself from an Optuna trial, what a study stores for a value
that people read, and the points of a grid. They differ on the scale `log_complement`, uniform in
log(1 - x): 0.9, 0.99 and 0.999 are as far apart as they are in effect, for the memory of a momentum
is 1 / (1 - momentum) steps. Optuna knows no such scale, so a study stores `one_minus_momentum` on a
log scale, and everything that people read says `momentum`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, TypeGuard

from hpsearch.errors import SpaceError

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Value = bool | int | float | str

COMPLEMENT = "one_minus_"


@dataclass(frozen=True)
class Fixed:
    """A hyperparameter that is not drawn."""

    value: Value

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the value; the trial is not asked."""
        return self.value

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return nothing: a study does not store what it does not draw."""
        return {}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return nothing: a grid does not vary it."""
        return {}


@dataclass(frozen=True)
class Choices:
    """A hyperparameter drawn from a list of values that have no order."""

    values: tuple[Value, ...]

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the trial's choice."""
        choice: Value = trial.suggest_categorical(name, self.values)  # type: ignore[assignment]
        return choice

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return the name and value that Optuna stores."""
        if value not in self.values:
            raise SpaceError(
                f"Expected {name} to be one of {list(self.values)}; received {value!r}."
            )
        return {name: value}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return every choice, however many points were asked for."""
        return {name: list(self.values)}


@dataclass(frozen=True)
class Range:
    """A hyperparameter drawn between `low` and `high`, both included.

    `step` is the distance between two values of a linear scale; `integer` draws whole numbers.
    """

    low: float
    high: float
    scale: str = "linear"
    step: float | None = None
    integer: bool = False
    complement: bool = field(init=False)
    store_low: float = field(init=False)
    store_high: float = field(init=False)

    def __post_init__(self) -> None:
        complement = self.scale == "log_complement"
        object.__setattr__(self, "complement", complement)
        object.__setattr__(self, "store_low", 1 - self.high if complement else self.low)
        object.__setattr__(self, "store_high", 1 - self.low if complement else self._last())

    def _last(self) -> float:
        """Return the last value at or below `high` that the step reaches; Optuna warns of any
        other.
        """
        if self.step is None:
            return self.high
        return self._after(int((_decimal(self.high) - _decimal(self.low)) // _decimal(self.step)))

    def _after(self, n_steps: int) -> float:
        """Return the value so many steps above `low`, in decimals as Optuna does: 3 steps of 0.1
        are 0.3.
        """
        value = _decimal(self.low) + n_steps * _decimal(self.step or 0)
        return int(value) if self.integer else float(value)

    def _name(self, name: str) -> str:
        return COMPLEMENT + name if self.complement else name

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the trial's number, as people read it."""
        log = self.scale != "linear"
        if self.integer:
            step = 1 if self.step is None else int(self.step)
            return trial.suggest_int(name, int(self.low), int(self.store_high), step=step, log=log)
        drawn = trial.suggest_float(
            self._name(name), self.store_low, self.store_high, step=self.step, log=log
        )
        return min(max(1 - drawn, self.low), self.high) if self.complement else drawn

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return the name and value that Optuna stores for the value that people read."""
        if not is_number(value) or not self.low <= float(value) <= self.high:
            raise SpaceError(
                f"Expected {name} to lie between {self.low} and {self.high}; received {value!r}."
            )
        if not self.complement:
            return {name: value}
        return {self._name(name): min(max(1 - float(value), self.store_low), self.store_high)}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return at most `n` distinct points, evenly spaced on the scale, from end to end; one
        point is the middle.
        """
        fractions = [i / (n - 1) for i in range(n)] if n > 1 else [0.5]
        return {
            self._name(name): list(dict.fromkeys(self._point(fraction) for fraction in fractions))
        }

    def _point(self, fraction: float) -> float:
        low, high = self.store_low, self.store_high
        if self.step is not None:
            n_steps = round((high - low) / self.step)
            return self._after(round(fraction * n_steps))
        point = (
            low + fraction * (high - low)
            if self.scale == "linear"
            else low * (high / low) ** fraction
        )
        return round(point) if self.integer else min(max(point, low), high)


Rule = Fixed | Choices | Range


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is an integer or a float; a bool is neither."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))
