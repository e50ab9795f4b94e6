"""The report job: write a page on a study that was searched, and describe its runs in MLflow.

The study and the recorded configuration of its search are read again; nothing is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna

from hpsearch.errors import ConfigError
from hpsearch.jobs.composed import Plain
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.direction import Direction
from hpsearch.study.pruners import PausableStudy
from hpsearch.study.storage import SharedStorage, to_read
from hpsearch.study.study import check_known
from hpsearch.study_report.advice import Advice
from hpsearch.study_report.description import Descriptions
from hpsearch.study_report.record import record
from hpsearch.study_report.searched import Searched
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Report:
    """Write a page on a study, and the descriptions of its runs.

    Attributes:
        study: The name of the study.
        path: The file to which the page is written, beside the copy in MLflow.
        storage: Returns the storage of the study.
        tracking: Returns the MLflow store of its runs.
    """

    study: str
    path: str
    storage: partial[SharedStorage]
    tracking: Callable[..., Tracking]

    def run(self, rebuild: Callable[[Plain], Any]) -> _Reported:
        """Write the page and the descriptions.

        Args:
            rebuild: Returns a part of the search, such as its pruner, for its recorded settings.

        Raises:
            UserError: There is no such study, or no record of its search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = to_read(self.storage)
        check_known(self.study, storage)
        study = optuna.load_study(study_name=self.study, storage=storage)
        parent_run_id = study.user_attrs.get("parent_run_id")
        if parent_run_id is None:
            raise ConfigError(
                f"Study {self.study} has no MLflow run yet; the command that started it goes on "
                "with it."
            )
        tracking = self.tracking(must_exist=True)
        try:
            config = tracking.config_of_study(self.study, parent_run_id)
            sampler = optuna.samplers.RandomSampler()
            pruner = rebuild(config["pruner"])
            searched = Searched(
                name=self.study,
                study=PausableStudy(self.study, storage, sampler, pruner),
                space=rebuild(config["space"]),
                monitor=config["training"]["monitor"],
                direction=Direction.of(study),
                config=config,
                tracking_uri=tracking.uri,
            )
            parent = ParentRun(tracking.client, parent_run_id)
            advice, page = record(searched, tracking, parent)
        finally:
            tracking.close(tracking.patience_s)
        Path(self.path).write_text(page, encoding="utf-8")
        look = tracking.look(parent_run_id)
        place = tracking.place(parent_run_id, Descriptions.PAGE)
        return _Reported(searched, advice, self.path, place, parent_run_id, look)


@dataclass(frozen=True)
class _Reported:
    """The result of a report.

    Attributes:
        searched: The study as its reports see it.
        advice: What the page advises to do next.
        path: The file of the page.
        place: Where the copy of the page in MLflow is.
        run_id: The MLflow run of the study.
        look: The link or the command that shows this run.
    """

    searched: Searched
    advice: Advice
    path: str
    place: str
    run_id: str
    look: str

    @property
    def _uri(self) -> str:
        """The MLflow store, without a password."""
        return without_secrets(self.searched.tracking_uri)

    def lines(self) -> list[str]:
        """Return the advice and the places of the page as lines for a person."""
        return [
            f"Study {self.searched.name}: {self.searched.outcome.counts()}.",
            self.advice.outlook.text,
            self.advice.next_step,
            f"Next:        {self.advice.command}",
            f"The page is {self.path}, and in MLflow {self.place}",
            f"Look at it:  {self.look}",
        ]

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        return {
            "study": self.searched.name,
            "outlook": self.advice.outlook.text,
            "next_step": self.advice.next_step,
            "command": self.advice.command,
            "page": self.path,
            "run_id": self.run_id,
            "tracking_uri": self._uri,
        }
