"""Bring inputs and labels into the forms that a search uses, or refuse them in one sentence.

`inputs_of` returns uint8 or float32 inputs, `labels_of` int32 labels. Nothing is changed but the
type: integers become float32 only where float32 holds each of them exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import DataError

Images = NDArray[np.number]  # pixels, (N, H, W, channels); other inputs have any shape (N, ...)
Labels = NDArray[np.int32]


class Targets(NamedTuple):
    """The targets of one part of a data set.

    Attributes:
        labels: The labels, (N,).
        n_columns: The number of columns of one-hot rows; None if labels were given.
    """

    labels: Labels
    n_columns: int | None


def inputs_of(
    inputs: np.ndarray,
    name: str,
    key: str,
    *,
    channel_axis: bool,
) -> Images:
    """Return inputs of uint8 or float32.

    Floats become float32. Other integers and booleans become float32 too, as long as it holds them
    exactly. Inputs of uint8 are not copied.

    Args:
        inputs: The inputs as they were loaded.
        name: The name of the data set, for messages.
        key: The name of the array, for messages.
        channel_axis: Whether grey images (N, H, W) become (N, H, W, 1).

    Raises:
        DataError: No model could use the shape, type or values.
    """
    expected = (
        f"Expected {key} of {name} to hold images (N, H, W, C), or grey ones (N, H, W), or other "
        f"inputs (N, ...), of numbers"
    )
    if inputs.ndim < 2 or inputs.size == 0:
        raise DataError(f"{expected}, received shape {inputs.shape}.")
    if channel_axis:
        _check_channels(inputs.shape, name, key)
    if inputs.ndim == 3 and channel_axis:
        inputs = inputs[..., np.newaxis]
    if inputs.dtype == np.uint8:
        return inputs
    if inputs.dtype.kind in "biu":
        return _exact(inputs, name, key)
    if inputs.dtype.kind != "f":
        raise DataError(
            f"{expected}, received {inputs.dtype}; convert them with astype('uint8') or "
            f"astype('float32')."
        )
    # A value beyond the range of float32 becomes infinite, which is an error below.
    with np.errstate(over="ignore"):
        inputs = inputs.astype(np.float32, copy=False)
    n_bad = np.count_nonzero(~np.isfinite(inputs))
    if n_bad > 0:
        raise DataError(
            f"Expected finite values in {key} of {name}, received {n_bad:,} that are NaN or "
            f"infinite."
        )
    return inputs


def _check_channels(shape: tuple[int, ...], name: str, key: str) -> None:
    """Raise DataError for images whose channels come before their height and width."""
    if len(shape) != 4:
        return
    _, first, *sides = shape
    n_channels = (1, 3, 4)
    # The sides of an image differ less than a series of measurements from their number.
    is_like_image = min(sides) > 4 and max(sides) <= 4 * min(sides)
    if first in n_channels and sides[1] not in n_channels and is_like_image:
        raise DataError(
            f"Expected images with their channels last in {key} of {name}, (N, H, W, C); received "
            f"shape {shape}: give numpy.moveaxis({key}, 1, -1), or data.channel_axis=false for "
            "inputs that are no images."
        )


def _exact(
    integers: np.ndarray,
    name: str,
    key: str,
) -> Images:
    """Return integers as float32, which holds all of them up to 2 to the power of 24."""
    lowest = int(integers.min())
    highest = int(integers.max())
    limit = 2**24
    if lowest < -limit or highest > limit:
        raise DataError(
            f"Expected integers from {-limit} to {limit} in {key} of {name}, which float32 holds "
            f"exactly, received values from {lowest} to {highest}; scale them."
        )
    return integers.astype(np.float32)


def labels_of(
    targets: np.ndarray,
    name: str,
    key: str,
) -> Targets:
    """Return labels (N,) of int32.

    Args:
        targets: Whole numbers, (N,) or (N, 1), or one-hot rows, (N, C).
        name: The name of the data set, for messages.
        key: The name of the array, for messages.

    Raises:
        DataError: They are neither.
    """
    expected = f"Expected {key} of {name} to hold integer labels (N,) from 0 on"
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.size == 0 or targets.ndim not in (1, 2):
        raise DataError(f"{expected} or one-hot rows (N, C), received shape {targets.shape}.")
    if targets.ndim == 2:
        return _from_rows(targets, expected)
    return Targets(_whole_numbers(targets, expected), None)


def _whole_numbers(targets: np.ndarray, expected: str) -> Labels:
    if targets.dtype.kind not in "iuf":
        raise DataError(f"{expected}, received {targets.dtype}; convert them with astype('int32').")
    if targets.dtype.kind == "f" and not _are_whole(targets):
        raise DataError(f"{expected}, received {targets.dtype} values that are not whole.")
    lowest = targets.min()
    highest = targets.max()
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise DataError(f"{expected}, received values from {lowest} to {highest}.")
    return targets.astype(np.int32, copy=False)


def _are_whole(numbers: np.ndarray) -> bool:
    return bool(np.isfinite(numbers).all() and (numbers == np.round(numbers)).all())


def _from_rows(rows: np.ndarray, expected: str) -> Targets:
    """Return the labels of one-hot rows."""
    is_number = rows.dtype.kind in "biuf"
    if is_number:
        is_one = rows == 1
        has_one_1 = is_one.sum(axis=1) == 1
        is_binary = is_one | (rows == 0)
        is_one_hot = bool(has_one_1.all() and is_binary.all())
    if not is_number or not is_one_hot:
        raise DataError(
            f"{expected} or one-hot rows (N, C), received {rows.dtype} of shape {rows.shape} with "
            f"rows that are not one 1 among zeros; probabilities and several labels an example "
            f"cannot be searched."
        )
    labels = is_one.argmax(axis=1).astype(np.int32)
    return Targets(labels, rows.shape[1])
