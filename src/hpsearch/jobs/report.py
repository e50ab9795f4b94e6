"""The report job: read a study that has been searched, and write what it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from mlflow.exceptions import MlflowException
from rich.console import Console

from hpsearch.errors import ConfigError, TrackingError
from hpsearch.models.moved_names import with_current_names
from hpsearch.study.direction import Direction
from hpsearch.study.promotion import PausableStudy
from hpsearch.study.storage import SharedStorage, without_password
from hpsearch.study.study import check_known
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.description import PAGE
from hpsearch.study_report.record import record
from hpsearch.study_report.searched import Searched
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking

Rebuild = Callable[[Mapping[str, Any]], Any]


@dataclass(frozen=True)
class Reported:
    """What came out: the page, and what it advises."""

    searched: Searched
    advice: Advice
    path: str
    run_id: str

    def show(self, console: Console) -> None:
        """Print the advice, and where the page is."""
        said = (self.advice.outlook.text, f"{self.advice.next_step}  {self.advice.command}")
        uri = without_password(self.searched.tracking_uri)
        for line in (
            f"Study {self.searched.name}: {self.searched.outcome.counts()}.",
            *said,
            f"The page is {self.path}, and {PAGE} among the artifacts of run {self.run_id}.",
            f"Look at it:  mlflow ui --backend-store-uri {uri}",
        ):
            console.print(line, soft_wrap=True, markup=False)

    def facts(self) -> dict[str, Any]:
        """Return the same as plain data."""
        said = {
            "outlook": self.advice.outlook.text,
            "next_step": self.advice.next_step,
            "command": self.advice.command,
        }
        store = {
            "run_id": self.run_id,
            "tracking_uri": without_password(self.searched.tracking_uri),
        }
        return {"study": self.searched.name, **said, "page": self.path, **store}


@dataclass(frozen=True)
class Report:
    """Write what a study shows: one page, and the descriptions of its runs.

    Attributes:
        study: Its name.
        path: Where the page is written beside MLflow.
        storage: Where the study is.
        tracking: Where its runs are.
    """

    study: str
    path: str
    storage: Callable[[], SharedStorage]
    tracking: Callable[[], Tracking]

    def run(self, rebuild: Rebuild) -> Reported:
        """Write it.

        Args:
            rebuild: Makes a part of the search, such as its pruner, of its recorded settings.

        Raises:
            UserError: There is no such study, or no record of its search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = self.storage()
        check_known(self.study, storage)
        study = optuna.load_study(study_name=self.study, storage=storage)
        parent_run_id = study.user_attrs.get("parent_run_id")
        if parent_run_id is None:
            raise ConfigError(
                f"Study {self.study} has no MLflow run yet; the command that started it goes on "
                f"with it."
            )
        tracking = self.tracking()
        try:
            config = _recorded(tracking, parent_run_id, self.study)
            searched = Searched(
                name=self.study,
                study=PausableStudy(
                    self.study, storage, optuna.samplers.RandomSampler(), rebuild(config["pruner"])
                ),
                space=rebuild(config["space"]),
                monitor=config["training"]["monitor"],
                direction=Direction.of(study),
                config=config,
                tracking_uri=tracking.uri,
            )
            advice, page = record(searched, tracking, ParentRun(tracking.client, parent_run_id))
        finally:
            tracking.close(tracking.patience_s)
        Path(self.path).write_text(page, encoding="utf-8")
        return Reported(searched, advice, self.path, parent_run_id)


def _recorded(tracking: Tracking, parent_run_id: str, name: str) -> dict[str, Any]:
    """Return the composed configuration that the search has recorded."""
    try:
        text = tracking.client.download_artifacts(parent_run_id, "config.yaml")
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"The MLflow store {without_password(tracking.uri)} has no record of study {name} (run "
            f"{parent_run_id}); "
            "give the store in which it was searched, tracking.uri=URI or MLFLOW_TRACKING_URI."
        ) from error
    with open(text, encoding="utf-8") as file:
        found: dict[str, Any] = with_current_names(yaml.safe_load(file))
    return found
