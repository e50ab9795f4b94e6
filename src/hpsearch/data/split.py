"""Check a data set and split its training examples into train, val and a calibration part.

This is done once for a whole search. `Data.for_search` returns these parts, `Data.test` the test
set. A search receives no test example, and it uses the calibration part for nothing but the
thresholds of a registered model.
A fingerprint of all parts identifies the data. A data set may bring its own validation part, and
it need not have a test part.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.datasets import Arrays, check_files
from hpsearch.data.forms import Images, Labels, inputs_of, labels_of
from hpsearch.data.parts import split, split_beside_val
from hpsearch.data.pixel_range import PixelRange
from hpsearch.errors import DataError

_LEAST_SPAN = 0.05  # share of a given range that the training images must span


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

    def part(self, indices: NDArray[np.intp]) -> Examples:
        """Return the examples of some indices, (M,)."""
        return Examples(self.inputs[indices], self.targets[indices])


@dataclass(frozen=True, eq=False)
class SearchData:
    """All data that a search may use. It holds no test example, so that none can guide a search.

    Attributes:
        name: The name of the data set, which is the first half of a study's name.
        train: The examples that models are fitted to.
        val: The examples that guide the search.
        class_names: One name for each label.
        fingerprint: 16 hexadecimal digits that change with any value or label of train, val,
            calibration or test, and with the split.
        has_rows: Whether the train targets were given as one-hot rows.
        calibration: The examples on which thresholds and temperatures are fitted, which guide no
            search; None if there is no such part.
        pixel_range: The values of black and white in the inputs; None if they are unknown.
    """

    name: str
    train: Examples
    val: Examples
    class_names: tuple[str, ...]
    fingerprint: str
    has_rows: bool = False
    calibration: Examples | None = None
    pixel_range: PixelRange | None = None

    @property
    def parts(self) -> list[Examples]:
        """Train, val and, if there is one, the calibration part."""
        found = [self.train, self.val]
        if self.calibration is not None:
            found.append(self.calibration)
        return found

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
        n_train: The number of examples to train on, a stratified part for quick tries; None takes
            all that are in no other part.
        n_val: The number of training examples in the stratified validation part; None takes a fifth
            of them, but at most 1,000. It changes nothing where the data set brings a validation
            part of its own.
        split_seed: The seed of the split. Val is the same for every `n_train` and `n_calibration`.
        n_calibration: The number of training examples in the stratified calibration part. None
            takes a tenth of those that are not in val, but at most 1,000 and what `n_train` leaves.
            It takes none where these would be fewer than 50, where a class would be left without
            a training example, and where the data set brings a validation part of its own.
        channel_axis: Whether grey images (N, H, W) become (N, H, W, 1).
        range: The values of black and white in the inputs, `[LOW, HIGH]`, or a list of each for
            the channels. None lets the training images prove them.

    Raises:
        ConfigError: `range` is no such pair.
        DataError: All methods raise it if the data set is missing, damaged, unfit or too small
            for its parts. `test` also raises it if there is no test part.
    """

    name: str
    load: Callable[[], Arrays]
    path: str | None
    n_train: int | None
    n_val: int | None
    split_seed: int
    # The defaults are those of all configurations that earlier versions have recorded.
    channel_axis: bool = True
    n_calibration: int | None = 0
    range: Sequence[float | Sequence[float]] | None = None

    def __post_init__(self) -> None:
        """Refuse a range that is none."""
        if self.range is not None:
            PixelRange.given(self.range)

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
        n_calibration = 0
        if search.calibration is not None:
            n_calibration = len(search.calibration)
        return (
            f"Data {self.name}: {len(search.train):,} examples to train on, {len(search.val):,} to "
            f"validate, {n_calibration:,} to calibrate, {n_test:,} to test."
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
        train, val, calibration = self._split(whole)
        searched = SearchData(
            self.name,
            train,
            val,
            whole.class_names,
            "",
            whole.has_rows,
            calibration,
            pixel_range=self._pixel_range(whole),
        )
        parts = searched.parts
        if whole.test is not None:
            parts.append(whole.test)
        return replace(searched, fingerprint=fingerprint(*parts)), whole.test

    def _pixel_range(self, whole: _Checked) -> PixelRange | None:
        """Return the range that is given, or else the one that the training images prove."""
        if self.range is None:
            return PixelRange.proved_by(whole.train.inputs)
        given = PixelRange.given(self.range)
        parts = {"train": whole.train, "val": whole.val, "test": whole.test}
        for part, examples in parts.items():
            if examples is not None and not given.is_of(examples.inputs):
                inputs = examples.inputs
                raise DataError(
                    f"Expected x_{part} of {self.name} within data.range={given.written()}, "
                    f"received values from {inputs.min():.4g} to {inputs.max():.4g} in "
                    f"{inputs.shape[-1]} channels."
                )
        lowest = float(whole.train.inputs.min())
        highest = float(whole.train.inputs.max())
        if highest - lowest < _LEAST_SPAN * (max(given.high) - min(given.low)):
            raise DataError(
                f"Expected x_train of {self.name} to reach from black to white of "
                f"data.range={given.written()}, received values from {lowest:.4g} to "
                f"{highest:.4g}: give the values that mean black and white in these data."
            )
        return given

    def _split(self, whole: _Checked) -> tuple[Examples, Examples, Examples | None]:
        """Return train, val and the calibration part."""
        train = whole.train
        labels = train.targets
        val = whole.val
        if val is None:
            n_val = self.n_val
            if n_val is None:
                n_val = min(1000, len(labels) // 5)
            in_train, in_val, in_calibration = split(
                labels,
                self.n_train,
                n_val,
                self.split_seed,
                self.n_calibration,
            )
            val = train.part(in_val)
        elif self.n_train is None and not self.n_calibration:
            return train, val, None
        else:
            in_train, in_calibration = split_beside_val(
                labels,
                self.n_train,
                self.n_calibration or 0,
                self.split_seed,
            )
        calibration = None
        if len(in_calibration) > 0:
            calibration = train.part(in_calibration)
        return train.part(in_train), val, calibration


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
        n_inputs = len(examples.inputs)
        n_labels = len(examples)
        if n_inputs != n_labels:
            raise DataError(
                f"Expected as many labels in y_{part} as examples in x_{part} of {name}, "
                f"received {n_labels:,} labels for {n_inputs:,} examples."
            )
    train = parts["train"].inputs
    of_train = f"{train.shape[1:]} {train.dtype}"
    for part, examples in parts.items():
        of_part = f"{examples.inputs.shape[1:]} {examples.inputs.dtype}"
        if of_train != of_part:
            raise DataError(
                f"Expected inputs of one shape and dtype in x_train and x_{part} of {name}, "
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
                f"Expected a training example of each of the {n_classes} classes of {name}, "
                f"received none of class {label}; number the classes without gaps."
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
