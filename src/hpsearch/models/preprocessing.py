"""The first layer of a model: raw pixels in, standardized values out, with statistics of the train
images.
"""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
from numpy.typing import NDArray

from hpsearch.data.statistics import DataFacts
from hpsearch.errors import ConfigError, did_you_mean

# A pixel that hardly ever changes would turn one bright test image into a value of hundreds: no
# pixel is stretched more than ten times as far as its channel as a whole.
VARIANCE_FLOOR = 0.01


def standardization(facts: DataFacts, standardize: str) -> keras.Layer:
    """Return the layer that stands first in a model.

    Args:
        facts: Statistics of the train images.
        standardize: `channel`, each channel has mean 0 and deviation 1 over the train images;
            `pixel`, each pixel of each channel has (rarely changing ones a smaller deviation);
            `none`, pixels are divided by the largest.

    Raises:
        ConfigError: `standardize` is none of these.
    """
    if standardize not in _LAYERS:
        wrong = f"Expected arch.standardize to be a known way; received {standardize!r}."
        raise ConfigError(wrong + did_you_mean(str(standardize), _LAYERS))
    return _LAYERS[standardize](facts)


def _by_channel(facts: DataFacts) -> keras.Layer:
    variance = _positive(facts.channel_variance())
    return _normalization(-1, facts.channel_mean(), variance)


def _by_pixel(facts: DataFacts) -> keras.Layer:
    variance = np.maximum(facts.variance, VARIANCE_FLOOR * facts.channel_variance())
    return _normalization((1, 2, 3), facts.mean, _positive(variance))


def _scaled(facts: DataFacts) -> keras.Layer:
    return keras.layers.Rescaling(1.0 / (facts.largest or 1.0), name="scaling")


def _positive(variance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(variance > 0, variance, 1.0)


def _normalization(
    axis: int | tuple[int, ...], mean: NDArray[np.float64], variance: NDArray[np.float64]
) -> keras.Layer:
    # float32: Keras would keep float64 numbers in the saved model that no layer computes with.
    return keras.layers.Normalization(
        axis=axis,
        mean=mean.astype("float32"),
        variance=variance.astype("float32"),
        name="standardization",
    )


_LAYERS: dict[str, Callable[[DataFacts], keras.Layer]] = {
    "channel": _by_channel,
    "pixel": _by_pixel,
    "none": _scaled,
}
