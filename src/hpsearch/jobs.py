"""The jobs: each a frozen dataclass that names its parts, and runs them in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import keras_tuner
import optuna
import yaml
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from optuna.trial import FrozenTrial
from rich.console import Console

from hpsearch import report
from hpsearch.architectures.building import build_hypermodel
from hpsearch.architectures.facts import measure
from hpsearch.data import Data, SearchData
from hpsearch.errors import ConfigError, ModelError, SearchError
from hpsearch.evaluation import Evaluation, evaluate
from hpsearch.hyperparameters import OptunaHyperParameters
from hpsearch.mc_dropout import McDropout
from hpsearch.objective import Objective, OutOfTimeError, settings_shown
from hpsearch.progress import Progress, in_words
from hpsearch.registry import Registry, Version
from hpsearch.sampling import SeededSampler
from hpsearch.seeds import derive
from hpsearch.space import Space
from hpsearch.storage import without_password
from hpsearch.study import Budget, SharedStudy, best_trial, number_of
from hpsearch.tracking import ParentRun, Tracking
from hpsearch.training import Trainer, Training, check_monitor

SETTINGS_OF_A_STUDY = ("data", "arch", "optimizer", "training", "seed")
FREE_SETTINGS = ("data.path", "data.load.path", "training.steps_per_call", "training.jit_compile")


@dataclass(frozen=True)
class SearchResult:
    """What a search came to."""

    outcome: report.Outcome
    version: Version
    evaluation: Evaluation | None
    parent_run_id: str
    tracking_uri: str


    def show(self, console: Console) -> None:
        """Print what came out and what to do next."""
        if self.evaluation is not None:
            console.print(report.evaluation_table(self.evaluation.rows()))
        alias = "champion" if self.version.is_champion else "challenger"
        console.print(
            f"Registered as version {self.version.number} of {self.version.name}, alias {alias} ({self.version.why}).\n"
            f"Look at it:  mlflow ui --backend-store-uri {without_password(self.tracking_uri)}",
            soft_wrap=True,
            markup=False,
        )


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
    sampler: partial[SeededSampler]
    pruner: optuna.pruners.BasePruner
    storage: Callable[[], optuna.storages.BaseStorage]
    budget: Budget
    tracking: Callable[[], Tracking]
    uncertainty: McDropout
    study: Mapping[str, str]
    seed: int

    def run(self, config: Mapping[str, Any], make_progress: Callable[..., Progress]) -> SearchResult:
        """Run the search, or what is missing of it.

        Args:
            config: The composed configuration as plain data, for the record.
            make_progress: Called with the monitored metric, the most epochs and whether more is better.

        Raises:
            UserError: A mistake that the person can put right; found before any run or study is made where possible.
            SearchError: The search ended without a usable model.
            KeyboardInterrupt: The person stopped it; the same command goes on.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        data = self.data.for_search()
        hypermodel = build_hypermodel(self.arch, measure(data.train.images, data.n_classes), self.optimizer)
        self._check(hypermodel)
        tracking = self.tracking()
        study = SharedStudy.open(
            self.study["name"],
            self.storage(),
            self.sampler(root_seed=self.seed),
            self.pruner,
            self.training.maximize,
            self.budget,
        )
        self._check_same_settings(study, config, data)
        progress = make_progress(self.training.monitor, self.training.epochs, self.training.maximize)
        parent = self._open_parent(study, tracking, data, config)
        status = "FAILED"
        try:
            result = self._search(study, tracking, parent, progress, data, hypermodel, config)
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            self._describe(study, parent)
            parent.end(status)
        return result

    def _check(self, hypermodel: keras_tuner.HyperModel) -> None:
        """Build one model with middling hyperparameters, so that mistakes show before a study or a run is made."""
        probe = optuna.create_study().ask()
        hp = OptunaHyperParameters(probe, self.space)
        model = hypermodel.build(hp)
        self.space.check_used(hp.asked)
        check_monitor(model, self.training.monitor)

    def _check_same_settings(self, study: SharedStudy, config: Mapping[str, Any], data: SearchData) -> None:
        """Trials are comparable only where data, architecture and training are the same; refuse to mix others in."""
        mine = {"data.fingerprint": data.fingerprint, **settings_shown(config, SETTINGS_OF_A_STUDY)}
        mine = {key: value for key, value in mine.items() if key not in FREE_SETTINGS}
        theirs = study.optuna.user_attrs.get("settings")
        if theirs is None:
            study.optuna.set_user_attr("settings", mine)
            return
        for key in mine.keys() | theirs.keys():
            if mine.get(key) != theirs.get(key):
                raise ConfigError(
                    f"Study {self.study['name']} was made with {key}={theirs.get(key)}, not {mine.get(key)}; "
                    f"give study.name=NAME to start another one, or {key}={theirs.get(key)} to go on with this one."
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

    def _search(
        self,
        study: SharedStudy,
        tracking: Tracking,
        parent: ParentRun,
        progress: Progress,
        data: SearchData,
        hypermodel: keras_tuner.HyperModel,
        config: Mapping[str, Any],
    ) -> SearchResult:
        registry = Registry(tracking.client)
        begin = time.monotonic()

        def keep(model: keras.Model, run: Any, value: float) -> None:
            best = best_trial(study.trials(), self.training.maximize)
            if best is None or (value > best.value if self.training.maximize else value < best.value):
                registry.keep(model, run)

        objective = Objective(
            hypermodel=hypermodel,
            space=self.space,
            trainer=Trainer(self.training, data),
            study=study,
            tracking=tracking,
            parent=parent,
            keep_model=keep,
            progress=progress,
            settings=settings_shown(config, ("arch", "optimizer", "training")),
            root_seed=self.seed,
            deadline=begin + self.budget.timeout_s if self.budget.timeout_s else float("inf"),
        )
        self._run_trials(study, objective, progress)
        best = best_trial(study.trials(), self.training.maximize)
        if best is None:
            raise SearchError(
                f"No trial of study {self.study['name']} finished; give it more with budget.n_trials="
                f"{self.budget.n_trials + 10}, or a narrower space.bounds.learning_rate."
            )
        return self._conclude(study, registry, parent, progress, data, best, tracking.uri)

    def _run_trials(self, study: SharedStudy, objective: Objective, progress: Progress) -> None:
        best = best_trial(study.trials(), self.training.maximize)
        n_spent = study.n_spent()
        name = self.study["name"]
        if n_spent:
            progress.say(f"Study {name} goes on: {min(n_spent, self.budget.n_trials)} of {self.budget.n_trials} trials done.")
        else:
            progress.say(f"Study {name}: {self.budget.n_trials} trials of at most {self.training.epochs} epochs.")
        label = f"#{number_of(best)} {best.value:.4f}" if best else ""
        with progress.search(self.budget.n_trials, n_spent, label, best.value if best else None):
            while (trial := study.claim()) is not None:
                try:
                    objective.run(trial)
                except OutOfTimeError:
                    break
                if time.monotonic() > objective.deadline:
                    break

    def _conclude(
        self,
        study: SharedStudy,
        registry: Registry,
        parent: ParentRun,
        progress: Progress,
        data: SearchData,
        best: FrozenTrial,
        tracking_uri: str,
    ) -> SearchResult:
        """Register the best model and evaluate it on the test set."""
        run_id, monitor = best.user_attrs["run_id"], self.training.monitor
        model = registry.kept(run_id)
        metrics = registry.client.get_run(run_id).data.metrics
        tags = {key.removeprefix("best/"): value for key, value in metrics.items() if key.startswith("best/val/")}
        tags |= {"hpsearch.trial": number_of(best), "hpsearch.study": self.study["name"], "parent_run": parent.run_id}
        version = registry.register(self.study["name"], run_id, model, data, tags, "val/loss")
        parent.metrics({f"best/{monitor}": best.value or 0.0})
        evaluation = self._evaluate(model, registry, parent, version, progress)
        outcome = report.Outcome.of(study.trials(), self.training.maximize)
        progress.console.print(report.best_table(study.trials(), self.space, monitor, self.training.maximize))
        return SearchResult(outcome, version, evaluation, parent.run_id, tracking_uri)

    def _evaluate(
        self, model: keras.Model, registry: Registry, parent: ParentRun, version: Version, progress: Progress
    ) -> Evaluation | None:
        try:
            evaluation = evaluate(model, self.data.test(), settings=self.uncertainty)
        except ModelError as error:  # somebody's HyperModel may have no dropout at all
            progress.say(f"No MC Dropout evaluation: {error}")
            return None
        parent.metrics(evaluation.metrics())
        for key, value in evaluation.metrics().items():
            registry.client.set_model_version_tag(version.name, version.number, key, f"{value:.6g}")
        return evaluation

    def _describe(self, study: SharedStudy, parent: ParentRun) -> None:
        """Write summary and figures to the parent run, however the search ended."""
        outcome = report.Outcome.of(study.trials(), self.training.maximize)
        text = report.summary(self.study["name"], outcome, self.space, self.training.monitor, {})
        counts = {"trials/finished": outcome.n_finished, "trials/pruned": outcome.n_pruned}
        parent.metrics({**counts, "trials/diverged": outcome.n_diverged, "trials/failed": outcome.n_failed})
        parent.tag({MLFLOW_RUN_NOTE: text})
        if outcome.best is not None:
            parent.tag({"hpsearch.best_trial": number_of(outcome.best)})
            for path, png in report.figures(study.optuna, self.space, self.training.monitor).items():
                parent.file(path, png)
