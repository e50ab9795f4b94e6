"""Runs the trials of a study in this process, until the budget is spent or the time is over.

Each slot of the trainer claims and runs one trial after the other. If there are several slots, each
runs in a thread.

A worker with one slot also keeps its memory from growing with each structure that it trains.
Libraries keep some of what they compiled for a model as long as their process lives: TensorFlow
keeps about 20 MB of each small net. The worker frees what it can between two trials. If that does
not help, it goes on in a fresh process, in which the search resumes.
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

from hpsearch.study.worker_process import this_process
from hpsearch.training.trainer import Trainer
from hpsearch.trials.attempt import OutOfTimeError
from hpsearch.trials.objective import Objective


def run_trials(objective: Objective) -> None:
    """Run trials until the budget is spent or the time is over.

    Raises:
        BaseException: What ends the whole search, from any slot. The trials of the other slots are
            given back.
    """
    if objective.trainer.n_slots == 1:
        nothing_left = _run_slot(objective)
    else:
        nothing_left = _run_slots(objective)
    if nothing_left:
        objective.end_paused()


def _run_slots(objective: Objective) -> bool:
    """Run all slots, each in a thread, and return whether nothing is left to run."""
    n_slots = objective.trainer.n_slots
    with ThreadPoolExecutor(n_slots, thread_name_prefix="slot") as pool:
        slots = [pool.submit(_run_slot, objective) for _ in range(n_slots)]
        try:
            results = [slot.result() for slot in as_completed(slots)]
        except BaseException as error:
            objective.stop(error)
            raise
    return all(results)


def _run_slot(objective: Objective) -> bool:
    """Run one trial after the other, and return whether nothing is left to run."""
    study = objective.study
    memory = _Memory()
    while time.monotonic() < objective.deadline:
        this_process.leave_if_asked()
        objective.leave_if_stopped()
        trial = objective.claim()
        if trial is not None:
            try:
                objective.run(trial)
                if objective.trainer.n_slots == 1:
                    memory.after_trial(objective)
            except OutOfTimeError:
                return False
        elif study.budget.linger and study.has_work_in_progress():
            time.sleep(2.0)
        else:
            return True
    return False


class _Memory:
    """Watches the memory of this process from one trial to the next."""

    # Bytes that a process may grow by before its memory is freed, and before it is replaced.
    _FREE_FROM = 120e6
    _RESTART_FROM = 240e6
    _N_WARM_UP = 3  # trials in which libraries load what they need

    def __init__(self) -> None:
        self._has_said = False
        self._n_trials = 0
        self._least = 0.0

    def after_trial(self, objective: Objective) -> None:
        """Free memory if the process has grown, and replace the process if that does not help.

        A process that may not be replaced says once that it grows. Call this between two trials,
        while no trial runs in this process.
        """
        self._n_trials += 1
        if self._n_trials <= self._N_WARM_UP:
            self._least = _resident()
            return
        if _resident() < self._least + self._FREE_FROM:
            return
        _free(objective.trainer)
        grown = _resident() - self._least
        if grown < self._RESTART_FROM:
            return
        if this_process.can_restart():
            # What has not arrived in MLflow by then waits on the disk.
            objective.tracking.spool.drain(30.0)
            this_process.restart()
        if not self._has_said:
            self._has_said = True
            objective.progress.say(
                f"The memory of this process has grown by {grown / 1e6:.0f} MB, since libraries "
                "keep what they compiled for each structure of a model. If it becomes scarce, "
                "interrupt the search, restart the notebook or script and start the same search "
                "again; it goes on where it stopped."
            )


def _free(trainer: Trainer) -> None:
    """Free what no trial needs.

    That is the trainer's program, models that refer to themselves, what JAX has compiled, and
    memory that the C library holds.
    """
    trainer.let_go()
    gc.collect()
    if keras.backend.backend() == "jax":
        sys.modules["jax"].clear_caches()
    with suppress(OSError, AttributeError):  # A C library other than glibc has no malloc_trim.
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> float:
    return float(psutil.Process().memory_info().rss)
