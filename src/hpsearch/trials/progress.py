"""Shows on the terminal how a search goes on, and how long it still takes.

On a terminal, `Progress` shows one live view. Where the output is no terminal, it prints a plain
line now and then. `seconds_left` estimates the time left from the trials that have ended.
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

from hpsearch.command_form import in_form
from hpsearch.study.direction import Direction
from hpsearch.study.failures import kind_of
from hpsearch.study.study import best_trial, number_of, value_of
from hpsearch.study.trial_end import TrialEnd


class Progress:
    """Shows the study, the running trials with their epochs, the best so far and the time left.

    Args:
        monitor: The metric whose values are shown.
        n_epochs: The most epochs that a trial takes.
        direction: Which values are better.
        console: Where to write; scripts and tests give a quiet one.
    """

    _PLAIN_EVERY_S = 10.0
    _LOOK_EVERY_S = 1.0  # Other workers change the study too.

    def __init__(
        self,
        monitor: str,
        n_epochs: int,
        direction: Direction,
        console: Console,
    ) -> None:
        self.monitor = monitor
        self.n_epochs = n_epochs
        self.direction = direction
        self.console = console
        self.study = ""
        self.n_trials = 0
        self._prunes = True
        self._look: Callable[[], Sequence[FrozenTrial]] = tuple
        self._trials: Sequence[FrozenTrial] = ()
        self._own = threading.local()  # Each thread runs a trial of its own.
        self._live: Live | None = None
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("epochs  {task.fields[value]}", markup=False),
            console=console,
            auto_refresh=False,
        )
        self._looked = time.monotonic()
        self._shown = self._looked
        # The first trial of each kind of failure.
        self._failures: dict[str, int | None] = {}

    def say(self, sentence: str) -> None:
        """Print a line that stays."""
        self.console.print(in_form(sentence), highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def search(
        self,
        study: str,
        n_trials: int,
        look: Callable[[], Sequence[FrozenTrial]],
        *,
        prunes: bool,
    ) -> Iterator[None]:
        """Show the search while the block runs.

        Args:
            study: The name of the study.
            n_trials: The budget.
            look: Returns all trials of the study, of all workers.
            prunes: Whether a pruner is at work.
        """
        self.study = study
        self.n_trials = n_trials
        self._look = look
        self._prunes = prunes
        self._trials = look()
        if not self.console.is_terminal or self.console.quiet:
            yield
            return
        with Live(
            get_renderable=self._view,
            console=self.console,
            transient=True,
            refresh_per_second=4,
            redirect_stderr=False,
        ) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def begin_trial(self, number: int) -> None:
        """Show that a trial starts or goes on; its model is built next."""
        name = f"#{number}"
        bar = self._bars.add_task(name, total=self.n_epochs, value="building")
        self._own.number = number
        self._own.name = name
        self._own.bar = bar
        self._look_again()

    def built(self, name: str) -> None:
        """Show that the model of the running trial is built; it is compiled next.

        Args:
            name: The name of the trial, which is made of its hyperparameters.
        """
        self._own.name = name
        self._bars.update(self._own.bar, description=name, value="compiling")

    def epoch(self, epoch: int, value: float) -> None:
        """Show that an epoch of the running trial, counted from 1, ended with `value`."""
        shown = f"{self.monitor} {value:.4f}"
        self._bars.update(self._own.bar, completed=epoch, value=shown)
        now = time.monotonic()
        if self._live is not None:
            if now - self._looked > self._LOOK_EVERY_S:
                self._look_again()
        elif now - self._shown > self._PLAIN_EVERY_S:
            self._look_again()
            self._shown = time.monotonic()
            place = f"{self._where()}  {self._own.name}: epoch {epoch}/{self.n_epochs} {shown}"
            self.say(self._line(place))

    def end_trial(self, outcome: str, value: float | None) -> None:
        """Show that the running trial ended: `finished` with its value, or in another way."""
        where = self._where()
        self._look_again()
        outcome = self._once(outcome)
        if not hasattr(self._own, "bar"):
            # The watchdog ends a trial that hangs from another thread.
            self.say(f"{where}: {outcome}")
            return
        line = f"{where}  {self._own.name}: {outcome}"
        if value is not None:
            line += f", {self.monitor} {value:.4f}"
            best = best_trial(list(self._trials), self.direction)
            if best is not None and number_of(best) == self._own.number:
                line += "  (best so far)"
        self.say(line)
        self._bars.remove_task(self._own.bar)

    def _once(self, outcome: str) -> str:
        """Return how a trial ended; of trials that fail alike the first one alone says why."""
        if not outcome.startswith("failed: "):
            return outcome
        kind = kind_of(outcome)
        number = getattr(self._own, "number", None)
        first = self._failures.setdefault(kind, number)
        if first is None or first == number:
            return outcome
        return f"failed like trial {first}"

    def seconds_left(self, now: datetime) -> float | None:
        """Return the seconds until the budget is spent, or None before the first trial has ended.

        A trial to come is expected to take the mean number of epochs of those that ended. The last
        one counts most, and under a pruner a few imagined ones count too. An epoch is expected to
        take as long as lately. A running trial goes on at its own pace, for at least half of the
        epochs that it may still take. As many trials are expected to run at once as run now.

        Args:
            now: The local time, as Optuna writes it.
        """
        durations_s = []
        epochs_each = []
        running = []  # the epochs that each running trial has done, and its seconds so far
        for trial in self._trials:
            n_epochs = len(trial.intermediate_values)
            if TrialEnd.has_spent(trial) and trial.duration is not None:
                durations_s.append(trial.duration.total_seconds())
                epochs_each.append(max(n_epochs, 1))
            if trial.state == TrialState.RUNNING and trial.datetime_start is not None:
                running.append((n_epochs, (now - trial.datetime_start).total_seconds()))
        if not durations_s:
            return None
        epochs = _weighted_sum(epochs_each)
        expected = self._expected_epochs(epochs, len(epochs_each))
        whole_s = expected * _weighted_sum(durations_s) / epochs

        n_to_come = max(self.n_trials - self._n_spent() - len(running), 0)
        left = n_to_come * whole_s
        for n_done, spent_s in running:
            if n_done:
                n_left = max(expected - n_done, (self.n_epochs - n_done) / 2)
                left += n_left * spent_s / n_done
            else:
                left += max(whole_s - spent_s, 0.0)
        return left / max(len(running), 1)

    def _expected_epochs(self, epochs: float, n_ended: int) -> float:
        """Return the mean epochs of the trials that ended and, under a pruner, of imagined ones."""
        # Under a pruner, a trial takes on average a third of the most epochs. Some imagined trials
        # of that share count beside the real ones, because the first trials are hardly ever pruned.
        n_imagined = 0
        if self._prunes:
            n_imagined = 6
        return (epochs + n_imagined * self.n_epochs / 3) / (n_ended + n_imagined)

    @staticmethod
    def in_words(seconds: float) -> str:
        """Return a duration as people say it: `40 s`, `12 min`, `2 h 05 min`."""
        minutes = round(seconds / 60)
        if seconds < 90:
            return f"{seconds:.0f} s"
        if minutes < 90:
            return f"{minutes} min"
        return f"{minutes // 60} h {minutes % 60:02d} min"

    def _look_again(self) -> None:
        self._trials = self._look()
        self._looked = time.monotonic()

    def _where(self) -> str:
        return f"trial {min(self._n_spent() + 1, self.n_trials)}/{self.n_trials}"

    def _n_spent(self) -> int:
        return sum(map(TrialEnd.has_spent, self._trials))

    def _line(self, start: str) -> str:
        """Return a line that goes on with the best trial so far and the time left."""
        parts = [start]
        best = best_trial(list(self._trials), self.direction)
        if best is not None:
            parts.append(f"best so far #{number_of(best)} {value_of(best):.4f}")
        left = self.seconds_left(datetime.now())
        if left is not None:
            parts.append(f"about {self.in_words(left)} left")
        return "; ".join(parts)

    def _counts(self) -> str:
        states = [trial.state for trial in self._trials]
        n_pruned = states.count(TrialState.PRUNED)
        n_done = n_pruned + states.count(TrialState.COMPLETE)
        n_failed = sum(TrialEnd.has_failed(trial) for trial in self._trials)
        counts = f"{n_done} of {self.n_trials} trials done, {n_pruned} of them pruned"
        if n_failed:
            counts += f", {n_failed} failed"
        return counts

    def _view(self) -> Group:
        line = self._line(f"Study {self.study}: {self._counts()}")
        text = Text(line, overflow="ellipsis", no_wrap=True)
        return Group(text, self._bars)


def _weighted_sum(values: Sequence[float]) -> float:
    """Return the sum of values whose weights rise to the last one; the mean weight is 1."""
    total = sum(place * value for place, value in enumerate(values, start=1))
    return 2 * total / (len(values) + 1)
