"""What an experiment leaves in MLflow: one parent run, a child run for each arm and seed, all read
back from there.

Trains all arms of an experiment from all seeds, or what earlier sessions have left to do.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hpsearch.errors import ConfigError
from hpsearch.experiments.answers import Results
from hpsearch.experiments.arms import Arm, Measured, Probe, Workbench
from hpsearch.seeds import derive
from hpsearch.study.storage import without_password
from hpsearch.tracking.runs import ParentRun, TrackedRun, settings_shown
from hpsearch.tracking.tracking import Tracking

MEASURED = "measured.json"
IDENTITY, CELL = "hpsearch.experiment", "hpsearch.cell"


def digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change with any of the plain parts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Records:
    """The runs of one experiment; the same experiment again goes on in the same parent run.

    Args:
        tracking: The MLflow store.
        name: The parent run's name.
        kind: `ablation` or `comparison`.
        identity: What `digest` says of all that may not change between two sessions.
    """

    def __init__(
        self, tracking: Tracking, name: str, kind: str, identity: str, tags: Mapping[str, str]
    ) -> None:
        self.tracking, self.name, self.tracking_uri = tracking, name, without_password(tracking.uri)
        known = self._known(identity)
        self.parent: ParentRun = tracking.open_parent(
            name, known, {**tags, "hpsearch.kind": kind, IDENTITY: identity}
        )
        self._cells = {
            run.data.tags[CELL]: run
            for run in tracking.children(self.parent)
            if CELL in run.data.tags
        }

    def where_to_look(self) -> tuple[str, ...]:
        """Return what a person may do next, a line each."""
        return (
            f"Look at it:  mlflow ui --backend-store-uri {self.tracking_uri}  (run "
            f"{self.parent.run_id})",
        )

    def _known(self, identity: str) -> str | None:
        runs = self.tracking.client.search_runs(
            [self.tracking.experiment_id], f"tags.`{IDENTITY}` = '{identity}'"
        )
        return runs[0].info.run_id if runs else None

    def find(self, arm: Arm, seed: int) -> Measured | None:
        """Return what an earlier session has measured."""
        run = self._cells.get(_cell(arm, seed))
        return (
            read(self.tracking, run.info.run_id)
            if run is not None and run.info.status == "FINISHED"
            else None
        )

    def open(self, arm: Arm, seed: int, kind: str, settings: Mapping[str, object]) -> TrackedRun:
        """Open the child run of an arm and a seed, the one that was cut off where there is one."""
        known = self._cells.get(_cell(arm, seed))
        tags = {"hpsearch.kind": kind, CELL: _cell(arm, seed), "hpsearch.seed": str(seed)}
        child = self.tracking.open_cell(
            self.parent, f"{arm.name} seed {seed}", known.info.run_id if known else None, tags
        )
        child.params(
            {**arm.hyperparameters, "level": arm.level, "experiment_seed": seed, **settings}
        )
        return child

    def close(self, child: TrackedRun, measured: Measured) -> None:
        """Write what was measured; layers become curves over the layer's number."""
        child.metrics(
            {key: value for key, value in measured.scalars.items() if math.isfinite(value)}
        )
        for layer in range(max(map(len, measured.layers.values()), default=0)):
            at = {f"layer/{k}": v[layer] for k, v in measured.layers.items() if layer < len(v)}
            child.metrics({k: v for k, v in at.items() if math.isfinite(v)}, step=layer + 1)
        child.client.log_text(child.run_id, json.dumps(asdict(measured)), MEASURED)
        if measured.diverged:
            child.tag({"hpsearch.reason": "diverged", "hpsearch.message": measured.diverged})
        child.end("FINISHED")


def read(tracking: Tracking, run_id: str) -> Measured:
    """Return what a child run holds."""
    with tempfile.TemporaryDirectory() as folder:
        path = tracking.client.download_artifacts(run_id, MEASURED, folder)
        return Measured(**json.loads(Path(path).read_text()))


def _cell(arm: Arm, seed: int) -> str:
    return f"{arm.name}/{seed}"


PARTS = ("arch", "optimizer", "training", "schedule", "sparsity")


def check_seeds(key: str, n_seeds: int) -> None:
    """Raise ConfigError where there are too few seeds for an interval."""
    if n_seeds < 2:
        raise ConfigError(
            f"{key} must be at least 2, since one seed has no interval, but is {n_seeds}."
        )


@dataclass(frozen=True)
class Session:
    """What is trained, and where it is written.

    Attributes:
        arms: Each with its composed configuration as plain data.
        seeds: The seed of each training of an arm, the same for all arms, so that results are
            paired.
        records: The experiment's runs.
        bench: Trains.
        inspect: Whether the layers are looked at before and after training.
        probes: Further measurements of each trained model.
    """

    arms: Sequence[tuple[Arm, Mapping[str, Any]]]
    seeds: Sequence[int]
    records: Records
    bench: Workbench
    inspect: bool
    probes: Sequence[Probe]

    def measure(self, console: Console) -> Results:
        """Return what was measured, by arm and by the seed's place."""
        results: dict[str, dict[int, Measured]] = {arm.name: {} for arm, _ in self.arms}
        n_cells, n_done = len(self.arms) * len(self.seeds), 0
        for arm, config in self.arms:
            for place in range(len(self.seeds)):
                n_done += 1
                known = self.records.find(arm, place)
                found = known or self._train(arm, config, place)
                results[arm.name][place] = found
                loss = (
                    found.diverged
                    or f"val/loss {found.scalars.get('best/val/loss', float('nan')):.4f}"
                )
                again = " (measured before)" if known else ""
                console.print(
                    f"{n_done}/{n_cells}  {arm.name}, seed {place}: {loss}{again}", soft_wrap=True
                )
        return results

    def _train(self, arm: Arm, config: Mapping[str, Any], place: int) -> Measured:
        child = self.records.open(arm, place, "cell", settings_shown(config, PARTS))
        try:
            trained = self.bench.train(
                arm,
                self.seeds[place],
                lambda epoch, metrics: child.metrics(metrics, epoch),
                inspect=self.inspect,
            )
            if not trained.measured.diverged:
                for probe in self.probes:
                    trained.measured.scalars |= probe(self.bench, trained)
        except BaseException as error:
            child.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        self.records.close(child, trained.measured)
        return trained.measured


def seeds_of(root: int, kind: str, n: int) -> list[int]:
    """Return the seeds of an experiment."""
    return [derive(root, kind, place) for place in range(n)]
