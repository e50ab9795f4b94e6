"""An arm of an experiment: one complete setting, which is trained from several seeds.

A `Workbench` trains arms on one data set. Each training yields a `Measured`: scalars, curves over
epochs, and measures of the hidden layers. A curve has one value for each epoch, the first epoch
first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import ClassVar, TypedDict

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
        parts: The objects made from the groups in `PARTS` that the configuration has.
        hyperparameters: The values that a search would draw.
        level: The level of the factor that varies.
        across: The value of the second factor; None where there is no second factor.
        config: The composed configuration as plain data, for the record.
        bounded: The names of hyperparameters that set arguments of the architecture or of the
            optimizer, as the bounds of a search do; None takes all.
        PARTS: The groups of the configuration that an arm is made of.
    """

    PARTS: ClassVar[tuple[str, ...]] = (
        "arch",
        "optimizer",
        "training",
        "schedule",
        "sparsity",
    )

    name: str
    parts: _Parts
    hyperparameters: Mapping[str, Value]
    level: str = ""
    across: float | str | None = None
    config: Mapping[str, object] = field(default_factory=dict)
    bounded: Collection[str] | None = None

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
        for epochs, loss in enumerate(self.losses, 1):
            if loss <= target:
                seconds = sum(self.curves["time/epoch_s"][:epochs])
                return {"race/epochs": float(epochs), "race/seconds": float(seconds)}
        return {}

    def add_scores(self, training: Training, best_epoch: int) -> None:
        """Add the metrics of the best epoch, and its number.

        Args:
            training: The settings; they name the metric that decides and its direction.
            best_epoch: The best epoch that the fit reports, counted from 1; the fit may leave out
                the first epochs. 0 where the fit did not come to its end.
        """
        monitored = self.curves.get(training.monitor)
        if not monitored:
            return
        if not best_epoch:
            losses = [training.goal.as_loss(value) for value in monitored]
            best_epoch = int(np.argmin(losses)) + 1
        for key, values in self.curves.items():
            if not key.startswith("time/"):
                self.scalars[f"best/{key}"] = values[best_epoch - 1]
        self.scalars["best/epoch"] = float(best_epoch)
        self._add_curve_scalars()

    def _add_curve_scalars(self) -> None:
        """Add the scalars that every training has: its last loss, its rises and its time.

        `overshoot` is how far the loss rises above its first low, and 0 where it never rises.
        `oscillation` is the sum of all rises from one epoch to the next.
        """
        losses = self.curves.get("train/loss")
        if not losses:
            return
        steps = np.diff(losses)
        is_rise = steps > 0
        overshoot = 0.0
        if is_rise.any():
            low = int(np.argmax(is_rise))
            highest = max(losses[low:])
            overshoot = float(highest - losses[low])
        rises = steps[is_rise]
        times = self.curves["time/epoch_s"]
        after_compiling = times[1:] or times  # the first epoch compiles
        scalars = self.scalars
        scalars["overshoot"] = overshoot
        scalars["oscillation"] = float(rises.sum())
        scalars["final/train/loss"] = losses[-1]
        scalars["time/epoch_s"] = float(np.median(after_compiling))
        scalars["n_epochs"] = float(len(losses))

    def add_layer_scalars(self) -> None:
        """Add one finite number for each measure of the hidden layers."""
        over_layers: dict[str, Callable[[list[float]], float]] = {
            "mean": lambda values: max(values, key=abs),
            "std": lambda values: values[-1],
            "dead": lambda values: sum(values) / len(values),
            "saturated": lambda values: sum(values) / len(values),
            "rank": min,
            "distinct": min,
            "gradient_norm": _first_to_last,
        }
        for key, values in self.layers.items():
            name = key.partition("/")[2]
            summarize = over_layers[name]
            value = float(summarize(values))
            if math.isfinite(value):
                self.scalars[key] = value


def _first_to_last(norms: list[float]) -> float:
    """Return the gradient norm of the first hidden layer divided by that of the last hidden layer.

    The ratio is 1 where all layers learn alike. The last norm is that of the output layer.
    """
    if len(norms) < 2 or not norms[-2]:
        return math.nan
    return norms[0] / norms[-2]


@dataclass
class Trained:
    """A trained model with its arm and its seed, as a probe receives it."""

    model: keras.Model
    arm: Arm
    seed: int


class Workbench:
    """Trains arms on one data set.

    Consecutive arms with equal training settings and schedule share one trainer, and therefore its
    compiled program.

    Args:
        data: The data set.
        inspect: Whether the hidden layers are measured before and after training.
        probes: Further measurements of each trained model, which return numbers by name.
    """

    def __init__(
        self,
        data: SearchData,
        *,
        inspect: bool = False,
        probes: Sequence[Callable[[Workbench, Trained], Mapping[str, float]]] = (),
    ) -> None:
        self.data = data
        self._inspect = inspect
        self._probes = probes
        self._trainer: Trainer | None = None

    @cached_property
    def statistics(self) -> DataStatistics:
        """The shape, classes and statistics of the data that architectures need."""
        return measure(self.data.train.inputs, self.data.n_classes)

    def drawn(self, arm: Arm) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters]:
        """Return the HyperModel of an arm and the hyperparameters that it builds from.

        Settings that are hyperparameters here are those of the HyperModel.
        """
        hp = keras_tuner.HyperParameters()
        hp.values.update(arm.hyperparameters)
        bounds = arm.hyperparameters
        if arm.bounded is not None:
            bounds = {name: value for name, value in bounds.items() if name in arm.bounded}
        architecture = Architecture(
            arm.parts["arch"],
            statistics=self.statistics,
            optimizer=arm.parts["optimizer"],
            sparsity=arm.parts.get("sparsity"),
            space=Space(bounds),
        )
        return architecture.hypermodel(hp), hp

    def build(
        self, arm: Arm, seed: int
    ) -> tuple[keras_tuner.HyperModel, keras_tuner.HyperParameters, keras.Model]:
        """Return HyperModel, hyperparameters and a new model; equal seeds give equal models."""
        keras.utils.set_random_seed(derive(seed, "weights"))
        hypermodel, hp = self.drawn(arm)
        model = build_model(hypermodel, hp, self.statistics.image_shape)
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
        parts: _Parts = {**arm.parts, "training": training}
        return replace(arm, parts=parts)

    def trainer(self, arm: Arm) -> Trainer:
        """Return the trainer that fits an arm."""
        settings = replace(arm.training, swag=False)  # an experiment keeps no model
        schedule = arm.parts["schedule"]
        use_precision(settings.precision)
        trainer = self._trainer
        if trainer is not None:
            known = (trainer.settings, trainer.schedule)
            if known == (settings, schedule):
                return trainer
        self._trainer = Trainer(settings, self.data, schedule)
        return self._trainer

    def train(
        self,
        arm: Arm,
        seed: int,
        listener: Listener,
    ) -> Measured:
        """Train an arm from one seed, and return the measurements.

        Where the training diverges, the measurements cover the epochs before.

        Args:
            arm: The setting to train.
            seed: The seed of weights, order of examples and dropout masks.
            listener: As in `Trainer.fit`.
        """
        hypermodel, hp, model = self.build(arm, seed)
        measured = Measured()
        best_epoch = 0

        def listen(epoch: int, metrics: Mapping[str, float], is_last: bool) -> None:
            for key, value in metrics.items():
                measured.curves.setdefault(key, []).append(value)
            listener(epoch, metrics, is_last)

        self._add_layers("start", model, measured)
        try:
            trainer = self.trainer(arm)
            fit_seed = derive(seed, "fit")
            fitted = trainer.fit(hypermodel, hp, model, fit_seed, listen)
            best_epoch = fitted.best_epoch
            self._add_layers("end", model, measured)
        except DivergedError as error:
            measured.diverged = str(error)
        measured.add_scores(arm.training, best_epoch)
        measured.add_layer_scalars()
        scalars = measured.scalars
        scalars["diverged"] = float(bool(measured.diverged))
        self._add_speed(scalars, arm.training.batch_size)
        kept = kept_model(hypermodel, model)
        if kept is not model:
            dense = Weights.of(model)
            left = Weights.of(kept)
            scalars["sparsity"] = 1 - left.n_used / dense.n_all
            scalars["units_gone"] = 1 - left.n_units / dense.n_units
            measured.layers["end/zero_share"] = dense.zero_shares
        if not measured.diverged:
            for probe in self._probes:
                trained = Trained(kept, arm, seed)
                scalars.update(probe(self, trained))
        return measured

    def _add_layers(
        self,
        when: str,
        model: keras.Model,
        measured: Measured,
    ) -> None:
        """Add the measures of the hidden layers, under names that begin with `when`.

        They are measured on the first 1000 validation images.
        """
        if not self._inspect:
            return
        val = self.data.val
        images = val.inputs[:1000]
        labels = val.targets[:1000]
        layers = inspect_layers(model, images, labels)
        for name, values in layers.items():
            measured.layers[f"{when}/{name}"] = values

    def _add_speed(self, scalars: dict[str, float], batch_size: int) -> None:
        """Add time for each step and examples for each second.

        The time of an epoch includes its validation, which all arms share.
        """
        if "time/epoch_s" not in scalars:
            return
        n = len(self.data.train)
        seconds = scalars["time/epoch_s"]
        n_steps = n // min(batch_size, n)
        scalars["time/step_ms"] = 1000 * seconds / n_steps
        scalars["time/examples_per_s"] = n / seconds
