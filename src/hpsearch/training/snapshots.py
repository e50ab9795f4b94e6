"""The snapshots of the weights that a fit leaves for SWAG, where `training.swag` is true.

SWAG uses the weights at the ends of late epochs: here those in the last half of the epochs that the
fit took. Early stopping leaves the end unknown until it comes, so after each epoch the snapshots
are those of a fit that ends with it. They are the weights that the steps of training have reached,
also where `training.averaging_epochs` validates and keeps an average of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import keras

from hpsearch.models.moments import Arrays, Moments, trainable_values

MOST = 20  # snapshots; the paper takes as many


def epochs_of(n_epochs: int) -> range:
    """Return the epochs, from 1, whose ends give the snapshots of a fit of so many epochs.

    These are the epochs of its last half, n_epochs // 2 + 1 to n_epochs. Where they are more than
    `MOST`, only those that are multiples of 2 are taken, else of 4, 8 and so on. No epoch is
    needed later that was not needed before, so at most `MOST` snapshots are held at any time.
    """
    stride = 1
    while True:
        first = (n_epochs // 2 // stride + 1) * stride
        found = range(first, n_epochs + 1, stride)
        if len(found) <= MOST:
            return found
        stride *= 2


class Snapshots:
    """The snapshots of a fit so far.

    Args:
        by_epoch: Those of a checkpoint, by the number of their epoch.
    """

    def __init__(self, by_epoch: Mapping[int, Arrays] | None = None) -> None:
        self.by_epoch: dict[int, Arrays] = dict(by_epoch or {})
        self._trained: list[int] | None = None

    def add(self, n_epochs: int, model: keras.Model) -> None:
        """Take a snapshot of the trainable weights at the end of an epoch, if it is needed.

        Snapshots of other variables are dropped. A HyperModel's own fit may train a part of the
        layers first.

        Args:
            n_epochs: The epochs that the fit has taken, this one among them.
            model: The model that is trained, with the weights that training has reached.
        """
        trained = [id(variable) for variable in model.trainable_variables]
        if self._trained not in (None, trained):
            self.by_epoch.clear()
        self._trained = trained
        needed = epochs_of(n_epochs)
        for epoch in self.by_epoch.keys() - set(needed):
            del self.by_epoch[epoch]
        if n_epochs in needed:
            self.by_epoch[n_epochs] = trainable_values(model)

    def moments(self, kept: keras.Model) -> Moments | None:
        """Return the moments of the snapshots, which go with the model that is kept.

        Returns:
            The moments; None where fewer than three snapshots have the weights of that model.
        """
        snapshots = [self.by_epoch[epoch] for epoch in sorted(self.by_epoch)]
        shapes = [tuple(variable.shape) for variable in kept.trainable_variables]
        if len(snapshots) < Moments.LEAST or [a.shape for a in snapshots[0]] != shapes:
            return None
        return Moments.of(snapshots, kept)
