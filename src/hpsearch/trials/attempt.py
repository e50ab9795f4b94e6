"""What a trial's process takes of its machine; MLflow shows it among the system metrics of the run.

One try of one trial: its lease and its run, kept while it runs, and ended alike in the study and in
MLflow.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import optuna
import psutil
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME
from optuna.trial import FrozenTrial

from hpsearch.errors import DivergedError, InfeasibleError, TakenOverError, UserError
from hpsearch.study.leases import Lease
from hpsearch.study.study import SharedStudy, number_of, taken_over
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.worker_process import Preempted, leave_if_asked
from hpsearch.tracking.runs import ChildRun, ParentRun, TrialName
from hpsearch.tracking.tracking import Tracking
from hpsearch.trials.watchdog import TrialTimedOutError, Watch

MEGABYTE = 1e6


class Load:
    """Measures the process that it is made in; a tenth of a millisecond each time."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent()  # the next call tells of the time since this one

    def now(self) -> dict[str, float]:
        """Return the share of the machine's processors since the last call, in per cent, and the
        memory now.
        """
        with self._process.oneshot():
            cpu = self._process.cpu_percent() / (os.cpu_count() or 1)
            memory = self._process.memory_info().rss / MEGABYTE
        return {"system/process_cpu_percent": cpu, "system/process_memory_megabytes": memory}


Ended = Callable[[str, float | None], None]
TAKEN_OVER = (
    TakenOverError,
    optuna.exceptions.UpdateFinishedTrialError,
)  # the second where Optuna itself writes
NO_MEMORY = re.compile(  # XLA and CUDA say it in their text alone
    "ResourceExhausted|MemoryError|RESOURCE_EXHAUSTED|OUT_OF_MEMORY|ALLOC_FAILED|[Oo]ut of "
    "memory|bad_alloc"
    "|Cannot allocate memory"
)
NO_ROOM = (
    "There was not enough memory: give a smaller training.batch_size, a smaller model by "
    "space.bounds, fewer workers "
    "or trainer.n_slots on the device, or on a GPU training.precision=mixed_bfloat16. "
)
TOO_LONG = (
    "It took longer than budget.trial_timeout_s={limit_s:g} seconds: give it longer, fewer "
    "training.epochs or a "
    "smaller model by space.bounds, or look for what hangs in the model's own code."
)
ANOTHER_HUNG = "another trial of its process hung"
# what another worker may go on with at once should have arrived in MLflow, if that is there
HAND_OVER_S = 5.0


class OutOfTimeError(Exception):
    """The search's time is over in the middle of a trial."""


class GivenBackError(Exception):
    """Another slot has ended the search: what this one was trying is given back."""


@dataclass
class Attempt:
    """A claimed trial that is being tried.

    Args:
        study: Where it was claimed, and is ended.
        trial: It.
        run: Its MLflow run.
        number: What it is called and seeded by.
        lease: Says whether another worker has taken it over.
        ended: Called with what it came to, in a word or a sentence, and its value if it has one.
        deadline: On `time.monotonic`'s clock; a trial that runs then is given back.
        name: What its run is called; the reason is added where it does not finish.
        load: What the trial's process takes of its machine.
        watch: Ends it where it takes too long, from when it is entered.
        is_over: Whether it has ended for good: not given back, not paused.
        has_failed: Whether that was in a way that may have left anything behind.
    """

    study: SharedStudy
    trial: Any
    run: ChildRun
    number: int
    lease: Lease
    ended: Ended
    deadline: float
    name: TrialName
    load: Load = field(default_factory=Load)
    watch: Watch | None = None
    is_over: bool = False
    has_failed: bool = False

    @classmethod
    def of(
        cls,
        trial: optuna.Trial | FrozenTrial,
        *,
        study: SharedStudy,
        tracking: Tracking,
        parent: ParentRun,
        ended: Ended,
        deadline: float,
    ) -> Attempt:
        """Open the trial's run and lease."""
        number, is_retry = number_of(trial), "retry_of" in trial.user_attrs
        run = tracking.open_child(parent, number, is_retry)
        return cls(
            study, trial, run, number, study.lease(trial), ended, deadline, TrialName(number, {})
        )

    @contextmanager
    def kept(self) -> Iterator[Attempt]:
        """Keep the lease while the block runs and end the trial as that ends; what ends the search
        is raised.

        Raises:
            KeyboardInterrupt: The person stopped the search; the trial will be tried again.
            Preempted: The same, by the cluster.
            OutOfTimeError: The same, by the budget's clock.
            GivenBackError: The same, by what another slot met.
            UserError: No trial of this search could do better, such as an unknown metric.
        """
        with self.lease.kept():
            try:
                yield self
            except TAKEN_OVER as error:
                self._taken_over(error)
            except optuna.TrialPruned as error:
                self._stop(str(error))
            except TrialTimedOutError:
                self._time_out()
            except (DivergedError, InfeasibleError) as error:
                self._prune(_end_of(error), str(error))
            except Preempted as error:
                self.give_back(TrialEnd.PREEMPTED, str(error))
                raise
            except (
                KeyboardInterrupt,
                OutOfTimeError,
                GivenBackError,
                SystemExit,
                UserError,
            ) as error:
                self.give_back(TrialEnd.INTERRUPTED, str(error) or type(error).__name__)
                raise
            except (
                Exception
            ) as error:  # a trial may fail in any way; the search goes on until budget.max_failures
                self._fail_by(error)

    def epoch(self, epoch: int, metrics: Mapping[str, float], value: float) -> None:
        """Write an epoch's metrics (counted from 1), and tell the pruner the value that is
        monitored.

        Raises:
            TrialPruned: It is not among the best.
            TakenOverError: Another worker took this one for dead and tries the trial again.
            OutOfTimeError: The search's time is over.
            Preempted: The cluster asked this worker to go.
            TrialTimedOutError: It has taken longer than a trial may.
        """
        if self.lease.is_lost.is_set():
            raise taken_over(self.trial)
        self.run.epoch(epoch, {**metrics, **self.load.now()})
        self.study.report(self.trial, value, epoch)
        leave_if_asked()
        if time.monotonic() > self.deadline:
            raise OutOfTimeError("budget.timeout_s is over")
        if self.study.should_stop(self.trial, epoch):
            raise optuna.TrialPruned(
                f"{value:.4g} at epoch {epoch} was not among the best at that epoch"
            )
        if self.watch is not None:
            self.watch.epoch()

    def finish(self, value: float, *more: float) -> None:
        """End it with its value, and that of a second objective.

        The run's end is written first: what the study knows as complete, MLflow will know, whoever
        dies in between.
        """
        self.close(TrialEnd.FINISHED)
        self._tell(lambda: self.study.complete(self.trial, value, *more), TrialEnd.FINISHED, value)

    def _stop(self, message: str) -> None:
        if not self.study.pauses:
            self._prune(TrialEnd.PRUNED, message)
            return
        self.close(TrialEnd.PAUSED, message)
        self.run.arrive(HAND_OVER_S)
        try:
            self.study.pause(self.trial)
        except TAKEN_OVER as error:
            self._taken_over(error)
        else:
            self.ended(TrialEnd.PAUSED.word, None)

    def _prune(self, end: TrialEnd, message: str) -> None:
        self.close(end, message)
        self._tell(lambda: self.study.prune(self.trial, end, message), end, None)

    def _tell(self, tell: Callable[[], None], end: TrialEnd, value: float | None) -> None:
        try:
            tell()
        except TAKEN_OVER as error:
            self._taken_over(error)
        else:
            self.is_over = True
            self.ended(end.word, value)

    def _time_out(self) -> None:
        if self.watch is not None:
            self.watch.end()  # which the exception may have kept from its own end
        if self.watch is not None and self.watch.is_pardoned:
            self.give_back(TrialEnd.INTERRUPTED, ANOTHER_HUNG)
        else:
            self.expire()

    def _fail_by(self, error: Exception) -> None:
        end = end_of_error(error)
        advice = NO_ROOM if end == TrialEnd.OUT_OF_MEMORY else ""
        self._fail(end, f"{advice}{type(error).__name__}: {error}")

    def _fail(self, end: TrialEnd, message: str) -> None:
        first_line = " ".join(
            re.sub(r"\x1b\[\d+m", "", message).split("\n\n")[:2]
        )  # Keras says where, then what
        self.close(end, message[:5000])
        self.study.fail(self.trial, end, first_line)
        self.is_over = self.has_failed = True
        self.ended(f"failed: {first_line}", None)

    def expire(self, place: str = "") -> None:
        """End it since it took too long; `place` is where it hung."""
        limit_s = self.study.budget.trial_timeout_s or 0.0
        self._fail(
            TrialEnd.TIMED_OUT,
            TOO_LONG.format(limit_s=limit_s) + (f" It hung in {place}." if place else ""),
        )

    def give_back(self, end: TrialEnd, message: str) -> None:
        """End this try, so that the trial is tried again."""
        self.close(end, message)
        self.run.arrive(HAND_OVER_S)
        self.study.fail(self.trial, end, message)

    def close(self, end: TrialEnd, message: str = "") -> None:
        """End the trial's run and write how the trial ended: into its tags and, if it has no result, its name."""
        tags: dict[str, object] = {"hpsearch.end": end.word}
        if end != TrialEnd.FINISHED:
            tags["hpsearch.message"] = message
            tags[MLFLOW_RUN_NAME] = replace(self.name, reason=end.word)
        self.run.tag(tags)
        self.run.end(str(end.mlflow_status))

    def _taken_over(self, error: Exception) -> None:
        self.run.abandon()
        self.ended(
            f"failed: {error if isinstance(error, TakenOverError) else taken_over(self.trial)}",
            None,
        )


def end_of_error(error: BaseException) -> TrialEnd:
    """Return how a trial ends in which an error was raised that nobody foresaw."""
    names = " ".join(cls.__name__ for cls in type(error).__mro__)
    if NO_MEMORY.search(f"{names} {error}"):
        return TrialEnd.OUT_OF_MEMORY
    return TrialEnd.ERROR


def _end_of(error: DivergedError | InfeasibleError) -> TrialEnd:
    if isinstance(error, DivergedError):
        return TrialEnd.DIVERGED
    return TrialEnd.INFEASIBLE
