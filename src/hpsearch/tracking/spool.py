"""Send what trials write to MLflow from files on disk, so that training never waits for a server.

Each trial writes to a file of its own, and one thread of the worker sends the files. A spool is a
folder with one folder for each worker. In that folder each run has

    KEY.jsonl   the entries of the run in order, one a line: `open`, then `metrics`, `tags`,
                `params` and `file`, and at last `end`
    KEY.sent    how far the entries have been sent, and to which run; it is replaced as a whole
    KEY.files/  the artifacts that wait

All three are removed when everything has arrived. `kill -9` loses nothing: the next worker that
continues the same run sends what a dead worker left, and so does `hpsearch doctor sync`.
It does no harm to send an entry twice: MLflow's stores keep one row of a metric for each
(run, key, step, time, value).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from hpsearch.disks import Trouble
from hpsearch.errors import TrackingError, first_line
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.journal_file import FileLock
from hpsearch.study.leases import Worker
from hpsearch.tracking.spool_file import Away, Receiver, SpoolFile, State

_trouble = Trouble(__name__)


class Spool:
    """The spool of this worker, and the thread that empties it.

    Args:
        folder: The folder that holds the spools of all workers.
        receiver: Takes the entries.
        every_s: How long entries may wait to be sent together, in seconds.

    Attributes:
        say: Called with a sentence when the receiver is away, and when it is back.
    """

    say: Callable[[str], object] | None = None
    _LONGEST_PAUSE_S = 30.0

    def __init__(
        self,
        folder: Path,
        receiver: Receiver,
        every_s: float,
    ) -> None:
        self.folder = folder
        self._receiver = receiver
        self._every_s = every_s
        self._mine = folder / str(Worker.this())
        self._files: dict[str, SpoolFile] = {}
        self._states: dict[str, State] = {}
        self._changed = threading.Condition()
        self._wanted = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        self._is_away = False

    def file(self, key: str, before: str | None) -> SpoolFile:
        """Return a new file that the thread will send; see `SpoolFile` for the arguments."""
        with self._changed:
            file = SpoolFile(self._mine, key, before)
            self._files[key] = file
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run,
                    name="spool",
                    daemon=True,
                )
                self._thread.start()
            return file

    def drop(self, key: str) -> None:
        """Delete the entries of a run that have not been sent."""
        with self._changed:
            if key in self._files:
                self._files.pop(key).remove()

    def state(self, key: str, timeout_s: float) -> State | None:
        """Wait for the state of a run and return it, or None after `timeout_s` seconds."""
        with self._changed:
            self._wake()
            self._changed.wait_for(lambda: key in self._states, timeout_s)
            return self._states.get(key)

    def drain(self, timeout_s: float) -> bool:
        """Wait at most `timeout_s` seconds until all entries arrive; return whether they have."""
        with self._changed:
            self._wake()
            return self._changed.wait_for(self._is_empty, timeout_s)

    def _is_empty(self) -> bool:
        files = self._files.values()
        return not any(file.is_waiting() for file in files)

    def close(self, timeout_s: float) -> bool:
        """Drain the spool and stop the thread; return what `drain` returns."""
        is_drained = self.drain(timeout_s)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        with suppress(OSError):
            self._mine.rmdir()
        return is_drained

    def _wake(self) -> None:
        self._wanted = True
        self._changed.notify_all()

    def _run(self) -> None:
        pause_s = self._every_s
        # A process that this one has replaced may have left entries.
        inherits = Worker.this().restarts > 0
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopped, pause_s)
                self._wanted = False
                files = dict(self._files)
            try:
                if inherits:
                    self.send_abandoned()
                    inherits = False
                for key, file in files.items():
                    self._send(key, file)
                pause_s = self._every_s
                _trouble.ends("MLflow takes again what waits for it.")
                self._tell(None)
            except Away as away:
                self._tell(away)
                pause_s = min(2 * pause_s, self._LONGEST_PAUSE_S)
            except Exception as error:
                _trouble.begins(
                    f"What waits for MLflow could not be sent ({first_line(error)}); it will be "
                    "tried again.",
                    error,
                )
                pause_s = self._LONGEST_PAUSE_S
            with self._changed:
                self._changed.notify_all()

    def _tell(self, away: Away | None) -> None:
        """Say once that the receiver is away, and once that it is back."""
        was_away = self._is_away
        self._is_away = away is not None
        if self.say is None or was_away == self._is_away:
            return
        if away is None:
            self.say("MLflow answers again; all that has waited for it is sent.")
            return
        cause = first_line(away.__cause__ or away)
        if not isinstance(away.__cause__, TrackingError):
            # What follows is the history of the tries.
            cause = re.split(r" failed with exception|: Max retries exceeded", cause)[0]
            cause = f"MLflow cannot be used now ({without_secrets(cause)})"
        self.say(f"{cause}. Meanwhile training goes on, and what it writes waits in {self.folder}.")

    def _send(self, key: str, file: SpoolFile) -> None:
        if file.before is not None:
            self.send_abandoned(file.before)
            file.before = None
        state = file.send(self._receiver, is_mine=True)
        with self._changed:
            if state:
                self._states[key] = state
            if file.is_over:
                self._files.pop(key, None)

    def send_abandoned(self, before: str | None = None) -> int:
        """Send what dead workers have left, and return the number of runs that it belongs to.

        Args:
            before: The part of the key that all tries of one run share; its earlier tries are known
                to be over. None sends what was left by all workers that are known to be dead, or
                that are on another machine and have not written for 600 seconds.

        Raises:
            Away: The receiver cannot be reached.
        """
        if not self.folder.is_dir():
            return 0
        pattern = "*/*.jsonl"
        if before:
            pattern = f"*/{before}-*.jsonl"
        n_sent = 0
        lock = FileLock(str(self.folder / "abandoned"))
        with lock():
            for path in sorted(self.folder.glob(pattern)):
                if path.parent == self._mine:
                    continue
                if before or _is_abandoned(path):
                    self._send_abandoned_file(path)
                    n_sent += 1
        return n_sent

    def _send_abandoned_file(self, path: Path) -> None:
        file = SpoolFile(path.parent, path.stem)
        file.send(self._receiver, is_mine=False)
        file.remove()
        with suppress(OSError):
            path.parent.rmdir()


def _is_abandoned(path: Path) -> bool:
    worker = Worker.of(path.parent.name)
    if worker.is_seen_dead():
        return True
    if not worker.is_elsewhere():
        return False
    silent_s = time.time() - path.stat().st_mtime
    return silent_s > 600
