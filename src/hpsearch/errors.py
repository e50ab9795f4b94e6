"""Every error that hpsearch raises on purpose.

    HpsearchError
    ├── UserError            the person can put it right: one sentence, exit status 2
    │   ├── ConfigError      a key, a choice or a value of the configuration
    │   ├── DataError        a data set that is missing, damaged or unfit
    │   ├── SpaceError       bounds of a hyperparameter
    │   ├── ModelError       a model that cannot be searched, loaded or evaluated
    │   ├── StorageError     the study storage cannot be read or written
    │   └── TrackingError    the MLflow server or store cannot be used
    ├── SearchError          the search ended without a usable model: exit status 1
    └── TrialError           one trial ended without a value; the search goes on
        ├── DivergedError    its loss is NaN, infinite or beyond recovery
        ├── InfeasibleError  its model costs more than a constraint allows
        └── TakenOverError   another worker has taken it over, since this one had not been heard of

An error for programmers is a ValueError or TypeError that reads `Expected <rule>. Received:
name=value.`
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class HpsearchError(Exception):
    """Base of all errors raised on purpose; `exit_status` is what a command ends with."""

    exit_status = 1


class UserError(HpsearchError):
    """A mistake that the person can put right; its text is one sentence."""

    exit_status = 2


class ConfigError(UserError):
    """A key, a choice or a value of the configuration is wrong."""


class DataError(UserError):
    """A data set is missing, damaged or unfit for classification."""


class SpaceError(UserError):
    """Bounds of a hyperparameter are impossible."""


class ModelError(UserError):
    """A model cannot be searched, loaded or evaluated."""


class StorageError(UserError):
    """The storage of the study cannot be read or written."""


class TrackingError(UserError):
    """The MLflow server or store cannot be used."""


class SearchError(HpsearchError):
    """The search ended without a usable model."""


class TrialError(HpsearchError):
    """One trial ended without a value; `reason` is a word for tags, the text is for people."""

    reason = "failed"


class DivergedError(TrialError):
    """The loss of a trial became NaN or infinite."""

    reason = "diverged"


class InfeasibleError(TrialError):
    """The model of a trial costs more than a constraint allows."""

    reason = "infeasible"


class TakenOverError(TrialError):
    """Another worker has ended the trial and tries it again; nothing that this one still knows of
    it counts.
    """

    reason = "taken_over"


def did_you_mean(received: str, valid: Iterable[str]) -> str:
    """Return the tail of a sentence: the nearest valid name, if any, and all valid names."""
    names = sorted(valid)
    near = get_close_matches(received, names, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"{guess} Valid: {', '.join(names)}."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or its kind where it has none, to stand inside a
    sentence.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
