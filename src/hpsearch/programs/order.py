"""The order in which a compiled program sees its examples."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np


class Order(keras.utils.PyDataset):  # type: ignore[misc]
    """The order in which an epoch sees its examples: a new one each epoch.

    Element i holds int32 indices of shape (steps_per_call, batch_size), how many of the rows count, (1,), and learning
    rate and momentum of each step, (steps_per_call, 2), NaN where `rates` is None and they stay as they are. Examples
    that do not fill a last batch wait for another epoch's order. `fit` must not shuffle the elements.
    """

    def __init__(
        self, n_examples: int, batch_size: int, steps_per_call: int, seed_of_epoch: Callable[[int], int]
    ) -> None:
        super().__init__()
        self.n_examples, self.batch_size = n_examples, min(batch_size, n_examples)
        self.n_steps = n_examples // self.batch_size
        self.steps_per_call = min(steps_per_call, self.n_steps) or self.n_steps
        self.seed_of_epoch = seed_of_epoch
        self.epoch = 0
        self.rates: np.ndarray | None = None  # (n_steps, 2), of this epoch

    def __len__(self) -> int:
        return math.ceil(self.n_steps / self.steps_per_call)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        order = np.random.default_rng(self.seed_of_epoch(self.epoch)).permutation(self.n_examples)
        rows = order[: self.n_steps * self.batch_size].reshape(self.n_steps, self.batch_size)
        mine = slice(index * self.steps_per_call, (index + 1) * self.steps_per_call)
        return self.element(rows[mine], None if self.rates is None else self.rates[mine])

    def element(self, rows: np.ndarray, rates: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return an element of `rows` (n, batch_size) and `rates` (n, 2), filled up to the shapes of them all."""
        order = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        order[: len(rows)] = rows
        table = np.full((self.steps_per_call, 2), np.nan, np.float32)
        if rates is not None:
            table[: len(rates)] = rates
        return order, np.array([len(rows)], np.int32), table
