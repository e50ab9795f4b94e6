"""What a search leaves behind: the best model registered and evaluated, the parent run described."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from mlflow.entities import Run
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError, SearchError, TrackingError
from hpsearch.evaluation.evaluated_model import Evaluation, Subject, evaluate
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.own_code import config_of, own_code
from hpsearch.serving.fresh_process import first_line
from hpsearch.serving.measured_again import CURE, Expected, measure_again, noise_of
from hpsearch.serving.registration import Registration
from hpsearch.space.space import Space
from hpsearch.study.storage import without_password
from hpsearch.study.study import SharedStudy, best_trial, number_of, value_of
from hpsearch.study_report import pareto
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import CERTIFICATE
from hpsearch.tracking.registry import Registry, Version
from hpsearch.tracking.runs import ChildRun, ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import Training
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress

N_KEPT = 5  # models of a study
N_SHOWN = 256  # validation images whose outputs are kept with a model
MEASURED_AGAIN, NOT_EVALUATED = "hpsearch.measured_again", "hpsearch.not_evaluated_because"
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
        shown: Images whose outputs are kept with a model, to know it again; None keeps none.
        makers: The classes or functions of the configuration that make models, which may be a
            person's own.
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
    shown: NDArray[Any] | None = None
    makers: Sequence[object] = ()

    @property
    def registry(self) -> Registry:
        """The registry of the MLflow store."""
        return Registry(self.tracking.client)

    def best(self) -> FrozenTrial | None:
        """Return the best finished trial of all workers."""
        return best_trial(self.study.trials(), self.training.goal)

    def keep(self, model: keras.Model, run: ChildRun, values: Sequence[float]) -> None:
        """Keep a trial's model where few finished trials are better, or none in both objectives.

        One or two of those that are kept are registered, all make ensembles.
        """
        mine = self._as_losses(values)
        complete = [t.values for t in self.study.trials() if t.state == TrialState.COMPLETE]
        others = [self._as_losses(other) for other in complete]
        is_on_front = not any(
            all(a <= b for a, b in zip(other, mine, strict=True)) for other in others
        )
        if is_on_front or sum(other[0] <= mine[0] for other in others) < N_KEPT:
            self.registry.keep(model, run, self.shown)

    def _as_losses(self, values: Sequence[float]) -> list[float]:
        """Return a trial's values such that less is better of each; a cost is always minimized."""
        value, *costs = values
        return [self.training.goal.as_loss(value), *costs]

    def register(
        self, best: FrozenTrial, data: SearchData, progress: Progress
    ) -> tuple[keras.Model, Version]:
        """Make the best trial's model a version of the registered model, and return both.

        Raises:
            TrackingError: MLflow has not answered for `tracking.patience_s` seconds.
            SearchError: In a fresh process the model is not the one that was trained; nothing is
                registered.
        """
        if not self.tracking.wait():
            raise TrackingError(
                f"All trials are done, but MLflow does not answer at "
                f"{without_password(self.tracking.uri)}; when it "
                "does, the same command registers and evaluates the best model."
            )
        model, version = self._version_of(best, data, progress)
        self.parent.metrics({f"best/{self.training.monitor}": value_of(best) or 0.0})
        return model, self.registry.register(
            self.name,
            **version,
            judge=lambda champion: self.registration.judge(model, champion, data, self.uncertainty),
        )

    def register_cheapest(self, data: SearchData, progress: Progress) -> Version | None:
        """Give the cheapest trial that is nearly as good as the best its alias; None where there is
        one objective.
        """
        objective, study = self.costs.second_objective, self.study.optuna
        if objective is None:
            return None
        chosen = pareto.cheapest(study, self.costs.tolerance)
        _, version = self._version_of(chosen, data, progress)
        best = self.best()
        why = (
            f"{objective} {chosen.values[1]:.4g} with {self.training.monitor} "
            f"{chosen.values[0]:.4f}; "
            f"the best has {best.values[1]:.4g} with {best.values[0]:.4f}"  # type: ignore[union-attr]
        )
        return self.registry.give_alias(self.costs.alias, self.name, **version, why=why)

    def _version_of(
        self, trial: FrozenTrial, data: SearchData, progress: Progress
    ) -> tuple[keras.Model, dict[str, Any]]:
        """Return a trial's model, and what the registry needs to make it a version."""
        run = self._arrived(number_of(trial))
        model, config = self._kept(trial, run.info.run_id)
        shown = {
            key: value
            for key, value in run.data.metrics.items()
            if key.startswith(("best/val/", "model/"))
        }
        tags: dict[str, object] = {key.removeprefix("best/"): value for key, value in shown.items()}
        tags |= {
            "hpsearch.trial": number_of(trial),
            "hpsearch.study": self.name,
            "parent_run": self.parent.run_id,
        }

        def save(folder: Path) -> dict[str, object]:
            self.registration.save(
                model, folder, data, self.uncertainty, own_code(config, self.makers)
            )
            progress.say(
                f"Measuring the model of trial {number_of(trial)} again in a fresh process."
            )
            expected = self._expected(trial, run, config)
            return {MEASURED_AGAIN: measure_again(folder, data.val, data.n_classes, expected)}

        return model, {"run_id": run.info.run_id, "save": save, "tags": tags}

    def _kept(self, trial: FrozenTrial, run_id: str) -> tuple[keras.Model, Any]:
        """Return the model that a trial has kept, and its configuration as Keras writes it."""
        with tempfile.TemporaryDirectory() as folder:
            file = self.registry.kept_file(run_id, Path(folder))
            try:
                return keras.models.load_model(file, compile=False), config_of(file)
            except Exception as error:  # whatever Keras or a person's class raises
                raise SearchError(
                    f"The model of trial {number_of(trial)} is not registered: Keras cannot load "
                    f"what it has saved of "
                    f"it ({first_line(error)}); {CURE}."
                ) from error

    def _expected(self, trial: FrozenTrial, run: Run, config: Any) -> Expected:
        monitor, value = self.training.monitor, value_of(trial)
        if not monitor.startswith(
            "val/"
        ):  # a training loss was measured with dropout, before the step
            monitor = "val/loss"
            value = run.data.metrics.get(f"best/{monitor}")
        return Expected(
            trial=f"trial {number_of(trial)}",
            monitor=monitor,
            value=value,
            compile_config=config.get("compile_config"),
            outputs=self.registry.kept_outputs(run.info.run_id),
            noise=noise_of(self.training.precision),
        )

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
                    "give python -m hpsearch doctor sync where its worker ran, then this command "
                    "again."
                )
            time.sleep(1.0)

    def evaluate(self, subject: Subject, version: Version, progress: Progress) -> Evaluation | None:
        """Ask the registered model plainly and with MC Dropout; None where it has no dropout at
        all.
        """
        try:
            evaluation = evaluate(subject)
        except ModelError as error:  # somebody's HyperModel may have none
            progress.say(f"No MC Dropout evaluation: {error}")
            self.tracking.client.set_model_version_tag(
                version.name, version.number, NOT_EVALUATED, str(error)
            )
            return None
        self.parent.metrics(evaluation.metrics())
        tags = {key: f"{value:.6g}" for key, value in evaluation.metrics().items()}
        for key, value in {**tags, CERTIFICATE: evaluation.certificate.sentence()}.items():
            self.tracking.client.set_model_version_tag(version.name, version.number, key, value)
        return evaluation

    def describe(self) -> None:
        """Write page, figures and descriptions, however the search ended."""
        from hpsearch.study_report.record import record  # noqa: PLC0415 (seconds that the start of a search must not cost)

        self.tracking.spool.drain(DRAIN_S)
        record(self.searched(), self.tracking, self.parent)

    def searched(self) -> Searched:
        """Return the study as its reports see it."""
        return Searched(
            name=self.name,
            study=self.study.optuna,
            space=self.space,
            monitor=self.training.monitor,
            direction=self.training.goal,
            config=self.config,
            tracking_uri=self.tracking.uri,
        )
