"""An architecture under search: it makes the HyperModel of each trial, with the settings that the trial draws."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable

import keras_tuner

from hpsearch.architectures.building import build_hypermodel
from hpsearch.architectures.compiling import MOMENTUMS, OptimizerFactory
from hpsearch.architectures.facts import DataFacts
from hpsearch.architectures.sparsity import Sparsity
from hpsearch.spaces.bounds import Value
from hpsearch.spaces.hyperparameters import ask
from hpsearch.spaces.space import Space

OF_THE_JOB = ("facts", "optimizer", "sparsity")  # what a constructor gets and no bound can draw


class Architecture:
    """Makes HyperModels; a bound that bears the name of a setting makes it a hyperparameter.

    Such settings are those of the HyperModel's constructor (`n_hidden`), those of the optimizer where the constructor
    takes one (`weight_decay`), and those in `others`, which are drawn for whoever reads them (`batch_size`).

    Args:
        factory: As `build_hypermodel`.
        facts: As `build_hypermodel`.
        optimizer: As `build_hypermodel`.
        sparsity: As `build_hypermodel`.
        space: The bounds.
        others: More names that a bound may bear.
    """

    def __init__(
        self,
        factory: functools.partial[keras_tuner.HyperModel],
        *,
        facts: DataFacts,
        optimizer: OptimizerFactory,
        space: Space,
        sparsity: Sparsity | None = None,
        others: Iterable[str] = (),
    ) -> None:
        self._factory, self._facts, self._optimizer, self._sparsity = factory, facts, optimizer, sparsity
        self._rules = space.rules
        accepted = _settings(factory)
        of_optimizer = _settings(optimizer) if "optimizer" in _keywords(factory) else set()
        self._of_model = [name for name in space.rules if name in accepted]
        self._of_optimizer = [name for name in space.rules if name in of_optimizer - accepted]
        self._others = [name for name in others if name in space.rules]

    @property
    def drawn(self) -> list[str]:
        """Names of the settings that are hyperparameters here."""
        return [*self._of_model, *self._of_optimizer, *self._others]

    def hypermodel(self, hp: keras_tuner.HyperParameters) -> keras_tuner.HyperModel:
        """Return the HyperModel of a trial, with the settings that `hp` holds or draws.

        Raises:
            ModelError: As `build_hypermodel`.
        """
        self._ask(hp, self._others)
        factory, optimizer = self._factory, self._optimizer
        if self._of_model:
            factory = functools.partial(factory, **self._ask(hp, self._of_model))
        if self._of_optimizer:
            optimizer = functools.partial(optimizer, **self._ask(hp, self._of_optimizer))
        return build_hypermodel(factory, self._facts, optimizer, self._sparsity)

    def _ask(self, hp: keras_tuner.HyperParameters, names: list[str]) -> dict[str, Value]:
        return {name: ask(hp, name, self._rules[name]) for name in names}


def _keywords(factory: object) -> set[str]:
    return set(inspect.signature(factory).parameters) if callable(factory) else set()


def _settings(factory: object) -> set[str]:
    return _keywords(factory) - {"learning_rate", *MOMENTUMS, *OF_THE_JOB}
