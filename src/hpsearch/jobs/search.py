"""The search job: search the hyperparameters of one architecture on one data set.

`Search` holds the parts that the configuration names. Its `run` checks one model, opens the study
and its MLflow run (`jobs.opening`), runs trials, and then registers and evaluates the best model
(`jobs.conclusion`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import keras
import keras_tuner
import optuna
from rich.console import Console

from hpsearch.data.split import Data, SearchData
from hpsearch.data.statistics import measure
from hpsearch.errors import SearchError
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.experiments.learning_rate_test import RangeTest
from hpsearch.jobs.composed import Plain
from hpsearch.jobs.conclusion import Conclusion
from hpsearch.jobs.model_check import Checked, ModelCheck
from hpsearch.jobs.opening import Opening, known_run, tested_space
from hpsearch.jobs.recipe import recorder
from hpsearch.jobs.search_result import SearchResult
from hpsearch.jobs.settings import check_job
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.models.architecture import Architecture
from hpsearch.models.sparse import Sparsity
from hpsearch.serving.registration import Registration
from hpsearch.space.space import Space
from hpsearch.study.budget import Budget
from hpsearch.study.changed_code import OwnMaker
from hpsearch.study.failures import failures, summary
from hpsearch.study.sampling import SeededSampler
from hpsearch.study.storage import SharedStorage
from hpsearch.study.study import SharedStudy
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.warm_start import WarmSettings, WarmStart
from hpsearch.study.worker_process import this_process
from hpsearch.study_report.commands import Commands
from hpsearch.tracking.runs import settings_shown
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import Checkpoints
from hpsearch.training.schedules import Schedule
from hpsearch.training.settings import Training, use_precision
from hpsearch.training.trainer import Trainer
from hpsearch.trials.costs import Costs
from hpsearch.trials.objective import Objective
from hpsearch.trials.progress import Progress
from hpsearch.trials.worker import run_trials


@dataclass(frozen=True)
class Search:
    """Search the hyperparameters of one architecture, register the best model and evaluate it.

    Each attribute is the part that its folder in conf/ describes. A part that conf builds with
    `_partial_` is completed here, once the values that it needs are known. By then the mistakes of
    a person in other parts have been found.
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
    tracking: Callable[..., Tracking]
    registration: Registration
    uncertainty: McDropout
    worker: int
    study: _StudySettings
    seed: int
    lr_test: bool
    range_test: RangeTest
    sparsity: Sparsity | None = None

    def run(self, config: Plain, console: Console) -> SearchResult:
        """Run the search, or the part of it that is missing.

        Args:
            config: The composed configuration as plain data, which is recorded.
            console: Where progress is shown.

        Raises:
            UserError: A mistake that the person can put right. Where possible it is found before
                any run or study is made.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it. The same command continues the search.
            Preempted: The cluster stopped it. The same command continues the search.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        check_job("search", config)
        self.checkpoints.check_folder()
        use_precision(self.training.precision)
        data = self.data.for_search()
        architecture = self._architecture(data)
        checked = ModelCheck(
            architecture,
            data,
            self.training,
            self.schedule,
            self.uncertainty,
            self.budget,
            makers=(self.arch, self.optimizer, self.schedule, self.sparsity),
        ).run()
        self.sampler(root_seed=self.seed).check(checked.asked.distributions)
        pruner = self.pruner
        if self.costs.second_objective:
            pruner = optuna.pruners.NopPruner()
        job = replace(
            self,
            training=checked.training,
            uncertainty=checked.uncertainty,
            pruner=pruner,
        )
        return job._search(data, architecture, checked, config, console)

    def _search(
        self,
        data: SearchData,
        architecture: Architecture,
        checked: Checked,
        config: Plain,
        console: Console,
    ) -> SearchResult:
        """Run the search. The direction of the monitored metric in `training` is known by now."""
        settings = self.training
        trainer = self.trainer(settings=settings, data=data, schedule=self.schedule)
        progress = Progress(settings.monitor, settings.epochs, settings.goal, console)
        trainer.varies = checked.varies
        conclusion = self._open(data, config, checked, progress.say)
        study = conclusion.study
        conclusion.tracking.spool.say = progress.say
        study.storage.outage.say = progress.say
        trainer.remembered_proofs = study.remembered_proofs
        for warning in checked.warnings:
            progress.say(warning)
        objective = Objective(
            make=architecture.hypermodel,
            space=self.space,
            trainer=trainer,
            study=study,
            tracking=conclusion.tracking,
            parent=conclusion.parent,
            keep_model=conclusion.keep,
            costs=self.costs,
            checkpoints=self.checkpoints,
            progress=progress,
            settings=_fixed_settings(config, architecture),
            root_seed=self.seed,
            deadline=this_process.deadline(self.budget.timeout_s or math.inf),
            recipe_tags=recorder(config, self.arch, checked.code),
        )
        with (
            this_process.heeding_signals(self.budget.grace_s),
            self._closing(conclusion, progress),
        ):
            if self.lr_test:
                objective.space = tested_space(self.range_test, objective)
            self._run_trials(objective)
            return self._conclude(conclusion, data, progress)

    def _architecture(self, data: SearchData) -> Architecture:
        return Architecture(
            self.arch,
            statistics=measure(data.train.inputs, data.n_classes),
            optimizer=self.optimizer,
            sparsity=self.sparsity,
            space=self.space,
            others=("batch_size",),
        )

    def _open(
        self,
        data: SearchData,
        config: Plain,
        checked: Checked,
        say: Callable[[str], None],
    ) -> Conclusion:
        """Open the study, the MLflow store and the parent run, and return them with the rest.

        One worker does so at a time, so that workers that start at once share study and run.
        """
        name = self.study["name"]
        storage = self.storage()
        warm_start = WarmStart.asked_for(self.study, name, storage)
        second_objective = self.costs.second_objective
        with storage.exclusively():
            tracking = self._opened_tracking(name, storage)
            study = SharedStudy.open(
                name,
                storage=storage,
                sampler=self.sampler(root_seed=self.seed),
                pruner=self.pruner,
                direction=self.training.goal,
                budget=self.budget,
                has_cost=second_objective is not None,
            )
            opening = Opening(study, config)
            opening.check_same_settings(data.fingerprint, self.training, second_objective)
            new_bounds = opening.check_same_bounds(self.study["changed_bounds"], say)
            self._check_code(checked.code, study, say)
            if warm_start is not None:
                begun = warm_start.begin(study, self.space, checked.asked)
                if begun:
                    say(begun)
            source = self.data.path or data.name
            parent = opening.parent(tracking, data, source, has_new_bounds=new_bounds)
        return Conclusion(
            name,
            study,
            tracking,
            parent,
            self.space,
            self.training,
            self.costs,
            self.registration,
            self.uncertainty,
            config,
            shown=data.val.inputs[:256],
            makers=[self.arch.func, self.optimizer.func],
        )

    def _opened_tracking(self, name: str, storage: SharedStorage) -> Tracking:
        """Return the MLflow store, which must exist where the study has runs in one."""
        known = known_run(name, storage)
        tracking = self.tracking(must_exist=known is not None)
        tracking.check_room()
        return tracking

    def _check_code(
        self,
        digest: str | None,
        study: SharedStudy,
        say: Callable[[str], None],
    ) -> None:
        """Raise ConfigError where a person's own code has changed since the study began."""
        if digest is None:
            return
        name = getattr(self.arch.func, "__qualname__", "the model")
        maker = OwnMaker(name, digest)
        maker.check_unchanged(study, self.study["changed_code"], say)

    @contextmanager
    def _closing(self, conclusion: Conclusion, progress: Progress) -> Iterator[None]:
        """End the parent run with the block, unless other workers continue, and close MLflow."""
        tracking = conclusion.tracking

        def end(status: str) -> None:
            if status == "RUNNING":
                # Only seconds are left. The worker that continues the study describes it.
                tracking.patience_s = self.budget.grace_s
            if _ends_run(conclusion.study, status) and tracking.wait():
                conclusion.describe()
                conclusion.parent.end(status)
            if not tracking.close(tracking.patience_s):
                sync = Commands(conclusion.searched()).sync()
                progress.say(f"MLflow is away; send what waits for it with: {sync}")
            if tracking.refusals:
                progress.say(tracking.refusals)

        with conclusion.parent.ending(end):
            yield

    def _run_trials(self, objective: Objective) -> None:
        """Run trials until the budget is spent, and show the progress."""
        study = objective.study
        progress = objective.progress
        name = self.study["name"]
        n_trials = self.budget.n_trials
        if study.trials():
            n_done = min(study.n_spent(), n_trials)
            progress.say(f"Study {name} goes on: {n_done} of {n_trials} trials done.")
        else:
            trials = "trials"
            if n_trials == 1:
                trials = "trial"
            progress.say(
                f"Study {name} begins: {n_trials} {trials} of at most {self.training.epochs} "
                "epochs."
            )
        progress.say(self.data.sizes())
        prunes = not isinstance(self.pruner, optuna.pruners.NopPruner)
        if self.costs.second_objective:
            progress.say("No trial is pruned: one that is worse than others may be the cheapest.")
        with progress.search(name, n_trials, study.trials, prunes=prunes):
            run_trials(objective)

    def _conclude(
        self, conclusion: Conclusion, data: SearchData, progress: Progress
    ) -> SearchResult:
        """Register and evaluate the best model, unless another worker does, and show the trials.

        Raises:
            SearchError: No trial has finished.
        """
        best = conclusion.best()
        if best is None:
            raise SearchError(self._no_best(conclusion.study))
        version = cheapest = evaluation = None
        if conclusion.study.is_running() or not conclusion.study.claim_conclusion():
            progress.say(
                "Other workers go on with this study; the last of them registers its best model."
            )
        else:
            model, version = conclusion.register(best, data, progress)
            cheapest = conclusion.register_cheapest(data, progress)
            if self.data.has_test():
                test = self.data.test()
                evaluated = EvaluatedModel(model, self.uncertainty, data.val, test)
                evaluation = conclusion.evaluate(evaluated, version, progress)
            else:
                conclusion.say_no_test(version, progress)
        failed = failures(conclusion.study.trials())
        if failed:
            n_failed = sum(len(failure.trials) for failure in failed)
            progress.say(f"{n_failed} trials failed: {summary(failed)}.")
        searched = conclusion.searched()
        progress.console.print(searched.best_by_column().as_table())
        run_id = conclusion.parent.run_id
        return SearchResult(
            searched,
            searched.outcome,
            version,
            cheapest,
            evaluation,
            run_id,
            look=conclusion.tracking.look(run_id),
        )

    def _no_best(self, study: SharedStudy) -> str:
        """Return why no trial of a study has finished, and what helps."""
        trials = study.trials()
        ends = {TrialEnd.of(trial) for trial in trials}
        messages = [str(trial.user_attrs.get("message", "")).rstrip(".") for trial in trials]
        cause = next((message for message in reversed(messages) if message), "")
        helps = []
        failed = failures(trials)
        if failed:
            cause = summary(failed)
            helps.append("to mend what makes trials fail")
        if TrialEnd.DIVERGED in ends:
            helps.append("a lower space.bounds.learning_rate with study.name=NAME")
        if TrialEnd.INFEASIBLE in ends:
            helps.append("bounds of smaller models or higher limits in costs, with study.name=NAME")
        if not helps:
            helps.append(f"more trials, budget.n_trials={self.budget.n_trials + 10}")
        if cause:
            cause = f": {cause}"
        name = self.study["name"]
        return f"No trial of study {name} finished{cause}. What helps is {' and '.join(helps)}."


class _StudySettings(WarmSettings):
    """The settings of the study; see conf/search.yaml."""

    name: str
    changed_code: bool
    changed_bounds: bool


def _fixed_settings(config: Plain, architecture: Architecture) -> dict[str, object]:
    """Return the settings that each trial's run shows, without those that are hyperparameters."""
    shown = settings_shown(config, ("arch", "optimizer", "training"))
    drawn = architecture.drawn
    fixed = {}
    for key, value in shown.items():
        name = key.partition(".")[2]
        if name not in drawn:
            fixed[key] = value
    return fixed


def _ends_run(study: SharedStudy, status: str) -> bool:
    """Return whether this worker ends the parent run, with the status of its own search."""
    if study.is_running():
        return False
    if status == "FINISHED":
        return study.claim_conclusion()
    return status != "RUNNING"
