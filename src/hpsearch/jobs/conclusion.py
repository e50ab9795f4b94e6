"""The end of a search: register and evaluate the best model, and describe the study in MLflow.

While trials end, `Conclusion` keeps the models that may be registered. Before a model becomes a
version, it is loaded and measured again in a fresh process.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
from mlflow.entities import Run
from numpy.typing import NDArray
from optuna.trial import FrozenTrial, TrialState

from hpsearch.data.split import SearchData
from hpsearch.errors import ModelError, SearchError, TrackingError
from hpsearch.evaluation.evaluated_model import EvaluatedModel, Evaluation
from hpsearch.jobs.composed import Plain
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.moments import Moments
from hpsearch.models.own_code import config_of, import_own_code, own_code
from hpsearch.serving.fresh_process import first_line
from hpsearch.serving.measured_again import Expected, cure, measure_again
from hpsearch.serving.registration import Registration
from hpsearch.space.space import Space
from hpsearch.study.study import SharedStudy, best_trial, number_of, value_of
from hpsearch.study_report.commands import Commands
from hpsearch.study_report.pareto import Front
from hpsearch.study_report.searched import Searched
from hpsearch.study_report.version_page import CERTIFICATE
from hpsearch.tracking.registry import FROM_LOGITS, PIXEL_RANGE, Candidate, Registry, Version
from hpsearch.tracking.runs import ChildRun, ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.settings import VAL_BATCH_SIZE, Training
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress


class _Kept(NamedTuple):
    """A model that was kept with its trial.

    Attributes:
        model: The model, which is not compiled.
        config: Its configuration as Keras writes it.
    """

    model: keras.Model
    config: Plain


@dataclass(frozen=True)
class Conclusion:
    """Keep the best models while trials end, and conclude the study when they have ended.

    Args:
        name: The name of the study and of the registered model.
        study: The study.
        tracking: The MLflow store.
        parent: The run of the study.
        space: Converts hyperparameters to the values that people see.
        training: Names the monitored metric.
        costs: Names the second objective, if there is one.
        registration: Saves a model as a version, and judges it against the champion.
        uncertainty: The settings of MC Dropout.
        config: The composed configuration as plain data.
        shown: Images (N, H, W, C) whose outputs are kept with a model, to compare it after it was
            loaded; None keeps none.
        makers: The classes or functions of the configuration that make models. They may be a
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
    config: Plain
    shown: NDArray[np.generic] | None = None
    makers: Sequence[object] = ()

    @property
    def registry(self) -> Registry:
        """The registry of the MLflow store."""
        return Registry(self.tracking.client, import_own_code)

    def best(self) -> FrozenTrial | None:
        """Return the best finished trial of all workers."""
        return best_trial(self.study.trials(), self.training.goal)

    def keep(
        self,
        model: keras.Model,
        run: ChildRun,
        values: Sequence[float],
        moments: Moments | None = None,
    ) -> None:
        """Keep a trial's model if few finished trials are as good, or none is in all objectives.

        One or two of the kept models are registered later; all of them make ensembles.

        Args:
            model: The trained model.
            run: The run of the trial.
            values: The value of each objective.
            moments: The moments of its weights, where they were collected.
        """
        mine = self._as_losses(values)
        others = []
        for trial in self.study.trials():
            if trial.state == TrialState.COMPLETE:
                others.append(self._as_losses(trial.values))
        is_on_front = not any(_is_as_good(losses, mine) for losses in others)
        n_as_good = sum(losses[0] <= mine[0] for losses in others)
        n_kept = 5
        if is_on_front or n_as_good < n_kept:
            self.registry.keep(model, run, self.shown, moments)

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
            SearchError: The model that a fresh process loads is not the trained one. Nothing is
                registered.
        """
        if not self.tracking.wait():
            raise TrackingError(
                f"All trials are done, but MLflow does not answer at "
                f"{self.tracking.uri}; when it does, the same command registers "
                "and evaluates the best model."
            )
        candidate = self._candidate(best, data, progress)
        name = f"best/{self.training.monitor}"
        value = value_of(best) or 0.0
        self.parent.metrics({name: value})

        def judge(champion: keras.Model | None, from_logits: bool | None) -> tuple[bool, str]:
            of_champion = self.uncertainty
            if from_logits is not None:
                of_champion = replace(of_champion, from_logits=from_logits)
            return self.registration.judge(
                candidate.model,
                champion,
                data,
                self.uncertainty,
                of_champion,
            )

        version = self.registry.register(self.name, candidate, judge)
        return candidate.model, version

    def register_cheapest(self, data: SearchData, progress: Progress) -> Version | None:
        """Register the cheapest trial that is nearly as good as the best, and give it its alias.

        Returns:
            The version; None where there is one objective.
        """
        objective = self.costs.second_objective
        if objective is None:
            return None
        chosen = Front(self.searched()).cheapest
        candidate = self._candidate(chosen, data, progress)
        value, cost = chosen.values
        best_value, best_cost = self.best().values  # type: ignore[union-attr]
        monitor = self.training.monitor
        why = (
            f"{objective} {cost:.4g} with {monitor} {value:.4f}; "
            f"the best has {best_cost:.4g} with {best_value:.4f}"
        )
        return self.registry.give_alias(self.costs.alias, self.name, candidate, why)

    def _candidate(
        self,
        trial: FrozenTrial,
        data: SearchData,
        progress: Progress,
    ) -> Candidate:
        """Return a trial's model, ready to become a version."""
        number = number_of(trial)
        run = self._arrived(number)
        run_id = run.info.run_id
        kept = self._kept(trial, run_id)
        tags = {
            key.removeprefix("best/"): value
            for key, value in run.data.metrics.items()
            if key.startswith(("best/val/", "model/"))
        }
        of_trial = {
            "hpsearch.trial": number,
            "hpsearch.study": self.name,
            "parent_run": self.parent.run_id,
            FROM_LOGITS: str(bool(self.uncertainty.from_logits)).lower(),
        }
        if data.pixel_range is not None:
            of_trial[PIXEL_RANGE] = data.pixel_range.written()

        def save(folder: Path) -> dict[str, object]:
            code = own_code(kept.config, self.makers)
            self.registration.save(kept.model, folder, data, self.uncertainty, code)
            moments = self.registry.kept_moments(run_id)
            if moments is not None:
                moments.write(folder / Moments.FILE)
            elif self.training.swag:
                progress.say(_no_moments(number))
            progress.say(f"Measuring the model of trial {number} again in a fresh process.")
            expected = self._expected(trial, run, kept)
            found = measure_again(folder, data.val, data.n_classes, expected)
            return {"hpsearch.measured_again": found}

        all_tags = {**tags, **of_trial}
        return Candidate(kept.model, run_id, save, all_tags)

    def _kept(self, trial: FrozenTrial, run_id: str) -> _Kept:
        """Return the model that a trial has kept.

        Raises:
            SearchError: Keras cannot load it.
        """
        with tempfile.TemporaryDirectory() as folder:
            file = self.registry.kept_file(run_id, Path(folder))
            try:
                model = keras.models.load_model(file, compile=False)
                return _Kept(model, config_of(file))
            except Exception as error:  # Keras or a person's class may raise any error
                said = first_line(error)
                raise SearchError(
                    f"The model of trial {number_of(trial)} is not registered: Keras cannot load "
                    f"what it has saved of it ({said}); {cure(said)}."
                ) from error

    def _expected(
        self,
        trial: FrozenTrial,
        run: Run,
        kept: _Kept,
    ) -> Expected:
        """Return the value and the outputs that the model must have in a fresh process.

        A training loss was measured with dropout and before each step, so `val/loss` takes the
        place of a monitored metric of the training part.
        """
        monitor = self.training.monitor
        value = value_of(trial)
        if not monitor.startswith("val/"):
            monitor = "val/loss"
            value = run.data.metrics.get("best/val/loss")
        return Expected(
            f"trial {number_of(trial)}",
            monitor,
            value,
            kept.config.get("compile_config"),
            self.registry.kept_outputs(run.info.run_id),
            self.training.precision,
            VAL_BATCH_SIZE,
        )

    def _arrived(self, number: int) -> Run:
        """Return the run of a finished trial, and wait for it where another worker still sends it.

        Raises:
            TrackingError: The run has not arrived within `tracking.patience_s` seconds.
        """
        deadline = time.monotonic() + self.tracking.patience_s
        while True:
            run = self.tracking.find_child(self.parent, number)
            if run is not None and run.info.status == "FINISHED":
                return run
            if time.monotonic() > deadline:
                sync = Commands(self.searched()).sync()
                raise TrackingError(
                    f"The run of trial {number}, the best one, has not arrived at MLflow; give "
                    f"this command where its worker ran, and then the search again: {sync}"
                )
            time.sleep(1.0)

    def evaluate(
        self,
        evaluated: EvaluatedModel,
        version: Version,
        progress: Progress,
    ) -> Evaluation | None:
        """Evaluate the registered model without and with MC Dropout, and tag its version.

        Returns:
            The evaluation; None where the outputs of the model are no distributions.
        """
        try:
            evaluation = evaluated.evaluate()
        except ModelError as error:
            progress.say(f"No evaluation: {error}")
            self._tag(version, {"hpsearch.not_evaluated_because": str(error)})
            return None
        metrics = evaluation.metrics()
        self.parent.metrics(metrics)
        tags = {key: f"{value:.6g}" for key, value in metrics.items()}
        if evaluation.certificate is not None:
            tags[CERTIFICATE] = evaluation.certificate.sentence()
        else:  # a person's HyperModel may have no dropout layer
            progress.say(f"No MC Dropout evaluation: {evaluation.left_out}")
            tags["hpsearch.not_evaluated_because"] = str(evaluation.left_out)
        self._tag(version, tags)
        return evaluation

    def say_no_test(self, version: Version, progress: Progress) -> None:
        """Say that nothing is evaluated, because the data set has no test part."""
        reason = "the data set has no test part (x_test and y_test in a file, test_data in Python)"
        progress.say(f"The best model is not evaluated: {reason}.")
        self._tag(version, {"hpsearch.not_evaluated_because": reason})

    def _tag(self, version: Version, tags: Mapping[str, str]) -> None:
        client = self.tracking.client
        for key, text in tags.items():
            client.set_model_version_tag(version.name, version.number, key, text)

    def describe(self) -> None:
        """Write the page, the figures and the descriptions, whichever way the search ended."""
        from hpsearch.study_report.record import record  # noqa: PLC0415 (its import is slow)

        # A trial is not described if its run has not arrived at MLflow by then.
        self.tracking.spool.drain(10.0)
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


def _no_moments(number: int) -> str:
    """Return why the model of a trial has no moments of SWAG, as a sentence."""
    return (
        f"The model of trial {number} is registered without moments of SWAG: in the last half of "
        f"its training, fewer than {Moments.LEAST} epochs have changed the weights that it is kept "
        "with."
    )


def _is_as_good(losses: Sequence[float], others: Sequence[float]) -> bool:
    """Return whether one trial is at least as good as another in every objective."""
    pairs = zip(losses, others, strict=True)
    return all(loss <= other for loss, other in pairs)
