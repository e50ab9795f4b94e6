"""Blurs and distortions of images, as CIFAR-10-C defines them.

Each corruption takes images `x` (N, H, W, C) with values in [0, 1], the index `i` of a severity
in its tables of strengths, from 0 to 4, and a generator, which some do not use. It returns images
of the same shape. Sizes in pixels are for images of 32 x 32 pixels. They grow with larger images
and stay as they are in smaller ones.

The definitions are those of Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to
Common Corruptions and Perturbations", 2019.
"""

from __future__ import annotations

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

from hpsearch.metrics import Floats

_SIDE = 32  # pixels of a side of an image of CIFAR-10


def growth(x: Floats) -> float:
    """Return the factor by which sizes in pixels grow, 1 for images of up to 32 pixels a side."""
    _, height, width, _ = x.shape
    shorter: int = min(height, width)
    return max(1.0, shorter / _SIDE)


def defocus_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Average over a disk of whole pixels with soft edges."""
    radius = (0.3, 0.4, 0.5, 1.0, 1.5)[i]
    softness = (0.4, 0.5, 0.6, 0.2, 0.1)[i]
    axis = np.arange(-2, 3)
    columns, rows = np.meshgrid(axis, axis)
    is_inside = columns**2 + rows**2 <= radius**2
    disk = is_inside / is_inside.sum()
    kernel = ndimage.gaussian_filter(disk, softness, radius=1, mode="constant")
    if growth(x) > 1:
        kernel = _grown(kernel, growth(x))
    reach = len(kernel) // 2
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(x, around, mode="reflect")
    for_all = kernel[None, :, :, None]
    return np.asarray(fftconvolve(padded, for_all, mode="valid", axes=(1, 2)))


def _grown(kernel: Floats, factor: float) -> Floats:
    """Return a kernel that blurs larger images as a kernel of 5 x 5 blurs those of 32 pixels.

    It has a disk, and a single point in the middle of it. Its mean distance from the middle and
    its variance, along an axis, are those of the small kernel times the factor and its square.
    """
    distances = np.abs(np.arange(-2, 3))
    along_axis = kernel.sum(axis=0)
    distance = factor * (along_axis * distances).sum()
    variance = factor**2 * (along_axis * distances**2).sum()
    # A disk of radius r has the mean distance 4 r / (3 pi) and the variance r^2 / 4.
    radius = 16 * variance / (3 * np.pi * distance)
    share = 3 * np.pi * distance / (4 * radius)
    reach = int(radius)
    axis = np.arange(-reach, reach + 1)
    columns, rows = np.meshgrid(axis, axis)
    is_inside = columns**2 + rows**2 <= radius**2
    grown = share * is_inside / is_inside.sum()
    grown[reach, reach] += 1 - share
    return np.asarray(grown)


def glass_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Replace each pixel by one that is drawn among its neighbours, between two blurs.

    The published code walks from the last pixel to the first one and gives each the value of a
    neighbour above, to the left, or of itself. The neighbours have not changed by then, so all
    pixels are drawn at once here.
    """
    sigma = (0.05, 0.25, 0.4, 0.25, 0.4)[i] * growth(x)
    n_times = (1, 1, 1, 2, 2)[i]
    farthest = round(growth(x))
    n, height, width, _ = x.shape
    soft = _softened(x, sigma)
    blurred = np.floor(soft * 255 + 1e-6) / 255
    changed_rows = np.arange(farthest + 1, height)
    changed_columns = np.arange(farthest + 1, width)
    columns, rows = np.meshgrid(changed_columns, changed_rows)
    places = np.arange(n)[:, None, None]
    for _ in range(n_times):
        steps = rng.integers(-farthest, farthest, (2, n, *rows.shape))
        from_rows = np.minimum(rows + steps[0], height - 1)
        from_columns = np.minimum(columns + steps[1], width - 1)
        drawn = blurred[places, from_rows, from_columns]
        blurred[:, farthest + 1 :, farthest + 1 :] = drawn
    return _softened(blurred, sigma)


def _softened(x: Floats, sigma: float) -> Floats:
    sigmas = (0, sigma, sigma, 0)
    return np.asarray(ndimage.gaussian_filter(x, sigmas, mode="nearest"))


def motion_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Average along a line, in a direction that is drawn for each image."""
    radius = (6, 6, 6, 8, 9)[i] * growth(x)
    sigma = (1.0, 1.5, 2.0, 2.0, 2.5)[i] * growth(x)
    angles = rng.uniform(-45, 45, len(x))
    return moved(x, radius, sigma, angles)


def moved(
    x: Floats,
    radius: float,
    sigma: float,
    angles: Floats,
) -> Floats:
    """Return images that are blurred along a line, as ImageMagick's motion blur does.

    The line starts at the pixel and goes in one direction. Its weights are half of a normal
    density. Pixels beyond an edge are those of the edge. Values are rounded to 8 bits.

    Args:
        x: Images, (N, H, W, C).
        radius: The line has 2 * ceil(radius) + 1 pixels.
        sigma: Standard deviation of the normal density, in pixels.
        angles: Direction of each image, (N,), in degrees.
    """
    n, height, width, channels = x.shape
    reach = 2 * int(np.ceil(radius))
    steps = np.arange(reach + 1)
    squares = steps**2
    weights = np.exp(-squares / (2 * sigma**2))
    weights = weights / weights.sum()
    around = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    padded = np.pad(x, around, mode="edge")
    wide = padded.shape[2]
    flat = padded.reshape(n, -1, channels)
    rows, columns = np.mgrid[reach : reach + height, reach : reach + width]
    here = (rows * wide + columns).reshape(1, -1)
    radians = np.deg2rad(angles)
    blurred = np.zeros((n, height * width, channels))
    for step, weight in zip(steps, weights, strict=True):
        if weight < 1e-5:  # less than a hundredth of a level of 8 bits
            break
        down = np.ceil(step * np.sin(radians) - 0.5).astype(int)
        right = np.ceil(step * np.cos(radians) - 0.5).astype(int)
        offsets = down * wide + right
        there = here + offsets[:, None]
        blurred += weight * np.take_along_axis(flat, there[:, :, None], axis=1)
    in_bytes = np.round(blurred * 255)
    return in_bytes.reshape(x.shape) / 255


def zoom_blur(x: Floats, i: int, rng: Generator) -> Floats:
    """Average over images that are zoomed into step by step."""
    end = (1.06, 1.11, 1.16, 1.21, 1.26)[i]
    factors = np.arange(1, end, 0.01)
    total = x.copy()
    for factor in factors:
        total += zoomed(x, factor)
    return total / (len(factors) + 1)


def zoomed(x: Floats, factor: float) -> Floats:
    """Return the middle of images, enlarged linearly to their size.

    Args:
        x: Images, (N, H, W, C).
        factor: From 1 on.
    """
    _, height, width, _ = x.shape
    above, of_below = _enlarging(height, factor)
    below = np.minimum(above + 1, height - 1)
    share = of_below[:, None, None]
    higher = (1 - share) * x[:, above] + share * x[:, below]
    left, of_right = _enlarging(width, factor)
    right = np.minimum(left + 1, width - 1)
    share = of_right[:, None]
    return np.asarray((1 - share) * higher[:, :, left] + share * higher[:, :, right])


def _enlarging(size: int, factor: float) -> tuple[NDArray[np.intp], Floats]:
    """Return where the pixels of an enlarged row come from.

    Returns:
        The pixel before each, (size,), and the share that the next pixel has in it, (size,).
    """
    shown = int(np.ceil(size / factor))
    start = (size - shown) // 2
    enlarged = round(shown * factor)
    first = (enlarged - size) // 2
    step = 0.0
    if enlarged > 1:
        step = (shown - 1) / (enlarged - 1)
    places = start + (np.arange(size) + first) * step
    before = places.astype(np.intp)
    return before, np.asarray(places - before, np.float64)


def elastic_transform(x: Floats, i: int, rng: Generator) -> Floats:
    """Move three points of each image at random, and then each pixel by smooth noise."""
    n, height, width, _ = x.shape
    side = min(height, width)
    strength = (0.0, 0.05, 0.08, 0.1, 0.1)[i] * side
    sigma = (0.0, 0.2, 0.06, 0.04, 0.03)[i] * side
    farthest = (0.08, 0.07, 0.06, 0.05, 0.03)[i] * side
    rows, columns = np.mgrid[:height, :width].astype(float)
    moved_rows, moved_columns = _affine(rows, columns, n, farthest, rng)
    turned = _looked_up(x, moved_rows, moved_columns, "mirror")
    noise = rng.uniform(-1, 1, (2, n, height, width))
    sigmas = (0, 0, sigma, sigma)
    smooth = ndimage.gaussian_filter(noise, sigmas, mode="reflect", truncate=3) * strength
    return _looked_up(turned, rows + smooth[1], columns + smooth[0], "reflect")


def _affine(
    rows: Floats,
    columns: Floats,
    n: int,
    farthest: float,
    rng: Generator,
) -> tuple[Floats, Floats]:
    """Return where each pixel of `n` images comes from, (n, H, W) rows and columns.

    Each image is turned, scaled and sheared so that three points around its middle move by up to
    `farthest` pixels in each direction.
    """
    height, width = rows.shape
    away = max(1, min(height, width) // 3)
    middle = np.array([width // 2, height // 2], float)
    corners = np.array([[away, away], [away, -away], [-away, -away]], float)
    before = middle + corners
    after = before + rng.uniform(-farthest, farthest, (n, 3, 2))
    ones = np.ones((n, 3, 1))
    from_after = np.concatenate([after, ones], axis=2)
    coefficients = np.linalg.solve(from_after, np.broadcast_to(before, (n, 3, 2)))
    a, b, c = (coefficients[:, k, :, None, None] for k in range(3))
    source = columns * a + rows * b + c
    return source[:, 1], source[:, 0]


def _looked_up(
    x: Floats,
    rows: Floats,
    columns: Floats,
    border: str,
) -> Floats:
    """Return the values of images between their pixels, interpolated linearly.

    Args:
        x: Images, (N, H, W, C).
        rows: Places of the values, (N, H, W).
        columns: Places of the values, (N, H, W).
        border: How an image goes on beyond its edges, `mirror` or `reflect` as SciPy means them.
    """
    n, height, width, channels = x.shape
    flat = x.reshape(n, -1, channels)
    found = np.zeros_like(flat)
    top = np.floor(rows)
    left = np.floor(columns)
    for down in (0, 1):
        of_row = 1 - np.abs(rows - top - down)
        row = _inside(top + down, height, border)
        for right in (0, 1):
            of_column = 1 - np.abs(columns - left - right)
            column = _inside(left + right, width, border)
            places = (row * width + column).reshape(n, -1, 1)
            weights = (of_row * of_column).reshape(n, -1, 1)
            found += weights * np.take_along_axis(flat, places, axis=1)
    return found.reshape(x.shape)


def _inside(places: Floats, size: int, border: str) -> NDArray[np.intp]:
    """Return the pixels that stand for places beyond the edges of a row of pixels."""
    whole = places.astype(np.intp)
    if border == "reflect":
        turn = np.mod(whole, 2 * size)
        return np.asarray(np.minimum(turn, 2 * size - 1 - turn))
    period = max(1, 2 * (size - 1))
    turn = np.mod(whole, period)
    return np.asarray(np.minimum(turn, period - turn))
