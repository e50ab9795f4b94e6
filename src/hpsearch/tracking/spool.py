"""What a trial tells MLflow waits in a file of its own, and a thread sends it: training never waits
for a server.

A spool is a folder with a folder for each worker, in which each run has

    KEY.jsonl   the run's entries in order, one a line: `open`, then `metrics`, `tags`, `params`,
    `file`, at last `end` KEY.sent    how far they have been sent, and to which run; it is replaced
    as a whole KEY.files/  the artifacts that wait

Both are removed when all has arrived. Nothing is lost by `kill -9`: what a dead worker left is sent
by the next one that works on the same run, or by `python -m hpsearch doctor sync`. Sending again
what may have arrived already does no
harm: MLflow's stores keep a metric's row once, by (run, key, step, time, value).
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from pathlib import Path

from hpsearch.study.journal_file import FileLock
from hpsearch.study.leases import Worker
from hpsearch.tracking.spool_file import Away, Entry, Receiver, SpoolFile

LONGEST_PAUSE_S = 30.0
SILENT_S = 600.0
logger = logging.getLogger(__name__)


class Spool:
    """The spool of this worker, and the thread that empties it.

    Args:
        folder: Where all workers' spools are.
        receiver: Where entries go.
        every_s: How long entries may wait to be sent together.
    """

    def __init__(self, folder: Path, receiver: Receiver, every_s: float) -> None:
        self.folder, self._receiver, self._every_s = folder, receiver, every_s
        self._mine = folder / str(Worker.this())
        self._files: dict[str, SpoolFile] = {}
        self._states: dict[str, Entry] = {}
        self._changed = threading.Condition()
        self._wanted = self._stopped = False
        self._thread: threading.Thread | None = None

    def file(self, key: str, before: str | None) -> SpoolFile:
        """Return a new file for the run and try `key`, which the thread will send; `before` as for
        `SpoolFile`.
        """
        with self._changed:
            self._files[key] = SpoolFile(self._mine, key, before)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="spool", daemon=True)
                self._thread.start()
            return self._files[key]

    def drop(self, key: str) -> None:
        """Forget what waits for a run."""
        with self._changed:
            if key in self._files:
                self._files.pop(key).remove()

    def state(self, key: str, timeout_s: float) -> Entry | None:
        """Return what the receiver knows of a run, as soon as it does; None after `timeout_s`
        seconds.
        """
        with self._changed:
            self._wake()
            self._changed.wait_for(lambda: key in self._states, timeout_s)
            return self._states.get(key)

    def drain(self, timeout_s: float) -> bool:
        """Wait until all that has been written has arrived; return whether it has after `timeout_s`
        seconds.
        """
        with self._changed:
            self._wake()
            return self._changed.wait_for(
                lambda: not any(f.is_waiting() for f in self._files.values()), timeout_s
            )

    def close(self, timeout_s: float) -> bool:
        """The same, and stop the thread."""
        done = self.drain(timeout_s)
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        with suppress(OSError):
            self._mine.rmdir()
        return done

    def _wake(self) -> None:
        self._wanted = True
        self._changed.notify_all()

    def _run(self) -> None:
        pause, inherits = self._every_s, Worker.this().restarts > 0
        while not self._stopped:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._stopped, pause)
                self._wanted, files = False, dict(self._files)
            try:
                if inherits:  # what this process left when a fresh one took its place
                    self.send_abandoned()
                    inherits = False
                for key, file in files.items():
                    self._send(key, file)
                pause = self._every_s
            except Away:
                pause = min(2 * pause, LONGEST_PAUSE_S)
            except Exception:
                logger.exception("The spool could not be sent; it will be tried again.")
                pause = LONGEST_PAUSE_S
            with self._changed:
                self._changed.notify_all()

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
        """Send what dead workers have left; return of how many runs it was.

        Args:
            before: Of this run, whose earlier tries are known to be over; None sends all of workers
                that are seen dead, or that are elsewhere and have not written for `SILENT_S`
                seconds.

        Raises:
            Away: The receiver is away.
        """
        if not self.folder.is_dir():
            return 0
        n_sent = 0
        with FileLock(str(self.folder / "abandoned"))():
            for path in sorted(self.folder.glob(f"*/{before}-*.jsonl" if before else "*/*.jsonl")):
                if path.parent != self._mine and (before or _is_abandoned(path)):
                    file = SpoolFile(path.parent, path.stem)
                    file.send(self._receiver, is_mine=False)
                    file.remove()
                    n_sent += 1
                    with suppress(OSError):
                        path.parent.rmdir()
        return n_sent


def _is_abandoned(path: Path) -> bool:
    worker = Worker.of(path.parent.name)
    return worker.is_seen_dead() or (
        worker.is_elsewhere() and time.time() - path.stat().st_mtime > SILENT_S
    )
