"""One trial in, one number out: suggest, build, fit, report each epoch, and end with a reason."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import keras
import keras_tuner
import optuna
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from optuna.trial import FrozenTrial

from hpsearch.models.architecture import build_model
from hpsearch.seeds import GLOBAL_GENERATOR, derive
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space
from hpsearch.study.study import SharedStudy
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.warm_start import WARM_START
from hpsearch.study.worker_process import Preempted, can_restart, restart
from hpsearch.tracking.runs import ChildRun, ParentRun, TrialName
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import Checkpoints, Slot
from hpsearch.training.epochs import Fitted
from hpsearch.training.own_fit import becomes_another, finished, owns_fit
from hpsearch.training.trainer import Trainer
from hpsearch.trials.attempt import ANOTHER_HUNG, HAND_OVER_S, Attempt, Ended, GivenBackError
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress
from hpsearch.trials.watchdog import Watch

TRAINED = "hpsearch.trained"  # the tag that says which way a trial's model was trained
MakeHyperModel = Callable[[keras_tuner.HyperParameters], keras_tuner.HyperModel]
TELL_S = 30.0  # within which study and MLflow are told of trials that hang
KeepModel = Callable[[keras.Model, ChildRun, Sequence[float]], None]


@dataclass
class Objective:
    """Runs the trials of one study.

    Args:
        make: Makes the HyperModel of a trial, which builds its model.
        space: The bounds that a trial's hyperparameters are drawn from.
        trainer: Fits it.
        study: Where the trial was claimed, and is ended.
        tracking: Writes its run, a child of `parent`.
        keep_model: Called with each finished trial's model, its run and its values, before the
            trial is told.
        costs: What is measured of each model.
        checkpoints: Where running and paused trials leave what they go on from.
        settings: Plain settings that each child run shows beside its hyperparameters.
        root_seed: Seeds grow from it, the study's name and the trial's number.
        deadline: On `time.monotonic`'s clock; a trial that runs then is given back.
    """

    make: MakeHyperModel
    space: Space
    trainer: Trainer
    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    keep_model: KeepModel
    costs: Costs
    checkpoints: Checkpoints
    progress: Progress
    settings: Mapping[str, object]
    root_seed: int
    deadline: float = float("inf")
    _claiming: threading.Lock = field(default_factory=threading.Lock)
    _said: set[str] = field(default_factory=set)
    _stopped: BaseException | None = None
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _running: dict[int, Attempt] = field(default_factory=dict)  # by Optuna's number

    def claim(self) -> optuna.Trial | None:
        """Return a trial to run, or None, as `SharedStudy.claim` does."""
        with self._claiming:
            return self.study.claim()

    def stop(self, error: BaseException) -> None:
        """Let the trials of all slots be given back, since `error` has ended the search in one of
        them.
        """
        is_from_outside = isinstance(error, (KeyboardInterrupt, Preempted))
        self._stopped = (
            error if is_from_outside else GivenBackError(f"another slot ended the search: {error}")
        )
        self.trainer.stop(self._stopped)

    def leave_if_stopped(self) -> None:
        """Raise what `stop` was told; called where a trial can be given back without a loss."""
        if self._stopped is not None:
            raise self._stopped

    def run(self, trial: optuna.Trial) -> None:
        """Run a claimed trial to its end, whatever that is; see `Attempt.kept` for what is raised."""
        attempt = self._running[trial.number] = self._attempt(trial, self.progress.end_trial)
        slot = self.checkpoints.of(self.study.optuna.study_name, attempt.number)
        seed = derive(self.root_seed, self.study.optuna.study_name, "trial", attempt.number)
        budget, trace = self.study.budget, slot.path.with_suffix(".hang")
        attempt.watch = Watch(
            budget.trial_timeout_s, budget.grace_s, lambda: self._end_hanging(attempt), trace
        )
        try:
            with attempt.kept():
                with attempt.watch:
                    values = self._keep(attempt, *self._fit(attempt, seed, slot))
                attempt.finish(*values)
        finally:
            del self._running[trial.number]
        if attempt.has_failed and self.trainer.n_slots == 1:  # else others may be at it
            self.trainer.let_go()
        if attempt.is_over:
            slot.remove()

    def _end_hanging(self, attempt: Attempt) -> None:
        """End a trial that does not end itself, and its process; the others of this process are
        tried again.
        """
        with self._ending:  # for good: the process ends here
            culprit = self._culprit(attempt)
            for other in list(self._running.values()):
                if other is not culprit and other.watch is not None:
                    other.watch.is_pardoned = True
            self.stop(GivenBackError(ANOTHER_HUNG))
            deadline = time.monotonic() + self.study.budget.grace_s / 2
            while (
                len(self._running) > 1 and time.monotonic() < deadline
            ):  # those that train give themselves back
                time.sleep(0.1)
            thread = threading.Thread(target=self._end_all, args=(culprit,), daemon=True)
            thread.start()
            thread.join(TELL_S)  # the trial may hold what this needs
            if can_restart():
                restart()
            said = f"Error: trial {culprit.number} hangs, and nothing but the end of this process ends it."
            os.write(2, f"{said} The same command goes on.\n".encode())
            os._exit(1)

    def _culprit(self, attempt: Attempt) -> Attempt:
        """Return the trial that hangs: where the one that is overdue only waits for others, the
        most silent of them.
        """
        busy = [a for a in self._running.values() if a.watch is not None and not a.watch.is_waiting]
        if attempt in busy or not busy:
            return attempt
        return min(busy, key=lambda a: a.watch.last if a.watch else 0.0)

    def _end_all(self, culprit: Attempt) -> None:
        running = list(self._running.values())
        for attempt in running:
            if attempt is culprit:
                attempt.expire(attempt.watch.place if attempt.watch else "")
            else:
                attempt.give_back(TrialEnd.INTERRUPTED, ANOTHER_HUNG)
        if can_restart():
            self.progress.say("The search goes on in a fresh process.")
        for attempt in running:
            attempt.run.arrive(HAND_OVER_S)

    def _attempt(self, trial: optuna.Trial | FrozenTrial, ended: Ended) -> Attempt:
        return Attempt.of(
            trial,
            study=self.study,
            tracking=self.tracking,
            parent=self.parent,
            ended=ended,
            deadline=self.deadline,
        )

    def end_paused(self) -> None:
        """End the trials that are paused for good, and remove the checkpoints that nobody goes on
        from.
        """
        for trial in self.study.end_paused():
            attempt = self._attempt(trial, lambda *_: None)
            attempt.name = TrialName(attempt.number, self.space.values(trial))
            attempt.close(TrialEnd.PRUNED, "it was not promoted")
        if not self.study.others_run():
            self.checkpoints.clear(self.study.optuna.study_name)

    def _fit(
        self, attempt: Attempt, seed: int, slot: Slot
    ) -> tuple[Fitted, keras.Model, dict[str, float]]:
        """Return the fit of a trial, the model as it is kept, and what that costs."""
        self.progress.begin_trial(attempt.number)
        hp = OptunaHyperParameters(attempt.trial, self.space)
        with GLOBAL_GENERATOR:
            keras.utils.set_random_seed(derive(seed, "weights"))
            hypermodel = self.make(hp)
            model = build_model(hypermodel, hp)
        attempt.name = TrialName(attempt.number, hp.values)
        attempt.run.tag({MLFLOW_RUN_NAME: attempt.name, **self._origin(attempt)})
        logged = {**self.settings, **hp.values, "trial_seed": seed}
        attempt.run.params(logged)
        self.progress.built(str(attempt.name))

        def listen(epoch: int, metrics: Mapping[str, float]) -> None:
            value = metrics[self.trainer.settings.monitor]
            self.progress.epoch(epoch, value)
            attempt.epoch(epoch, metrics, value)
            self.leave_if_stopped()

        costs = {} if becomes_another(hypermodel) else self._weigh(attempt, model)

        def told(way: str) -> None:
            attempt.run.tag({TRAINED: way})
            self._say_once(f"Models are trained {way}.")

        fitted = self.trainer.fit(
            hypermodel, hp, model, derive(seed, "fit"), listen, slot=slot, told=told
        )
        if owns_fit(hypermodel):  # which may have asked for more than its build
            self.space.check_used(hp.asked)
            attempt.run.params(
                {name: value for name, value in hp.values.items() if name not in logged}
            )
        kept = finished(hypermodel, model)
        return fitted, kept, costs or self._weigh(attempt, kept)

    def _say_once(self, sentence: str) -> None:
        with self._claiming:
            if sentence in self._said:
                return
            self._said.add(sentence)
        self.progress.say(sentence)

    def _weigh(self, attempt: Attempt, model: keras.Model) -> dict[str, float]:
        """Measure what a model costs; InfeasibleError ends the trial where that is too much."""
        found = self.costs.of(model)
        if not found:
            return found
        attempt.run.metrics({f"model/{name}": value for name, value in found.items()})
        self.study.constrain(attempt.trial, self.costs.excess(found))
        self.costs.check(found)
        return found

    def _keep(
        self, attempt: Attempt, fitted: Fitted, model: keras.Model, costs: Mapping[str, float]
    ) -> list[float]:
        """Keep what a fit came to, and return the values that the trial ends with."""
        best = {
            f"best/{key}": number
            for key, number in fitted.metrics.items()
            if not key.startswith("time/")
        }
        attempt.run.metrics({**best, "best/epoch": fitted.best_epoch})
        values = [fitted.metrics[self.trainer.settings.monitor]]
        values += [costs[self.costs.second_objective]] if self.costs.second_objective else []
        self.keep_model(model, attempt.run, values)
        return values

    def _origin(self, attempt: Attempt) -> dict[str, object]:
        begun = attempt.trial.user_attrs.get(WARM_START)
        return {f"hpsearch.{WARM_START}": begun} if begun else {}
