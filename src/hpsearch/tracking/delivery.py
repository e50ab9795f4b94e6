"""Write the entries of a trial's spool file to MLflow, so that each of them arrives exactly once.

An entry opens the trial's run, adds metrics, parameters, tags or a file to it, or ends it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from hpsearch.errors import TrackingError
from hpsearch.secrets_in_text import without_secrets
from hpsearch.tracking.absent import is_answer
from hpsearch.tracking.spool_file import Away, Entry, State
from hpsearch.tracking.store import Store

TRIAL = "hpsearch.trial"
_Row = Metric | Param | RunTag


def context_tags() -> dict[str, str]:
    """Return MLflow's tags of this process's user and code, without secrets.

    The address of a git remote may hold a token.
    """
    return {key: without_secrets(str(value)) for key, value in resolve_tags().items()}


class Delivery:
    """Writes a spool's entries to an MLflow store; see `Receiver`.

    Args:
        client: A client of the store.
        store: The store.
        refused: The file that gets what MLflow refuses for good, one entry a line.

    Attributes:
        n_refused: How many entries MLflow has refused for good.
        refused: The file that holds them.
    """

    def __init__(
        self,
        client: MlflowClient,
        store: Store,
        refused: Path,
    ) -> None:
        self._client = client
        self._store = store
        self.refused = refused
        self.n_refused = 0

    def open(self, entry: Entry, is_mine: bool) -> State:
        """Find or create the trial's run, and return its state."""
        with _failures_as_away():
            self._store.check_reachable()
            run = self.find(entry["experiment_id"], entry["parent_run_id"], entry["number"])
            if run is None:
                return self._create(entry)
            return self._reopen(run, is_mine)

    def find(
        self,
        experiment_id: str,
        parent_run_id: str,
        number: int,
    ) -> Run | None:
        """Return the run of trial `number`, or None where there is none."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent_run_id}' and tags.`{TRIAL}` = '{number}'"
        order = ["attributes.start_time ASC"]
        found = self._client.search_runs(
            [experiment_id],
            query,
            max_results=1,
            order_by=order,
        )
        return next(iter(found), None)

    def _create(self, entry: Entry) -> State:
        tags = {
            **context_tags(),
            **entry["tags"],
            MLFLOW_PARENT_RUN_ID: entry["parent_run_id"],
            TRIAL: str(entry["number"]),
        }
        run = self._client.create_run(
            entry["experiment_id"],
            entry["time"],
            tags,
            entry["name"],
        )
        return {"run_id": run.info.run_id}

    def _reopen(self, run: Run, is_mine: bool) -> State:
        run_id = run.info.run_id
        is_finished = run.info.status == "FINISHED"
        if is_mine:
            self._client.update_run(run_id, status="RUNNING")
        # Each epoch writes this metric, so its steps tell which epochs have arrived.
        epochs = self._client.get_metric_history(run_id, "time/epoch_s")
        steps = [metric.step for metric in epochs]
        return {
            "run_id": run_id,
            "is_over": is_finished and not is_mine,
            "n_epochs": max(steps, default=0),
            "metrics": sorted(run.data.metrics),
        }

    def take(self, state: State, entries: list[Entry]) -> None:
        """Write entries to their run; a run that is over gets no more tags, files and ends."""
        with _failures_as_away():
            self._store.check_reachable()
            run_id = state["run_id"]
            missing = []
            for row in _rows(entries, "metrics"):
                metric = Metric(*row)
                if not _has_arrived(state, metric):
                    missing.append(metric)
            self._log(run_id, "metrics", missing, 1000)
            params = [Param(*row) for row in _rows(entries, "params")]
            self._log(run_id, "params", params, 100)
            if state.get("is_over"):
                return
            tags = [RunTag(*row) for row in _rows(entries, "tags")]
            self._log(run_id, "tags", tags, 100)
            for entry in entries:
                with self._refusals_kept(run_id, entry):
                    self._finish(run_id, entry)

    def _log(
        self,
        run_id: str,
        kind: str,
        rows: Sequence[_Row],
        size: int,
    ) -> None:
        """Log rows of one kind, `size` at a time, which is the most that MLflow takes.

        MLflow refuses a batch as a whole. Then each row is sent alone, so that the others arrive.
        """
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            try:
                self._log_batch(run_id, kind, some)
            except MlflowException as error:
                if not is_answer(error):
                    raise
                for row in some:
                    with self._refusals_kept(run_id, {"kind": kind, **dict(row)}):
                        self._log_batch(run_id, kind, [row])

    def _log_batch(
        self,
        run_id: str,
        kind: str,
        rows: Sequence[_Row],
    ) -> None:
        batch: dict[str, Any] = {kind: rows}
        self._client.log_batch(run_id, **batch)

    @contextmanager
    def _refusals_kept(self, run_id: str, entry: Mapping[str, object]) -> Iterator[None]:
        """Write what MLflow refuses for good to a file, so that it holds up no other entry."""
        try:
            yield
        except MlflowException as error:
            if not is_answer(error):
                raise
            self.n_refused += 1
            logger = logging.getLogger(__name__)
            logger.warning("MLflow refused an entry of run %s: %s", run_id, error)
            line = json.dumps({"run_id": run_id, "because": str(error), **entry}, default=str)
            with suppress(OSError):  # a full disk; the log has it
                self.refused.parent.mkdir(parents=True, exist_ok=True)
                with open(self.refused, "a", encoding="utf-8") as file:
                    file.write(line + "\n")

    def _finish(self, run_id: str, entry: Entry) -> None:
        """Log the file of an entry, or end its run."""
        if entry["entry"] == "file":
            self._client.log_artifact(run_id, entry["path"], entry["folder"])
        elif entry["entry"] == "end":
            status = entry["status"]
            if status == "SCHEDULED":  # the run of a paused trial has not ended
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status, entry["time"])


def _rows(entries: list[Entry], kind: str) -> Iterator[Iterable[Any]]:
    """Yield the rows of all entries of one kind."""
    for entry in entries:
        if entry["entry"] == kind:
            rows = entry["rows"]
            if isinstance(rows, Mapping):
                yield from rows.items()
            else:
                yield from rows


def _has_arrived(state: State, metric: Metric) -> bool:
    """Return whether an earlier try has written a metric.

    Metrics without an epoch have step 0; a trial writes them once, at its end.
    """
    if metric.step:
        n_epochs = state.get("n_epochs", 0)
        return bool(metric.step <= n_epochs)
    return metric.key in state.get("metrics", ())


@contextmanager
def _failures_as_away() -> Iterator[None]:
    """Raise Away in place of an error of MLflow or of the network."""
    try:
        yield
    except (MlflowException, TrackingError, OSError) as error:
        raise Away from error
