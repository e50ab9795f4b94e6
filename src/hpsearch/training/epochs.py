"""`Epochs`, the callback that Keras's `fit` calls after each epoch, and what it works with.

It renames and checks the metrics, keeps the best weights, calls the listener and stops early. It
saves a checkpoint when one is due, and whenever the listener raises an error. `Work` holds the
arguments of a fit, `Fitted` its metrics so far, and `Continuation` its checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import keras
import keras_tuner
import numpy as np

from hpsearch.errors import ConfigError, DivergedError, did_you_mean
from hpsearch.models.loss_and_optimizer import numbers_of
from hpsearch.seeds import derive
from hpsearch.study.direction import Direction
from hpsearch.training.checkpoints import Checkpoint, CheckpointFile
from hpsearch.training.programs.order import Order
from hpsearch.training.settings import Training
from hpsearch.training.snapshots import Snapshots

# Called after each epoch with its number, from 1, its metrics, and whether the fit ends with it.
Listener = Callable[[int, Mapping[str, float], bool], None]


@dataclass(frozen=True)
class Work:
    """The arguments of one call of `Trainer.fit`, and the order of the examples.

    Attributes:
        order: The order of the examples and the rates of each step; it is told which epoch begins.
    """

    hypermodel: keras_tuner.HyperModel
    hp: keras_tuner.HyperParameters
    model: keras.Model
    seed: int
    order: Order
    listener: Listener = lambda n_epochs, metrics, is_last: None
    checkpoint_file: CheckpointFile | None = None

    def seed_of_layer(self, layer: int) -> int:
        """Return the seed of the masks of a dropout layer, counted from 0."""
        return derive(self.seed, "dropout", layer)


@dataclass
class Fitted:
    """The result of a fit.

    Attributes:
        history: The metrics of each epoch.
        best_epoch: The number of the best epoch, from 1; 0 if there is none.
        snapshots: The weights at the ends of late epochs, where `training.swag` is true.
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    snapshots: Snapshots = field(default_factory=Snapshots)

    @property
    def n_epochs(self) -> int:
        """The number of epochs that the fit took."""
        return len(self.history)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch; empty if there is none."""
        if not self.best_epoch:
            return {}
        return self.history[self.best_epoch - 1]

    def add(
        self,
        metrics: dict[str, float],
        monitor: str,
        direction: Direction,
    ) -> bool:
        """Add an epoch and return whether it is the best.

        Args:
            metrics: The metrics of the epoch. Those that are not finite are deleted from it, unless
                they are losses or monitored. A rate of nothing, for example, is not finite.
            monitor: The metric that decides which epoch is the best.
            direction: Whether less or more of that metric is better.

        Raises:
            DivergedError: A loss or the monitored metric is NaN or infinite.
            ConfigError: The monitored metric is not among the metrics.
        """
        if monitor not in metrics:
            valid = [name for name in metrics if not name.startswith("time/")]
            hint = did_you_mean(monitor, valid)
            raise ConfigError(f"training.monitor={monitor} is no metric of this fit.{hint}")
        for name, value in list(metrics.items()):
            if math.isfinite(value):
                continue
            if name == monitor or name.endswith("/loss"):
                raise DivergedError(f"{name} is {value} after epoch {self.n_epochs + 1}.")
            del metrics[name]
        best = self.metrics.get(monitor)
        self.history.append(metrics)
        value = metrics[monitor]
        if best is not None and not direction.is_better(value, best):
            return False
        self.best_epoch = self.n_epochs
        return True


@dataclass
class Continuation:
    """Leaves checkpoints of a fit in its checkpoint file, and goes on from them.

    Args:
        file: The checkpoint file.
        identity: A text that tells this fit from any other.
        snapshot: Returns all arrays that training changes.
        restore: Puts the arrays of a snapshot back.
    """

    file: CheckpointFile
    identity: str
    snapshot: Callable[[], list[np.ndarray]]
    restore: Callable[[list[np.ndarray]], None]

    def load(self) -> Checkpoint | None:
        """Return the checkpoint of this very fit, if any, and restore the training from it."""
        found = self.file.load()
        if found is None or found.identity != self.identity:
            return None
        self.restore(found.running)
        return found

    def save(self, fitted: Fitted, best: list[np.ndarray]) -> None:
        """Save the fit as it is at the end of an epoch."""
        checkpoint = Checkpoint(
            identity=self.identity,
            history=fitted.history,
            best_epoch=fitted.best_epoch,
            best=best,
            running=self.snapshot(),
            snapshots=fitted.snapshots.by_epoch,
        )
        self.file.save(checkpoint)


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """The callback of Keras's `fit` that does what has to be done between the epochs.

    Args:
        settings: The settings of the fit. Their monitored metric decides which epoch is the best,
            and their patience when the fit stops.
        work: Its listener is told of each epoch.
        state: Returns the weights that the metrics of an epoch were measured with.
        continuation: The checkpoints that the fit goes on from and leaves.
        trained: The model whose weights training changes; None for the model of `work`.
    """

    def __init__(
        self,
        settings: Training,
        work: Work,
        state: Callable[[], list[np.ndarray]],
        continuation: Continuation | None = None,
        trained: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self.trained = trained or work.model
        self.settings = settings
        self.direction = settings.goal
        self.work = work
        self.state = state
        self.continuation = continuation
        self.fitted = Fitted()
        self.best_state: list[np.ndarray] = []
        # A HyperModel's own fit need not call `on_epoch_begin`.
        self._begin = time.perf_counter()
        if continuation:
            found = continuation.load()
            if found:
                self.fitted = Fitted(found.history, found.best_epoch, Snapshots(found.snapshots))
                self.best_state = found.best

    @property
    def patience_is_over(self) -> bool:
        """Whether the last improvement is too many epochs ago."""
        n_epochs_since = self.fitted.n_epochs - self.fitted.best_epoch
        return n_epochs_since >= self.settings.patience_epochs

    @property
    def is_over(self) -> bool:
        """Whether the fit ends here: all its epochs are trained, or its patience is over."""
        return self.patience_is_over or self.fitted.n_epochs >= self.settings.epochs

    def tell_earlier_epochs(self) -> None:
        """Tell the listener of the epochs that were trained before the checkpoint."""
        for n_epochs, metrics in enumerate(self.fitted.history, start=1):
            is_last = n_epochs == self.fitted.n_epochs and self.is_over
            self.work.listener(n_epochs, metrics, is_last)

    def on_epoch_begin(self, epoch: int, logs: object = None) -> None:
        """Take the time, and tell the order which epoch begins."""
        self._begin = time.perf_counter()
        self.work.order.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Mapping[str, object]) -> None:
        """Keep the best weights, tell the listener, leave a checkpoint, and stop early."""
        metrics = {}
        for name, value in numbers_of(logs).items():  # `val_loss` is `val/loss` in MLflow
            key = f"train/{name}"
            if name.startswith("val_"):
                key = name.replace("_", "/", 1)
            metrics[key] = value
        now = time.perf_counter()
        metrics["time/epoch_s"] = now - self._begin
        self._begin = now
        monitor = self.settings.monitor
        is_best = self.fitted.add(metrics, monitor, self.direction)
        if is_best:
            self.best_state = self.state()
        if self.settings.swag:
            self.fitted.snapshots.add(self.fitted.n_epochs, self.trained)
        try:
            self.work.listener(self.fitted.n_epochs, metrics, self.is_over)
        except BaseException:
            # The trial may go on later, whatever the error is. No epoch shall be trained twice.
            self._save()
            raise
        if self.continuation and self.continuation.file.is_due():
            self._save()
        if self.patience_is_over:
            self.model.stop_training = True

    def _save(self) -> None:
        if self.continuation:
            self.continuation.save(self.fitted, self.best_state)
