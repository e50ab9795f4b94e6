"""Group the trials that have failed by what made them fail.

Many trials usually fail for one reason. A sentence that names it once, with the number of trials,
says more than one line for each of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from hpsearch.study.trial_end import TrialEnd


@dataclass(frozen=True)
class Failure:
    """Trials that have failed alike.

    Attributes:
        message: Why the first of them has failed.
        trials: The trials.
    """

    message: str
    trials: Sequence[FrozenTrial]


def kind_of(message: str) -> str:
    """Return a message without the numbers that Keras counts up, such as those of `dense_12`."""
    return re.sub(r"(?<=[A-Za-z])_\d+\b", "", message)


def failures(trials: Iterable[FrozenTrial]) -> list[Failure]:
    """Return the failures among trials, those that many trials have in common first."""
    by_kind: dict[str, list[FrozenTrial]] = {}
    for trial in trials:
        if TrialEnd.has_failed(trial):
            by_kind.setdefault(kind_of(_message(trial)), []).append(trial)
    groups = [Failure(_message(alike[0]), alike) for alike in by_kind.values()]
    return sorted(groups, key=lambda group: -len(group.trials))


def summary(found: Sequence[Failure]) -> str:
    """Return the end of a sentence that says why trials have failed, for one failure or more."""
    first = found[0]
    message = first.message.rstrip(".")
    if len(found) == 1:
        return message
    n_failed = sum(len(group.trials) for group in found)
    return f"{len(first.trials)} of {n_failed} by {message}"


def _message(trial: FrozenTrial) -> str:
    return str(trial.user_attrs.get("message", ""))
