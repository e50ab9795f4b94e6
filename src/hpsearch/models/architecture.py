"""Make the HyperModel of each trial from an architecture of the configuration.

An architecture in `conf/arch` names the class of a HyperModel and some arguments of its
constructor, or a function `build_model(hp)` and some of its arguments. `build_hypermodel` adds the
arguments that depend on the data, such as the image shape. `Architecture` also lets the bounds of
a search draw these arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from inspect import Parameter, signature

import keras
from keras.metrics import Metric
from keras.src.backend.common import global_state
from keras_tuner import HyperModel, HyperParameters

from hpsearch.data.statistics import DataStatistics
from hpsearch.errors import ModelError, first_line
from hpsearch.models.loss_and_optimizer import MOMENTUMS, OptimizerFactory
from hpsearch.models.sparse import Sparsity
from hpsearch.space.bounds import Value
from hpsearch.space.space import Space


def build_hypermodel(
    factory: partial[HyperModel],
    statistics: DataStatistics,
    optimizer: OptimizerFactory,
    sparsity: Sparsity | None = None,
) -> HyperModel:
    """Return the HyperModel of an architecture, with the arguments that the job knows.

    These arguments are `statistics`, `optimizer`, `sparsity`, the image shape (`image_shape` or
    `input_shape`) and the number of classes (`n_classes`, `classes` or `num_classes`). The
    constructor receives those that it accepts and that the configuration does not set. So does a
    function that builds a model, `build_model(hp)`, from which a HyperModel is made.

    Args:
        factory: A partial of the HyperModel's class, or of a function that takes `hp` and returns
            a model, as Hydra makes it from `_target_` with `_partial_: true`.
        statistics: Shape, number of classes and statistics of the train images.
        optimizer: Makes an optimizer from `learning_rate` and its momentum.
        sparsity: Makes the sparse layers of an architecture whose constructor accepts it; None
            leaves the layers dense.

    Raises:
        ModelError: The constructor needs another argument, does not accept a given `sparsity`, or
            does not return a HyperModel.
    """
    if not isinstance(factory, partial):
        raise ModelError(
            f"Expected the conf of the architecture to say _partial_: true; received {factory!r}."
        )
    name = getattr(factory.func, "__name__", repr(factory.func))
    accepted = signature(factory).parameters
    if sparsity is not None and "sparsity" not in accepted:
        raise ModelError(
            f"Expected an architecture of dense layers with sparsity=; {name} knows no sparse "
            f"layers."
        )
    settable = accepted.keys() - factory.keywords.keys()
    known = _known_arguments(statistics, optimizer, sparsity)
    given = {key: value for key, value in known.items() if key in settable}
    hp_name = _hp_argument(factory, accepted, given)
    if hp_name is not None:
        others = {key: value for key, value in accepted.items() if key != hp_name}
        _check_complete(name, others, given)
        return _BuiltByFunction(partial(factory, **given), hp_name)
    _check_complete(name, accepted, given)
    return _made(factory, given)


def _made(factory: partial[HyperModel], given: Mapping[str, object]) -> HyperModel:
    """Return the HyperModel that a factory makes; raise ModelError if it makes something else."""
    hypermodel = factory(**given)
    if not isinstance(hypermodel, HyperModel):
        name = getattr(factory.func, "__name__", repr(factory.func))
        made = type(hypermodel).__name__
        raise ModelError(
            f"Expected arch._target_ to name a keras_tuner.HyperModel or a function "
            f"build_model(hp); {name} makes a {made}."
        )
    return hypermodel


class _BuiltByFunction(HyperModel):  # type: ignore[misc]
    """A HyperModel whose models a function builds.

    Args:
        function: Returns a compiled model; all its arguments but `hp` are known.
        hp_name: The name of the argument that takes the hyperparameters; empty if it is the first
            one of those without a name.
    """

    def __init__(self, function: partial[keras.Model], hp_name: str) -> None:
        super().__init__()
        self._function = function
        self._hp_name = hp_name

    def build(self, hp: HyperParameters) -> keras.Model:
        """Return the model that the function builds with `hp`."""
        if not self._hp_name:
            return self._function(hp)
        return self._function(**{self._hp_name: hp})


def _hp_argument(
    factory: partial[HyperModel],
    accepted: Mapping[str, Parameter],
    given: Mapping[str, object],
) -> str | None:
    """Return the argument of a function that takes the hyperparameters.

    It is `hp`, or the first argument that is needed and that nothing gives; an argument that can
    only be given by its place has an empty name here. A class and a function without such an
    argument make a HyperModel; the answer is then None.
    """
    if isinstance(factory.func, type):
        return None
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.VAR_POSITIONAL)
    first = next(iter(accepted.values()), None)
    if first is not None and first.kind in by_place:
        return ""
    if "hp" in accepted:
        return "hp"
    for key, parameter in accepted.items():
        is_named = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        if is_named and key not in given and parameter.default is parameter.empty:
            return key
    return None


def _known_arguments(
    statistics: DataStatistics,
    optimizer: OptimizerFactory,
    sparsity: Sparsity | None,
) -> dict[str, object]:
    """Return all arguments that the job knows, by every name that they may have."""
    shape = statistics.image_shape
    n_classes = statistics.n_classes
    known = {
        "statistics": statistics,
        "optimizer": optimizer,
        "image_shape": shape,
        "input_shape": shape,
        "n_classes": n_classes,
        "classes": n_classes,
        "num_classes": n_classes,
    }
    if sparsity is not None:
        known["sparsity"] = sparsity
    return known


def _check_complete(
    name: str,
    accepted: Mapping[str, Parameter],
    given: Mapping[str, object],
) -> None:
    """Raise ModelError where a parameter has neither a default nor a given argument."""
    named = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    for key, parameter in accepted.items():
        if parameter.kind not in named or key in given:
            continue
        if parameter.default is parameter.empty:
            raise ModelError(
                f"Expected the conf of the architecture to set {key}, which {name} needs: add "
                f"arch.{key}."
            )


def build_model(
    hypermodel: HyperModel,
    hp: HyperParameters,
    input_shape: Sequence[int] | None = None,
) -> keras.Model:
    """Build a model whose metrics have the same names in every model of the process.

    Keras numbers metrics without a given name through the whole process: `auc`, `auc_1`, `auc_2`.
    This function counts from the start in each model, so that the first of each is `auc`.

    Args:
        hypermodel: The HyperModel.
        hp: The hyperparameters.
        input_shape: The shape of one input. A `Sequential` model without an `Input` layer is built
            for it, as Keras's `fit` would do at its first batch; None leaves such a model as it is.

    Raises:
        ModelError: The HyperModel returns no model, or the model cannot be built for the shape.
    """
    model = hypermodel.build(hp)
    if not isinstance(model, keras.Model):
        kind = type(model).__name__
        raise ModelError(f"Expected build(hp) to return a compiled keras.Model; received {kind}.")
    if input_shape is not None:
        _build_sequential(model, input_shape)
    counts: dict[str, int] = {}
    for metric in _user_metrics(model):
        name = _default_name(metric)
        if name is None:
            continue
        number = counts.get(name, 0)
        counts[name] = number + 1
        if number > 0:
            name = f"{name}_{number}"
        metric.name = name
    return model


def _build_sequential(model: keras.Model, input_shape: Sequence[int]) -> None:
    """Build a `Sequential` model that waits for its first batch."""
    if model.built or not isinstance(model, keras.Sequential):
        return
    try:
        model.build((None, *input_shape))
    except Exception as error:  # layers may raise anything
        shape = tuple(input_shape)
        raise ModelError(
            f"Expected a model that takes inputs of shape {shape}; Keras cannot build it for them: "
            f"{first_line(error)}."
        ) from error


def _user_metrics(model: keras.Model) -> list[Metric]:
    """Return each metric object that the model was compiled with, once."""
    compiled = getattr(model, "_compile_metrics", None)
    plain = getattr(compiled, "_user_metrics", None)
    weighted = getattr(compiled, "_user_weighted_metrics", None)
    metrics = {}
    for metric in keras.tree.flatten([plain, weighted]):
        if isinstance(metric, Metric):
            metrics[id(metric)] = metric
    return list(metrics.values())


def _default_name(metric: Metric) -> str | None:
    """Return the name that Keras derived from the class, without its number, or None."""
    name, _, number = metric.name.rpartition("_")
    if not number.isdigit():
        name = metric.name
        number = "0"
    class_name = type(metric).__name__.lower()
    letters = class_name.replace("_", "")
    if name.replace("_", "") != letters:
        return None
    counts = global_state.get_global_attribute("object_name_uids", default={})
    if int(number) >= counts.get(name, 0):
        return None
    return str(name)


@dataclass(frozen=True, eq=False)
class Architecture:
    """Make HyperModels whose constructor arguments the bounds of a search may draw.

    A bound draws a setting of the same name. The settings are the arguments of the HyperModel's
    constructor (`n_hidden`), the arguments of the optimizer where the constructor accepts one
    (`weight_decay`), and the names in `others` (`batch_size`). A setting in `others` is drawn
    here, and another part of the program reads it from the trial.

    Attributes:
        factory: As `build_hypermodel`.
        statistics: As `build_hypermodel`.
        optimizer: As `build_hypermodel`.
        space: The bounds of the search.
        sparsity: As `build_hypermodel`.
        others: Further names that a bound may have.
    """

    factory: partial[HyperModel]
    statistics: DataStatistics
    optimizer: OptimizerFactory
    space: Space
    sparsity: Sparsity | None = None
    others: Sequence[str] = ()

    @property
    def drawn(self) -> list[str]:
        """Names of the settings that the bounds draw."""
        of_model, of_optimizer, others = self._settings
        return of_model + of_optimizer + others

    @cached_property
    def _settings(self) -> tuple[list[str], list[str], list[str]]:
        """Names of the drawn settings of the HyperModel, of the optimizer, and of others."""
        # The job gives these arguments, or the HyperModel draws them itself.
        not_bounded = {"statistics", "optimizer", "sparsity", "learning_rate", *MOMENTUMS}
        accepted = _arguments(self.factory)
        of_model = accepted - not_bounded
        of_optimizer: set[str] = set()
        if "optimizer" in accepted:
            of_optimizer = _arguments(self.optimizer) - not_bounded - of_model
        bounds = self.space.rules
        return (
            [name for name in bounds if name in of_model],
            [name for name in bounds if name in of_optimizer],
            [name for name in self.others if name in bounds],
        )

    def hypermodel(self, hp: HyperParameters) -> HyperModel:
        """Return the HyperModel of a trial, with the settings that `hp` holds or draws.

        Raises:
            ModelError: As `build_hypermodel`.
        """
        of_model, of_optimizer, others = self._settings
        self._ask(hp, others)
        factory = self.factory
        if of_model:
            settings = self._ask(hp, of_model)
            factory = partial(factory, **settings)
        optimizer = self.optimizer
        if of_optimizer:
            settings = self._ask(hp, of_optimizer)
            optimizer = partial(optimizer, **settings)
        return build_hypermodel(factory, self.statistics, optimizer, self.sparsity)

    def _ask(self, hp: HyperParameters, names: list[str]) -> dict[str, Value]:
        rules = self.space.rules
        return {name: rules[name].ask(hp, name) for name in names}


def _arguments(factory: object) -> set[str]:
    if not callable(factory):
        return set()
    return set(signature(factory).parameters)
