"""How long a search still takes, from the trials that it has behind it.

What the terminal says while a search runs: one live view, or a plain line now and then where it is
no terminal.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from hpsearch.study.direction import Direction
from hpsearch.study.study import best_trial, number_of, value_of
from hpsearch.study.trial_end import is_failure, spends_budget

PRUNED_SHARE = 1 / 3  # of the most epochs, which a trial takes on average where a pruner is at work
# trials of that share that count beside the real ones: the first trials are hardly ever pruned
N_IMAGINED = 6


def time_left(
    trials: Sequence[FrozenTrial], n_trials: int, now: datetime, *, n_epochs: int, prunes: bool
) -> float | None:
    """Return the seconds until `n_trials` are spent, or None before the first is.

    The epochs of a trial to come are expected to be the mean of those that ended, where the last
    one counts most and, under a pruner, a few imagined ones beside them; an epoch takes as long as
    lately. A trial that runs goes on at its own pace, for half of what it may still take at least;
    and as many will be done at once as run now.

    Args:
        trials: All trials of the study, of all workers.
        n_trials: The budget.
        now: The local time, as Optuna writes it.
        n_epochs: The most that a trial takes.
        prunes: Whether a pruner is at work.
    """
    ended = [t for t in trials if spends_budget(t) and t.duration is not None]
    if not ended:
        return None
    weights = [
        2 * (place + 1) / (len(ended) + 1) for place in range(len(ended))
    ]  # their sum is the trials' number
    epochs = sum(
        w * max(len(t.intermediate_values), 1) for w, t in zip(weights, ended, strict=True)
    )
    seconds = sum(
        w * t.duration.total_seconds() for w, t in zip(weights, ended, strict=True) if t.duration
    )
    n_imagined = N_IMAGINED if prunes else 0
    expected = (epochs + n_imagined * PRUNED_SHARE * n_epochs) / (len(ended) + n_imagined)
    running = [t for t in trials if t.state == TrialState.RUNNING and t.datetime_start is not None]
    n_to_come = max(n_trials - sum(spends_budget(t) for t in trials) - len(running), 0)
    left = n_to_come * expected * seconds / epochs
    for trial in running:
        done, spent_s = (
            len(trial.intermediate_values),
            (now - (trial.datetime_start or now)).total_seconds(),
        )
        if done:
            left += max(expected - done, (n_epochs - done) / 2) * spent_s / done
        else:
            left += max(expected * seconds / epochs - spent_s, 0.0)
    return left / max(len(running), 1)


def in_words(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


PLAIN_EVERY_S = 10.0
LOOK_EVERY_S = 1.0  # at the study, which other workers change too
Look = Callable[[], Sequence[FrozenTrial]]


class Progress:
    """Shows the study, the running trials with their epochs, the best so far and the time left.

    Args:
        monitor: The metric whose values are shown.
        n_epochs: The most epochs that a trial takes.
        direction: Which values are better.
        console: Where to; a quiet one for scripts and tests.
    """

    def __init__(self, monitor: str, n_epochs: int, direction: Direction, console: Console) -> None:
        self.monitor, self.n_epochs, self.direction, self.console = (
            monitor,
            n_epochs,
            direction,
            console,
        )
        self.study, self.n_trials, self._prunes = "", 0, True
        self._look: Look = tuple
        self._trials: Sequence[FrozenTrial] = ()
        self._own = threading.local()  # each thread runs a trial of its own
        self._live: Live | None = None
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[value]}", markup=False),
            console=console,
            auto_refresh=False,
        )
        self._looked = self._shown = time.monotonic()

    def say(self, sentence: str) -> None:
        """Print a line that stays."""
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def search(self, study: str, n_trials: int, look: Look, *, prunes: bool) -> Iterator[None]:
        """Show the search while the block runs.

        Args:
            study: Its name.
            n_trials: Its budget.
            look: Returns all its trials, of all workers.
            prunes: Whether a pruner is at work.
        """
        self.study, self.n_trials, self._look, self._prunes = study, n_trials, look, prunes
        self._trials = look()
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        with Live(
            get_renderable=self._view, console=self.console, transient=True, refresh_per_second=4
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def begin_trial(self, number: int) -> None:
        """A trial starts, or one that was paused goes on; its model is built next."""
        self._own.number, self._own.name = number, f"#{number}"
        self._own.bar = self._bars.add_task(self._own.name, total=self.n_epochs, value="building")
        self._look_again()

    def built(self, name: str) -> None:
        """The running trial's model is there, and so are its hyperparameters, which name it;
        compiling comes next.
        """
        self._own.name = name
        self._bars.update(self._own.bar, description=name, value="compiling")

    def epoch(self, epoch: int, value: float) -> None:
        """An epoch of the running trial ended with `value`."""
        shown = f"{self.monitor} {value:.4f}"
        self._bars.update(self._own.bar, completed=epoch, value=shown)
        if time.monotonic() - self._looked > LOOK_EVERY_S and self._live is not None:
            self._look_again()
        elif self._live is None and time.monotonic() - self._shown > PLAIN_EVERY_S:
            self._look_again()
            self._shown = time.monotonic()
            parts = [
                f"{self._where()}  {self._own.name}: epoch {epoch}/{self.n_epochs} {shown}",
                self._best(),
            ]
            self.say("; ".join(p for p in [*parts, self._left()] if p))

    def end_trial(self, outcome: str, value: float | None) -> None:
        """The running trial ended: `finished` with its value, or in another way."""
        where = self._where()
        self._look_again()
        if not hasattr(self._own, "bar"):  # a watchdog ends a trial that hangs from another thread
            self.say(f"{where}: {outcome}")
            return
        best = best_trial(list(self._trials), self.direction)
        is_best = value is not None and best is not None and number_of(best) == self._own.number
        shown = f"{outcome}, {self.monitor} {value:.4f}" if value is not None else outcome
        self.say(f"{where}  {self._own.name}: {shown}{'  (best so far)' if is_best else ''}")
        self._bars.remove_task(self._own.bar)

    def _look_again(self) -> None:
        self._trials, self._looked = self._look(), time.monotonic()

    def _where(self) -> str:
        n_spent = sum(spends_budget(t) for t in self._trials)
        return f"trial {min(n_spent + 1, self.n_trials)}/{self.n_trials}"

    def _best(self) -> str:
        best = best_trial(list(self._trials), self.direction)
        return f"best so far #{number_of(best)} {value_of(best):.4f}" if best else ""

    def _left(self) -> str:
        now = datetime.now()
        left = time_left(
            self._trials, self.n_trials, now, n_epochs=self.n_epochs, prunes=self._prunes
        )
        return f"about {in_words(left)} left" if left is not None else ""

    def _counts(self) -> str:
        states = [t.state for t in self._trials]
        n_failed = sum(is_failure(t) for t in self._trials)
        n_pruned = states.count(TrialState.PRUNED)
        done = f"{n_pruned + states.count(TrialState.COMPLETE)} of {self.n_trials} trials done, {n_pruned} of them pruned"
        return done + (f", {n_failed} failed" if n_failed else "")

    def _view(self) -> Group:
        parts = [f"Study {self.study}: {self._counts()}", self._best(), self._left()]
        return Group(
            Text("; ".join(p for p in parts if p), overflow="ellipsis", no_wrap=True), self._bars
        )
