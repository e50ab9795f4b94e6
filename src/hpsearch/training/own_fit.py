"""The parts of its training that a HyperModel may bring.

- It overrides `fit`, which then trains the model (`owns_fit`).
- `companions()` returns further callbacks. A callback with a method `ramp_is_over(epoch)` changes
  the form of the model, as pruning of weights does. No epoch counts as the best until it is over.
- `finished(model)` returns the model to keep (`kept_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import keras
from keras.callbacks import Callback
from keras_tuner import HyperModel

from hpsearch.training.epochs import Epochs


def kept_model(hypermodel: HyperModel, model: keras.Model) -> keras.Model:
    """Return the model to keep after training: that of `hypermodel.finished(model)`, if defined."""
    if not hasattr(hypermodel, "finished"):
        return model
    return hypermodel.finished(model)


def owns_fit(hypermodel: HyperModel) -> bool:
    """Return whether a HyperModel has a `fit` of its own."""
    return type(hypermodel).fit is not HyperModel.fit


def may_change_form(hypermodel: HyperModel) -> bool:
    """Return whether training may turn a model into another one, as it does for sparse nets."""
    if not hasattr(hypermodel, "companions"):
        return False
    return bool(hypermodel.companions())


def companions(hypermodel: HyperModel, epochs: Epochs) -> list[Callback]:
    """Return the callbacks of a HyperModel's `companions()`; none if it has no such method.

    `ramp_is_over(epoch)` of a callback returns whether the model has its final form in that epoch.
    Where a callback has this method, one more callback keeps earlier epochs from being the best.
    """
    if not hasattr(hypermodel, "companions"):
        return []
    found = list(hypermodel.companions())
    ramps = []
    for callback in found:
        if hasattr(callback, "ramp_is_over"):
            ramps.append(callback.ramp_is_over)
    if ramps:
        found.append(_Ramp(epochs, ramps))
    return found


class _Ramp(Callback):  # type: ignore[misc]
    """A callback that keeps an epoch from being the best while the model is still changing form.

    Args:
        epochs: Has the best epoch so far.
        ramps: Each returns whether one change of form is over in an epoch, counted from 0.
    """

    def __init__(self, epochs: Epochs, ramps: Sequence[Callable[[int], bool]]) -> None:
        super().__init__()
        self.epochs = epochs
        self.ramps = ramps

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Forget the best epoch if the model had not its final form in the epoch before."""
        if epoch == 0:
            return
        for is_over in self.ramps:
            if not is_over(epoch - 1):
                self.epochs.fitted.best_epoch = 0
                break
