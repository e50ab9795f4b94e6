"""The figures of a study's report, drawn with Matplotlib.

`Figures` draws the values of the trials over trials, hyperparameters, epochs or time. Markers and
line styles tell how trials ended, never colour alone, so that the figures are readable in print.
`Clock` measures the time that a study was worked on, which the timeline shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Plot
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullFormatter
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Figure, drawn
from hpsearch.study.leases import WORKER
from hpsearch.study.study import number_of
from hpsearch.study_report.searched import Dimension, Floats, Searched, end_of


@dataclass(frozen=True)
class Figures:
    """The figures of a study's report; each public method draws one.

    Attributes:
        searched: The study.
    """

    searched: Searched

    def history(self) -> Figure:
        """Draw the value of each trial over its number, with the best value so far."""
        plot, axis = _wide_plot(4.2)
        self._mark_trials(axis, number_of)
        trials = self.searched.trials
        losses = [math.inf] * len(trials)
        for place, trial in enumerate(trials):
            if end_of(trial) == "finished":
                losses[place] = self.searched.loss(trial)
        numbers = [number_of(trial) for trial in trials]
        as_loss = self.searched.direction.as_loss
        best = [as_loss(loss) for loss in accumulate(losses, min)]
        axis.step(
            numbers,
            best,
            where="post",
            color="tab:red",
            label="best so far",
        )
        axis.set_xlabel("trial")
        axis.set_ylabel(self.searched.label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        self._keep_readable(axis)
        _add_legend(plot, axis)
        return drawn(
            "history",
            plot,
            "The value of each trial that finished, the last value of one that was stopped, and "
            "the best so far. A line that has long been flat gains little from more trials of the "
            "same kind.",
        )

    def slices(self) -> Figure:
        """Draw the values of the trials over each hyperparameter, in panels side by side."""
        dimensions = self.searched.dimensions
        n_panels = len(dimensions)
        width_in = max(10.0, 3.4 * n_panels)
        plot = plt.figure(figsize=(width_in, 4.0), layout="constrained")
        rows = plot.subplots(
            1,
            n_panels,
            sharey=True,
            squeeze=False,
        )
        axes = rows[0]
        for axis, dimension in zip(axes, dimensions, strict=True):
            self._draw_slice(axis, dimension)
        axes[0].set_ylabel(self.searched.label)
        _add_legend(plot, axes[0])
        return drawn(
            "slices",
            plot,
            "The same values over each hyperparameter on the scale from which it was drawn; dotted "
            "lines are its bounds. Where the best points crowd at a bound, the bound is too "
            "narrow.",
        )

    def parallel(self) -> Figure:
        """Draw each finished trial as a line through its hyperparameters, the best one darkest."""
        plot, axis = _wide_plot(4.4)
        self._draw_trial_lines(axis)
        ends = []
        for column, dimension in enumerate(self.searched.dimensions):
            axis.axvline(column, color="0.6", linewidth=0.8)
            values = dimension.choices
            if not values:
                values = (dimension.value(0), dimension.value(1))
            low = dimension.shown(values[0])
            high = dimension.shown(values[-1])
            ends.append((low, high))
        ranked = self.searched.ranked
        best = ranked[0].values[0]
        worst = ranked[-1].values[0]
        ends.append((f"{worst:.4g}", f"{best:.4g}"))
        for column, (low, high) in enumerate(ends):
            axis.text(column, -0.04, low, ha="center", va="top")
            axis.text(column, 1.04, high, ha="center", va="bottom")
        names = [dimension.name for dimension in self.searched.dimensions]
        names.append(self.searched.label)
        axis.set_xticks(range(len(ends)), names)
        axis.tick_params(axis="x", pad=18, length=0)
        axis.set_yticks([])
        axis.set_ylim(-0.02, 1.02)
        axis.spines[:].set_visible(False)
        return drawn(
            "parallel_coordinates",
            plot,
            "A line for each finished trial; the darker, the better, the thick one is the best. "
            "The best value is above. Dark lines that run together show which combination works.",
        )

    def learning_curves(self) -> Figure:
        """Draw the monitored metric over epochs; curves of stopped trials end in a marker."""
        styles = {"pruned": "--", "diverged": ":", "infeasible": "-."}
        markers = _markers()
        plot, axis = _wide_plot(4.6)
        for trial in self.searched.spent:
            if not trial.intermediate_values:
                continue
            end = end_of(trial)
            epochs, values = _curve(trial)
            (line,) = axis.plot(epochs, values, label=end)
            if end == "finished":
                line.set(color="black", linewidth=1.1, alpha=0.7)
                continue
            line.set(color="0.5", linewidth=0.9, linestyle=styles[end])
            (mark,) = axis.plot(epochs[-1], values[-1], linestyle="none")
            mark.set(**markers[end])
        best = self.searched.best
        if best is not None and best.intermediate_values:
            epochs, values = _curve(best)
            label = f"best, #{number_of(best)}"
            axis.plot(epochs, values, color="tab:red", linewidth=2.5, label=label)
        axis.set_xlabel("epoch")
        axis.set_ylabel(self.searched.label)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        finished: list[float] = []
        for trial in self.searched.ranked:
            finished.extend(trial.intermediate_values.values())
        _use_log_if_wide(axis, finished)
        _add_legend(plot, axis)
        return drawn(
            "learning_curves",
            plot,
            "The monitored metric after each epoch: whole lines ran to their end, broken ones were "
            "stopped where the cross is. Curves that still fall at the end want more epochs.",
        )

    def importances(self) -> Figure:
        """Draw how much of the values' variance each hyperparameter explains."""
        shares = self.searched.importances
        n_trials = len(self.searched.ranked)
        plot, axis = _wide_plot(0.5 * len(shares) + 1.0)
        percents = [100 * share for share in shares.values()]
        bars = axis.barh(
            list(shares),
            percents,
            color="0.75",
            edgecolor="black",
        )
        axis.invert_yaxis()
        axis.bar_label(bars, fmt="%.0f %%", padding=4)
        axis.set_xlabel("share of the variance of the values, per cent")
        axis.set_xlim(0, 110)
        return drawn(
            "importances",
            plot,
            f"How much each hyperparameter explains of the differences between {n_trials} finished "
            "trials, interactions included (fANOVA, Hutter et al. 2014).",
        )

    def timeline(self) -> Figure:
        """Draw which worker ran which trial when: a row for each worker, a bar for each trial.

        The time between sessions is left out.
        """
        styles = _bar_styles()
        time = Clock.of_study(self.searched)
        names = map(_worker, self.searched.tries)
        workers = list(dict.fromkeys(names))
        plot, axis = _wide_plot(0.55 * len(workers) + 1.6)
        numbered_min = time.total_s / 60 / 40  # a shorter bar has no room for its number
        ends = set()
        for trial, begin_s, end_s in _spans(self.searched):
            row = workers.index(_worker(trial))
            begin = time.at(begin_s) / 60
            length = time.at(end_s) / 60 - begin
            bar = axis.barh(row, length, 0.7, begin, edgecolor="black", linewidth=0.8)
            end = end_of(trial)
            plt.setp(bar.patches, **styles[end])
            if length > numbered_min:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                number = str(number_of(trial))
                axis.bar_label(bar, [number], label_type="center", fontsize=8, bbox=box)
            ends.add(end)
        for session_s in time.begins[1:]:
            begin = time.at(session_s) / 60
            axis.axvline(begin, color="black", linestyle=":")
        axis.set_yticks(range(len(workers)), workers)
        axis.invert_yaxis()
        axis.set_xlabel("minutes of work")
        axis.set_xlim(0, None)
        handles = []
        for end, style in styles.items():
            if end in ends:
                patch = Patch(edgecolor="black", label=end)
                patch.set(**style)
                handles.append(patch)
        plot.legend(handles=handles, loc="outside upper right", ncols=6, fontsize="small")
        sessions = f"{len(time.begins)} session"
        if len(time.begins) > 1:
            sessions += "s, between which dotted lines stand"
        return drawn(
            "timeline",
            plot,
            f"A row for each worker, a bar for each trial with its number; {sessions}. White "
            "between bars is time in which no trial ran.",
        )

    def _draw_slice(self, axis: Axes, dimension: Dimension) -> None:
        def place(trial: FrozenTrial) -> float:
            values = self.searched.values(trial)
            value = values.get(dimension.name, math.nan)
            return dimension.number(value)

        self._mark_trials(axis, place)
        _set_scale(axis, dimension)
        self._keep_readable(axis)

    def _draw_trial_lines(self, axis: Axes) -> None:
        """Draw a line for each finished trial, the best one last and red."""
        trials = self.searched.ranked
        by_rank = [self.searched.loss(trial) for trial in trials]
        losses = np.array(by_rank)
        best = losses[0]
        spread = losses[-1] - best or 1.0
        heights = 1 - (losses - best) / spread
        positions = self.searched.positions(trials)
        places = np.column_stack([positions, heights])
        n_others = len(places) - 1
        for rank in range(n_others, 0, -1):
            shade = 0.85 * rank / n_others
            axis.plot(places[rank], color=str(shade), linewidth=1.2)
        axis.plot(places[0], color="tab:red", linewidth=2.5)

    def _mark_trials(
        self,
        axis: Axes,
        place: Callable[[FrozenTrial], float],
    ) -> None:
        """Plot a marker for the value of each trial at the horizontal coordinate `place(trial)`."""
        for end, style in _markers().items():
            places = []
            values = []
            for trial in self.searched.spent:
                value = self.searched.reached(trial)
                if end_of(trial) == end and value is not None:
                    places.append(place(trial))
                    values.append(value)
            if places:
                (marks,) = axis.plot(places, values, linestyle="none", label=end)
                marks.set(**style)
        best = self.searched.best
        if best is not None:
            (star,) = axis.plot([place(best)], best.values[:1], "*")
            star.set(label=f"best, #{number_of(best)}", color="tab:red")
            star.set(markersize=12, markeredgecolor="black")

    def _keep_readable(self, axis: Axes) -> None:
        """Choose the vertical scale such that one bad trial does not hide the others."""
        values = []
        for trial in self.searched.spent:
            value = self.searched.reached(trial)
            if value is not None and math.isfinite(value):
                values.append(value)
        _use_log_if_wide(axis, values)


def _set_scale(axis: Axes, dimension: Dimension) -> None:
    """Give the horizontal axis the scale of a dimension, and draw its bounds."""
    axis.set_xlabel(dimension.name)
    choices = dimension.choices
    if choices:
        names = map(str, choices)
        axis.set_xticks(range(len(choices)), names)
        return
    if dimension.scale == "log":
        axis.set_xscale("log")
        _show_plain_numbers(axis.xaxis, (1.0, 3.0))
    elif dimension.scale == "log_complement":
        axis.set_xscale("function", functions=(_log_complement, _from_log_complement))
        ticks = []
        for tick in (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999):
            if dimension.low <= tick <= dimension.high:
                ticks.append(tick)
        axis.xaxis.set_major_locator(FixedLocator(ticks))
        axis.minorticks_off()
    for bound in (dimension.low, dimension.high):
        axis.axvline(bound, color="0.4", linestyle=":", linewidth=1)


def _log_complement(x: Floats) -> Floats:
    below_1 = np.minimum(x, 1 - 1e-9)
    scaled: Floats = -np.log(1 - below_1)
    return scaled


def _from_log_complement(y: Floats) -> Floats:
    return 1 - np.exp(-y)


def _curve(trial: FrozenTrial) -> Floats:
    """Return the epochs of a trial, rising, and its values after them, (2, epochs)."""
    points = sorted(trial.intermediate_values.items())
    return np.array(points, float).T


def _wide_plot(height_in: float) -> tuple[Plot, Axes]:
    return plt.subplots(figsize=(10.0, height_in), layout="constrained")


def _markers() -> dict[str, dict[str, object]]:
    """Return the marker of a trial for each end that spends the budget."""
    return {
        "finished": {
            "marker": "o",
            "color": "black",
            "markersize": 5,
        },
        "pruned": {
            "marker": "x",
            "color": "0.45",
            "markersize": 6,
        },
        "diverged": {
            "marker": "^",
            "color": "0.45",
            "markersize": 6,
            "markerfacecolor": "white",
        },
        "infeasible": {
            "marker": "s",
            "color": "0.45",
            "markersize": 5,
            "markerfacecolor": "white",
        },
    }


def _bar_styles() -> dict[str, dict[str, str]]:
    """Return the style of a trial's bar for each end."""
    return {
        "finished": {"facecolor": "0.85"},
        "pruned": {"facecolor": "white", "hatch": "//"},
        "diverged": {"facecolor": "white", "hatch": "xx"},
        "infeasible": {"facecolor": "white", "hatch": ".."},
        "failed": {"facecolor": "0.4"},
        "running": {"facecolor": "white", "linestyle": "--"},
    }


def _add_legend(plot: Plot, axis: Axes) -> None:
    """Put the legend outside of the axes, where it covers no trial."""
    handles, labels = axis.get_legend_handles_labels()
    shown = dict(zip(labels, handles, strict=True))
    plot.legend(
        shown.values(),
        shown,
        loc="outside upper right",
        ncols=5,
        fontsize="small",
    )


def _use_log_if_wide(axis: Axes, values: Sequence[float]) -> None:
    """Make the vertical scale logarithmic if the values span more than a factor of 10."""
    if not values:
        return
    lowest = min(values)
    if lowest > 0 and max(values) > 10 * lowest:
        axis.set_yscale("log")
        _show_plain_numbers(axis.yaxis, (1.0, 2.0, 5.0))


def _show_plain_numbers(axis: Axis, digits: Sequence[float]) -> None:
    """Label a logarithmic axis with 0.2 and 3 instead of powers of ten."""
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class Clock:
    """The time that a study has been worked on: wall-clock time without gaps between sessions.

    Attributes:
        begins: Unix times at which the sessions begin, rising.
        ends: Unix times at which the sessions end, rising.
    """

    begins: Sequence[float]
    ends: Sequence[float]

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Clock:
        """Merge spans, the (begin, end) of each trial in Unix time, into sessions.

        A minute without a trial ends a session.
        """
        begins: list[float] = []
        ends: list[float] = []
        for begin, end in sorted(spans):
            if ends and begin <= ends[-1] + 60:
                ends[-1] = max(ends[-1], end)
            else:
                begins.append(begin)
                ends.append(end)
        return cls(begins, ends)

    @classmethod
    def of_study(cls, searched: Searched) -> Clock:
        """Return the time that a study has been worked on."""
        spans = []
        for _trial, begin, end in _spans(searched):
            spans.append((begin, end))
        return cls.of(spans)

    @property
    def total_s(self) -> float:
        """The duration of all sessions together, in seconds."""
        worked_s = sum(self.ends) - sum(self.begins)
        return float(worked_s)

    @staticmethod
    def shown(seconds: float) -> str:
        """Return a time as text, in its two largest units of hours, minutes and seconds."""
        minutes, rest = divmod(round(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        if hours:
            return f"{hours} h {minutes} min"
        if minutes:
            return f"{minutes} min {rest} s"
        return f"{rest} s"

    def at(self, time: float) -> float:
        """Return how many seconds of work had passed at a Unix time."""
        lengths = np.subtract(self.ends, self.begins)
        since = np.subtract(time, self.begins)
        passed = np.clip(since, 0, lengths)
        return float(passed.sum())


def _spans(searched: Searched) -> list[tuple[FrozenTrial, float, float]]:
    """Return the tries that have begun, each with its begin and end in Unix time.

    A trial that has not ended counts as ended when it began.
    """
    spans = []
    for trial in searched.tries:
        begin = trial.datetime_start
        if begin is not None:
            end = trial.datetime_complete or begin
            spans.append((trial, begin.timestamp(), end.timestamp()))
    return spans


def _worker(trial: FrozenTrial) -> str:
    """Return the name of a worker: its SLURM job, or its machine and process."""
    job = trial.user_attrs.get("job")
    if job:
        return f"job {job}"
    worker = str(trial.user_attrs.get(WORKER) or "unknown")
    machine, _, rest = worker.partition("@")
    if ":" not in rest:
        return machine
    process = rest.split(":")[1]
    return f"{machine}, process {process}"
