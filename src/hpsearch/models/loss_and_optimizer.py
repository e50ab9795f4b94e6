"""Make the optimizer of a model, tell which form of labels its loss takes, and read its logs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import keras
import numpy as np

from hpsearch.errors import ConfigError, ModelError
from hpsearch.models.outputs import has_one_column

OptimizerFactory = Callable[..., keras.Optimizer]
MOMENTUMS = ("beta_1", "momentum")  # the argument that holds an optimizer's momentum


def make_optimizer(
    factory: OptimizerFactory,
    learning_rate: float,
    momentum: float,
) -> keras.Optimizer:
    """Make an optimizer with a learning rate and a momentum.

    The momentum is `beta_1` of an optimizer that has it (Adam and similar ones), and `momentum` of
    any other.

    Args:
        factory: A Keras optimizer class, or a partial of one that holds its other settings.
        learning_rate: Above 0.
        momentum: In [0, 1).

    Raises:
        ConfigError: The optimizer has neither argument, is no class or partial, or refuses its
            settings.
    """
    if not callable(factory):
        raise ConfigError(
            f"Expected the conf of the optimizer to say _partial_: true; received {factory!r}."
        )
    arguments = {"learning_rate": learning_rate, _momentum_of(factory): momentum}
    try:
        return factory(**arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The optimizer refuses its settings: {reason}.") from error


def _momentum_of(factory: OptimizerFactory) -> str:
    """Return the name of the argument that holds the momentum."""
    accepted = inspect.signature(factory).parameters
    for argument in MOMENTUMS:
        if argument in accepted:
            return argument
    optimizer = getattr(factory, "func", factory)
    name = getattr(optimizer, "__name__", repr(factory))
    raise ConfigError(
        f"Expected an optimizer with a setting beta_1 or momentum; {name} has neither: choose "
        f"another."
    )


def labels_for(model: keras.Model) -> Literal["sparse", "onehot"]:
    """Return the form of labels that the compiled loss of a classifier takes.

    `sparse` means class numbers, (N,). `onehot` means one row for each example, (N, C).
    A binary loss of a model with one output column takes the numbers of its two classes. A loss
    that is not of Keras gets class numbers, as the data has them, unless it inherits from a Keras
    loss that takes rows.

    Raises:
        ModelError: The model is not compiled, or it has a Keras loss that is not for classes.
    """
    loss = _single(getattr(model, "loss", None))
    names = _loss_names(loss)
    if any(name.startswith("sparsecategorical") for name in names):
        return "sparse"
    if any(name.startswith("binary") for name in names) and has_one_column(model):
        return "sparse"
    others = ("kldivergence", "meansquarederror")
    if any(name.startswith("categorical") or name in others for name in names):
        return "onehot"
    if getattr(model, "compiled", False) and not _is_of_keras(loss):
        return "sparse"
    raise ModelError(
        "Expected the architecture to compile its model with the loss "
        "sparse_categorical_crossentropy or "
        f"categorical_crossentropy; received {_named(loss)}.{_advice(names)}"
    )


def check_compiled(model: keras.Model) -> None:
    """Raise ModelError if a model is not compiled, or with arguments in each other's places."""
    if not model.compiled:
        raise ModelError(
            "Expected build(hp) to return a compiled keras.Model; received one whose compile was "
            "not called."
        )
    compiled = getattr(model, "_compile_loss", None)
    weights = keras.tree.flatten(getattr(compiled, "_user_loss_weights", None))
    if any(isinstance(weight, str) for weight in weights):
        raise ModelError(
            "Expected numbers as loss_weights, the third argument of model.compile; received "
            f"{weights!r}: give metrics by their name, model.compile(optimizer, loss, "
            f"metrics={weights!r})."
        )


def returns_logits(model: keras.Model) -> bool | None:
    """Return whether the loss of a model says that the model returns logits.

    A loss of Keras says so by `from_logits`, which is false by default. Another loss may say so in
    the same way; where it says nothing, the answer is None.
    """
    loss = _single(getattr(model, "loss", None))
    said = getattr(loss, "from_logits", None)
    if isinstance(loss, partial):
        said = loss.keywords.get("from_logits")
        loss = loss.func
    if said is None and _is_of_keras(loss):
        return False
    if isinstance(said, bool):
        return said
    return None


def check_targets(model: keras.Model, *, are_rows: bool) -> None:
    """Raise ModelError if the loss of a model does not fit the targets of a data set.

    One-hot rows become labels where the loss of Keras takes labels, and labels become rows where
    it takes the probabilities of classes, which changes no value. Nobody knows what a loss that is
    not of Keras takes, and `labels_for` gives it labels. A loss of numbers, such as the squared
    error, may take labels for quantities, so it needs rows.

    Args:
        model: A compiled model.
        are_rows: Whether the targets were given as one-hot rows, (N, C), and not as labels.
    """
    names = _loss_names(_single(model.loss))
    if not are_rows and "meansquarederror" in names:
        raise ModelError(
            "Expected one-hot rows (N, C) for a model with the loss mean_squared_error, received "
            "labels (N,): give rows with keras.utils.to_categorical(labels), or compile the model "
            "with the loss sparse_categorical_crossentropy."
        )
    if not are_rows:
        return
    if labels_for(model) == "sparse" and not _is_of_keras(_single(model.loss)):
        raise ModelError(
            "Expected labels (N,) for a model with a loss of its own, received one-hot rows: give "
            "labels with argmax(axis=1), and let the loss take them or inherit from "
            "keras.losses.CategoricalCrossentropy."
        )


def numbers_of(logs: Mapping[str, object]) -> dict[str, float]:
    """Return each number of Keras's logs.

    A metric of several numbers, such as one for each class, gives NAME/0, NAME/1 and so on.
    """
    found = {}
    for name, value in logs.items():
        numbers = np.asarray(value, np.float64)
        if numbers.ndim == 0:
            found[name] = float(numbers)
            continue
        for place, number in enumerate(numbers.ravel()):
            found[f"{name}/{place}"] = float(number)
    return found


def _single(loss: object) -> object:
    """Return the loss inside containers that each hold one entry."""
    while isinstance(loss, list | tuple | dict) and len(loss) == 1:
        if isinstance(loss, dict):
            loss = list(loss.values())
        loss = loss[0]
    return loss


def _named(loss: object) -> str:
    """Return a loss as a message names it."""
    if loss is None or isinstance(loss, str):
        return repr(loss)
    return str(getattr(loss, "__name__", type(loss).__name__))


def _advice(names: Sequence[str]) -> str:
    """Return a sentence on what takes the place of the losses of these names, or nothing."""
    if any(name.startswith("binary") for name in names):
        return (
            " A model of two classes ends with Dense(1, activation='sigmoid') for a binary loss, "
            "or with Dense(2, activation='softmax')."
        )
    return ""


def _loss_names(loss: object) -> list[str]:
    """Return the names of a loss, of the function it wraps and of the classes it inherits from."""
    known = loss
    if isinstance(loss, str):
        known = keras.losses.get(loss)
    named = [known, getattr(known, "fn", None), *type(known).__mro__]
    names = []
    for thing in named:
        name = getattr(thing, "__name__", "")
        if name:
            names.append(name.replace("_", "").lower())
    return names


def _is_of_keras(loss: object) -> bool:
    if isinstance(loss, str):
        return True
    module = getattr(loss, "__module__", None)
    if not module:
        return False
    return str(module).partition(".")[0] == "keras"
