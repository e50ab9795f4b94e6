"""Take the arrays that a person gives to `hpsearch.search`, and refuse what is no array."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import replace
from typing import Any, cast

import numpy as np

from hpsearch.data.datasets import Arrays
from hpsearch.errors import DataError, first_line


def arrays_of(
    x: object,
    y: object,
    validation_data: object,
    test_data: object,
    class_names: object,
) -> Arrays:
    """Return what a person gives as one data set, unchecked.

    Args:
        x: The training inputs: an array, a list, a table of pandas or a tensor.
        y: Their labels or one-hot rows.
        validation_data: A pair of inputs and labels; None splits them off the training data.
        test_data: A pair of inputs and labels; None leaves the data set without a test part.
        class_names: A name for each class, or None.

    Raises:
        DataError: Something is no array of numbers, or the class names are no list.
    """
    x_val, y_val = _pair(validation_data, "validation_data")
    x_test, y_test = _pair(test_data, "test_data")
    return Arrays(
        x_train=_array(x, "x"),
        y_train=_array(y, "y"),
        x_test=x_test,
        y_test=y_test,
        class_names=_names(class_names),
        x_val=x_val,
        y_val=y_val,
    )


def with_test(arrays: Arrays, test_data: object) -> Arrays:
    """Return a data set with another test part, which a person gives as a pair (x, y).

    Raises:
        DataError: It is no pair of arrays of numbers.
    """
    x_test, y_test = _pair(test_data, "test_data")
    return replace(arrays, x_test=x_test, y_test=y_test)


def _names(given: object) -> tuple[str, ...] | None:
    """Return the names of the classes in their order."""
    if given is None:
        return None
    has_order = isinstance(given, Iterable) and not isinstance(given, str | bytes | Mapping | Set)
    if not has_order or getattr(given, "ndim", 1) == 0:
        raise DataError(
            f"Expected class_names to be a list with a name for each class, received {given!r:.80}."
        )
    return tuple(str(name) for name in cast("Iterable[object]", given))


def _pair(given: object, name: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the inputs and the labels of a part, both None if there is no such part."""
    if given is None:
        return None, None
    if not isinstance(given, tuple | list):
        kind = type(given).__name__
        raise DataError(f"Expected {name} to be a pair of arrays (x, y), received a {kind}.")
    if len(given) == 3:
        raise DataError(
            f"Expected {name} to be a pair of arrays (x, y), received a third element: sample "
            f"weights cannot be searched with yet."
        )
    if len(given) != 2:
        raise DataError(
            f"Expected {name} to be a pair of arrays (x, y), received {len(given)} elements."
        )
    return _array(given[0], f"x of {name}"), _array(given[1], f"y of {name}")


def _array(given: object, name: str) -> np.ndarray:
    """Return one array of numbers."""
    kind = type(given).__name__
    if given is None:
        raise DataError(f"Expected {name} to be an array of numbers, received None.")
    if _is_stream(given):
        raise DataError(
            f"Expected {name} to be an array of numbers, received a {kind}: data sets and "
            f"generators of batches cannot be searched with yet; give NumPy arrays."
        )
    if isinstance(given, Mapping) or _are_arrays(given):
        raise DataError(
            f"Expected {name} to be one array of numbers, received a {kind} of arrays: models "
            f"with several inputs or outputs cannot be searched yet."
        )
    if np.ma.is_masked(given):
        raise DataError(
            f"Expected {name} to be an array of numbers, received a {kind} with masked values; "
            f"fill them, or leave their examples out."
        )
    try:
        array = np.asarray(given)
        if array.dtype == object:
            array = _numbers_of_table(given, array)
    except Exception as error:  # a library's own conversion may raise anything
        raise DataError(
            f"Expected {name} to be an array of numbers, received a {kind} that NumPy cannot "
            f"convert ({first_line(error)})."
        ) from error
    if array.dtype.kind not in "biuf":
        raise DataError(
            f"Expected {name} to be an array of numbers, received {kind} of {array.dtype}; "
            f"turn texts and categories into numbers first."
        )
    return array


def _is_stream(given: object) -> bool:
    """Return whether an object yields batches, such as a data set of TensorFlow or of Keras."""
    names = {cls.__name__ for cls in type(given).__mro__}
    if names & {"PyDataset", "Dataset", "DatasetV2", "DataLoader", "Sequence"}:
        return True
    return hasattr(given, "__next__") or callable(given)


def _are_arrays(given: object) -> bool:
    """Return whether a list holds arrays, as for several inputs, and not the rows of one."""
    if not isinstance(given, tuple | list):
        return False
    shapes = set()
    for part in given:
        if not hasattr(part, "shape") or len(part.shape) < 2:
            return False
        shapes.add(tuple(part.shape))
    return len(shapes) > 1


def _numbers_of_table(given: object, array: np.ndarray) -> np.ndarray:
    """Return a table of pandas whose columns are all numbers or booleans as one type of number.

    Args:
        given: What the person gave.
        array: NumPy's objects of it, which are returned where it is no such table.
    """
    if type(given).__name__ != "DataFrame":
        return array
    table: Any = given
    kinds = {getattr(dtype, "kind", "O") for dtype in table.dtypes}
    if not kinds <= set("biuf"):
        return array
    if "f" in kinds:
        return np.asarray(table.to_numpy(dtype="float64"))
    return np.asarray(table.to_numpy(dtype="int64"))
