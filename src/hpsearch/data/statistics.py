"""What an architecture needs to know about the data before it can be built, measured on the train
images alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CHUNK = 1024  # images turned into float64 at a time: 25 MB of 32x32x3


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class DataFacts:
    """The facts of one data set that a HyperModel is completed with.

    Attributes:
        image_shape: Height, width and channels.
        n_classes: Number of classes.
        mean: Mean of each pixel over the train images, float64 (H, W, C).
        variance: Population variance of each pixel over the train images, float64 (H, W, C).
        largest: Largest absolute pixel value in the train images.
    """

    image_shape: tuple[int, int, int]
    n_classes: int
    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    largest: float

    def channel_mean(self) -> NDArray[np.float64]:
        """Return the mean of each channel over images and places, (C,)."""
        return np.asarray(self.mean.mean(axis=(0, 1)))

    def channel_variance(self) -> NDArray[np.float64]:
        """Return the variance of each channel over images and places, (C,): within pixels plus
        between them.
        """
        return np.asarray(self.variance.mean(axis=(0, 1)) + self.mean.var(axis=(0, 1)))


def measure(train_images: NDArray[np.generic], n_classes: int) -> DataFacts:
    """Measure the train images, a chunk at a time, so that no float copy of them all is made.

    Means and sums of squares of the chunks are merged as in Chan, Golub and LeVeque (1983),
    "Algorithms for computing the sample variance", which loses no digits where a mean is large
    beside its deviation.

    Args:
        train_images: (N, H, W, C), raw pixels of any numeric type, N >= 1.
        n_classes: Number of classes.
    """
    if train_images.ndim != 4 or len(train_images) == 0:
        raise ValueError(
            f"Expected images of shape (N, H, W, C). Received: "
            f"train_images.shape={train_images.shape}."
        )
    count, largest = 0, 0.0
    mean = np.zeros(train_images.shape[1:])
    squares = np.zeros_like(mean)
    for start in range(0, len(train_images), CHUNK):
        chunk = train_images[start : start + CHUNK].astype(np.float64)
        total = count + len(chunk)
        chunk_mean = chunk.mean(axis=0)
        shift = chunk_mean - mean
        squares += np.square(chunk - chunk_mean).sum(axis=0) + np.square(shift) * (
            count * len(chunk) / total
        )
        mean += shift * (len(chunk) / total)
        largest = max(largest, float(np.abs(chunk).max()))
        count = total
    height, width, channels = train_images.shape[1:]
    return DataFacts((height, width, channels), n_classes, mean, squares / count, largest)
