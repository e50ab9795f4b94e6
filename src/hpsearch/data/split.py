"""A data set for a search: checked, split once into train and val, fingerprinted; test stays out of
reach.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.datasets import Arrays
from hpsearch.errors import DataError

Images = NDArray[np.uint8] | NDArray[np.float32]
Labels = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Examples:
    """Images (N, H, W, C), uint8 or float32, and their labels (N,), int32 in 0 .. C_classes - 1."""

    images: Images
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class SearchData:
    """All that a search may see: it holds no test image, so that no search can be guided by one.

    Attributes:
        name: The data set's name, the first half of a study's name.
        train: What models are fitted to.
        val: What guides the search.
        class_names: One name a label.
        fingerprint: 16 hexadecimal digits that change with any pixel, label or split of train, val
            or test.
    """

    name: str
    train: Examples
    val: Examples
    class_names: tuple[str, ...]
    fingerprint: str

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        height, width, channels = self.train.images.shape[1:]
        return height, width, channels

    @property
    def n_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)


class Data:
    """Loads a data set at the first request and keeps it.

    Args:
        name: The data set's name.
        load: Returns the arrays, such as `functools.partial(datasets.cifar10, path=None)`.
        path: Where the files are, None for a source that needs none; `load` already knows it.
        n_train: How many images to train on, a stratified part for quick tries; None takes all that
            are not in val.
        n_val: How many of the training images make the validation part, stratified.
        split_seed: Another seed, another split; val is the same for every n_train.

    Raises:
        DataError: From both methods, where the data set is missing, damaged, unfit or too small for
            its parts.
    """

    def __init__(
        self,
        *,
        name: str,
        load: Callable[[], Arrays],
        path: str | None,
        n_train: int | None,
        n_val: int,
        split_seed: int,
    ) -> None:
        self.name = name
        self.path = path
        self._load = load
        self._n_train = n_train
        self._n_val = n_val
        self._split_seed = split_seed

    def for_search(self) -> SearchData:
        """Return train and val with what describes them."""
        return self._parts[0]

    def test(self) -> Examples:
        """Return the test set, which an evaluation touches once."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[SearchData, Examples]:
        whole, test, class_names = checked(self._load(), self.name)
        in_train, in_val = split(whole.labels, self._n_train, self._n_val, self._split_seed)
        train = Examples(whole.images[in_train], whole.labels[in_train])
        val = Examples(whole.images[in_val], whole.labels[in_val])
        return SearchData(self.name, train, val, class_names, fingerprint(train, val, test)), test


def checked(arrays: Arrays, name: str) -> tuple[Examples, Examples, tuple[str, ...]]:
    """Return the training set, the test set and the class names, fit for classification.

    Grey images get a channel axis, float images become float32 and labels (N,) int32; uint8 images
    are not copied.

    Raises:
        DataError: A shape, dtype, number, label or value that no classifier could use.
    """
    train = Examples(
        _images(arrays.x_train, name, "x_train"), _labels(arrays.y_train, name, "y_train")
    )
    test = Examples(_images(arrays.x_test, name, "x_test"), _labels(arrays.y_test, name, "y_test"))
    for part, examples in (("train", train), ("test", test)):
        n_images, n_labels = len(examples.images), len(examples.labels)
        if n_images != n_labels:
            raise DataError(
                f"Expected as many labels in y_{part} as images in x_{part} of {name}, "
                f"received {n_labels:,} labels for {n_images:,} images."
            )
    if train.images.shape[1:] != test.images.shape[1:] or train.images.dtype != test.images.dtype:
        raise DataError(
            f"Expected images of one shape and dtype in x_train and x_test of {name}, received "
            f"{train.images.shape[1:]} {train.images.dtype} and {test.images.shape[1:]} "
            f"{test.images.dtype}."
        )
    return train, test, _class_names(arrays.class_names, train.labels, test.labels, name)


def _images(images: NDArray[Any], name: str, key: str) -> Images:
    expected = f"Expected {key} of {name} to hold images (N, H, W, C), or grey ones (N, H, W), of uint8 or float values"
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
    with np.errstate(over="ignore"):  # a value beyond float32 becomes infinite and is refused below
        images = images.astype(np.float32, copy=False)
    n_bad = images.size - int(np.count_nonzero(np.isfinite(images)))
    if n_bad:
        raise DataError(
            f"Expected finite values in {key} of {name}, received {n_bad:,} that are NaN or "
            f"infinite."
        )
    return images


def _labels(labels: NDArray[Any], name: str, key: str) -> Labels:
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
    if labels.min() < 0 or labels.max() > np.iinfo(np.int32).max:
        raise DataError(f"{expected}, received values from {labels.min()} to {labels.max()}.")
    return labels.astype(np.int32, copy=False)


def _class_names(
    names: tuple[str, ...] | None, train: Labels, test: Labels, name: str
) -> tuple[str, ...]:
    """Return a name a class, after a look whether the labels use exactly the classes that there
    are.
    """
    present = set(np.unique(train).tolist())
    n_classes = max(present) + 1 if names is None else len(names)
    if n_classes < 2:
        raise DataError(f"Expected at least 2 classes in {name}, received {n_classes}.")
    for key, highest in (("y_train", max(present)), ("y_test", int(test.max()))):
        if highest >= n_classes:
            raise DataError(
                f"Expected labels from 0 to {n_classes - 1} for the {n_classes} classes of {name}, "
                f"received label {highest} in {key}."
            )
    if len(present) < n_classes:
        absent = next(label for label in range(n_classes) if label not in present)
        raise DataError(
            f"Expected a training image of each of the {n_classes} classes of {name}, received "
            f"none of class {absent}; "
            "number the classes without gaps."
        )
    return names or tuple(str(label) for label in range(n_classes))


def split(
    labels: Labels, n_train: int | None, n_val: int, seed: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the indices, ascending, of a stratified train and val part of `labels` (N,).

    Each class has its share of a part to within one image. PCG64's stream of integers never changes
    for a seed, so neither does the split. Val is taken first, so it is the same for every n_train.

    Raises:
        DataError: The labels are too few for these parts.
    """
    counts = np.bincount(labels)
    _check_sizes(len(labels), len(counts), n_train, n_val, seed)
    of_val = _shares(n_val, counts)
    of_train = _shares(len(labels) - n_val if n_train is None else n_train, counts - of_val)
    if of_train.min() == 0:
        rare = int(of_train.argmin())
        raise DataError(
            f"Expected data.n_train={of_train.sum()} and data.n_val={n_val} to leave a training "
            f"image of each class, "
            f"received none of class {rare}, which has {counts[rare]} of {len(labels)}; add images "
            f"or train on more."
        )
    keys = np.random.PCG64(seed).random_raw(len(labels))
    in_train, in_val = [], []
    for label, (v, t) in enumerate(zip(of_val, of_train, strict=True)):
        members = np.flatnonzero(labels == label)
        members = members[np.argsort(keys[members], kind="stable")]
        in_val.append(members[:v])
        in_train.append(members[v : v + t])
    return np.sort(np.concatenate(in_train)), np.sort(np.concatenate(in_val))


def _check_sizes(n: int, n_classes: int, n_train: int | None, n_val: int, seed: int) -> None:
    if not isinstance(n_val, int) or not n_classes <= n_val <= n - n_classes:
        raise DataError(
            f"Expected data.n_val to be an integer from {n_classes} (the classes) to "
            f"{n - n_classes} ({n} images less "
            f"one a class to train on), received {n_val!r}."
        )
    if n_train is not None and not (isinstance(n_train, int) and n_classes <= n_train <= n - n_val):
        raise DataError(
            f"Expected data.n_train to be null (all) or an integer from {n_classes} (the classes) "
            f"to {n - n_val} (what "
            f"data.n_val={n_val} leaves of {n} images), received {n_train!r}."
        )
    if not isinstance(seed, int) or seed < 0:
        raise DataError(f"Expected data.split_seed to be an integer from 0 on, received {seed!r}.")


def _shares(n: int, counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Share `n` places among classes in proportion to `counts`, by largest remainder; the sum is
    exactly `n`.
    """
    shares, remainders = np.divmod(n * counts, counts.sum())
    most = np.argsort(-remainders, kind="stable")[: n - shares.sum()]
    shares[most] += 1
    return shares


def fingerprint(*parts: Examples) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the parts' shapes, dtypes and bytes, in order."""
    digest = hashlib.sha256()
    for part in parts:
        for array in (part.images, part.labels):
            digest.update(f"{array.shape} {array.dtype.str};".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]
