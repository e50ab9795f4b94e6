"""Make the first layer of a model, which standardizes raw pixels.

The layer computes with the mean and the variance of the train images, and is saved with the model.
"""

from __future__ import annotations

import keras
import numpy as np

from hpsearch.data.statistics import DataStatistics
from hpsearch.errors import ConfigError, did_you_mean


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
    ways = ("channel", "pixel", "none")
    if standardize not in ways:
        wrong = f"Expected arch.standardize to be a known way; received {standardize!r}."
        raise ConfigError(wrong + did_you_mean(str(standardize), ways))
    if standardize == "none":
        largest = statistics.largest or 1.0  # black images stay as they are
        return keras.layers.Rescaling(1.0 / largest, name="scaling")
    axis: int | tuple[int, ...] = -1
    mean = statistics.channel_mean()
    variance = statistics.channel_variance()
    if standardize == "pixel":
        axis = (1, 2, 3)
        mean = statistics.mean
        # Without a floor, a pixel that hardly ever changes would turn one bright test image into a
        # value of hundreds. With a hundredth of the variance of its channel, no pixel is stretched
        # more than ten times as far as its channel as a whole.
        variance = np.maximum(statistics.variance, 0.01 * variance)
    variance = np.where(variance > 0, variance, 1.0)
    # With float64, Keras would save numbers of a precision that no layer computes with.
    return keras.layers.Normalization(
        axis=axis,
        mean=mean.astype("float32"),
        variance=variance.astype("float32"),
        name="standardization",
    )
