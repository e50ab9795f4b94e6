"""The pictures of a study. Ends are told by markers and lines, never by colour alone: they are
readable in print.

When which worker ran which trial; the time between two sessions is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Figure, drawn
from hpsearch.study.leases import WORKER
from hpsearch.study.study import number_of, value_of
from hpsearch.study_report.searched import ENDS, Dimension, Searched, end_of

MARKERS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "o", "color": "black", "markersize": 5},
    "pruned": {"marker": "x", "color": "0.45", "markersize": 6},
    "diverged": {"marker": "^", "color": "0.45", "markersize": 6, "markerfacecolor": "white"},
    "infeasible": {"marker": "s", "color": "0.45", "markersize": 5, "markerfacecolor": "white"},
}
BEST = {
    "marker": "*",
    "markersize": 12,
    "color": "tab:red",
    "markeredgecolor": "black",
    "linestyle": "none",
}
COMPLEMENT_TICKS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
WIDTH_IN = 10.0


def history(searched: Searched) -> Figure:
    """Draw each trial's value over its number, with the best so far."""
    plot, axis = plt.subplots(figsize=(WIDTH_IN, 4.2), layout="constrained")
    _marked(axis, searched, number_of)
    best, steps = float("inf"), []
    for trial in searched.trials:
        if end_of(trial) == "finished":
            best = min(best, searched.signed(value_of(trial)))
        steps.append((number_of(trial), best))
    shown = [(number, searched.signed(value)) for number, value in steps if np.isfinite(value)]
    axis.step(*zip(*shown, strict=True), where="post", color="tab:red", label="best so far")
    axis.set(xlabel="trial", ylabel=searched.label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _focus(axis, searched)
    _legend(plot, axis)
    return drawn(
        "history",
        plot,
        "The value of each trial that finished, the last value of one that was stopped, and the "
        "best so far. A line "
        "that has long been flat gains little from more trials of the same kind.",
    )


def slices(searched: Searched) -> Figure:
    """Draw the values over each hyperparameter."""
    found = searched.dimensions
    plot, axes = plt.subplots(
        1,
        len(found),
        figsize=(max(WIDTH_IN, 3.4 * len(found)), 4.0),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, dimension in zip(axes[0], found, strict=True):
        _marked(axis, searched, lambda t, d=dimension: _place(d, searched.values(t).get(d.name)))
        _scale(axis, dimension)
        _focus(axis, searched)
    axes[0][0].set_ylabel(searched.label)
    _legend(plot, axes[0][0])
    return drawn(
        "slices",
        plot,
        "The same values over each hyperparameter on the scale from which it was drawn; dotted "
        "lines are its bounds. "
        "Where the best points crowd at a bound, the bound is too narrow.",
    )


def parallel(searched: Searched) -> Figure:
    """Draw each finished trial as a line through its hyperparameters; the darker, the better."""
    plot, axis = plt.subplots(figsize=(WIDTH_IN, 4.4), layout="constrained")
    ranked, found = searched.ranked, searched.dimensions
    values = np.array([searched.signed(value_of(t)) for t in ranked])
    spread = values[-1] - values[0] or 1.0
    places = np.column_stack([searched.positions(ranked), 1 - (values - values[0]) / spread])
    for rank in reversed(range(len(ranked))):
        shade = 0.85 * rank / max(1, len(ranked) - 1)
        colour, width = ("tab:red", 2.5) if rank == 0 else (str(shade), 1.2)
        axis.plot(places[rank], color=colour, linewidth=width)
    for column, dimension in enumerate(found):
        axis.axvline(column, color="0.6", linewidth=0.8)
        axis.text(column, -0.04, dimension.shown(_end(dimension, 0)), ha="center", va="top")
        axis.text(column, 1.04, dimension.shown(_end(dimension, 1)), ha="center", va="bottom")
    for at, value, side in (
        (1.04, value_of(ranked[0]), "bottom"),
        (-0.04, value_of(ranked[-1]), "top"),
    ):
        axis.text(len(found), at, f"{value:.4g}", ha="center", va=side)
    axis.set_xticks(range(len(found) + 1), [*(d.name for d in found), searched.label])
    axis.tick_params(axis="x", pad=18, length=0)
    axis.set_yticks([])
    axis.set_ylim(-0.02, 1.02)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return drawn(
        "parallel_coordinates",
        plot,
        "A line for each finished trial; the darker, the better, the thick one is the best. The "
        "best value is above. "
        "Dark lines that run together show which combination works.",
    )


def _end(dimension: Dimension, position: int) -> Any:
    return dimension.choices[-position] if dimension.choices else dimension.value(position)


def learning_curves(searched: Searched) -> Figure:
    """Draw the monitored metric over epochs; trials that were stopped end in a cross."""
    plot, axis = plt.subplots(figsize=(WIDTH_IN, 4.6), layout="constrained")
    styles: dict[str, dict[str, Any]] = {
        "finished": {"color": "black", "linewidth": 1.1, "alpha": 0.7},
        "pruned": {"color": "0.5", "linewidth": 0.9, "linestyle": "--"},
        "diverged": {"color": "0.5", "linewidth": 0.9, "linestyle": ":"},
        "infeasible": {"color": "0.5", "linewidth": 0.9, "linestyle": "-."},
    }
    told = set()
    for trial in searched.spent:
        curve, end = sorted(trial.intermediate_values.items()), end_of(trial)
        if not curve:
            continue
        axis.plot(*zip(*curve, strict=True), **styles[end], label=None if end in told else end)
        if end != "finished":
            axis.plot(*curve[-1], linestyle="none", **MARKERS[end])
        told.add(end)
    if searched.best is not None and searched.best.intermediate_values:
        curve = sorted(searched.best.intermediate_values.items())
        label = f"best, #{number_of(searched.best)}"
        axis.plot(*zip(*curve, strict=True), color="tab:red", linewidth=2.5, label=label)
    axis.set(xlabel="epoch", ylabel=searched.label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    _log_if_wide(axis, [v for t in searched.ranked for v in t.intermediate_values.values()])
    _legend(plot, axis)
    return drawn(
        "learning_curves",
        plot,
        "The monitored metric after each epoch: whole lines ran to their end, broken ones were "
        "stopped where the cross "
        "is. Curves that still fall at the end want more epochs.",
    )


def importances(found: dict[str, float], n_trials: int) -> Figure:
    """Draw how much of the values' variance each hyperparameter explains."""
    plot, axis = plt.subplots(figsize=(WIDTH_IN, 0.5 * len(found) + 1.0), layout="constrained")
    names = list(found)[::-1]
    bars = axis.barh(names, [100 * found[name] for name in names], color="0.75", edgecolor="black")
    axis.bar_label(bars, fmt="%.0f %%", padding=4)
    axis.set(xlabel="share of the variance of the values, per cent", xlim=(0, 110))
    return drawn(
        "importances",
        plot,
        f"How much each hyperparameter explains of the differences between {n_trials} finished "
        f"trials, interactions "
        "included (fANOVA, Hutter et al. 2014).",
    )


def _marked(axis: Any, searched: Searched, place: Any) -> None:
    """Plot the trials, each end with its marker; `place` gives the horizontal coordinate."""
    for end, style in MARKERS.items():
        mine = [t for t in searched.spent if end_of(t) == end and searched.reached(t) is not None]
        if mine:
            axis.plot(
                [place(t) for t in mine],
                [searched.reached(t) for t in mine],
                linestyle="none",
                **style,
                label=end,
            )
    if searched.best is not None:
        label = f"best, #{number_of(searched.best)}"
        axis.plot([place(searched.best)], [value_of(searched.best)], **BEST, label=label)


def _legend(plot: Any, axis: Any) -> None:
    """Put the legend where it covers no trial."""
    plot.legend(
        *axis.get_legend_handles_labels(), loc="outside upper right", ncols=5, fontsize="small"
    )


def _place(dimension: Dimension, value: Any) -> float:
    if value is None:
        return float("nan")
    return float(dimension.choices.index(value)) if dimension.choices else float(value)


def _scale(axis: Any, dimension: Dimension) -> None:
    axis.set_xlabel(dimension.name)
    if dimension.choices:
        axis.set_xticks(
            range(len(dimension.choices)), [str(choice) for choice in dimension.choices]
        )
        return
    if dimension.scale == "log":
        axis.set_xscale("log")
        _plain_numbers(axis.xaxis, (1.0, 3.0))
    elif dimension.scale == "log_complement":
        axis.set_xscale(
            "function",
            functions=(lambda x: -np.log(1 - np.minimum(x, 1 - 1e-9)), lambda y: 1 - np.exp(-y)),
        )
        axis.xaxis.set_major_locator(
            FixedLocator([t for t in COMPLEMENT_TICKS if dimension.low <= t <= dimension.high])
        )
        axis.xaxis.set_minor_locator(NullLocator())
    for bound in (dimension.low, dimension.high):
        axis.axvline(bound, color="0.4", linestyle=":", linewidth=1)


def _focus(axis: Any, searched: Searched) -> None:
    """One bad trial must not press all others into a line."""
    values = [
        v for t in searched.spent if (v := searched.reached(t)) is not None and np.isfinite(v)
    ]
    _log_if_wide(axis, values)


def _log_if_wide(axis: Any, values: Sequence[float]) -> None:
    if values and min(values) > 0 and max(values) > 10 * min(values):
        axis.set_yscale("log")
        _plain_numbers(axis.yaxis, (1.0, 2.0, 5.0))


def _plain_numbers(axis: Any, digits: Sequence[float]) -> None:
    """Label a log axis with 0.2 and 3, not with powers of ten."""
    axis.set_major_locator(LogLocator(subs=digits))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


GAP_S = 60.0  # of idleness that ends a session
STYLES: dict[str, dict[str, Any]] = {
    "finished": {"facecolor": "0.85"},
    "pruned": {"facecolor": "white", "hatch": "//"},
    "diverged": {"facecolor": "white", "hatch": "xx"},
    "infeasible": {"facecolor": "white", "hatch": ".."},
    "failed": {"facecolor": "0.4"},
    "running": {"facecolor": "white", "linestyle": "--"},
}


@dataclass(frozen=True)
class Clock:
    """The time that a study has been worked on: wall-clock time without the gaps between sessions.

    Attributes:
        begins: Unix time at which each session begins, rising.
        ends: The same of its end.
    """

    begins: Sequence[float]
    ends: Sequence[float]

    @classmethod
    def of(cls, spans: Sequence[tuple[float, float]]) -> Clock:
        """Merge the spans of trials into sessions."""
        begins: list[float] = []
        ends: list[float] = []
        for begin, end in sorted(spans):
            if ends and begin <= ends[-1] + GAP_S:
                ends[-1] = max(ends[-1], end)
            else:
                begins.append(begin)
                ends.append(end)
        return cls(begins, ends)

    @property
    def total_s(self) -> float:
        """How long all sessions took together."""
        return float(sum(self.ends) - sum(self.begins))

    def at(self, time: float) -> float:
        """Return how many seconds of work had passed at a Unix time."""
        lengths = np.subtract(self.ends, self.begins)
        knots = np.column_stack([self.begins, self.ends]).ravel()
        passed = np.column_stack([np.cumsum(lengths) - lengths, np.cumsum(lengths)]).ravel()
        return float(np.interp(time, knots, passed))


def span(trial: FrozenTrial) -> tuple[float, float] | None:
    """Return when a trial began and ended, in Unix time; of one that has not ended, when it last
    was heard of.
    """
    if trial.datetime_start is None:
        return None
    begin = trial.datetime_start.timestamp()
    return begin, trial.datetime_complete.timestamp() if trial.datetime_complete else begin


def clock(searched: Searched) -> Clock:
    """Return the time that a study has been worked on."""
    return Clock.of([found for t in searched.tries if (found := span(t)) is not None])


def timeline(searched: Searched) -> Figure:
    """Draw a row for each worker, with its trials."""
    time = clock(searched)
    workers = list(dict.fromkeys(_worker(t) for t in searched.tries))
    plot, axis = plt.subplots(figsize=(10.0, 0.55 * len(workers) + 1.6), layout="constrained")
    told = set()
    for trial in searched.tries:
        found = span(trial)
        if found is None:
            continue
        begin, end = (time.at(moment) / 60 for moment in found)
        row, kind = workers.index(_worker(trial)), end_of(trial)
        axis.barh(
            row,
            end - begin,
            left=begin,
            height=0.7,
            edgecolor="black",
            linewidth=0.8,
            **STYLES[kind],
        )
        told.add(kind)
        if end - begin > time.total_s / 60 / 40:
            box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
            axis.text(
                (begin + end) / 2,
                row,
                str(number_of(trial)),
                ha="center",
                va="center",
                fontsize=8,
                bbox=box,
            )
    for begin in time.begins[1:]:
        axis.axvline(time.at(begin) / 60, color="black", linestyle=":")
    axis.set_yticks(range(len(workers)), workers)
    axis.invert_yaxis()
    axis.set(xlabel="minutes of work", xlim=(0, None))
    handles = [
        Patch(edgecolor="black", label=kind, **STYLES[kind]) for kind in ENDS if kind in told
    ]
    plot.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize="small")
    return drawn(
        "timeline",
        plot,
        f"A row for each worker, a bar for each trial with its number; {len(time.begins)} session"
        f"{'s, between which dotted lines stand' if len(time.begins) > 1 else ''}. White between "
        f"bars is time in which "
        "no trial ran.",
    )


def _worker(trial: FrozenTrial) -> str:
    """Return a worker as people find it: machine and process, or SLURM's job."""
    if job := trial.user_attrs.get("job"):
        return f"job {job}"
    place, _, rest = str(trial.user_attrs.get(WORKER) or "unknown").partition("@")
    return f"{place}, process {rest.split(':')[1]}" if ":" in rest else place
