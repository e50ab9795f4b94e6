"""One try of one trial: opens its MLflow run, keeps its lease, and writes how the trial ends.

`Attempt.kept` is the block in which a trial runs. It turns what the block raises into an end of the
trial. `Attempt._end` makes sure that the trial still belongs to this worker, and then writes each
end in the same order: to MLflow, to the study, to the terminal. What the ends mean in each of them
is the table in `hpsearch.study.trial_end`.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import optuna
import psutil
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

from hpsearch.errors import DivergedError, InfeasibleError, Preempted, TakenOverError, UserError
from hpsearch.secrets_in_text import without_secrets
from hpsearch.study.study import SharedStudy, number_of
from hpsearch.study.trial_end import TrialEnd
from hpsearch.study.worker_process import this_process
from hpsearch.tracking.runs import END, ParentRun, TrialName
from hpsearch.tracking.tracking import Tracking
from hpsearch.trials.watchdog import TrialTimedOutError, Watch


class OutOfTimeError(Exception):
    """The time of the search is over in the middle of a trial."""


class GivenBackError(Exception):
    """Another slot has ended the search, so the trial of this slot is given back."""


class Attempt:
    """A claimed trial while it is being tried.

    Args:
        trial: The trial in Optuna.
        study: The study in which the trial was claimed and is ended.
        tracking: Opens the MLflow run of the trial.
        parent: The run of the study.
        ended: Called with the end of the trial as a word or a sentence, and its value or None.
        deadline: A time of `time.monotonic`; a trial that still runs then is given back.

    Attributes:
        run: The MLflow run of the trial.
        number: The number that names and seeds the trial.
        name: The name of the run; its end is added if the trial does not finish.
        watch: Ends the trial if it takes too long, counted from when the watch is entered.
        has_ended: Whether this try has ended, and the study knows it.
        is_over: Whether the trial has ended for good: it is neither given back nor paused.
        has_failed: Whether the try failed, which may have left anything behind.
    """

    ANOTHER_HUNG: ClassVar = "another trial of its process hung"
    # Optuna raises the second where it writes to a trial itself.
    _TAKEN_OVER: ClassVar = (TakenOverError, optuna.exceptions.UpdateFinishedTrialError)

    def __init__(
        self,
        trial: Any,
        study: SharedStudy,
        tracking: Tracking,
        parent: ParentRun,
        *,
        ended: Callable[[str, float | None], None],
        deadline: float,
    ) -> None:
        self.trial = trial
        self.study = study
        self.number = number_of(trial)
        is_retry = "retry_of" in trial.user_attrs
        self.run = tracking.open_child(parent, self.number, is_retry)
        self.name = TrialName(self.number, {})
        self.watch = Watch(None)
        self.has_ended = False
        self.is_over = False
        self.has_failed = False
        self._ended = ended
        self._deadline = deadline
        self._lease = study.lease(trial)
        self._process = psutil.Process()
        self._process.cpu_percent()  # The next call measures from here.

    @contextmanager
    def kept(self) -> Iterator[Attempt]:
        """Keep the lease while the block runs, and end the trial by the error that is raised in it.

        An error that ends the whole search is raised again.

        Raises:
            KeyboardInterrupt: The person stopped the search; the trial will be tried again.
            Preempted: The cluster stopped the search; the trial will be tried again.
            OutOfTimeError: The time of the budget is over; the trial will be tried again.
            GivenBackError: Another slot ended the search; the trial will be tried again.
            UserError: No trial of this search could do better, such as with an unknown metric.
        """
        with self._lease.kept():
            try:
                yield self
            except self._TAKEN_OVER as error:
                self._abandon(error)
            except optuna.TrialPruned as error:
                self._stop(str(error))
            except TrialTimedOutError:
                self._time_out()
            except (DivergedError, InfeasibleError) as error:
                self._prune(self.end_of(error), str(error))
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
                message = str(error) or type(error).__name__
                self.give_back(TrialEnd.INTERRUPTED, message)
                raise
            except Exception as error:
                # A trial may fail in any way. The search goes on until budget.max_failures.
                self._fail_by(error)

    def epoch(
        self,
        epoch: int,
        metrics: Mapping[str, float],
        monitor: str,
        is_last: bool,
    ) -> None:
        """Write the metrics of an epoch, and report the monitored one to the pruner.

        Args:
            epoch: The number of the epoch, from 1.
            metrics: The metrics by their keys in MLflow.
            monitor: The key of the monitored metric.
            is_last: Whether the training is over. The pruner is not asked then, because it can save
                no epoch, and a trial that has its result is finished.

        Raises:
            TrialPruned: The pruner stops the trial.
            TakenOverError: Another worker took this one for dead and tries the trial again.
            OutOfTimeError: The time of the search is over.
            Preempted: The cluster asked this worker to leave.
            TrialTimedOutError: The trial has taken longer than a trial may.
        """
        if self._lease.is_lost.is_set():
            raise self.study.taken_over(self.trial)
        self.run.metrics({**metrics, **self._load()}, epoch)
        value = metrics[monitor]
        self.study.report(self.trial, value, epoch)
        this_process.leave_if_asked()
        if time.monotonic() > self._deadline:
            raise OutOfTimeError("budget.timeout_s is over")
        if not is_last and self.study.should_stop(self.trial, epoch):
            when = f"in epoch {epoch} at {monitor}={value:.4g}"
            raise optuna.TrialPruned(self._why_stopped(when))
        self.watch.epoch()

    def _load(self) -> dict[str, float]:
        """Measure what this process takes of its machine, in a tenth of a millisecond.

        MLflow shows the values among the system metrics of a run.

        Returns:
            The share of all processors of the machine since the last call, in per cent; the
            resident memory in MB.
        """
        with self._process.oneshot():
            percent = self._process.cpu_percent() / (os.cpu_count() or 1)
            n_bytes = self._process.memory_info().rss
        return {
            "system/process_cpu_percent": percent,
            "system/process_memory_megabytes": n_bytes / 1e6,
        }

    def _why_stopped(self, when: str) -> str:
        """Return that the pruner stopped the trial, and why if the pruner has a method `why`.

        Like `prune`, that method takes the study and the trial; it returns words.
        """
        study = self.study.optuna
        words = f"{type(study.pruner).__name__} stopped it {when}"
        if hasattr(study.pruner, "why"):
            words += f": {study.pruner.why(study, self.trial._cached_frozen_trial)}"
        return words

    def finish(self, value: float, *more: float) -> None:
        """End the trial with its value, and with that of a second objective."""
        self._end(
            TrialEnd.FINISHED,
            "",
            lambda: self.study.complete(self.trial, value, *more),
            value=value,
        )

    def give_back(self, end: TrialEnd, message: str) -> None:
        """End this try, so that the trial is tried again."""
        self._end(end, message, lambda: self._tell_failure(end, message))

    def expire(self, place: str = "") -> None:
        """End the trial because it took too long; `place` says where it hung."""
        limit_s = self.study.budget.trial_timeout_s or 0.0
        message = (
            f"It took longer than budget.trial_timeout_s={limit_s:g} seconds: give it longer, "
            "fewer training.epochs or a smaller model by space.bounds, or look for what hangs in "
            "the model's own code."
        )
        if place:
            message += f" It hung in {place}."
        self._fail(TrialEnd.TIMED_OUT, message)

    def hand_over(self) -> None:
        """Wait a few seconds until what was written of the trial has arrived in MLflow.

        Another worker may go on with the trial at once.
        """
        self.run.arrive(5.0)

    def close(self, end: TrialEnd, message: str) -> None:
        """End the MLflow run, and write the trial's end into its tags and its name.

        The name stays as it is if the trial has finished.
        """
        tags: dict[str, object] = {END: end.word}
        if end != TrialEnd.FINISHED:
            tags["hpsearch.message"] = message
            tags[MLFLOW_RUN_NAME] = replace(self.name, end=end.word)
        self.run.tag(tags)
        self.run.end(str(end.mlflow_status))

    def _stop(self, message: str) -> None:
        """End the trial as the pruner wants: paused if that may promote it later, else pruned."""
        if self.study.pauses:
            self._end(TrialEnd.PAUSED, message, lambda: self.study.pause(self.trial))
        else:
            self._prune(TrialEnd.PRUNED, message)

    def _prune(self, end: TrialEnd, message: str) -> None:
        self._end(end, message, lambda: self.study.prune(self.trial, end, message))

    def _time_out(self) -> None:
        self.watch.end()  # The error may have come before the watch could end itself.
        if self.watch.is_pardoned:
            self.give_back(TrialEnd.INTERRUPTED, self.ANOTHER_HUNG)
        else:
            self.expire()

    @staticmethod
    def end_of(error: BaseException) -> TrialEnd:
        """Return how a trial ends that raised an error."""
        if isinstance(error, DivergedError):
            return TrialEnd.DIVERGED
        if isinstance(error, InfeasibleError):
            return TrialEnd.INFEASIBLE
        names = " ".join(cls.__name__ for cls in type(error).__mro__)
        # XLA and CUDA name a lack of memory only in the text of an error.
        no_memory = (
            "ResourceExhausted|MemoryError|RESOURCE_EXHAUSTED|OUT_OF_MEMORY|ALLOC_FAILED|"
            "[Oo]ut of memory|bad_alloc|Cannot allocate memory"
        )
        if re.search(no_memory, f"{names} {error}"):
            return TrialEnd.OUT_OF_MEMORY
        return TrialEnd.ERROR

    def _fail_by(self, error: Exception) -> None:
        if this_process.is_interrupted:
            # A library has turned the interrupt into an error of its own.
            self.give_back(TrialEnd.INTERRUPTED, KeyboardInterrupt.__name__)
            raise KeyboardInterrupt from error
        end = self.end_of(error)
        message = f"{type(error).__name__}: {error}"
        if end == TrialEnd.OUT_OF_MEMORY:
            message = (
                "There was not enough memory: give a smaller training.batch_size, a smaller model "
                "by space.bounds, fewer workers or trainer.n_slots on the device, or on a GPU "
                f"training.precision=mixed_bfloat16. {message}"
            )
        self._fail(end, message)

    def _fail(self, end: TrialEnd, message: str) -> None:
        self.has_failed = True
        # Keras's errors say first where they come from, then, after a blank line, what is wrong.
        message = without_secrets(message)
        without_colors = re.sub(r"\x1b\[\d+m", "", message)
        short = " ".join(without_colors.split("\n\n")[:2])
        self._end(
            end,
            message[:5000],
            lambda: self._tell_failure(end, short),
            said=f"failed: {short}",
        )

    def _tell_failure(self, end: TrialEnd, message: str) -> None:
        if not self.study.fail(self.trial, end, message):
            raise self.study.taken_over(self.trial)

    def _end(
        self,
        end: TrialEnd,
        message: str,
        tell: Callable[[], object],
        *,
        said: str | None = None,
        value: float | None = None,
    ) -> None:
        """Write the end of the trial to MLflow, then to the study, then to the terminal.

        MLflow comes first, so that it will know each trial that the study knows as ended, even if
        this process dies in between. Nothing is written if another worker has taken the trial over,
        because its retry writes to the same run. The terminal is not told of a trial that is tried
        again.

        Args:
            end: How the trial ended.
            message: Why, for the tags of the run.
            tell: Writes the end to the study.
            said: The end on the terminal; by default its word.
            value: The value of a finished trial.
        """
        if self.has_ended:  # The watchdog may end a trial from another thread.
            return
        goes_on = end.is_retried or end == TrialEnd.PAUSED
        try:
            # This fails if the trial was taken over, and keeps it from being taken over meanwhile.
            self._lease.renew()
            self.close(end, message)
            if goes_on:
                self.hand_over()
            tell()
        except self._TAKEN_OVER as error:
            if self.study.has_result(self.trial):
                # This process has told the study already, and was interrupted before it knew.
                self.has_ended = True
                self.is_over = True
            else:
                self._abandon(error)
            return
        self.has_ended = True
        self.is_over = not goes_on
        if not end.is_retried:
            self._ended(said or end.word, value)

    def _abandon(self, error: Exception) -> None:
        """Write nothing more of the trial, which another worker has taken over."""
        self.run.abandon()
        if not isinstance(error, TakenOverError):
            error = self.study.taken_over(self.trial)
        self._ended(f"failed: {error}", None)
