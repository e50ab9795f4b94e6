"""From the spool to MLflow: entries become runs, batches and artifacts, each exactly once."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from hpsearch.tracking.spool_file import Away, Entry, chunks

TRIAL = "hpsearch.trial"
EPOCH = "time/epoch_s"  # each epoch writes it, so its steps tell which epochs have arrived
# What a store answers when asking again would change nothing; whatever else goes wrong may pass.
SCHEDULED = "SCHEDULED"  # the status of a paused trial's run, which has not ended
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
logger = logging.getLogger(__name__)


def check_reachable(uri: str) -> None:
    """Ask a server for a sign of life: MLflow's client itself would try for minutes."""
    if uri.startswith(("http://", "https://")):
        requests.get(f"{uri.rstrip('/')}/health", timeout=10).raise_for_status()


def find_child(
    client: MlflowClient, experiment_id: str, parent_run_id: str, number: int
) -> Run | None:
    """Return the run of the trial that is called `number`, or None."""
    query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and tags.`{TRIAL}` = '{number}'"
    found = client.search_runs(
        [experiment_id], query, max_results=1, order_by=["attributes.start_time ASC"]
    )
    return found[0] if found else None


class Delivery:
    """Receives a spool's entries for the MLflow store at `uri`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client, self._uri = client, uri

    def open(self, entry: Entry, is_mine: bool) -> Entry:
        """Find the trial's run, or make it; see `Receiver`."""
        with _away():
            check_reachable(self._uri)
            run = find_child(
                self._client, entry["experiment_id"], entry["parent_run_id"], entry["number"]
            )
            if run is None:
                tags = {
                    **resolve_tags(),
                    **entry["tags"],
                    MLFLOW_PARENT_RUN_ID: entry["parent_run_id"],
                }
                tags[TRIAL] = str(entry["number"])
                run = self._client.create_run(
                    entry["experiment_id"], entry["time"], tags, entry["name"]
                )
                return {"run_id": run.info.run_id}
            run_id, is_over = run.info.run_id, run.info.status == "FINISHED"
            if is_mine:
                self._client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            steps = [m.step for m in self._client.get_metric_history(run_id, EPOCH)]
            known = {"n_epochs": max(steps, default=0), "metrics": sorted(run.data.metrics)}
            return {"run_id": run_id, "is_over": is_over and not is_mine, **known}

    def take(self, state: Entry, entries: list[Entry]) -> None:
        """Write entries to their run."""
        run_id, client = state["run_id"], self._client
        with _away():
            check_reachable(self._uri)
            for rows in chunks(entries, "metrics", 1000):
                metrics = [Metric(*row) for row in rows if not _is_there(state, *row)]
                _unless_refused(run_id, client.log_batch, run_id, metrics=metrics)
            for rows in chunks(entries, "params", 100):
                _unless_refused(
                    run_id, client.log_batch, run_id, params=[Param(*row) for row in rows]
                )
            if state.get("is_over"):
                return
            for rows in chunks(entries, "tags", 100):
                _unless_refused(
                    run_id, client.log_batch, run_id, tags=[RunTag(*row) for row in rows]
                )
            for entry in entries:
                if entry["entry"] == "file":
                    _unless_refused(
                        run_id, client.log_artifact, run_id, entry["path"], entry["folder"]
                    )
                elif entry["entry"] == "end":
                    _unless_refused(run_id, self._end, run_id, entry["status"], entry["time"])

    def _end(self, run_id: str, status: str, end_time: int) -> None:
        if status == SCHEDULED:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_time)


def _is_there(state: Entry, key: str, _value: float, _time: int, step: int) -> bool:
    """An earlier try wrote the epochs before; what has no epoch was written once, at the end."""
    return step <= state.get("n_epochs", 0) if step else key in state.get("metrics", ())


@contextmanager
def _away() -> Iterator[None]:
    try:
        yield
    except (MlflowException, requests.RequestException, OSError) as error:
        raise Away from error


def _unless_refused(run_id: str, call: Any, *args: Any, **kwargs: Any) -> None:
    """Write, or say why it cannot be: what is refused for good must not hold up what comes after
    it.
    """
    try:
        call(*args, **kwargs)
    except MlflowException as error:
        if error.error_code not in REFUSALS:
            raise
        logger.warning("MLflow refused what was written to run %s: %s", run_id, error)
