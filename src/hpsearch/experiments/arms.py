"""Measures of a learning curve: a value for each epoch, the first epoch first.

An arm of an experiment: one setting of everything, trained from one seed after another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, cast

import keras
import keras_tuner
import numpy as np
from numpy.typing import NDArray

from hpsearch.data.split import SearchData
from hpsearch.data.statistics import DataFacts, measure
from hpsearch.errors import DivergedError
from hpsearch.experiments.layers import inspect_layers
from hpsearch.models.architecture import Architecture, build_model
from hpsearch.models.sparse import n_weights, zero_shares
from hpsearch.seeds import derive
from hpsearch.space.bounds import Value
from hpsearch.space.space import Space
from hpsearch.training.monitored_metric import directed
from hpsearch.training.own_fit import finished
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import Training, use_precision
from hpsearch.training.trainer import Trainer

RACE_EPOCHS, RACE_SECONDS = "race/epochs", "race/seconds"


def overshoot(losses: Sequence[float]) -> float:
    """Return how far the loss rises above its first low after its first descent; 0 where it never
    rises.
    """
    for place in range(len(losses) - 1):
        if losses[place + 1] > losses[place]:
            return float(max(losses[place + 1 :]) - losses[place])
    return 0.0


def oscillation(losses: Sequence[float]) -> float:
    """Return the sum of all rises from one epoch to the next."""
    steps = np.diff(np.asarray(losses, np.float64))
    return float(steps[steps > 0].sum())


def epochs_to(losses: Sequence[float], target: float) -> int | None:
    """Return the first epoch (counted from 1) whose loss is at most `target`; None where there is
    none (censored).
    """
    return next((epoch for epoch, loss in enumerate(losses, 1) if loss <= target), None)


def common_target(curves: Sequence[Sequence[float]], share: float = 0.75) -> float | None:
    """Return the loss to race to: this share of the curves get there."""
    lowest = [min(curve) for curve in curves if curve]
    return float(np.quantile(lowest, share)) if lowest else None


def race(losses: Sequence[float], epoch_s: Sequence[float], target: float) -> dict[str, float]:
    """Return epochs and seconds to a loss; nothing where it is never reached."""
    epochs = epochs_to(losses, target)
    return (
        {}
        if epochs is None
        else {RACE_EPOCHS: float(epochs), RACE_SECONDS: float(sum(epoch_s[:epochs]))}
    )


def of_training(curves: dict[str, list[float]]) -> dict[str, float]:
    """Return the scalars that every training has, from its curves by epoch."""
    losses = curves.get("train/loss", [])
    if not losses:
        return {}
    times = curves["time/epoch_s"]
    return {
        "overshoot": overshoot(losses),
        "oscillation": oscillation(losses),
        "final/train/loss": losses[-1],
        "time/epoch_s": float(np.median(times[1:] or times)),  # the first epoch compiles
        "n_epochs": float(len(losses)),
    }


N_INSPECTED = 1000  # validation images that the layers are looked at with


@dataclass(frozen=True)
class Arm:
    """What is trained.

    Attributes:
        name: For tables, unique in an experiment.
        parts: `arch`, `optimizer`, `training` and `schedule`, as their folders in conf describe
            them.
        hyperparameters: What a search would draw.
        level: The factor's level.
        across: The second factor's value, where there is one.
    """

    name: str
    parts: Mapping[str, Any]
    hyperparameters: Mapping[str, Value]
    level: str = ""
    across: float | str | None = None

    @property
    def training(self) -> Training:
        """The settings of its fits."""
        training: Training = self.parts["training"]
        return training


@dataclass
class Measured:
    """What one training of an arm came to.

    Attributes:
        scalars: By name, such as `best/val/loss`.
        curves: A value for each epoch, by metric.
        layers: A value for each hidden layer, by `start/` or `end/` and measure.
        diverged: The sentence of the error that ended it, if one did.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    layers: dict[str, list[float]] = field(default_factory=dict)
    diverged: str = ""


@dataclass
class Trained:
    """A trained model with all that a probe may want to know of it."""

    model: keras.Model
    arm: Arm
    seed: int
    measured: Measured


Probe = Callable[["Workbench", Trained], Mapping[str, float]]


class Workbench:
    """Trains arms on one data set; arms that share a program follow each other at no cost of
    compiling.
    """

    def __init__(self, data: SearchData) -> None:
        self.data = data
        self._trainer: Trainer | None = None

    @cached_property
    def facts(self) -> DataFacts:
        """What architectures are completed with."""
        return measure(self.data.train.images, self.data.n_classes)

    @property
    def sample(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """A fixed part of the validation images, with labels."""
        return self.data.val.images[:N_INSPECTED], self.data.val.labels[:N_INSPECTED]

    def hypermodel(self, arm: Arm) -> keras_tuner.HyperModel:
        """Return an arm's HyperModel, completed; with the settings of it that are hyperparameters
        here.
        """
        return self._drawn(arm)[0]

    def _drawn(self, arm: Arm) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters]:
        parts, hp = arm.parts, keras_tuner.HyperParameters()
        hp.values.update(arm.hyperparameters)
        given = {
            "facts": self.facts,
            "optimizer": parts["optimizer"],
            "sparsity": parts.get("sparsity"),
        }
        return Architecture(parts["arch"], **given, space=Space(arm.hyperparameters)).hypermodel(
            hp
        ), hp

    def build(
        self, arm: Arm, seed: int
    ) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters, keras.Model]:
        """Return a fresh model of an arm, the same for the same seed."""
        keras.utils.set_random_seed(derive(seed, "weights"))
        hypermodel, hp = self._drawn(arm)
        return hypermodel, hp, build_model(hypermodel, hp)

    def directed(self, arm: Arm) -> Arm:
        """Return an arm whose training settings say which way the monitored metric is better.

        Raises:
            ConfigError: Nothing says it, or the arm's models do not report the metric.
        """
        if arm.training.is_directed:
            return arm
        hypermodel, _, model = self.build(arm, 0)
        training = directed(arm.training, hypermodel, model, self.data)
        return replace(arm, parts={**arm.parts, "training": training})

    def trainer(self, arm: Arm) -> Trainer:
        """Return what fits an arm."""
        schedule: Schedule = arm.parts["schedule"]
        use_precision(arm.training.precision)
        known = self._trainer
        if known is None or (known.settings, known.schedule) != (arm.training, schedule):
            self._trainer = Trainer(arm.training, self.data, schedule)
        return cast("Trainer", self._trainer)

    def train(
        self,
        arm: Arm,
        seed: int,
        listener: Callable[[int, Mapping[str, float]], None],
        *,
        inspect: bool,
    ) -> Trained:
        """Train an arm from `seed`; where it diverges, what it was until then counts."""
        hypermodel, hp, model = self.build(arm, seed)
        measured, best_epoch = Measured(), 0
        if inspect:
            measured.layers |= _at("start", inspect_layers(model, *self.sample))

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            for key, value in metrics.items():
                measured.curves.setdefault(key, []).append(value)
            listener(epoch, metrics)

        try:
            best_epoch = (
                self.trainer(arm).fit(hypermodel, hp, model, derive(seed, "fit"), listen).best_epoch
            )
            if inspect:
                measured.layers |= _at("end", inspect_layers(model, *self.sample))
        except DivergedError as error:
            measured.diverged = str(error)
        measured.scalars |= scores(measured.curves, arm.training, best_epoch) | _summary(
            measured.layers
        )
        measured.scalars |= {"diverged": float(bool(measured.diverged))}
        if "time/epoch_s" in measured.scalars:
            n = len(self.data.train.labels)
            seconds = measured.scalars["time/epoch_s"]  # with the validation, which all arms share
            steps = n // min(arm.training.batch_size, n)
            measured.scalars |= {
                "time/step_ms": 1000 * seconds / steps,
                "time/examples_per_s": n / seconds,
            }
        kept = finished(hypermodel, model)
        if kept is not model:
            measured.scalars |= sparse_scalars(model, kept)
            measured.layers["end/zero_share"] = zero_shares(model)
        return Trained(kept, arm, seed, measured)


def scores(
    by_epoch: dict[str, list[float]], training: Training, best_epoch: int
) -> dict[str, float]:
    """Return the metrics of the best epoch, that epoch, and what its curve says.

    Args:
        by_epoch: A value for each epoch, by metric.
        training: Says which metric decides.
        best_epoch: What the fit says, which may leave first epochs out; 0 where it did not come to
            its end.
    """
    monitored = by_epoch.get(training.monitor, [])
    if not monitored:
        return {}
    if best_epoch:
        best = best_epoch - 1
    else:
        best = monitored.index(training.goal.best(monitored))
    found = {
        f"best/{key}": values[best]
        for key, values in by_epoch.items()
        if not key.startswith("time/")
    }
    return {**found, "best/epoch": best + 1.0, **of_training(by_epoch)}


def sparse_scalars(trained: keras.Model, kept: keras.Model) -> dict[str, float]:
    """Return which share of the dense net's weights is zero or gone, and which share of its units
    is gone.
    """
    dense, left = n_weights(trained), n_weights(kept)
    return {
        "sparsity": 1 - left.n_used / dense.n_all,
        "units_gone": 1 - left.n_units / dense.n_units,
    }


def _at(when: str, layers: Mapping[str, list[float]]) -> dict[str, list[float]]:
    return {f"{when}/{name}": values for name, values in layers.items()}


def _summary(layers: Mapping[str, list[float]]) -> dict[str, float]:
    """Return one number for each measure of the layers: mean, lowest, or last by what the measure
    asks.
    """
    pick: dict[str, Callable[[list[float]], float]] = {
        "mean": lambda x: max(x, key=abs),
        "std": lambda x: x[-1],
        "dead": lambda x: sum(x) / len(x),
        "saturated": lambda x: sum(x) / len(x),
        "rank": min,
        "distinct": min,
        "gradient_norm": partial(_ratio),
    }
    found = {key: pick[key.partition("/")[2]](values) for key, values in layers.items()}
    return {key: float(value) for key, value in found.items() if math.isfinite(value)}


def _ratio(norms: list[float]) -> float:
    """Return the first hidden layer's gradient over the last one's: 1 where all layers learn alike."""
    return norms[0] / norms[-2] if len(norms) > 1 and norms[-2] else float("nan")
