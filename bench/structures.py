"""Measure memory and time of a search whose every trial may have another structure, and of
KerasTuner's.

    python bench/structures.py                      200 trials on TensorFlow and on JAX, then 20
    beside KerasTuner python bench/structures.py --n-trials 20 python bench/structures.py --source
    OTHER/src   another version of the code, for a comparison python bench/structures.py --figure
             draw docs/figures/structures.png from docs/results/structures.json

The command is the one that a person types: dense nets of 2 to 9 layers of 20 to 200 units on the
digits, two epochs. Memory is the resident size of the search's process and of its children, read
when a trial has ended; growth is the median of the last ten trials less that of trials 11 to 20.
Seconds a trial are those of the whole command, start and end included, over the number of trials;
KerasTuner's random search draws from the same space.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results" / "structures.json"
FIGURE = ROOT / "docs" / "figures" / "structures.png"
SPACE = [
    "+space.bounds.n_hidden={low: 2, high: 9}",
    "+space.bounds.n_units={low: 20, high: 200}",
]
TRIAL = re.compile(r"trial \d+/\d+  #(?!.*: epoch \d)")  # not a line that tells an epoch
TUNER = """
import sys, keras, keras_tuner, numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
x, y = load_digits(return_X_y=True)
x = x.reshape(-1, 8, 8, 1).astype("uint8")
xt, xv, yt, yv = train_test_split(x, y, test_size=0.3, random_state=0)

def build(hp):
    layers = [keras.Input((8, 8, 1)), keras.layers.Rescaling(1 / 16), keras.layers.Flatten()]
    for _ in range(hp.Int("n_hidden", 2, 9)):
        n_units = hp.Int("n_units", 20, 200)
        layers.append(keras.layers.Dense(n_units, "selu", kernel_initializer="lecun_normal"))
        layers.append(keras.layers.AlphaDropout(hp.Float("dropout_rate", 0.0, 0.5)))
    model = keras.Sequential([*layers, keras.layers.Dense(10, "softmax")])
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    momentum = hp.Float("momentum", 0.5, 0.99)
    optimizer = keras.optimizers.Nadam(rate, momentum)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model

n_trials = int(sys.argv[1])
tuner = keras_tuner.RandomSearch(build, "val_loss", max_trials=n_trials, directory=".", seed=1)
tuner.search(xt, yt, epochs=2, batch_size=32, validation_data=(xv, yv), verbose=0)
"""


def search(source: Path, backend: str, n_trials: int) -> dict[str, Any]:
    """Run the search in an empty folder; return its seconds, and its MB after each trial."""
    env = os.environ | {
        "PYTHONPATH": str(source),
        "KERAS_BACKEND": backend,
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable, "-m", "hpsearch", "search", "arch=selu", "data=digits", "training.epochs=2",
        *SPACE, "pruner=none", "sampler=random", f"budget.n_trials={n_trials}",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        megabytes, said = [], []
        for line in process.stdout or ():
            said.append(line)
            if TRIAL.search(line):
                megabytes.append(_megabytes(process.pid))
        if process.wait():
            raise SystemExit("".join(said[-20:]))
        return {"seconds": time.perf_counter() - begin, "megabytes": megabytes}


def _megabytes(pid: int) -> float:
    parent = psutil.Process(pid)
    total = parent.memory_info().rss
    for child in parent.children(recursive=True):
        try:
            total += child.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total / 1e6


def tuner(n_trials: int) -> float:
    """Return the seconds of KerasTuner's random search over the same space."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", TUNER, str(n_trials)],
            cwd=folder,
            check=True,
            capture_output=True,
        )
        return time.perf_counter() - begin


def growth(megabytes: list[float]) -> float:
    """Return how much larger the process was in its last ten trials than in trials 11 to 20."""
    return statistics.median(megabytes[-10:]) - statistics.median(megabytes[10:20])


def draw(results: dict[str, Any]) -> None:
    """Draw memory over trials, a line for each run."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for name, found in results["memory"].items():
        style = ":" if "before" in name else "-"
        axes.plot(
            range(1, len(found["megabytes"]) + 1),
            [m / 1000 for m in found["megabytes"]],
            style,
            label=name,
        )
    axes.set(
        xlabel="trials, each of another structure", ylabel="resident memory [GB]", ylim=(0, None)
    )
    axes.legend()
    figure.savefig(FIGURE, dpi=120)


def main() -> None:
    """Measure, print, and add what was found to the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-trials", type=int, default=200)
    parser.add_argument("--source", type=Path, default=ROOT / "src")
    parser.add_argument(
        "--name", default="", help="added to the names of the runs, such as `before`"
    )
    parser.add_argument("--backends", nargs="*", default=["tensorflow", "jax"])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument(
        "--beside-tuner", type=int, default=0, metavar="N", help="N trials in turn with KerasTuner"
    )
    parser.add_argument("--figure", action="store_true")
    given = parser.parse_args()
    results = (
        json.loads(given.output.read_text())
        if given.output.exists()
        else {"memory": {}, "seconds_per_trial": {}}
    )
    if given.figure:
        draw(results)
        return
    for backend in given.backends:
        found = search(given.source.resolve(), backend, given.n_trials)
        name = f"{backend} {given.name}".strip()
        results["memory"][name] = {**found, "megabytes": [round(m) for m in found["megabytes"]]}
        print(
            f"{name}: {given.n_trials} trials, {found['seconds'] / given.n_trials:.2f} s each; "
            f"grown by {growth(found['megabytes']):.0f} MB, "
            f"at most {max(found['megabytes']):.0f} MB"
        )
        given.output.write_text(json.dumps(results, indent=1) + "\n")
    for _ in range(3 if given.beside_tuner else 0):
        n = given.beside_tuner
        mine, theirs = search(given.source.resolve(), "tensorflow", n)["seconds"] / n, tuner(n) / n
        print(f"seconds a trial: {mine:.2f}, KerasTuner's random search {theirs:.2f}")
        results["seconds_per_trial"].setdefault("pairs", []).append(
            [round(mine, 2), round(theirs, 2)]
        )
        given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
