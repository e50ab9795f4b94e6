"""Make the first layer of a model, which standardizes raw pixels.

The layer computes with the mean and the variance of the train images, and is saved with the model.
"""

from __future__ import annotations

import keras
import numpy as np

from hpsearch.data.statistics import DataStatistics
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.metrics import Floats

# The least variance of a pixel, as a share of the variance of its channel. Without it, a pixel that
# hardly ever changes would turn one bright test image into a value of hundreds. With it, no pixel
# is stretched more than ten times as far as its channel as a whole.
VARIANCE_FLOOR = 0.01


def standardization(statistics: DataStatistics, standardize: str) -> keras.Layer:
    """Return the first layer of a model.

    Args:
        statistics: Statistics of the train images.
        standardize: `channel` gives each channel mean 0 and standard deviation 1 over the train
            images. `pixel` does so for each pixel of each channel; a pixel that hardly ever changes
            gets a smaller deviation. `none` divides all pixels by the largest.

    Raises:
        ConfigError: `standardize` has another value.
    """
    ways = {"channel": _by_channel, "pixel": _by_pixel, "none": _scaled}
    if standardize not in ways:
        wrong = f"Expected arch.standardize to be a known way; received {standardize!r}."
        raise ConfigError(wrong + did_you_mean(str(standardize), ways))
    return ways[standardize](statistics)


def _by_channel(statistics: DataStatistics) -> keras.Layer:
    variance = _positive(statistics.channel_variance())
    return _normalization(-1, statistics.channel_mean(), variance)


def _by_pixel(statistics: DataStatistics) -> keras.Layer:
    floor = VARIANCE_FLOOR * statistics.channel_variance()
    variance = np.maximum(statistics.variance, floor)
    return _normalization((1, 2, 3), statistics.mean, _positive(variance))


def _scaled(statistics: DataStatistics) -> keras.Layer:
    largest = statistics.largest or 1.0  # black images stay as they are
    return keras.layers.Rescaling(1.0 / largest, name="scaling")


def _positive(variance: Floats) -> Floats:
    return np.where(variance > 0, variance, 1.0)


def _normalization(axis: int | tuple[int, ...], mean: Floats, variance: Floats) -> keras.Layer:
    # With float64, Keras would save numbers of a precision that no layer computes with.
    return keras.layers.Normalization(
        axis=axis,
        mean=mean.astype("float32"),
        variance=variance.astype("float32"),
        name="standardization",
    )
