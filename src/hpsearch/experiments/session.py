"""A session of an experiment: it trains each arm from each seed and records the results in MLflow.

An experiment has one parent run, with a child run for each arm and seed. A later session of the
same experiment reads the finished child runs and trains only what is missing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from hpsearch.errors import ConfigError
from hpsearch.experiments.answers import Results
from hpsearch.experiments.arms import Arm, Measured, Probe, Workbench
from hpsearch.seeds import derive
from hpsearch.study.storage import without_password
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.runs import END, ParentRun, TrackedRun, settings_shown
from hpsearch.tracking.tracking import Tracking

# The groups of the configuration that an arm is made of.
PARTS = ("arch", "optimizer", "training", "schedule", "sparsity")


def check_seeds(key: str, n_seeds: int) -> None:
    """Raise ConfigError where there are too few seeds for an interval.

    Args:
        key: The setting that holds the number, for the message.
        n_seeds: The number of seeds.
    """
    if n_seeds < 2:
        raise ConfigError(
            f"{key} must be at least 2, since one seed has no interval, but is {n_seeds}."
        )


def seeds_of(root: int, kind: str, n: int) -> list[int]:
    """Return `n` seeds for an experiment of some kind, derived from the root seed."""
    return [derive(root, kind, place) for place in range(n)]


class Records:
    """The runs of one experiment; another session of the experiment gets the same parent run.

    Args:
        tracking: The MLflow store.
        name: The name of the parent run.
        kind: `ablation` or `comparison`.
        identity: Plain data that is equal in all sessions of the experiment.
        tags: Further tags of the parent run.
    """

    _file = "measured.json"  # the measurements, in the child run of a training
    _identity_tag = "hpsearch.experiment"
    _cell_tag = "hpsearch.cell"

    def __init__(
        self,
        tracking: Tracking,
        name: str,
        kind: str,
        identity: Sequence[object],
        tags: Mapping[str, str],
    ) -> None:
        self.tracking = tracking
        self.name = name
        self.tracking_uri = without_password(tracking.uri)
        text = json.dumps(identity, sort_keys=True, default=str)
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        known = self._known(digest)
        tags = {**tags, "hpsearch.kind": kind, self._identity_tag: digest}
        self.parent: ParentRun = tracking.open_parent(name, known, tags)
        self._cells = {}
        for run in tracking.children(self.parent):
            if self._cell_tag in run.data.tags:
                self._cells[run.data.tags[self._cell_tag]] = run

    def where_to_look(self) -> str:
        """Return a line with the command that shows the parent run."""
        command = f"mlflow ui --backend-store-uri {self.tracking_uri}"
        return f"Look at it:  {command}  (run {self.parent.run_id})"

    def _known(self, digest: str) -> str | None:
        """Return the parent run of an earlier session; None where there is none."""
        wanted = f"tags.`{self._identity_tag}` = '{digest}'"
        runs = self.tracking.client.search_runs([self.tracking.experiment_id], wanted)
        if not runs:
            return None
        run_id: str = runs[0].info.run_id
        return run_id

    def find(self, arm: Arm, seed: int) -> Measured | None:
        """Return what an earlier session measured; None where it did not finish the training."""
        run = self._cells.get(_cell(arm, seed))
        if run is None or run.info.status != "FINISHED":
            return None
        with tempfile.TemporaryDirectory() as folder:
            path = self.tracking.client.download_artifacts(run.info.run_id, self._file, folder)
            text = Path(path).read_text()
        return Measured(**json.loads(text))

    def open(self, arm: Arm, seed: int) -> TrackedRun:
        """Open the child run of an arm and a seed; an interrupted run is opened again."""
        cell = _cell(arm, seed)
        known = self._cells.get(cell)
        run_id = None
        if known is not None:
            run_id = known.info.run_id
        name = f"{arm.name} seed {seed}"
        tags = {"hpsearch.kind": "cell", self._cell_tag: cell, "hpsearch.seed": str(seed)}
        child = self.tracking.open_cell(self.parent, name, run_id, tags)
        own = {"level": arm.level, "experiment_seed": seed}
        settings = settings_shown(arm.config, PARTS)
        child.params({**arm.hyperparameters, **own, **settings})
        return child

    def close(self, child: TrackedRun, measured: Measured) -> None:
        """Write the measurements to a child run and end it.

        The measures of the layers become metrics whose step is the number of the layer.
        """
        child.metrics(_finite(measured.scalars))
        n_layers = max(map(len, measured.layers.values()), default=0)
        for layer in range(n_layers):
            found = {}
            for key, values in measured.layers.items():
                if layer < len(values):
                    found[f"layer/{key}"] = values[layer]
            child.metrics(_finite(found), step=layer + 1)
        text = json.dumps(asdict(measured))
        child.client.log_text(child.run_id, text, self._file)
        if measured.diverged:
            child.tag({END: TrialEnd.DIVERGED.word, "hpsearch.message": measured.diverged})
        child.end("FINISHED")


def _cell(arm: Arm, seed: int) -> str:
    return f"{arm.name}/{seed}"


def _finite(metrics: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Session:
    """The trainings of an experiment and the place where they are recorded.

    Attributes:
        arms: The arms.
        seeds: The seed of each training of an arm. All arms have the same seeds, so that results
            are paired.
        records: The runs of the experiment.
        bench: Trains the arms.
        inspect: Whether the hidden layers are measured before and after training.
        probes: Further measurements of each trained model.
    """

    arms: Sequence[Arm]
    seeds: Sequence[int]
    records: Records
    bench: Workbench
    inspect: bool
    probes: Sequence[Probe]

    def measure(self, console: Console) -> Results:
        """Train what is missing, and return all measurements by arm and by the seed's place."""
        results: dict[str, dict[int, Measured]] = {}
        n_cells = len(self.arms) * len(self.seeds)
        n_done = 0
        for arm in self.arms:
            of_arm = results.setdefault(arm.name, {})
            for place in range(len(self.seeds)):
                again = " (measured before)"
                found = self.records.find(arm, place)
                if found is None:
                    again = ""
                    found = self._train(arm, place)
                of_arm[place] = found
                n_done += 1
                line = f"{n_done}/{n_cells}  {arm.name}, seed {place}: {_summary(found)}{again}"
                console.print(line, soft_wrap=True)
        return results

    def _train(self, arm: Arm, place: int) -> Measured:
        """Train an arm from one seed, in a child run of its own."""
        child = self.records.open(arm, place)

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            child.metrics(metrics, epoch)

        try:
            seed = self.seeds[place]
            trained = self.bench.train(arm, seed, listen, inspect=self.inspect)
            measured = trained.measured
            if not measured.diverged:
                for probe in self.probes:
                    measured.scalars.update(probe(self.bench, trained))
        except KeyboardInterrupt:
            child.end("KILLED")
            raise
        except BaseException:
            child.end("FAILED")
            raise
        self.records.close(child, measured)
        return measured


def _summary(measured: Measured) -> str:
    """Return the message of the error that ended a training, or else its best validation loss."""
    if measured.diverged:
        return measured.diverged
    loss = measured.scalars.get("best/val/loss", math.nan)
    return f"val/loss {loss:.4f}"
