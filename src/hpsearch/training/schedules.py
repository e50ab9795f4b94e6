"""Schedules: learning rate and momentum of each training step, as a share of what the trial drew.

A schedule is a pure function of the place in the training and of the losses so far, so that a
training that was stopped goes on as if it had not been. Programs read the rates from a table, so a
schedule costs no compilation.

Gives a program the learning rate and momentum of its steps: those of a schedule, or ever larger
ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import ConfigError
from hpsearch.training.epochs import Epochs
from hpsearch.training.programs.inputs import rate_variables
from hpsearch.training.programs.order import Order

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a training is: an epoch (from 0) of `n_epochs`, of `n_steps` each, after epochs with
    these val/losses.
    """

    epoch: int
    n_epochs: int
    n_steps: int
    losses: Sequence[float]

    def progress(self) -> Floats:
        """Return how far each step of the epoch is in the whole training, in [0, 1), (n_steps,)."""
        return (self.epoch + np.arange(self.n_steps) / self.n_steps) / self.n_epochs


class Schedule(Protocol):
    """What gives the rates of an epoch."""

    def rates(self, learning_rate: float, momentum: float, place: Place) -> tuple[Floats, Floats]:
        """Return learning rate and momentum of each step of an epoch, (n_steps,) each, from what
        the trial drew.
        """


@dataclass(frozen=True)
class Constant:
    """What the trial drew, at every step."""

    def rates(self, learning_rate: float, momentum: float, place: Place) -> tuple[Floats, Floats]:
        """Return it."""
        return np.full(place.n_steps, learning_rate), np.full(place.n_steps, momentum)


CONSTANT = Constant()


@dataclass(frozen=True)
class OneCycle:
    """Up to the drawn learning rate and down again, momentum the other way round (Smith 2018).

    Attributes:
        warmup: Share of the training that goes up.
        start: First learning rate, as a share of the drawn one.
        end: Last one.
        low_momentum: Momentum at the peak, where it is below the drawn one.
    """

    warmup: float
    start: float
    end: float
    low_momentum: float

    def __post_init__(self) -> None:
        if not 0 < self.warmup < 1:
            raise ConfigError(f"schedule.warmup must lie between 0 and 1, but is {self.warmup}.")

    def rates(self, learning_rate: float, momentum: float, place: Place) -> tuple[Floats, Floats]:
        """Return cosine arcs between the corners."""
        t = place.progress()
        up = t < self.warmup
        height = np.where(
            up, _arc(t / self.warmup), _arc((1 - t) / (1 - self.warmup))
        )  # 0 at both ends, 1 at the peak
        foot = np.where(up, self.start, self.end)
        low = min(self.low_momentum, momentum)
        return learning_rate * (foot + (1 - foot) * height), momentum + (low - momentum) * height


@dataclass(frozen=True)
class Cosine:
    """Down from the drawn learning rate along half a cosine, without restarts (Loshchilov and
    Hutter 2017).

    Attributes:
        end: Last learning rate, as a share of the drawn one.
    """

    end: float

    def rates(self, learning_rate: float, momentum: float, place: Place) -> tuple[Floats, Floats]:
        """Return the arc, and the drawn momentum."""
        share = self.end + (1 - self.end) * _arc(1 - place.progress())
        return learning_rate * share, np.full(place.n_steps, momentum)


@dataclass(frozen=True)
class ReduceOnPlateau:
    """The learning rate is multiplied by `factor` when val/loss has not improved for
    `patience_epochs`.

    Attributes:
        factor: Between 0 and 1.
        patience_epochs: Epochs without improvement.
        least: Lowest learning rate, as a share of the drawn one.
    """

    factor: float
    patience_epochs: int
    least: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"schedule.factor must lie between 0 and 1, but is {self.factor}.")

    def rates(self, learning_rate: float, momentum: float, place: Place) -> tuple[Floats, Floats]:
        """Return the same rates for the whole epoch."""
        share, best, waited = 1.0, float("inf"), 0
        for loss in place.losses:
            best, waited = (loss, 0) if loss < best else (best, waited + 1)
            if waited >= self.patience_epochs:
                share, waited = max(share * self.factor, self.least), 0
        return np.full(place.n_steps, learning_rate * share), np.full(place.n_steps, momentum)


def _arc(x: Floats) -> Floats:
    """Return half a cosine from 0 at x = 0 to 1 at x = 1."""
    return np.asarray((1 - np.cos(np.pi * np.clip(x, 0, 1))) / 2)


EXPLODED = 4.0  # times the lowest loss: a sweep of learning rates ends there


class Scheduling(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit and writes the rates of each epoch into its order.

    Args:
        schedule: Where they come from.
        order: Where they go to.
        n_epochs: Epochs of the whole training.
        drawn: The trial's learning rate, None where the model brings a Keras schedule, and its
            momentum.
        epochs: Knows the losses so far, those before a checkpoint too.
    """

    def __init__(
        self,
        schedule: Schedule,
        order: Order,
        n_epochs: int,
        drawn: tuple[float | None, float],
        epochs: Epochs,
    ) -> None:
        super().__init__()
        self.schedule, self.order, self.n_epochs, self.drawn, self.epochs = (
            schedule,
            order,
            n_epochs,
            drawn,
            epochs,
        )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Write the rates."""
        learning_rate, momentum = self.drawn
        if learning_rate is not None:
            losses = [metrics["val/loss"] for metrics in self.epochs.fitted.history]
            place = Place(epoch, self.n_epochs, self.order.n_steps, losses)
            self.order.rates = np.stack(self.schedule.rates(learning_rate, momentum, place), axis=1)


class RatesOfSteps(keras.callbacks.Callback):  # type: ignore[misc]
    """Gives the model that Keras fits the rates that its order has for each step."""

    def __init__(self, order: Order) -> None:
        super().__init__()
        self.order = order

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Assign learning rate and momentum."""
        if self.order.rates is None:
            return
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        for variable, value in zip(
            rate_variables(self.model.optimizer), self.order.rates[batch], strict=True
        ):
            if variable is not None:
                variable.assign(value)


class Sweep(keras.utils.PyDataset):  # type: ignore[misc]
    """Elements of an order, each with a few steps at one learning rate."""

    def __init__(
        self, order: Order, learning_rates: np.ndarray, momentum: float, n_steps: int
    ) -> None:
        super().__init__()
        self.order, self.learning_rates, self.momentum = order, learning_rates, momentum
        self.n_steps = min(n_steps, order.steps_per_call)

    def __len__(self) -> int:
        return len(self.learning_rates)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, ...]]:
        n, size = self.order.n_examples, self.order.batch_size
        places = np.arange(index * self.n_steps * size, (index + 1) * self.n_steps * size) % n
        shuffled = np.random.default_rng(self.order.seed_of_epoch(0)).permutation(n)
        rates = np.tile([self.learning_rates[index], self.momentum], (self.n_steps, 1))
        return (self.order.element(shuffled[places].reshape(self.n_steps, size), rates),)


def sweep_by_keras(
    model: keras.Model,
    order: Order,
    examples: tuple[np.ndarray, np.ndarray],
    learning_rates: np.ndarray,
    n_steps: int,
) -> np.ndarray:
    """Train `model` a few steps at each learning rate by Keras's `train_on_batch`; return the mean
    losses.
    """
    shuffled, size = order.permutation(), order.batch_size
    found: list[float] = []
    for point, rate in enumerate(learning_rates):
        model.optimizer.learning_rate = rate
        losses = []
        for step in range(point * n_steps, (point + 1) * n_steps):
            rows = shuffled[np.arange(step * size, (step + 1) * size) % len(shuffled)]
            model.reset_metrics()
            losses.append(
                model.train_on_batch(examples[0][rows], examples[1][rows], return_dict=True)["loss"]
            )
        loss = float(np.mean(losses))
        if not math.isfinite(loss) or (found and loss > EXPLODED * min(found)):
            break
        found.append(loss)
    return np.array(found)


class LossOfEach(keras.callbacks.Callback):  # type: ignore[misc]
    """Collects the loss of each element, where Keras reports the mean of all so far; stops where it
    explodes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Take the difference."""
        loss = (batch + 1) * float(logs["loss"]) - sum(self.found)
        if not math.isfinite(loss) or (self.found and loss > EXPLODED * min(self.found)):
            self.model.stop_training = True
        else:
            self.found.append(loss)
