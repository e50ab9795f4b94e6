"""What a search leaves behind: the best model registered and evaluated, the parent run described."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError, TrackingError
from hpsearch.registry import Registry, Version
from hpsearch.reports import pareto
from hpsearch.reports.searched import Searched
from hpsearch.spaces.space import Space
from hpsearch.studies.storage import without_password
from hpsearch.studies.study import SharedStudy, best_trial, number_of, value_of
from hpsearch.tracking.runs import ChildRun, ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress
from hpsearch.uncertainty.evaluation import Evaluation, evaluate
from hpsearch.uncertainty.mc_dropout import McDropout
from hpsearch.uncertainty.registration import Registration
from hpsearch.uncertainty.subject import Subject
from hpsearch.uncertainty.version_page import CERTIFICATE

N_KEPT = 5  # models of a study
DRAIN_S = 10.0  # a trial whose run has not arrived by then is not described


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
        config: The composed configuration, as plain data.
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
    config: Mapping[str, Any]

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
        """Make the best trial's model a version of the registered model, and return both.

        Raises:
            TrackingError: MLflow has not answered for `tracking.patience_s` seconds.
        """
        if not self.tracking.wait():
            raise TrackingError(
                f"All trials are done, but MLflow does not answer at {without_password(self.tracking.uri)}; when it "
                "does, the same command registers and evaluates the best model."
            )
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
        tags = {key: f"{value:.6g}" for key, value in evaluation.metrics().items()}
        for key, value in {**tags, CERTIFICATE: evaluation.certificate.sentence()}.items():
            self.tracking.client.set_model_version_tag(version.name, version.number, key, value)
        return evaluation

    def describe(self) -> None:
        """Write page, figures and descriptions, however the search ended."""
        from hpsearch.reports.record import record  # noqa: PLC0415 (seconds that the start of a search must not cost)

        self.tracking.spool.drain(DRAIN_S)
        record(self.searched(), self.tracking, self.parent)

    def searched(self) -> Searched:
        """Return the study as its reports see it."""
        return Searched(
            name=self.name,
            study=self.study.optuna,
            space=self.space,
            monitor=self.training.monitor,
            maximize=self.training.maximize,
            config=self.config,
            tracking_uri=self.tracking.uri,
        )
