"""Ends what takes too long: between two epochs, by an exception wherever Python is, or by the end
of the process.

A thread waits for the deadline. The main thread is then interrupted by the kernel's clock, which
wakes it from what it waits for; another one at its next line of Python. Where neither helps, since
native code does not return, what hangs is ended from outside, and the process with it. Native code
that lets no other thread run is ended by `faulthandler`, whose thread needs no Python; it leaves
where the trial hung, which the next try finds.
"""

from __future__ import annotations

import ctypes
import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO

from hpsearch.study.worker_process import ring, stop_ringing

INTERRUPT_EVERY_S = 1.0
WAITING = ("objective.py", "fused.py")  # where a slot waits for others
LAST_RESORT_S = 30.0  # after a process should have ended itself


class TrialTimedOutError(BaseException):
    """What ran took too long; no `except Exception` of a model's own code shall catch it."""


class Watch:
    """Watches the block of code that it is entered for.

    Args:
        timeout_s: How long the block may take; None is for ever.
        grace_s: How long after that it may take to end.
        on_hang: Called by another thread where it has not; it ends the process.
        trace: Written where the process hangs such that not even that works.
    """

    def __init__(
        self,
        timeout_s: float | None,
        grace_s: float,
        on_hang: Callable[[], None],
        trace: Path | None = None,
    ) -> None:
        self.timeout_s, self._grace_s, self._on_hang, self._trace = (
            timeout_s,
            grace_s,
            on_hang,
            trace,
        )
        self._lock, self._done = threading.Lock(), threading.Event()
        self._is_over = self._is_lost = self._rings = False
        self.is_pardoned = False  # what it waits for is another's fault
        self._begin = self.last = time.monotonic()
        self._epoch_s = 0.0
        self._thread_id: int | None = None
        self._file: IO[str] | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether the time is over."""
        return self.timeout_s is not None and time.monotonic() - self._begin > self.timeout_s

    @property
    def is_waiting(self) -> bool:
        """Whether the block waits for another slot: for its turn to build, or for a common epoch."""
        frame = sys._current_frames().get(self._thread_id or 0)
        while frame is not None and frame.f_code.co_filename == threading.__file__:
            frame = frame.f_back
        return frame is not None and Path(frame.f_code.co_filename).name in WAITING

    @property
    def place(self) -> str:
        """The line of Python that the block is at."""
        return _place_of(self._thread_id)

    def __enter__(self) -> Watch:
        """Begin to watch, and raise TrialTimedOutError where this has ended a process before."""
        if self.timeout_s is None:
            return self
        if self._trace is not None and self._trace.is_file() and self._trace.stat().st_size:
            raise TrialTimedOutError
        self._begin = self.last = time.monotonic()
        self._thread_id = threading.get_ident()
        self._rings = ring(self.timeout_s, INTERRUPT_EVERY_S, self._interrupt)
        self._arm()
        threading.Thread(target=self._wait, name="watchdog", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Watch no more."""
        try:
            self.end()
        except TrialTimedOutError:  # which came in the middle of this
            self.end()
            raise

    def end(self) -> None:
        """Watch no more; what was taken for hanging already does not go on."""
        if self._thread_id is None:
            return
        with self._lock:
            self._is_over = True
        self._done.set()
        if self._rings:
            stop_ringing()
        else:
            _raise_in(self._thread_id, None)
        self._disarm()
        while self._is_lost:
            time.sleep(1.0)

    def epoch(self) -> None:
        """An epoch has ended: what can be ended here loses nothing.

        Raises:
            TrialTimedOutError: The time is over.
        """
        now = time.monotonic()
        self._epoch_s, self.last = now - self.last, now
        if self.is_overdue:
            raise TrialTimedOutError

    def _wait(self) -> None:
        if self._done.wait(self.timeout_s):
            return
        end = time.monotonic() + self._grace_s
        while time.monotonic() < end:
            if not self._rings and self._is_impatient():
                with self._lock:
                    if not self._is_over and self._thread_id is not None:
                        _raise_in(self._thread_id, TrialTimedOutError)
            if self._done.wait(min(INTERRUPT_EVERY_S, max(end - time.monotonic(), 0.01))):
                return
        with self._lock:
            if self._is_over:
                return
            self._is_lost = True
        self._on_hang()

    def _interrupt(self) -> None:
        """Called in the main thread, which it interrupts."""
        if not self._is_over and not self._is_lost and self.is_overdue and self._is_impatient():
            raise TrialTimedOutError

    def _is_impatient(self) -> bool:
        """Where epochs end, the end of this one is waited for a while."""
        waited = time.monotonic() - self._begin - (self.timeout_s or 0.0)
        return waited >= min(2 * self._epoch_s, self._grace_s / 2)

    def _arm(self) -> None:
        if self._trace is not None:
            with suppress(OSError):
                self._trace.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._trace.open("w")
                after_s = (self.timeout_s or 0.0) + self._grace_s + LAST_RESORT_S
                faulthandler.dump_traceback_later(after_s, exit=True, file=self._file)

    def _disarm(self) -> None:
        if self._file is not None and self._trace is not None:
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            self._file = None
            self._trace.unlink(missing_ok=True)


def _place_of(thread_id: int | None) -> str:
    frame = sys._current_frames().get(thread_id or 0)
    return (
        f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
        if frame
        else "an unknown place"
    )


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    """Let a thread raise at its next line of Python; None takes that back."""
    kind = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), kind)
