"""Standard error, which libraries and native code write to: kept off the terminal, in a log file.

`standard_error.diverted` sends file descriptor 2 into a file, which also takes what native code
writes. What a person must see goes to `standard_error.terminal`. Nothing here fails on a full disk.
"""

from __future__ import annotations

import faulthandler
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class _StandardError:
    """Standard error of this process; `standard_error` is the only object of the class."""

    def __init__(self) -> None:
        self._kept: int | None = None  # the descriptor of the terminal while 2 is another file
        self._terminal: TextIO | None = None
        self._is_shown = False

    @property
    def terminal(self) -> TextIO:
        """The stream for what a person must see."""
        return self._terminal or sys.stderr

    def tell(self, sentence: str) -> None:
        """Write a line for the person from wherever the process is, without any buffer."""
        descriptor = 2
        if self._kept is not None:
            descriptor = self._kept
        with suppress(OSError):
            os.write(descriptor, f"{sentence}\n".encode())

    @contextmanager
    def diverted(self, file: int) -> Iterator[None]:
        """Send what is written to standard error in the block to an open file.

        Where it is diverted already, nothing changes. A crash of native code is told on the
        terminal.
        """
        if self._kept is not None:
            yield
            return
        stream = sys.stderr
        self._kept = os.dup(2)
        self._terminal = stream
        if _descriptor_of(stream) == 2:
            self._terminal = open(  # noqa: SIM115 (closed below)
                os.dup(2), "w", encoding=stream.encoding, errors=stream.errors, buffering=1
            )
        os.dup2(file, 2)
        sys.stderr = _STREAM
        tells_crashes = not faulthandler.is_enabled()
        if tells_crashes:
            faulthandler.enable(self._kept)
        try:
            yield
        finally:
            if tells_crashes:
                faulthandler.disable()
            self.restore()
            if self._terminal is not stream:
                self._terminal.close()
            self._terminal = None
            sys.stderr = stream

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Hold back what is written to standard error in the block, unless the block fails.

        Within `shown` nothing is held back.
        """
        if self._is_shown:
            yield
            return
        with tempfile.TemporaryFile() as held:
            try:
                with self.diverted(held.fileno()):
                    yield
            except BaseException:
                held.seek(0)
                os.write(2, held.read())
                raise

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Let all that is written to standard error in the block be seen."""
        self._is_shown = True
        try:
            yield
        finally:
            self._is_shown = False

    def restore(self) -> None:
        """Give descriptor 2 back, at the end or before another program replaces this process."""
        if self._kept is not None:
            os.dup2(self._kept, 2)
            os.close(self._kept)
            self._kept = None


class _Stream(io.TextIOBase):
    """A text stream on descriptor 2 whatever file that is; it writes at once and never fails.

    Loggers of libraries keep the stream that they find when they are imported, so there is one for
    the whole process.
    """

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2

    def write(self, text: str) -> int:
        with suppress(OSError):
            os.write(2, text.encode("utf-8", "backslashreplace"))
        return len(text)


_STREAM = _Stream()


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


standard_error = _StandardError()
