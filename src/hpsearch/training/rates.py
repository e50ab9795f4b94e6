"""Gives a program the learning rate and momentum of its steps: those of a schedule, or ever larger ones."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from hpsearch.programs.inputs import rate_variables
from hpsearch.programs.order import Order
from hpsearch.training.epochs import Epochs
from hpsearch.training.schedules import Place, Schedule

EXPLODED = 4.0  # times the lowest loss: a sweep of learning rates ends there


class Scheduling(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit and writes the rates of each epoch into its order.

    Args:
        schedule: Where they come from.
        order: Where they go to.
        n_epochs: Epochs of the whole training.
        drawn: The trial's learning rate, None where the model brings a Keras schedule, and its momentum.
        epochs: Knows the losses so far, those before a checkpoint too.
    """

    def __init__(
        self, schedule: Schedule, order: Order, n_epochs: int, drawn: tuple[float | None, float], epochs: Epochs
    ) -> None:
        super().__init__()
        self.schedule, self.order, self.n_epochs, self.drawn, self.epochs = schedule, order, n_epochs, drawn, epochs

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
        for variable, value in zip(rate_variables(self.model.optimizer), self.order.rates[batch], strict=True):
            if variable is not None:
                variable.assign(value)


class Sweep(keras.utils.PyDataset):  # type: ignore[misc]
    """Elements of an order, each with a few steps at one learning rate."""

    def __init__(self, order: Order, learning_rates: np.ndarray, momentum: float, n_steps: int) -> None:
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
    """Train `model` a few steps at each learning rate by Keras's `train_on_batch`; return the mean losses."""
    shuffled, size = order.permutation(), order.batch_size
    found: list[float] = []
    for point, rate in enumerate(learning_rates):
        model.optimizer.learning_rate = rate
        losses = []
        for step in range(point * n_steps, (point + 1) * n_steps):
            rows = shuffled[np.arange(step * size, (step + 1) * size) % len(shuffled)]
            model.reset_metrics()
            losses.append(model.train_on_batch(examples[0][rows], examples[1][rows], return_dict=True)["loss"])
        loss = float(np.mean(losses))
        if not math.isfinite(loss) or (found and loss > EXPLODED * min(found)):
            break
        found.append(loss)
    return np.array(found)


class LossOfEach(keras.callbacks.Callback):  # type: ignore[misc]
    """Collects the loss of each element, where Keras reports the mean of all so far; stops where it explodes."""

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
