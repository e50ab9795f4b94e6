"""Open the MLflow runs of a search: a parent run for the study and a child run for each trial.

No password is written to MLflow or shown in an error message.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME, MLFLOW_RUN_NOTE
from mlflow.utils.uri import is_local_uri

from hpsearch import command_form
from hpsearch.disks import check_folder
from hpsearch.errors import TrackingError
from hpsearch.models.moved_names import with_current_names
from hpsearch.secrets_in_text import without_secrets
from hpsearch.tracking.absent import unless_absent
from hpsearch.tracking.client import StoreClient
from hpsearch.tracking.delivery import Delivery, context_tags
from hpsearch.tracking.runs import ChildRun, ParentRun, TrackedRun, now_ms
from hpsearch.tracking.spool import Spool
from hpsearch.tracking.spool_file import Entry
from hpsearch.tracking.store import Store


class Tracking:
    """A client of one MLflow store and one of its experiments.

    Args:
        uri: The tracking URI; None takes MLFLOW_TRACKING_URI, or `mlflow.db` in the current folder.
        experiment: The name of an experiment; None takes MLFLOW_EXPERIMENT_NAME, or Default. Under
            `mlflow run` it is the experiment that `mlflow run` has chosen.
        spool: The folder in which the metrics and files of trials wait to be sent.
        flush_every_s: How long they wait there, to be sent together, in seconds.
        patience_s: How long the search waits for MLflow where it cannot continue without an answer,
            in seconds.
        must_exist: Whether a database file that does not exist is an error, as it is where a job
            reads what a search has left. Otherwise MLflow makes the file.
    """

    def __init__(
        self,
        uri: str | None,
        experiment: str | None,
        spool: str,
        flush_every_s: float,
        patience_s: float,
        *,
        must_exist: bool = False,
    ) -> None:
        self.store = Store(uri, experiment)
        self.uri = self.store.uri
        folder = Path(spool).absolute()
        if must_exist:
            self.store.check_exists()
        # MLflow's own client would try for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
        self.store.check(10.0, patience_s, logging.getLogger(__name__).warning)
        with self.store.errors():
            self.client: MlflowClient = StoreClient(self.store, patience_s)
            # The spool needs no sentences, and waits by itself.
            plain = MlflowClient(self.uri, registry_uri=self.uri)
            self._delivery = Delivery(plain, self.store, folder / "refused.jsonl")
            # MLflow's fluent calls must not write to this run by chance.
            self.project_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
            self._hide_secrets_of_project()
            self.experiment_id = self._experiment_id()
            self._show_as_training()
        self.spool = Spool(folder, self._delivery, flush_every_s)
        self.patience_s = patience_s
        # `models:/...` then means this store, here and in child processes.
        mlflow.set_tracking_uri(self.uri)
        mlflow.set_registry_uri(self.uri)
        os.environ["MLFLOW_EXPERIMENT_ID"] = self.experiment_id

    def _experiment_id(self) -> str:
        if self.project_run_id:
            run = self.client.get_run(self.project_run_id)
            return str(run.info.experiment_id)
        if self.store.experiment_id is not None:
            return self.store.experiment_id
        name = self.store.experiment
        found = self.client.get_experiment_by_name(name)
        if found:
            return str(found.experiment_id)
        return str(self.client.create_experiment(name))

    def _hide_secrets_of_project(self) -> None:
        """Hide the secrets in the tags of the run of `mlflow run`, such as that of a git remote."""
        if self.project_run_id is None:
            return
        run = self.client.get_run(self.project_run_id)
        for key, value in run.data.tags.items():
            shown = without_secrets(value)
            if shown != value:
                self.client.set_tag(self.project_run_id, key, shown)

    def check_room(self) -> None:
        """Raise ConfigError where the spool or the experiment's artifacts have no room."""
        check_folder(self.spool.folder, "tracking.spool=FOLDER names another one")
        location = self.client.get_experiment(self.experiment_id).artifact_location
        if is_local_uri(location):  # type: ignore[no-untyped-call]
            folder = Path(local_file_uri_to_path(location))  # type: ignore[no-untyped-call]
            check_folder(folder, "tracking.experiment=NAME starts an experiment elsewhere")

    def _show_as_training(self) -> None:
        """Tell MLflow's UI that the experiment trains models.

        Without this tag the UI takes it for an experiment with language models, and hides its runs.
        """
        kind = "mlflow.experimentKind"
        experiment = self.client.get_experiment(self.experiment_id)
        self.store.check_active(self.experiment_id, experiment.lifecycle_stage)
        if kind not in experiment.tags:
            self.client.set_experiment_tag(self.experiment_id, kind, "custom_model_development")

    def open_parent(
        self,
        name: str,
        known_run_id: str | None,
        tags: Mapping[str, str],
    ) -> ParentRun:
        """Return the parent run of a study.

        It is the known run if there is one, else the run of `mlflow run`, else a new run. Where
        the study has a parent run and `mlflow run` brings another run, the other run is tagged as a
        continuation of the parent run.

        Args:
            name: The name of the study.
            known_run_id: The parent run that the study has recorded, if any.
            tags: More tags of the run.

        Raises:
            TrackingError: The store cannot be used, or has not the run that the study has recorded.
        """
        with self.store.errors():
            known = self._find(known_run_id)
            if known_run_id is not None and known is None:
                raise self._lost(name, known_run_id)
            run_id = known or self.project_run_id or self._create(name, {})
            parent = ParentRun(self.client, run_id)
            all_tags = {"hpsearch.kind": "study", **tags, MLFLOW_RUN_NAME: name}
            parent.tag(all_tags)
            self._set_running(run_id)
            if self.project_run_id and known not in {None, self.project_run_id}:
                parent.continued_by = TrackedRun(self.client, self.project_run_id)
                note = f"Continued study {name}; its parent run is `{known}`."
                parent.continued_by.tag(
                    {
                        MLFLOW_RUN_NAME: f"{name} (continued)",
                        MLFLOW_RUN_NOTE: note,
                        "hpsearch.kind": "continuation",
                        "hpsearch.continues": known,
                    }
                )
        return parent

    def open_child(
        self,
        parent: ParentRun,
        number: int,
        is_retry: bool,
    ) -> ChildRun:
        """Return the run of trial `number`, a child of `parent`; a retry takes its earlier run.

        MLflow is not asked. The run is found or created when its spool is sent.
        """
        key = f"{parent.run_id}-{number}"
        before = None
        if is_retry:
            before = key
        path = ("experiments", self.experiment_id, "runs", parent.run_id)
        study = self.link("its study", *path)
        opening: Entry = {
            "experiment_id": self.experiment_id,
            "parent_run_id": parent.run_id,
            "number": number,
            "name": f"#{number}",
            "tags": {
                "hpsearch.kind": "trial",
                MLFLOW_RUN_NOTE: f"Trial {number} of {study}.",
            },
        }
        return ChildRun(
            self.client,
            self.spool,
            f"{key}-{now_ms()}",
            opening,
            before,
            patience_s=self.patience_s,
        )

    def look(self, run_id: str) -> str:
        """Return what shows a run: a link to an MLflow server, else the command that starts one."""
        return command_form.look(self.uri, self.experiment_id, run_id)

    def place(self, run_id: str, file: str) -> str:
        """Return where a person finds an artifact of a run.

        It is the path of a file on this machine, else a link to the server that shows it, else the
        address in the artifact store.
        """
        folder = str(self.client.get_run(run_id).info.artifact_uri)
        if is_local_uri(folder):  # type: ignore[no-untyped-call]
            path = Path(local_file_uri_to_path(folder)) / file  # type: ignore[no-untyped-call]
            if path.exists():
                return str(path)
        if self.uri.startswith(("http://", "https://")):
            return command_form.look(self.uri, self.experiment_id, run_id, f"artifacts/{file}")
        return f"{without_secrets(folder)}/{file}"

    @staticmethod
    def link(text: str, *path: str) -> str:
        """Return a Markdown link to a page of the MLflow UI, wherever the UI is served.

        The link opens the UI for training; MLflow has another one for GenAI.
        """
        page = "/".join(path)
        return f"[{text}](#/{page}?workflowType=machine_learning)"

    def open_cell(
        self,
        parent: ParentRun,
        name: str,
        known_run_id: str | None,
        tags: Mapping[str, str],
    ) -> TrackedRun:
        """Return a child run of `parent` that is not a trial: the known run, else a new run."""
        with self.store.errors():
            run_id = self._find(known_run_id)
            if run_id is None:
                all_tags = {MLFLOW_PARENT_RUN_ID: parent.run_id, **tags}
                run_id = self._create(name, all_tags)
            self._set_running(run_id)
            return TrackedRun(self.client, run_id)

    def find_child(self, parent: ParentRun, number: int) -> Run | None:
        """Return the run of trial `number`, or None where there is none."""
        return self._delivery.find(self.experiment_id, parent.run_id, number)

    def recorded_config(self, run_id: str) -> dict[str, Any] | None:
        """Return the composed configuration that a search has written to the run of its study.

        Returns:
            None where MLflow has no such run, or the run has no record of it.
        """
        file = "config.yaml"
        with self.store.errors():
            artifacts = unless_absent(lambda: self.client.list_artifacts(run_id))
            if file not in [artifact.path for artifact in artifacts or ()]:
                return None
            with tempfile.TemporaryDirectory() as folder:
                path = self.client.download_artifacts(run_id, file, folder)
                text = Path(path).read_text(encoding="utf-8")
        return dict(with_current_names(yaml.safe_load(text)))

    def config_of_study(self, name: str, run_id: str) -> dict[str, Any]:
        """Return the composed configuration that the search of a study has recorded.

        Args:
            name: The study.
            run_id: Its run.

        Raises:
            TrackingError: The MLflow store has no record of it.
        """
        config = self.recorded_config(run_id)
        if config is None:
            raise TrackingError(
                f"The MLflow store {without_secrets(self.uri)} has no record of study {name} (run "
                f"{run_id}); give the store in which it was searched, tracking.uri=URI or "
                "MLFLOW_TRACKING_URI."
            )
        return config

    @property
    def refusals(self) -> str:
        """A sentence on what MLflow has refused for good; empty where it has taken all."""
        n_refused = self._delivery.n_refused
        if not n_refused:
            return ""
        file = self._delivery.refused
        return (
            f"MLflow has refused {n_refused} entries for good; {file} holds them with the reasons."
        )

    def wait(self) -> bool:
        """Wait until MLflow answers, but at most `patience_s` seconds; return whether it has.

        Where it has not, `patience_s` becomes 0, so that nothing waits for MLflow again.
        """
        deadline = time.monotonic() + self.patience_s
        while True:
            with suppress(TrackingError):
                self.store.check_reachable()
                return True
            if time.monotonic() > deadline:
                self.patience_s = 0.0
                return False
            time.sleep(1.0)

    def close(self, timeout_s: float) -> bool:
        """Wait up to `timeout_s` seconds for the spool and stop it; return whether it is empty."""
        return self.spool.close(timeout_s)

    def open_run(
        self,
        name: str,
        kind: str,
        tags: Mapping[str, str],
    ) -> TrackedRun:
        """Return the run of a job without trials: the run of `mlflow run`, else a new run."""
        with self.store.errors():
            run_id = self.project_run_id or self._create(name, {})
            run = TrackedRun(self.client, run_id)
            all_tags = {**tags, MLFLOW_RUN_NAME: name, "hpsearch.kind": kind}
            run.tag(all_tags)
            return run

    def _create(self, name: str, tags: Mapping[str, str]) -> str:
        all_tags = {**context_tags(), **tags}
        run = self.client.create_run(self.experiment_id, tags=all_tags, run_name=name)
        return str(run.info.run_id)

    def _find(self, run_id: str | None) -> str | None:
        """Return the id of a run that exists and has not been deleted, else None."""
        if not run_id:
            return None
        run = unless_absent(lambda: self.client.get_run(run_id))
        if run is None or run.info.lifecycle_stage != "active":
            return None
        return run_id

    def _lost(self, study: str, run_id: str) -> TrackingError:
        """Return the error that the run of a study is deleted, or is in another store.

        The runs of its trials stand below it, so a new run could not show nor register them.
        """
        if unless_absent(lambda: self.client.get_run(run_id)) is None:
            return TrackingError(
                f"Study {study} has its runs in another MLflow store than "
                f"{without_secrets(self.uri)}, which has no run {run_id}; give that store, "
                "tracking.uri=URI or MLFLOW_TRACKING_URI, or start another study, study.name=NAME."
            )
        uri = command_form.store_in_shell(self.uri)
        return TrackingError(
            f"The MLflow run {run_id} of study {study} is deleted; restore it with: "
            f"MLFLOW_TRACKING_URI={uri} mlflow runs restore --run-id {run_id}, or start another "
            "study, study.name=NAME."
        )

    def _set_running(self, run_id: str) -> None:
        self.client.update_run(run_id, status="RUNNING")

    def experiment_of(self, run: TrackedRun) -> str:
        """Return the id of the experiment that a run is in."""
        found = self.client.get_run(run.run_id)
        return str(found.info.experiment_id)

    def children(self, parent: ParentRun) -> list[Run]:
        """Return the runs of the trials of a study."""
        query = f"tags.`{MLFLOW_PARENT_RUN_ID}` = '{parent.run_id}'"
        experiments = [self.experiment_of(parent)]
        found = self.client.search_runs(experiments, query, max_results=50000)
        return list(found)
