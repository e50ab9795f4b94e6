"""The space of a search: bounds per hyperparameter, checked when a job starts; what a study stores
and back.

A bound in conf is a plain value, which fixes the hyperparameter, or a mapping:

    {low: 1e-4, high: 1e-2, scale: log}     scale: linear | log | log_complement
    {low: 16, high: 128, step: 16}          whole `low` and `high` draw whole numbers; `step` needs
    scale linear {choices: [relu, elu]}                  `choices`, where given, stand instead of
    `low` and `high`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hpsearch.errors import SpaceError, did_you_mean
from hpsearch.space.bounds import COMPLEMENT, Choices, Fixed, Range, Rule, Value, is_number

if TYPE_CHECKING:
    from optuna.trial import BaseTrial, FrozenTrial

SCALES = ("linear", "log", "log_complement")


class Limit(NamedTuple):
    """What a hyperparameter of this name may be, whatever its bounds say."""

    names: re.Pattern[str]
    holds: Callable[[float], bool]
    rule: str


LIMITS = (
    Limit(
        re.compile(r"(^|[/_])dropout(_rate)?(_?\d+)?$"), lambda x: 0 <= x < 1, "a rate in [0, 1)"
    ),
    Limit(re.compile(r"(^|[/_])momentum$"), lambda x: 0 <= x < 1, "a number in [0, 1)"),
    Limit(re.compile(r"(^|[/_])learning_rate$"), lambda x: x > 0, "a number above 0"),
)


class Space:
    """The bounds of a search; a hyperparameter without a bound is searched as its HyperModel
    proposes.

    Args:
        bounds: For each hyperparameter name a plain value or a mapping, as the top of this file
            says.

    Raises:
        SpaceError: A bound is impossible; the sentence names its key.
    """

    def __init__(self, bounds: Mapping[str, Any]) -> None:
        self.rules: dict[str, Rule] = {name: _rule(name, bound) for name, bound in bounds.items()}

    def values(self, trial: FrozenTrial | BaseTrial) -> dict[str, Value]:
        """Return a trial's hyperparameters as people read them: `momentum`, never
        `one_minus_momentum`.

        What the trial drew comes before what these bounds fix: a study may have been started with
        other bounds.
        """
        fixed = {name: rule.value for name, rule in self.rules.items() if isinstance(rule, Fixed)}
        drawn = {
            name.removeprefix(COMPLEMENT): 1 - value if name.startswith(COMPLEMENT) else value
            for name, value in trial.params.items()
        }
        return fixed | drawn

    def params(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the same as a study stores it, to enqueue a trial; what is fixed is left out.

        Raises:
            SpaceError: A value lies outside its bounds.
        """
        params: dict[str, Value] = {}
        for name, value in values.items():
            params |= self.rules[name].stored(name, value) if name in self.rules else {name: value}
        return params

    def grid(self, n: int) -> dict[str, list[Value]]:
        """Return `n` points of each bounded hyperparameter, named and valued as Optuna's
        GridSampler needs them.

        Points are evenly spaced on the scale; whole numbers and steps may give fewer; choices are
        all taken.
        """
        if n < 1:
            raise SpaceError(
                f"Expected sampler.make.n_points to be at least 1 for each hyperparameter; "
                f"received {n}."
            )
        grid: dict[str, list[Value]] = {}
        for name, rule in self.rules.items():
            grid |= rule.points(name, n)
        return grid

    def check_used(self, asked: Iterable[str]) -> None:
        """Refuse a bound for a hyperparameter that the HyperModel never asked for: it would change
        nothing.

        Args:
            asked: Names of all hyperparameters of the HyperModel, inactive ones too.
        """
        asked = list(asked)
        for name in self.rules:
            if name not in asked:
                raise SpaceError(
                    f"Expected space.bounds.{name} to name a hyperparameter of the architecture; "
                    f"it asks for no {name!r}.{did_you_mean(name, asked)}"
                )


def _rule(name: str, bound: Any) -> Rule:
    key = f"space.bounds.{name}"
    if not isinstance(bound, Mapping):
        return Fixed(_value(key, name, bound))
    for part in bound:
        if part not in {"low", "high", "scale", "step", "choices"}:
            valid = did_you_mean(str(part), ("low", "high", "scale", "step", "choices"))
            raise SpaceError(
                f"Expected {key} to have low and high, or choices; received {part!r}.{valid}"
            )
    if "choices" in bound:
        return _choices(key, name, bound["choices"])
    return _range(key, name, bound)


def _choices(key: str, name: str, values: Any) -> Choices:
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(
            f"Expected {key}.choices to be a list of values, such as [0.9, 0.99]; received "
            f"{values!r}."
        )
    choices = tuple(_value(f"{key}.choices", name, value) for value in values)
    if len(set(choices)) < len(choices):
        raise SpaceError(
            f"Expected {key}.choices to differ from each other; received {list(choices)}."
        )
    return Choices(choices)


def _range(key: str, name: str, bound: Mapping[str, Any]) -> Range:
    for end in ("low", "high"):
        if not is_number(_value(f"{key}.{end}", name, bound.get(end))):
            raise SpaceError(f"Expected {key}.{end} to be a number; received {bound[end]!r}.")
    low, high = bound["low"], bound["high"]
    scale, step = bound.get("scale", "linear"), bound.get("step")
    if low > high:
        raise SpaceError(
            f"Expected {key}.low to be at most {key}.high; received low={low}, high={high}: swap "
            f"them."
        )
    if scale not in SCALES:
        raise SpaceError(
            f"Expected {key}.scale to be a known scale; received "
            f"{scale!r}.{did_you_mean(scale, SCALES)}"
        )
    if scale == "log" and low <= 0:
        raise SpaceError(f"Expected {key}.low to be above 0 on a log scale; received {low}.")
    if scale == "log_complement" and not 0 <= low <= high < 1:
        raise SpaceError(
            f"Expected {key} to lie in [0, 1) on scale log_complement; received low={low}, "
            f"high={high}."
        )
    if step is not None:
        _check_step(key, scale, step)
    integer = (
        all(isinstance(part, int) for part in (low, high, step or 1)) and scale != "log_complement"
    )
    return Range(low, high, scale, step, integer)


def _check_step(key: str, scale: str, step: Any) -> None:
    if not is_number(step) or not 0 < step < math.inf:
        raise SpaceError(f"Expected {key}.step to be a number above 0; received {step!r}.")
    if scale != "linear":
        raise SpaceError(
            f"Expected {key}.step to go with scale linear; received scale {scale}: list choices "
            f"instead."
        )


def _value(key: str, name: str, value: Any) -> Value:
    """Return a value that a hyperparameter of this name may have."""
    if not isinstance(value, bool | int | float | str):
        raise SpaceError(
            f"Expected {key} to be a number, a word, or a mapping with low and high; received "
            f"{value!r}."
        )
    if is_number(value) and not math.isfinite(value):
        raise SpaceError(f"Expected {key} to be a finite number; received {value}.")
    for limit in LIMITS:
        if not limit.names.search(name) or isinstance(value, bool):
            continue
        if not is_number(value) or not limit.holds(value):
            raise SpaceError(f"Expected {key} to be {limit.rule}; received {value!r}.")
    checked: Value = value
    return checked
