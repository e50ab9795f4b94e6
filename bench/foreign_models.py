"""Compare MC Dropout of models that other people wrote with a plain loop of Keras.

    python bench/foreign_models.py > docs/results/foreign_models_tensorflow.md
    KERAS_BACKEND=jax python bench/foreign_models.py > docs/results/foreign_models_jax.md

The reference is `model(x, training=True)` with Keras's own random numbers, of a model without its
noise and augmentation and with BatchNormalization frozen. Passes are drawn until the 99 % interval
of the ratio of variances is narrower than 0.05 on each side. One interval in a hundred leaves out
1 by chance, so a model with such an interval gets one of 16 times as many passes, which counts.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import foreign_models
import plain_loop


def main() -> int:
    """Print the table, a row as soon as it is known; 1 if a model differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=foreign_models.BUILDS)
    parser.add_argument("--passes", type=int, default=4000, help="the fewest of each model")
    given = parser.parse_args()
    print(
        f"MC Dropout against a plain loop, {keras.backend.backend()}; `bench/foreign_models.py` "
        "prints it.\n"
    )
    print(f"| {' | '.join(plain_loop.HEADER)} |\n|{'---|' * len(plain_loop.HEADER)}")
    rows = []
    for name in given.only or foreign_models.BUILDS:
        rows.append(plain_loop.row(name, given.passes))
        print(f"| {' | '.join(rows[-1])} |", flush=True)
    n_agree = sum(found[-1] == "agrees" for found in rows)
    n_differ = sum(found[-1] == "DIFFERS" for found in rows)
    print(f"\n{n_agree} of {len(rows)} agree, {n_differ} differ, the others are refused.")
    return int(n_differ > 0)


if __name__ == "__main__":
    sys.exit(main())
