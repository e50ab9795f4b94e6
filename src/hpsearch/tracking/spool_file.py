"""A file with the entries of one MLflow run that wait to be sent to the store.

Nothing that has been added is lost when the process is killed. On a full disk entries wait in
memory.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypedDict

from hpsearch.disks import Trouble

_trouble = Trouble(__name__)


class Entry(TypedDict, total=False):
    """A line of a spool file.

    Attributes:
        entry: The kind: "open", "metrics", "params", "tags", "file" or "end". The kind determines
            which of the other keys are present.
        time: When the run was opened or ended, in milliseconds of Unix time.
        experiment_id: The experiment of the run ("open").
        parent_run_id: The run of the study ("open").
        number: The number of the trial ("open").
        name: The name of the run ("open").
        tags: Tags of a run that is created ("open").
        rows: A list of rows ("metrics"), each of a key, a value, the time in milliseconds and the
            step; or texts by name ("params", "tags").
        path: Where the file is ("file").
        folder: The artifact folder that the file belongs to ("file").
        status: The final status of the run ("end").
    """

    entry: str
    time: int
    experiment_id: str
    parent_run_id: str
    number: int
    name: str
    tags: Mapping[str, str]
    rows: Sequence[tuple[str, float, int, int]] | Mapping[str, str]
    path: str
    folder: str
    status: str


class State(TypedDict, total=False):
    """What is known of a run in the MLflow store.

    Attributes:
        run_id: The run.
        is_over: Whether it finished before these entries were sent.
        n_epochs: The last epoch that has arrived, counted from 1; 0 where there is none.
        metrics: The keys of the metrics that the run has.
    """

    run_id: str
    is_over: bool
    n_epochs: int
    metrics: list[str]


class Away(Exception):  # noqa: N818 (a state that passes, not a mistake)
    """The receiver cannot be reached now; the same entries can be sent again later."""


class Receiver(Protocol):
    """Takes the entries of a run."""

    def open(self, entry: Entry, is_mine: bool) -> State:
        """Find or create the run of an `open` entry, and return its state with at least `run_id`.

        `is_mine` is False where the entries of a dead worker are sent late. The run may have
        advanced since then.
        """

    def take(self, state: State, entries: list[Entry]) -> None:
        """Write entries in order; log those that are refused for good."""


class SpoolFile:
    """The waiting entries of one run; on a full disk they wait in memory, and are sent from there.

    Args:
        folder: The folder of the worker that runs the trial.
        key: A name for the run and the try.
        before: The part of the key that all tries share, or None for the first try.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        before: str | None = None,
    ) -> None:
        self.path = folder / f"{key}.jsonl"
        self._sent_path = folder / f"{key}.sent"
        self._files_folder = folder / f"{key}.files"
        self._spare_folder = Path(tempfile.gettempdir()) / f"hpsearch-{key}.files"
        self.before = before
        self.is_over = False
        self._sent: tuple[int, State] | None = None
        self._unwritten: list[bytes] = []
        self._lock = threading.Lock()

    def append(self, entry: Entry) -> None:
        """Add an entry; on a full disk it waits in memory."""
        with self._lock:
            line = json.dumps(entry) + "\n"
            self._unwritten.append(line.encode())
        self._write()

    def _write(self) -> None:
        with self._lock:
            if not self._unwritten:
                return
            try:
                self._append_to_file(b"".join(self._unwritten))
            except OSError as error:
                folder = self.path.parent.parent
                _trouble.begins(
                    f"The spool {folder} cannot be written ({error.strerror}); what trials write "
                    "waits in memory.",
                    error,
                )
            else:
                _trouble.ends("The spool can be written again.")
                self._unwritten.clear()

    def _append_to_file(self, lines: bytes) -> None:
        """Append lines to the file, or none of them.

        Raises:
            OSError: The file cannot be written, or its disk has no room for all.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            if file.write(lines) < len(lines):
                file.truncate(end)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def keep_file(self, path: Path) -> Path:
        """Move a file here until it is sent, and return its new path.

        Where this disk is full the file goes into the temporary folder.

        Raises:
            OSError: The temporary folder is full too.
        """
        try:
            return _move_into(self._files_folder, path)
        except OSError:
            return _move_into(self._spare_folder, path)

    def sent(self) -> tuple[int, State]:
        """Return how many bytes have been sent, and the state that `Receiver.open` returned."""
        if self._sent is None:
            try:
                text = self._sent_path.read_text()
                offset, state = json.loads(text)
                self._sent = (int(offset), state)
            except (OSError, ValueError):
                self._sent = (0, {})
        return self._sent

    def is_waiting(self) -> bool:
        """Return whether there is anything to send."""
        with self._lock:
            n_bytes = len(self._written())
            for line in self._unwritten:
                n_bytes += len(line)
            n_sent, _state = self.sent()
            return n_bytes > n_sent

    def send(self, receiver: Receiver, is_mine: bool) -> State:
        """Send the entries that wait, and return the run's state.

        Raises:
            Away: The receiver cannot be reached. Nothing is lost.
        """
        self._write()
        offset, state = self.sent()
        lines = self._whole_lines()
        if not lines:
            return state
        if not offset or not is_mine:
            opening = lines[0]
            entry = json.loads(opening)
            state = receiver.open(entry, is_mine)
            offset = max(offset, len(opening))
            self._remember(offset, state)
        waiting = b"".join(lines)[offset:]
        if not waiting:
            return state
        entries: list[Entry] = []
        for line in waiting.splitlines():
            entries.append(json.loads(line))
        receiver.take(state, entries)
        self._remember(offset + len(waiting), state)
        if entries[-1]["entry"] == "end":
            self.remove()
        return state

    def _whole_lines(self) -> list[bytes]:
        """Return all complete lines; those that could not be written to the disk come last."""
        lines = []
        with self._lock:
            written = self._written()
            for line in written.splitlines(keepends=True):
                if line.endswith(b"\n"):
                    lines.append(line)
            lines.extend(self._unwritten)
        return lines

    def _written(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError:
            return b""

    def _remember(self, offset: int, state: State) -> None:
        self._sent = (offset, state)
        new = self._sent_path.with_suffix(".new")
        # On a full disk this is not written. Should the process die then, entries are sent again,
        # which does no harm.
        with suppress(OSError):
            try:
                text = json.dumps([offset, state])
                new.write_text(text)
                os.replace(new, self._sent_path)
            finally:
                new.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the files of the run: all entries have arrived, or none of them counts now."""
        with self._lock:
            self.is_over = True
            self._unwritten.clear()
            for path in (self.path, self._sent_path):
                with suppress(OSError):
                    path.unlink()
        for folder in (self._files_folder, self._spare_folder):
            shutil.rmtree(folder, ignore_errors=True)


def _move_into(folder: Path, path: Path) -> Path:
    """Move a file into a new subfolder of `folder`; where that fails it stays where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / uuid.uuid4().hex
    place.mkdir()
    try:
        return Path(shutil.move(path, place))
    except OSError:
        shutil.rmtree(place, ignore_errors=True)
        raise
