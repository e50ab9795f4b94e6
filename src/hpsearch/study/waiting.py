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


def patient(method: Callable[..., _Result]) -> Callable[..., _Result]:
    """Return a method of a storage that repeats its call while the storage is away.

    It does so for the `patience_s` seconds of its object, unless the thread is `impatient`.
    """

    @functools.wraps(method)
    def call(self: Any, *args: object, **kwargs: object) -> _Result:
        deadline = time.monotonic() + self.patience_s
        pause_s = 0.02
        while True:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                is_over = impatient.is_on or time.monotonic() > deadline
                if is_over or not _is_away(error):
                    raise
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, 2.0)

    return call
