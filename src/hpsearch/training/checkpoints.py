"""Checkpoints of trials that run or are paused: one file for each trial.

Any process that reads a checkpoint continues the trial exactly as the process that wrote it would
have done.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from hpsearch.disks import Trouble, check_folder

_trouble = Trouble(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A trial at the end of an epoch.

    Args:
        identity: Architecture, seed, backend and more, as text. A fit may continue from this
            checkpoint only if it has the same identity.
        history: The metrics of each epoch, as a listener gets them.
        best_epoch: The epoch, counted from 1, whose weights are the best so far.
        best: The weights of the best epoch.
        running: All arrays that training changes: weights, their averages, the optimizer's state,
            seeds of dropout.
        snapshots: The weights at the ends of earlier epochs, by the number of the epoch, from 1;
            empty where the fit keeps none.
    """

    identity: str
    history: list[dict[str, float]]
    best_epoch: int
    best: list[np.ndarray]
    running: list[np.ndarray]
    snapshots: Mapping[int, list[np.ndarray]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the checkpoint to `path`.

        An older file stays complete until the new one replaces it as a whole.

        Raises:
            OSError: The file cannot be written, for example because the disk is full.
        """
        head = {
            "identity": self.identity,
            "history": self.history,
            "best_epoch": self.best_epoch,
        }
        text = json.dumps(head)
        entries = {"head": np.array(text)}
        for i, array in enumerate(self.best):
            entries[f"best.{i}"] = array
        for i, array in enumerate(self.running):
            entries[f"running.{i}"] = array
        for epoch, arrays in self.snapshots.items():
            for i, array in enumerate(arrays):
                entries[f"snapshot {epoch}.{i}"] = array
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, allow_pickle=False, **entries)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        """Read a checkpoint from `path`.

        Raises:
            OSError: The file is missing or cannot be read.
            ValueError, KeyError, EOFError, zipfile.BadZipFile: The file is damaged.
        """
        with (
            path.open("rb") as raw,
            np.load(raw, allow_pickle=False) as file,
        ):
            text = str(file["head"])
            head = json.loads(text)
            best = _numbered(file, "best")
            running = _numbered(file, "running")
            kinds = {name.partition(".")[0] for name in file}
            snapshots = {
                int(kind.removeprefix("snapshot ")): _numbered(file, kind)
                for kind in kinds
                if kind.startswith("snapshot ")
            }
        return cls(
            identity=head["identity"],
            history=head["history"],
            best_epoch=head["best_epoch"],
            best=best,
            running=running,
            snapshots=snapshots,
        )


def _numbered(file: Mapping[str, np.ndarray], kind: str) -> list[np.ndarray]:
    """Return the arrays KIND.0, KIND.1 and so on of a file."""
    n_arrays = sum(name.startswith(f"{kind}.") for name in file)
    return [file[f"{kind}.{i}"] for i in range(n_arrays)]


class CheckpointFile:
    """The file of one trial's checkpoint.

    Args:
        path: The file. It need not exist.
        every_s: Seconds between two checkpoints of a running trial.
    """

    def __init__(self, path: Path, every_s: float) -> None:
        self.path = path
        self._every_s = every_s
        self._saved = time.monotonic()

    def is_due(self) -> bool:
        """Return whether `every_s` seconds have passed since the last checkpoint.

        Before the first checkpoint, the time counts from the start of the trial in this process.
        """
        passed_s = time.monotonic() - self._saved
        return passed_s >= self._every_s

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the trial's checkpoint.

        If it cannot be written, for example on a full disk, this is told once, the older
        checkpoint stays and the trial continues.
        """
        try:
            checkpoint.write(self.path)
        except OSError as error:
            trial = self.path.stem
            _trouble.begins(
                f"No checkpoint of trial {trial} could be written ({error.strerror}); the search "
                "goes on without.",
                error,
            )
        else:
            _trouble.ends("Checkpoints can be written again.")
        self._saved = time.monotonic()

    def load(self) -> Checkpoint | None:
        """Return the trial's checkpoint, None where there is no readable one.

        Without a checkpoint, the trial begins anew.
        """
        try:
            return Checkpoint.read(self.path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def remove(self) -> None:
        """Remove the checkpoint, and partial files of processes that died."""
        folder = self.path.parent
        for path in folder.glob(f"{self.path.stem}.*"):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Checkpoints:
    """The folder of all checkpoints; see conf/checkpoints for what the settings mean."""

    path: str
    every_s: float

    def check_folder(self) -> None:
        """Raise ConfigError where nothing can be written into the folder."""
        check_folder(Path(self.path), "checkpoints.path=FOLDER names another one")

    def of(self, study: str, number: int) -> CheckpointFile:
        """Return the file of a trial's checkpoint."""
        path = self._folder(study) / f"{number}.npz"
        return CheckpointFile(path, self.every_s)

    def orphans(self, study: str, numbers: Collection[int]) -> list[Path]:
        """Return the files of a study whose trial numbers are not among `numbers`."""
        folder = self._folder(study)
        orphans = []
        for path in sorted(folder.glob("*")):
            number, *_ = path.name.split(".")
            if int(number) not in numbers:
                orphans.append(path)
        return orphans

    def clear(self, study: str) -> None:
        """Remove all checkpoints of a study."""
        folder = self._folder(study)
        shutil.rmtree(folder, ignore_errors=True)

    def _folder(self, study: str) -> Path:
        name = quote(study, safe="")
        return Path(self.path) / name
