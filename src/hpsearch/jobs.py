"""The jobs: each a frozen dataclass that names its parts, and runs them in order."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import keras_tuner
import optuna

from hpsearch import opening
from hpsearch.architectures.architecture import Architecture
from hpsearch.architectures.building import build_model
from hpsearch.architectures.facts import measure
from hpsearch.architectures.sparsity import Sparsity
from hpsearch.data.split import Data, SearchData
from hpsearch.errors import ModelError, SearchError
from hpsearch.pages.tables import terminal
from hpsearch.reports.conclusion import N_SHOWN, Conclusion
from hpsearch.reports.outcome import Outcome, best_rows
from hpsearch.reports.result import SearchResult
from hpsearch.seeds import derive
from hpsearch.spaces.hyperparameters import OptunaHyperParameters
from hpsearch.spaces.space import Space
from hpsearch.studies.budget import Budget
from hpsearch.studies.machines import Preempted, leaving_on_signal
from hpsearch.studies.restarting import deadline
from hpsearch.studies.sampling import SeededSampler
from hpsearch.studies.storage import SharedStorage
from hpsearch.studies.study import SharedStudy
from hpsearch.studies.warm_start import Asked, WarmStart
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.brought import owns_fit
from hpsearch.training.checkpoints import Checkpoints
from hpsearch.training.directions import directed
from hpsearch.training.range_test import RangeTest
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import BATCH_SIZE, Training, use_precision
from hpsearch.training.trainer import Trainer
from hpsearch.training.ways import known_structure
from hpsearch.trials.costs import Costs
from hpsearch.trials.objective import Objective, settings_shown
from hpsearch.trials.progress import Progress
from hpsearch.trials.slots import run_trials
from hpsearch.trials.watchdog import TrialTimedOutError, Watch
from hpsearch.uncertainty.mc_dropout import McDropout
from hpsearch.uncertainty.measured_again import check_before, noise_of
from hpsearch.uncertainty.registration import Registration
from hpsearch.uncertainty.subject import Subject

N_ASKED = 2  # images, as many as metrics are built with, so that JAX compiles no operation for another size
SAME_STRUCTURE = {"learning_rate", "momentum", "dropout_rate"}  # hyperparameters that change no model's structure


@dataclass(frozen=True)
class _Checked:
    """What is known of a search before it begins.

    Attributes:
        asked: The hyperparameters that a model asked for.
        training: The settings, with the direction of the monitored metric.
        varies: Whether models of other hyperparameters have other structures.
        warning: What the person shall know before the first trial; None where there is nothing.
    """

    asked: Asked
    training: Training
    varies: bool
    warning: str | None


def _builds_too_long() -> ModelError:
    return ModelError("A model took longer than budget.trial_timeout_s to build; look for what hangs in its build.")


def _end_build() -> None:
    """End the process, since nothing else ends a build that hangs."""
    os.write(2, f"Error: {_builds_too_long()}\n".encode())
    os._exit(ModelError.exit_status)


@dataclass(frozen=True)
class Search:
    """Search the hyperparameters of one architecture on one data set, register the best model and evaluate it.

    Each part is what its folder in conf/ describes; `_partial_` ones are completed here, where what they need is known
    and where a person's mistakes elsewhere have been found already.
    """

    data: Data
    arch: partial[keras_tuner.HyperModel]
    optimizer: partial[keras.optimizers.Optimizer]
    space: Space
    training: Training
    schedule: Schedule
    trainer: Callable[..., Trainer]
    costs: Costs
    sampler: partial[SeededSampler]
    pruner: optuna.pruners.BasePruner
    storage: Callable[[], SharedStorage]
    checkpoints: Checkpoints
    budget: Budget
    tracking: Callable[[], Tracking]
    registration: Registration
    uncertainty: McDropout
    worker: int
    study: Mapping[str, Any]
    seed: int
    lr_test: bool
    range_test: RangeTest
    sparsity: Sparsity | None = None

    def run(self, config: Mapping[str, Any], make_progress: Callable[..., Progress]) -> SearchResult:
        """Run the search, or what is missing of it.

        Args:
            config: The composed configuration as plain data, for the record.
            make_progress: Called with the monitored metric, the most epochs and whether more is better.

        Raises:
            UserError: A mistake that the person can put right; found before any run or study is made where possible.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it; the same command goes on.
            Preempted: The cluster stopped it; so it does there.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        use_precision(self.training.precision)
        data = self.data.for_search()
        architecture = self._architecture(data)
        checked = self._check(architecture, data)
        job = replace(self, training=checked.training)
        return job._search(data, architecture, checked, config, make_progress)

    def _search(
        self,
        data: SearchData,
        architecture: Architecture,
        checked: _Checked,
        config: Mapping[str, Any],
        make_progress: Callable[..., Progress],
    ) -> SearchResult:
        """Run it, with training settings that say which way the monitored metric is better."""
        trainer = self.trainer(settings=self.training, data=data, schedule=self.schedule)
        progress = make_progress(self.training.monitor, self.training.epochs, self.training.maximize)
        trainer.varies = checked.varies
        study, tracking, parent = self._open(data, config, checked.asked)
        trainer.answers = study.answers
        if checked.warning:
            progress.say(checked.warning)
        settings = (self.space, self.training, self.costs, self.registration, self.uncertainty, config)
        makers = [part.func for part in (self.arch, self.optimizer)]
        to_keep = data.val.images[:N_SHOWN]
        conclusion = Conclusion(self.study["name"], study, tracking, parent, *settings, to_keep, makers)
        shown = settings_shown(config, ("arch", "optimizer", "training"))
        objective = Objective(
            make=architecture.hypermodel,
            space=self.space,
            trainer=trainer,
            study=study,
            tracking=tracking,
            parent=parent,
            keep_model=conclusion.keep,
            costs=self.costs,
            checkpoints=self.checkpoints,
            progress=progress,
            settings={key: value for key, value in shown.items() if key.partition(".")[2] not in architecture.drawn},
            root_seed=self.seed,
            deadline=deadline(self.budget.timeout_s or math.inf),
        )
        with leaving_on_signal(self.budget.grace_s), self._closing(conclusion, progress):
            if self.lr_test:
                objective.space = self._tested_space(objective)
            self._run_trials(study, objective, progress)
            return self._conclude(conclusion, data, progress)

    def _architecture(self, data: SearchData) -> Architecture:
        return Architecture(
            self.arch,
            facts=measure(data.train.images, data.n_classes),
            optimizer=self.optimizer,
            sparsity=self.sparsity,
            space=self.space,
            others=(BATCH_SIZE,),
        )

    def _open(
        self, data: SearchData, config: Mapping[str, Any], asked: Asked
    ) -> tuple[SharedStudy, Tracking, ParentRun]:
        """Open study and parent run, one worker at a time: those that start at once shall make one of each."""
        storage, earlier = self.storage(), self.study["warm_start"]
        warm_start = WarmStart.of(earlier, storage, self.study["n_warm_trials"]) if earlier else None
        with storage.exclusively():
            tracking = self.tracking()
            study = SharedStudy.open(
                self.study["name"],
                storage=storage,
                sampler=self.sampler(root_seed=self.seed),
                pruner=optuna.pruners.NopPruner() if self.costs.second_objective else self.pruner,
                maximize=self.training.maximize,
                budget=self.budget,
                has_cost=self.costs.second_objective is not None,
            )
            opening.check_same_settings(study, config, data.fingerprint)
            opening.check_same_direction(study, self.training)
            if warm_start is not None:
                warm_start.begin(study, self.space, asked)
            return study, tracking, opening.open_parent(study, tracking, data, self.data.path or data.name, config)

    @contextmanager
    def _closing(self, conclusion: Conclusion, progress: Progress) -> Iterator[None]:
        """Close study and runs as the block ends, unless other workers go on."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        except Preempted:  # there are seconds left; whoever goes on describes the study
            status, conclusion.tracking.patience_s = "RUNNING", self.budget.grace_s
            raise
        finally:
            study, tracking = conclusion.study, conclusion.tracking
            is_mine = not study.is_running() and (status != "FINISHED" or study.claim_conclusion())
            if is_mine and status != "RUNNING" and tracking.wait():
                conclusion.describe()
                conclusion.parent.end(status)
            if not tracking.close(tracking.patience_s):
                progress.say("MLflow is away; send what waits for it with: python -m hpsearch.doctor sync")

    def _check(self, architecture: Architecture, data: SearchData) -> _Checked:
        """Build a model, so that mistakes show before a study or a run is made."""
        model, hp, hypermodel, distributions = self._drawn(architecture, 0)
        if not owns_fit(hypermodel):
            self.space.check_used(hp.asked)
        others: set[str] = set() if owns_fit(hypermodel) else set(hp.asked) - SAME_STRUCTURE
        structures = {known_structure(model, data.train.images)} if others else set()
        training = directed(self.training, hypermodel, model, data)
        for seed in (1, 2) if others else ():
            structures.add(known_structure(self._drawn(architecture, seed)[0], data.train.images))
        noise = noise_of(self.training.precision)
        warning = check_before(model, data.val.images[:N_ASKED], self.uncertainty, noise)
        asked = Asked(frozenset(hp.asked), distributions)
        return _Checked(asked, training, varies=len(structures) > 1, warning=warning)

    def _drawn(self, architecture: Architecture, seed: int) -> tuple[Any, Any, Any, Any]:
        """Return a model of hyperparameters that are drawn at random, them, its HyperModel and their distributions."""
        probe = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed)).ask()
        hp = OptunaHyperParameters(probe, self.space)
        hypermodel = architecture.hypermodel(hp)
        with Watch(self.budget.trial_timeout_s, self.budget.grace_s, _end_build):
            try:
                model = build_model(hypermodel, hp)
            except TrialTimedOutError:
                raise _builds_too_long() from None
        return model, hp, hypermodel, probe.distributions

    def _tested_space(self, objective: Objective) -> Space:
        seed = derive(self.seed, objective.study.optuna.study_name, "lr_test")
        study, parent, trainer = objective.study, objective.parent, objective.trainer
        return opening.tested_space(
            self.range_test, self.space, study=study, parent=parent, trainer=trainer, make=objective.make, seed=seed
        )

    def _run_trials(self, study: SharedStudy, objective: Objective, progress: Progress) -> None:
        n_spent, n_trials = study.n_spent(), self.budget.n_trials
        begins = f"begins: {n_trials} trial{'s' * (n_trials != 1)} of at most {self.training.epochs} epochs"
        where = f"goes on: {min(n_spent, n_trials)} of {n_trials} trials done" if n_spent else begins
        progress.say(f"Study {self.study['name']} {where}.")
        if self.costs.second_objective:
            progress.say("No trial is pruned: one that is worse than others may be the cheapest.")
        prunes = not (self.costs.second_objective or isinstance(self.pruner, optuna.pruners.NopPruner))
        with progress.search(self.study["name"], n_trials, study.trials, prunes=prunes):
            run_trials(objective)

    def _conclude(self, conclusion: Conclusion, data: SearchData, progress: Progress) -> SearchResult:
        """Register the best model and evaluate it on the test set, if no other worker does."""
        best = conclusion.best()
        if best is None:
            raise SearchError(
                f"No trial of study {self.study['name']} finished; give it more with budget.n_trials="
                f"{self.budget.n_trials + 10}, or a narrower space.bounds.learning_rate."
            )
        version = cheapest = evaluation = None
        if not conclusion.study.is_running() and conclusion.study.claim_conclusion():
            model, version = conclusion.register(best, data, progress)
            cheapest = conclusion.register_cheapest(data, progress)
            subject = Subject(model, self.uncertainty, data.val, self.data.test())
            evaluation = conclusion.evaluate(subject, version, progress)
        else:
            progress.say("Other workers go on with this study; the last of them registers its best model.")
        trials, training = conclusion.study.trials(), self.training
        rows = best_rows(trials, self.space, [training.monitor, *self.costs.objectives], training.maximize)
        by_column = list(zip(*rows, strict=True))  # a column for each trial: there may be many hyperparameters
        progress.console.print(terminal(by_column, f"The best {len(rows) - 1} trials"))
        outcome = Outcome.of(trials, training.maximize)
        store = (conclusion.parent.run_id, conclusion.tracking.uri)
        about = (*store, self.study["name"], training.monitor, self.space)
        return SearchResult(outcome, version, cheapest, evaluation, *about)
