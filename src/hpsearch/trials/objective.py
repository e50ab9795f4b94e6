"""Run one trial: draw hyperparameters, build, train, keep a good model, end the trial.

`Objective._try` has these steps, and `run` prepares them and cleans up. A worker runs `n_slots`
trials at once; a slot is the thread of one. `stop` gives all of them back when an error ends the
search. `_end_hanging` finds the trial that hangs and ends the process.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import keras
import keras_tuner
import optuna
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from optuna.trial import FrozenTrial

from hpsearch.errors import Preempted
from hpsearch.models.architecture import build_model
from hpsearch.models.moments import Moments
from hpsearch.seeds import GLOBAL_GENERATOR, derive
from hpsearch.space.bounds import Value
from hpsearch.space.hyperparameters import OptunaHyperParameters
from hpsearch.space.space import Space
from hpsearch.standard_error import standard_error
from hpsearch.study.study import SharedStudy
from hpsearch.study.trial_end import PAUSED_AT, TrialEnd
from hpsearch.study.warm_start import WARM_START
from hpsearch.study.worker_process import this_process
from hpsearch.tracking.runs import END, ChildRun, ParentRun, TrialName
from hpsearch.tracking.tracking import Tracking
from hpsearch.training.checkpoints import CheckpointFile, Checkpoints
from hpsearch.training.epochs import Fitted
from hpsearch.training.own_fit import kept_model, may_change_form, owns_fit
from hpsearch.training.trainer import Trainer
from hpsearch.trials.attempt import Attempt, GivenBackError
from hpsearch.trials.costs import Costs
from hpsearch.trials.progress import Progress
from hpsearch.trials.watchdog import Watch


@dataclass
class Objective:
    """Runs the trials of one study.

    Args:
        make: Makes the HyperModel of a trial, which builds its model.
        space: The bounds that the hyperparameters of a trial are drawn from.
        trainer: Fits the models.
        study: The study in which trials are claimed and ended.
        tracking: Writes the run of each trial.
        parent: The run of the study, whose children are the runs of the trials.
        keep_model: Called with the model of each finished trial, its run, its values and the
            moments of its weights, before the study is told.
        costs: Measures what each model costs.
        checkpoints: Hold what running and paused trials go on from.
        progress: Tells the terminal what happens.
        settings: Plain settings that each child run shows beside its hyperparameters.
        recipe_tags: Returns the tags that record how to train a trial's model anew, given its
            hyperparameters.
        root_seed: The seed of a trial is derived from it, the name of the study and the number of
            the trial.
        deadline: A time of `time.monotonic`; a trial that still runs then is given back.
    """

    make: Callable[[keras_tuner.HyperParameters], keras_tuner.HyperModel]
    space: Space
    trainer: Trainer
    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    keep_model: Callable[[keras.Model, ChildRun, Sequence[float], Moments | None], None]
    costs: Costs
    checkpoints: Checkpoints
    progress: Progress
    settings: Mapping[str, object]
    root_seed: int
    deadline: float = float("inf")
    recipe_tags: Callable[[Mapping[str, Value]], Mapping[str, str]] = lambda values: {}
    _claiming: threading.Lock = field(default_factory=threading.Lock)
    _said: set[str] = field(default_factory=set)
    _stopped: BaseException | None = None
    _ending: threading.Lock = field(default_factory=threading.Lock)
    _running: dict[int, Attempt] = field(default_factory=dict)  # by the number in Optuna

    def claim(self) -> optuna.Trial | None:
        """Return a trial to run, or None, as `SharedStudy.claim` does."""
        with self._claiming:
            return self.study.claim()

    def seed_of(self, *path: str | int) -> int:
        """Return the seed at a path below the root seed and the name of the study."""
        return derive(self.root_seed, self.study.optuna.study_name, *path)

    def run(self, trial: optuna.Trial) -> None:
        """Run a claimed trial to its end; `Attempt.kept` says which errors are raised."""
        attempt = self._attempt(trial, self.progress.end_trial)
        checkpoint_file = self.checkpoints.of(self.study.optuna.study_name, attempt.number)
        budget = self.study.budget
        attempt.watch = Watch(
            budget.trial_timeout_s,
            budget.grace_s,
            lambda: self._end_hanging(attempt),
            checkpoint_file.path.with_suffix(".hang"),
        )
        self._running[trial.number] = attempt
        try:
            self._try(attempt, checkpoint_file)
        finally:
            del self._running[trial.number]
        if attempt.has_failed and self.trainer.n_slots == 1:
            # With more slots, other trials may be using what would be let go.
            self.trainer.let_go()
        if attempt.is_over:
            checkpoint_file.remove()

    def _try(self, attempt: Attempt, checkpoint_file: CheckpointFile) -> None:
        """Build the model of a trial, train it, keep it, and finish the trial.

        An error in any step ends the trial as `Attempt.kept` says.
        """
        seed = self.seed_of("trial", attempt.number)
        with attempt.kept():
            with attempt.watch:
                self.progress.begin_trial(attempt.number)
                hp = OptunaHyperParameters(attempt.trial, self.space)
                hypermodel, model = self._build(hp, seed)
                logged = self._describe(attempt, hp, seed)

                # The costs of a sparse net are measured when training has given it its final form.
                changes = may_change_form(hypermodel)
                if not changes:
                    costs = self._check_costs(attempt, model)

                fitted = self.trainer.fit(
                    hypermodel,
                    hp,
                    model,
                    derive(seed, "fit"),
                    partial(self._listen, attempt),
                    checkpoint_file=checkpoint_file,
                    told=partial(self._tell_way, attempt),
                )
                if owns_fit(hypermodel):
                    self._describe_more(attempt, hp, logged)

                model = kept_model(hypermodel, model)
                if changes:
                    costs = self._check_costs(attempt, model)
                self._log_best(attempt, fitted)
                values = self._values(fitted, costs)
                moments = fitted.snapshots.moments(model)
                self.keep_model(model, attempt.run, values, moments)
            attempt.finish(*values)

    def _build(
        self,
        hp: OptunaHyperParameters,
        seed: int,
    ) -> tuple[keras_tuner.HyperModel, keras.Model]:
        """Draw the hyperparameters, and build a model with them."""
        with GLOBAL_GENERATOR:
            keras.utils.set_random_seed(derive(seed, "weights"))
            hypermodel = self.make(hp)
            model = build_model(hypermodel, hp, self.trainer.data.image_shape)
        return hypermodel, model

    def _describe(
        self,
        attempt: Attempt,
        hp: OptunaHyperParameters,
        seed: int,
    ) -> dict[str, object]:
        """Write the trial's name and parameters to its run, and return the parameters."""
        attempt.name = TrialName(attempt.number, hp.values)
        tags: dict[str, object] = {MLFLOW_RUN_NAME: attempt.name}
        attrs = attempt.trial.user_attrs
        if "retry_of" in attrs or PAUSED_AT in attrs:
            # The run still says how the try before ended.
            tags[END] = ""
            tags["hpsearch.message"] = ""
        origin = attrs.get(WARM_START)
        if origin:
            tags[f"hpsearch.{WARM_START}"] = origin
        attempt.run.tag({**tags, **self.recipe_tags(hp.values)})
        logged = {**self.settings, **hp.values, "trial_seed": seed}
        attempt.run.params(logged)
        self.progress.built(str(attempt.name))
        return logged

    def _describe_more(
        self,
        attempt: Attempt,
        hp: OptunaHyperParameters,
        logged: Mapping[str, object],
    ) -> None:
        """Write the hyperparameters that a HyperModel's own `fit` has asked for after its build."""
        self.space.check_used(hp.asked)
        more = {name: value for name, value in hp.values.items() if name not in logged}
        attempt.run.params(more)
        attempt.run.tag(self.recipe_tags(hp.values))

    def _check_costs(self, attempt: Attempt, model: keras.Model) -> dict[str, float]:
        """Measure what a model costs, and tell its run and the samplers.

        Raises:
            InfeasibleError: A cost is above its limit.
        """
        found = self.costs.of(model)
        if not found:
            return found
        attempt.run.metrics({f"model/{name}": value for name, value in found.items()})
        self.study.constrain(attempt.trial, self.costs.excess(found))
        self.costs.check(found)
        return found

    def _listen(
        self,
        attempt: Attempt,
        epoch: int,
        metrics: Mapping[str, float],
        is_last: bool,
    ) -> None:
        """Tell of an epoch that a fit has ended, and end the trial if it must not go on."""
        monitor = self.trainer.settings.monitor
        self.progress.epoch(epoch, metrics[monitor])
        attempt.epoch(epoch, metrics, monitor, is_last)
        self.leave_if_stopped()

    def _tell_way(self, attempt: Attempt, way: str) -> None:
        """Tag a run with the way its model is trained; say each way once on the terminal."""
        attempt.run.tag({"hpsearch.trained": way})
        with self._claiming:
            if way in self._said:
                return
            self._said.add(way)
        self.progress.say(f"Models are trained {way}.")

    def _values(self, fitted: Fitted, costs: Mapping[str, float]) -> list[float]:
        """Return the value of each objective of the study."""
        values = [fitted.metrics[self.trainer.settings.monitor]]
        if self.costs.second_objective:
            values.append(costs[self.costs.second_objective])
        return values

    def _log_best(self, attempt: Attempt, fitted: Fitted) -> None:
        """Write the metrics of the best epoch to the run."""
        lasting = {key: v for key, v in fitted.metrics.items() if not key.startswith("time/")}
        best = {f"best/{key}": value for key, value in lasting.items()}
        best["best/epoch"] = fitted.best_epoch
        attempt.run.metrics(best)

    def end_paused(self) -> None:
        """End all paused trials as pruned, and remove the checkpoints that are not needed any more.

        Trials are left paused while one that runs may still promote them.
        """
        for trial in self.study.end_paused():
            attempt = self._attempt(trial, lambda *_: None)
            attempt.name = TrialName(attempt.number, self.space.values(trial))
            attempt.close(TrialEnd.PRUNED, "it was not promoted")
        if not self.study.has_work_in_progress():
            self.checkpoints.clear(self.study.optuna.study_name)

    def stop(self, error: BaseException) -> None:
        """Give the trials of all slots back, since `error` has ended the search in one of them."""
        if isinstance(error, (KeyboardInterrupt, Preempted)):
            self._stopped = error
        else:
            self._stopped = GivenBackError(f"another slot ended the search: {error}")
        self.trainer.stop(self._stopped)

    def leave_if_stopped(self) -> None:
        """Raise the error of `stop`, if any; call it where a trial can be given back at no loss."""
        if self._stopped is not None:
            raise self._stopped

    def _attempt(
        self,
        trial: optuna.Trial | FrozenTrial,
        ended: Callable[[str, float | None], None],
    ) -> Attempt:
        return Attempt(
            trial,
            self.study,
            self.tracking,
            self.parent,
            ended=ended,
            deadline=self.deadline,
        )

    def _end_hanging(self, attempt: Attempt) -> None:
        """End a trial that does not end itself, and its process.

        The other trials of this process are tried again.
        """
        with self._ending:  # This is never left, because the process ends here.
            culprit = self._culprit(attempt)
            for other in list(self._running.values()):
                if other is not culprit:
                    other.watch.is_pardoned = True
            self.stop(GivenBackError(Attempt.ANOTHER_HUNG))
            # Trials that train give themselves back at the end of their epoch.
            deadline = time.monotonic() + self.study.budget.grace_s / 2
            while len(self._running) > 1 and time.monotonic() < deadline:
                time.sleep(0.1)
            # The study and MLflow are told. The trial that hangs may hold a lock that this needs,
            # so the wait for it is limited.
            thread = threading.Thread(target=self._end_all, args=(culprit,), daemon=True)
            thread.start()
            thread.join(30.0)
            if this_process.can_restart():
                this_process.restart()
            message = (
                f"Error: trial {culprit.number} hangs, and nothing but the end of this process "
                "ends it. The same command goes on."
            )
            standard_error.tell(message)
            os._exit(1)

    def _culprit(self, overdue: Attempt) -> Attempt:
        """Return the trial that hangs.

        An overdue trial may only be waiting for others. The culprit is then the one of them whose
        last epoch ended the longest ago.
        """
        running = list(self._running.values())  # Other slots change the dictionary meanwhile.
        busy = [attempt for attempt in running if not attempt.watch.is_waiting]
        if overdue in busy or not busy:
            return overdue
        return min(busy, key=lambda attempt: attempt.watch.last)

    def _end_all(self, culprit: Attempt) -> None:
        """End the trial that hangs, and give the other ones back."""
        running = list(self._running.values())
        for attempt in running:
            if attempt is culprit:
                attempt.expire(attempt.watch.place)
            else:
                attempt.give_back(TrialEnd.INTERRUPTED, Attempt.ANOTHER_HUNG)
        if this_process.can_restart():
            self.progress.say("The search goes on in a fresh process.")
        for attempt in running:
            attempt.hand_over()
