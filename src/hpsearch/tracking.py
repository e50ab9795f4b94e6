"""MLflow: a parent run for the study, a child run for each trial, metrics in batches, no secrets."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from hpsearch.data import SearchData
from hpsearch.errors import TrackingError
from hpsearch.storage import without_password

FLUSH_EVERY_S = 5.0
SHORT = {"learning_rate": "lr", "momentum": "m", "dropout_rate": "d"}
MAX_PARAM = 6000  # MLflow's limit on a parameter's length


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence that names the store."""
    try:
        yield
    except (MlflowException, OSError) as error:
        cause = without_password(str(error).strip().splitlines()[0])
        raise TrackingError(
            f"The MLflow store {without_password(uri)} cannot be used ({cause}); "
            "MLFLOW_TRACKING_URI must name a running server or a database file that can be written."
        ) from error


class Tracking:
    """A client of one MLflow store and one of its experiments.

    Args:
        uri: The tracking URI; None takes MLFLOW_TRACKING_URI, or `mlflow.db` in the current folder.
        experiment: A name; None takes MLFLOW_EXPERIMENT_NAME, or Default. `mlflow run` has chosen already.
    """

    def __init__(self, uri: str | None, experiment: str | None) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        with tracking_errors(self.uri):
            _check_reachable(self.uri)
            self.client = MlflowClient(self.uri, registry_uri=self.uri)
            self.project_run_id = os.environ.pop("MLFLOW_RUN_ID", None)  # fluent calls must not adopt it by chance
            self.experiment_id = self._experiment_id(experiment)
        os.environ["MLFLOW_TRACKING_URI"] = self.uri
        os.environ["MLFLOW_EXPERIMENT_ID"] = self.experiment_id

    def _experiment_id(self, given: str | None) -> str:
        if self.project_run_id:
            return str(self.client.get_run(self.project_run_id).info.experiment_id)
        if not given and "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = given or os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def open_parent(self, name: str, known_run_id: str | None, tags: Mapping[str, str]) -> ParentRun:
        """Return the study's parent run: the known one, else the run of `mlflow run`, else a new one.

        Where the study has its parent already and `mlflow run` brought another run, that one says which it continues.
        """
        with tracking_errors(self.uri):
            known = self._find(known_run_id)
            run_id = known or self.project_run_id or self._create(name, {})
            parent = ParentRun(self.client, run_id)
            parent.tag({**tags, MLFLOW_RUN_NAME: name, "hpsearch.kind": "study"})
            self.client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            if known and self.project_run_id and known != self.project_run_id:
                note = f"Continued study {name}; its parent run is `{known}`."
                parent.continued_by = ChildRun(self.client, self.project_run_id)
                parent.continued_by.tag(
                    {
                        MLFLOW_RUN_NAME: f"{name} (continued)",
                        MLFLOW_RUN_NOTE: note,
                        "hpsearch.kind": "continuation",
                        "hpsearch.continues": known,
                    }
                )
        return parent

    def open_child(self, parent: ParentRun, name: str, known_run_id: str | None, tags: Mapping[str, str]) -> ChildRun:
        """Return a trial's run: a new child of `parent`, or its run of an earlier try."""
        with tracking_errors(self.uri):
            run_id = self._find(known_run_id)
            if run_id:
                self.client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            else:
                kind = {"hpsearch.kind": "trial", MLFLOW_PARENT_RUN_ID: parent.run_id}
                run_id = self._create(name, {**kind, **tags})
            return ChildRun(self.client, run_id)

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(self.experiment_id, run_name=name, tags={**resolve_tags(), **tags})
        return str(run.info.run_id)

    def _find(self, run_id: str | None) -> str | None:
        try:
            return run_id if run_id and self.client.get_run(run_id).info.lifecycle_stage == "active" else None
        except MlflowException:
            return None

    def children(self, parent: ParentRun) -> list[Run]:
        """Return the trials' runs."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}'"
        return list(self.client.search_runs([self.experiment_id], query, max_results=50000))


class TrackedRun:
    """A run that is written to by its id, so that threads and processes cannot mix runs up."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id

    def tag(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        self.client.log_batch(self.run_id, tags=[RunTag(key, str(value)) for key, value in tags.items()])

    def params(self, params: Mapping[str, object]) -> None:
        """Log parameters, none of which may change afterwards."""
        rows = [Param(key, str(value)[:MAX_PARAM]) for key, value in params.items()]
        for start in range(0, len(rows), 100):
            self.client.log_batch(self.run_id, params=rows[start : start + 100])

    def metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log values at one step."""
        now = int(time.time() * 1000)
        self.client.log_batch(self.run_id, metrics=[Metric(k, v, now, step) for k, v in metrics.items()])

    def file(self, path: str, content: bytes) -> None:
        """Log an artifact at `path`, such as `figures/history.png`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / Path(path).name
            file.write_bytes(content)
            self.client.log_artifact(self.run_id, str(file), str(Path(path).parent))

    def end(self, status: str) -> None:
        """Set the final status: FINISHED, KILLED or FAILED."""
        self.client.set_terminated(self.run_id, status)


class ParentRun(TrackedRun):
    """The run of a study."""

    continued_by: ChildRun | None = None

    def end(self, status: str) -> None:
        """Set the final status, of the run that continued this one too."""
        super().end(status)
        if self.continued_by is not None:
            self.continued_by.end(status)

    def data(self, data: SearchData, source: str) -> None:
        """Log the data set as the run's input, once."""
        log_data(self, data, source, "search")


class ChildRun(TrackedRun):
    """The run of a trial; its epochs are written in batches, each exactly once."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        super().__init__(client, run_id)
        self._waiting: list[Metric] = []
        self._flushed = time.monotonic()
        self._n_written = max((m.step for m in client.get_metric_history(run_id, "time/epoch_s")), default=0)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the metrics of an epoch (counted from 1), unless an earlier try has written them already."""
        if epoch <= self._n_written:
            return
        now = int(time.time() * 1000)
        self._waiting += [Metric(key, value, now, epoch) for key, value in metrics.items()]
        if time.monotonic() - self._flushed > FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        for start in range(0, len(self._waiting), 1000):
            self.client.log_batch(self.run_id, metrics=self._waiting[start : start + 1000])
        self._waiting, self._flushed = [], time.monotonic()

    def end(self, status: str) -> None:
        """Write what waits and set the final status."""
        self.flush()
        super().end(status)


@dataclass(frozen=True)
class TrialName:
    """A trial's name for people: `#7 lr=0.0012 m=0.95 d=0.11`."""

    number: int
    values: Mapping[str, Any]

    def __str__(self) -> str:
        names = sorted(self.values, key=lambda name: list(SHORT).index(name) if name in SHORT else len(SHORT))
        shown = (f"{SHORT.get(name, name)}={_shown(self.values[name])}" for name in names)
        return " ".join([f"#{self.number}", *shown])


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def log_data(run: TrackedRun, data: SearchData, source: str, context: str) -> None:
    """Log a data set by its fingerprint as an input of `run`."""
    shape = "x".join(map(str, data.image_shape))
    profile = f'{{"n_train": {len(data.train.labels)}, "n_val": {len(data.val.labels)}, "n_classes": {data.n_classes}}}'
    schema = f'{{"mlflow_tensorspec": {{"features": "uint8/float32 ({shape})", "targets": "int ()"}}}}'
    entity = Dataset(data.name, data.fingerprint, "local", f'{{"uri": "{source}"}}', schema=schema, profile=profile)
    run.client.log_inputs(run.run_id, datasets=[DatasetInput(entity, [InputTag("mlflow.data.context", context)])])


def _check_reachable(uri: str) -> None:
    """Ask a server for a sign of life: MLflow's client itself would try for minutes."""
    if uri.startswith(("http://", "https://")):
        requests.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()
