"""One trial in, one number out: suggest, build, fit, report each epoch, and end with a reason."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import keras_tuner
import optuna
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from hpsearch.checkpoints import Checkpoints, Slot
from hpsearch.epochs import Fitted
from hpsearch.errors import DivergedError, UserError
from hpsearch.hyperparameters import OptunaHyperParameters
from hpsearch.progress import Progress
from hpsearch.seeds import derive
from hpsearch.space import Space
from hpsearch.study import PROMOTED, SharedStudy, number_of
from hpsearch.tracking import ChildRun, ParentRun, Tracking, TrialName
from hpsearch.training import Trainer

KeepModel = Callable[[keras.Model, ChildRun, float], None]


class OutOfTimeError(Exception):
    """The search's time is over in the middle of a trial."""


@dataclass
class Objective:
    """Runs the trials of one study.

    Args:
        hypermodel: Builds the model of a trial.
        space: The bounds that a trial's hyperparameters are drawn from.
        trainer: Fits it.
        study: Where the trial was claimed, and is ended.
        tracking: Writes its run, a child of `parent`.
        keep_model: Called with each finished trial's model, its run and its value, before the trial is told.
        checkpoints: Where running and paused trials leave what they go on from.
        settings: Plain settings that each child run shows beside its hyperparameters.
        root_seed: Seeds grow from it, the study's name and the trial's number.
        deadline: On `time.monotonic`'s clock; a trial that runs then is given back.
    """

    hypermodel: keras_tuner.HyperModel
    space: Space
    trainer: Trainer
    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    keep_model: KeepModel
    checkpoints: Checkpoints
    progress: Progress
    settings: Mapping[str, object]
    root_seed: int
    deadline: float = float("inf")

    def run(self, trial: optuna.Trial) -> None:
        """Run a claimed trial to its end, whatever that is; only what ends the whole search is raised.

        Raises:
            KeyboardInterrupt: The person stopped the search; the trial will be tried again.
            OutOfTimeError: The same, by the budget's clock.
            UserError: No trial of this search could do better, such as an unknown metric.
        """
        number = number_of(trial)
        seed = derive(self.root_seed, self.study.optuna.study_name, "trial", number)
        child = self._open_child(trial, number)
        slot = self.checkpoints.of(self.study.optuna.study_name, number)
        stopped: str | None = None
        with self.study.lease(trial):
            try:
                self._finish(trial, child, *self._fit(trial, child, number, seed, slot))
            except optuna.TrialPruned as error:
                stopped = str(error)
            except DivergedError as error:
                self._end(trial, child, "diverged", str(error), "FAILED")
            except (KeyboardInterrupt, OutOfTimeError, SystemExit, UserError) as error:
                self._give_back(trial, child, error)
                raise
            except Exception as error:  # a trial may fail in any way; the search goes on until budget.max_failures
                reason = "out_of_memory" if "ResourceExhausted" in type(error).__name__ else "error"
                self._fail(trial, child, reason, f"{type(error).__name__}: {error}")
        if stopped is not None and self.study.pauses:
            self._pause(trial, child, stopped)
            return
        if stopped is not None:
            self._end(trial, child, "pruned", stopped, "KILLED")
        slot.remove()

    def end_paused(self) -> None:
        """End the trials that are paused for good, and remove the checkpoints that nobody goes on from."""
        for trial in self.study.end_paused():
            child = ChildRun(self.tracking.client, trial.user_attrs["run_id"])
            child.tag({"hpsearch.reason": "pruned"})
            child.end("KILLED")
        if not self.study.is_running():
            self.checkpoints.clear(self.study.optuna.study_name)

    def _open_child(self, trial: optuna.Trial, number: int) -> ChildRun:
        try:
            known = trial.user_attrs.get("run_id")
            child = self.tracking.open_child(self.parent, f"#{number}", known, {"hpsearch.trial": str(number)})
        except UserError as error:
            self.study.fail(trial, "interrupted", str(error))
            raise
        trial.set_user_attr("run_id", child.run_id)
        return child

    def _fit(
        self, trial: optuna.Trial, child: ChildRun, number: int, seed: int, slot: Slot
    ) -> tuple[keras.Model, Fitted]:
        keras.utils.set_random_seed(derive(seed, "weights"))
        hp = OptunaHyperParameters(trial, self.space)
        model = self.hypermodel.build(hp)
        name = TrialName(number, hp.values)
        child.tag({MLFLOW_RUN_NAME: name})
        child.params({**hp.values, **self.settings, "trial_seed": seed})
        self.progress.begin_trial(str(name), is_promoted=PROMOTED in trial.user_attrs)

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            child.epoch(epoch, metrics)
            value = metrics[self.trainer.settings.monitor]
            self.study.report(trial, value, epoch)
            self.progress.epoch(epoch, value)
            if time.monotonic() > self.deadline:
                raise OutOfTimeError("budget.timeout_s is over")
            if self.study.should_stop(trial, epoch):
                raise optuna.TrialPruned(f"{value:.4g} at epoch {epoch} was not among the best at that epoch")

        return model, self.trainer.fit(self.hypermodel, hp, model, derive(seed, "fit"), listen, slot=slot)

    def _finish(self, trial: optuna.Trial, child: ChildRun, model: keras.Model, fitted: Fitted) -> None:
        value = fitted.metrics[self.trainer.settings.monitor]
        best = {f"best/{key}": number for key, number in fitted.metrics.items() if not key.startswith("time/")}
        child.metrics({**best, "best/epoch": fitted.best_epoch})
        self.keep_model(model, child, value)
        self.study.complete(trial, value)
        child.end("FINISHED")
        self.progress.end_trial("finished", value)

    def _pause(self, trial: optuna.Trial, child: ChildRun, message: str) -> None:
        child.tag({"hpsearch.reason": "paused", "hpsearch.message": message})
        child.flush()
        child.client.update_run(child.run_id, status="SCHEDULED")
        self.study.pause(trial)
        self.progress.end_trial("paused", None)

    def _end(self, trial: optuna.Trial, child: ChildRun, reason: str, message: str, status: str) -> None:
        child.tag({"hpsearch.reason": reason, "hpsearch.message": message})
        self.study.prune(trial, reason)
        child.end(status)
        self.progress.end_trial(reason, None)

    def _fail(self, trial: optuna.Trial, child: ChildRun, reason: str, message: str) -> None:
        first_line = " ".join(re.sub(r"\x1b\[\d+m", "", message).split("\n\n")[:2])  # Keras says where, then what
        child.tag({"hpsearch.reason": reason, "hpsearch.message": message[:5000]})
        self.study.fail(trial, reason, first_line)
        child.end("FAILED")
        self.progress.end_trial(f"failed: {first_line}", None)

    def _give_back(self, trial: optuna.Trial, child: ChildRun, error: BaseException) -> None:
        """Tell first, since what stopped the trial may be the tracking store itself."""
        message = str(error) or type(error).__name__
        self.study.fail(trial, "interrupted", message)
        child.tag({"hpsearch.reason": "interrupted", "hpsearch.message": message})
        child.end("KILLED")


def settings_shown(config: Mapping[str, Any], groups: tuple[str, ...]) -> dict[str, object]:
    """Return the plain settings of `groups`, named by their path, as a run shows them."""
    shown: dict[str, object] = {}

    def walk(prefix: str, node: Any) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                if not str(key).startswith("_") or key == "_target_":
                    walk(f"{prefix}.{key}", value)
        else:
            shown[prefix.replace("._target_", ".class")] = node  # `arch` alone is a parameter of `mlflow run`

    for group in groups:
        walk(group, config.get(group, {}))
    return shown
