"""What a search leaves behind: the best model registered and evaluated, the parent run described."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from mlflow.entities import Run
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError, TrackingError
from hpsearch.registry import Registry, Version
from hpsearch.reports import pareto, report
from hpsearch.spaces.space import Space
from hpsearch.studies.storage import without_password
from hpsearch.studies.study import SharedStudy, best_trial, number_of, value_of
from hpsearch.tracking.runs import ChildRun, ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.trainer import Training
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress
from hpsearch.uncertainty.evaluation import Evaluation, evaluate
from hpsearch.uncertainty.mc_dropout import McDropout
from hpsearch.uncertainty.registration import Registration
from hpsearch.uncertainty.subject import Subject

N_KEPT = 5  # models of a study


@dataclass(frozen=True)
class SearchResult:
    """What a search came to; `version` and `evaluation` are None where another worker concludes the study.

    `cheapest` is the version at the other end of two objectives, where there are two.
    """

    outcome: report.Outcome
    version: Version | None
    cheapest: Version | None
    evaluation: Evaluation | None
    parent_run_id: str
    tracking_uri: str

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
        for version in (self.version, self.cheapest):
            if version is not None:
                said = f"Registered as version {version.number} of {version.name}, alias {version.alias}"
                console.print(f"{said} ({version.why}).", soft_wrap=True, markup=False)
        uri = without_password(self.tracking_uri)
        console.print(f"Look at it:  mlflow ui --backend-store-uri {uri}", soft_wrap=True, markup=False)


@dataclass(frozen=True)
class Conclusion:
    """Keeps the best model while trials end, and concludes the study when they have.

    Args:
        name: The study's, and the registered model's.
        study: Whose trials count.
        tracking: The MLflow store.
        parent: The study's run.
        space: Shows hyperparameters as people see them.
        training: Says what is monitored.
        costs: Says whether there is a second objective.
        registration: How the best model becomes a version.
        uncertainty: How MC Dropout is done.
    """

    name: str
    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    space: Space
    training: Training
    costs: Costs
    registration: Registration
    uncertainty: McDropout

    @property
    def registry(self) -> Registry:
        """The registry of the MLflow store."""
        return Registry(self.tracking.client)

    def best(self) -> FrozenTrial | None:
        """Return the best finished trial of all workers."""
        return best_trial(self.study.trials(), self.training.maximize)

    def keep(self, model: keras.Model, run: ChildRun, values: Sequence[float]) -> None:
        """Keep a trial's model where few finished trials are better, or none in both objectives.

        One or two of those that are kept are registered, all make ensembles.
        """
        sign = -1 if self.training.maximize else 1
        mine = (sign * values[0], *values[1:])
        complete = [t.values for t in self.study.trials() if t.state == TrialState.COMPLETE]
        others = [(sign * other[0], *other[1:]) for other in complete]
        is_on_front = not any(all(a <= b for a, b in zip(other, mine, strict=True)) for other in others)
        if is_on_front or sum(other[0] <= mine[0] for other in others) < N_KEPT:
            self.registry.keep(model, run)

    def register(self, best: FrozenTrial, data: SearchData) -> tuple[keras.Model, Version]:
        """Make the best trial's model a version of the registered model, and return both."""
        model, version = self._version_of(best, data)
        self.parent.metrics({f"best/{self.training.monitor}": value_of(best) or 0.0})
        return model, self.registry.register(
            self.name,
            **version,
            is_better=lambda champion: self.registration.compare(model, champion, data.val, self.uncertainty),
        )

    def register_cheapest(self, data: SearchData) -> Version | None:
        """Give the cheapest trial that is nearly as good as the best its alias; None where there is one objective."""
        objective, study = self.costs.second_objective, self.study.optuna
        if objective is None:
            return None
        chosen = pareto.cheapest(study, self.costs.tolerance)
        _, version = self._version_of(chosen, data)
        best = self.best()
        why = (
            f"{objective} {chosen.values[1]:.4g} with {self.training.monitor} {chosen.values[0]:.4f}; "
            f"the best has {best.values[1]:.4g} with {best.values[0]:.4f}"  # type: ignore[union-attr]
        )
        return self.registry.give_alias(self.costs.alias, self.name, **version, why=why)

    def _version_of(self, trial: FrozenTrial, data: SearchData) -> tuple[keras.Model, dict[str, Any]]:
        """Return a trial's model, and what the registry needs to make it a version."""
        run = self._arrived(number_of(trial))
        model = self.registry.kept(run.info.run_id)
        shown = {key: value for key, value in run.data.metrics.items() if key.startswith(("best/val/", "model/"))}
        tags: dict[str, object] = {key.removeprefix("best/"): value for key, value in shown.items()}
        tags |= {"hpsearch.trial": number_of(trial), "hpsearch.study": self.name, "parent_run": self.parent.run_id}

        def save(folder: Path) -> None:
            self.registration.save(model, folder, data, self.uncertainty)

        return model, {"run_id": run.info.run_id, "save": save, "tags": tags}

    def _arrived(self, number: int) -> Run:
        """Return a finished trial's run; another worker's may still be on its way.

        Raises:
            TrackingError: It has not arrived for `patience_s` seconds.
        """
        deadline = time.monotonic() + self.tracking.patience_s
        while True:
            run = self.tracking.find_child(self.parent, number)
            if run is not None and run.info.status == "FINISHED":
                return run
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"The run of trial {number}, the best one, has not arrived at MLflow; "
                    "give python -m hpsearch.doctor sync where its worker ran, then this command again."
                )
            time.sleep(1.0)

    def evaluate(self, subject: Subject, version: Version, progress: Progress) -> Evaluation | None:
        """Ask the registered model plainly and with MC Dropout; None where it has no dropout at all."""
        try:
            evaluation = evaluate(subject)
        except ModelError as error:  # somebody's HyperModel may have none
            progress.say(f"No MC Dropout evaluation: {error}")
            return None
        self.parent.metrics(evaluation.metrics())
        for key, value in evaluation.metrics().items():
            self.tracking.client.set_model_version_tag(version.name, version.number, key, f"{value:.6g}")
        return evaluation

    def describe(self) -> None:
        """Write summary and figures to the parent run, however the search ended."""
        outcome = report.Outcome.of(self.study.trials(), self.training.maximize)
        text = report.summary(self.name, outcome, self.space, self.training.monitor, {})
        counts = {"trials/finished": outcome.n_finished, "trials/pruned": outcome.n_pruned}
        counts |= {"trials/diverged": outcome.n_diverged, "trials/infeasible": outcome.n_infeasible}
        self.parent.metrics({**counts, "trials/failed": outcome.n_failed})
        self.parent.tag({MLFLOW_RUN_NOTE: text})
        if outcome.best is not None:
            self.parent.tag({"hpsearch.best_trial": number_of(outcome.best)})
            for path, png in report.figures(self.study.optuna, self.space, self.training.monitor).items():
                self.parent.file(path, png)
            if self.costs.second_objective is not None:
                front = pareto.figure(self.study.optuna, self.training.monitor, self.costs)
                self.parent.file("figures/pareto.png", front)
