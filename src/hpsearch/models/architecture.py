"""Completes an architecture of conf with the facts that only the data can tell: any HyperModel, one
way.

An architecture under search: it makes the HyperModel of each trial, with the settings that the
trial draws.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Iterable
from typing import Any

import keras
import keras_tuner
from keras.src.backend.common import global_state

from hpsearch.data.statistics import DataFacts
from hpsearch.errors import ModelError
from hpsearch.models.loss_and_optimizer import MOMENTUMS, OptimizerFactory
from hpsearch.models.sparse import Sparsity
from hpsearch.space.bounds import Value
from hpsearch.space.hyperparameters import ask
from hpsearch.space.space import Space


def build_hypermodel(
    factory: functools.partial[keras_tuner.HyperModel],
    facts: DataFacts,
    optimizer: OptimizerFactory,
    sparsity: Sparsity | None = None,
) -> keras_tuner.HyperModel:
    """Complete an architecture of conf, which is a partial of a HyperModel's class, and return the
    HyperModel.

    Of `facts`, `optimizer`, `image_shape` (also named `input_shape`) and `n_classes` (also named
    `classes` or `num_classes`) it is given those that its constructor names and that its yaml file
    does not set.

    Args:
        factory: What `_target_` with `_partial_: true` becomes.
        facts: Shape, classes and statistics of the train images.
        optimizer: Takes `learning_rate` and its momentum.
        sparsity: A way to sparse nets, for architectures whose constructor names it.

    Raises:
        ModelError: The constructor needs more than that, or returns no HyperModel.
    """
    if not isinstance(factory, functools.partial):
        raise ModelError(
            f"Expected the conf of the architecture to say _partial_: true; received {factory!r}."
        )
    name = getattr(factory.func, "__name__", repr(factory.func))
    known = {
        "facts": facts,
        "optimizer": optimizer,
        **dict.fromkeys(("image_shape", "input_shape"), facts.image_shape),
        **dict.fromkeys(("n_classes", "classes", "num_classes"), facts.n_classes),
    }
    accepted = inspect.signature(factory).parameters
    if sparsity is not None:
        known["sparsity"] = sparsity
        if "sparsity" not in accepted:
            raise ModelError(
                f"Expected an architecture of dense layers with sparsity=; {name} knows no sparse "
                f"layers."
            )
    given = {
        key: value
        for key, value in known.items()
        if key in accepted and key not in factory.keywords
    }
    for key, parameter in accepted.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and key not in given:
            raise ModelError(
                f"Expected the conf of the architecture to set {key}, which {name} needs: add "
                f"arch.{key}."
            )
    hypermodel = factory(**given)
    if not isinstance(hypermodel, keras_tuner.HyperModel):
        raise ModelError(
            f"Expected arch._target_ to name a keras_tuner.HyperModel; {name} makes a "
            f"{type(hypermodel).__name__}."
        )
    return hypermodel


def build_model(hypermodel: keras_tuner.HyperModel, hp: keras_tuner.HyperParameters) -> keras.Model:
    """Build a model whose metrics are called as those of every other model that is built so.

    Keras numbers metrics that have no name of their own on and on, `auc`, `auc_1`, `auc_2`, in one
    process; here the first of each model is `auc`.
    """
    model: keras.Model = hypermodel.build(hp)
    compiled = getattr(model, "_compile_metrics", None)
    given = [getattr(compiled, f"_user_{kind}", None) for kind in ("metrics", "weighted_metrics")]
    metrics = {id(m): m for m in keras.tree.flatten(given) if isinstance(m, keras.metrics.Metric)}
    numbered: dict[str, itertools.count[int]] = {}
    for metric in metrics.values():
        name = _numbered_name(metric)
        if name is not None:
            number = next(numbered.setdefault(name, itertools.count()))
            metric.name = f"{name}_{number}" if number else name
    return model


def _numbered_name(metric: Any) -> str | None:
    """Return the name of a metric without its number, None where it was given a name."""
    counts = global_state.get_global_attribute("object_name_uids", default={})
    name, _, number = metric.name.rpartition("_")
    if not number.isdigit():
        name, number = metric.name, "0"
    is_of_class = name.replace("_", "") == type(metric).__name__.lower().replace("_", "")
    return name if is_of_class and int(number) < counts.get(name, 0) else None


OF_THE_JOB = ("facts", "optimizer", "sparsity")  # what a constructor gets and no bound can draw


class Architecture:
    """Makes HyperModels; a bound that bears the name of a setting makes it a hyperparameter.

    Such settings are those of the HyperModel's constructor (`n_hidden`), those of the optimizer
    where the constructor takes one (`weight_decay`), and those in `others`, which are drawn for
    whoever reads them (`batch_size`).

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
        self._factory, self._facts, self._optimizer, self._sparsity = (
            factory,
            facts,
            optimizer,
            sparsity,
        )
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
