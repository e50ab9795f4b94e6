"""A storage that is away for a while: told from a mistake, and waited for."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionError  # all are taken by other slots

_impatient = threading.local()


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the storage cannot be reached now, or is busy: the same
    call may work later.
    """
    causes = [error, error.__cause__]
    return any(
        isinstance(cause, OperationalError | InterfaceError | NoConnectionError | OSError)
        for cause in causes
    )


@contextmanager
def impatient() -> Iterator[None]:
    """Within the block this thread waits for no storage: a call fails at once where the storage is
    away.
    """
    _impatient.on = True
    try:
        yield
    finally:
        _impatient.on = False


def unless_away(call: Callable[[], Any]) -> Any:
    """Return what a call of a storage returns; None, at once, where the storage is away."""
    try:
        with impatient():
            return call()
    except Exception as error:
        if not is_away(error):
            raise
        return None


def patient(method: Callable[..., Any]) -> Callable[..., Any]:
    """Call a method of a storage again while the storage is away, for its `patience_s` seconds."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        deadline, pause = time.monotonic() + self.patience_s, 0.02
        while True:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:
                if (
                    not is_away(error)
                    or getattr(_impatient, "on", False)
                    or time.monotonic() > deadline
                ):
                    raise
            time.sleep(pause * random.uniform(0.5, 1.5))
            pause = min(2 * pause, 2.0)

    return call
