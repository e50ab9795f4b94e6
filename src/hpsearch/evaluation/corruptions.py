"""Corrupt images as CIFAR-10-C defines it, anew from a seed.

`corrupt` makes fifteen kinds of noise, blur, weather and compression at five severities (Hendrycks
and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
2019). The strengths are those of CIFAR-10-C, the random draws are not. As there, images have 8
bits a channel. docs/uncertainty.md compares how much each kind changes images with the original.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import Generator
from PIL import Image, UnidentifiedImageError

from hpsearch.data.pixel_range import Bytes
from hpsearch.errors import DataError
from hpsearch.evaluation import blurs
from hpsearch.metrics import Floats
from hpsearch.seeds import derive

SEVERITIES = (1, 2, 3, 4, 5)
_AT_ONCE = 2**22  # values of images that are corrupted at a time


def corrupt(
    images: Bytes,
    name: str,
    severity: int,
    *,
    seed: int,
    photographs: str | None = None,
) -> Bytes:
    """Return corrupted copies of images.

    Args:
        images: Pixels from 0 to 255, (N, H, W, C).
        name: One of `settings.KINDS`.
        severity: From 1 to 5.
        seed: The same seed gives the same images.
        photographs: The folder of photographs of frost, which `frost` needs.

    Raises:
        DataError: There are no photographs of frost in the folder.
        TypeError: The images are not uint8; `PixelRange.to_bytes` makes them so.
    """
    if images.dtype != np.uint8:
        raise TypeError(f"Expected uint8 images. Received: images.dtype={images.dtype}.")
    own_seed = derive(seed, name, severity)
    rng = np.random.default_rng(own_seed)
    made = np.empty_like(images)
    size = images[:1].size
    n_at_once = max(1, _AT_ONCE // size)
    for start in range(0, len(images), n_at_once):
        chosen = slice(start, start + n_at_once)
        x = images[chosen] / 255
        if name == "frost":
            corrupted = _frost(x, severity - 1, rng, str(photographs))
        else:
            corrupted = _FUNCTIONS[name](x, severity - 1, rng)
        in_bytes = np.clip(corrupted, 0, 1) * 255
        # Fractions are cut off, as in CIFAR-10-C, but not those that are errors of rounding.
        made[chosen] = np.floor(in_bytes + 1e-6)
    return made


# Each function takes images `x` with values in [0, 1], the index `i` of a severity in its tables
# of strengths, from 0 to 4, and a generator, which some functions do not use.


def _gaussian_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Add normal noise."""
    deviation = (0.04, 0.06, 0.08, 0.09, 0.10)[i]
    noise = rng.normal(0.0, deviation, x.shape)
    return x + noise


def _shot_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Draw counts of photons, which have Poisson noise."""
    photons = (500, 250, 100, 75, 50)[i]
    return rng.poisson(x * photons) / photons


def _impulse_noise(x: Floats, i: int, rng: Generator) -> Floats:
    """Replace single values by black or white."""
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[i]
    draws = rng.random(x.shape)
    noisy = np.where(draws < share, 1.0, x)
    return np.where(draws < share / 2, 0.0, noisy)


def _snow(x: Floats, i: int, rng: Generator) -> Floats:
    """Add flakes that fall in a direction that is drawn for each image, and brighten the rest."""
    mean = (0.1, 0.1, 0.15, 0.25, 0.3)[i]
    deviation = (0.2, 0.2, 0.3, 0.3, 0.3)[i]
    zoom = (1.0, 1.0, 1.75, 2.25, 1.25)[i]
    faintest = (0.6, 0.5, 0.55, 0.6, 0.65)[i]
    radius = (8, 10, 10, 12, 14)[i]
    sigma = (3, 4, 4, 6, 12)[i]
    kept = (0.95, 0.9, 0.9, 0.85, 0.8)[i]
    growth = blurs.growth(x)
    n, height, width, _ = x.shape
    noise = rng.normal(mean, deviation, (n, height, width, 1))
    flakes = blurs.zoomed(noise, zoom * growth)
    flakes[flakes < faintest] = 0
    in_bytes = np.floor(np.clip(flakes, 0, 1) * 255)
    angles = np.asarray(rng.uniform(-135, -45, n))
    falling = blurs.moved(in_bytes / 255, radius * growth, sigma * growth, angles)
    turned = falling[:, ::-1, ::-1]
    pale = np.maximum(x, _grey(x) * 1.5 + 0.5)
    return np.asarray(kept * x + (1 - kept) * pale + falling + turned)


def _grey(x: Floats) -> Floats:
    """Return the brightness of each pixel, (N, H, W, 1)."""
    if x.shape[3] == 3:
        weights = np.array([0.299, 0.587, 0.114])
        return np.asarray((x @ weights)[..., None])
    return np.asarray(x.mean(axis=3, keepdims=True))


def _frost(
    x: Floats,
    i: int,
    rng: Generator,
    folder: str,
) -> Floats:
    """Mix with a part of a photograph of frost, both drawn for each image.

    Raises:
        DataError: There are no photographs in the folder, or one is too small.
    """
    kept = (1.0, 1.0, 0.9, 0.85, 0.75)[i]
    added = (0.2, 0.3, 0.4, 0.4, 0.45)[i]
    _, height, width, channels = x.shape
    ice = np.empty_like(x)
    photographs = _photographs(folder, 0.2 * blurs.growth(x), height, width)
    for n in range(len(x)):
        photograph = photographs[rng.integers(len(photographs))]
        highest, widest, _ = photograph.shape
        top = rng.integers(highest - height + 1)
        left = rng.integers(widest - width + 1)
        ice[n] = _with_channels(photograph[top : top + height, left : left + width], channels)
    return kept * x + added * ice


def _with_channels(photograph: Floats, channels: int) -> Floats:
    """Return a photograph (H, W, 3) with another number of channels, which are grey."""
    if channels == 3:
        return photograph
    grey = _grey(photograph[None])[0]
    return np.repeat(grey, channels, axis=2)


@cache
def _photographs(
    folder: str,
    scale: float,
    height: int,
    width: int,
) -> list[Floats]:
    """Return the photographs of a folder, smaller by a factor, (H, W, 3) each, in [0, 1].

    Raises:
        DataError: There is none that can be read, or one is too small.
    """
    found = []
    for path in sorted(Path(folder).glob("*")):
        try:
            with Image.open(path) as opened:
                photograph = opened.convert("RGB")
        except (UnidentifiedImageError, OSError):
            continue
        smaller_width = round(photograph.width * scale)
        smaller_height = round(photograph.height * scale)
        if smaller_width < width or smaller_height < height:
            needed = f"{np.ceil(width / scale):.0f} x {np.ceil(height / scale):.0f}"
            raise DataError(
                f"Expected photographs of at least {needed} pixels in parts.shift.frost, received "
                f"{path} of {photograph.width} x {photograph.height}."
            )
        size = (smaller_width, smaller_height)
        # Linear interpolation without smoothing, as the definition makes photographs smaller.
        ratio = 1 / scale
        data = (ratio, 0.0, (ratio - 1) / 2, 0.0, ratio, (ratio - 1) / 2)
        method = Image.Transform.AFFINE
        smaller = photograph.transform(size, method, data, Image.Resampling.BILINEAR)
        found.append(np.asarray(smaller) / 255)
    if not found:
        raise DataError(
            f"Expected a folder of photographs of frost in parts.shift.frost, received {folder} "
            "without any; parts.shift.frost=null leaves this corruption out."
        )
    return found


def _fog(x: Floats, i: int, rng: Generator) -> Floats:
    """Mix with bright clouds, which are drawn for each image."""
    density = (0.2, 0.5, 0.75, 1.0, 1.5)[i]
    decay = (3.0, 3.0, 2.5, 2.0, 1.75)[i]
    n, height, width, _ = x.shape
    clouds = _clouds(n, max(height, width), decay, rng)
    clouds = clouds[:, :height, :width, None]
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    mixed = x + density * clouds
    return np.asarray(mixed * brightest / (brightest + density))


def _clouds(
    n: int,
    side: int,
    decay: float,
    rng: Generator,
) -> Floats:
    """Return clouds by the diamond-square algorithm, (n, S, S) in [0, 1] with S >= side.

    Args:
        n: Number of clouds.
        side: Smallest number of pixels of a side; S is the next power of two.
        decay: Factor by which the noise gets weaker from one step to the next.
        rng: Generator of the noise.
    """
    step = 2
    while step < side:
        step *= 2
    clouds = np.zeros((n, step, step))
    noise = 100.0

    def between(total: Floats) -> Floats:
        return total / 4 + noise * rng.uniform(-noise, noise, total.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        middles = between(pairs + np.roll(pairs, -1, axis=2))
        clouds[:, half::step, half::step] = middles
        in_row = corners + np.roll(corners, -1, axis=2)
        in_column = corners + np.roll(corners, -1, axis=1)
        clouds[:, ::step, half::step] = between(middles + np.roll(middles, 1, axis=1) + in_row)
        clouds[:, half::step, ::step] = between(middles + np.roll(middles, 1, axis=2) + in_column)
        step = half
        noise /= decay
    sides = (1, 2)
    clouds -= clouds.min(axis=sides, keepdims=True)
    return np.asarray(clouds / clouds.max(axis=sides, keepdims=True))


def _brightness(x: Floats, i: int, rng: Generator) -> Floats:
    """Add to the value of each colour, and keep its hue and saturation."""
    added = (0.05, 0.1, 0.15, 0.2, 0.3)[i]
    value = x.max(axis=3, keepdims=True)
    is_lit = value > 0
    brighter = np.minimum(value + added, 1.0)
    divisor = np.where(is_lit, value, 1.0)
    coloured = x * brighter / divisor
    return np.asarray(np.where(is_lit, coloured, brighter))


def _contrast(x: Floats, i: int, rng: Generator) -> Floats:
    """Move all values towards the mean of the image."""
    factor = (0.75, 0.5, 0.4, 0.3, 0.15)[i]
    mean = x.mean(axis=(1, 2), keepdims=True)
    return np.asarray((x - mean) * factor + mean)


def _pixelate(x: Floats, i: int, rng: Generator) -> Floats:
    """Store at a lower resolution."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[i]

    def pixelated(image: Image.Image) -> Image.Image:
        size = []
        for side in image.size:
            shorter = int(side * share)
            size.append(max(1, shorter))
        small = image.resize(size, Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.BOX)

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


_FUNCTIONS: dict[str, Callable[[Floats, int, Generator], Floats]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": blurs.defocus_blur,
    "glass_blur": blurs.glass_blur,
    "motion_blur": blurs.motion_blur,
    "zoom_blur": blurs.zoom_blur,
    "snow": _snow,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": blurs.elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
