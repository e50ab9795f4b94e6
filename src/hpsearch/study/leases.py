"""Find out that the worker of a trial has died.

`Lease`: while a trial runs, a thread writes with the trial the time until which it counts as alive,
three times in `lease_s` seconds. After that time any worker may take the trial over.
`Worker`: the process that runs a trial. On its own machine it can be looked up at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import optuna
import psutil
from optuna.trial import FrozenTrial, Trial
from sqlalchemy.exc import SQLAlchemyError

from hpsearch.study.waiting import impatient
from hpsearch.study.worker_process import this_process

WORKER = "worker"  # the user attribute that holds the worker of a trial, as text
LEASE = "lease"  # the user attribute that holds the Unix time at which the lease ends


@dataclass(frozen=True)
class Worker:
    """The process of a worker.

    Attributes:
        place: The machine and the process namespace in which it runs.
        pid: Its process id.
        started: The Unix time at which it started.
        restarts: How often it had been replaced by a fresh process under the same id. A trial of
            an earlier process has lost its worker.
    """

    place: str
    pid: int
    started: float
    restarts: int = 0

    @classmethod
    def this(cls) -> Worker:
        """Return the worker that this process is."""
        pid = os.getpid()
        started = psutil.Process().create_time()
        return cls(_this_place(), pid, started, this_process.n_restarts(pid))

    @classmethod
    def of(cls, text: str) -> Worker:
        """Return the worker that `str(worker)` wrote as text."""
        place, pid, start = text.rsplit(":", 2)
        started, _, restarts = start.partition("+")
        return cls(place, int(pid), float(started), int(restarts or 0))

    def __str__(self) -> str:
        text = f"{self.place}:{self.pid}:{self.started:.2f}"
        if self.restarts:
            text += f"+{self.restarts}"
        return text

    def is_elsewhere(self) -> bool:
        """Return whether the worker is on another machine or in another container."""
        return self.place != _this_place()

    def is_seen_dead(self) -> bool:
        """Return whether this process can see that the worker is gone; False if it cannot look."""
        if self.is_elsewhere():
            return False
        try:
            found = psutil.Process(self.pid)
            # A start is counted from a boot time, which moves by seconds when the clock is set.
            is_same = abs(found.create_time() - self.started) < 5
            if not is_same or found.status() == psutil.STATUS_ZOMBIE:
                return True
            return self.restarts < this_process.n_restarts(self.pid, found.environ())
        except psutil.NoSuchProcess:
            return True
        except (psutil.AccessDenied, OSError):  # a process of another user
            return False


def _this_place() -> str:
    """Return the host name and the process namespace, since containers may share a host name."""
    return f"{socket.gethostname()}@{os.stat('/proc/self/ns/pid').st_ino}"


class Lease:
    """The lease of a claimed trial.

    `is_lost` is set when another worker has ended the trial, because this worker seemed dead.
    """

    def __init__(self, trial: Trial | FrozenTrial, lease_s: float) -> None:
        self._trial = trial
        self._lease_s = lease_s
        self.is_lost = threading.Event()

    def has_lost_worker(self) -> bool:
        """Return whether the worker of the trial is seen to be gone, or the lease is over.

        A trial without a lease has one from its start.
        """
        worker = self._trial.user_attrs.get(WORKER)
        if worker and Worker.of(worker).is_seen_dead():
            return True
        until: float | None = self._trial.user_attrs.get(LEASE)
        if not until:
            until = self._lease_s
            if self._trial.datetime_start:
                until += self._trial.datetime_start.timestamp()
        return time.time() > until

    def renew(self) -> None:
        """Let the lease start again now."""
        until = time.time() + self._lease_s
        self._trial.set_user_attr(LEASE, until)

    @contextmanager
    def kept(self) -> Iterator[Lease]:
        """Renew the lease at regular intervals, in a thread, while the block runs."""
        done = threading.Event()
        thread = threading.Thread(
            target=self._keep,
            args=(done,),
            name=f"lease-{self._trial.number}",
            daemon=True,
        )
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def _keep(self, done: threading.Event) -> None:
        away = (SQLAlchemyError, optuna.exceptions.StorageInternalError, OSError)
        while not done.wait(self._lease_s / 3):
            try:
                with impatient, suppress(*away):
                    self.renew()
            except optuna.exceptions.UpdateFinishedTrialError:
                if not done.is_set():
                    self.is_lost.set()
                return
