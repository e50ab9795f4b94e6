"""Learning rate and momentum of each training step: schedules and learning rate sweeps.

A schedule computes the rates of an epoch from the learning rate and the momentum that the trial
drew. It is a pure function of the place in the training and of the losses so far, so a training
that was stopped continues as if it had never stopped. A compiled program reads the rates from a
table, so a schedule costs no compilation. `Scheduling` fills this table at the start of each
epoch, and assigns its values to a model that Keras's own `fit` trains.

A sweep trains a few steps at each of several learning rates in turn, for the learning rate test.
`sweep_by_program` does this with a compiled program, `sweep_by_keras` does it without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Protocol

import keras
import numpy as np

from hpsearch.errors import ConfigError
from hpsearch.training.epochs import Epochs
from hpsearch.training.programs.inputs import rate_variables
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import Program


@dataclass(frozen=True)
class Place:
    """The place of an epoch in a training.

    Attributes:
        epoch: The epoch, counted from 0.
        n_epochs: Epochs of the whole training.
        n_steps: Steps of one epoch.
        losses: `val/loss` of each epoch before this one.
    """

    epoch: int
    n_epochs: int
    n_steps: int
    losses: Sequence[float]

    def progress(self) -> np.ndarray:
        """Return the share of the training before each step of the epoch, in [0, 1), (n_steps,)."""
        share_of_epoch = np.arange(self.n_steps) / self.n_steps
        return (self.epoch + share_of_epoch) / self.n_epochs


class Schedule(Protocol):
    """The interface of all schedules."""

    def rates(
        self,
        learning_rate: float,
        momentum: float,
        place: Place,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the learning rate and the momentum of each step of an epoch, (n_steps,) each.

        Args:
            learning_rate: The one that the trial drew.
            momentum: The one that the trial drew.
            place: The place of the epoch in the training.
        """


@dataclass(frozen=True)
class Constant:
    """The learning rate and the momentum that the trial drew, at every step."""

    def rates(
        self,
        learning_rate: float,
        momentum: float,
        place: Place,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the drawn rates for each step."""
        learning_rates = np.full(place.n_steps, learning_rate)
        momentums = np.full(place.n_steps, momentum)
        return learning_rates, momentums


@dataclass(frozen=True)
class OneCycle:
    """Up to the drawn learning rate and down again, momentum the other way round (Smith 2018).

    Attributes:
        warmup: Share of the training in which the learning rate rises, in (0, 1).
        start: First learning rate, as a share of the drawn one.
        end: Last learning rate, as a share of the drawn one.
        low_momentum: Momentum at the peak, unless the drawn one is lower.
    """

    warmup: float
    start: float
    end: float
    low_momentum: float

    def __post_init__(self) -> None:
        if not 0 < self.warmup < 1:
            raise ConfigError(f"schedule.warmup must lie between 0 and 1, but is {self.warmup}.")

    def rates(
        self,
        learning_rate: float,
        momentum: float,
        place: Place,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rates that follow a rising and then a falling half cosine."""
        progress = place.progress()
        is_rising = progress < self.warmup
        rising = _half_cosine(progress / self.warmup)
        share_of_fall_left = (1 - progress) / (1 - self.warmup)
        falling = _half_cosine(share_of_fall_left)
        height = np.where(is_rising, rising, falling)  # 0 at both ends, 1 at the peak
        foot = np.where(is_rising, self.start, self.end)
        share = foot + (1 - foot) * height
        learning_rates = learning_rate * share
        low = min(self.low_momentum, momentum)
        momentums = momentum + (low - momentum) * height
        return learning_rates, momentums


@dataclass(frozen=True)
class Cosine:
    """Down from the drawn learning rate along a half cosine (Loshchilov and Hutter 2017).

    There are no restarts.

    Attributes:
        end: Last learning rate, as a share of the drawn one.
    """

    end: float

    def rates(
        self,
        learning_rate: float,
        momentum: float,
        place: Place,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return falling learning rates and the drawn momentum."""
        height = _half_cosine(1 - place.progress())
        share = self.end + (1 - self.end) * height
        learning_rates = learning_rate * share
        momentums = np.full(place.n_steps, momentum)
        return learning_rates, momentums


@dataclass(frozen=True)
class ReduceOnPlateau:
    """The learning rate is multiplied by `factor` each time `val/loss` stops improving.

    Attributes:
        factor: In (0, 1).
        patience_epochs: Epochs without improvement before each reduction.
        least: Lowest learning rate, as a share of the drawn one.
    """

    factor: float
    patience_epochs: int
    least: float

    def __post_init__(self) -> None:
        if not 0 < self.factor < 1:
            raise ConfigError(f"schedule.factor must lie between 0 and 1, but is {self.factor}.")

    def rates(
        self,
        learning_rate: float,
        momentum: float,
        place: Place,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the same rates for all steps of the epoch."""
        share = 1.0
        best = math.inf
        n_waited = 0
        for loss in place.losses:
            if loss < best:
                best = loss
                n_waited = 0
            else:
                n_waited += 1
            if n_waited >= self.patience_epochs:
                share = max(share * self.factor, self.least)
                n_waited = 0
        learning_rates = np.full(place.n_steps, learning_rate * share)
        momentums = np.full(place.n_steps, momentum)
        return learning_rates, momentums


def _half_cosine(x: np.ndarray) -> np.ndarray:
    """Return the values of a half cosine that rises from 0 at x = 0 to 1 at x = 1."""
    angle = np.pi * np.clip(x, 0, 1)
    height = (1 - np.cos(angle)) / 2
    return np.asarray(height)


class Scheduling(keras.callbacks.Callback):  # type: ignore[misc]
    """A Keras callback that writes the rates of each epoch into the order of the examples.

    Args:
        schedule: Computes the rates.
        drawn: The trial's learning rate and momentum. The learning rate is None where the model
            brings a Keras schedule; no rates are written then.
        epochs: Has the order, the number of epochs of the whole training and the losses so far,
            including those of epochs before a checkpoint.
        each_step: Whether to assign the rates to the optimizer at each step, as Keras's own `fit`
            needs it. A compiled program reads them from the order.
    """

    def __init__(
        self,
        schedule: Schedule,
        drawn: tuple[float | None, float],
        epochs: Epochs,
        *,
        each_step: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.drawn = drawn
        self.epochs = epochs
        self.each_step = each_step

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Write the rates of an epoch."""
        learning_rate, momentum = self.drawn
        if learning_rate is None:
            return
        order = self.epochs.work.order
        history = self.epochs.fitted.history
        losses = [metrics["val/loss"] for metrics in history]
        place = Place(
            epoch=epoch,
            n_epochs=self.epochs.settings.epochs,
            n_steps=order.n_steps,
            losses=losses,
        )
        rates = self.schedule.rates(learning_rate, momentum, place)
        order.rates = np.stack(rates, axis=1)

    def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
        """Assign the learning rate and the momentum of a step, if that is wanted."""
        rates = self.epochs.work.order.rates
        if rates is None or not self.each_step:
            return
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        variables = rate_variables(self.model.optimizer)
        pairs = zip(variables, rates[batch], strict=True)
        for variable, value in pairs:
            if variable is not None:
                variable.assign(value)


def sweep_by_program(
    program: Program,
    order: Order,
    learning_rates: np.ndarray,
    n_steps: int,
) -> np.ndarray:
    """Train a few steps at each learning rate by a compiled program; see `sweep_by_keras`.

    Args:
        program: A program that has loaded the model of a trial.
        order: The order of the examples; the sweep begins again where they end.
        learning_rates: The learning rates, (n,).
        n_steps: Steps at each learning rate; no more than `order` has in one element.

    Returns:
        The mean training loss at each learning rate before the one at which the loss explodes.
    """
    n_steps = min(n_steps, order.steps_per_call)
    _, momentum = program.drawn
    batches = _endless(order)
    found: list[float] = []
    program.model.reset_metrics()
    for n_elements, learning_rate in enumerate(learning_rates, start=1):
        next_batches = list(islice(batches, n_steps))
        rows = np.stack(next_batches)
        rates_of_step = [learning_rate, momentum]
        rates = np.tile(rates_of_step, (n_steps, 1))
        element = order.element(rows, rates)
        logs = program.run(element)
        # The metric is the mean of all elements so far.
        loss = n_elements * logs["loss"] - sum(found)
        if _has_exploded(loss, found):
            break
        found.append(loss)
    return np.array(found)


def sweep_by_keras(
    model: keras.Model,
    order: Order,
    examples: tuple[np.ndarray, np.ndarray],
    learning_rates: np.ndarray,
    n_steps: int,
) -> np.ndarray:
    """Train `model` a few steps at each learning rate by Keras's `train_on_batch`.

    Args:
        model: A compiled model, which the sweep changes.
        order: The order of the examples; the sweep begins again where they end.
        examples: Images (n, H, W, C) and their labels.
        learning_rates: The learning rates, (n,).
        n_steps: Steps at each learning rate.

    Returns:
        The mean training loss at each learning rate before the one at which the loss explodes.
    """
    images, labels = examples
    batches = _endless(order)
    found: list[float] = []
    for learning_rate in learning_rates:
        model.optimizer.learning_rate = learning_rate
        losses = []
        for rows in islice(batches, n_steps):
            model.reset_metrics()
            batch = (images[rows], labels[rows])
            metrics = model.train_on_batch(*batch, return_dict=True)
            losses.append(metrics["loss"])
        loss = float(np.mean(losses))
        if _has_exploded(loss, found):
            break
        found.append(loss)
    return np.array(found)


def _endless(order: Order) -> Iterator[np.ndarray]:
    """Yield the indices of the examples of whole batches, again from the start after the end."""
    shuffled = order.permutation()
    for first in count(0, order.batch_size):
        end = first + order.batch_size
        places = np.arange(first, end) % len(shuffled)
        yield shuffled[places]


def _has_exploded(loss: float, earlier: list[float]) -> bool:
    """Return whether a loss is not finite or far above the lowest one of a sweep so far."""
    if not math.isfinite(loss):
        return True
    return bool(earlier) and loss > 4.0 * min(earlier)
