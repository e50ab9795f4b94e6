"""Check a data set and split its training images into train and val, once for a whole search.

`Data.for_search` returns train and val, `Data.test` the test set. A search receives no test image.
A fingerprint of all three parts identifies the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.datasets import Arrays
from hpsearch.errors import DataError

Images = NDArray[np.number]  # pixels, (N, H, W, channels)
Labels = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of a model and the targets that belong to them.

    Attributes:
        inputs: Images, (N, H, W, channels), uint8 or float32.
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
    """

    name: str
    train: Examples
    val: Examples
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels."""
        _, height, width, channels = self.train.inputs.shape
        return height, width, channels

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
        n_val: The number of training images in the stratified validation part.
        split_seed: The seed of the split. Val is the same for every `n_train`.

    Raises:
        DataError: Both methods raise it if the data set is missing, damaged, unfit or too small
            for its parts.
    """

    name: str
    load: Callable[[], Arrays]
    path: str | None
    n_train: int | None
    n_val: int
    split_seed: int

    def for_search(self) -> SearchData:
        """Return train, val and their description."""
        return self._parts[0]

    def test(self) -> Examples:
        """Return the test set, which only an evaluation uses, once."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[SearchData, Examples]:
        whole, test, class_names = checked(self.load(), self.name)
        in_train, in_val = split(
            whole.targets,
            self.n_train,
            self.n_val,
            self.split_seed,
        )
        train = Examples(whole.inputs[in_train], whole.targets[in_train])
        val = Examples(whole.inputs[in_val], whole.targets[in_val])
        digits = fingerprint(train, val, test)
        searched = SearchData(
            self.name,
            train,
            val,
            class_names,
            digits,
        )
        return searched, test


def checked(arrays: Arrays, name: str) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Return the training set, the test set and the class names, fit for classification.

    Grey images get a channel axis. Float images become float32, and labels (N,) int32. Images of
    uint8 are not copied.

    Args:
        arrays: The data set as it was loaded.
        name: Its name, for messages.

    Raises:
        DataError: No classifier could use a shape, dtype, number of labels, label or value.
    """
    train = Examples(
        _images(arrays.x_train, name, "x_train"),
        _labels(arrays.y_train, name, "y_train"),
    )
    test = Examples(
        _images(arrays.x_test, name, "x_test"),
        _labels(arrays.y_test, name, "y_test"),
    )
    for part, examples in (("train", train), ("test", test)):
        n_images = len(examples.inputs)
        n_labels = len(examples)
        if n_images != n_labels:
            raise DataError(
                f"Expected as many labels in y_{part} as images in x_{part} of {name}, "
                f"received {n_labels:,} labels for {n_images:,} images."
            )
    of_train = f"{train.inputs.shape[1:]} {train.inputs.dtype}"
    of_test = f"{test.inputs.shape[1:]} {test.inputs.dtype}"
    if of_train != of_test:
        raise DataError(
            f"Expected images of one shape and dtype in x_train and x_test of {name}, received "
            f"{of_train} and {of_test}."
        )
    class_names = _class_names(
        arrays.class_names,
        train.targets,
        test.targets,
        name,
    )
    return train, test, class_names


def _images(images: np.ndarray, name: str, key: str) -> Images:
    expected = (
        f"Expected {key} of {name} to hold images (N, H, W, C), or grey ones (N, H, W), of uint8 "
        f"or float values"
    )
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0:
        raise DataError(f"{expected}, received shape {images.shape}.")
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind != "f":
        raise DataError(
            f"{expected}, received {images.dtype}; convert them with astype('uint8') or "
            f"astype('float32')."
        )
    # A value beyond the range of float32 becomes infinite, which is an error below.
    with np.errstate(over="ignore"):
        images = images.astype(np.float32, copy=False)
    n_bad = np.count_nonzero(~np.isfinite(images))
    if n_bad > 0:
        raise DataError(
            f"Expected finite values in {key} of {name}, received {n_bad:,} that are NaN or "
            f"infinite."
        )
    return images


def _labels(labels: np.ndarray, name: str, key: str) -> Labels:
    expected = f"Expected {key} of {name} to hold integer labels (N,) from 0 on"
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.size == 0:
        raise DataError(
            f"{expected}, received shape {labels.shape}; one-hot rows become labels with "
            f"argmax(axis=1)."
        )
    if labels.dtype.kind not in "iu":
        raise DataError(f"{expected}, received {labels.dtype}; convert them with astype('int32').")
    lowest = labels.min()
    highest = labels.max()
    if lowest < 0 or highest > np.iinfo(np.int32).max:
        raise DataError(f"{expected}, received values from {lowest} to {highest}.")
    return labels.astype(np.int32, copy=False)


def _class_names(
    names: tuple[str, ...] | None,
    train: Labels,
    test: Labels,
    name: str,
) -> tuple[str, ...]:
    """Return a name for each class; raise DataError if the labels are not exactly the classes."""
    present = set(np.unique(train).tolist())
    n_classes = max(present) + 1
    if names is not None:
        n_classes = len(names)
    if n_classes < 2:
        raise DataError(f"Expected at least 2 classes in {name}, received {n_classes}.")
    largest = {
        "y_train": max(present),
        "y_test": int(test.max()),
    }
    for key, highest in largest.items():
        if highest >= n_classes:
            raise DataError(
                f"Expected labels from 0 to {n_classes - 1} for the {n_classes} classes of {name}, "
                f"received label {highest} in {key}."
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
    keys = np.random.PCG64(seed).random_raw(n_labels)
    in_train = []
    in_val = []
    for label in range(len(counts)):
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
