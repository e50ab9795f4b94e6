"""MLflow: a parent run for the study, a child run for each trial, no secrets."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE

from hpsearch.errors import TrackingError
from hpsearch.study.storage import without_password
from hpsearch.tracking.delivery import Delivery, check_reachable, find_child
from hpsearch.tracking.runs import ChildRun, ParentRun, TrackedRun, now_ms
from hpsearch.tracking.spool import Spool

KIND, TRAINING = "mlflow.experimentKind", "workflowType=machine_learning"


@contextmanager
def tracking_errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence that names the store."""
    try:
        yield
    except (MlflowException, OSError) as error:
        first = re.split(r"[.:] (?=[A-Z])", str(error).strip().splitlines()[0])[0].rstrip(".")
        cause = (
            "nothing answers there"
            if isinstance(error, requests.ConnectionError)
            else without_password(first)
        )
        raise TrackingError(
            f"The MLflow store {without_password(uri)} cannot be used ({cause}); "
            "MLFLOW_TRACKING_URI must name a running server or a database file that can be written."
        ) from error


class Tracking:
    """A client of one MLflow store and one of its experiments.

    Args:
        uri: The tracking URI; None takes MLFLOW_TRACKING_URI, or `mlflow.db` in the current folder.
        experiment: A name; None takes MLFLOW_EXPERIMENT_NAME, or Default. `mlflow run` has chosen
            already.
        spool: The folder in which what trials write waits to be sent.
        flush_every_s: How long it waits there, to be sent together.
        patience_s: How long an answer of MLflow's is waited for where the search cannot go on
            without it.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str | None,
        spool: str,
        flush_every_s: float,
        patience_s: float,
    ) -> None:
        self.uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # we try again ourselves
        with tracking_errors(self.uri):
            check_reachable(self.uri)
            self.client = MlflowClient(self.uri, registry_uri=self.uri)
            self.project_run_id = os.environ.pop(
                "MLFLOW_RUN_ID", None
            )  # fluent calls must not adopt it by chance
            self.experiment_id = self._experiment_id(experiment)
            self._show_as_training()
        self.spool = Spool(Path(spool).absolute(), Delivery(self.client, self.uri), flush_every_s)
        self.patience_s = patience_s
        mlflow.set_tracking_uri(
            self.uri
        )  # whatever loads `models:/…` means this store, here and in child processes
        mlflow.set_registry_uri(self.uri)
        os.environ["MLFLOW_EXPERIMENT_ID"] = self.experiment_id

    def _experiment_id(self, given: str | None) -> str:
        if self.project_run_id:
            return str(self.client.get_run(self.project_run_id).info.experiment_id)
        if not given and "MLFLOW_EXPERIMENT_ID" in os.environ:
            return os.environ["MLFLOW_EXPERIMENT_ID"]
        name = given or os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
        found = self.client.get_experiment_by_name(name)
        return str(found.experiment_id if found else self.client.create_experiment(name))

    def _show_as_training(self) -> None:
        """MLflow's UI takes an experiment for one of language models, and hides its runs, unless
        told otherwise.
        """
        if KIND not in self.client.get_experiment(self.experiment_id).tags:
            self.client.set_experiment_tag(self.experiment_id, KIND, "custom_model_development")

    def open_parent(
        self, name: str, known_run_id: str | None, tags: Mapping[str, str]
    ) -> ParentRun:
        """Return the study's parent run: the known one, else the run of `mlflow run`, else a new
        one.

        Where the study has its parent already and `mlflow run` brought another run, that one says
        which it continues.
        """
        with tracking_errors(self.uri):
            known = self._find(known_run_id)
            run_id = known or self.project_run_id or self._create(name, {})
            parent = ParentRun(self.client, run_id)
            parent.tag({"hpsearch.kind": "study", **tags, MLFLOW_RUN_NAME: name})
            self.client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            if known and self.project_run_id and known != self.project_run_id:
                note = f"Continued study {name}; its parent run is `{known}`."
                parent.continued_by = TrackedRun(self.client, self.project_run_id)
                parent.continued_by.tag(
                    {
                        MLFLOW_RUN_NAME: f"{name} (continued)",
                        MLFLOW_RUN_NOTE: note,
                        "hpsearch.kind": "continuation",
                        "hpsearch.continues": known,
                    }
                )
        return parent

    def open_child(self, parent: ParentRun, number: int, is_retry: bool) -> ChildRun:
        """Return the run of the trial that is called `number`: a child of `parent`, new or from an
        earlier try.

        MLflow is not asked; the run is found or made when its spool is sent.
        """
        key = f"{parent.run_id}-{number}"
        opening = {
            "experiment_id": self.experiment_id,
            "parent_run_id": parent.run_id,
            "number": number,
        }
        note = f"Trial {number} of [its study](#/experiments/{self.experiment_id}/runs/{parent.run_id}?{TRAINING})."
        opening |= {"name": f"#{number}", "tags": {"hpsearch.kind": "trial", MLFLOW_RUN_NOTE: note}}
        before = key if is_retry else None
        return ChildRun(
            self.client,
            spool=self.spool,
            key=f"{key}-{now_ms()}",
            opening=opening,
            before=before,
            patience_s=self.patience_s,
        )

    def open_cell(
        self, parent: ParentRun, name: str, known_run_id: str | None, tags: Mapping[str, str]
    ) -> TrackedRun:
        """Return a child run of `parent` that is no trial, written to at once: the known one, else
        a new one.
        """
        with tracking_errors(self.uri):
            run_id = self._find(known_run_id) or self._create(
                name, {MLFLOW_PARENT_RUN_ID: parent.run_id, **tags}
            )
            self.client.update_run(run_id, status=RunStatus.to_string(RunStatus.RUNNING))
            return TrackedRun(self.client, run_id)

    def find_child(self, parent: ParentRun, number: int) -> Run | None:
        """Return the run of the trial that is called `number`, or None."""
        return find_child(self.client, self.experiment_id, parent.run_id, number)

    def wait(self) -> bool:
        """Wait until MLflow answers; return whether it has within `patience_s` seconds, which are
        then spent.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            with suppress(requests.RequestException):
                check_reachable(self.uri)
                return True
            if time.monotonic() > deadline:
                self.patience_s = 0.0
                return False
            time.sleep(1.0)

    def close(self, timeout_s: float) -> bool:
        """Wait until all that waits has arrived, and stop sending; return whether it has after
        `timeout_s` seconds.
        """
        return self.spool.close(timeout_s)

    def open_run(self, name: str, kind: str, tags: Mapping[str, str]) -> TrackedRun:
        """Return the run of a job that has no trials: that of `mlflow run`, else a new one."""
        with tracking_errors(self.uri):
            run = TrackedRun(self.client, self.project_run_id or self._create(name, {}))
            run.tag({**tags, MLFLOW_RUN_NAME: name, "hpsearch.kind": kind})
            return run

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        run = self.client.create_run(
            self.experiment_id, run_name=name, tags={**resolve_tags(), **tags}
        )
        return str(run.info.run_id)

    def _find(self, run_id: str | None) -> str | None:
        try:
            return (
                run_id
                if run_id and self.client.get_run(run_id).info.lifecycle_stage == "active"
                else None
            )
        except MlflowException:
            return None

    def experiment_of(self, run: TrackedRun) -> str:
        """Return the id of the experiment that a run is in."""
        return str(self.client.get_run(run.run_id).info.experiment_id)

    def children(self, parent: ParentRun) -> list[Run]:
        """Return the trials' runs."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}'"
        return list(self.client.search_runs([self.experiment_of(parent)], query, max_results=50000))
