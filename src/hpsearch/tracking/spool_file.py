"""The entries of one run that wait to be sent to MLflow: a file of its own, safe against `kill -9` and full disks."""

from __future__ import annotations

import json
import os
import shutil
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
        """Find or make the run of an `open` entry, and return what must be remembered of it, `run_id` at least.

        `is_mine` is False where a dead worker's entries are sent late: the run may be further on by now.
        """

    def take(self, state: Entry, entries: list[Entry]) -> None:
        """Take entries, in order; what it refuses for good it says itself."""


class SpoolFile:
    """The waiting entries of one run.

    Args:
        folder: Where its worker's files are.
        key: Names the run and the try.
        before: Where the run has been tried before, the key's part that all tries share.
    """

    def __init__(self, folder: Path, key: str, before: str | None = None) -> None:
        self.path, self._sent_path, self.files = (folder / f"{key}.{part}" for part in ("jsonl", "sent", "files"))
        self.before = before
        self._unwritten: list[str] = []
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Add an entry; on a full disk it waits in memory."""
        with self._lock:
            self._unwritten.append(json.dumps(entry) + "\n")
        self._write()

    def _write(self) -> None:
        with self._lock, suppress(OSError):
            if not self._unwritten:
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab", buffering=0) as file:
                end, lines = file.tell(), "".join(self._unwritten).encode()
                if file.write(lines) < len(lines):
                    file.truncate(end)
                    return
            self._unwritten.clear()

    def keep_file(self, path: Path) -> Path:
        """Move a file here until it is sent; return where it is now."""
        self.files.mkdir(parents=True, exist_ok=True)
        folder = self.files / str(len(list(self.files.iterdir())))
        folder.mkdir()
        return Path(shutil.move(path, folder / path.name))

    def sent(self) -> tuple[int, Entry]:
        """Return how many bytes have been sent, and what `Receiver.open` returned."""
        try:
            offset, state = json.loads(self._sent_path.read_text())
            return int(offset), state
        except (OSError, ValueError):
            return 0, {}

    def is_waiting(self) -> bool:
        """Return whether there is anything to send."""
        return bool(self._unwritten) or (self.path.exists() and self.path.stat().st_size > self.sent()[0])

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
        try:
            lines = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        except FileNotFoundError:
            return [], {}
        return lines, json.loads(lines[0]) if lines else {}

    def _remember(self, offset: int, state: Entry) -> None:
        new = self._sent_path.with_suffix(".new")
        new.write_text(json.dumps([offset, state]))
        os.replace(new, self._sent_path)

    def remove(self) -> None:
        """Forget the run: all has arrived, or nothing of it counts any more."""
        self.path.unlink(missing_ok=True)
        self._sent_path.unlink(missing_ok=True)
        shutil.rmtree(self.files, ignore_errors=True)


def chunks(entries: list[Entry], kind: str, size: int) -> Iterator[list[Any]]:
    """Yield the rows of all entries of one kind, `size` at a time."""
    rows = [row for entry in entries if entry["entry"] == kind for row in _rows(entry["rows"])]
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _rows(value: Mapping[str, Any] | list[Any]) -> list[Any]:
    return list(value.items()) if isinstance(value, Mapping) else value
