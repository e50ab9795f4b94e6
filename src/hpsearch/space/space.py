"""Check the bounds of a search, and convert hyperparameters to and from what a study stores.

A bound in conf is a plain value, which fixes the hyperparameter, or a mapping:

    {low: 1e-4, high: 1e-2, scale: log}   draws between `low` and `high`, both included
    {low: 16, high: 128, step: 16}        draws whole numbers, as `low` and `high` are whole
    {choices: [relu, elu]}                draws from a list

`scale` is `linear` (the default), `log` or `log_complement`; `step` needs the scale `linear`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from hpsearch.errors import SpaceError, did_you_mean
from hpsearch.space.bounds import COMPLEMENT, Choices, Fixed, Range, Rule, Value, is_number

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial


class _Limit(NamedTuple):
    """The values that hyperparameters of some names may have, whatever their bounds are."""

    names: re.Pattern[str]
    holds: Callable[[float], bool]
    rule: str


def _is_share(value: float) -> bool:
    return 0 <= value < 1


def _is_positive(value: float) -> bool:
    return value > 0


LIMITS = (
    _Limit(re.compile(r"(^|[/_])dropout(_rate)?(_?\d+)?$"), _is_share, "a rate in [0, 1)"),
    _Limit(re.compile(r"(^|[/_])momentum$"), _is_share, "a number in [0, 1)"),
    _Limit(re.compile(r"(^|[/_])learning_rate$"), _is_positive, "a number above 0"),
)


class Space:
    """The bounds of a search.

    A hyperparameter without a bound is searched as its HyperModel proposes.

    Args:
        bounds: A plain value or a mapping for each hyperparameter, as the top of this file says.

    Raises:
        SpaceError: A bound is impossible; the message names its key.
    """

    def __init__(self, bounds: Mapping[str, object]) -> None:
        self.rules: dict[str, Rule] = {}
        for name, bound in bounds.items():
            self.rules[name] = _rule(name, bound)

    def values(self, trial: FrozenTrial | BaseTrial) -> dict[str, Value]:
        """Return a trial's hyperparameters as users read them.

        That is `momentum` rather than `one_minus_momentum`. A value that the trial drew comes
        before a value that these bounds fix, as a study may have been started with other bounds.
        """
        values: dict[str, Value] = {}
        for name, rule in self.rules.items():
            if isinstance(rule, Fixed):
                values[name] = rule.value
        for name, value in trial.params.items():
            if name.startswith(COMPLEMENT):
                values[name.removeprefix(COMPLEMENT)] = 1 - value
            else:
                values[name] = value
        return values

    def params(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return hyperparameters as a study stores them, for a trial to enqueue.

        Fixed hyperparameters are left out.

        Raises:
            SpaceError: A value lies outside its bounds.
        """
        params: dict[str, Value] = {}
        for name, value in values.items():
            rule = self.rules.get(name)
            if rule is None:
                params[name] = value
            else:
                params.update(rule.stored(name, value))
        return params

    def grid(self, n: int) -> dict[str, list[Value]]:
        """Return the points of a grid, with names and values as Optuna's GridSampler needs them.

        Args:
            n: The number of points of each range, at least 1. They are evenly spaced on the scale.
                A range of whole numbers or steps may have fewer points. All choices are points.

        Raises:
            SpaceError: `n` is below 1.
        """
        if n < 1:
            raise SpaceError(
                f"Expected sampler.make.n_points to be at least 1 for each hyperparameter; "
                f"received {n}."
            )
        grid: dict[str, list[Value]] = {}
        for name, rule in self.rules.items():
            grid.update(rule.points(name, n))
        return grid

    def check_used(self, asked: Iterable[str]) -> None:
        """Raise SpaceError if the HyperModel did not ask for a hyperparameter that has a bound.

        Such a bound would have no effect.

        Args:
            asked: The names of all hyperparameters of the HyperModel, including inactive ones.
        """
        asked = list(asked)
        for name in self.rules:
            if name not in asked:
                raise SpaceError(
                    f"Expected space.bounds.{name} to name a hyperparameter of the architecture; "
                    f"it asks for no {name!r}.{did_you_mean(name, asked)}"
                )


def _rule(name: str, bound: object) -> Rule:
    key = f"space.bounds.{name}"
    if not isinstance(bound, Mapping):
        return Fixed(_value(key, name, bound))
    parts = ("low", "high", "scale", "step", "choices")
    for part in bound:
        if part not in parts:
            valid = did_you_mean(str(part), parts)
            raise SpaceError(
                f"Expected {key} to have low and high, or choices; received {part!r}.{valid}"
            )
    if "choices" in bound:
        return _choices(f"{key}.choices", name, bound["choices"])
    return _range(key, name, bound)


def _choices(key: str, name: str, values: object) -> Choices:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(
            f"Expected {key} to be a list of values, such as [0.9, 0.99]; received {values!r}."
        )
    choices = [_value(key, name, value) for value in values]
    if len(set(choices)) < len(choices):
        raise SpaceError(f"Expected {key} to differ from each other; received {choices}.")
    return Choices(tuple(choices))


def _range(key: str, name: str, bound: Mapping[str, object]) -> Range:
    low = _number(f"{key}.low", name, bound.get("low"))
    high = _number(f"{key}.high", name, bound.get("high"))
    if low > high:
        raise SpaceError(
            f"Expected {key}.low to be at most {key}.high; received low={low}, high={high}: swap "
            f"them."
        )
    scale = _scale(key, low, high, bound.get("scale", "linear"))
    step = _step(key, scale, bound.get("step"))
    integer = isinstance(low, int) and isinstance(high, int)
    if scale == "log_complement" or isinstance(step, float):
        integer = False
    return Range(low, high, scale, step, integer)


def _scale(key: str, low: float, high: float, scale: object) -> str:
    """Return a scale that suits a range."""
    scales = ("linear", "log", "log_complement")
    if scale not in scales:
        valid = did_you_mean(str(scale), scales)
        raise SpaceError(f"Expected {key}.scale to be a known scale; received {scale!r}.{valid}")
    if scale == "log" and low <= 0:
        raise SpaceError(f"Expected {key}.low to be above 0 on a log scale; received {low}.")
    if scale == "log_complement" and not 0 <= low <= high < 1:
        raise SpaceError(
            f"Expected {key} to lie in [0, 1) on scale log_complement; received low={low}, "
            f"high={high}."
        )
    return str(scale)


def _step(key: str, scale: str, step: object) -> float | None:
    """Return a step that suits a scale."""
    if step is None:
        return None
    if not is_number(step) or not 0 < step < math.inf:
        raise SpaceError(f"Expected {key}.step to be a number above 0; received {step!r}.")
    if scale != "linear":
        raise SpaceError(
            f"Expected {key}.step to go with scale linear; received scale {scale}: list choices "
            f"instead."
        )
    return step


def _number(key: str, name: str, value: object) -> float:
    number = _value(key, name, value)
    if not is_number(number):
        raise SpaceError(f"Expected {key} to be a number; received {value!r}.")
    return number


def _value(key: str, name: str, value: object) -> Value:
    """Return a value that a hyperparameter of this name may have."""
    if not isinstance(value, bool | int | float | str):
        raise SpaceError(
            f"Expected {key} to be a number, a word, or a mapping with low and high; received "
            f"{value!r}."
        )
    if isinstance(value, bool):
        return value
    if is_number(value) and not math.isfinite(value):
        raise SpaceError(f"Expected {key} to be a finite number; received {value}.")
    for limit in LIMITS:
        if not limit.names.search(name):
            continue
        if not is_number(value) or not limit.holds(value):
            raise SpaceError(f"Expected {key} to be {limit.rule}; received {value!r}.")
    return value
