"""From layers to a compiled model: the drawn hyperparameters, the optimizer, the loss and the
labels it needs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

import keras
import keras_tuner

from hpsearch.errors import ConfigError, ModelError

OptimizerFactory = Callable[..., keras.Optimizer]
ROW_LOSSES = ("kldivergence", "meansquarederror")  # that take a row of shares for each example
MOMENTUMS = ("beta_1", "momentum")  # what optimizers call their momentum


def draw_dropout_rate(hp: keras_tuner.HyperParameters) -> float:
    """Draw the share of inputs that a dropout layer sets to zero, in [0, 1)."""
    return float(hp.Float("dropout_rate", 0.0, 0.5, default=0.1))


def compile_classifier(
    model: keras.Model, hp: keras_tuner.HyperParameters, optimizer: OptimizerFactory
) -> keras.Model:
    """Draw learning rate and momentum, compile the model for integer labels, and return it."""
    learning_rate = hp.Float("learning_rate", 1e-5, 1e-1, sampling="log", default=1e-3)
    momentum = hp.Float("momentum", 0.5, 0.999, default=0.9)
    model.compile(
        optimizer=make_optimizer(optimizer, learning_rate, momentum),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    return model


def make_optimizer(
    factory: OptimizerFactory, learning_rate: float, momentum: float
) -> keras.Optimizer:
    """Make an optimizer whose momentum is `beta_1` where it has one (Adam and its kin), else
    `momentum`.

    Args:
        factory: A Keras optimizer class, or a partial of one that holds its other settings.
        learning_rate: Above 0.
        momentum: In [0, 1).

    Raises:
        ConfigError: The optimizer has neither, or is already made.
    """
    if not callable(factory):
        raise ConfigError(
            f"Expected the conf of the optimizer to say _partial_: true; received {factory!r}."
        )
    keywords = inspect.signature(factory).parameters
    for keyword in MOMENTUMS:
        if keyword in keywords:
            try:
                return factory(learning_rate=learning_rate, **{keyword: momentum})
            except (TypeError, ValueError) as error:
                raise ConfigError(
                    f"The optimizer refuses its settings: {str(error).splitlines()[0]}."
                ) from error
    name = getattr(getattr(factory, "func", factory), "__name__", repr(factory))
    raise ConfigError(
        f"Expected an optimizer with a setting beta_1 or momentum; {name} has neither: choose "
        f"another."
    )


def labels_for(model: keras.Model) -> Literal["sparse", "onehot"]:
    """Return the form of labels that the compiled loss of a classifier takes.

    `sparse` is class numbers, (N,); `onehot` is a row for each example, (N, C).

    A loss of a person's own gets class numbers, as the data has them, unless it inherits from one
    for rows.

    Raises:
        ModelError: The model is not compiled, or its loss is one of Keras's that is not for
            classes.
    """
    loss = getattr(model, "loss", None)
    while isinstance(loss, list | tuple | dict) and len(loss) == 1:
        loss = next(iter(loss.values() if isinstance(loss, dict) else loss))
    names = _loss_names(loss)
    if any(name.startswith("sparsecategorical") for name in names):
        return "sparse"
    if any(name.startswith("categorical") or name in ROW_LOSSES for name in names):
        return "onehot"
    if getattr(model, "compiled", False) and (loss is None or not _is_of_keras(loss)):
        return "sparse"
    raise ModelError(
        "Expected the architecture to compile its model with the loss "
        "sparse_categorical_crossentropy or "
        f"categorical_crossentropy; received {loss!r}."
    )


def _loss_names(loss: Any) -> list[str]:
    """Return the names of a loss, of the function that it wraps and of the classes that it inherits
    from.
    """
    known = keras.losses.get(loss) if isinstance(loss, str) else loss
    wrapped = getattr(known, "fn", None)
    found = [known, wrapped, *type(known).__mro__]
    return [
        n.replace("_", "").lower() for n in (getattr(thing, "__name__", "") for thing in found) if n
    ]


def _is_of_keras(loss: Any) -> bool:
    return (
        isinstance(loss, str)
        or (getattr(loss, "__module__", "") or "").partition(".")[0] == "keras"
    )
