"""Schedules: learning rate and momentum of each training step, as a share of what the trial drew.

A schedule is a pure function of the place in the training and of the losses so far, so that a training that was
stopped goes on as if it had not been. Programs read the rates from a table, so a schedule costs no compilation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hpsearch.errors import ConfigError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """Where a training is: an epoch (from 0) of `n_epochs`, of `n_steps` each, after epochs with these val/losses."""

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
        """Return learning rate and momentum of each step of an epoch, (n_steps,) each, from what the trial drew."""


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
        height = np.where(up, _arc(t / self.warmup), _arc((1 - t) / (1 - self.warmup)))  # 0 at both ends, 1 at the peak
        foot = np.where(up, self.start, self.end)
        low = min(self.low_momentum, momentum)
        return learning_rate * (foot + (1 - foot) * height), momentum + (low - momentum) * height


@dataclass(frozen=True)
class Cosine:
    """Down from the drawn learning rate along half a cosine, without restarts (Loshchilov and Hutter 2017).

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
    """The learning rate is multiplied by `factor` when val/loss has not improved for `patience_epochs`.

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
