"""The result of a search: the best trial, the registered versions and the evaluation.

It is shown on a terminal, or returned as plain data for a program that started the search.
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

from rich.console import Console

from hpsearch.evaluation.evaluated_model import Evaluation
from hpsearch.study.storage import without_password
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.searched import Outcome, Searched
from hpsearch.tracking.registry import Version


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        searched: The study as its reports see it.
        outcome: How many trials ended in which way, and the best one.
        version: The version of the best model; None where another worker concludes the study.
        cheapest: The version of the cheapest model; None where there is one objective.
        evaluation: The evaluation of the best model; None where another worker concludes the
            study, or the model has no dropout layer.
        parent_run_id: The MLflow run of the study.
        look: The link or the command that shows this run.
    """

    searched: Searched
    outcome: Outcome
    version: Version | None
    cheapest: Version | None
    evaluation: Evaluation | None
    parent_run_id: str
    look: str

    @property
    def _uri(self) -> str:
        """The MLflow store, without a password."""
        return without_password(self.searched.tracking_uri)

    def summary(self) -> dict[str, object]:
        """Return the result as plain data."""
        best = self.outcome.best
        found = {"study": self.searched.name, **vars(self.outcome)}
        del found["best"]
        if best is not None:
            found["best"] = {
                "trial": number_of(best),
                "monitor": self.searched.monitor,
                "value": value_of(best),
                "hyperparameters": self.searched.values(best),
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
        found["tracking_uri"] = self._uri
        return found

    @property
    def value(self) -> float:
        """The best trial's monitored value; NaN where none has finished."""
        if self.outcome.best is None:
            return math.nan
        return float(self.outcome.best.values[0])

    def show(self, console: Console) -> None:
        """Print the evaluation, the versions and the commands that a person may give next."""
        if self.evaluation is not None:
            section = self.evaluation.section()
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True, markup=False)
        lines = []
        for version in (self.version, self.cheapest):
            if version is not None:
                lines.append(version.sentence())
        lines += self._next_steps()
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)

    def _next_steps(self) -> list[str]:
        """Return the commands that a person may give next, one a line."""
        outcome = self.outcome
        n_more = 2 * (outcome.n_finished + outcome.n_pruned + outcome.n_diverged)
        commands = Commands(self.searched)
        lines = [
            f"Look at it:    {self.look}",
            f"Search on:     {commands.search(n_more)}",
            f"Understand it: {commands.report()}",
        ]
        version = self.version
        if version is not None:
            uri = shlex.quote(self._uri)
            lines.append(f"Examine it:    {commands.evaluate(version.number)}")
            lines.append(
                f"Serve it:      MLFLOW_TRACKING_URI={uri} mlflow models serve "
                f"-m {shlex.quote(version.uri)} --env-manager local"
            )
        return lines
