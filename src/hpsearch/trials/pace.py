"""How long a search still takes, from the trials that it has behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from hpsearch.studies.budget import SPENT


def time_left(trials: Sequence[FrozenTrial], n_trials: int, now: datetime) -> float | None:
    """Return the seconds until `n_trials` are spent, or None before the first is.

    Each trial to come is expected to take as long as those that ended did on average, pruned ones included; those that
    run have done a part of it; as many are done at once as run now.

    Args:
        trials: All trials of the study, of all workers.
        n_trials: The budget.
        now: The local time, as Optuna writes it.
    """
    took = [t.duration.total_seconds() for t in trials if t.state in SPENT and t.duration is not None]
    if not took:
        return None
    mean = sum(took) / len(took)
    running = [t for t in trials if t.state == TrialState.RUNNING and t.datetime_start is not None]
    spent_s = [min((now - t.datetime_start).total_seconds(), mean) for t in running if t.datetime_start is not None]
    n_left = max(n_trials - sum(t.state in SPENT for t in trials), 0)
    return max(n_left * mean - sum(spent_s), 0.0) / max(len(running), 1)


def in_words(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
