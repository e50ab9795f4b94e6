"""Train models as people write them by hpsearch and by Keras's own fit, and print how far apart the
two end.

    python bench/same_model.py > docs/results/same_model_tensorflow.md
    KERAS_BACKEND=jax python bench/same_model.py > docs/results/same_model_jax.md

Each model of tests/people.py trains three epochs from the same weights on the same batches, in
float64 and in float32. For float32 the table also says how far Keras's own fit is from itself, with
jit_compile on and off: what rounding alone makes of it. Random layers other than Dropout and
AlphaDropout draw the same numbers in both.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import people
from beside_keras import FLOAT32_ALONE, by_keras, precision, searched, trained
from hpsearch.training.trainer import Trainer

HEADER = (
    "model",
    "trained by",
    "val/loss",
    "Keras's fit",
    "apart in float64",
    "in float32",
    "fit from itself",
)


def row(name: str) -> tuple[str, ...]:
    """Return what the table says of one model."""
    build, data = people.BUILDS[name], searched()
    exact = "-"
    if name not in FLOAT32_ALONE:
        with precision("float64"):
            exact = (
                f"{_apart(_losses(trained(build, data)[0]), by_keras(build, data)['val_loss']):.0e}"
            )
    with precision("float32"):
        epochs, _, way = trained(build, data)
        theirs = by_keras(build, data)["val_loss"]
        try:
            compiled, plain = (by_keras(build, data, jit=jit)["val_loss"] for jit in (True, False))
            rounding = f"{_apart(compiled, plain):.0e}"
        except Exception as error:  # whatever XLA cannot compile
            rounding = type(error).__name__
    ours = _losses(epochs)
    kind = "program" if way == Trainer.BY_PROGRAM else way.replace(Trainer.BY_KERAS, "fit:")
    return (
        name,
        kind,
        f"{ours[-1]:.6f}",
        f"{theirs[-1]:.6f}",
        exact,
        f"{_apart(ours, theirs):.0e}",
        rounding,
    )


def _losses(epochs: list[dict[str, float]]) -> list[float]:
    return [epoch["val/loss"] for epoch in epochs]


def _apart(some: list[float], others: list[float]) -> float:
    """Return the largest difference of two runs, relative to the second where that is above 1."""
    return float(np.max(np.abs(np.subtract(some, others)) / np.maximum(1.0, np.abs(others))))


def main() -> None:
    """Print the table, a row as soon as it is known."""
    print(
        f"val/loss after three epochs, {keras.backend.backend()}; `bench/same_model.py` prints "
        f"it.\n"
    )
    print("| " + " | ".join(HEADER) + " |\n|" + " --- |" * len(HEADER))
    n_by_program = 0
    for name in people.BUILDS:
        found = row(name)
        n_by_program += found[1] == "program"
        print("| " + " | ".join(found) + " |", flush=True)
    print(f"\n{n_by_program} of {len(people.BUILDS)} models are trained by a program.")


if __name__ == "__main__":
    main()
