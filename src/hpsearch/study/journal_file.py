"""A journal file that many processes append to, which a process that dies leaves neither locked nor
broken.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock

from hpsearch.study.retry import patient


class FileLock(BaseJournalFileLock):
    """A lock of the operating system on a file beside `path`: when its holder dies, it is free.

    Optuna's locks are files that a dead worker leaves behind. `flock` works on NFS (as a byte-range
    lock) since Linux 2.6.12.
    """

    def __init__(self, path: str) -> None:
        self._path = path + ".lock"
        self._held = threading.local()

    def acquire(self) -> bool:
        """Wait for the lock."""
        self._held.file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o666)
        fcntl.flock(self._held.file, fcntl.LOCK_EX)
        return True

    def release(self) -> None:
        """Let others have it."""
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
    """Optuna's journal file, in which half a line, left by a full disk or a lost node, does not
    spoil the rest.
    """

    def __init__(self, path: str, patience_s: float) -> None:
        self.lock, self.patience_s = FileLock(path), patience_s
        super().__init__(path, lock_obj=self.lock)

    @patient
    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append whole lines or nothing."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self.lock(), open(self._file_path, "r+b", buffering=0) as file:
            end = _end_of_lines(file)
            file.truncate(end)
            file.seek(end)
            try:
                _write_all(file, lines)
            except OSError:
                file.truncate(end)
                raise


def _write_all(file: Any, content: bytes) -> None:
    if file.write(content) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file.fileno())


def _end_of_lines(file: Any) -> int:
    """Return where the last whole line of a binary file ends."""
    end = int(file.seek(0, os.SEEK_END))
    while end:
        start = max(0, end - 4096)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + int(found) + 1
        end = start
    return 0
