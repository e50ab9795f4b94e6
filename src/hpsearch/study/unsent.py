"""Values that a worker has reported while the study's storage was away, and must send later."""

from __future__ import annotations

import threading
from collections import defaultdict

from optuna.trial import FrozenTrial, Trial


class Unsent:
    """The reported values of each trial that the storage does not have yet.

    A lock guards them, because the slots of a worker report from different threads.
    """

    def __init__(self) -> None:
        self._values: dict[int, dict[int, float]] = defaultdict(dict)
        self._lock = threading.Lock()

    def add(self, trial: Trial, epoch: int, value: float) -> None:
        """Add the value of an epoch behind the values of the same trial."""
        with self._lock:
            self._values[trial._trial_id][epoch] = value

    def of(self, trial: Trial) -> list[tuple[int, float]]:
        """Return the epochs and values of a trial that wait, in the order of their reports."""
        with self._lock:
            return list(self._values[trial._trial_id].items())

    def sent(self, trial: Trial, epoch: int) -> None:
        """Forget the value of one epoch, because the storage has it."""
        with self._lock:
            self._values[trial._trial_id].pop(epoch, None)

    def drop(self, trial: Trial | FrozenTrial) -> None:
        """Forget all values of a trial."""
        with self._lock:
            self._values.pop(trial._trial_id, None)
