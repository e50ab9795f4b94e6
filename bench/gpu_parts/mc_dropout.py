"""Passes of MC Dropout a second over 10,000 images: ours, loops of Keras calls, and a plain pass.

The nets are those of bench/mc_dropout.py (20 x 100 SELU with dropout after each layer) and the
product's `cnn`. Loops are timed on a few passes: each costs the same. All loops take the images
from the host in each pass, ours takes them once. The result also holds how far the dense net's
answers are from a reference in float64, since a GPU multiplies in lower precision than a CPU.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from gpu_parts.result import Result, command_line, device, peak_bytes, seconds
from hpsearch.cli import entry
from rows import versions

entry.prepare_environment()

import jax  # noqa: E402 (the environment that the product makes comes first)
import keras  # noqa: E402
import numpy as np  # noqa: E402
from keras import ops  # noqa: E402

import mc_dropout as bench  # noqa: E402
from gpu_parts.nets import configuration, hyperparameters  # noqa: E402
from gpu_parts.nets import images as random_images  # noqa: E402
from hpsearch.mc_dropout.passes import Sampler  # noqa: E402
from parts import hypermodel  # noqa: E402

N_IMAGES, N_IMAGES_SMALL = 10_000, 100
N_SAMPLES, N_SAMPLES_SMALL = {"dense": 100, "cnn": 20}, {"dense": 4, "cnn": 4}
N_LOOPED = 3
N_ROUNDS = 3


def cnn(small: bool) -> keras.Model:
    """Return the convolutional net as a search builds it."""
    model: keras.Model = hypermodel(configuration("cnn", 32, small), random_images(True)).build(
        hyperparameters(0)
    )
    return model


def arms(
    model: keras.Model, images: np.ndarray, n_samples: int
) -> dict[str, tuple[Callable[[], object], int]]:
    """Return of each arm what it runs and how many passes that makes."""
    on = bench.mc_layer(model)
    plain = jax.jit(lambda x: model(x, training=False))
    on_device = jax.device_put(images)
    batch = min(len(images), 1000)
    found: dict[str, tuple[Callable[[], object], int]] = {}
    for shared in (False, True):
        sampler = Sampler(model, bench.settings(shared, n_samples, len(images)))
        found[f"ours, shared_masks={str(shared).lower()}"] = (
            (lambda s=sampler: s.predict(images)),
            n_samples,
        )
    found["predict loop"] = (lambda: on.predict(images, verbose=0)), 1
    found["predict loop, batch 1,000"] = (
        (lambda: on.predict(images, batch_size=batch, verbose=0)),
        1,
    )
    found["model(x, training=True)"] = (
        (lambda: ops.convert_to_numpy(model(images, training=True))),
        1,
    )
    found["plain pass, compiled, images on the device"] = (lambda: np.asarray(plain(on_device))), 1
    return found


def accuracy(model: keras.Model, images: np.ndarray, n_samples: int) -> dict[str, float]:
    """Return how far the dense net's answers are from a reference in float64.

    `plain_error` is the largest difference of a probability in a pass without dropout;
    `standard_errors_off` is the root mean square difference of the passes' mean, in standard errors
    of both means.
    """
    few = images[: bench.N_REFERENCE]
    mean, error = bench.reference(model, few, 4 * n_samples)
    ours = Sampler(model, bench.settings(False, n_samples, len(few))).predict(few).probs
    exact, _ = bench.reference(model, few, 1, rate=0.0)
    plain = ops.convert_to_numpy(model(few, training=False))
    return {
        "plain_error": float(np.abs(plain - exact).max()),
        "standard_errors_off": float(np.sqrt(np.mean(((ours - mean) / (error * np.sqrt(5))) ** 2))),
    }


def main() -> None:
    """Measure both nets."""
    given = command_line(__doc__).parse_args()
    result = Result(given.json)
    result.set(device=device(), versions=versions())
    n_images, n_samples = (
        (N_IMAGES_SMALL, N_SAMPLES_SMALL) if given.small else (N_IMAGES, N_SAMPLES)
    )
    images = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32, 3)).astype(np.float32)
    nets: dict[str, Any] = {
        "dense": bench.net(2 if given.small else bench.N_HIDDEN),
        "cnn": cnn(given.small),
    }
    result.set(n_images=n_images, accuracy=accuracy(nets["dense"], images, n_samples["dense"]))
    for name, model in nets.items():
        for what, (run, n_passes) in arms(model, images, n_samples[name]).items():
            first_s = seconds(run)
            rounds = N_ROUNDS if n_passes > 1 else N_LOOPED
            spent = statistics.median(seconds(run) for _ in range(rounds))
            result.add(
                net=name,
                what=what,
                passes_per_s=n_passes / spent,
                n_passes=n_passes,
                first_s=first_s,
            )
            result.set(peak_bytes=peak_bytes())


if __name__ == "__main__":
    main()
