"""An arm of an experiment: one complete setting, which is trained from several seeds.

A `Workbench` trains arms on one data set. Each training yields a `Measured`: scalars, curves over
epochs, and measures of the hidden layers. The functions at the end compute the scalars from the
curves. A curve has one value for each epoch, the first epoch first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypedDict

import keras
import keras_tuner
import numpy as np

from hpsearch.data.split import SearchData
from hpsearch.data.statistics import DataStatistics, measure
from hpsearch.errors import DivergedError
from hpsearch.experiments.layers import inspect_layers
from hpsearch.models.architecture import Architecture, build_model
from hpsearch.models.sparse import Sparsity, Weights
from hpsearch.seeds import derive
from hpsearch.space.bounds import Value
from hpsearch.space.space import Space
from hpsearch.training.epochs import Listener
from hpsearch.training.monitored_metric import directed
from hpsearch.training.own_fit import kept_model
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import Training, use_precision
from hpsearch.training.trainer import Trainer


class _Parts(TypedDict, total=False):
    """The objects that the groups of the configuration describe."""

    arch: partial[keras_tuner.HyperModel]
    optimizer: partial[keras.optimizers.Optimizer]
    training: Training
    schedule: Schedule
    sparsity: Sparsity | None


@dataclass(frozen=True)
class Arm:
    """One complete setting of a training.

    Attributes:
        name: The name in tables; unique in an experiment.
        parts: The objects made from the groups `arch`, `optimizer`, `training`, `schedule` and,
            where the configuration has one, `sparsity`.
        hyperparameters: The values that a search would draw.
        level: The level of the factor that varies.
        across: The value of the second factor; None where there is no second factor.
        config: The composed configuration as plain data, for the record.
    """

    name: str
    parts: _Parts
    hyperparameters: Mapping[str, Value]
    level: str = ""
    across: float | str | None = None
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def training(self) -> Training:
        """The settings of the arm's fits."""
        return self.parts["training"]


@dataclass
class Measured:
    """The measurements of one training of an arm.

    Attributes:
        scalars: Numbers by name, such as `best/val/loss`.
        curves: One value for each epoch, by metric.
        layers: One value for each hidden layer, by `start/` or `end/` and the measure's name.
        diverged: The message of the error that ended the training; empty where none did.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    curves: dict[str, list[float]] = field(default_factory=dict)
    layers: dict[str, list[float]] = field(default_factory=dict)
    diverged: str = ""

    @property
    def losses(self) -> list[float]:
        """The curve of the loss that arms race to; empty where there is none."""
        return self.curves.get("val/loss", [])

    def race(self, target: float) -> dict[str, float]:
        """Return the epochs and seconds that the training needs to reach a loss.

        Args:
            target: The loss to reach.

        Returns:
            The two numbers by name; empty where the target is never reached and the training is
            therefore censored.
        """
        epoch_s = self.curves.get("time/epoch_s", [])
        for epochs, loss in enumerate(self.losses, 1):
            if loss <= target:
                seconds = sum(epoch_s[:epochs])
                return {"race/epochs": float(epochs), "race/seconds": float(seconds)}
        return {}


@dataclass
class Trained:
    """A trained model with its arm, its seed and its measurements, as a probe receives it."""

    model: keras.Model
    arm: Arm
    seed: int
    measured: Measured


Probe = Callable[["Workbench", Trained], Mapping[str, float]]


class Workbench:
    """Trains arms on one data set.

    Consecutive arms with equal training settings and schedule share one trainer, and therefore its
    compiled program.

    Args:
        data: The data set.
    """

    def __init__(self, data: SearchData) -> None:
        self.data = data
        self._trainer: Trainer | None = None

    @cached_property
    def statistics(self) -> DataStatistics:
        """The shape, classes and statistics of the data that architectures need."""
        return measure(self.data.train.inputs, self.data.n_classes)

    def hypermodel(self, arm: Arm) -> keras_tuner.HyperModel:
        """Return the HyperModel of an arm, with the settings that are hyperparameters here."""
        hypermodel, _ = self._drawn(arm)
        return hypermodel

    def _drawn(self, arm: Arm) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters]:
        """Return the HyperModel of an arm and the hyperparameters that it builds from."""
        hp = keras_tuner.HyperParameters()
        hp.values.update(arm.hyperparameters)
        architecture = Architecture(
            arm.parts["arch"],
            statistics=self.statistics,
            optimizer=arm.parts["optimizer"],
            sparsity=arm.parts.get("sparsity"),
            space=Space(arm.hyperparameters),
        )
        return architecture.hypermodel(hp), hp

    def build(
        self, arm: Arm, seed: int
    ) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters, keras.Model]:
        """Return HyperModel, hyperparameters and a new model; equal seeds give equal models."""
        keras.utils.set_random_seed(derive(seed, "weights"))
        hypermodel, hp = self._drawn(arm)
        model = build_model(hypermodel, hp)
        return hypermodel, hp, model

    def directed(self, arm: Arm) -> Arm:
        """Return the arm with training settings that say whether to minimize or to maximize.

        Raises:
            ConfigError: The direction of the monitored metric is unknown, or the arm's models do
                not report the metric.
        """
        if arm.training.is_directed:
            return arm
        hypermodel, _, model = self.build(arm, 0)
        training = directed(arm.training, hypermodel, model, self.data)
        return replace(arm, parts={**arm.parts, "training": training})

    def trainer(self, arm: Arm) -> Trainer:
        """Return the trainer that fits an arm."""
        settings = arm.training
        schedule = arm.parts["schedule"]
        use_precision(settings.precision)
        trainer = self._trainer
        if trainer is None or (trainer.settings, trainer.schedule) != (settings, schedule):
            trainer = Trainer(settings, self.data, schedule)
            self._trainer = trainer
        return trainer

    def train(
        self,
        arm: Arm,
        seed: int,
        listener: Listener,
        *,
        inspect: bool,
    ) -> Trained:
        """Train an arm from one seed, and return the model with its measurements.

        Where the training diverges, the measurements cover the epochs before.

        Args:
            arm: The setting to train.
            seed: The seed of weights, order of examples and dropout masks.
            listener: Called after each epoch with its number and metrics.
            inspect: Whether to measure the hidden layers before and after training.
        """
        hypermodel, hp, model = self.build(arm, seed)
        measured = Measured()
        best_epoch = 0

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            for key, value in metrics.items():
                measured.curves.setdefault(key, []).append(value)
            listener(epoch, metrics)

        if inspect:
            self._inspect("start", model, measured)
        try:
            trainer = self.trainer(arm)
            fitted = trainer.fit(hypermodel, hp, model, derive(seed, "fit"), listen)
            best_epoch = fitted.best_epoch
            if inspect:
                self._inspect("end", model, measured)
        except DivergedError as error:
            measured.diverged = str(error)
        scalars = measured.scalars
        scalars.update(_scores(measured.curves, arm.training, best_epoch))
        scalars.update(_layer_scalars(measured.layers))
        scalars["diverged"] = float(bool(measured.diverged))
        self._add_speed(scalars, arm.training.batch_size)
        kept = kept_model(hypermodel, model)
        if kept is not model:
            scalars.update(_sparse_scalars(model, kept))
            measured.layers["end/zero_share"] = Weights.of(model).zero_shares
        return Trained(kept, arm, seed, measured)

    def _inspect(self, when: str, model: keras.Model, measured: Measured) -> None:
        """Add the measures of the hidden layers, under names that begin with `when`.

        They are measured on the first 1000 validation images.
        """
        val = self.data.val
        layers = inspect_layers(model, val.inputs[:1000], val.targets[:1000])
        for name, values in layers.items():
            measured.layers[f"{when}/{name}"] = values

    def _add_speed(self, scalars: dict[str, float], batch_size: int) -> None:
        """Add time for each step and examples for each second.

        The time of an epoch includes its validation, which all arms share.
        """
        if "time/epoch_s" not in scalars:
            return
        n = len(self.data.train.targets)
        seconds = scalars["time/epoch_s"]
        n_steps = n // min(batch_size, n)
        scalars["time/step_ms"] = 1000 * seconds / n_steps
        scalars["time/examples_per_s"] = n / seconds


def _scores(
    by_epoch: dict[str, list[float]], training: Training, best_epoch: int
) -> dict[str, float]:
    """Return the metrics of the best epoch, its number, and the scalars of the training curve.

    Args:
        by_epoch: One value for each epoch, by metric.
        training: The settings; they name the metric that decides and its direction.
        best_epoch: The best epoch that the fit reports, counted from 1; the fit may leave out the
            first epochs. 0 where the fit did not come to its end.
    """
    monitored = by_epoch.get(training.monitor, [])
    if not monitored:
        return {}
    if best_epoch:
        best = best_epoch - 1
    else:
        best = int(np.argmin([training.goal.as_loss(value) for value in monitored]))
    found = {}
    for key, values in by_epoch.items():
        if not key.startswith("time/"):
            found[f"best/{key}"] = values[best]
    found["best/epoch"] = best + 1.0
    found.update(_curve_scalars(by_epoch))
    return found


def _curve_scalars(by_epoch: dict[str, list[float]]) -> dict[str, float]:
    """Return the scalars that every training has: its last loss, its rises and its time."""
    losses = by_epoch.get("train/loss", [])
    if not losses:
        return {}
    times = by_epoch["time/epoch_s"]
    after_compiling = times[1:] or times  # the first epoch compiles
    return {
        "overshoot": overshoot(losses),
        "oscillation": oscillation(losses),
        "final/train/loss": losses[-1],
        "time/epoch_s": float(np.median(after_compiling)),
        "n_epochs": float(len(losses)),
    }


def _sparse_scalars(trained: keras.Model, kept: keras.Model) -> dict[str, float]:
    """Return the shares of weights and of units that the kept model lacks or has at zero.

    Args:
        trained: The dense model.
        kept: The model that its HyperModel keeps of it.
    """
    dense = Weights.of(trained)
    left = Weights.of(kept)
    return {
        "sparsity": 1 - left.n_used / dense.n_all,
        "units_gone": 1 - left.n_units / dense.n_units,
    }


def _layer_scalars(layers: dict[str, list[float]]) -> dict[str, float]:
    """Return one finite number for each measure of the hidden layers."""
    over_layers: dict[str, Callable[[list[float]], float]] = {
        "mean": lambda values: max(values, key=abs),
        "std": lambda values: values[-1],
        "dead": _mean,
        "saturated": _mean,
        "rank": min,
        "distinct": min,
        "gradient_norm": _first_to_last,
    }
    found = {}
    for key, values in layers.items():
        summarize = over_layers[key.partition("/")[2]]
        value = float(summarize(values))
        if math.isfinite(value):
            found[key] = value
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _first_to_last(norms: list[float]) -> float:
    """Return the gradient norm of the first hidden layer divided by that of the last hidden layer.

    The ratio is 1 where all layers learn alike. The last norm is that of the output layer.
    """
    if len(norms) < 2 or not norms[-2]:
        return float("nan")
    return norms[0] / norms[-2]


def overshoot(losses: Sequence[float]) -> float:
    """Return how far the loss rises above its first low; 0 where it never rises."""
    for place in range(len(losses) - 1):
        low = losses[place]
        if losses[place + 1] > low:
            highest = max(losses[place + 1 :])
            return float(highest - low)
    return 0.0


def oscillation(losses: Sequence[float]) -> float:
    """Return the sum of all rises from one epoch to the next."""
    steps = np.diff(np.asarray(losses, np.float64))
    return float(steps[steps > 0].sum())


def common_target(curves: Sequence[Sequence[float]], share: float = 0.75) -> float | None:
    """Return the loss that this share of the curves reaches; None where all curves are empty."""
    lowest = [min(curve) for curve in curves if curve]
    if not lowest:
        return None
    return float(np.quantile(lowest, share))
