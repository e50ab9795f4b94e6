"""Which values in images mean black and white, decided by the data that a model is trained on.

Corruptions, unknown images and pictures on a page need this. A batch of images cannot tell it: a
dark one of values up to 255 looks like a bright one of values up to 100. So the range is
proved by the train part of a data set, or a person gives it as `data.range`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpsearch.data.forms import Images
from hpsearch.errors import ConfigError

Bytes = NDArray[np.uint8]
_NEAR = 0.05  # distance from 0 and from 1 within which values come near to them


@dataclass(frozen=True)
class PixelRange:
    """The values of black and of white in images.

    Attributes:
        low: Black: one value, or one for each channel.
        high: White, in as many values.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @classmethod
    def given(cls, setting: object) -> PixelRange:
        """Return the range that the setting `data.range` says.

        Args:
            setting: `[LOW, HIGH]`, each a number or a list with a number for each channel.

        Raises:
            ConfigError: It is something else, or black is not below white.
        """
        try:
            low, high = map(_values, setting)  # type: ignore[call-overload]
            found = cls(low, high)
            is_right = len(found.low) == len(found.high) > 0
            pairs = zip(found.low, found.high, strict=True)
            is_right = is_right and all(-np.inf < a < b < np.inf for a, b in pairs)
        except (TypeError, ValueError):
            is_right = False
        if not is_right:
            raise ConfigError(
                "Expected data.range to be [LOW, HIGH], the values of black and white in the "
                "inputs, such as [-1, 1], or a list of each for the channels, such as "
                f"[[-2.12, -2.04, -1.81], [2.25, 2.43, 2.65]]; received {setting}."
            )
        return found

    @classmethod
    def proved_by(cls, images: Images) -> PixelRange | None:
        """Return the range that training images prove; None if they prove none.

        Values of `uint8` go from 0 to 255. Others go from 0 to 1 if they lie there and come near
        to both ends. They go from 0 to 1, or to 255, if each of them is one of the 256 levels of
        such a range, and the brightest lies in the upper half.
        """
        if images.dtype == np.uint8:
            return BYTES
        lowest = float(images.min())
        highest = float(images.max())
        if lowest < 0 or lowest == highest:
            return None
        if lowest <= _NEAR and 1 - _NEAR <= highest <= 1:
            return cls((0.0,), (1.0,))
        for white in (1.0, 255.0):
            if white / 2 < highest <= white and _are_levels(images, white):
                return cls((0.0,), (white,))
        return None

    @classmethod
    def read(cls, text: str) -> PixelRange:
        """Return the range that `written` has written."""
        return cls.given(json.loads(text))

    def written(self) -> str:
        """Return the range as it is recorded, such as `[0.0, 255.0]`."""
        ends: list[Any] = [list(self.low), list(self.high)]
        if len(self.low) == 1:
            ends = [self.low[0], self.high[0]]
        return json.dumps(ends)

    def is_of(self, images: Images) -> bool:
        """Return whether images can have this range: all values lie in it, but for rounding.

        A range of channels needs images with as many, in their last axis.
        """
        n_channels = len(self.low)
        if n_channels > 1 and images.shape[-1] != n_channels:
            return False
        axes = tuple(range(images.ndim - 1))
        tolerance = 1e-3 * self._width
        is_light = images.min(axis=axes) >= self._low - tolerance
        is_dark = images.max(axis=axes) <= self._high + tolerance
        return bool(is_light.all() and is_dark.all())

    def is_like(self, other: PixelRange) -> bool:
        """Return whether two ranges are the same to within a hundredth of their width."""
        if len(self.low) != len(other.low) and 1 not in (len(self.low), len(other.low)):
            return False
        ends = np.array([self._low - other._low, self._high - other._high])
        return bool((np.abs(ends) <= 0.01 * self._width).all())

    def to_bytes(self, images: Images) -> Bytes:
        """Return images with values from 0 to 255 in place of this range."""
        in_unit = (images - self._low) / self._width
        in_bytes = np.clip(in_unit, 0, 1) * 255
        return np.asarray(np.round(in_bytes), np.uint8)

    def from_bytes(self, images: Bytes, dtype: np.dtype[Any]) -> Images:
        """Return images of values from 0 to 255 with this range and a dtype."""
        levels = np.arange(256)[:, None] / 255
        table = self._low + levels * self._width
        if np.issubdtype(dtype, np.integer):
            table = np.round(table)
        table = table.astype(dtype)
        if len(self.low) == 1:
            return np.asarray(table[:, 0][images])
        n_channels = len(self.low)
        return np.asarray(table[images, np.arange(n_channels)])

    @property
    def _low(self) -> NDArray[np.float64]:
        return np.array(self.low)

    @property
    def _high(self) -> NDArray[np.float64]:
        return np.array(self.high)

    @property
    def _width(self) -> NDArray[np.float64]:
        return self._high - self._low


BYTES = PixelRange((0.0,), (255.0,))


def _are_levels(images: Images, white: float) -> bool:
    """Return whether each value is one of 256 levels from 0 to `white`."""
    n_at_once = 1024  # images of which a copy is made
    for start in range(0, len(images), n_at_once):
        levels = images[start : start + n_at_once] * (255 / white)
        errors = np.abs(levels - np.round(levels))
        if errors.max() > 1e-3:
            return False
    return True


def _values(end: object) -> tuple[float, ...]:
    """Return one end of a range as numbers.

    Raises:
        TypeError: It is neither a number nor a list of numbers.
    """
    if isinstance(end, int | float) and not isinstance(end, bool):
        return (float(end),)
    if isinstance(end, str) or not isinstance(end, Sequence):
        raise TypeError(end)
    numbers: list[float] = []
    for value in end:
        numbers += _values(value)
    return tuple(numbers)
