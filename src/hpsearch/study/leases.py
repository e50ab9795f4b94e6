"""Who runs a trial, and whether it still does: a worker's name, and a lease that a thread of it
keeps renewing.

Optuna's heartbeats work on its relational storage and inside `Study.optimize` alone; a lease is a
user attribute of the trial and works on every storage. On the worker's own machine nobody need wait
for a lease to end: the process is there or it is not.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.study.retry import impatient
from hpsearch.study.worker_process import n_restarts

WORKER, LEASE = "worker", "lease"
CLOCK_STEP_S = 5.0  # a process's start is counted from a boot time that moves when the clock is set


@dataclass(frozen=True)
class Worker:
    """A process: the machine and process namespace that it is in, its id, when it started (Unix
    time).

    `restarts` says how often it had been replaced by a fresh one: what an earlier one ran is dead.
    """

    place: str
    pid: int
    started: float
    restarts: int = 0

    @classmethod
    def this(cls) -> Worker:
        """Return the worker that this process is."""
        pid = os.getpid()
        return cls(_this_place(), pid, psutil.Process().create_time(), n_restarts(pid))

    @classmethod
    def of(cls, text: str) -> Worker:
        """Read what `str(worker)` wrote."""
        place, pid, started = text.rsplit(":", 2)
        started, _, restarts = started.partition("+")
        return cls(place, int(pid), float(started), int(restarts or 0))

    def __str__(self) -> str:
        return f"{self.place}:{self.pid}:{self.started:.2f}" + (
            f"+{self.restarts}" if self.restarts else ""
        )

    def is_elsewhere(self) -> bool:
        """Return whether it is on another machine or in another container."""
        return self.place != _this_place()

    def is_seen_dead(self) -> bool:
        """Return whether this process can see that the worker is gone; False where it cannot look."""
        if self.is_elsewhere():
            return False
        try:
            found = psutil.Process(self.pid)
            is_same = abs(found.create_time() - self.started) < CLOCK_STEP_S
            is_gone = not is_same or found.status() == psutil.STATUS_ZOMBIE
            return is_gone or self.restarts < _restarts_of(found)
        except psutil.NoSuchProcess:
            return True


def _restarts_of(process: psutil.Process) -> int:
    try:
        return n_restarts(process.pid, process.environ())
    except (psutil.AccessDenied, OSError):  # another user's
        return 0


def _this_place() -> str:
    """Containers may share a host's name; what tells their processes apart is the namespace."""
    return f"{socket.gethostname()}@{os.stat('/proc/self/ns/pid').st_ino}"


def is_dead(trial: FrozenTrial, lease_s: float) -> bool:
    """Return whether a running trial has lost its worker: seen gone, or silent for longer than its
    lease.
    """
    name = trial.user_attrs.get(WORKER)
    if name and Worker.of(name).is_seen_dead():
        return True
    claimed = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return bool(time.time() > (trial.user_attrs.get(LEASE) or claimed + lease_s))


class Lease:
    """A claimed trial's lease. `is_lost` is set when somebody else has ended the trial, taking its
    worker for dead.
    """

    def __init__(self, trial: Any, lease_s: float) -> None:
        self._trial, self._lease_s = trial, lease_s
        self.is_lost = threading.Event()

    def renew(self) -> None:
        """Make it last from now."""
        self._trial.set_user_attr(LEASE, time.time() + self._lease_s)

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Renew it again and again, by a thread of its own, while the block runs."""
        done = threading.Event()

        def keep() -> None:
            while not done.wait(self._lease_s / 3):
                try:
                    with (
                        impatient(),
                        suppress(SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError),
                    ):
                        self.renew()
                except optuna.exceptions.UpdateFinishedTrialError:
                    if not done.is_set():
                        self.is_lost.set()
                    return

        thread = threading.Thread(target=keep, name=f"lease-{self._trial.number}", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
