"""Schedules: the learning rate and the momentum of each training step.

A schedule computes the rates of an epoch from the learning rate and the momentum that the trial
drew. It is a pure function of the place in the training and of the losses so far, so a training
that was stopped continues as if it had never stopped. A compiled program reads the rates from a
table, so a schedule costs no compilation. This module imports no Keras, so that a mistake in a
setting is answered at once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hpsearch.errors import ConfigError


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
