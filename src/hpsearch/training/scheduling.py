"""The rates of a schedule brought to a training, and sweeps of the learning rate.

`Scheduling` fills the table from which a compiled program reads its rates at the start of each
epoch, and assigns its values to a model that Keras's own `fit` trains.

A sweep trains a few steps at each of several learning rates in turn, for the learning rate test.
`sweep_by_program` does this with a compiled program, `sweep_by_keras` does it without one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count, islice

import keras
import numpy as np

from hpsearch.training.epochs import Epochs
from hpsearch.training.programs.inputs import rate_variables
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import Program
from hpsearch.training.schedules import Place, Schedule


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
