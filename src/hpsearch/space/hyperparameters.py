"""The KerasTuner hyperparameters that an Optuna trial fills in: any HyperModel can be searched by
Optuna.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import keras_tuner
from keras_tuner.engine import hyperparameters as kinds

from hpsearch.errors import SpaceError
from hpsearch.space.bounds import COMPLEMENT, Choices, Fixed, Range, Rule, Value, is_number
from hpsearch.space.space import Space

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class OptunaHyperParameters(keras_tuner.HyperParameters):  # type: ignore[misc]
    """Hand it to `HyperModel.build`: each `hp.Float(...)` is drawn from the trial, within the
    space's bounds.

    An inactive hyperparameter of a conditional scope is None and is not drawn. After a build,
    `values` holds all active hyperparameters as people read them (fixed ones too), and `asked`
    every name that the HyperModel used.

    Args:
        trial: Fills in what is searched.
        space: Bounds that come before what the HyperModel proposes.
    """

    def __init__(self, trial: BaseTrial, space: Space) -> None:
        super().__init__()
        self._trial = trial
        self._bounds = space

    @property
    def asked(self) -> list[str]:
        """Names of all hyperparameters that the HyperModel asked for, inactive ones too, in that
        order.
        """
        return list(self._hps)

    def _retrieve(self, hp: Any) -> Value | None:
        # KerasTuner keeps a value that is already there, so a name is drawn once, at its first
        # active use.
        if hp.name not in self.values and self.is_active(hp):
            self.values[hp.name] = self._rule(hp).draw(self._trial, hp.name)
        value: Value | None = super()._retrieve(hp)
        return value

    def _rule(self, hp: Any) -> Rule:
        if hp.name.startswith(COMPLEMENT):
            raise SpaceError(
                f"Expected no hyperparameter named {COMPLEMENT}...; the architecture has "
                f"{hp.name!r}."
            )
        bound = self._bounds.rules.get(hp.name)
        return proposal(hp) if bound is None else fitted(bound, hp)


def ask(hp: keras_tuner.HyperParameters, name: str, rule: Rule) -> Value:
    """Ask for a hyperparameter that a bound alone proposes, and return its value."""
    if isinstance(rule, Fixed):
        value: Value = hp.Fixed(name, rule.value)
    elif isinstance(rule, Choices):
        value = hp.Choice(name, list(rule.values))
    else:
        kind = hp.Int if rule.integer else hp.Float
        value = kind(
            name,
            rule.low,
            rule.high,
            step=rule.step,
            sampling="log" if rule.scale == "log" else "linear",
        )
    return value


def proposal(hp: Any) -> Rule:
    """Return what the HyperModel itself proposes for a hyperparameter.

    KerasTuner's steps on a log scale multiply, which Optuna lacks: they become choices. Its
    `reverse_log`, which Optuna lacks too, is drawn linearly; a bound with scale log_complement says
    better what it is used for.
    """
    if isinstance(hp, kinds.Fixed):
        return Fixed(hp.value)
    if isinstance(hp, kinds.Boolean):
        return Choices((False, True))
    if isinstance(hp, kinds.Choice):
        return Choices(tuple(hp.values))
    if hp.sampling != "linear" and hp.step is not None:
        return Choices(tuple(hp.values))
    scale = "log" if hp.sampling == "log" else "linear"
    return Range(hp.min_value, hp.max_value, scale, hp.step, integer=isinstance(hp, kinds.Int))


def fitted(bound: Rule, hp: Any) -> Rule:
    """Return the bound as this kind of hyperparameter draws it: an `hp.Int` whole numbers, an
    `hp.Float` floats.

    Raises:
        SpaceError: The bound holds values that the HyperModel could not use.
    """
    if isinstance(bound, Fixed):
        return Fixed(_fitted_value(bound.value, hp))
    if isinstance(bound, Choices):
        return Choices(tuple(_fitted_value(value, hp) for value in bound.values))
    if _kind(hp) is int and bound.integer:
        return bound
    if _kind(hp) is float:
        return replace(bound, low=float(bound.low), high=float(bound.high), integer=False)
    received = f"low={bound.low}, high={bound.high}"
    raise SpaceError(f"Expected space.bounds.{hp.name} to hold {_wanted(hp)}; received {received}.")


def _fitted_value(value: Value, hp: Any) -> Value:
    kind = _kind(hp)
    if kind is float and is_number(value):
        return float(value)
    if kind is int and is_number(value) and math.floor(float(value)) == value:
        return int(value)
    # A number beyond the HyperModel's own list works as well as one of it; another word could not.
    if isinstance(value, kind) and (kind is bool or value in getattr(hp, "values", ())):
        return value
    raise SpaceError(f"Expected space.bounds.{hp.name} to hold {_wanted(hp)}; received {value!r}.")


def _kind(hp: Any) -> type[bool] | type[int] | type[float] | type[str]:
    if isinstance(hp, kinds.Float):
        return float
    if isinstance(hp, kinds.Int):
        return int
    values = tuple(hp.values)
    for kind in (bool, int, str):
        if all(type(value) is kind for value in values):
            return kind
    return float


def _wanted(hp: Any) -> str:
    words = {bool: "true or false", int: "whole numbers", float: "numbers"}
    return words.get(_kind(hp), f"one of {', '.join(map(str, hp.values))}")
