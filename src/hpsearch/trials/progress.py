"""What the terminal says while a search runs: one live line, or a plain line now and then where it is no terminal."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

PLAIN_EVERY_S = 10.0


def time_left(done: int, total: int, spent_s: float) -> float | None:
    """Return the seconds that `total - done` more trials take at the pace so far; None before the first is done."""
    return spent_s / done * (total - done) if done else None


def in_words(seconds: float) -> str:
    """Return a duration as people say it: `40 s`, `12 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows the running trial, its epochs, the best so far and the time left.

    Args:
        monitor: The metric whose values are shown.
        n_epochs: The most epochs that a trial takes.
        maximize: Whether more is better.
        console: Where to; a silent one for `--quiet` and tests.
    """

    def __init__(self, monitor: str, n_epochs: int, maximize: bool, console: Console) -> None:
        self.monitor, self.n_epochs, self.maximize, self.console = monitor, n_epochs, maximize, console
        self.n_trials = self.n_before = self.n_done = 0
        self.best = ""
        self._own = threading.local()  # each thread runs a trial of its own
        self.best_value: float | None = None
        self._live: Live | None = None
        self._begin = self._shown = time.monotonic()

    def say(self, sentence: str) -> None:
        """Print a line that stays."""
        self.console.print(sentence, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def search(self, n_trials: int, n_done: int, best: str, best_value: float | None) -> Iterator[None]:
        """Show the search while the block runs."""
        self.n_trials, self.n_before, self.n_done = n_trials, n_done, n_done
        self.best, self.best_value = best, best_value
        self._begin = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        with Live(Text(""), console=self.console, transient=True, refresh_per_second=4) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    @property
    def trial(self) -> str:
        """Name of the trial that this thread runs."""
        return getattr(self._own, "trial", "")

    def begin_trial(self, name: str, is_promoted: bool = False) -> None:
        """A trial starts, or one that was paused goes on.

        Its first epoch includes compiling, so that it is shown before that.
        """
        self._own.trial = name
        self.n_done -= is_promoted
        self._show(f"{self._where()}  {name}: building", force=self._live is not None)

    def epoch(self, epoch: int, value: float) -> None:
        """An epoch of the running trial ended with `value`."""
        left = time_left(self.n_done - self.n_before, self.n_trials - self.n_before, time.monotonic() - self._begin)
        parts = [
            f"{self._where()}  {self.trial}: epoch {epoch}/{self.n_epochs} {self.monitor} {value:.4f}",
            f"best so far {self.best}" if self.best else "",
            f"about {in_words(left)} left" if left is not None else "",
        ]
        self._show("; ".join(p for p in parts if p), force=False)

    def end_trial(self, outcome: str, value: float | None) -> None:
        """The running trial ended."""
        better = value is not None and (
            self.best_value is None or (value > self.best_value if self.maximize else value < self.best_value)
        )
        if better and value is not None:
            self.best_value, self.best = value, f"{self.trial.split(' ')[0]} {value:.4f}"
        shown = f"{outcome}, {self.monitor} {value:.4f}" if value is not None else outcome
        self.say(f"{self._where()}  {self.trial}: {shown}{'  (best so far)' if better else ''}")
        if not outcome.startswith("failed"):
            self.n_done += 1

    def _where(self) -> str:
        return f"trial {min(self.n_done + 1, self.n_trials)}/{self.n_trials}"

    def _show(self, line: str, force: bool) -> None:
        if self._live is not None:
            self._live.update(Text(line, overflow="ellipsis", no_wrap=True), refresh=force)
        elif force or time.monotonic() - self._shown > PLAIN_EVERY_S:
            self.say(line)
            self._shown = time.monotonic()
