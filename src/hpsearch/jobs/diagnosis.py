"""Compare a study with its MLflow runs and with SLURM's queue, and repair what disagrees.

`hpsearch doctor` prints the findings, and repairs them where a person asks for that.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from optuna.trial import FrozenTrial, TrialState

from hpsearch.space.space import Space
from hpsearch.study.leases import WORKER
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.tracking.delivery import TRIAL
from hpsearch.tracking.runs import END, ParentRun, TrialName, now_ms
from hpsearch.tracking.tracking import Tracking


class _Finding(NamedTuple):
    """A disagreement between the study, its runs and SLURM's queue.

    Attributes:
        text: A sentence that says what disagrees.
        repair: Call it to put that right; None where nothing does.
    """

    text: str
    repair: Callable[[], object] | None = None


@dataclass
class Diagnosis:
    """Compare a study with its MLflow runs and with SLURM's queue.

    Args:
        study: The study.
        tracking: The MLflow store.
        parent: The run of the study.
        space: Converts hyperparameters to the values that people see.
        queue: The ids of SLURM's jobs; None where there is no SLURM.
    """

    study: SharedStudy
    tracking: Tracking
    parent: ParentRun
    space: Space
    queue: frozenset[str] | None

    def findings(self) -> list[_Finding]:
        """Return all disagreements; an empty list where there is none.

        A repair may cause new ones. A trial that was released, for instance, is tried again.
        Look again after each repair.
        """
        trials = self.study.trials()
        runs = self._runs()
        found = list(self._of_workers(trials))
        found += self._of_budget(trials)
        tries = _last_tries(trials)
        for number, trial in sorted(tries.items()):
            of_trial = runs.pop(number, [])
            found += self._of_trial(number, trial, of_trial)
        for number in sorted(runs):
            for run in runs[number]:
                text = f"MLflow run {run.info.run_id} is of no trial."
                found.append(self._surplus(run, text))
        found += self._of_parent(trials)
        return found

    def _runs(self) -> dict[int, list[Run]]:
        """Return the runs of the trials by the trial's number, the earliest first."""
        runs = defaultdict(list)
        children = self.tracking.children(self.parent)
        for run in sorted(children, key=lambda child: child.info.start_time):
            tags = run.data.tags
            number = int(tags.get(TRIAL, -1))
            runs[number].append(run)
        return runs

    def _surplus(self, run: Run, text: str) -> _Finding:
        """Return a finding that the deletion of a run puts right."""
        return _Finding(text, partial(self._client.delete_run, run.info.run_id))

    def _of_workers(self, trials: list[FrozenTrial]) -> Iterator[_Finding]:
        """Return a finding for each trial that runs in the study, but whose worker has ended."""
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            why = self._why_over(trial)
            if why is None:
                continue
            number = number_of(trial)
            worker = trial.user_attrs.get(WORKER)
            text = f"Trial {number} runs in the study, but {why} ({worker})."
            fail = partial(self.study.fail, trial, TrialEnd.KILLED, why)
            yield _Finding(text, fail)

    def _why_over(self, trial: FrozenTrial) -> str | None:
        """Return the reason why nothing runs a trial; None where its worker may be alive."""
        job = trial.user_attrs.get("job")
        if self.queue is not None and job is not None and job not in self.queue:
            return f"SLURM job {job} is over"
        if self.study.lease(trial).has_lost_worker():
            return "its worker is dead"
        return None

    def _of_budget(self, trials: list[FrozenTrial]) -> Iterator[_Finding]:
        """Return a finding for each trial that waits, but for which the budget has no room."""
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        if not waiting or self.study.budget.has_room(trials):
            return
        why = "the budget is spent"
        for trial in waiting:
            number = number_of(trial)
            text = f"Trial {number} waits to be tried again, but {why}."
            fail = partial(self.study.fail, trial, TrialEnd.SURPLUS, why)
            yield _Finding(text, fail)

    def _of_trial(
        self,
        number: int,
        trial: FrozenTrial,
        runs: list[Run],
    ) -> Iterator[_Finding]:
        """Return the disagreements of a trial and its runs, the earliest of which counts."""
        for double in runs[1:]:
            text = f"Trial {number} has a second MLflow run {double.info.run_id}."
            yield self._surplus(double, text)
        if not runs:
            if trial.state != TrialState.RUNNING:
                text = f"Trial {number} has no MLflow run."
                yield _Finding(text, partial(self._write, number, trial))
            return
        run_id = runs[0].info.run_id
        status = runs[0].info.status
        end = TrialEnd.of(trial)
        if not _agrees(status, end):
            state = trial.state.name
            text = f"Trial {number} is {state} in the study, its MLflow run {status}."
            yield _Finding(text, partial(self._end, run_id, end))
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            yield from self._of_values(number, trial.intermediate_values, run_id)

    def _of_values(
        self, number: int, values: Mapping[int, float], run_id: str
    ) -> Iterator[_Finding]:
        """Return the disagreements of the values that a trial and its run have for each epoch."""
        monitor = self._monitor
        history = self._client.get_metric_history(run_id, monitor)
        counts = Counter(metric.step for metric in history)
        doubled = []
        for epoch, count in sorted(counts.items()):
            if count > 1:
                doubled.append(epoch)
        if doubled:
            text = f"Trial {number} has {monitor} of epochs {doubled} more than once in MLflow."
            yield _Finding(text)
        missing = {}
        for epoch, value in values.items():
            if epoch not in counts:
                missing[epoch] = value
        if missing:
            epochs = sorted(missing)
            text = f"Trial {number} lacks {monitor} of epochs {epochs} in MLflow."
            yield _Finding(text, partial(self._write_values, run_id, missing))

    def _of_parent(self, trials: list[FrozenTrial]) -> Iterator[_Finding]:
        """Return a finding where the run of the study is open, but no trial runs."""
        run = self._client.get_run(self.parent.run_id)
        runs = any(trial.state == TrialState.RUNNING for trial in trials)
        if run.info.status != "RUNNING" or runs:
            return
        over = "FINISHED"
        if self.study.budget.has_room(trials):
            over = "KILLED"
        text = "No trial runs, but the study's MLflow run does."
        yield _Finding(text, partial(self.parent.end, over))

    @property
    def _client(self) -> MlflowClient:
        return self.tracking.client

    @property
    def _monitor(self) -> str:
        return str(self.study.optuna.user_attrs["settings"]["training.monitor"])

    def _end(self, run_id: str, end: TrialEnd | None) -> None:
        """Give a run the tag and the status that fit the end of its trial, or a running trial."""
        status = _expected_status(end)
        if end is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_tag(run_id, END, end.word)
            self._client.set_terminated(run_id, status)

    def _write(self, number: int, trial: FrozenTrial) -> None:
        """Write the run of a trial that has none."""
        values = self.space.values(trial)
        run = self.tracking.open_child(self.parent, number, is_retry=True)
        end = TrialEnd.of(trial)
        tags: dict[str, object] = {"hpsearch.written_by": "hpsearch.doctor"}
        shown = ""
        if end is not None:
            tags[END] = end.word
            if end != TrialEnd.FINISHED:
                shown = end.word
        tags["mlflow.runName"] = TrialName(number, values, shown)
        run.tag(tags)
        run.params(values)
        for step, value in trial.intermediate_values.items():
            run.metrics({self._monitor: value}, step)
        run.end(_expected_status(end))
        self.tracking.spool.drain(self.tracking.patience_s)

    def _write_values(self, run_id: str, values: dict[int, float]) -> None:
        """Write the values of epochs that a run lacks."""
        monitor = self._monitor
        now = now_ms()
        metrics = []
        for epoch, value in values.items():
            metrics.append(Metric(monitor, value, now, epoch))
        self._client.log_batch(run_id, metrics=metrics)


def _expected_status(end: TrialEnd | None) -> str:
    """Return the status of a run whose trial has this end; None stands for a trial that runs."""
    if end is None:
        return "RUNNING"
    return str(end.mlflow_status)


def _agrees(status: str, end: TrialEnd | None) -> bool:
    """Return whether the status of a run fits the end of its trial.

    Earlier versions wrote KILLED for pruned trials.
    """
    if status == "KILLED" and end in {TrialEnd.PRUNED, TrialEnd.INFEASIBLE}:
        return True
    return status == _expected_status(end)


def _last_tries(trials: list[FrozenTrial]) -> dict[int, FrozenTrial]:
    """Return the last try of each trial that has begun, by its number; surplus ones never ran."""
    tries = {}
    for trial in trials:
        if trial.state == TrialState.WAITING:
            continue
        if TrialEnd.of(trial) != TrialEnd.SURPLUS:
            tries[number_of(trial)] = trial
    return tries
