"""Runs a study's trials in the slots of its trainer: one after the other, or many at once, each slot in a thread."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor, as_completed

from hpsearch.studies.machines import leave_if_asked
from hpsearch.trials.attempt import OutOfTimeError
from hpsearch.trials.memory import Memory
from hpsearch.trials.objective import Objective

LINGER_EVERY_S = 2.0


def run_trials(objective: Objective) -> None:
    """Run trials until the budget is spent or time is over.

    Raises:
        BaseException: Whatever ends the whole search, from any slot; the trials of the other slots are given back.
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
