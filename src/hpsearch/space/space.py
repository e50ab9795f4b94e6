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
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from hpsearch.errors import SpaceError, did_you_mean
from hpsearch.space.bounds import Choices, Fixed, Range, Rule, Value, as_read, is_number

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial


def broken_limit(name: str, value: Value) -> str | None:
    """Return the limit that a value breaks, in words, or None.

    Such a limit holds for all hyperparameters of some names, whatever their bounds are.
    """
    is_share = is_number(value) and 0 <= value < 1
    is_positive = is_number(value) and value > 0
    if re.search(r"(^|[/_])dropout(_rate)?(_?\d+)?$", name) and not is_share:
        return "a rate in [0, 1)"
    if re.search(r"(^|[/_])momentum$", name) and not is_share:
        return "a number in [0, 1)"
    if re.search(r"(^|[/_])learning_rate$", name) and not is_positive:
        return "a number above 0"
    return None


class Space:
    """The bounds of a search.

    A hyperparameter without a bound is searched as its HyperModel proposes.

    Args:
        bounds: A plain value or a mapping for each hyperparameter, as the top of this file says.

    Raises:
        SpaceError: A bound is impossible; the message names its key.
    """

    def __init__(self, bounds: Mapping[str, object]) -> None:
        self.rules = {name: _rule(name, bound) for name, bound in bounds.items()}

    def values(self, trial: FrozenTrial | BaseTrial) -> dict[str, Value]:
        """Return a trial's hyperparameters as users read them.

        That is `momentum` rather than `one_minus_momentum`. A value that the trial drew comes
        before a value that these bounds fix, as a study may have been started with other bounds.
        """
        values: dict[str, Value] = {}
        for name, rule in self.rules.items():
            if isinstance(rule, Fixed):
                values[name] = rule.value
        for stored, drawn in trial.params.items():
            name, value = as_read(stored, drawn)
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

    def check_used(self, asked: Collection[str]) -> None:
        """Raise SpaceError if the HyperModel did not ask for a hyperparameter that has a bound.

        Such a bound would have no effect.

        Args:
            asked: The names of all hyperparameters of the HyperModel, including inactive ones.
        """
        for name in self.rules:
            if name not in asked:
                raise SpaceError(
                    f"Expected space.bounds.{name} to name a hyperparameter of the architecture; "
                    f"it asks for no {name!r}.{did_you_mean(name, asked)}"
                )


def _rule(name: str, bound: object) -> Rule:
    key = f"space.bounds.{name}"
    if not isinstance(bound, Mapping):
        return Fixed(_value(name, key, bound))
    parts = ("low", "high", "scale", "step", "choices")
    for part in bound:
        if part not in parts:
            valid = did_you_mean(str(part), parts)
            raise SpaceError(
                f"Expected {key} to have low and high, or choices; received {part!r}.{valid}"
            )
    if "choices" in bound:
        return _choices(name, f"{key}.choices", bound["choices"])
    return _range(name, key, bound)


def _choices(name: str, key: str, values: object) -> Choices:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(
            f"Expected {key} to be a list of values, such as [0.9, 0.99]; received {values!r}."
        )
    choices = [_value(name, key, value) for value in values]
    if len(set(choices)) < len(choices):
        raise SpaceError(f"Expected {key} to differ from each other; received {choices}.")
    return Choices(tuple(choices))


def _range(name: str, key: str, bound: Mapping[str, object]) -> Range:
    low = _number(name, f"{key}.low", bound.get("low"))
    high = _number(name, f"{key}.high", bound.get("high"))
    if low > high:
        raise SpaceError(
            f"Expected {key}.low to be at most {key}.high; received low={low}, high={high}: swap "
            f"them."
        )
    wanted = bound.get("scale", "linear")
    scale = _scale(key, low, high, wanted)
    step = bound.get("step")
    if step is not None:
        if not is_number(step) or not 0 < step < math.inf:
            raise SpaceError(f"Expected {key}.step to be a number above 0; received {step!r}.")
        if scale != "linear":
            raise SpaceError(
                f"Expected {key}.step to go with scale linear; received scale {scale}: list "
                f"choices instead."
            )
    integer = isinstance(low, int) and isinstance(high, int)
    if scale == "log_complement" or isinstance(step, float):
        integer = False
    return Range(low, high, scale, step, integer)


def _scale(
    key: str,
    low: float,
    high: float,
    scale: object,
) -> str:
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
    return scale


def _number(name: str, key: str, value: object) -> float:
    number = _value(name, key, value)
    if not is_number(number):
        raise SpaceError(f"Expected {key} to be a number; received {value!r}.")
    return number


def _value(name: str, key: str, value: object) -> Value:
    """Return a value that a hyperparameter of this name may have."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, int | float | str):
        raise SpaceError(
            f"Expected {key} to be a number, a word, or a mapping with low and high; received "
            f"{value!r}."
        )
    if is_number(value) and not math.isfinite(value):
        raise SpaceError(f"Expected {key} to be a finite number; received {value}.")
    limit = broken_limit(name, value)
    if limit is not None:
        raise SpaceError(f"Expected {key} to be {limit}; received {value!r}.")
    return value
