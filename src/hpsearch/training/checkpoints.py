"""Checkpoints of trials that run or are paused: a file each, from which any process goes on
exactly.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np

HEAD = "head"
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A trial at the end of an epoch.

    Args:
        identity: What a fit must have in common with the one that is continued: architecture, seed,
            backend.
        history: The metrics of each epoch, as a listener is told them.
        best_epoch: The epoch, counted from 1, whose weights are the best so far.
        best: Those weights.
        running: All that training changes: weights, their averages, the optimizer's state, seeds of
            dropout.
    """

    identity: str
    history: list[dict[str, float]]
    best_epoch: int
    best: list[np.ndarray]
    running: list[np.ndarray]

    def write(self, path: Path) -> None:
        """Write the file whole or not at all; an older one stays until then."""
        head = {"identity": self.identity, "history": self.history, "best_epoch": self.best_epoch}
        arrays = {
            **{f"best.{i}": array for i, array in enumerate(self.best)},
            **{f"running.{i}": array for i, array in enumerate(self.running)},
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **{HEAD: np.array(json.dumps(head))}, **arrays)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read what `write` has written; a damaged file raises one of UNREADABLE."""
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            head = json.loads(str(file[HEAD]))
            lists = {
                kind: [
                    file[f"{kind}.{i}"]
                    for i in range(sum(name.startswith(f"{kind}.") for name in file.files))
                ]
                for kind in ("best", "running")
            }
        return cls(
            head["identity"], head["history"], head["best_epoch"], lists["best"], lists["running"]
        )


class Slot:
    """The place of one trial's checkpoint."""

    def __init__(self, path: Path, every_s: float) -> None:
        self.path, self._every_s = path, every_s
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Return whether `every_s` seconds have passed since the last checkpoint, or since the
        trial began here.
        """
        return time.monotonic() - self._saved >= self._every_s

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the trial's checkpoint; on a full disk the older one stays, and the trial goes
        on.
        """
        try:
            checkpoint.write(self.path)
        except OSError as error:
            logger.warning("No checkpoint of trial %s could be written: %s", self.path.stem, error)
        self._saved = time.monotonic()

    def load(self) -> Checkpoint | None:
        """Return the trial's checkpoint; None where there is none that can be read: the trial then
        begins anew.
        """
        try:
            return Checkpoint.read(self.path)
        except UNREADABLE:
            return None

    def remove(self) -> None:
        """Remove the checkpoint, and what a process that died may have left of one."""
        for path in self.path.parent.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoints:
    """The folder of all checkpoints; see conf/checkpoints for what the settings mean."""

    path: str
    every_s: float

    def of(self, study: str, number: int) -> Slot:
        """Return the place of a trial's checkpoint."""
        return Slot(self._folder(study) / f"{number}.npz", self.every_s)

    def orphans(self, study: str, numbers: Collection[int]) -> list[Path]:
        """Return the files of a study's trials that are not among those called `numbers`."""
        return [
            p
            for p in sorted(self._folder(study).glob("*"))
            if int(p.name.split(".")[0]) not in numbers
        ]

    def clear(self, study: str) -> None:
        """Remove all checkpoints of a study."""
        shutil.rmtree(self._folder(study), ignore_errors=True)

    def _folder(self, study: str) -> Path:
        return Path(self.path) / quote(study, safe="")
