"""The pictures of a study. Ends are told by markers and lines, never by colour alone: they are readable in print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from hpsearch.pages.drawing import drawn
from hpsearch.pages.section import Figure
from hpsearch.reports.dimensions import Dimension
from hpsearch.reports.searched import Searched, end_of
from hpsearch.studies.study import number_of, value_of
from hpsearch.training.range_test import Curve

MARKERS: dict[str, dict[str, Any]] = {
    "finished": {"marker": "o", "color": "black", "markersize": 5},
    "pruned": {"marker": "x", "color": "0.45", "markersize": 6},
    "diverged": {"marker": "^", "color": "0.45", "markersize": 6, "markerfacecolor": "white"},
    "infeasible": {"marker": "s", "color": "0.45", "markersize": 5, "markerfacecolor": "white"},
}
BEST = {"marker": "*", "markersize": 12, "color": "tab:red", "markeredgecolor": "black", "linestyle": "none"}
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
        "The value of each trial that finished, the last value of one that was stopped, and the best so far. A line "
        "that has long been flat gains little from more trials of the same kind.",
    )


def slices(searched: Searched) -> Figure:
    """Draw the values over each hyperparameter."""
    found = searched.dimensions
    plot, axes = plt.subplots(
        1, len(found), figsize=(max(WIDTH_IN, 3.4 * len(found)), 4.0), sharey=True, squeeze=False, layout="constrained"
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
        "The same values over each hyperparameter on the scale from which it was drawn; dotted lines are its bounds. "
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
    for at, value, side in ((1.04, value_of(ranked[0]), "bottom"), (-0.04, value_of(ranked[-1]), "top")):
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
        "A line for each finished trial; the darker, the better, the thick one is the best. The best value is above. "
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
        "The monitored metric after each epoch: whole lines ran to their end, broken ones were stopped where the cross "
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
        f"How much each hyperparameter explains of the differences between {n_trials} finished trials, interactions "
        "included (fANOVA, Hutter et al. 2014).",
    )


def range_test(curve: Curve) -> Figure:
    """Draw a learning rate test."""
    plot, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.semilogx(curve.learning_rates, curve.losses, color="0.7", label="training loss")
    axis.semilogx(curve.learning_rates, curve.smooth(), color="black", label="smoothed")
    axis.axvline(curve.largest_stable, color="C3", linestyle="--", label="largest stable")
    axis.axvline(curve.proposal, color="C2", linestyle=":", label="proposed")
    axis.set(xlabel="learning_rate", ylabel="train/loss (nats)")
    axis.legend()
    return drawn("lr_test", plot, "Training loss while the learning rate rises.")


def _marked(axis: Any, searched: Searched, place: Any) -> None:
    """Plot the trials, each end with its marker; `place` gives the horizontal coordinate."""
    for end, style in MARKERS.items():
        mine = [t for t in searched.spent if end_of(t) == end and searched.reached(t) is not None]
        if mine:
            axis.plot(
                [place(t) for t in mine], [searched.reached(t) for t in mine], linestyle="none", **style, label=end
            )
    if searched.best is not None:
        label = f"best, #{number_of(searched.best)}"
        axis.plot([place(searched.best)], [value_of(searched.best)], **BEST, label=label)


def _legend(plot: Any, axis: Any) -> None:
    """Put the legend where it covers no trial."""
    plot.legend(*axis.get_legend_handles_labels(), loc="outside upper right", ncols=5, fontsize="small")


def _place(dimension: Dimension, value: Any) -> float:
    if value is None:
        return float("nan")
    return float(dimension.choices.index(value)) if dimension.choices else float(value)


def _scale(axis: Any, dimension: Dimension) -> None:
    axis.set_xlabel(dimension.name)
    if dimension.choices:
        axis.set_xticks(range(len(dimension.choices)), [str(choice) for choice in dimension.choices])
        return
    if dimension.scale == "log":
        axis.set_xscale("log")
        _plain_numbers(axis.xaxis, (1.0, 3.0))
    elif dimension.scale == "log_complement":
        axis.set_xscale(
            "function", functions=(lambda x: -np.log(1 - np.minimum(x, 1 - 1e-9)), lambda y: 1 - np.exp(-y))
        )
        axis.xaxis.set_major_locator(
            FixedLocator([t for t in COMPLEMENT_TICKS if dimension.low <= t <= dimension.high])
        )
        axis.xaxis.set_minor_locator(NullLocator())
    for bound in (dimension.low, dimension.high):
        axis.axvline(bound, color="0.4", linestyle=":", linewidth=1)


def _focus(axis: Any, searched: Searched) -> None:
    """One bad trial must not press all others into a line."""
    values = [v for t in searched.spent if (v := searched.reached(t)) is not None and np.isfinite(v)]
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
