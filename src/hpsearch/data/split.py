"""Check a data set and split its training images into train and val, once for a whole search.

`Data.for_search` returns train and val, `Data.test` the test set. A search receives no test image.
A fingerprint of all parts identifies the data. A data set may bring its own validation part, and
it need not have a test part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.datasets import Arrays, check_files
from hpsearch.data.forms import Images, Labels, inputs_of, labels_of
from hpsearch.errors import DataError


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of a model and the targets that belong to them.

    Attributes:
        inputs: Images, (N, H, W, channels), or other inputs, (N, ...); uint8 or float32.
        targets: Labels, (N,) int32, from 0 to C - 1 for C classes.
    """

    inputs: Images
    targets: Labels

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, eq=False)
class SearchData:
    """All data that a search may use. It holds no test image, so that none can guide a search.

    Attributes:
        name: The name of the data set, which is the first half of a study's name.
        train: The examples that models are fitted to.
        val: The examples that guide the search.
        class_names: One name for each label.
        fingerprint: 16 hexadecimal digits that change with any pixel or label of train, val or
            test, and with the split.
        has_rows: Whether the train targets were given as one-hot rows.
    """

    name: str
    train: Examples
    val: Examples
    class_names: tuple[str, ...]
    fingerprint: str
    has_rows: bool = False

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width and channels of an image; the shape of any other input."""
        return tuple(self.train.inputs.shape[1:])

    @property
    def n_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A data set that is loaded when it is first needed, and then kept.

    Attributes:
        name: The name of the data set.
        load: Returns the arrays, such as `functools.partial(datasets.cifar10, path=None)`.
        path: The path of the files, or None for a source without files. `load` already has it.
        n_train: The number of images to train on, a stratified part for quick tries; None takes
            all images that are not in val.
        n_val: The number of training images in the stratified validation part; None takes a fifth
            of them, but at most 1,000. It changes nothing where the data set brings a validation
            part of its own.
        split_seed: The seed of the split. Val is the same for every `n_train`.
        channel_axis: Whether grey images (N, H, W) become (N, H, W, 1).

    Raises:
        DataError: All methods raise it if the data set is missing, damaged, unfit or too small
            for its parts. `test` also raises it if there is no test part.
    """

    name: str
    load: Callable[[], Arrays]
    path: str | None
    n_train: int | None
    n_val: int | None
    split_seed: int
    channel_axis: bool = True  # as in all configurations that earlier versions have recorded

    def check_files(self) -> None:
        """Raise DataError where the files of the data set are not there, without reading them."""
        check_files(self.load)

    def for_search(self) -> SearchData:
        """Return train, val and their description."""
        return self._parts[0]

    def sizes(self) -> str:
        """Return a sentence that tells how many examples each part has."""
        search, test = self._parts
        n_test = 0
        if test is not None:
            n_test = len(test)
        return (
            f"Data {self.name}: {len(search.train):,} examples to train on, {len(search.val):,} to "
            f"validate, {n_test:,} to test."
        )

    def has_test(self) -> bool:
        """Return whether the data set has a test part."""
        return self._parts[1] is not None

    def test(self) -> Examples:
        """Return the test set, which only an evaluation uses, once."""
        found = self._parts[1]
        if found is None:
            raise DataError(
                f"The data set {self.name} has no test part: add x_test and y_test to evaluate "
                f"models with it."
            )
        return found

    @cached_property
    def _parts(self) -> tuple[SearchData, Examples | None]:
        arrays = self.load()
        whole = checked(arrays, self.name, channel_axis=self.channel_axis)
        train, val = self._split(whole)
        parts = [train, val]
        if whole.test is not None:
            parts.append(whole.test)
        digits = fingerprint(*parts)
        searched = SearchData(
            self.name,
            train,
            val,
            whole.class_names,
            digits,
            whole.has_rows,
        )
        return searched, whole.test

    def _split(self, whole: _Checked) -> tuple[Examples, Examples]:
        """Return train and val."""
        train = whole.train
        labels = train.targets
        if whole.val is None:
            n_val = self.n_val
            if n_val is None:
                n_val = min(1000, len(labels) // 5)
            in_train, in_val = split(labels, self.n_train, n_val, self.split_seed)
            val = Examples(train.inputs[in_val], labels[in_val])
        elif self.n_train is None:
            return train, whole.val
        else:
            val = whole.val
            in_train = _part(labels, self.n_train, self.split_seed)
        return Examples(train.inputs[in_train], labels[in_train]), val


class _Checked(NamedTuple):
    """The parts of a data set, fit for classification.

    Attributes:
        train: The training set, of which val is still a part where there is no `val`.
        test: The test set; None if there is none.
        class_names: A name for each class.
        val: The validation set; None if it is to be split off the training set.
        has_rows: Whether the train targets were given as one-hot rows.
    """

    train: Examples
    test: Examples | None
    class_names: tuple[str, ...]
    val: Examples | None
    has_rows: bool


def checked(arrays: Arrays, name: str, *, channel_axis: bool = True) -> _Checked:
    """Return the parts of a data set and the class names, fit for classification.

    `forms` says which types inputs and labels get. Inputs of uint8 are not copied.

    Args:
        arrays: The data set as it was loaded.
        name: Its name, for messages.
        channel_axis: Whether grey images (N, H, W) become (N, H, W, 1).

    Raises:
        DataError: No classifier could use a shape, dtype, number of labels, label or value.
    """
    given = {
        "train": (arrays.x_train, arrays.y_train),
        "val": (arrays.x_val, arrays.y_val),
        "test": (arrays.x_test, arrays.y_test),
    }
    parts: dict[str, Examples] = {}
    n_columns: dict[str, int | None] = {}
    for part, (inputs, targets) in given.items():
        if inputs is None or targets is None:
            continue
        x = inputs_of(inputs, name, f"x_{part}", channel_axis=channel_axis)
        found = labels_of(targets, name, f"y_{part}")
        parts[part] = Examples(x, found.labels)
        n_columns[part] = found.n_columns
    _check_alike(parts, name)
    class_names = _class_names(arrays.class_names, parts, n_columns, name)
    return _Checked(
        parts["train"],
        parts.get("test"),
        class_names,
        parts.get("val"),
        has_rows=n_columns["train"] is not None,
    )


def _check_alike(parts: Mapping[str, Examples], name: str) -> None:
    """Raise DataError if the parts do not fit each other."""
    for part, examples in parts.items():
        n_images = len(examples.inputs)
        n_labels = len(examples)
        if n_images != n_labels:
            raise DataError(
                f"Expected as many labels in y_{part} as images in x_{part} of {name}, "
                f"received {n_labels:,} labels for {n_images:,} images."
            )
    train = parts["train"].inputs
    of_train = f"{train.shape[1:]} {train.dtype}"
    for part, examples in parts.items():
        of_part = f"{examples.inputs.shape[1:]} {examples.inputs.dtype}"
        if of_train != of_part:
            raise DataError(
                f"Expected images of one shape and dtype in x_train and x_{part} of {name}, "
                f"received {of_train} and {of_part}."
            )


def _class_names(
    names: tuple[str, ...] | None,
    parts: Mapping[str, Examples],
    n_columns: Mapping[str, int | None],
    name: str,
) -> tuple[str, ...]:
    """Return a name for each class; raise DataError if the labels are not exactly the classes."""
    present = set(np.unique(parts["train"].targets).tolist())
    n_classes = n_columns["train"] or max(present) + 1
    if names is not None:
        n_classes = len(names)
    if n_classes < 2:
        raise DataError(f"Expected at least 2 classes in {name}, received {n_classes}.")
    _check_columns(n_columns, n_classes, name)
    for part, examples in parts.items():
        highest = int(examples.targets.max())
        if highest >= n_classes:
            raise DataError(
                f"Expected labels from 0 to {n_classes - 1} for the {n_classes} classes of {name}, "
                f"received label {highest} in y_{part}."
            )
    for label in range(n_classes):
        if label not in present:
            raise DataError(
                f"Expected a training image of each of the {n_classes} classes of {name}, received "
                f"none of class {label}; number the classes without gaps."
            )
    if names is not None:
        return names
    return tuple(str(label) for label in range(n_classes))


def _check_columns(n_columns: Mapping[str, int | None], n_classes: int, name: str) -> None:
    """Raise DataError if one-hot rows have not a column for each class."""
    for part, n_found in n_columns.items():
        if n_found not in (None, n_classes):
            raise DataError(
                f"Expected one-hot rows of {n_classes} columns, one for each class of {name}, "
                f"received {n_found} columns in y_{part}."
            )


def split(
    labels: Labels,
    n_train: int | None,
    n_val: int,
    seed: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending indices of a stratified train part and val part.

    Each class has its share of a part to within one image. The integers of PCG64 never change for
    a seed, and so the split never changes either. Val is taken first, so it is the same for every
    `n_train`.

    Args:
        labels: The labels of all training images, (N,).
        n_train: The size of the train part; None takes all images that are not in val.
        n_val: The size of the val part.
        seed: An integer from 0 on.

    Raises:
        DataError: There are too few labels for these parts.
    """
    counts = np.bincount(labels)
    n_labels = len(labels)
    _check_sizes(n_labels, len(counts), n_train, n_val, seed)
    if n_train is None:
        n_train = n_labels - n_val
    val_counts = _shares(n_val, counts)
    train_counts = _shares(n_train, counts - val_counts)
    if train_counts.min() == 0:
        rare = int(train_counts.argmin())
        raise DataError(
            f"Expected data.n_train={n_train} and data.n_val={n_val} to leave a training image of "
            f"each class, received none of class {rare}, which has {counts[rare]} of {n_labels}; "
            f"add images or train on more."
        )
    return _drawn(labels, train_counts, val_counts, seed)


def _part(labels: Labels, n_train: int, seed: int) -> NDArray[np.intp]:
    """Return the ascending indices of a stratified part of a train set that has its own val."""
    counts = np.bincount(labels)
    n_labels = len(labels)
    n_classes = len(counts)
    if not isinstance(n_train, int) or not n_classes <= n_train <= n_labels:
        raise DataError(
            f"Expected data.n_train to be null (all) or a whole number from {n_classes} (the "
            f"classes) to {n_labels} (all training examples), received {n_train!r}."
        )
    _check_seed(seed)
    left_out = _shares(n_labels - n_train, counts)
    kept = counts - left_out
    if kept.min() == 0:
        rare = int(kept.argmin())
        raise DataError(
            f"Expected data.n_train={n_train} to leave a training example of each class, received "
            f"none of class {rare}, which has {counts[rare]} of {n_labels}; train on more."
        )
    in_train, _ = _drawn(labels, kept, left_out, seed)
    return in_train


def _drawn(
    labels: Labels,
    train_counts: NDArray[np.intp],
    val_counts: NDArray[np.intp],
    seed: int,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the ascending indices of two parts that hold so many examples of each class."""
    keys = np.random.PCG64(seed).random_raw(len(labels))
    in_train = []
    in_val = []
    for label in range(len(train_counts)):
        members = np.flatnonzero(labels == label)
        order = np.argsort(keys[members], kind="stable")
        members = members[order]
        start = val_counts[label]
        end = start + train_counts[label]
        in_val.append(members[:start])
        in_train.append(members[start:end])
    train = np.concatenate(in_train)
    val = np.concatenate(in_val)
    return np.sort(train), np.sort(val)


def _check_sizes(
    n: int,
    n_classes: int,
    n_train: int | None,
    n_val: int,
    seed: int,
) -> None:
    most_val = n - n_classes
    if not isinstance(n_val, int) or not n_classes <= n_val <= most_val:
        raise DataError(
            f"Expected data.n_val to be an integer from {n_classes} (the classes) to {most_val} "
            f"({n} images less one a class to train on), received {n_val!r}."
        )
    if n_train is not None:
        most_train = n - n_val
        if not isinstance(n_train, int) or not n_classes <= n_train <= most_train:
            raise DataError(
                f"Expected data.n_train to be null (all) or an integer from {n_classes} (the "
                f"classes) to {most_train} (what data.n_val={n_val} leaves of {n} images), "
                f"received {n_train!r}."
            )
    _check_seed(seed)


def _check_seed(seed: int) -> None:
    if not isinstance(seed, int) or seed < 0:
        raise DataError(f"Expected data.split_seed to be an integer from 0 on, received {seed!r}.")


def _shares(n: int, counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return each class's share of `n` places, in proportion to `counts`, by largest remainder.

    The sum of the shares is exactly `n`.
    """
    shares, remainders = np.divmod(n * counts, counts.sum())
    n_left = n - shares.sum()
    most = np.argsort(-remainders, kind="stable")[:n_left]
    shares[most] += 1
    return shares


def fingerprint(*parts: Examples) -> str:
    """Return a fingerprint of parts of a data set, 16 hexadecimal digits.

    They are the first of the SHA-256 of the parts' shapes, dtypes and bytes, in order.
    """
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.inputs, part.targets):
            header = f"{array.shape} {array.dtype.str};"
            digest.update(header.encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
