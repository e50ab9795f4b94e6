"""Call a storage that may be out of reach for a while: repeat the call, or go on without it.

`patient` repeats a call for `patience_s` seconds. `unless_away` gives up at once and returns None.
Any OSError and any OperationalError of a database counts as out of reach, also one that will not
pass. Every other error is raised at once.
"""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError  # other slots use all connections

_Result = TypeVar("_Result")


class _Impatient(threading.local):
    """Whether calls of this thread fail at once if the storage is away.

    They do so within `with impatient:`.
    """

    is_on = False

    def __enter__(self) -> None:
        self.is_on = True

    def __exit__(self, *_: object) -> None:
        self.is_on = False


impatient = _Impatient()


def _is_away(error: BaseException) -> bool:
    """Return whether an error says that the storage is busy or cannot be reached now.

    The same call may then work later.
    """
    away = (OperationalError, InterfaceError, NoConnectionError, OSError)
    return isinstance(error, away) or isinstance(error.__cause__, away)


def unless_away(call: Callable[[], _Result]) -> _Result | None:
    """Return what `call`, a call of a storage, returns; None, at once, if the storage is away."""
    try:
        with impatient:
            return call()
    except Exception as error:
        if not _is_away(error):
            raise
        return None


class Outage:
    """Says once that a storage is away, and once that it is back.

    Args:
        sentence: Returns a sentence on why the storage is away, from the error.

    Attributes:
        say: Called with a sentence.
    """

    say: Callable[[str], object] | None = None
    # A connection that was lost is made anew within this time, and nobody need know.
    _SHORT_S = 1.0

    def __init__(self, sentence: Callable[[BaseException], str]) -> None:
        self._sentence = sentence
        self._lock = threading.Lock()
        self._since: float | None = None
        self._is_told = False

    def goes_on(self, error: BaseException) -> None:
        """Note that a call has failed since the storage is away."""
        with self._lock:
            now = time.monotonic()
            if self._since is None:
                self._since = now
            if self.say is None or self._is_told or now - self._since < self._SHORT_S:
                return
            self._is_told = True
            self.say(f"{self._sentence(error)} The search waits for it where it has to.")

    def is_over(self) -> None:
        """Note that a call has succeeded."""
        if self._since is None:
            return
        with self._lock:
            if self._is_told and self.say is not None:
                self.say("The study storage answers again.")
            self._since = None
            self._is_told = False


def patient(method: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a method of a storage that repeats its call while the storage is away.

    It does so for the `patience_s` seconds of its object, unless the thread is `impatient`. The
    `outage` of the object is told, if it has one.
    """

    @functools.wraps(method)
    def call(self: Any, *args: object, **kwargs: object) -> _Result:
        deadline = time.monotonic() + self.patience_s
        pause_s = 0.02
        outage: Outage = getattr(self, "outage", None) or Outage(str)
        while True:
            try:
                result = method(self, *args, **kwargs)
            except Exception as error:
                if not _is_away(error):
                    raise
                outage.goes_on(error)
                if impatient.is_on or time.monotonic() > deadline:
                    raise
            else:
                outage.is_over()
                return result
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 2.0)

    return call
