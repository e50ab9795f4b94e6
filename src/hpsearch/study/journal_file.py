"""A journal file to which many processes append; a process that dies does no harm to the others.

A dead process leaves neither a lock nor half a line that spoils what follows.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import FileIO

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from hpsearch.study.waiting import Outage, patient


class FileLock(BaseJournalFileLock):
    """A lock on a file beside `path`, which the operating system frees when its holder dies.

    Optuna's locks are files, which a dead worker leaves behind. `flock` works on NFS since Linux
    2.6.12, as a lock of a byte range.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".lock"
        self._held = threading.local()

    def acquire(self) -> bool:
        """Wait for the lock, and take it."""
        flags = os.O_CREAT | os.O_RDWR
        self._held.file = os.open(self._path, flags, 0o666)
        fcntl.flock(self._held.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Free the lock."""
        os.close(self._held.file)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold the lock while the block runs."""
        self.acquire()
        try:
            yield
        finally:
            self.release()


class JournalFile(JournalFileBackend):
    """Optuna's journal file, in which half a line does not spoil the lines that follow.

    A full disk or a lost node may leave half a line.

    Args:
        path: The file.
        patience_s: Seconds for which an append is repeated while the file cannot be written.

    Attributes:
        outage: Says that the file cannot be written, and that it can again.
    """

    outage: Outage | None = None

    def __init__(self, path: str, patience_s: float) -> None:
        self.lock = FileLock(path)
        self.patience_s = patience_s
        super().__init__(path, lock_obj=self.lock)

    @patient
    def append_logs(self, logs: Sequence[Mapping[str, object]]) -> None:
        """Append whole lines or nothing."""
        lines = []
        for log in logs:
            line = json.dumps(log, separators=(",", ":"))
            lines.append(line + "\n")
        content = "".join(lines).encode()
        with self.lock(), open(self._file_path, "r+b", buffering=0) as file:
            end = _end_of_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                _write_all(file, content)
            except OSError:
                file.truncate(end)
                raise


def _write_all(file: FileIO, content: bytes) -> None:
    if file.write(content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _end_of_lines(file: FileIO) -> int:
    """Return the position after the last whole line of a file."""
    block_bytes = 4096
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - block_bytes)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
