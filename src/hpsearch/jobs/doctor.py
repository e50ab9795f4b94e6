"""The doctor of a search: it makes a study and its MLflow runs agree, and explains suggestions.

`jobs.diagnosis` finds what disagrees.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import optuna

from hpsearch.errors import TrackingError, UserError
from hpsearch.jobs.composed import Plain
from hpsearch.jobs.diagnosis import Diagnosis
from hpsearch.space.space import Space
from hpsearch.study.direction import Direction
from hpsearch.study.replay import explain, replay
from hpsearch.study.storage import SharedStorage, to_read
from hpsearch.study.study import SharedStudy
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.spool_file import Away
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Doctor:
    """Examines the study of a search. Only the parts that a question needs are built.

    Attributes:
        config: The composed configuration of the search as plain data.
        build: Returns the part that some settings describe.
    """

    config: Plain
    build: Callable[[object], Any]

    @property
    def name(self) -> str:
        """The name of the study."""
        return str(self.config["study"]["name"])

    def _part(self, name: str) -> Any:
        return self.build(self.config[name])

    @cached_property
    def _space(self) -> Space:
        space: Space = self._part("space")
        return space

    @cached_property
    def _tracking(self) -> Tracking:
        tracking: Tracking = self._part("tracking")(must_exist=True)
        return tracking

    @cached_property
    def _study(self) -> SharedStudy:
        """The study.

        Raises:
            UserError: The study does not exist.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = cast("SharedStorage", to_read(self._part("storage")))
        names = optuna.get_all_study_names(storage)
        if self.name not in names:
            raise UserError(self._missing(names))
        known = optuna.load_study(study_name=self.name, storage=storage)
        return SharedStudy.open(
            self.name,
            storage=storage,
            sampler=self._part("sampler")(root_seed=self.config["seed"]),
            pruner=self._part("pruner"),
            direction=Direction.of(known),
            budget=self._part("budget"),
        )

    def _missing(self, names: list[str]) -> str:
        shown = ", ".join(names) or "none"
        return (
            f"There is no study {self.name} in this storage; study.name=NAME takes another one of: "
            f"{shown}."
        )

    def compare(self, repair: bool) -> Iterator[tuple[str, str]]:
        """Yield what disagrees between the study, its MLflow runs and SLURM's queue.

        Args:
            repair: Whether to put right what disagrees, where that is possible.

        Yields:
            A sentence that says what disagrees, and one that says that it was put right; the second
            is empty where it was not.
        """
        study = self._study
        tracking = self._tracking
        run_id = study.optuna.user_attrs.get("parent_run_id")
        if run_id is None:
            raise UserError(f"Study {self.name} has no MLflow run yet.")
        self.sync()
        parent = ParentRun(tracking.client, run_id)
        diagnosis = Diagnosis(study, tracking, parent, self._space, _slurm_queue())
        seen = set()
        # A repair may bring new findings, so the study is examined until there are none.
        while True:
            found = diagnosis.findings()
            findings = [finding for finding in found if finding.text not in seen]
            if not findings:
                break
            for finding in findings:
                seen.add(finding.text)
                cure = ""
                if repair and finding.repair is not None:
                    finding.repair()
                    cure = "Put right."
                yield finding.text, cure
        yield from self._orphan_checkpoints(study, repair)
        tracking.close(tracking.patience_s)

    def _orphan_checkpoints(self, study: SharedStudy, remove: bool) -> Iterator[tuple[str, str]]:
        checkpoints = self._part("checkpoints")
        needed = study.numbers_that_go_on()
        orphans = checkpoints.orphans(self.name, needed)
        if not orphans:
            return
        cure = ""
        if remove:
            for path in orphans:
                path.unlink(missing_ok=True)
            cure = "Removed."
        yield f"{len(orphans)} checkpoints belong to no trial that continues.", cure

    def sync(self) -> int:
        """Send to MLflow what waits in the spool, and return the number of runs that were sent."""
        try:
            return self._tracking.spool.send_abandoned()
        except Away as error:
            raise TrackingError(
                f"The MLflow store cannot be reached ({error.__cause__}); nothing is lost."
            ) from error

    def replay(self) -> tuple[int, list[str]]:
        """Compute every suggestion of the study again.

        Returns:
            The number of trials whose suggestions are the same, and a sentence for each other one.
        """
        result = replay(self._study.optuna, self._study.sampler)
        return result.n_same, result.differing

    def explain(self, number: int) -> list[str]:
        """Return sentences on why a trial had its values, and how it ended."""
        study = self._study
        sentences = explain(study.optuna, study.sampler, self._space, number)
        return list(sentences)


def _slurm_queue() -> frozenset[str] | None:
    """Return the jobs that SLURM knows, as `17` or `17_3`, or None where there is no SLURM."""
    if not shutil.which("squeue"):
        return None
    command = "squeue --noheader --array --format=%i --states=RUNNING,COMPLETING,SUSPENDED"
    found = subprocess.run(
        command.split(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if found.returncode != 0:
        return None
    return frozenset(found.stdout.split())
