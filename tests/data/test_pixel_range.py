"""The values of black and white in images: proved by training images, given, or unknown."""

import numpy as np
import pytest

from hpsearch.data.datasets import Arrays
from hpsearch.data.pixel_range import BYTES, PixelRange
from hpsearch.data.split import Data
from hpsearch.errors import ConfigError, DataError

UNIT = PixelRange((0.0,), (1.0,))
LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize(
    ("images", "proved"),
    [
        (LEVELS, BYTES),
        (LEVELS // 16, BYTES),  # dark bytes are bytes
        (LEVELS.astype(np.float32), BYTES),
        (LEVELS / 255, UNIT),
        (LEVELS > 100, UNIT),
        ((LEVELS // 16).astype(np.float32), None),  # 16 levels of grey may end at 15 or at 255
        (LEVELS / 510, None),
        (np.minimum(LEVELS, 150).astype(np.float32), BYTES),  # a dim set of 8 bits
        ((np.minimum(LEVELS, 150) / 255).astype(np.float32), UNIT),
        (np.minimum(LEVELS / 300, 0.6).astype(np.float32), None),
        (LEVELS / 255 + 0.5, None),
        (LEVELS * 0.99, None),  # not whole
        (LEVELS / 127.5 - 1, None),
        (LEVELS * 257.0, None),
        (LEVELS / 255 * 0 + 1, None),
    ],
)
def test_training_images_prove_a_range_or_none(images, proved):
    assert PixelRange.proved_by(images) == proved


@pytest.mark.parametrize(
    "setting", [[-1, 1], [0, 255.0], ([0], [1]), [[-2.1, -2, -1.8], [2.2, 2.4, 2.6]]]
)
def test_a_range_that_is_given_maps_to_bytes_and_exactly_back(setting):
    found = PixelRange.given(setting)
    assert PixelRange.read(found.written()) == found
    images = np.repeat(LEVELS, len(found.low), axis=3)
    mapped = found.from_bytes(images, np.dtype(np.float32))
    assert mapped.dtype == np.float32
    assert found.is_of(mapped)
    low, high = np.array(found.low), np.array(found.high)
    np.testing.assert_allclose(mapped, low + images / 255 * (high - low), atol=1e-5)
    np.testing.assert_array_equal(found.to_bytes(mapped), images)
    # Values beyond the range become black or white.
    assert found.to_bytes(mapped * 0 + high + 9).min() == 255


@pytest.mark.parametrize(
    "setting",
    [5, "01", [1], [0, 1, 2], [1, 1], [1, 0], [[0, 0], [1]], [None, 1], [True, 2],
     [[], []], [0, np.inf], [["a"], ["b"]]],
)  # fmt: skip
def test_anything_else_is_no_range(setting):
    with pytest.raises(ConfigError, match=r"Expected data.range to be \[LOW, HIGH\]"):
        PixelRange.given(setting)


def data(x_train, x_test, **settings):
    """Return a data set of these images."""
    targets = np.arange(len(x_train)) % 2
    arrays = Arrays(x_train, targets, x_test, targets[: len(x_test)], None)
    return Data(
        name="own", load=lambda: arrays, path=None, n_train=2, n_val=2, split_seed=0, **settings
    )


def test_the_training_images_decide_and_no_others():
    train = np.random.default_rng(0).random((20, 4, 4, 3)).astype(np.float32)
    dark = train[:4] / 100
    assert data(train, dark).for_search().pixel_range == UNIT
    assert data(dark, train[:2]).for_search().pixel_range is None
    scaled = data(train * 2 - 1, dark, range=[-1, 1]).for_search()
    assert scaled.pixel_range == PixelRange((-1.0,), (1.0,))
    with pytest.raises(DataError, match=r"Expected x_test of own within data.range=\[0.0, 1.0\]"):
        data(train, train * 2, range=[0, 1]).for_search()
    with pytest.raises(DataError, match=r"values from 0.\d+ to 0.\d+ in 3 channels"):
        data(train, dark, range=[[0, 0], [1, 1]]).for_search()
    with pytest.raises(ConfigError, match=r"Expected data.range"):
        data(train, dark, range=[1, 0])
    with pytest.raises(DataError, match=r"to reach from black to white of data.range=\[0.0, 255.0"):
        data(train, dark, range=[0, 255]).for_search()


def test_ranges_are_alike_but_for_rounding():
    standardized = PixelRange((-2.118, -2.036, -1.804), (2.249, 2.429, 2.64))
    assert standardized.is_like(PixelRange((-2.12, -2.04, -1.8), (2.25, 2.43, 2.64)))
    assert not standardized.is_like(UNIT)
    assert UNIT.is_like(PixelRange((0.0,) * 3, (1.0,) * 3))
    assert not PixelRange((0.0,) * 2, (1.0,) * 2).is_like(PixelRange((0.0,) * 3, (1.0,) * 3))
