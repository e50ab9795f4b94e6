"""Let Optuna search any KerasTuner HyperModel.

`OptunaHyperParameters` replaces KerasTuner's `HyperParameters` in a build. It draws each
hyperparameter that the HyperModel asks for from an Optuna trial. A bound of the search comes before
the range that the HyperModel proposes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

from hpsearch.errors import SpaceError
from hpsearch.space.bounds import Choices, Fixed, Range, Rule, Value, is_number
from hpsearch.space.space import Space

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class OptunaHyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]
    """Hyperparameters for `HyperModel.build` that an Optuna trial draws.

    Each `hp.Float(...)` is drawn within the bounds of the space. An inactive hyperparameter of a
    conditional scope is None and is not drawn. After a build, `values` holds all active
    hyperparameters as users read them, including fixed ones, and `asked` holds every name that the
    HyperModel used.

    Args:
        trial: The trial that draws the values.
        space: The bounds, which come before what the HyperModel proposes.
    """

    def __init__(self, trial: BaseTrial, space: Space) -> None:
        super().__init__()
        self._trial = trial
        self._bounds = space

    @property
    def asked(self) -> list[str]:
        """Names of all hyperparameters that the HyperModel asked for, in the order of asking.

        Inactive hyperparameters are included.
        """
        return list(self._hps)

    def _retrieve(self, hp: kinds.HyperParameter) -> Value | None:
        # KerasTuner keeps a value that is already there. A name is therefore drawn once, at its
        # first active use.
        if hp.name not in self.values and self.is_active(hp):
            rule = self._rule(hp)
            self.values[hp.name] = rule.draw(self._trial, hp.name)
        value: Value | None = super()._retrieve(hp)
        return value

    def _rule(self, hp: kinds.HyperParameter) -> Rule:
        prefix = Range.COMPLEMENT
        if hp.name.startswith(prefix):
            raise SpaceError(
                f"Expected no hyperparameter named {prefix}...; the architecture has {hp.name!r}."
            )
        bound = self._bounds.rules.get(hp.name)
        if bound is None:
            return _proposal(hp)
        return _fitted(bound, hp)


def _proposal(hp: kinds.HyperParameter) -> Rule:
    """Return the bound that the HyperModel itself proposes for a hyperparameter.

    Optuna lacks two features of KerasTuner. Steps on a log scale, which multiply, become choices.
    The sampling `reverse_log` becomes linear; a bound with the scale `log_complement` serves its
    purpose better.
    """
    if isinstance(hp, kinds.Fixed):
        return Fixed(hp.value)
    if isinstance(hp, kinds.Boolean):
        return Choices((False, True))
    if isinstance(hp, kinds.Choice):
        return Choices(tuple(hp.values))
    if hp.sampling != "linear" and hp.step is not None:
        return Choices(tuple(hp.values))
    scale = "linear"
    if hp.sampling == "log":
        scale = "log"
    integer = isinstance(hp, kinds.Int)
    return Range(
        hp.min_value,
        hp.max_value,
        scale,
        hp.step,
        integer,
    )


def _fitted(bound: Rule, hp: kinds.HyperParameter) -> Rule:
    """Return a bound with values of the type that a hyperparameter draws.

    `hp.Int` draws whole numbers, and `hp.Float` draws floats.

    Raises:
        SpaceError: The bound holds values that the HyperModel cannot use.
    """
    if isinstance(bound, Fixed):
        return Fixed(_fitted_value(bound.value, hp))
    if isinstance(bound, Choices):
        values = [_fitted_value(value, hp) for value in bound.values]
        return Choices(tuple(values))
    kind = _kind(hp)
    if kind is int and bound.integer:
        return bound
    if kind is float:
        low = float(bound.low)
        high = float(bound.high)
        return replace(
            bound,
            low=low,
            high=high,
            integer=False,
        )
    received = f"low={bound.low}, high={bound.high}"
    raise SpaceError(f"Expected space.bounds.{hp.name} to hold {_wanted(hp)}; received {received}.")


def _fitted_value(value: Value, hp: kinds.HyperParameter) -> Value:
    kind = _kind(hp)
    if is_number(value):
        if kind is float:
            return float(value)
        if kind is int and math.floor(value) == value:
            return int(value)
    # A number outside the HyperModel's own list works as well as a number of the list. Another
    # word does not work.
    if isinstance(value, kind) and (kind is bool or value in hp.values):
        return value
    raise SpaceError(f"Expected space.bounds.{hp.name} to hold {_wanted(hp)}; received {value!r}.")


def _kind(hp: kinds.HyperParameter) -> type[Value]:
    """Return the type of a hyperparameter's values."""
    if isinstance(hp, kinds.Int):
        return int
    if not isinstance(hp, kinds.Float):
        first = next(iter(hp.values))  # all of them have one type
        for kind in (bool, int, str):
            if isinstance(first, kind):
                return kind
    return float


def _wanted(hp: kinds.HyperParameter) -> str:
    """Return in words which values a hyperparameter can have."""
    kind = _kind(hp)
    if kind is str:
        return f"one of {', '.join(hp.values)}"
    words = {bool: "true or false", int: "whole numbers", float: "numbers"}
    return words[kind]
