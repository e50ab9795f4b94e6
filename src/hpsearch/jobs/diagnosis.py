"""Do a study, its MLflow runs and SLURM's queue agree? What does not is told, and can be put right."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow.entities import Metric, Run
from optuna.trial import FrozenTrial, TrialState

from hpsearch.space.space import Space
from hpsearch.study.leases import WORKER, is_dead
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.delivery import TRIAL
from hpsearch.tracking.runs import ParentRun, TrialName, now_ms
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Finding:
    """Something that disagrees, in a sentence, and what puts it right, if anything does."""

    text: str
    repair: Callable[[], Any] | None = None


@dataclass
class Diagnosis:
    """Compares one study with its runs.

    Args:
        study: The study.
        tracking: The MLflow store.
        parent: The study's run.
        space: Names hyperparameters for people.
        queue: SLURM's jobs, or None where there is no SLURM.
    """

    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    space: Space
    queue: frozenset[str] | None

    def findings(self) -> list[Finding]:
        """Return all that disagrees; an empty list where nothing does.

        What a repair changes may show more, such as the retry of a trial that was released: look
        again after it.
        """
        trials, runs = self.study.trials(), self._runs()
        found = [*self._of_workers(trials), *self._of_budget(trials)]
        tries = _last_tries(trials)
        for number, trial in sorted(tries.items()):
            found += self._of_trial(number, trial, runs.get(number, []))
        for number in sorted(runs.keys() - tries.keys()):
            found += [
                Finding(f"MLflow run {r.info.run_id} is of no trial.", self._delete(r))
                for r in runs[number]
            ]
        return found + list(self._of_parent(trials))

    def _runs(self) -> dict[int, list[Run]]:
        runs: dict[int, list[Run]] = defaultdict(list)
        for run in sorted(self.tracking.children(self.parent), key=lambda r: r.info.start_time):
            runs[int(run.data.tags.get(TRIAL, -1))].append(run)
        return runs

    def _of_workers(self, trials: list[FrozenTrial]) -> Iterator[Finding]:
        for trial in trials:
            job = trial.user_attrs.get("job")
            left = self.queue is not None and job is not None and job not in self.queue
            if trial.state == TrialState.RUNNING and (
                left or is_dead(trial, self.study.budget.lease_s)
            ):
                why = f"SLURM job {job} is over" if left else "its worker is dead"
                text = f"Trial {number_of(trial)} runs in the study, but {why} ({trial.user_attrs.get(WORKER)})."
                yield Finding(text, partial(self.study.fail, trial, TrialEnd.KILLED, why))

    def _of_budget(self, trials: list[FrozenTrial]) -> Iterator[Finding]:
        waiting = [t for t in trials if t.state == TrialState.WAITING]
        if waiting and not self.study.budget.has_room(trials):
            for trial in waiting:
                text = f"Trial {number_of(trial)} waits to be tried again, but the budget is spent."
                yield Finding(
                    text, partial(self.study.fail, trial, TrialEnd.SURPLUS, "the budget is spent")
                )

    def _of_trial(self, number: int, trial: FrozenTrial, runs: list[Run]) -> Iterator[Finding]:
        for double in runs[1:]:
            text = f"Trial {number} has a second MLflow run {double.info.run_id}."
            yield Finding(text, self._delete(double))
        end = TrialEnd.of(trial)
        expected = _expected_status(end)
        if not runs:
            if trial.state != TrialState.RUNNING:
                yield Finding(
                    f"Trial {number} has no MLflow run.", partial(self._write, number, trial)
                )
            return
        run = runs[0]
        if not _agrees(run.info.status, end):
            text = f"Trial {number} is {trial.state.name} in the study, its MLflow run {run.info.status}."
            tags = {}
            if end is not None:
                tags["hpsearch.end"] = end.word
            yield Finding(text, partial(self._end, run.info.run_id, expected, tags))
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            yield from self._of_values(number, trial, run)

    def _of_values(self, number: int, trial: FrozenTrial, run: Run) -> Iterator[Finding]:
        monitor, client = self._monitor(), self.tracking.client
        history = client.get_metric_history(run.info.run_id, monitor)
        counts = Counter(m.step for m in history)
        doubled = sorted(step for step, count in counts.items() if count > 1)
        if doubled:
            yield Finding(
                f"Trial {number} has {monitor} of epochs {doubled} more than once in MLflow."
            )
        missing = {
            step: value for step, value in trial.intermediate_values.items() if step not in counts
        }
        if missing:
            text = f"Trial {number} lacks {monitor} of epochs {sorted(missing)} in MLflow."
            yield Finding(text, partial(self._write_values, run.info.run_id, missing))

    def _of_parent(self, trials: list[FrozenTrial]) -> Iterator[Finding]:
        status = self.tracking.client.get_run(self.parent.run_id).info.status
        runs = any(t.state == TrialState.RUNNING for t in trials)
        if status == "RUNNING" and not runs:
            over = "KILLED" if self.study.budget.has_room(trials) else "FINISHED"
            yield Finding(
                "No trial runs, but the study's MLflow run does.", partial(self.parent.end, over)
            )

    def _monitor(self) -> str:
        return str(self.study.optuna.user_attrs["settings"]["training.monitor"])

    def _delete(self, run: Run) -> Callable[[], Any]:
        return partial(self.tracking.client.delete_run, run.info.run_id)

    def _end(self, run_id: str, status: str, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            self.tracking.client.set_tag(run_id, key, value)
        if status == "RUNNING":
            self.tracking.client.update_run(run_id, status=status)
        else:
            self.tracking.client.set_terminated(run_id, status)

    def _write(self, number: int, trial: FrozenTrial) -> None:
        values = self.space.values(trial)
        run = self.tracking.open_child(self.parent, number, is_retry=True)
        end = TrialEnd.of(trial)
        tags: dict[str, object] = {"hpsearch.written_by": "hpsearch.doctor"}
        name = TrialName(number, values)
        if end is not None:
            tags["hpsearch.end"] = end.word
            if end != TrialEnd.FINISHED:
                name = TrialName(number, values, end.word)
        run.tag({**tags, "mlflow.runName": name})
        run.params(values)
        for step, value in trial.intermediate_values.items():
            run.metrics({self._monitor(): value}, step)
        run.end(_expected_status(end))
        self.tracking.spool.drain(self.tracking.patience_s)

    def _write_values(self, run_id: str, values: dict[int, float]) -> None:
        metrics = [Metric(self._monitor(), value, now_ms(), step) for step, value in values.items()]
        self.tracking.client.log_batch(run_id, metrics=metrics)


def _expected_status(end: TrialEnd | None) -> str:
    """Return the status in MLflow of the run of a trial that ended so; None stands for one that runs."""
    if end is None:
        return "RUNNING"
    return str(end.mlflow_status)


def _agrees(status: str, end: TrialEnd | None) -> bool:
    """Return whether a run's status fits its trial's end; earlier versions wrote KILLED for pruned ones."""
    if status == "KILLED" and end in {TrialEnd.PRUNED, TrialEnd.INFEASIBLE}:
        return True
    return status == _expected_status(end)


def _last_tries(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return the last try of each trial that has begun, by its number; surplus ones never ran."""
    begun = [
        t for t in trials if t.state != TrialState.WAITING and TrialEnd.of(t) != TrialEnd.SURPLUS
    ]
    return {number_of(t): t for t in begun}
