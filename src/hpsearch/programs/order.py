"""The order in which a compiled program sees its examples."""

from __future__ import annotations

import math
from collections.abc import Callable

import keras
import numpy as np


class Order(keras.utils.PyDataset):  # type: ignore[misc]
    """The order in which an epoch sees its examples: a new one each epoch.

    Element i holds int32 indices of shape (steps_per_call, batch_size) and, of shape (1,), how many of the rows count.
    Examples that do not fill a last batch wait for another epoch's order. `fit` must not shuffle the elements.
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

    def __len__(self) -> int:
        return math.ceil(self.n_steps / self.steps_per_call)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        order = np.random.default_rng(self.seed_of_epoch(self.epoch)).permutation(self.n_examples)
        rows = order[: self.n_steps * self.batch_size].reshape(self.n_steps, self.batch_size)
        rows = rows[index * self.steps_per_call : (index + 1) * self.steps_per_call].astype(np.int32)
        padded = np.zeros((self.steps_per_call, self.batch_size), np.int32)
        padded[: len(rows)] = rows
        return padded, np.array([len(rows)], np.int32)
