"""Ends a trial that takes too long, even if it hangs.

At the end of an epoch, `Watch.epoch` raises `TrialTimedOutError`. Elsewhere a thread waits for the
deadline, and `TrialTimedOutError` is then raised wherever Python is:

- The main thread is interrupted by the kernel's clock, which wakes it from what it waits for.
- Any other thread is interrupted at its next line of Python.

Neither helps while native code does not return. The watching thread then calls `on_hang`, which
ends the process. If native code lets no other thread run, `faulthandler` ends the process, because
its thread needs no Python. It leaves a file that says where the trial hung. The next try finds it.
"""

from __future__ import annotations

import ctypes
import faulthandler
import math
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO

from hpsearch.study.worker_process import this_process


class TrialTimedOutError(BaseException):
    """A trial took too long; an `except Exception` in the code of a model does not catch this."""


class Watch:
    """Watches the block of code that it is entered for.

    Args:
        timeout_s: How long the block may take; None for no limit.
        grace_s: How long the block may then take to end.
        on_hang: Called by another thread if the block has not ended by then; it ends the process.
        trace: Written if the process hangs in such a way that not even `on_hang` works.
    """

    _INTERRUPT_EVERY_S = 1.0

    def __init__(
        self,
        timeout_s: float | None,
        grace_s: float = 0.0,
        on_hang: Callable[[], None] = lambda: None,
        trace: Path | None = None,
    ) -> None:
        self._timeout_s = math.inf
        if timeout_s is not None:
            self._timeout_s = timeout_s
        self._grace_s = grace_s
        self._on_hang = on_hang
        self._trace = trace
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._is_over = False
        self._is_lost = False
        self._rings = False
        self.is_pardoned = False  # whether another trial of the process hangs, and not this one
        self.last = time.monotonic()  # when the last epoch ended
        self._begin = self.last
        self._epoch_s = 0.0
        self._thread_id = 0  # 0 before the watch is entered
        self._file: IO[str] | None = None

    @property
    def is_overdue(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() - self._begin > self._timeout_s

    @property
    def is_waiting(self) -> bool:
        """Whether the block waits for another slot: for its turn to build, or for an epoch."""
        frame = self._frame()
        while frame is not None and frame.f_code.co_filename == threading.__file__:
            frame = frame.f_back
        if frame is None:
            return False
        # A slot waits for others in these files.
        return Path(frame.f_code.co_filename).name in ("objective.py", "fused.py")

    @property
    def place(self) -> str:
        """The line of Python that the block is at."""
        frame = self._frame()
        if frame is None:
            return "an unknown place"
        return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"

    def _frame(self) -> FrameType | None:
        return sys._current_frames().get(self._thread_id)

    def __enter__(self) -> Watch:
        """Begin to watch.

        Raises:
            TrialTimedOutError: An earlier try of the same trial had to end its process.
        """
        if self._timeout_s == math.inf:
            return self
        if self._trace is not None and self._trace.is_file() and self._trace.stat().st_size:
            raise TrialTimedOutError
        self._begin = time.monotonic()
        self.last = self._begin
        self._thread_id = threading.get_ident()
        self._rings = this_process.ring(self._timeout_s, self._INTERRUPT_EVERY_S, self._interrupt)
        self._arm()
        threading.Thread(target=self._wait, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the watch."""
        try:
            self.end()
        except TrialTimedOutError:  # It came in the middle of the call.
            self.end()
            raise

    def end(self) -> None:
        """End the watch; a block that was already taken for hanging does not go on from here."""
        if not self._thread_id:
            return
        with self._lock:
            self._is_over = True
        self._done.set()
        if self._rings:
            this_process.stop_ringing()
        else:
            _raise_in(self._thread_id, None)
        self._disarm()
        while self._is_lost:
            time.sleep(1.0)

    def epoch(self) -> None:
        """Note that an epoch has ended: a block that ends here loses nothing.

        Raises:
            TrialTimedOutError: The time is over.
        """
        now = time.monotonic()
        self._epoch_s = now - self.last
        self.last = now
        if self.is_overdue:
            raise TrialTimedOutError

    def _wait(self) -> None:
        """Wait for the deadline, interrupt the block, and call `on_hang` if that does not help."""
        if self._done.wait(self._timeout_s):
            return
        end = time.monotonic() + self._grace_s
        while time.monotonic() < end:
            if not self._rings and self._is_impatient():
                self._interrupt_thread()
            left_s = max(end - time.monotonic(), 0.01)
            if self._done.wait(min(self._INTERRUPT_EVERY_S, left_s)):
                return
        with self._lock:
            if self._is_over:
                return
            self._is_lost = True
        self._on_hang()

    def _interrupt(self) -> None:
        """Interrupt the main thread, in which this is called."""
        if self._is_over or self._is_lost:
            return
        if self.is_overdue and self._is_impatient():
            raise TrialTimedOutError

    def _interrupt_thread(self) -> None:
        """Interrupt a thread other than the main one."""
        with self._lock:
            if not self._is_over:
                _raise_in(self._thread_id, TrialTimedOutError)

    def _is_impatient(self) -> bool:
        """Return whether the end of the epoch has been waited for long enough."""
        waited_s = time.monotonic() - self._begin - self._timeout_s
        return waited_s >= min(2 * self._epoch_s, self._grace_s / 2)

    def _arm(self) -> None:
        """Let `faulthandler` end the process if nothing else does."""
        if self._trace is None:
            return
        with suppress(OSError):
            self._trace.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._trace.open("w")
            # By then, the process should have ended itself half a minute ago.
            after_s = self._timeout_s + self._grace_s + 30.0
            faulthandler.dump_traceback_later(after_s, exit=True, file=self._file)

    def _disarm(self) -> None:
        if self._file is None:
            return
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        Path(self._file.name).unlink(missing_ok=True)
        self._file = None


def _raise_in(thread_id: int, error: type[BaseException] | None) -> None:
    """Raise an error in a thread at its next line of Python; None takes that back."""
    raised = error and ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), raised)
