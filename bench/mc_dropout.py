"""Time MC Dropout against what people do today, and check that all ways agree; nothing is trained.

    python bench/mc_dropout.py                                     20 x 100 SELU net, 10,000 images,
    S = 100 python bench/mc_dropout.py --images 500 --samples 20           a try

All arms share one model and one set of images and run in one process, one after the other, in
several rounds; ratios are of medians. Loops of Keras calls are timed on a few passes and scaled:
each pass costs the same. They are written as people write them, `predict(images)` and
`model(images, training=True)`; rows tell of `predict` with our batch, too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in every command of hpsearch
import keras
import numpy as np
from keras import layers, ops

from hpsearch.mc_dropout.conversion import Split
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.mc_dropout.prediction import McDropout

TARGETS = {
    ("predict loop", "shared_masks=true"): 15.0,
    ("predict loop", "shared_masks=false"): 6.0,
    ("training=True loop", "shared_masks=true"): 6.0,
    ("training=True loop", "shared_masks=false"): 2.5,
}
RATE, N_HIDDEN, N_UNITS = 0.1, 20, 100
N_REFERENCE = 64  # images of which all arms are compared with a float64 reference


def net(n_hidden: int = N_HIDDEN) -> keras.Model:
    """Return the dense net with dropout after each hidden layer."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((32, 32, 3))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(inputs))
    for _ in range(n_hidden):
        x = layers.Dense(N_UNITS, activation="selu", kernel_initializer="lecun_normal")(x)
        x = layers.Dropout(RATE)(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def mc_layer(model: keras.Model) -> keras.Model:
    """Return the model as published code makes it: dropout layers that ignore `training`."""

    class On(layers.Dropout):  # type: ignore[misc]
        def call(self, inputs: object, training: bool = False) -> object:
            return super().call(inputs, training=True)

    swap = lambda layer: On(layer.rate) if isinstance(layer, layers.Dropout) else layer  # noqa: E731
    return keras.models.clone_model(model, clone_function=swap)


def settings(shared_masks: bool, n_samples: int, batch_size: int) -> McDropout:
    """Return the settings of an arm."""
    return McDropout(
        n_samples=n_samples,
        shared_masks=shared_masks,
        seed=0,
        batch_size=batch_size,
        memory_mb=1024,
        from_logits=False,
    )


def reference(
    model: keras.Model, images: np.ndarray, n_samples: int, rate: float = RATE
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard error over passes of MC Dropout in plain NumPy, float64."""
    rng = np.random.default_rng(0)
    weights = [
        np.float64(layer.get_weights()[0])
        for layer in model.layers
        if isinstance(layer, layers.Dense)
    ]
    biases = [
        np.float64(layer.get_weights()[1])
        for layer in model.layers
        if isinstance(layer, layers.Dense)
    ]
    samples = []
    for _ in range(n_samples):
        x = np.float64(images.reshape(len(images), -1)) / 255
        for w, b in zip(weights[:-1], biases[:-1], strict=True):
            z = x @ w + b
            x = 1.0507009873554805 * np.where(
                z > 0, z, 1.6732632423543772 * np.expm1(np.minimum(z, 0))
            )
            x = np.where(rng.random(x.shape) >= rate, x / (1 - rate), 0.0)
        z = x @ weights[-1] + biases[-1]
        e = np.exp(z - z.max(axis=1, keepdims=True))
        samples.append(e / e.sum(axis=1, keepdims=True))
    return np.mean(samples, axis=0), np.std(samples, axis=0) / np.sqrt(n_samples)


def timed(run: Callable[[], object]) -> float:
    """Return seconds."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def suffix_passes(model: keras.Model, images: np.ndarray, batch_size: int) -> Callable[[int], None]:
    """Return a function that runs S plain passes of the part behind the first dropout, compiled
    like ours.
    """
    import tensorflow as tf  # noqa: PLC0415 (seconds that --help must not cost)

    part = Split.of(model)
    first = next(
        place for place, layer in enumerate(model.layers) if isinstance(layer, layers.Dropout)
    )
    behind = [layer for layer in model.layers[first + 1 :] if not isinstance(layer, layers.Dropout)]

    @tf.function(jit_compile=True, autograph=False)
    def passes(x: object, n: object) -> object:
        def one(i: object, total: object) -> object:
            y = x + ops.cast(i, "float32") * 1e-9  # or the compiler would run one pass for all
            for layer in behind:
                y = layer(y)
            return total + y

        return ops.fori_loop(0, n, one, ops.zeros((x.shape[0], 10)))

    features = [
        part.features(ops.convert_to_tensor(images[i : i + batch_size]))[0]
        for i in range(0, len(images), batch_size)
    ]

    def run(n_samples: int) -> None:
        for batch in features:
            ops.convert_to_numpy(passes(batch, ops.convert_to_tensor(n_samples)))

    return run


def speed(
    n_images: int, n_samples: int, n_rounds: int, n_looped: int, batch_size: int
) -> dict[str, object]:
    """Return the seconds of each arm, and how far it is from the reference in standard errors."""
    model = net()
    images = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32, 3)).astype(np.float32)
    on = mc_layer(model)
    samplers = {
        f"shared_masks={str(shared).lower()}": Sampler(
            model, settings(shared, n_samples, batch_size)
        )
        for shared in (True, False)
    }
    suffix = suffix_passes(model, images, batch_size)
    scale = n_samples / n_looped
    arms: dict[str, tuple[Callable[[], object], float]] = {
        "predict loop": (lambda: [on.predict(images, verbose=0) for _ in range(n_looped)], scale),
        "predict loop, our batch": (
            lambda: [
                on.predict(images, batch_size=batch_size, verbose=0) for _ in range(n_looped)
            ],
            scale,
        ),
        "training=True loop": (
            lambda: [
                ops.convert_to_numpy(model(images, training=True)) for _ in range(n_looped)
            ],
            scale,
        ),
        "plain suffix": (lambda: suffix(n_samples), 1.0),
        **{name: ((lambda s=s: s.predict(images)), 1.0) for name, s in samplers.items()},
    }  # fmt: skip
    for run, _ in arms.values():
        run()  # compiles
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(n_rounds):
        for name, (run, times) in arms.items():
            seconds[name].append(timed(run) * times)
    few = images[:N_REFERENCE]
    mean, error = reference(model, few, 4 * n_samples)
    predicted = [on.predict(few, verbose=0) for _ in range(n_samples)]
    called = [model(few, training=True) for _ in range(n_samples)]
    answers = {
        "predict loop": np.mean(predicted, axis=0),
        "training=True loop": np.mean(called, axis=0),
        **{name: s.predict(few).probs for name, s in samplers.items()},
    }
    # One mask a pass is shared by all images, so its errors are; both are of S passes, four times
    # as large a variance.
    off = {
        name: float(np.sqrt(np.mean(((a - mean) / (error * np.sqrt(5))) ** 2)))
        for name, a in answers.items()
    }
    return {
        "seconds": {name: statistics.median(s) for name, s in seconds.items()},
        "standard_errors_off": off,
    }


def peak_mb(n_samples: int, n_images: int, batch_size: int) -> float:
    """Return the peak memory, in MB, of a process of its own that runs S passes."""
    words = [
        sys.executable,
        __file__,
        "--peak",
        str(n_samples),
        "--images",
        str(n_images),
        "--batch",
        str(batch_size),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def report_peak(n_samples: int, n_images: int, batch_size: int) -> None:
    """Run S passes and print this process's peak memory in MB."""
    import resource  # noqa: PLC0415 (seconds that --help must not cost)

    images = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32, 3)).astype(np.float32)
    Sampler(net(), settings(True, n_samples, batch_size)).predict(images)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def rows(found: dict[str, object], memory: dict[int, float]) -> list[tuple[str, ...]]:
    """Return the table, the head first."""
    seconds = found["seconds"]
    table = [("comparison", "must be", "measured")]
    for (slow, fast), target in TARGETS.items():
        table.append((f"{slow} / {fast}", f">= {target:g}", f"{seconds[slow] / seconds[fast]:.1f}"))
    for fast in ("shared_masks=true", "shared_masks=false"):
        slow = "predict loop, our batch"
        table.append((f"{slow} / {fast}", "", f"{seconds[slow] / seconds[fast]:.1f}"))
    table.append(
        (
            "shared_masks=true / plain suffix",
            "<= 1.3",
            f"{seconds['shared_masks=true'] / seconds['plain suffix']:.2f}",
        )
    )
    low, high = sorted(memory)
    table.append((f"memory, S = {high} / S = {low}", "<= 1.1", f"{memory[high] / memory[low]:.3f}"))
    distance = "RMS distance from the float64 reference, standard errors"
    for name, off in found["standard_errors_off"].items():
        table.append((f"{name}: {distance}", "about 1", f"{off:.2f}"))
    return table


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--looped", type=int, default=5, help="passes of the slow loops that are timed"
    )
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        report_peak(given.peak, given.images, given.batch)
        return
    found = speed(given.images, given.samples, given.rounds, given.looped, given.batch)
    memory = {s: peak_mb(s, min(given.images, 2000), given.batch) for s in (10, 1000)}
    for row in rows(found, memory):
        print(f"| {' | '.join(row)} |")
    for name, seconds in found["seconds"].items():
        print(f"{name}: {seconds:.2f} s")
    if given.json:
        machine = {
            "cpus": os.cpu_count(),
            "python": platform.python_version(),
            "tensorflow": version("tensorflow"),
        }
        record = {
            "machine": machine,
            "asked": {k: str(v) for k, v in vars(given).items()},
            **found,
            "peak_mb": memory,
        }
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
