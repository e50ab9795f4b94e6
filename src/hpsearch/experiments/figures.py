"""Figures of experiments: learning curves, measures of layers, and measures against each other.

A figure is a row of panels. A line is the mean over the seeds of an arm; a band reaches from the
lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from hpsearch.experiments.answers import Results
from hpsearch.experiments.arms import Arm, Measured
from hpsearch.html_report.section import Figure, drawn


def draw(
    name: str,
    panels: Sequence[str],
    arms: Sequence[Arm],
    results: Results,
) -> Figure:
    """Return one picture with a panel for each of `panels`.

    Args:
        name: The name of the picture.
        panels: `curve:METRIC` over epochs, `clock:METRIC` over seconds, `layers:MEASURE` over
            hidden layers, `across:MEASURE` over the second factor, or `scatter:MEASURE,MEASURE`.
        arms: The arms to show.
        results: What was measured.
    """
    kinds = {
        "curve": _Panel.curve,
        "clock": _Panel.clock,
        "layers": _Panel.layers,
        "across": _Panel.across,
        "scatter": _Panel.scatter,
    }
    n_panels = len(panels)
    size = (5.5 * n_panels, 4.0)
    figure, rows = plt.subplots(
        1,
        n_panels,
        figsize=size,
        layout="constrained",
        squeeze=False,
    )
    axes = rows[0]
    for axis, description in zip(axes, panels, strict=True):
        kind, _, key = description.partition(":")
        panel = _Panel(axis, key, arms, results)
        kinds[kind](panel)
        axis.grid(alpha=0.3)
    handles, labels = axes[0].get_legend_handles_labels()
    n_labels = max(1, len(labels))
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, n_labels),
        fontsize="small",
    )
    caption = "Lines are means over seeds; bands reach from the lowest to the highest."
    return drawn(name, figure, caption)


@dataclass(frozen=True)
class _Panel:
    """One panel of a figure; each public method draws one kind of panel.

    Attributes:
        axis: Where it is drawn.
        key: The metric or measure that it shows.
        arms: The arms to show.
        results: What was measured.
    """

    axis: Axes
    key: str
    arms: Sequence[Arm]
    results: Results

    def curve(self) -> None:
        """Draw a metric over epochs."""
        for arm in self.arms:
            trainings = self._with_curve(arm)
            curves = [measured.curves[self.key] for measured in trainings]
            self._line(arm, curves)
        self._finish("epoch")

    def clock(self) -> None:
        """Draw a metric over seconds; the seconds are a mean over seeds too."""
        for arm in self.arms:
            trainings = self._with_curve(arm)
            if not trainings:
                continue
            curves = [measured.curves[self.key] for measured in trainings]
            n = min(map(len, curves))
            seconds = [measured.curves["time/epoch_s"] for measured in trainings]
            clocks = [np.cumsum(times[:n]) for times in seconds]
            clock = np.mean(clocks, axis=0)
            self._line(arm, curves, clock)
        self._finish("seconds")

    def layers(self) -> None:
        """Draw a measure over the hidden layers."""
        for arm in self.arms:
            trainings = self.results[arm.name].values()
            lines = []
            for measured in trainings:
                if line := measured.layers.get(self.key):
                    lines.append(line)
            self._line(arm, lines)
        self.axis.set(xlabel="hidden layer", ylabel=self.key)
        if self.key.endswith(("gradient_norm", "std")):
            self.axis.set_yscale("log")

    def across(self) -> None:
        """Draw a measure over the second factor, with a line for each level."""
        by_level: dict[str, dict[float | str, Sequence[float]]] = {}
        for arm in self.arms:
            found = self.results.by_seed(arm.name, self.key)
            if found and arm.across is not None:
                points = by_level.setdefault(arm.level, {})
                points[arm.across] = list(found.values())
        for level, points in by_level.items():
            x = list(points)
            by_x = points.values()
            means = [np.mean(numbers) for numbers in by_x]
            color = self._color(level)
            self.axis.plot(x, means, "o-", label=level, color=color)
            low = list(map(min, by_x))
            high = list(map(max, by_x))
            self.axis.fill_between(x, low, high, color=color, alpha=0.15)
        factors = []
        for arm in self.arms:
            if isinstance(arm.across, int | float):
                factors.append(arm.across)
        if _needs_log(factors):
            self.axis.set_xscale("log")
        self._finish("second factor")

    def scatter(self) -> None:
        """Draw a measure over another, with a point for each training."""
        first, second = self.key.split(",")
        for arm in self.arms:
            x = self.results.by_seed(arm.name, first)
            y = self.results.by_seed(arm.name, second)
            paired = [x.get(seed, 0.0) for seed in y]
            measured = list(y.values())
            color = self._color(arm.level)
            self.axis.plot(paired, measured, "o", label=arm.name, color=color)
        self.axis.set(xlabel=first, ylabel=second)

    def _with_curve(self, arm: Arm) -> list[Measured]:
        """Return the trainings of an arm that have a curve of the metric."""
        trainings = self.results[arm.name].values()
        found = []
        for measured in trainings:
            if measured.curves.get(self.key):
                found.append(measured)
        return found

    def _color(self, level: str) -> str:
        """Return the colour of a level, which is the same in all panels."""
        names = [arm.level for arm in self.arms]
        levels = list(dict.fromkeys(names))
        return f"C{levels.index(level)}"

    def _dashes(self, arm: Arm) -> str:
        """Return the dashes for the second factor of an arm."""
        dashes = ("-", "--", ":", "-.")
        values = [each.across for each in self.arms]
        factors = list(dict.fromkeys(values))
        place = factors.index(arm.across)
        return dashes[place % len(dashes)]

    def _line(
        self,
        arm: Arm,
        lines: Sequence[list[float]],
        x: ArrayLike | None = None,
    ) -> None:
        """Draw the mean of lines with a band around it, as far as the shortest line reaches."""
        if not lines:
            return
        n = min(map(len, lines))
        kept = [line[:n] for line in lines]
        stacked = np.array(kept)
        if x is None:
            x = np.arange(1, n + 1)
        marker = None
        if n < 3:
            marker = "o"
        color = self._color(arm.level)
        self.axis.plot(
            x,
            stacked.mean(axis=0),
            label=arm.name,
            marker=marker,
            color=color,
            linestyle=self._dashes(arm),
        )
        low = stacked.min(axis=0)
        high = stacked.max(axis=0)
        self.axis.fill_between(x, low, high, color=color, alpha=0.15)

    def _finish(self, xlabel: str) -> None:
        """Label the axes; give losses a log scale where those of one arm would hide all others."""
        self.axis.set(xlabel=xlabel, ylabel=self.key)
        if not self.key.endswith("loss"):
            return
        shown: list[float] = []
        for line in self.axis.get_lines():
            y = np.asarray(line.get_ydata(), np.float64)
            is_shown = np.isfinite(y) & (y > 0)
            shown.extend(y[is_shown])
        if _needs_log(shown):
            self.axis.set_yscale("log")


def _needs_log(numbers: Sequence[float]) -> bool:
    """Return whether the numbers are positive and differ by a factor of more than 20."""
    low = min(numbers, default=0)
    return low > 0 and max(numbers) > 20 * low
