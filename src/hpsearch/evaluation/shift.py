"""Measure how well predictions hold when images are corrupted.

`Shift` compares plain and MC Dropout predictions at five severities of each kind of corruption.
The kinds and strengths are those of CIFAR-10-C: noise, blur, weather and compression (Hendrycks
and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
2019). `corrupt` makes them anew from a seed, with neither the code nor the random draws of
CIFAR-10-C. `Shift.stored` reads the original files.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np
from numpy.random import Generator
from PIL import Image
from scipy import ndimage

from hpsearch import metrics
from hpsearch.data.forms import Images
from hpsearch.errors import DataError
from hpsearch.evaluation import settings
from hpsearch.evaluation.evaluated_model import EvaluatedModel, white
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.metrics import Floats, Ints
from hpsearch.seeds import derive


class Shift(settings.Shift):
    """The part of an evaluation that measures predictions of corrupted images.

    `evaluation.settings` describes its settings.
    """

    SEVERITIES: ClassVar = (1, 2, 3, 4, 5)

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Measure both arms at each severity of each corruption.

        Inputs that are no images (N, H, W, C) cannot be corrupted; the section then says so.
        """
        images = evaluated.test.inputs[: self.n_images]
        if images.ndim != 4:
            return _left_out(images.shape[1:])
        labels = evaluated.test.targets[: self.n_images]
        clean = self._measure(evaluated, images, labels)
        means = {key: [value] for key, value in clean.items()}
        curves = defaultdict(list)
        head = ["measure", "arm", "clean"]
        for severity in self.SEVERITIES:
            head.append(f"severity {severity}")
            found = defaultdict(list)
            for name in self.names:
                shifted = self._corrupted(images, labels, name, severity)
                measured = self._measure(evaluated, *shifted)
                for key, value in measured.items():
                    point = (severity, value)
                    curves[f"test/shift/{name}/{key}"].append(point)
                    found[key].append(value)
            for key, values in found.items():
                mean = float(np.mean(values))
                means[key].append(mean)
        rows = [head]
        for key, values in means.items():
            arm, measure = key.split("/")
            cells = [f"{value:.4f}" for value in values]
            rows.append([measure, arm, *cells])
            curves[f"test/shift/mean/{key}"] = list(enumerate(values))
        source = "made from the test images"
        if self.path:
            source = "CIFAR-10-C"
        text = (
            f"Means over {len(self.names)} kinds of corruption, {source}, with {self.n_samples} "
            "passes of MC Dropout."
        )
        figure = _figure(means)
        return Section(
            title="Under shift",
            text=text,
            table=rows,
            curves=curves,
            figures=[figure],
        )

    def _corrupted(
        self,
        images: Images,
        labels: Ints,
        name: str,
        severity: int,
    ) -> tuple[Images, Ints]:
        """Return corrupted images and their labels, of CIFAR-10-C if its folder is given."""
        if self.path is None:
            corrupted = corrupt(images, name, severity, seed=self.seed)
            return corrupted, labels
        theirs, their_labels = self.stored(name, severity)
        expected = images.shape[1:]
        received = theirs.shape[1:]
        if received != expected:
            raise DataError(
                f"Expected images of shape {expected} in parts.shift.path, received "
                f"{received}. CIFAR-10-C fits only models of CIFAR-10."
            )
        return theirs.astype(images.dtype), their_labels

    def stored(self, name: str, severity: int) -> tuple[Images, Ints]:
        """Return the first images of one severity of the original CIFAR-10-C, and their labels.

        Raises:
            DataError: The folder does not hold the files.
        """
        try:
            images = np.load(f"{self.path}/{name}.npy", mmap_mode="r")
            labels = np.load(f"{self.path}/labels.npy")
        except (OSError, ValueError) as error:
            raise DataError(
                f"Expected {name}.npy and labels.npy of CIFAR-10-C in {self.path}, received "
                f"{error}. parts.shift.path=null makes corruptions from the test images."
            ) from error
        n_each = len(labels) // len(self.SEVERITIES)
        first = (severity - 1) * n_each
        last = first + min(self.n_images, n_each)
        chosen = slice(first, last)
        their_images = np.array(images[chosen])
        their_labels = labels[chosen].astype(np.int64)
        return their_images, their_labels

    def _measure(
        self,
        evaluated: EvaluatedModel,
        images: Images,
        labels: Ints,
    ) -> dict[str, float]:
        """Return each measure of each arm by a key such as `mc/nll`."""
        mc = evaluated.sampler.predict(images, n_samples=self.n_samples)
        plain = evaluated.plain(images)
        found = {}
        measures = (metrics.accuracy, metrics.nll, metrics.ece)
        for measure in measures:
            name = measure.__name__
            found[f"plain/{name}"] = measure(plain, labels)
            found[f"mc/{name}"] = measure(mc.probs, labels)
        return found


def _left_out(shape: Sequence[int]) -> Section:
    text = (
        "Corruptions are made of images (H, W, C); this model takes inputs of shape "
        f"{tuple(shape)}, so this part is left out."
    )
    return Section(title="Under shift", text=text)


def _figure(means: dict[str, list[float]]) -> Figure:
    """Draw measures over the severity of corruptions.

    Args:
        means: Means over kinds of corruption for each severity from 0, by keys such as `mc/nll`.
    """
    inches = (12.0, 3.6)
    plot, axes = plt.subplots(1, 3, figsize=inches, layout="constrained")
    measures = ("accuracy", "nll", "ece")
    for axis, measure in zip(axes, measures, strict=True):
        for arm in ("plain", "mc"):
            curve = means[f"{arm}/{measure}"]
            axis.plot(curve, "o-", label=arm)
        axis.set_xlabel("severity")
        axis.set_ylabel(measure)
        axis.set_xticks(range(6))
        axis.legend()
    caption = (
        "Measures as images get worse, averaged over kinds of corruption. Severity 0 is the test "
        "set as it is. If the uncertainty of a model can be trusted, its accuracy falls while its "
        "ECE stays low."
    )
    return drawn("shift", plot, caption)


def corrupt(
    images: Images,
    name: str,
    severity: int,
    *,
    seed: int,
) -> Images:
    """Return corrupted copies of images, with their shape, dtype and scale.

    Args:
        images: Pixels, (N, H, W, C). White is 255 if any value exceeds 1, otherwise 1.
        name: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: The same seed gives the same images.
    """
    brightest = white(images)
    own_seed = derive(seed, name, severity)
    rng = np.random.default_rng(own_seed)
    make = CORRUPTIONS[name]
    in_unit = np.divide(images, brightest)
    made = make(in_unit, severity - 1, rng)
    corrupted = np.clip(made, 0, 1) * brightest
    if images.dtype == np.uint8:
        corrupted = np.round(corrupted)
    return corrupted.astype(images.dtype)


# The kinds of corruption. Each function takes images `x`, the index `i` of a severity in its table
# of strengths, from 0 to 4, and a generator, which some functions do not use. Sizes in pixels are
# for images of 32 x 32 pixels and grow with the image.


def _gaussian_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Add normal noise."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[i]
    noise = rng.normal(0.0, deviation, x.shape)
    return x + noise


def _shot_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Add Poisson noise, as a count of photons has."""
    photons = (500, 250, 100, 75, 50)[i]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Replace single values by black or white."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[i]
    draws = rng.random(x.shape)
    noisy = np.where(draws < share, 1.0, x)
    return np.where(draws < share / 2, 0.0, noisy)


def _defocus_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Average over a disk with soft edges."""
    radius = (0.3, 0.4, 0.5, 1.0, 1.5)[i]
    softness = (0.4, 0.5, 0.6, 0.2, 0.1)[i]
    scale = x.shape[1] / 32
    radius_here = radius * scale
    reach = int(np.ceil(radius_here)) + 2
    size = 2 * reach + 1
    fine = 9  # points a pixel, so that a disk smaller than a pixel still has a size
    points = np.arange(size * fine) + 0.5
    axis = points / fine - reach - 0.5
    columns, rows = np.meshgrid(axis, axis)
    distance = np.hypot(columns, rows)
    disk = distance <= radius_here + 0.5
    sigma = softness * scale * fine
    hard = disk.astype(float)
    soft = ndimage.gaussian_filter(hard, sigma)
    by_pixel = soft.reshape(size, fine, size, fine)
    kernel = by_pixel.mean(axis=(1, 3))
    kernel = kernel / kernel.sum()
    for_all = kernel[None, :, :, None]
    blurred = ndimage.convolve(x, for_all, mode="nearest")
    return np.asarray(blurred)


def _motion_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Average along a line, in a direction that is drawn for each image."""
    radius = (6, 6, 6, 8, 9)[i]
    sigma = (1.0, 1.5, 2.0, 2.0, 2.5)[i]
    scale = x.shape[1] / 32
    steps = np.arange(-radius, radius + 1)
    twice_variance = 2 * sigma**2
    squares = steps**2
    weights = np.exp(-squares / twice_variance)
    steepest = np.pi / 4
    angles = rng.uniform(-steepest, steepest, len(x))
    blurred = np.empty_like(x)
    radius_here = radius * scale
    reach = int(np.ceil(radius_here)) + 1
    size = 2 * reach + 1
    for n, angle in enumerate(angles):
        rows = steps * scale * np.sin(angle)
        columns = steps * scale * np.cos(angle)
        kernel = np.zeros((size, size))
        points = zip(rows, columns, weights, strict=True)
        for row, column, weight in points:
            i_row = round(row) + reach
            i_column = round(column) + reach
            kernel[i_row, i_column] += weight
        kernel = kernel / kernel.sum()
        for_all = kernel[:, :, None]
        blurred[n] = ndimage.convolve(x[n], for_all, mode="nearest")
    return blurred


def _fog(x: Floats, i: int, rng: Generator) -> Floats:
    """Mix with bright clouds, which are drawn for each image."""
    density = (0.2, 0.5, 0.75, 1.0, 1.5)[i]
    decay = (3.0, 3.0, 2.5, 2.0, 1.75)[i]
    n, height, width, _ = x.shape
    clouds = np.zeros((n, height, width))
    longest = max(height, width)
    n_octaves = 1 + int(np.log2(longest))
    for octave in range(n_octaves):
        points = 2**octave + 1
        grid = rng.random((n, points, points))
        factors = (1, height / points, width / points)
        cloud = ndimage.zoom(grid, factors, order=1)
        clouds += cloud / decay**octave
    height_and_width = (1, 2)
    darkest = clouds.min(axis=height_and_width, keepdims=True)
    spread = np.ptp(clouds, axis=height_and_width, keepdims=True)
    clouds = (clouds - darkest) / spread
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    mixed = x + density * clouds[..., None]
    white_of_mixed = brightest + density
    return np.asarray(mixed * brightest / white_of_mixed)


def _brightness(x: Floats, i: int, rng: Generator) -> Floats:
    """Add to the value of each colour, and keep its hue and saturation."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[i]
    value = x.max(axis=3, keepdims=True)
    is_lit = value > 0
    brighter = np.minimum(value + added, 1.0)
    divisor = np.where(is_lit, value, 1.0)
    coloured = x * brighter / divisor
    changed = np.where(is_lit, coloured, brighter)
    return np.asarray(changed)


def _contrast(x: Floats, i: int, rng: Generator) -> Floats:
    """Move all values towards the mean of the image."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[i]
    mean = x.mean(axis=(1, 2), keepdims=True)
    deviation = (x - mean) * factor
    return np.asarray(deviation + mean)


def _pixelate(x: Floats, i: int, rng: Generator) -> Floats:
    """Store at a lower resolution."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[i]

    def pixelated(image: Image.Image) -> Image.Image:
        size = []
        for side in image.size:
            shorter = int(side * share)
            size.append(max(1, shorter))
        small = image.resize(size, Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.NEAREST)

    return _through_pil(x, pixelated)


def _jpeg_compression(x: Floats, i: int, rng: Generator) -> Floats:
    """Store as a JPEG file of low quality."""
    quality = (80, 65, 58, 50, 40)[i]

    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _through_pil(x, compressed)


def _through_pil(x: Floats, change: Callable[[Image.Image], Image.Image]) -> Floats:
    """Apply a change to images of 3 channels as a whole, and to others channel by channel."""
    changed = np.empty(x.shape)
    rounded = np.round(x * 255)
    in_bytes = rounded.astype(np.uint8)
    channels = x.shape[3]
    for n, image in enumerate(in_bytes):
        if channels == 3:
            whole = Image.fromarray(image)
            changed[n] = np.asarray(change(whole))
            continue
        for channel in range(channels):
            layer = Image.fromarray(image[..., channel])
            array = np.asarray(change(layer))
            changed[n, ..., channel] = array
    return changed / 255.0


_FUNCTIONS: tuple[Callable[[Floats, int, Generator], Floats], ...] = (
    _gaussian_noise,
    _shot_noise,
    _impulse_noise,
    _defocus_blur,
    _motion_blur,
    _fog,
    _brightness,
    _contrast,
    _pixelate,
    _jpeg_compression,
)
CORRUPTIONS = dict(zip(settings.KINDS, _FUNCTIONS, strict=True))
