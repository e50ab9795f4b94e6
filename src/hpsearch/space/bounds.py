"""The checked bound of one hyperparameter: `Fixed`, `Choices` or `Range`.

Each kind of bound can draw a value from an Optuna trial, convert a value to what a study stores,
and return the points of a grid.

The scale `log_complement` is uniform in log(1 - x). On it 0.9, 0.99 and 0.999 are equally far
apart, as their effects are: the memory of a momentum is 1 / (1 - momentum) steps. Optuna has no
such scale. A study therefore stores `one_minus_momentum` on a log scale, while everything that
users read shows `momentum`.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar, TypeGuard

from hpsearch.errors import SpaceError

if TYPE_CHECKING:
    from keras_tuner import HyperParameters
    from optuna.trial import BaseTrial

Value = bool | int | float | str


@dataclass(frozen=True)
class Fixed:
    """A hyperparameter that is not drawn."""

    value: Value

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the value; the trial draws nothing."""
        return self.value

    def ask(self, hp: HyperParameters, name: str) -> Value:
        """Ask `hp` for a hyperparameter that only this bound proposes, and return its value."""
        value: Value = hp.Fixed(name, self.value)
        return value

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return nothing: a study does not store a value that it does not draw."""
        return {}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return nothing: a grid does not vary the value."""
        return {}


@dataclass(frozen=True)
class Choices:
    """A hyperparameter drawn from a list of values without an order."""

    values: tuple[Value, ...]

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the value that the trial draws."""
        choice: Value = trial.suggest_categorical(name, self.values)  # type: ignore[assignment]
        return choice

    def ask(self, hp: HyperParameters, name: str) -> Value:
        """Ask `hp` for a hyperparameter that only this bound proposes, and return its value."""
        value: Value = hp.Choice(name, list(self.values))
        return value

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return the name and the value that Optuna stores.

        Raises:
            SpaceError: The value is not one of the choices.
        """
        if value not in self.values:
            raise SpaceError(
                f"Expected {name} to be one of {list(self.values)}; received {value!r}."
            )
        return {name: value}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return all choices, whatever `n` is."""
        return {name: list(self.values)}


@dataclass(frozen=True)
class Range:
    """A hyperparameter drawn between `low` and `high`, both included.

    Attributes:
        low: The smallest value.
        high: The largest value.
        scale: `linear`, `log` or `log_complement`.
        step: The distance between two values of a linear scale; None draws any value.
        integer: Whether whole numbers are drawn.
    """

    COMPLEMENT: ClassVar[str] = "one_minus_"  # how names begin that store one minus the value

    low: float
    high: float
    scale: str = "linear"
    step: float | None = None
    integer: bool = False

    @property
    def _is_complement(self) -> bool:
        return self.scale == "log_complement"

    def _stored_name(self, name: str) -> str:
        if self._is_complement:
            return self.COMPLEMENT + name
        return name

    def _stored_ends(self) -> tuple[float, float]:
        """Return the smallest and the largest value that a study stores.

        With a step the largest is the last value at or below `high`, as Optuna warns of any other.
        """
        if self._is_complement:
            return 1 - self.high, 1 - self.low
        if self.step is None:
            return self.low, self.high
        width = _decimal(self.high) - _decimal(self.low)
        n_steps = int(width // _decimal(self.step))
        return self.low, self._after(n_steps)

    def _after(self, n_steps: int) -> float:
        """Return the value that lies `n_steps` above `low`.

        As in Optuna, decimals are added, so that 3 steps of 0.1 are 0.3.
        """
        step = _decimal(self.step or 0)
        value = _decimal(self.low) + n_steps * step
        if self.integer:
            return int(value)
        return float(value)

    def draw(self, trial: BaseTrial, name: str) -> Value:
        """Return the number that the trial draws, as users read it."""
        low, high = self._stored_ends()
        log = self.scale != "linear"
        if self.integer:
            step = int(self.step or 1)
            return trial.suggest_int(
                name,
                int(low),
                int(high),
                step=step,
                log=log,
            )
        stored_name = self._stored_name(name)
        drawn = trial.suggest_float(
            stored_name,
            low,
            high,
            step=self.step,
            log=log,
        )
        if self._is_complement:
            return _clipped(1 - drawn, self.low, self.high)
        return drawn

    def ask(self, hp: HyperParameters, name: str) -> Value:
        """Ask `hp` for a hyperparameter that only this bound proposes, and return its value."""
        draw = hp.Float
        if self.integer:
            draw = hp.Int
        sampling = "linear"
        if self.scale == "log":
            sampling = "log"
        value: Value = draw(
            name,
            self.low,
            self.high,
            step=self.step,
            sampling=sampling,
        )
        return value

    def stored(self, name: str, value: Value) -> dict[str, Value]:
        """Return the name and the value that Optuna stores for a value as users read it.

        Raises:
            SpaceError: The value is not a number between `low` and `high`.
        """
        if not is_number(value) or not self.low <= value <= self.high:
            raise SpaceError(
                f"Expected {name} to lie between {self.low} and {self.high}; received {value!r}."
            )
        if self._is_complement:
            low, high = self._stored_ends()
            value = _clipped(1 - float(value), low, high)
        return {self._stored_name(name): value}

    def points(self, name: str, n: int) -> dict[str, list[Value]]:
        """Return at most `n` distinct points from end to end, evenly spaced on the scale.

        A single point is the middle.
        """
        fractions = [0.5]
        if n > 1:
            fractions = [i / (n - 1) for i in range(n)]
        points = map(self._point, fractions)
        distinct = dict.fromkeys(points)
        return {self._stored_name(name): list(distinct)}

    def _point(self, fraction: float) -> float:
        low, high = self._stored_ends()
        if self.step is not None:
            n_steps = round((high - low) / self.step)
            return self._after(round(fraction * n_steps))
        if self.scale == "linear":
            point = low + fraction * (high - low)
        else:
            point = low * (high / low) ** fraction
        if self.integer:
            return round(point)
        return _clipped(point, low, high)


Rule = Fixed | Choices | Range


def as_read(stored: str, value: Value) -> tuple[str, Value]:
    """Return a hyperparameter's name and value as users read them, from what a study stores."""
    if not stored.startswith(Range.COMPLEMENT):
        return stored, value
    name = stored.removeprefix(Range.COMPLEMENT)
    return name, 1 - float(value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value is an integer or a float; a bool is neither."""
    if isinstance(value, bool):
        return False
    return isinstance(value, int | float)


def _clipped(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _decimal(value: float) -> Decimal:
    return Decimal(str(value))
