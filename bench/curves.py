"""Learning curves that searches are measured on: recorded once and replayed, or trained when asked
for.
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import keras_tuner

from hpsearch.training.trainer import Trainer
from parts import composed, hypermodel, part

HYPERPARAMETERS = ("learning_rate", "momentum", "dropout_rate")
Curve = list[tuple[float, float]]  # validation loss and seconds of each epoch


class ReachedError(Exception):
    """The search has its target, or has spent all it may."""


@dataclass
class Count:
    """Counts what a search spends until it reaches `target`, or `most` epochs."""

    target: float
    most: int
    epochs: int = 0
    train_s: float = 0.0
    search_s: float = 0.0  # what the searcher itself takes, without training
    best: float = math.inf

    def epoch(self, loss: float, seconds: float) -> None:
        """Count an epoch."""
        self.epochs += 1
        self.train_s += seconds
        self.best = min(self.best, loss)
        if self.best <= self.target or self.epochs >= self.most:
            raise ReachedError

    @property
    def seconds(self) -> float:
        """Seconds of training and of searching."""
        return self.train_s + self.search_s


def unit(values: Mapping[str, float]) -> tuple[float, ...]:
    """Return hyperparameters on the scales that they are searched on."""
    return (
        math.log(values["learning_rate"]),
        math.log(1 - values["momentum"]),
        values["dropout_rate"],
    )


class Table:
    """Learning curves that were recorded; each epoch takes the seconds of the median one."""

    trained_s = 0.0  # spent on training since it was made

    def __init__(self, path: Path) -> None:
        found = json.loads(path.read_text())
        self.overrides, self.epochs = found["overrides"], found["epochs"]
        epoch_s = statistics.median(
            seconds for record in found["records"] for _, seconds in record["curve"]
        )
        self.curves = [
            [(loss, epoch_s) for loss, _ in record["curve"]] for record in found["records"]
        ]
        self.places = [unit(record["values"]) for record in found["records"]]
        self.spans = [max(axis) - min(axis) or 1.0 for axis in zip(*self.places, strict=True)]

    def curve(self, values: Mapping[str, float]) -> Curve:
        """Return the curve of the nearest configuration."""
        here = unit(values)
        far = [
            sum(((a - b) / span) ** 2 for a, b, span in zip(here, there, self.spans, strict=True))
            for there in self.places
        ]
        return self.curves[far.index(min(far))]


class Reality:
    """Trains what is asked for."""

    def __init__(self, overrides: list[str], epochs: int, seed: int) -> None:
        self.overrides, self.epochs, self.seed, self.trained_s = overrides, epochs, seed, 0.0
        config = composed(
            *overrides, f"training.epochs={epochs}", f"training.patience_epochs={epochs}"
        )
        data = part(config.data).for_search()
        self.made, self.trainer = hypermodel(config, data), Trainer(part(config.training), data)

    def curve(self, values: Mapping[str, float]) -> Curve:
        """Train a configuration to the end; a search counts only the epochs that it looks at."""
        hp = keras_tuner.HyperParameters()
        hp.values.update(values)
        begin = time.perf_counter()
        keras.utils.set_random_seed(self.seed)
        fitted = self.trainer.fit(self.made, hp, self.made.build(hp), self.seed, lambda *_: None)
        self.trained_s += time.perf_counter() - begin
        return [(m["val/loss"], m["time/epoch_s"]) for m in fitted.history]


Curves = Table | Reality
