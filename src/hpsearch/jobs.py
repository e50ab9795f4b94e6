"""The jobs: each a frozen dataclass that names its parts, and runs them in order."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import keras_tuner
import optuna
import yaml

from hpsearch.architectures.building import build_hypermodel
from hpsearch.architectures.facts import measure
from hpsearch.architectures.sparsity import Sparsity
from hpsearch.data.split import Data, SearchData
from hpsearch.errors import ConfigError, SearchError
from hpsearch.pages.tables import terminal
from hpsearch.reports.conclusion import Conclusion, SearchResult
from hpsearch.reports.figures import range_test
from hpsearch.reports.outcome import Outcome, best_rows
from hpsearch.seeds import derive
from hpsearch.spaces.hyperparameters import OptunaHyperParameters
from hpsearch.spaces.space import Space
from hpsearch.studies.budget import Budget
from hpsearch.studies.machines import Preempted, leaving_on_signal
from hpsearch.studies.sampling import SeededSampler
from hpsearch.studies.storage import SharedStorage
from hpsearch.studies.study import SharedStudy
from hpsearch.tracking.runs import ParentRun
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import Checkpoints
from hpsearch.training.range_test import RangeTest, advice, below
from hpsearch.training.schedules import Schedule
from hpsearch.training.trainer import Trainer, Training, check_monitor
from hpsearch.trials.objective import Objective, settings_shown
from hpsearch.trials.progress import Progress
from hpsearch.trials.slots import run_trials
from hpsearch.uncertainty.mc_dropout import McDropout
from hpsearch.uncertainty.registration import Registration
from hpsearch.uncertainty.subject import Subject

FINGERPRINT = "data.fingerprint"
SETTINGS_OF_A_STUDY = ("data", "arch", "optimizer", "training", "schedule", "sparsity", "seed")
FREE_SETTINGS = ("data.path", "data.load.path", "training.steps_per_call", "training.jit_compile")


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
    sampler: partial[SeededSampler]
    pruner: optuna.pruners.BasePruner
    storage: Callable[[], SharedStorage]
    checkpoints: Checkpoints
    budget: Budget
    tracking: Callable[[], Tracking]
    registration: Registration
    uncertainty: McDropout
    worker: int
    study: Mapping[str, str]
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
        keras.config.set_dtype_policy(self.training.precision)
        data = self.data.for_search()
        hypermodel = build_hypermodel(
            self.arch, measure(data.train.images, data.n_classes), self.optimizer, self.sparsity
        )
        self._check(hypermodel)
        trainer = self.trainer(settings=self.training, data=data, schedule=self.schedule)
        progress = make_progress(self.training.monitor, self.training.epochs, self.training.maximize)
        study, tracking, parent = self._open(data, config)
        space = self._tested_space(study, parent, trainer, hypermodel)
        settings = (space, self.training, self.registration, self.uncertainty, config)
        conclusion = Conclusion(self.study["name"], study, tracking, parent, *settings)
        objective = Objective(
            hypermodel=hypermodel,
            space=space,
            trainer=trainer,
            study=study,
            tracking=tracking,
            parent=parent,
            keep_model=conclusion.keep,
            checkpoints=self.checkpoints,
            progress=progress,
            settings=settings_shown(config, ("arch", "optimizer", "training")),
            root_seed=self.seed,
            deadline=time.monotonic() + (self.budget.timeout_s or math.inf),
        )
        with leaving_on_signal(self.budget.grace_s), self._closing(conclusion, progress):
            self._run_trials(study, objective, progress)
            return self._conclude(conclusion, data, progress)

    def _open(self, data: SearchData, config: Mapping[str, Any]) -> tuple[SharedStudy, Tracking, ParentRun]:
        """Open study and parent run, one worker at a time: those that start at once shall make one of each."""
        storage = self.storage()
        with storage.exclusively():
            tracking = self.tracking()
            study = SharedStudy.open(
                self.study["name"],
                storage=storage,
                sampler=self.sampler(root_seed=self.seed),
                pruner=self.pruner,
                maximize=self.training.maximize,
                budget=self.budget,
            )
            self._check_same_settings(study, config, data)
            return study, tracking, self._open_parent(study, tracking, data, config)

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

    def _check(self, hypermodel: keras_tuner.HyperModel) -> None:
        """Build one model with middling hyperparameters, so that mistakes show before a study or a run is made."""
        probe = optuna.create_study().ask()
        hp = OptunaHyperParameters(probe, self.space)
        model = hypermodel.build(hp)
        self.space.check_used(hp.asked)
        check_monitor(model, self.training.monitor)

    def _check_same_settings(self, study: SharedStudy, config: Mapping[str, Any], data: SearchData) -> None:
        """Trials are comparable only where data, architecture and training are the same; refuse to mix others in."""
        mine = {FINGERPRINT: data.fingerprint, **settings_shown(config, SETTINGS_OF_A_STUDY)}
        mine = {key: value for key, value in mine.items() if key not in FREE_SETTINGS}
        theirs = study.optuna.user_attrs.get("settings")
        if theirs is None:
            study.optuna.set_user_attr("settings", mine)
            return
        for key in sorted(mine.keys() | theirs.keys(), key=lambda k: (k == FINGERPRINT, k)):
            if mine.get(key) != theirs.get(key):
                back = "the same data" if key == FINGERPRINT else f"{key}={theirs.get(key)}"
                raise ConfigError(
                    f"Study {self.study['name']} was made with {key}={theirs.get(key)}, not {mine.get(key)}; "
                    f"give study.name=NAME to start another one, or {back} to go on with this one."
                )

    def _open_parent(
        self, study: SharedStudy, tracking: Tracking, data: SearchData, config: Mapping[str, Any]
    ) -> ParentRun:
        known = study.optuna.user_attrs.get("parent_run_id")
        tags = {"hpsearch.study": self.study["name"], "hpsearch.fingerprint": data.fingerprint}
        parent = tracking.open_parent(self.study["name"], known, tags)
        if parent.run_id != known:
            study.optuna.set_user_attr("parent_run_id", parent.run_id)
            parent.params(settings_shown(config, (*SETTINGS_OF_A_STUDY, "space", "sampler", "pruner", "uncertainty")))
            parent.data(data, self.data.path or data.name)
        parent.client.log_text(parent.run_id, yaml.safe_dump(dict(config), sort_keys=False), "config.yaml")
        return parent

    def _tested_space(
        self, study: SharedStudy, parent: ParentRun, trainer: Trainer, hypermodel: keras_tuner.HyperModel
    ) -> Space:
        """Return the space as the learning rate test bounds it; the first worker tests, the study remembers."""
        if not self.lr_test or "learning_rate" not in self.space.rules:
            return self.space
        known = study.optuna.user_attrs.get("lr_test")
        if known is None:
            seed = derive(self.seed, study.optuna.study_name, "lr_test")
            curve = self.range_test.measure(trainer, hypermodel, self.space, seed)
            known = advice(self.range_test, self.space, curve)
            study.optuna.set_user_attr("lr_test", known)
            parent.params({f"lr_test.{name}": value for name, value in known["bounds"].items()})
            picture = range_test(curve)
            parent.file(f"figures/{picture.name}.png", picture.png)
            if known["first"] and not study.trials():
                study.optuna.enqueue_trial(known["first"])
        return below(self.space, known["bounds"]["high"])

    def _run_trials(self, study: SharedStudy, objective: Objective, progress: Progress) -> None:
        n_spent, n_trials = study.n_spent(), self.budget.n_trials
        where = f"begins: {n_trials} trials of at most {self.training.epochs} epochs"
        if n_spent:
            where = f"goes on: {min(n_spent, n_trials)} of {n_trials} trials done"
        progress.say(f"Study {self.study['name']} {where}.")
        with progress.search(self.study["name"], n_trials, study.trials):
            run_trials(objective)

    def _conclude(self, conclusion: Conclusion, data: SearchData, progress: Progress) -> SearchResult:
        """Register the best model and evaluate it on the test set, if no other worker does."""
        best = conclusion.best()
        if best is None:
            raise SearchError(
                f"No trial of study {self.study['name']} finished; give it more with budget.n_trials="
                f"{self.budget.n_trials + 10}, or a narrower space.bounds.learning_rate."
            )
        version = evaluation = None
        if not conclusion.study.is_running() and conclusion.study.claim_conclusion():
            model, version = conclusion.register(best, data)
            subject = Subject(model, self.uncertainty, data.val, self.data.test())
            evaluation = conclusion.evaluate(subject, version, progress)
        else:
            progress.say("Other workers go on with this study; the last of them registers its best model.")
        trials, training = conclusion.study.trials(), self.training
        rows = best_rows(trials, self.space, training.monitor, training.maximize)
        progress.console.print(terminal(rows, f"The best {len(rows) - 1} trials"))
        outcome = Outcome.of(trials, training.maximize)
        store = (conclusion.parent.run_id, conclusion.tracking.uri)
        return SearchResult(outcome, version, evaluation, *store, self.study["name"], training.monitor, self.space)
