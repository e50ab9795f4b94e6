"""Count the trials an hour that `trainer=fused` trains for K = 1, 4, 8, 16, 32, on whatever JAX
finds.

    KERAS_BACKEND=jax python bench/fused.py
    KERAS_BACKEND=jax python bench/fused.py --quick

Images of CIFAR-10's shape, the dense net of 20 x 100 with Nadam; an epoch of K trials, on a part of
the images, is timed without the first, which compiles, and made into trials of 10 epochs of all
45,000.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import keras
import keras_tuner

from hpsearch.training.fused import FusedTrainer
from hpsearch.training.trainer import Trainer
from parts import composed, hypermodel, like_cifar, part
from rows import Row, run

EPOCHS_OF_A_TRIAL, IMAGES_OF_AN_EPOCH = 10, 45000


def models(made: Any, n: int) -> list[tuple[keras_tuner.HyperParameters, keras.Model]]:
    """Return `n` freshly built models, no two with the same learning rate."""
    found = []
    for number in range(n):
        hp = keras_tuner.HyperParameters()
        hp.values.update(
            learning_rate=1e-4 * (1 + number), momentum=0.9, dropout_rate=0.01 * number
        )
        found.append((hp, made.build(hp)))
    return found


def epoch_s(trainer: Trainer, made: Any, n: int) -> float:
    """Return the seconds of an epoch of `n` trials at once."""
    ends: list[float] = []

    def fit(number: int, hp: Any, model: Any) -> None:
        listen = (lambda *_: ends.append(time.perf_counter())) if number == 0 else lambda *_: None
        trainer.fit(made, hp, model, number, listen)

    with ThreadPoolExecutor(n) as pool:
        for future in [
            pool.submit(fit, number, *pair) for number, pair in enumerate(models(made, n))
        ]:
            future.result()
    return statistics.median(b - a for a, b in itertools.pairwise(ends[1:]))


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Return a row for each K."""
    device = jax.devices()[0]
    config = composed(
        f"arch={given.arch}",
        f"training.epochs={given.epochs}",
        f"training.batch_size={given.batch_size}",
    )
    data = like_cifar(given.n_train, given.n_val, given.seed)
    made, settings = hypermodel(config, data), part(config.training)
    hourly = 3600 / EPOCHS_OF_A_TRIAL * given.n_train / IMAGES_OF_AN_EPOCH
    alone = epoch_s(Trainer(settings, data), made, 1)
    yield Row(
        f"{given.arch}: trials an hour, one after the other", hourly / alone, note=str(device)
    )
    for k in given.k:
        seconds = epoch_s(FusedTrainer(settings, data, k), made, k)
        shown = f"{hourly * k / seconds:.3g} trials an hour; an epoch of all {seconds:.3g} s"
        yield Row(
            f"{given.arch}: K = {k} fused / one after the other, trials an hour",
            alone * k / seconds,
            "x",
            note=shown,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", default="elu")
    parser.add_argument("--n-train", type=int, default=9000)
    parser.add_argument("--n-val", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--k", type=int, nargs="+", default=[1, 4, 8, 16, 32])
    parser.add_argument("--quick", action="store_true")
    known, _ = parser.parse_known_args()
    if known.quick:
        parser.set_defaults(n_train=500, n_val=100, epochs=4, k=[1, 4])
    run("fused", parser, measure)
