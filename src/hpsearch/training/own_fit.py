"""What a HyperModel may bring of its own to a fit: the fit itself, callbacks, another model in the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import keras_tuner

from hpsearch.training.epochs import Epochs


def finished(hypermodel: keras_tuner.HyperModel, model: keras.Model) -> keras.Model:
    """Return a trained model as its HyperModel's own `finished(model)` wants it kept, if it has
    one.
    """
    kept: keras.Model = hypermodel.finished(model) if hasattr(hypermodel, "finished") else model
    return kept


def averaging_epochs_of(hypermodel: keras_tuner.HyperModel) -> float:
    """Return over how many epochs a HyperModel asks its weights to be averaged: 0 unless it says
    so.
    """
    return float(getattr(hypermodel, "averaging_epochs", 0.0))


def owns_fit(hypermodel: keras_tuner.HyperModel) -> bool:
    """Return whether a HyperModel has a `fit` of its own."""
    return type(hypermodel).fit is not keras_tuner.HyperModel.fit


def becomes_another(hypermodel: keras_tuner.HyperModel) -> bool:
    """Return whether a model that is kept may be another one than was built, as those of sparse
    nets.
    """
    return bool(getattr(hypermodel, "companions", tuple)())


def companions(
    hypermodel: keras_tuner.HyperModel, epochs: Epochs
) -> list[keras.callbacks.Callback]:
    """Return the callbacks that a HyperModel's own `companions()` asks for, if it has them."""
    found = list(getattr(hypermodel, "companions", tuple)())
    ramps = [callback.ramp_is_over for callback in found if hasattr(callback, "ramp_is_over")]
    return [*found, Ramp(epochs, ramps)] if ramps else found


class Ramp(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps epochs from being the best while the model is still becoming another one."""

    def __init__(self, epochs: Epochs, ramps: Sequence[Callable[[int], bool]]) -> None:
        super().__init__()
        self.epochs, self.ramps = epochs, ramps

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the best epoch where the last one was on the way, so that the next one is."""
        if epoch and not all(is_over(epoch - 1) for is_over in self.ramps):
            self.epochs.fitted.best_epoch = 0
