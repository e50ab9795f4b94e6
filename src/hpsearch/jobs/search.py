"""Opens what a search runs in: a study and its parent run that fit its settings, a space that its
data have bounded.

The jobs: each a frozen dataclass that names its parts, and runs them in order.
"""

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
import yaml

from hpsearch.data.split import Data, SearchData
from hpsearch.data.statistics import measure
from hpsearch.errors import ConfigError, ModelError, SearchError
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.experiments.learning_rate_test import RangeTest, advice, below, figure, middles
from hpsearch.html_report.section import terminal
from hpsearch.jobs.conclusion import N_SHOWN, Conclusion
from hpsearch.jobs.search_result import SearchResult
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.architecture import Architecture, build_model
from hpsearch.models.moved_names import with_current_names
from hpsearch.models.sparse import Sparsity
from hpsearch.seeds import derive
from hpsearch.serving.measured_again import check_before, noise_of
from hpsearch.serving.registration import Registration
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space
from hpsearch.study.budget import Budget
from hpsearch.study.direction import Direction
from hpsearch.study.sampling import SeededSampler
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy
from hpsearch.study.warm_start import WARM_START, Asked, WarmStart
from hpsearch.study.worker_process import Preempted, deadline, leaving_on_signal
from hpsearch.study_report.searched import Outcome, best_rows
from hpsearch.tracking.runs import ParentRun, settings_shown
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import Checkpoints
from hpsearch.training.monitored_metric import directed
from hpsearch.training.own_fit import owns_fit
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import BATCH_SIZE, Training, use_precision
from hpsearch.training.trainer import Trainer
from hpsearch.training.ways import known_structure
from hpsearch.trials.costs import Costs
from hpsearch.trials.objective import Objective
from hpsearch.trials.progress import Progress
from hpsearch.trials.watchdog import TrialTimedOutError, Watch
from hpsearch.trials.worker import run_trials

SETTINGS_OF_A_STUDY = ("data", "arch", "optimizer", "training", "schedule", "sparsity", "seed")
SETTINGS_OF_A_SEARCH = (*SETTINGS_OF_A_STUDY, "space", "costs", "sampler", "pruner", "uncertainty")
FREE_SETTINGS = (
    "data.path",
    "data.load.path",
    "training.steps_per_call",
    "training.jit_compile",
    "training.direction",  # what counts is which way it is, see `check_same_direction`
)
FINGERPRINT, OBJECTIVE = "data.fingerprint", "costs.second_objective"


def check_same_settings(study: SharedStudy, config: Mapping[str, Any], fingerprint: str) -> None:
    """Trials are comparable only where data, architecture and training are the same; refuse to mix
    others in.

    Raises:
        ConfigError: The study was made with other settings, or for other objectives.
    """
    mine = {FINGERPRINT: fingerprint, **settings_shown(config, SETTINGS_OF_A_STUDY)}
    mine = {key: value for key, value in mine.items() if key not in FREE_SETTINGS}
    if config["costs"]["second_objective"] is not None:
        mine[OBJECTIVE] = config["costs"]["second_objective"]
    theirs = with_current_names(study.optuna.user_attrs.get("settings"))
    if theirs is None:
        study.optuna.set_user_attr("settings", mine)
        return
    name = study.optuna.study_name
    for key in sorted(mine.keys() | theirs.keys(), key=lambda k: (k == FINGERPRINT, k)):
        if mine.get(key) != theirs.get(key):
            was, now = (
                "null" if value is None else value for value in (theirs.get(key), mine.get(key))
            )
            back = "the same data" if key == FINGERPRINT else f"{key}={was}"
            raise ConfigError(
                f"Study {name} was made with {key}={was}, not {now}; "
                f"give study.name=NAME to start another one, or {back} to go on with this one."
            )


def check_same_direction(study: SharedStudy, training: Training) -> None:
    """Refuse to go on with a study that takes for better what is worse now.

    Raises:
        ConfigError: The monitored metric was maximized and is to be minimized, or vice versa.
    """
    theirs = Direction.of(study.optuna)
    if theirs != training.goal:
        was, now = theirs, training.goal
        raise ConfigError(
            f"Study {study.optuna.study_name} was made to {was} {training.monitor}, not to {now}; "
            f"give study.name=NAME to start another one, or training.direction={was} to go on with "
            "this one."
        )


def open_parent(
    study: SharedStudy, tracking: Tracking, data: SearchData, source: str, config: Mapping[str, Any]
) -> ParentRun:
    """Open the study's run, or make it.

    Args:
        study: It remembers its run.
        tracking: The MLflow store.
        data: The run's input.
        source: Where the data come from.
        config: The composed configuration, for the record.
    """
    known, name = study.optuna.user_attrs.get("parent_run_id"), study.optuna.study_name
    tags = {"hpsearch.study": name, "hpsearch.fingerprint": data.fingerprint}
    if (begun := study.optuna.user_attrs.get(WARM_START)) is not None:
        tags[f"hpsearch.{WARM_START}"] = f"{begun['study']} " + ", ".join(
            f"#{number}" for number in begun["trials"]
        )
    parent = tracking.open_parent(name, known, tags)
    if parent.run_id != known:
        study.optuna.set_user_attr("parent_run_id", parent.run_id)
        typed = parent.client.get_run(
            parent.run_id
        ).data.params  # by `mlflow run`, as `false` and 1e-3, for good
        shown = settings_shown(config, SETTINGS_OF_A_SEARCH)
        parent.params({key: value for key, value in shown.items() if key not in typed})
        parent.data(data, source)
    parent.client.log_text(
        parent.run_id, yaml.safe_dump(dict(config), sort_keys=False), "config.yaml"
    )
    return parent


def tested_space(
    test: RangeTest,
    space: Space,
    *,
    study: SharedStudy,
    parent: ParentRun,
    trainer: Trainer,
    make: Callable[[keras_tuner.HyperParameters], keras_tuner.HyperModel],
    seed: int,
) -> Space:
    """Return the space as the learning rate test bounds it; the first worker tests, the study
    remembers.

    Args:
        test: Its settings.
        space: Bounds the other hyperparameters, whose middles are tested with.
        study: Remembers the result, and is given a first trial.
        parent: Shows it.
        trainer: Trains.
        make: Returns the HyperModel for some hyperparameters.
        seed: Of weights, order and masks.
    """
    if "learning_rate" not in space.rules:
        return space
    known = study.optuna.user_attrs.get("lr_test")
    if known is None:
        hp = keras_tuner.HyperParameters()
        hp.values.update(middles(space))
        curve = test.measure(trainer, make(hp), space, seed)
        known = advice(test, space, curve)
        study.optuna.set_user_attr("lr_test", known)
        parent.params({f"lr_test.{name}": value for name, value in known["bounds"].items()})
        picture = figure(curve)
        parent.file(f"figures/{picture.name}.png", picture.png)
        if known["first"] and not study.trials():
            study.optuna.enqueue_trial(known["first"])
    return below(space, known["bounds"]["high"])


# images, as many as metrics are built with, so that JAX compiles no operation for another size
N_ASKED = 2
SAME_STRUCTURE = {
    "learning_rate",
    "momentum",
    "dropout_rate",
}  # hyperparameters that change no model's structure


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
    return ModelError(
        "A model took longer than budget.trial_timeout_s to build; look for what hangs in its "
        "build."
    )


def _end_build() -> None:
    """End the process, since nothing else ends a build that hangs."""
    os.write(2, f"Error: {_builds_too_long()}\n".encode())
    os._exit(ModelError.exit_status)


@dataclass(frozen=True)
class Search:
    """Search the hyperparameters of one architecture on one data set, register the best model and
    evaluate it.

    Each part is what its folder in conf/ describes; `_partial_` ones are completed here, where what
    they need is known and where a person's mistakes elsewhere have been found already.
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

    def run(
        self, config: Mapping[str, Any], make_progress: Callable[..., Progress]
    ) -> SearchResult:
        """Run the search, or what is missing of it.

        Args:
            config: The composed configuration as plain data, for the record.
            make_progress: Called with the monitored metric, the most epochs and whether more is
                better.

        Raises:
            UserError: A mistake that the person can put right; found before any run or study is
                made where possible.
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
        progress = make_progress(self.training.monitor, self.training.epochs, self.training.goal)
        trainer.varies = checked.varies
        study, tracking, parent = self._open(data, config, checked.asked)
        trainer.answers = study.answers
        if checked.warning:
            progress.say(checked.warning)
        settings = (
            self.space,
            self.training,
            self.costs,
            self.registration,
            self.uncertainty,
            config,
        )
        makers = [part.func for part in (self.arch, self.optimizer)]
        to_keep = data.val.images[:N_SHOWN]
        conclusion = Conclusion(
            self.study["name"], study, tracking, parent, *settings, to_keep, makers
        )
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
            settings={
                key: value
                for key, value in shown.items()
                if key.partition(".")[2] not in architecture.drawn
            },
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
        """Open study and parent run, one worker at a time: those that start at once shall make one
        of each.
        """
        storage, earlier = self.storage(), self.study["warm_start"]
        warm_start = (
            WarmStart.of(earlier, storage, self.study["n_warm_trials"]) if earlier else None
        )
        with storage.exclusively():
            tracking = self.tracking()
            study = SharedStudy.open(
                self.study["name"],
                storage=storage,
                sampler=self.sampler(root_seed=self.seed),
                pruner=optuna.pruners.NopPruner() if self.costs.second_objective else self.pruner,
                direction=self.training.goal,
                budget=self.budget,
                has_cost=self.costs.second_objective is not None,
            )
            check_same_settings(study, config, data.fingerprint)
            check_same_direction(study, self.training)
            if warm_start is not None:
                warm_start.begin(study, self.space, asked)
            return (
                study,
                tracking,
                open_parent(study, tracking, data, self.data.path or data.name, config),
            )

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
                progress.say(
                    "MLflow is away; send what waits for it with: python -m hpsearch doctor sync"
                )

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
        """Return a model of hyperparameters that are drawn at random, them, its HyperModel and
        their distributions.
        """
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
        return tested_space(
            self.range_test,
            self.space,
            study=study,
            parent=parent,
            trainer=trainer,
            make=objective.make,
            seed=seed,
        )

    def _run_trials(self, study: SharedStudy, objective: Objective, progress: Progress) -> None:
        n_spent, n_trials = study.n_spent(), self.budget.n_trials
        begins = f"begins: {n_trials} trial{'s' * (n_trials != 1)} of at most {self.training.epochs} epochs"
        where = (
            f"goes on: {min(n_spent, n_trials)} of {n_trials} trials done" if n_spent else begins
        )
        progress.say(f"Study {self.study['name']} {where}.")
        if self.costs.second_objective:
            progress.say("No trial is pruned: one that is worse than others may be the cheapest.")
        prunes = not (
            self.costs.second_objective or isinstance(self.pruner, optuna.pruners.NopPruner)
        )
        with progress.search(self.study["name"], n_trials, study.trials, prunes=prunes):
            run_trials(objective)

    def _conclude(
        self, conclusion: Conclusion, data: SearchData, progress: Progress
    ) -> SearchResult:
        """Register the best model and evaluate it on the test set, if no other worker does."""
        best = conclusion.best()
        if best is None:
            raise SearchError(
                f"No trial of study {self.study['name']} finished; give it more with "
                f"budget.n_trials="
                f"{self.budget.n_trials + 10}, or a narrower space.bounds.learning_rate."
            )
        version = cheapest = evaluation = None
        if not conclusion.study.is_running() and conclusion.study.claim_conclusion():
            model, version = conclusion.register(best, data, progress)
            cheapest = conclusion.register_cheapest(data, progress)
            subject = Subject(model, self.uncertainty, data.val, self.data.test())
            evaluation = conclusion.evaluate(subject, version, progress)
        else:
            progress.say(
                "Other workers go on with this study; the last of them registers its best model."
            )
        trials, training = conclusion.study.trials(), self.training
        rows = best_rows(
            trials, self.space, [training.monitor, *self.costs.objectives], training.goal
        )
        by_column = list(
            zip(*rows, strict=True)
        )  # a column for each trial: there may be many hyperparameters
        progress.console.print(terminal(by_column, f"The best {len(rows) - 1} trials"))
        outcome = Outcome.of(trials, training.goal)
        store = (conclusion.parent.run_id, conclusion.tracking.uri)
        about = (*store, self.study["name"], training.monitor, self.space)
        return SearchResult(outcome, version, cheapest, evaluation, *about)
