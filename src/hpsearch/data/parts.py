"""Draw stratified parts of labelled examples: train, val and a calibration part.

`split` draws all three, `split_beside_val` train and the calibration part of a data set that brings
a val of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.forms import Labels
from hpsearch.errors import DataError

_MOST_CALIBRATION = 1000
# With 50 examples, chance moves a coverage of 90 % by 4 points (standard deviation).
_FEWEST_CALIBRATION = 50


def split(
    labels: Labels,
    n_train: int | None,
    n_val: int,
    seed: int,
    n_calibration: int | None = 0,
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending indices of a stratified train part, val part and calibration part.

    Each class has its share of a part to within one example. The integers of PCG64 never change for
    a seed, and so the split never changes either. Val is taken first, then train, so val is the
    same for every `n_train`, and train with a given `n_train` the same for every `n_calibration`.

    Args:
        labels: The labels of all training examples, (N,).
        n_train: The size of the train part; None takes all examples that are in no other part.
        n_val: The size of the val part.
        seed: An integer from 0 on.
        n_calibration: The size of the calibration part; None chooses it as `Data` says.

    Raises:
        DataError: There are too few labels for these parts.
    """
    counts = np.bincount(labels)
    n_labels = len(labels)
    _check_sizes(n_labels, len(counts), n_train, n_val)
    _check_seed(seed)
    val_counts = _shares(n_val, counts)
    left = counts - val_counts
    if n_calibration is None:
        n_calibration = _n_calibration(n_train, left)
    _check_calibration(n_calibration, n_train, left)
    if n_train is None:
        n_train = n_labels - n_val - n_calibration
    train_counts = _shares(n_train, left)
    if train_counts.min() == 0:
        rare = int(train_counts.argmin())
        raise DataError(
            f"Expected data.n_train={n_train}, data.n_val={n_val} and "
            f"data.n_calibration={n_calibration} to leave a training example of each class, "
            f"received none of class {rare}, which has {counts[rare]} of {n_labels}; add examples "
            f"or train on more."
        )
    after = val_counts + train_counts
    calibration_counts = _shares(n_calibration, counts - after)
    members = _members(labels, seed)
    train = _taken(members, val_counts, train_counts)
    val = _taken(members, np.zeros_like(counts), val_counts)
    return train, val, _taken(members, after, calibration_counts)


def _n_calibration(n_train: int | None, left: NDArray[np.intp]) -> int:
    """Return the size of the calibration part where none is given.

    Args:
        n_train: The size of the train part; None takes all examples that are in no other part.
        left: How many examples of each class are not in val, (C,).
    """
    n_left = int(left.sum())
    size = min(_MOST_CALIBRATION, n_left // 10)
    if n_train is not None:
        size = min(size, n_left - n_train)
    has_train = n_train is not None or _shares(n_left - size, left).min() > 0
    if size < _FEWEST_CALIBRATION or not has_train:
        return 0
    return size


def split_beside_val(
    labels: Labels,
    n_train: int | None,
    n_calibration: int,
    seed: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending indices of stratified parts of a train set that has its own val.

    They are the train part and the calibration part, as of `split`.
    """
    counts = np.bincount(labels)
    n_labels = len(labels)
    n_classes = len(counts)
    is_size = isinstance(n_train, int) and n_classes <= n_train <= n_labels
    if n_train is not None and not is_size:
        raise DataError(
            f"Expected data.n_train to be null (all) or a whole number from {n_classes} (the "
            f"classes) to {n_labels} (all training examples), received {n_train!r}."
        )
    _check_seed(seed)
    _check_calibration(n_calibration, n_train, counts)
    if n_train is None:
        n_train = n_labels - n_calibration
    left_out = _shares(n_labels - n_train, counts)
    kept = counts - left_out
    if kept.min() == 0:
        rare = int(kept.argmin())
        raise DataError(
            f"Expected data.n_train={n_train} and data.n_calibration={n_calibration} to leave a "
            f"training example of each class, received none of class {rare}, which has "
            f"{counts[rare]} of {n_labels}; train on more."
        )
    members = _members(labels, seed)
    calibration_counts = _shares(n_calibration, left_out)
    calibration = _taken(members, np.zeros_like(counts), calibration_counts)
    return _taken(members, left_out, kept), calibration


def _members(labels: Labels, seed: int) -> list[NDArray[np.intp]]:
    """Return the indices of the examples of each class in an order that the seed decides."""
    keys = np.random.PCG64(seed).random_raw(len(labels))
    found = []
    for label in range(int(labels.max()) + 1):
        members = np.flatnonzero(labels == label)
        order = np.argsort(keys[members], kind="stable")
        found.append(members[order])
    return found


def _taken(
    members: list[NDArray[np.intp]],
    starts: NDArray[np.intp],
    counts: NDArray[np.intp],
) -> NDArray[np.intp]:
    """Return the ascending indices of so many members of each class from some place on."""
    taken = []
    for of_class, start, count in zip(members, starts, counts, strict=True):
        taken.append(of_class[start : start + count])
    return np.sort(np.concatenate(taken))


def _check_sizes(
    n: int,
    n_classes: int,
    n_train: int | None,
    n_val: int,
) -> None:
    most_val = n - n_classes
    if not isinstance(n_val, int) or not n_classes <= n_val <= most_val:
        raise DataError(
            f"Expected data.n_val to be an integer from {n_classes} (the classes) to {most_val} "
            f"({n} examples less one a class to train on), received {n_val!r}."
        )
    if n_train is not None:
        most_train = n - n_val
        if not isinstance(n_train, int) or not n_classes <= n_train <= most_train:
            raise DataError(
                f"Expected data.n_train to be null (all) or an integer from {n_classes} (the "
                f"classes) to {most_train} (what data.n_val={n_val} leaves of {n} examples), "
                f"received {n_train!r}."
            )


def _check_calibration(
    n_calibration: int,
    n_train: int | None,
    left: NDArray[np.intp],
) -> None:
    """Raise DataError for a calibration part that the examples of each class, (C,), do not have."""
    least = n_train
    if n_train is None:
        least = len(left)  # a training example of each class
    most = left.sum() - least
    if not isinstance(n_calibration, int) or not 0 <= n_calibration <= most:
        raise DataError(
            f"Expected data.n_calibration to be null (chosen by size) or an integer from 0 to "
            f"{most} (what validation and training leave), received {n_calibration!r}."
        )


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise DataError(f"Expected data.split_seed to be an integer from 0 on, received {seed!r}.")


def _shares(n: int, counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return each class's share of `n` places, in proportion to `counts`, by largest remainder.

    The sum of the shares is exactly `n`.
    """
    if n == 0:
        return np.zeros_like(counts)
    shares, remainders = np.divmod(n * counts, counts.sum())
    n_left = n - shares.sum()
    most = np.argsort(-remainders, kind="stable")[:n_left]
    shares[most] += 1
    return shares
