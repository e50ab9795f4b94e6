"""Measure the statistics of the train images that an architecture needs before it is built.

`measure` returns `DataStatistics`: the image shape, the number of classes, and the mean and
variance of each pixel. Val and test images are not used. An input need not be an image; a pixel is
then one of its numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class DataStatistics:
    """What a HyperModel needs to know about a data set: its shape, classes and statistics.

    Attributes:
        image_shape: Height, width and channels of an image; the shape of any other input.
        n_classes: The number of classes.
        mean: The mean of each pixel over the train images, float64 of
            `image_shape`.
        variance: The population variance of each pixel over the train images, float64 of
            `image_shape`.
        largest: The largest absolute pixel value in the train images.
    """

    image_shape: tuple[int, ...]
    n_classes: int
    mean: np.ndarray
    variance: np.ndarray
    largest: float

    def channel_mean(self) -> np.ndarray:
        """Return the mean of each channel over images and positions, (C,)."""
        return np.asarray(self.mean.mean(axis=(0, 1)))

    def channel_variance(self) -> np.ndarray:
        """Return the variance of each channel over images and positions, (C,).

        It is the variance within pixels plus the variance between them.
        """
        within = self.variance.mean(axis=(0, 1))
        between = self.mean.var(axis=(0, 1))
        return np.asarray(within + between)


def measure(train_images: np.ndarray, n_classes: int) -> DataStatistics:
    """Return the statistics of a data set, measured on its train images.

    The images are read in chunks, so that no float copy of them all is made. Means and sums of
    squares of the chunks are merged as in Chan, Golub and LeVeque (1983), "Algorithms for computing
    the sample variance". That method keeps its precision where a mean is large beside its
    deviation.

    Args:
        train_images: (N, H, W, C), raw pixels of any numeric type, N >= 1. Inputs that are no
            images may have any number of axes from 2 on.
        n_classes: The number of classes.

    Raises:
        ValueError: There are fewer than two axes, or no images.
    """
    shape = train_images.shape
    if train_images.ndim < 2 or len(train_images) == 0:
        raise ValueError(
            f"Expected at least one input, and two axes. Received: train_images.shape={shape}."
        )
    chunk_size = 1024  # images converted to float64 at a time: 25 MB of 32x32x3
    count = 0
    largest = 0.0
    mean = np.zeros(shape[1:])
    squares = np.zeros_like(mean)
    for start in range(0, len(train_images), chunk_size):
        end = start + chunk_size
        chunk = train_images[start:end].astype(np.float64)
        total = count + len(chunk)
        chunk_mean = chunk.mean(axis=0)
        chunk_squares = np.square(chunk - chunk_mean).sum(axis=0)
        shift = chunk_mean - mean
        weight = count * len(chunk) / total
        squares += chunk_squares + np.square(shift) * weight
        mean += shift * (len(chunk) / total)
        chunk_largest = float(np.abs(chunk).max())
        largest = max(largest, chunk_largest)
        count = total
    variance = squares / count
    return DataStatistics(
        tuple(shape[1:]),
        n_classes,
        mean,
        variance,
        largest,
    )
