"""Three ways to a sparse net: what each makes of a dense layer, draws, and does between epochs. See conf/sparsity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import keras_tuner
import numpy as np
from keras import ops

from hpsearch.architectures.sparse import GroupLassoDense, L1Dense, MaskedDense
from hpsearch.errors import ConfigError, did_you_mean

SCOPES = ("weight", "unit")


class Sparsity(Protocol):
    """What an architecture asks of a way to sparse nets."""

    def dense(self, units: int, hp: keras_tuner.HyperParameters, **settings: Any) -> keras.layers.Layer:
        """Return the layer that stands for a dense one, with what it draws."""

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return what goes on between epochs; one with `ramp_epochs` keeps the first epochs from being the best."""


def _strength(hp: keras_tuner.HyperParameters, low: float, high: float) -> float:
    return float(hp.Float("sparsity_strength", low, high, sampling="log", default=(low * high) ** 0.5))


@dataclass(frozen=True)
class L1:
    """The lasso; its strength is drawn between `low` and `high`. `threshold` is that of `L1Dense`."""

    low: float
    high: float
    threshold: float

    def dense(self, units: int, hp: keras_tuner.HyperParameters, **settings: Any) -> keras.layers.Layer:
        """Return a dense layer with a price on each weight."""
        return L1Dense(units, threshold=self.threshold, strength=_strength(hp, self.low, self.high), **settings)

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return nothing."""
        return ()


@dataclass(frozen=True)
class GroupLasso:
    """The group lasso over units; its strength is drawn between `low` and `high`."""

    low: float
    high: float

    def dense(self, units: int, hp: keras_tuner.HyperParameters, **settings: Any) -> keras.layers.Layer:
        """Return a dense layer with a price on each unit."""
        if keras.backend.backend() != "tensorflow":
            raise ConfigError("sparsity=group_lasso needs KERAS_BACKEND=tensorflow: on JAX choose l1 or magnitude.")
        strength = _strength(hp, self.low, self.high)
        learning_rate = float(hp.Float("learning_rate", 1e-5, 1e-1, sampling="log", default=1e-3))
        return GroupLassoDense(units, step=strength * learning_rate, **settings)

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return nothing: the proximal step is part of each training step."""
        return ()


@dataclass(frozen=True)
class Magnitude:
    """Gradual pruning of the smallest weights (Zhu and Gupta 2017), or of the units with the smallest weights.

    Attributes:
        target: Share of each hidden layer's weights or units that is zero in the end.
        begin: Share of the epochs before the first are pruned.
        end: Share of the epochs after which the target is reached.
        scope: `weight` or `unit`.
    """

    target: float
    begin: float
    end: float
    scope: str

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            known = did_you_mean(str(self.scope), SCOPES)
            raise ConfigError(f"Expected sparsity.scope to be a known scope; received {self.scope!r}.{known}")
        if not 0 < self.target < 1:
            raise ConfigError(f"Expected sparsity.target to lie between 0 and 1; received {self.target}.")
        if not 0 <= self.begin <= self.end < 1:
            raise ConfigError(
                f"Expected 0 <= sparsity.begin <= sparsity.end < 1; received {self.begin} and {self.end}."
            )

    def dense(self, units: int, hp: keras_tuner.HyperParameters, **settings: Any) -> keras.layers.Layer:
        """Return a dense layer with a mask."""
        return MaskedDense(units, **settings)

    def callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Return what makes the masks."""
        return (Pruning(self),)

    def share_at(self, epoch: int, n_epochs: int) -> float:
        """Return the share that is zero in an epoch (counted from 0): a cubic that slows down towards its end."""
        progress = epoch / n_epochs
        if progress < self.begin:
            return 0.0
        if progress >= self.end:
            return self.target
        return self.target * (1 - (1 - (progress - self.begin) / (self.end - self.begin)) ** 3)


class Pruning(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit and makes the masks of each epoch; what is masked stays so."""

    def __init__(self, settings: Magnitude) -> None:
        super().__init__()
        self.settings = settings

    def ramp_is_over(self, epoch: int) -> bool:
        """Return whether the target has been reached in an epoch (counted from 0)."""
        return bool(epoch / self.params["epochs"] >= self.settings.end)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Mask the smallest."""
        share = self.settings.share_at(epoch, self.params["epochs"])
        for layer in self.model.layers:
            if isinstance(layer, MaskedDense) and share:
                layer.mask.assign(mask(ops.convert_to_numpy(layer.kernel * layer.mask), share, self.settings.scope))


def mask(kernel: np.ndarray, share: float, scope: str) -> np.ndarray:
    """Return ones where weights (inputs, units) stay, zeros for the smallest `share` of them or of the units."""
    size = np.abs(kernel) if scope == "weight" else np.sqrt(np.square(kernel).sum(axis=0))
    n_masked = min(round(share * size.size), size.size - 1)
    kept = np.ones(size.size, np.float32)
    kept[np.argsort(size, axis=None, kind="stable")[:n_masked]] = 0.0
    kept = kept.reshape(size.shape)
    return np.ascontiguousarray(np.broadcast_to(kept, kernel.shape))
