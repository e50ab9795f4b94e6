"""How long a search still takes, from the trials that it has behind it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState

from hpsearch.studies.budget import SPENT

PRUNED_SHARE = 1 / 3  # of the most epochs, which a trial takes on average where a pruner is at work
N_IMAGINED = 6  # trials of that share that count beside the real ones: the first trials are hardly ever pruned


def time_left(
    trials: Sequence[FrozenTrial], n_trials: int, now: datetime, *, n_epochs: int, prunes: bool
) -> float | None:
    """Return the seconds until `n_trials` are spent, or None before the first is.

    The epochs of a trial to come are expected to be the mean of those that ended, where the last one counts most and,
    under a pruner, a few imagined ones beside them; an epoch takes as long as lately. A trial that runs goes on at its
    own pace, for half of what it may still take at least; and as many will be done at once as run now.

    Args:
        trials: All trials of the study, of all workers.
        n_trials: The budget.
        now: The local time, as Optuna writes it.
        n_epochs: The most that a trial takes.
        prunes: Whether a pruner is at work.
    """
    ended = [t for t in trials if t.state in SPENT and t.duration is not None]
    if not ended:
        return None
    weights = [2 * (place + 1) / (len(ended) + 1) for place in range(len(ended))]  # their sum is the trials' number
    epochs = sum(w * max(len(t.intermediate_values), 1) for w, t in zip(weights, ended, strict=True))
    seconds = sum(w * t.duration.total_seconds() for w, t in zip(weights, ended, strict=True) if t.duration)
    n_imagined = N_IMAGINED if prunes else 0
    expected = (epochs + n_imagined * PRUNED_SHARE * n_epochs) / (len(ended) + n_imagined)
    running = [t for t in trials if t.state == TrialState.RUNNING and t.datetime_start is not None]
    n_to_come = max(n_trials - sum(t.state in SPENT for t in trials) - len(running), 0)
    left = n_to_come * expected * seconds / epochs
    for trial in running:
        done, spent_s = len(trial.intermediate_values), (now - (trial.datetime_start or now)).total_seconds()
        if done:
            left += max(expected - done, (n_epochs - done) / 2) * spent_s / done
        else:
            left += max(expected * seconds / epochs - spent_s, 0.0)
    return left / max(len(running), 1)


def in_words(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
