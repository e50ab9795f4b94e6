"""What happens between the epochs of a fit: metrics are named and checked, the best weights kept,
the listener told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from hpsearch.errors import ConfigError, DivergedError, did_you_mean
from hpsearch.study.direction import Direction
from hpsearch.training.checkpoints import Checkpoint, Slot
from hpsearch.training.programs.order import Order
from hpsearch.training.programs.program import numbers_of
from hpsearch.training.settings import LOSS

Listener = Callable[[int, Mapping[str, float]], None]


@dataclass
class Fitted:
    """What a fit came to: the metrics of each epoch, and which was the best, counted from 1 (0
    before the first).
    """

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0

    @property
    def n_epochs(self) -> int:
        """How many epochs it took."""
        return len(self.history)

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the best epoch."""
        return self.history[self.best_epoch - 1] if self.best_epoch else {}

    def add(self, metrics: dict[str, float], monitor: str, direction: Direction) -> bool:
        """Add an epoch and return whether it is the best.

        A metric that neither trains nor ranks may have no finite value, such as a rate of nothing:
        it is left out.

        Raises:
            DivergedError: A loss or the monitored metric is NaN or infinite.
            ConfigError: The monitored one is not among them.
        """
        if monitor not in metrics:
            valid = [name for name in metrics if not name.startswith("time/")]
            said = did_you_mean(monitor, valid)
            raise ConfigError(f"training.monitor={monitor} is no metric of this fit.{said}")
        undefined = [name for name, value in metrics.items() if not math.isfinite(value)]
        for name in undefined:
            if name.endswith(f"/{LOSS}") or name == monitor:
                raise DivergedError(f"{name} is {metrics[name]} after epoch {self.n_epochs + 1}.")
            del metrics[name]
        best, value = self.metrics.get(monitor), metrics[monitor]
        self.history.append(metrics)
        is_best = best is None or (direction.is_better(value, best))
        if is_best:
            self.best_epoch = self.n_epochs
        return is_best


@dataclass
class Continuation:
    """Leaves checkpoints of a fit in a slot.

    Args:
        slot: Where.
        identity: Tells one fit from another.
        snapshot: Returns all that training changes.
        restore: Goes back to a snapshot.
    """

    slot: Slot
    identity: str
    snapshot: Callable[[], list[np.ndarray]]
    restore: Callable[[list[np.ndarray]], None]

    def load(self) -> Checkpoint | None:
        """Return the checkpoint that this very fit has left, and put the training where it was
        then.
        """
        found = self.slot.load()
        if found is None or found.identity != self.identity:
            return None
        self.restore(found.running)
        return found

    def save(self, fitted: Fitted, best: list[np.ndarray]) -> None:
        """Save the fit as it is at the end of an epoch."""
        self.slot.save(
            Checkpoint(self.identity, fitted.history, fitted.best_epoch, best, self.snapshot())
        )


class Epochs(keras.callbacks.Callback):  # type: ignore[misc]
    """Sits in Keras's fit.

    Args:
        monitor: The metric that decides which epoch is the best.
        direction: Which of its values are better.
        patience_epochs: The fit stops when so many epochs were not the best.
        listener: Told of each epoch.
        state: Returns the weights that an epoch's metrics were measured with.
        order: Learns which epoch begins.
        continuation: Where the fit goes on from and leaves checkpoints.
    """

    def __init__(
        self,
        *,
        monitor: str,
        direction: Direction,
        patience_epochs: int,
        listener: Listener,
        state: Callable[[], list[np.ndarray]],
        order: Order | None = None,
        continuation: Continuation | None = None,
    ) -> None:
        super().__init__()
        self.monitor, self.direction, self.patience_epochs = monitor, direction, patience_epochs
        self.listener, self.state, self.order, self.continuation = (
            listener,
            state,
            order,
            continuation,
        )
        self.fitted = Fitted()
        self.best_state: list[np.ndarray] = []
        if continuation is not None and (found := continuation.load()) is not None:
            self.fitted, self.best_state = Fitted(found.history, found.best_epoch), found.best

    @property
    def patience_is_over(self) -> bool:
        """Whether the fit has not improved for too long."""
        return self.fitted.n_epochs - self.fitted.best_epoch >= self.patience_epochs

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take the time, and say which epoch's order comes."""
        self._begin = time.perf_counter()
        if self.order is not None:
            self.order.epoch = epoch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Keep what was the best, tell the listener, leave a checkpoint, stop early."""
        metrics = {metric_key(name): value for name, value in numbers_of(logs).items()}
        metrics["time/epoch_s"] = time.perf_counter() - self._begin
        if self.fitted.add(metrics, self.monitor, self.direction):
            self.best_state = self.state()
        try:
            self.listener(self.fitted.n_epochs, metrics)
        except (
            BaseException
        ):  # whatever the reason, whoever goes on with this trial shall not train it twice
            self._save()
            raise
        if self.continuation is not None and self.continuation.slot.is_due():
            self._save()
        if self.patience_is_over:
            self.model.stop_training = True

    def _save(self) -> None:
        if self.continuation is not None:
            self.continuation.save(self.fitted, self.best_state)


def metric_key(keras_name: str) -> str:
    """Return MLflow's key of a Keras log: `val_loss` is `val/loss`, `loss` is `train/loss`."""
    return f"val/{keras_name[4:]}" if keras_name.startswith("val_") else f"train/{keras_name}"
