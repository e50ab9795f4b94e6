"""Time an epoch of a trial against Keras's fit as it comes, against PyTorch, and against the matrix
products alone.

    python bench/training.py            all rows, half an hour
    python bench/training.py --quick    to see that it runs

All arms of a row take turns in one process, on images of CIFAR-10's shape, a third of its number,
which should leave ratios as they are. Each is timed without its first epoch, which compiles. The
median is quoted.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import SearchData
from hpsearch.training.trainer import Trainer
from parts import composed, hypermodel, like_cifar, part
from rows import Row, run

ARCHS, OPTIMIZERS = ("elu", "batch_norm", "alpha_dropout"), ("sgd", "nadam")
LEARNING_RATE, DROPOUT_RATE = 1e-4, 0.05
MUST = {32: 2.5, 128: 1.7}
Arm = Callable[[], float]


def hyperparameters(config: Any) -> keras_tuner.HyperParameters:
    """Return middling hyperparameters, a low learning rate so that SGD stays finite."""
    hp = keras_tuner.HyperParameters()
    hp.values.update(learning_rate=LEARNING_RATE, momentum=0.9, dropout_rate=DROPOUT_RATE)
    return hp


def as_it_comes(config: Any, data: SearchData) -> Arm:
    """Keras's fit on arrays, second epoch of each call."""
    model = hypermodel(config, data).build(hyperparameters(config))
    val = (data.val.inputs, data.val.targets)
    size = config.training.batch_size

    def epoch() -> float:
        begin: list[float] = []
        stamp = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: begin.append(time.perf_counter())
        )
        model.fit(
            data.train.inputs,
            data.train.targets,
            batch_size=size,
            epochs=1,
            verbose=0,
            validation_data=val,
            callbacks=[stamp],
        )
        return time.perf_counter() - begin[0]

    return epoch


def ours(config: Any, data: SearchData) -> Arm:
    """A trial of the project: `Trainer.fit`."""
    trainer = Trainer(part(config.training), data)
    model_of = hypermodel(config, data)
    hp = hyperparameters(config)

    def epoch() -> float:
        return trainer.fit(model_of, hp, model_of.build(hp), 0, lambda *_: None).history[-1][
            "time/epoch_s"
        ]

    return epoch


def products_alone(config: Any, data: SearchData) -> Arm:
    """The matrix products of the forward and backward passes of an epoch, by NumPy, and nothing
    else.
    """
    size, (n_in, *_), units, n_hidden = (
        config.training.batch_size,
        (3072,),
        config.arch.n_units,
        config.arch.n_hidden,
    )
    widths = [n_in, *[units] * n_hidden, data.n_classes]
    rng = np.random.default_rng(0)
    n_whole, n_rest = divmod(len(data.train), size)

    def operands(n: int) -> list[tuple[np.ndarray, ...]]:
        return [
            (
                rng.random((n, a), np.float32),
                rng.random((a, b), np.float32),
                rng.random((n, b), np.float32),
                np.empty((n, b), np.float32),
                np.empty((a, b), np.float32),
                np.empty((n, a), np.float32),
            )
            for a, b in itertools.pairwise(widths)
        ]

    batches = [operands(size)] * n_whole + ([operands(n_rest)] if n_rest else [])

    def epoch() -> float:
        begin = time.perf_counter()
        for layers in batches:
            for x, w, _, y, _, _ in layers:
                np.matmul(x, w, out=y)
            for place, (x, w, dy, _, dw, dx) in enumerate(layers):
                np.matmul(x.T, dy, out=dw)
                if place:  # nobody asks for the gradient of the images
                    np.matmul(dy, w.T, out=dx)
        return time.perf_counter() - begin

    return epoch


def in_torch(config: Any, data: SearchData, compiled: bool) -> Arm:
    """The same net and steps in PyTorch, data held as tensors; validation is left out, to its
    favour.
    """
    arch = config.arch
    net = {key: arch[key] for key in ("n_hidden", "n_units", "activation", "dropout_after")}
    net |= {"batch_norm": arch.normalization == "batch"}
    net |= {"alpha_dropout": "AlphaDropout" in arch.dropout._target_, "dropout_rate": DROPOUT_RATE}
    net |= {
        "optimizer": config.optimizer._target_.rpartition(".")[2].lower(),
        "learning_rate": LEARNING_RATE,
    }
    net |= {
        "batch_size": config.training.batch_size,
        "n_train": len(data.train),
        "compiled": compiled,
    }
    command = [sys.executable, str(Path(__file__).with_name("in_torch.py")), json.dumps(net)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def epoch() -> float:
        process.stdin.write("epoch\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"it ended with status {process.wait()}")
        return float(answer)

    weakref.finalize(epoch, process.kill)
    return epoch


def take_turns(arms: dict[str, Arm], repeats: int) -> dict[str, float]:
    """Return each arm's median seconds, the first turn (compiling) left out; an arm that cannot run
    is left out.
    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(repeats + 1):
        for name, arm in arms.items():
            try:
                seconds = arm()
            except (RuntimeError, OSError) as error:
                if not name.startswith("torch"):
                    raise
                print(f"{name} does not run here: {error}")
                continue
            times[name] += [seconds] if turn else []
    return {name: statistics.median(found) for name, found in times.items() if found}


def dense_rows(given: argparse.Namespace, arch: str, optimizer: str, size: int) -> Iterator[Row]:
    """Return the rows of one dense net."""
    config = composed(
        f"arch={arch}", f"optimizer={optimizer}", f"training.batch_size={size}", "training.epochs=1"
    )
    data = like_cifar(given.n_train, given.n_train // 9, given.seed)
    arms = {
        "fit": as_it_comes(config, data),
        "ours": ours(config, data),
        "products": products_alone(config, data),
    }
    if not given.no_torch:
        arms |= {
            "torch eager": in_torch(config, data, False),
            "torch compile": in_torch(config, data, True),
        }
    found = take_turns(arms, given.repeats)
    name = f"{arch}, {optimizer}, batch {size}"
    shown = ", ".join(f"{arm} {seconds:.2f} s" for arm, seconds in found.items())
    yield Row(
        f"{name}: fit as it comes / ours",
        found["fit"] / found["ours"],
        "x",
        MUST[size],
        True,
        shown,
    )
    most = 4 if size == 128 else None
    yield Row(f"{name}: ours / matrix products alone", found["ours"] / found["products"], "x", most)
    for arm in ("torch eager", "torch compile"):
        if arm in found:
            yield Row(f"{name}: {arm} / ours", found[arm] / found["ours"], "x", 1.0, True)


def cnn_row(given: argparse.Namespace) -> Row:
    """Return the row of the convolutional net, on a part of the images."""
    config = composed("arch=cnn", "training.epochs=1")
    data = like_cifar(min(given.n_train, 3000), 200, given.seed)
    found = take_turns(
        {"fit": as_it_comes(config, data), "ours": ours(config, data)}, given.repeats
    )
    shown = ", ".join(f"{arm} {seconds:.2f} s" for arm, seconds in found.items())
    return Row(
        "cnn, nadam, batch 32: ours / fit as it comes",
        found["ours"] / found["fit"],
        "x",
        1.0,
        note=shown,
    )


def loss_row(given: argparse.Namespace, n_seeds: int = 5) -> Row:
    """Compare the final loss of fit and of ours (without averaged weights) over seeds, on the
    digits.
    """
    epochs = 2 if given.quick else 10
    config = composed(
        "arch=elu", "data=digits", f"training.epochs={epochs}", "training.averaging_epochs=0"
    )
    data = part(config.data).for_search()
    trainer, made = Trainer(part(config.training), data), hypermodel(config, data)
    ends: dict[str, list[float]] = {"fit": [], "ours": []}
    for seed in range(given.seed, given.seed + n_seeds):
        hp = hyperparameters(config)
        hp.values["learning_rate"] = 1e-3
        keras.utils.set_random_seed(seed)
        fitted = trainer.fit(made, hp, made.build(hp), seed, lambda *_: None)
        ends["ours"].append(fitted.history[-1]["val/loss"])
        keras.utils.set_random_seed(seed)
        val = (data.val.inputs, data.val.targets)
        history = made.build(hp).fit(
            data.train.inputs,
            data.train.targets,
            batch_size=32,
            epochs=epochs,
            verbose=0,
            validation_data=val,
        )
        ends["fit"].append(history.history["val_loss"][-1])
    difference = abs(statistics.mean(ends["ours"]) - statistics.mean(ends["fit"]))
    noise = (sum(statistics.variance(values) for values in ends.values()) / n_seeds) ** 0.5
    shown = "; ".join(
        f"{arm} {', '.join(f'{v:.3f}' for v in values)}" for arm, values in ends.items()
    )
    return Row(
        f"final val loss over {n_seeds} seeds: |ours - fit| / its standard error",
        difference / noise,
        "",
        2,
        note=shown,
    )


def measure(given: argparse.Namespace) -> Iterator[Row]:
    """Return all rows."""
    for size, arch, optimizer in itertools.product(
        given.batch_sizes, given.archs, given.optimizers
    ):
        yield from dense_rows(given, arch, optimizer, size)
        keras.utils.clear_session()
    yield cnn_row(given)
    yield loss_row(given)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--n-train", type=int, default=15000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--optimizers", nargs="+", default=OPTIMIZERS)
    parser.add_argument(
        "--batch-sizes", type=int, nargs="+", default=list(MUST), choices=list(MUST)
    )
    parser.add_argument("--no-torch", action="store_true")
    parser.add_argument("--quick", action="store_true", help="a thousand images, one turn")
    known, _ = parser.parse_known_args()
    if known.quick:
        parser.set_defaults(
            n_train=1000, repeats=1, archs=("elu",), optimizers=("nadam",), batch_sizes=[32]
        )
    run("training", parser, measure)
