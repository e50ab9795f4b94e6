"""Take the arrays that a person gives to `hpsearch.search`, and refuse what is no array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hpsearch.data.datasets import Arrays
from hpsearch.errors import DataError, first_line


def arrays_of(
    x: object,
    y: object,
    validation_data: object,
    test_data: object,
    class_names: Sequence[str] | None,
) -> Arrays:
    """Return what a person gives as one data set, unchecked.

    Args:
        x: The training inputs: an array, a list, a table of pandas or a tensor.
        y: Their labels or one-hot rows.
        validation_data: A pair of inputs and labels; None splits them off the training data.
        test_data: A pair of inputs and labels; None leaves the data set without a test part.
        class_names: A name for each class, or None.

    Raises:
        DataError: Something is no array of numbers.
    """
    x_val, y_val = _pair(validation_data, "validation_data")
    x_test, y_test = _pair(test_data, "test_data")
    names = None
    if class_names is not None:
        names = tuple(str(name) for name in class_names)
    return Arrays(
        x_train=_array(x, "x"),
        y_train=_array(y, "y"),
        x_test=x_test,
        y_test=y_test,
        class_names=names,
        x_val=x_val,
        y_val=y_val,
    )


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
    several = isinstance(given, tuple | list) and any(np.ndim(part) > 1 for part in given[:1])
    if isinstance(given, Mapping) or (several and _are_arrays(given)):
        raise DataError(
            f"Expected {name} to be one array of numbers, received a {kind} of arrays: models "
            f"with several inputs or outputs cannot be searched yet."
        )
    try:
        array = np.asarray(given)
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
    return all(hasattr(part, "shape") for part in given) and len({np.shape(p) for p in given}) > 1
