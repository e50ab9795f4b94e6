"""The order in which training sees its examples, and the rates of each training step.

The order is a new permutation in each epoch, drawn from a seed of the trial and the epoch. `Order`
gives it to a compiled program, with the learning rate and the momentum of each step. `Batches`
gives the same batches to Keras's own `fit`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np

Element = tuple[np.ndarray, ...]


class Order(keras.utils.PyDataset):  # type: ignore[misc]
    """The order of the examples of an epoch, and learning rate and momentum of each of its steps.

    An element of this data set describes the next `steps_per_call` steps of an epoch. Its arrays
    are:

    1. indices of the examples of each batch, (steps_per_call, batch_size) int32;
    2. how many rows of the first array count, (1,);
    3. learning rate and momentum of each step, (steps_per_call, 2); they are NaN where `rates` is
       None, and then the optimizer's numbers stay as they are;
    4. indices of the smaller batch that ends an epoch, (n_examples % batch_size,);
    5. whether the smaller batch comes after the rows of this element, (1,);
    6. learning rate and momentum of the smaller batch, (1, 2).

    `fit` must not shuffle the elements.

    Args:
        n_examples: The number of train examples.
        batch_size: The number of examples in a batch; at most `n_examples` are used.
        steps_per_call: The number of whole batches in an element; 0 takes those of an epoch.
        seed_of_epoch: Returns the seed of the permutation of an epoch, counted from 0.
    """

    def __init__(
        self,
        n_examples: int,
        batch_size: int,
        steps_per_call: int,
        seed_of_epoch: Callable[[int], int],
    ) -> None:
        super().__init__()
        self.n_examples = n_examples
        self.batch_size = min(batch_size, n_examples)
        self.n_whole, self.n_rest = divmod(n_examples, self.batch_size)
        self.steps_per_call = self.n_whole
        if steps_per_call != 0:
            self.steps_per_call = min(steps_per_call, self.n_whole)
        self.seed_of_epoch = seed_of_epoch
        self.epoch = 0
        self.rates: np.ndarray | None = None  # (n_steps, 2), of this epoch

    @property
    def n_steps(self) -> int:
        """The number of steps in an epoch, with the smaller batch."""
        return self.n_whole + bool(self.n_rest)

    def __len__(self) -> int:
        return math.ceil(self.n_whole / self.steps_per_call)

    def permutation(self) -> np.ndarray:
        """Return the indices of the examples in the order of this epoch, (n_examples,)."""
        rng = np.random.default_rng(self.seed_of_epoch(self.epoch))
        return rng.permutation(self.n_examples)

    def __getitem__(self, index: int) -> tuple[Element]:
        return (self.element_at(index),)  # Keras takes the first value for the input

    def element_at(self, index: int) -> Element:
        """Return the element at a place of this epoch."""
        order = self.permutation()
        n_in_whole = self.n_whole * self.batch_size
        batches = order[:n_in_whole].reshape(self.n_whole, self.batch_size)
        begin = index * self.steps_per_call
        steps = slice(begin, min(begin + self.steps_per_call, self.n_whole))
        rates = None
        if self.rates is not None:
            rates = self.rates[steps]
        rest = None
        if index == len(self) - 1 and self.n_rest > 0:
            rest = order[n_in_whole:]
        return self.element(batches[steps], rates, rest)

    def element(
        self,
        rows: np.ndarray,
        rates: np.ndarray | None,
        rest: np.ndarray | None = None,
    ) -> Element:
        """Return an element with the given batches.

        Args:
            rows: Indices of the examples of each whole batch, (n, batch_size) with n at most
                `steps_per_call`.
            rates: Learning rate and momentum of each of these batches, (n, 2). None leaves the
                optimizer's numbers as they are.
            rest: Indices of the smaller batch. None leaves it out.
        """
        order = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        order[: len(rows)] = rows
        n_rows = np.array([len(rows)], np.int32)
        table = np.full((self.steps_per_call, 2), np.nan, np.float32)
        if rates is not None:
            table[: len(rates)] = rates
        last = np.zeros(self.n_rest, np.int32)
        comes = np.array([rest is not None], np.int32)
        last_rates = np.full((1, 2), np.nan, np.float32)
        if rest is not None:
            last = rest.astype(np.int32)
            if self.rates is not None:
                last_rates[:] = self.rates[-1]
        return order, n_rows, table, last, comes, last_rates


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of an order for Keras's own `fit`: images and labels, the smaller batch last."""

    def __init__(
        self,
        order: Order,
        images: np.ndarray,
        labels: np.ndarray,
    ) -> None:
        super().__init__()
        self.order = order
        self.images = images
        self.labels = labels
        self._epoch = -1
        self._rows = np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.order.n_steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch != self.order.epoch:
            self._epoch = self.order.epoch
            self._rows = self.order.permutation()
        size = self.order.batch_size
        begin = index * size
        rows = self._rows[begin : begin + size]
        return self.images[rows], self.labels[rows]
