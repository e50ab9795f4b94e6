"""The errors that hpsearch raises.

    HpsearchError
    ├── UserError            the user can correct the cause: one sentence, exit status 2
    │   ├── ConfigError      a key, a choice or a value of the configuration
    │   ├── DataError        a data set that is missing, damaged or unfit
    │   ├── SpaceError       bounds of a hyperparameter
    │   ├── ModelError       a model that cannot be searched, loaded or evaluated
    │   ├── StorageError     the study storage cannot be read or written
    │   └── TrackingError    the MLflow server or store cannot be used
    ├── SearchError          the search ended without a usable model: exit status 1
    └── TrialError           one trial ended without a value; the search goes on
        ├── DivergedError    its loss is NaN or infinite
        ├── InfeasibleError  its model costs more than a constraint allows
        └── TakenOverError   another worker took it over, as this worker gave no sign of life

    Preempted                the cluster stops the worker: no Exception, so that nothing catches it

A programmer's mistake raises a ValueError or TypeError instead, with the message
`Expected <rule>. Received: name=value.`
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from difflib import get_close_matches

from hpsearch.secrets_in_text import without_secrets


class HpsearchError(Exception):
    """The base of all errors of hpsearch; `exit_status` is the exit status of the command.

    Secrets in the message, such as those of a library's error, are hidden.
    """

    exit_status = 1

    def __init__(self, *details: object) -> None:
        super().__init__(*map(_shown, details))


class UserError(HpsearchError):
    """A mistake that the user can correct; the message is one sentence."""

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
    """One trial ended without a value; the message is for users."""


class DivergedError(TrialError):
    """The loss of a trial became NaN or infinite."""


class InfeasibleError(TrialError):
    """The model of a trial costs more than a constraint allows."""


class TakenOverError(TrialError):
    """Another worker has ended the trial and runs it again; this worker's results are not used."""


class Preempted(BaseException):
    """The cluster has asked this process to leave by a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(f"{signal.Signals(number).name} asked this worker to go")
        # A shell reports so a process that the signal ended.
        self.exit_status = 128 + number


def _shown(detail: object) -> object:
    if isinstance(detail, str):
        return without_secrets(detail)
    return detail


def did_you_mean(received: str, valid: Iterable[str]) -> str:
    """Return an end for a message: the nearest valid name, if any, and all valid names."""
    names = sorted(valid)
    known = f" Valid: {', '.join(names)}."
    by_small_letters = {name.lower(): name for name in names}
    near = get_close_matches(received.lower(), by_small_letters, n=1)
    if not near:
        return known
    return f" Did you mean {by_small_letters[near[0]]!r}?{known}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, without secrets, for use in a sentence.

    It has no full stop. An error without a message gives the name of its class.
    """
    lines = without_secrets(str(error)).strip().splitlines()
    if not lines:
        return type(error).__name__
    return lines[0].rstrip(".")
