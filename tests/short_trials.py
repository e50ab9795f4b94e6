"""Workers whose trials train nothing: claims, leases, reports, runs and ends are those of a real
search.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import TPESampler

from hpsearch.space.space import Space
from hpsearch.study import storage
from hpsearch.study.budget import Budget
from hpsearch.study.direction import Direction
from hpsearch.study.pruners import Hyperband
from hpsearch.study.sampling import SeededSampler
from hpsearch.study.study import SharedStudy
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.trials.attempt import Attempt

SPACE = Space(
    {
        "learning_rate": {"low": 1e-4, "high": 1e-1, "scale": "log"},
        "momentum": {"low": 0.8, "high": 0.99},
    }
)
MONITOR = "val/loss"


@dataclass(frozen=True)
class ShortTrials:
    """A study of trials that sleep.

    Args:
        place: `sqlite:PATH`, `journal:PATH` or a PostgreSQL URL.
        folder: Where MLflow's database and the spools are.
        tracking_uri: Another MLflow store.
        n_trials: As `budget.n_trials`.
        n_epochs: The epochs of each.
        epoch_s: How long an epoch sleeps.
        lease_s: As `budget.lease_s`.
    """

    place: str
    folder: Path
    tracking_uri: str | None = None
    n_trials: int = 20
    n_epochs: int = 5
    epoch_s: float = 0.02
    lease_s: float = 60.0
    name: str = "short"

    def open_storage(self) -> storage.SharedStorage:
        """Open the storage."""
        kind, _, path = self.place.partition(":")
        if kind == "sqlite":
            return storage.sqlite(path, timeout_s=30, patience_s=60)
        if kind == "journal":
            return storage.journal(path, patience_s=60)
        return storage.postgres(self.place, patience_s=60)

    def open(self) -> tuple[SharedStudy, Tracking, ParentRun]:
        """Open study and parent run, as a job does."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        place = self.open_storage()
        with place.exclusively():
            uri = self.tracking_uri or f"sqlite:///{self.folder}/mlflow.db"
            tracking = Tracking(
                uri, None, str(self.folder / "spool"), flush_every_s=0.5, patience_s=120
            )
            study = self.open_study(place)
            known = study.optuna.user_attrs.get("parent_run_id")
            parent = tracking.open_parent(self.name, known, {})
            if parent.run_id != known:
                study.optuna.set_user_attr("parent_run_id", parent.run_id)
                study.optuna.set_user_attr("settings", {"training.monitor": MONITOR})
        return study, tracking, parent

    def open_study(self, place: storage.SharedStorage) -> SharedStudy:
        """Open the study."""
        make = partial(TPESampler, n_startup_trials=5)
        return SharedStudy.open(
            self.name,
            storage=place,
            sampler=SeededSampler(make=make, root_seed=1, per_trial=True),
            pruner=Hyperband(min_resource=1, max_resource=self.n_epochs, reduction_factor=3),
            direction=Direction.MINIMIZE,
            budget=Budget(
                self.n_trials,
                None,
                max_failures=0,
                max_retries=1000,
                lease_s=self.lease_s,
                linger=True,
                grace_s=5,
            ),
        )

    def work(self) -> None:
        """Be a worker until the study is finished."""
        study, tracking, parent = self.open()
        while (trial := study.claim()) is not None or study.has_work_in_progress():
            if trial is None:
                time.sleep(0.2)
                continue
            with open(self.folder / "claims", "ab") as claims:
                claims.write(b".")
            self.run(study, tracking, parent, trial)
        if not tracking.close(tracking.patience_s):
            raise TimeoutError("MLflow has not taken all that was written")

    def run(
        self, study: SharedStudy, tracking: Tracking, parent: ParentRun, trial: optuna.Trial
    ) -> None:
        """Run one trial."""
        attempt = Attempt(
            trial,
            study=study,
            tracking=tracking,
            parent=parent,
            ended=lambda *_: None,
            deadline=math.inf,
        )
        with attempt.kept():
            rate, momentum = (
                trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True),
                trial.suggest_float("momentum", 0.8, 0.99),
            )
            attempt.run.params({"learning_rate": rate, "momentum": momentum})
            for epoch in range(1, self.n_epochs + 1):
                time.sleep(self.epoch_s)
                metrics = self.metrics(rate, momentum, epoch)
                attempt.epoch(epoch, metrics, MONITOR, is_last=epoch == self.n_epochs)
            attempt.run.metrics({"best/val/loss": loss(rate, momentum, self.n_epochs)})
            attempt.finish(loss(rate, momentum, self.n_epochs))

    def metrics(self, rate: float, momentum: float, epoch: int) -> Mapping[str, float]:
        """Return what an epoch would report."""
        return {
            MONITOR: loss(rate, momentum, epoch),
            "train/loss": rate,
            "time/epoch_s": self.epoch_s,
        }


def loss(rate: float, momentum: float, epoch: int) -> float:
    """Return a loss that falls with the epochs, best near 1e-2 and 0.9."""
    return (math.log10(rate) + 2) ** 2 + (momentum - 0.9) ** 2 + 1 / epoch


def fork(call: Any) -> int:
    """Run `call` in a child process, which ends with it; return the child's id."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.environ.pop("MLFLOW_RUN_ID", None)
            call()
            status = 0
        except BaseException:
            import traceback  # noqa: PLC0415 (peers alone need it)

            traceback.print_exc()
        finally:
            os._exit(status)
    return pid
