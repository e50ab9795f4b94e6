"""Images as a bad camera, bad weather or bad compression would show them, at five severities.

The kinds and strengths are those of CIFAR-10-C (Hendrycks & Dietterich, 2019); sizes in pixels are
for 32 x 32 images and grow with the image. Made anew from a seed; neither their code nor their
draws.

What plain and MC Dropout predictions are worth when images get worse.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from hpsearch import metrics
from hpsearch.errors import ConfigError, DataError, did_you_mean
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import ARMS, Subject
from hpsearch.html_report.section import Section
from hpsearch.metrics import Floats, Ints
from hpsearch.seeds import derive

Pixels = NDArray[np.float64]  # (N, H, W, C) in [0, 1]
Rng = np.random.Generator
SEVERITIES = (1, 2, 3, 4, 5)
REFERENCE_PX = 32


def corrupt(images: NDArray[Any], name: str, severity: int, *, seed: int) -> NDArray[Any]:
    """Return corrupted copies of images, with their shape, dtype and scale.

    Args:
        images: Pixels, (N, H, W, C); white is 255 where any value exceeds 1, else 1.
        name: One of `CORRUPTIONS`.
        severity: From 1 to 5.
        seed: Same seed, same images.
    """
    white = 255.0 if images.dtype == np.uint8 or images.max() > 1 else 1.0
    rng = np.random.default_rng(derive(seed, name, severity))
    corrupted = np.clip(CORRUPTIONS[name](images / white, severity - 1, rng), 0, 1) * white
    return (np.round(corrupted) if images.dtype == np.uint8 else corrupted).astype(images.dtype)


def gaussian_noise(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Add normal noise."""
    return x + rng.normal(0.0, (0.04, 0.06, 0.08, 0.09, 0.10)[i], x.shape)


def shot_noise(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Count photons: Poisson noise."""
    photons = (500, 250, 100, 75, 50)[i]
    return rng.poisson(x * photons) / photons


def impulse_noise(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Turn single values black or white."""
    share, draws = (0.01, 0.02, 0.03, 0.05, 0.07)[i], rng.random(x.shape)
    return np.where(draws < share / 2, 0.0, np.where(draws < share, 1.0, x))


def defocus_blur(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Average over a disk with soft edges."""
    radius, softness = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1))[i]
    scale = x.shape[1] / REFERENCE_PX
    reach = int(np.ceil(radius * scale)) + 2
    fine = 9  # points a pixel, so that a disk smaller than a pixel still has a size
    axis = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = np.hypot(*np.meshgrid(axis, axis)) <= radius * scale + 0.5
    soft = ndimage.gaussian_filter(disk.astype(float), softness * scale * fine)
    kernel = soft.reshape(2 * reach + 1, fine, 2 * reach + 1, fine).mean(axis=(1, 3))
    return np.asarray(
        ndimage.convolve(x, (kernel / kernel.sum())[None, :, :, None], mode="nearest")
    )


def motion_blur(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Average along a line of its own direction for each image."""
    radius, sigma = ((6, 1.0), (6, 1.5), (6, 2.0), (8, 2.0), (9, 2.5))[i]
    scale = x.shape[1] / REFERENCE_PX
    steps = np.arange(-radius, radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    angles = rng.uniform(-np.pi / 4, np.pi / 4, len(x))
    blurred = np.empty_like(x)
    reach = int(np.ceil(radius * scale)) + 1
    for n, angle in enumerate(angles):
        kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
        rows, columns = (steps * scale * part for part in (np.sin(angle), np.cos(angle)))
        for row, column, weight in zip(rows, columns, weights, strict=True):
            kernel[round(row) + reach, round(column) + reach] += weight
        blurred[n] = ndimage.convolve(x[n], (kernel / kernel.sum())[:, :, None], mode="nearest")
    return blurred


def fog(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Mix with bright clouds of its own for each image."""
    density, decay = ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75))[i]
    n, height, width, _ = x.shape
    clouds = np.zeros((n, height, width))
    for octave in range(1 + int(np.log2(max(height, width)))):
        points = 2**octave + 1
        grid = rng.random((n, points, points))
        clouds += ndimage.zoom(grid, (1, height / points, width / points), order=1) / decay**octave
    clouds = (clouds - clouds.min(axis=(1, 2), keepdims=True)) / np.ptp(
        clouds, axis=(1, 2), keepdims=True
    )
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    return np.asarray((x + density * clouds[..., None]) * brightest / (brightest + density))


def brightness(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Add to the value of each colour, hue and saturation kept."""
    value = x.max(axis=3, keepdims=True)
    brighter = np.minimum(value + (0.05, 0.1, 0.15, 0.2, 0.3)[i], 1.0)
    return np.asarray(np.where(value > 0, x * brighter / np.where(value > 0, value, 1.0), brighter))


def contrast(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Draw all values towards the image's mean."""
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray((x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[i] + mean)


def pixelate(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Store at a lower resolution."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[i]

    def stored(image: Image.Image) -> Image.Image:
        small = image.resize(
            [max(1, int(side * share)) for side in image.size], Image.Resampling.BOX
        )
        return small.resize(image.size, Image.Resampling.NEAREST)

    return _through_pil(x, stored)


def jpeg_compression(x: Pixels, i: int, rng: Rng) -> Pixels:
    """Store as JPEG of low quality."""

    def stored(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=(80, 65, 58, 50, 40)[i])
        return Image.open(buffer)

    return _through_pil(x, stored)


def _through_pil(x: Pixels, change: Callable[[Image.Image], Image.Image]) -> Pixels:
    """Change images of 3 channels as they are, others channel by channel."""
    n, height, width, channels = x.shape
    layers = x if channels == 3 else np.moveaxis(x, 3, 1).reshape(-1, height, width)
    changed = [
        np.asarray(change(Image.fromarray(layer)))
        for layer in np.round(layers * 255).astype(np.uint8)
    ]
    found = np.stack(changed) / 255.0
    return found if channels == 3 else np.moveaxis(found.reshape(n, channels, height, width), 1, 3)


CORRUPTIONS: dict[str, Callable[[Pixels, int, Rng], Pixels]] = {
    made.__name__: made
    for made in (gaussian_noise, shot_noise, impulse_noise, defocus_blur, motion_blur, fog, brightness, contrast,
                 pixelate, jpeg_compression)
}  # fmt: skip


def stored(folder: Path, name: str, severity: int, n_images: int) -> tuple[NDArray[Any], Ints]:
    """Return the first images of one severity of the real CIFAR-10-C, and their labels.

    Raises:
        DataError: The folder does not hold it.
    """
    try:
        images, labels = (
            np.load(folder / f"{name}.npy", mmap_mode="r"),
            np.load(folder / "labels.npy"),
        )
    except (OSError, ValueError) as error:
        raise DataError(
            f"Expected {name}.npy and labels.npy of CIFAR-10-C in {folder}, received {error}; "
            "parts.shift.path=null makes corruptions from the test images."
        ) from error
    first = (severity - 1) * (len(labels) // len(SEVERITIES))
    chosen = slice(first, first + min(n_images, len(labels) // len(SEVERITIES)))
    return np.array(images[chosen]), labels[chosen].astype(np.int64)


MEASURES = {"accuracy": metrics.accuracy, "nll": metrics.nll, "ece": metrics.ece}


@dataclass(frozen=True)
class Shift:
    """Settings of the part on corrupted images.

    Attributes:
        names: Kinds of corruption.
        n_images: The first so many test images, at most.
        n_samples: Passes of MC Dropout.
        path: Folder of the real CIFAR-10-C; None makes corruptions from the test images.
        seed: Root of all noise.
    """

    names: Sequence[str]
    n_images: int
    n_samples: int
    path: str | None
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        for name in self.names:
            if name not in CORRUPTIONS:
                raise ConfigError(
                    f"There is no corruption {name} for "
                    f"parts.shift.names.{did_you_mean(name, CORRUPTIONS)}"
                )
        if not self.names or self.n_images < 1 or self.n_samples < 1:
            raise ConfigError(
                "Expected corruptions with positive n_images and n_samples, received "
                f"names={list(self.names)}, n_images={self.n_images}, n_samples={self.n_samples}."
            )

    def examine(self, subject: Subject) -> Section:
        """Measure both arms at each severity of each corruption."""
        clean = self._measure(
            subject, subject.test.images[: self.n_images], subject.test.labels[: self.n_images]
        )
        by_key: dict[str, list[tuple[int, float]]] = {}
        for name, severity, images, labels in self._corrupted(subject):
            for key, value in self._measure(subject, images, labels).items():
                by_key.setdefault(f"{name}/{key}", []).append((severity, value))
        mean = {
            key: [
                value,
                *(
                    float(np.mean([by_key[f"{n}/{key}"][i][1] for n in self.names]))
                    for i in range(5)
                ),
            ]
            for key, value in clean.items()
        }
        n_steps = len(SEVERITIES) + 1
        rows = [("measure", "arm", "clean", *(f"severity {s}" for s in SEVERITIES))]
        rows += [
            (*reversed(key.split("/")), *(f"{v:.4f}" for v in values))
            for key, values in mean.items()
        ]
        curves = {f"test/shift/{key}": values for key, values in by_key.items()}
        curves |= {
            f"test/shift/mean/{key}": list(zip(range(n_steps), v, strict=True))
            for key, v in mean.items()
        }
        drawn = {measure: {arm: mean[f"{arm}/{measure}"] for arm in ARMS} for measure in MEASURES}
        source = "CIFAR-10-C" if self.path else "made from the test images"
        return Section(
            "Under shift",
            f"Means over {len(self.names)} kinds of corruption, {source}, {self.n_samples} passes.",
            rows,
            curves=curves,
            figures=[figures.under_shift(drawn, list(MEASURES))],
        )

    def _corrupted(self, subject: Subject) -> Iterator[tuple[str, int, NDArray[Any], Ints]]:
        images, labels = (
            subject.test.images[: self.n_images],
            np.asarray(subject.test.labels[: self.n_images]),
        )
        for name in self.names:
            for severity in SEVERITIES:
                if self.path is None:
                    yield name, severity, corrupt(images, name, severity, seed=self.seed), labels
                else:
                    theirs, their_labels = stored(Path(self.path), name, severity, self.n_images)
                    if theirs.shape[1:] != images.shape[1:]:
                        raise DataError(
                            f"Expected images of shape {images.shape[1:]} in parts.shift.path, "
                            f"received {theirs.shape[1:]}: it fits models of CIFAR-10 alone."
                        )
                    yield name, severity, theirs.astype(images.dtype), their_labels

    def _measure(self, subject: Subject, images: NDArray[Any], labels: Any) -> dict[str, float]:
        mc: Floats = subject.sampler.predict(images, n_samples=self.n_samples).probs
        arms = {"plain": subject.plain(images), "mc": mc}
        return {
            f"{arm}/{name}": how(arms[arm], labels)
            for name, how in MEASURES.items()
            for arm in ARMS
        }
