"""What the outputs of a classifier mean: probabilities of classes, or logits, of one column or C.

A model of two classes may return one column, (N, 1): the probability of class 1, or its logit.
Every other model returns C columns, which sum to one or need a softmax.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from hpsearch.errors import ModelError
from hpsearch.metrics import SUM_TOLERANCE, Floats
from hpsearch.models.dropout_masks import Tensor

# The distance between 1 and the next larger number of a type of floats.
_SPACING = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


def distributions(outputs: Tensor, *, from_logits: bool) -> Tensor:
    """Return outputs of a model as distributions over its classes, (N, C) float32.

    Args:
        outputs: What the model returns, (N, C), or (N, 1) for two classes.
        from_logits: Whether they are logits.
    """
    values = ops.cast(outputs, "float32")
    if values.shape[-1] == 1:
        if from_logits:
            values = ops.sigmoid(values)
        return ops.concatenate([1.0 - values, values], axis=-1)
    if from_logits:
        return ops.softmax(values)
    return values


def n_classes_of(shape: tuple[int | None, ...]) -> int:
    """Return how many classes a model with outputs of a shape tells apart.

    Raises:
        ModelError: The shape is not (N, C).
    """
    n_columns = 0
    if len(shape) == 2:
        n_columns = shape[-1] or 0
    if n_columns < 1:
        raise ModelError(
            f"Expected a model that returns one probability per class, (N, C), received {shape}."
        )
    return max(n_columns, 2)


def has_one_column(model: keras.Model) -> bool:
    """Return whether a model returns one column, (N, 1), the probability of class 1 or its logit.

    A model that has never been called, and whose graph Keras does not know, has no known outputs.
    """
    try:
        shape = model.output_shape
    except (AttributeError, ValueError):  # Keras knows no outputs of a subclassed model
        built = built_shape(model)
        if built is None:
            return False
        shape = model.compute_output_spec(keras.KerasTensor(built)).shape
    return isinstance(shape, tuple) and len(shape) == 2 and shape[-1] == 1


def built_shape(model: keras.Model) -> tuple[int | None, ...] | None:
    """Return the shape of the one input with which a subclassed model was built, or None."""
    built = getattr(model, "_build_shapes_dict", None) or {}
    if len(built) != 1:
        return None
    (shape,) = built.values()
    return tuple(shape)


def rounding_of(model: keras.Model) -> float:
    """Return how far the probabilities of a model may be from a sum of one by rounding alone.

    A softmax in float16 or bfloat16 rounds each probability to a few digits.
    """
    dtypes = {model.compute_dtype}
    for layer in model._flatten_layers(include_self=False):
        dtypes.add(layer.compute_dtype)
    spacings = [_SPACING.get(dtype, 0.0) for dtype in dtypes]
    return max(SUM_TOLERANCE, 4 * max(spacings))


def check_outputs(outputs: Any, *, from_logits: bool, rounding: float) -> None:
    """Raise ModelError unless the outputs of a model are what they are said to be.

    Args:
        outputs: What the model returned, (N, C), or (N, 1) for two classes.
        from_logits: Whether they are said to be logits.
        rounding: How far a sum of probabilities may be from one.

    Raises:
        ModelError: A value is not finite; rows of probabilities are negative or do not sum to
            one; or all rows are distributions where logits were announced.
    """
    values = np.asarray(ops.convert_to_numpy(ops.cast(outputs, "float32")), np.float64)
    if not np.isfinite(values).all():
        raise ModelError(
            "Expected class probabilities, received NaN or infinite values: the model has diverged."
        )
    given_probabilities = are_probabilities(values, rounding)
    if from_logits and given_probabilities and values.shape[-1] > 1:
        raise ModelError(
            "Expected a model that returns logits, as its loss with from_logits=True or "
            "uncertainty.from_logits=true says; received probabilities that sum to one: leave out "
            "from_logits=True, or the softmax at the end of the model."
        )
    if not from_logits and not given_probabilities:
        raise ModelError(
            "Expected class probabilities that sum to one, received values from "
            f"{values.min():.4g} to {values.max():.4g}: end the model with a softmax or, where it "
            "returns logits, compile it with a loss of from_logits=True or give "
            "uncertainty.from_logits=true."
        )


def are_probabilities(values: Floats, rounding: float) -> bool:
    """Return whether all rows are distributions, or all values of one column probabilities."""
    if values.shape[-1] == 1:
        return bool(values.min() >= 0 and values.max() <= 1)
    gaps = np.abs(values.sum(axis=-1) - 1.0)
    return bool(values.min() >= 0 and gaps.max() <= rounding)
