"""The entries of one run that wait to be sent to MLflow: a file of its own, safe against `kill -9`
and full disks.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

Entry = dict[str, Any]


class Away(Exception):  # noqa: N818 (a state that passes, not a mistake)
    """The receiver cannot be reached now; what was to be sent can be sent again."""


class Receiver(Protocol):
    """Takes the entries of a run."""

    def open(self, entry: Entry, is_mine: bool) -> Entry:
        """Find or make the run of an `open` entry, and return what must be remembered of it,
        `run_id` at least.

        `is_mine` is False where a dead worker's entries are sent late: the run may be further on by
        now.
        """

    def take(self, state: Entry, entries: list[Entry]) -> None:
        """Take entries, in order; what it refuses for good it says itself."""


class SpoolFile:
    """The waiting entries of one run; on a full disk they wait in memory, and are sent from there.

    Args:
        folder: Where its worker's files are.
        key: Names the run and the try.
        before: Where the run has been tried before, the key's part that all tries share.
    """

    def __init__(self, folder: Path, key: str, before: str | None = None) -> None:
        self.path, self._sent_path, files = (
            folder / f"{key}.{part}" for part in ("jsonl", "sent", "files")
        )
        self._folders_of_files = (files, Path(tempfile.gettempdir()) / f"hpsearch-{key}.files")
        self.before = before
        self.is_over = False
        self._sent: tuple[int, Entry] | None = None
        self._unwritten: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Add an entry; on a full disk it waits in memory."""
        with self._lock:
            self._unwritten.append(json.dumps(entry).encode() + b"\n")
        self._write()

    def _write(self) -> None:
        with self._lock, suppress(OSError):
            if not self._unwritten:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                end, lines = file.tell(), b"".join(self._unwritten)
                if file.write(lines) < len(lines):
                    file.truncate(end)
                    return
            self._unwritten.clear()

    def keep_file(self, path: Path) -> Path:
        """Move a file here until it is sent, or to the temporary folder where this disk is full;
        return where it is.

        Raises:
            OSError: That is full too.
        """
        here, elsewhere = self._folders_of_files
        try:
            return _move_into(here, path)
        except OSError:
            return _move_into(elsewhere, path)

    def sent(self) -> tuple[int, Entry]:
        """Return how many bytes have been sent, and what `Receiver.open` returned."""
        if self._sent is None:
            try:
                offset, state = json.loads(self._sent_path.read_text())
                self._sent = int(offset), state
            except (OSError, ValueError):
                self._sent = 0, {}
        return self._sent

    def is_waiting(self) -> bool:
        """Return whether there is anything to send."""
        with self._lock:
            return len(self._written()) + sum(map(len, self._unwritten)) > self.sent()[0]

    def send(self, receiver: Receiver, is_mine: bool) -> Entry:
        """Send what waits, and return the run's state.

        Raises:
            Away: The receiver is away; nothing is lost.
        """
        self._write()
        (offset, state), (lines, opening) = self.sent(), self._whole_lines()
        if not opening:
            return state
        if not offset or not is_mine:
            state = receiver.open(opening, is_mine)
            self._remember(offset := max(offset, len(lines[0])), state)
        waiting = b"".join(lines)[offset:]
        if waiting:
            entries = [json.loads(line) for line in waiting.splitlines()]
            receiver.take(state, entries)
            self._remember(offset + len(waiting), state)
            if entries[-1]["entry"] == "end":
                self.remove()
        return state

    def _whole_lines(self) -> tuple[list[bytes], Entry]:
        """Return all lines, those that could not be written last, and the first one's entry."""
        with self._lock:
            lines = [
                line for line in self._written().splitlines(keepends=True) if line.endswith(b"\n")
            ]
            lines += self._unwritten
        return lines, json.loads(lines[0]) if lines else {}

    def _written(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def _remember(self, offset: int, state: Entry) -> None:
        self._sent = offset, state
        new = self._sent_path.with_suffix(".new")
        with suppress(
            OSError
        ):  # a full disk: should this process die, entries are sent again, which does no harm
            try:
                new.write_text(json.dumps([offset, state]))
                os.replace(new, self._sent_path)
            finally:
                new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Forget the run: all has arrived, or nothing of it counts any more."""
        with self._lock:
            self.is_over = True
            self._unwritten.clear()
            for path in (self.path, self._sent_path):
                with suppress(OSError):
                    path.unlink()
        for folder in self._folders_of_files:
            shutil.rmtree(folder, ignore_errors=True)


def _move_into(folder: Path, path: Path) -> Path:
    """Move a file into a new folder of `folder`; where that fails it stays where it was."""
    place = folder / str(len(list(folder.iterdir())) if folder.is_dir() else 0)
    try:
        place.mkdir(parents=True)
        return Path(shutil.move(path, place / path.name))
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise


def chunks(entries: list[Entry], kind: str, size: int) -> Iterator[list[Any]]:
    """Yield the rows of all entries of one kind, `size` at a time."""
    rows = [row for entry in entries if entry["entry"] == kind for row in _rows(entry["rows"])]
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _rows(value: Mapping[str, Any] | list[Any]) -> list[Any]:
    return list(value.items()) if isinstance(value, Mapping) else value
