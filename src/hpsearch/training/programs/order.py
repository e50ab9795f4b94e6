"""The order in which a fit sees its examples: a permutation an epoch, that of a trial's seed."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np


class Order(keras.utils.PyDataset):  # type: ignore[misc]
    """The order in which a compiled program sees its examples: a new one each epoch.

    An element holds the next steps of an epoch: int32 indices (steps_per_call, batch_size); how
    many of these rows count, (1,); learning rate and momentum of each, (steps_per_call, 2), NaN
    where `rates` is None and they stay as they are; the same for the smaller batch that ends an
    epoch: its indices (n_examples % batch_size,), whether it comes after this element's rows, (1,),
    and its rates (1, 2). `fit` must not shuffle the elements.
    """

    def __init__(
        self,
        n_examples: int,
        batch_size: int,
        steps_per_call: int,
        seed_of_epoch: Callable[[int], int],
    ) -> None:
        super().__init__()
        self.n_examples, self.batch_size = n_examples, min(batch_size, n_examples)
        self.n_whole, self.n_rest = divmod(n_examples, self.batch_size)
        self.steps_per_call = min(steps_per_call, self.n_whole) or self.n_whole
        self.seed_of_epoch = seed_of_epoch
        self.epoch = 0
        self.rates: np.ndarray | None = None  # (n_steps, 2), of this epoch

    @property
    def n_steps(self) -> int:
        """How many steps an epoch has, the smaller batch included."""
        return self.n_whole + bool(self.n_rest)

    def __len__(self) -> int:
        return math.ceil(self.n_whole / self.steps_per_call)

    def permutation(self) -> np.ndarray:
        """Return the examples in the order of this epoch, (n_examples,)."""
        return np.random.default_rng(self.seed_of_epoch(self.epoch)).permutation(self.n_examples)

    def __getitem__(self, index: int) -> tuple[tuple[np.ndarray, ...]]:
        return (self.element_at(index),)  # Keras takes what stands first for the input

    def element_at(self, index: int) -> tuple[np.ndarray, ...]:
        """Return the element at a place of this epoch."""
        order = self.permutation()
        rows = order[: self.n_whole * self.batch_size].reshape(self.n_whole, self.batch_size)
        mine = slice(
            index * self.steps_per_call, min((index + 1) * self.steps_per_call, self.n_whole)
        )
        ends = index == len(self) - 1 and self.n_rest > 0
        rest = order[len(order) - self.n_rest :] if ends else None
        return self.element(rows[mine], None if self.rates is None else self.rates[mine], rest)

    def element(
        self, rows: np.ndarray, rates: np.ndarray | None, rest: np.ndarray | None = None
    ) -> tuple[np.ndarray, ...]:
        """Return an element of `rows` (n, batch_size), `rates` (n, 2) and the smaller batch `rest`."""
        order = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        order[: len(rows)] = rows
        table = np.full((self.steps_per_call, 2), np.nan, np.float32)
        if rates is not None:
            table[: len(rates)] = rates
        last = np.zeros(self.n_rest, np.int32) if rest is None else rest.astype(np.int32)
        last_rates = np.full((1, 2), np.nan, np.float32)
        if rest is not None and self.rates is not None:
            last_rates[:] = self.rates[-1]
        return (
            order,
            np.array([len(rows)], np.int32),
            table,
            last,
            np.array([rest is not None], np.int32),
            last_rates,
        )


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """The batches of an order as Keras's own `fit` takes them: images and labels, the smaller batch
    last.
    """

    def __init__(self, order: Order, images: np.ndarray, labels: np.ndarray) -> None:
        super().__init__()
        self.order, self.images, self.labels = order, images, labels
        self._epoch, self._rows = -1, np.zeros(0, np.int64)

    def __len__(self) -> int:
        return self.order.n_steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if self._epoch != self.order.epoch:
            self._epoch, self._rows = self.order.epoch, self.order.permutation()
        size = self.order.batch_size
        rows = self._rows[index * size : (index + 1) * size]
        return self.images[rows], self.labels[rows]
