"""Keeps a worker's memory from growing with each structure that it trains.

Libraries keep some of what they compiled for a model for as long as their process lives: TensorFlow
about 20 MB of each small net. What can be let go is let go between two trials; where that does not
help, the worker goes on in a fresh process, in which the search resumes.

Runs a study's trials in the slots of its trainer: one after the other, or many at once, each slot
in a thread.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress

import keras
import psutil

from hpsearch.study.worker_process import can_restart, leave_if_asked, restart
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.trainer import Trainer
from hpsearch.trials.attempt import OutOfTimeError
from hpsearch.trials.objective import Objective

TIDY_FROM = 120e6  # bytes that a process has grown by
RESTART_FROM = 240e6
WARM_UP = 3  # trials, in which libraries load what they need
HAND_OVER_S = 30.0


class Memory:
    """Watches the memory of this process from one trial to the next."""

    def __init__(self) -> None:
        self._n_trials = 0
        self._least = 0.0

    def after_trial(self, trainer: Trainer, tracking: Tracking) -> None:
        """Let go of what no trial needs where the process has grown, and replace it where that does
        not help.

        Call it between two trials, where no trial runs in this process.
        """
        self._n_trials += 1
        if self._n_trials <= WARM_UP:
            self._least = _resident()
            return
        if _resident() < self._least + TIDY_FROM:
            return
        tidy(trainer)
        if _resident() >= self._least + RESTART_FROM and can_restart():
            tracking.spool.drain(HAND_OVER_S)  # what has not arrived by then waits on disk
            restart()


def tidy(trainer: Trainer) -> None:
    """Free what no trial needs: programs, models that refer to themselves, what a library compiled
    and gives back.
    """
    trainer.let_go()
    gc.collect()
    if keras.backend.backend() == "jax":
        sys.modules["jax"].clear_caches()
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> float:
    return float(psutil.Process().memory_info().rss)


LINGER_EVERY_S = 2.0


def run_trials(objective: Objective) -> None:
    """Run trials until the budget is spent or time is over.

    Raises:
        BaseException: Whatever ends the whole search, from any slot; the trials of the other slots
            are given back.
    """
    if objective.trainer.n_slots == 1:
        is_spent = _fill(objective)
    else:
        with ThreadPoolExecutor(objective.trainer.n_slots, thread_name_prefix="slot") as pool:
            slots = [pool.submit(_fill, objective) for _ in range(objective.trainer.n_slots)]
            try:
                is_spent = all([slot.result() for slot in as_completed(slots)])
            except BaseException as error:
                objective.stop(error)
                raise
    if is_spent:
        objective.end_paused()


def _fill(objective: Objective) -> bool:
    """Run one trial after the other; return whether the budget is spent."""
    study, memory = objective.study, Memory()
    while time.monotonic() < objective.deadline:
        leave_if_asked()
        objective.leave_if_stopped()
        trial = objective.claim()
        if trial is not None:
            try:
                objective.run(trial)
                if objective.trainer.n_slots == 1:
                    memory.after_trial(objective.trainer, objective.tracking)
            except OutOfTimeError:
                return False
        elif study.budget.linger and study.others_run():
            time.sleep(LINGER_EVERY_S)
        else:
            return True
    return False
