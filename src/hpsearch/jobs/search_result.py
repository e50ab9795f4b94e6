"""The result of a search: the best trial, the registered versions and the evaluation.

It is shown on a terminal, or returned as plain data for a program that started the search.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Console

from hpsearch.evaluation.evaluated_model import Evaluation
from hpsearch.space.space import Space
from hpsearch.study.storage import without_password
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.searched import Outcome
from hpsearch.tracking.registry import Version


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        outcome: How many trials ended in which way, and the best one.
        version: The version of the best model; None where another worker concludes the study.
        cheapest: The version of the cheapest model; None where there is one objective.
        evaluation: The evaluation of the best model; None where another worker concludes the
            study, or the model has no dropout layer.
        parent_run_id: The MLflow run of the study.
        tracking_uri: The MLflow store.
        study: The name of the study.
        monitor: The monitored metric.
        space: Converts hyperparameters to the values that people see.
    """

    outcome: Outcome
    version: Version | None
    cheapest: Version | None
    evaluation: Evaluation | None
    parent_run_id: str
    tracking_uri: str
    study: str
    monitor: str
    space: Space

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        outcome = self.outcome
        found: dict[str, object] = {
            "study": self.study,
            "n_finished": outcome.n_finished,
            "n_pruned": outcome.n_pruned,
            "n_diverged": outcome.n_diverged,
            "n_infeasible": outcome.n_infeasible,
            "n_failed": outcome.n_failed,
            "n_epochs": outcome.n_epochs,
        }
        if outcome.best is not None:
            found["best"] = {
                "trial": number_of(outcome.best),
                "monitor": self.monitor,
                "value": value_of(outcome.best),
                "hyperparameters": self.space.values(outcome.best),
            }
        version = self.version
        if version is not None:
            found["registered"] = {
                "name": version.name,
                "version": version.number,
                "is_champion": version.is_champion,
                "why": version.why,
            }
        found["test"] = None
        if self.evaluation is not None:
            found["test"] = self.evaluation.metrics()
        found["run_id"] = self.parent_run_id
        found["tracking_uri"] = without_password(self.tracking_uri)
        return found

    @property
    def versions(self) -> list[Version]:
        """The versions that were made or given an alias."""
        return [version for version in (self.version, self.cheapest) if version is not None]

    @property
    def value(self) -> float:
        """The best trial's monitored value; NaN where none has finished."""
        best = self.outcome.best
        if best is None:
            return math.nan
        value: float = best.values[0]
        return value

    def show(self, console: Console) -> None:
        """Print the evaluation, the versions and the commands that a person may give next."""
        if self.evaluation is not None:
            section = self.evaluation.section()
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True, markup=False)
        for version in self.versions:
            console.print(version.sentence(), soft_wrap=True, markup=False)
        for line in self.next_steps():
            console.print(line, soft_wrap=True, markup=False)

    def next_steps(self) -> list[str]:
        """Return the commands that a person may give next, one a line."""
        outcome = self.outcome
        n_more = 2 * (outcome.n_finished + outcome.n_pruned + outcome.n_diverged)
        uri = without_password(self.tracking_uri)
        lines = [
            f"Look at it:    mlflow ui --backend-store-uri {uri}",
            f"Search on:     the same command with budget.n_trials={n_more}",
            f"Understand it: python -m hpsearch report study={self.study}",
        ]
        version = self.version
        if version is not None:
            model = f"registered_model={version.name} version={version.number}"
            lines.append(f"Examine it:    python -m hpsearch evaluate {model}")
            lines.append(
                f"Serve it:      MLFLOW_TRACKING_URI={uri} mlflow models serve "
                f"-m {version.uri} --env-manager local"
            )
        return lines
