"""What a search came to, for who started it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from hpsearch.evaluation.evaluated_model import Evaluation
from hpsearch.space.space import Space
from hpsearch.study.storage import without_password
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.searched import Outcome
from hpsearch.tracking.registry import CHAMPION, Version


@dataclass(frozen=True)
class SearchResult:
    """What a search came to; `version` and `evaluation` are None where another worker concludes the
    study.

    `cheapest` is the version at the other end of two objectives, where there are two.
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

    def facts(self) -> dict[str, Any]:
        """Return what came out as plain data."""
        best, version = self.outcome.best, self.version
        found: dict[str, Any] = {"study": self.study}
        counts = ("n_finished", "n_pruned", "n_diverged", "n_infeasible", "n_failed", "n_epochs")
        found |= {name: getattr(self.outcome, name) for name in counts}
        if best is not None:
            trial = {"trial": number_of(best), "monitor": self.monitor, "value": value_of(best)}
            found["best"] = {**trial, "hyperparameters": self.space.values(best)}
        if version is not None:
            about = {
                "version": version.number,
                "is_champion": version.alias == CHAMPION,
                "why": version.why,
            }
            found["registered"] = {"name": version.name, **about}
        found["test"] = None if self.evaluation is None else self.evaluation.metrics()
        return found | {
            "run_id": self.parent_run_id,
            "tracking_uri": without_password(self.tracking_uri),
        }

    @property
    def versions(self) -> list[Version]:
        """The versions that were made or given an alias."""
        return [version for version in (self.version, self.cheapest) if version is not None]

    @property
    def value(self) -> float:
        """The best trial's monitored value; NaN where none has finished."""
        best = self.outcome.best
        return best.values[0] if best else math.nan

    def show(self, console: Console) -> None:
        """Print what came out and what to do next."""
        if self.evaluation is not None:
            section = self.evaluation.section()
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True, markup=False)
        for version in self.versions:
            console.print(version.sentence(), soft_wrap=True, markup=False)
        for line in self.next_steps():
            console.print(line, soft_wrap=True, markup=False)

    def next_steps(self) -> list[str]:
        """Return what a person may do next, a command a line."""
        n_more = 2 * (self.outcome.n_finished + self.outcome.n_pruned + self.outcome.n_diverged)
        lines = [
            f"Look at it:    mlflow ui --backend-store-uri {without_password(self.tracking_uri)}"
        ]
        lines += [f"Search on:     the same command with budget.n_trials={n_more}"]
        lines += [f"Understand it: python -m hpsearch report study={self.study}"]
        if self.version is not None:
            model = f"registered_model={self.version.name} version={self.version.number}"
            lines += [f"Examine it:    python -m hpsearch evaluate {model}"]
            store = f"MLFLOW_TRACKING_URI={without_password(self.tracking_uri)}"
            lines += [
                f"Serve it:      {store} mlflow models serve -m {self.version.uri} --env-manager "
                f"local"
            ]
        return lines
