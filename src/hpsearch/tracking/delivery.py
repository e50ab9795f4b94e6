"""Write the entries of a trial's spool file to MLflow, so that each of them arrives exactly once.

An entry opens the trial's run, adds metrics, parameters, tags or a file to it, or ends it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from hpsearch.tracking.spool_file import Away, Entry, State

TRIAL = "hpsearch.trial"


def check_reachable(uri: str) -> None:
    """Raise an error where the server at `uri` does not answer within 10 seconds.

    MLflow's own client would try for minutes. A database is not asked.
    """
    if uri.startswith(("http://", "https://")):
        response = requests.get(f"{uri.rstrip('/')}/health", timeout=10)
        response.raise_for_status()


def find_child(
    client: MlflowClient, experiment_id: str, parent_run_id: str, number: int
) -> Run | None:
    """Return the run of trial `number`, or None where there is none."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and tags.`{TRIAL}` = '{number}'"
    found = client.search_runs(
        [experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"]
    )
    if not found:
        return None
    return found[0]


class Delivery:
    """Writes a spool's entries to the MLflow store at `uri`; see `Receiver`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri

    def open(self, entry: Entry, is_mine: bool) -> State:
        """Find or create the trial's run, and return its state."""
        with _failures_as_away():
            check_reachable(self._uri)
            run = find_child(
                self._client,
                entry["experiment_id"],
                entry["parent_run_id"],
                entry["number"],
            )
            if run is None:
                return self._create(entry)
            return self._reopen(run, is_mine)

    def _create(self, entry: Entry) -> State:
        tags = {
            **resolve_tags(),
            **entry["tags"],
            MLFLOW_PARENT_RUN_ID: entry["parent_run_id"],
            TRIAL: str(entry["number"]),
        }
        experiment_id = entry["experiment_id"]
        run = self._client.create_run(experiment_id, entry["time"], tags, entry["name"])
        return {"run_id": run.info.run_id}

    def _reopen(self, run: Run, is_mine: bool) -> State:
        run_id = run.info.run_id
        is_finished = run.info.status == "FINISHED"
        if is_mine:
            self._client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
        # Each epoch writes this metric, so its steps tell which epochs have arrived.
        n_epochs = 0
        for metric in self._client.get_metric_history(run_id, "time/epoch_s"):
            n_epochs = max(n_epochs, metric.step)
        return {
            "run_id": run_id,
            "is_over": is_finished and not is_mine,
            "n_epochs": n_epochs,
            "metrics": sorted(run.data.metrics),
        }

    def take(self, state: State, entries: list[Entry]) -> None:
        """Write entries to their run; a run that is over gets no more tags, files and ends."""
        with _failures_as_away():
            check_reachable(self._uri)
            run_id = state["run_id"]
            self._log_metrics(state, entries)
            for rows in _chunks(entries, "params", 100):
                params = [Param(*row) for row in rows]
                with _refusals_logged(run_id):
                    self._client.log_batch(run_id, params=params)
            if state.get("is_over"):
                return
            for rows in _chunks(entries, "tags", 100):
                tags = [RunTag(*row) for row in rows]
                with _refusals_logged(run_id):
                    self._client.log_batch(run_id, tags=tags)
            for entry in entries:
                if entry["entry"] == "file":
                    with _refusals_logged(run_id):
                        self._client.log_artifact(run_id, entry["path"], entry["folder"])
                elif entry["entry"] == "end":
                    with _refusals_logged(run_id):
                        self._end(run_id, entry)

    def _log_metrics(self, state: State, entries: list[Entry]) -> None:
        run_id = state["run_id"]
        for rows in _chunks(entries, "metrics", 1000):
            metrics = []
            for key, value, time, step in rows:
                if not _has_arrived(state, key, step):
                    metrics.append(Metric(key, value, time, step))
            with _refusals_logged(run_id):
                self._client.log_batch(run_id, metrics=metrics)

    def _end(self, run_id: str, entry: Entry) -> None:
        status = entry["status"]
        if status == "SCHEDULED":  # the run of a paused trial has not ended
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, entry["time"])


def _chunks(entries: list[Entry], kind: str, size: int) -> Iterator[list[Any]]:
    """Yield the rows of all entries of one kind, `size` at a time."""
    rows: list[Any] = []
    for entry in entries:
        if entry["entry"] != kind:
            continue
        if isinstance(entry["rows"], Mapping):
            rows.extend(entry["rows"].items())
        else:
            rows.extend(entry["rows"])
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _has_arrived(state: State, key: str, step: int) -> bool:
    """Return whether an earlier try has written the row of a metric at a step.

    Metrics without an epoch have step 0; a trial writes them once, at its end.
    """
    if step:
        return step <= state.get("n_epochs", 0)
    return key in state.get("metrics", ())


@contextmanager
def _failures_as_away() -> Iterator[None]:
    """Raise Away in place of an error of MLflow or of the network."""
    try:
        yield
    except (MlflowException, requests.RequestException, OSError) as error:
        raise Away from error


@contextmanager
def _refusals_logged(run_id: str) -> Iterator[None]:
    """Log what MLflow refuses for good, so that it does not hold up the entries after it."""
    try:
        yield
    except MlflowException as error:
        # A store gives these answers again when it is asked again. Any other failure may pass.
        if error.error_code not in {
            "INVALID_PARAMETER_VALUE",
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_STATE",
            "BAD_REQUEST",
        }:
            raise
        logger = logging.getLogger(__name__)
        logger.warning("MLflow refused an entry of run %s: %s", run_id, error)
