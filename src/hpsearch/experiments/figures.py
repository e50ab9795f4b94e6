"""Figures of experiments: learning curves, measures of layers, and measures against each other.

A figure is a row of panels. A line is the mean over the seeds of an arm; a band reaches from the
lowest seed to the highest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from hpsearch.experiments.answers import Results, values
from hpsearch.experiments.arms import Arm, Measured
from hpsearch.html_report.section import Figure, drawn
from hpsearch.metrics import Floats


class _Look(TypedDict):
    """The colour and the dashes of a line, as Matplotlib names them."""

    color: str
    linestyle: str


def draw(name: str, panels: Sequence[str], arms: Sequence[Arm], results: Results) -> Figure:
    """Return one picture with a panel for each of `panels`.

    Args:
        name: The name of the picture.
        panels: `curve:METRIC` over epochs, `clock:METRIC` over seconds, `layers:MEASURE` over
            hidden layers, `across:MEASURE` over the second factor, or `scatter:MEASURE,MEASURE`.
        arms: The arms to show.
        results: What was measured.
    """
    n_panels = len(panels)
    figure, axes = plt.subplots(
        1, n_panels, figsize=(5.5 * n_panels, 4.0), layout="constrained", squeeze=False
    )
    kinds = {
        "curve": _Panel.curve,
        "clock": _Panel.clock,
        "layers": _Panel.layers,
        "across": _Panel.across,
        "scatter": _Panel.scatter,
    }
    looks = _looks(arms)
    for axis, description in zip(axes[0], panels, strict=True):
        kind, _, key = description.partition(":")
        panel = _Panel(axis, key, arms, results, looks)
        kinds[kind](panel)
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    n_columns = min(6, max(1, len(labels)))
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, fontsize="small")
    caption = "Lines are means over seeds; bands reach from the lowest to the highest."
    return drawn(name, figure, caption)


def _looks(arms: Sequence[Arm]) -> dict[str, _Look]:
    """Return the look of each arm: a colour for its level, dashes for its second factor."""
    dashes = ("-", "--", ":", "-.")
    levels = list(dict.fromkeys(arm.level for arm in arms))
    factors = list(dict.fromkeys(arm.across for arm in arms))
    looks: dict[str, _Look] = {}
    for arm in arms:
        color = levels.index(arm.level)
        dash = factors.index(arm.across) % len(dashes)
        looks[arm.name] = {"color": f"C{color}", "linestyle": dashes[dash]}
    return looks


@dataclass(frozen=True)
class _Panel:
    """One panel of a figure; each method without arguments draws one kind of panel.

    Attributes:
        axis: Where it is drawn.
        key: The metric or measure that it shows.
        arms: The arms to show.
        results: What was measured.
        looks: The look of each arm, by name.
    """

    axis: Axes
    key: str
    arms: Sequence[Arm]
    results: Results
    looks: Mapping[str, _Look]

    def curve(self) -> None:
        """Draw a metric over epochs."""
        for arm in self.arms:
            curves = [measured.curves[self.key] for measured in self._with_curve(arm)]
            self._band(arm, curves)
        self._finish("epoch")

    def clock(self) -> None:
        """Draw a metric over seconds; the seconds are a mean over seeds too."""
        for arm in self.arms:
            trainings = self._with_curve(arm)
            if not trainings:
                continue
            curves = [measured.curves[self.key] for measured in trainings]
            n = min(map(len, curves))
            clocks = [np.cumsum(measured.curves["time/epoch_s"][:n]) for measured in trainings]
            self._band(arm, curves, np.mean(clocks, axis=0))
        self._finish("seconds")

    def layers(self) -> None:
        """Draw a measure over the hidden layers."""
        for arm in self.arms:
            lines = []
            for measured in self.results[arm.name].values():
                if measured.layers.get(self.key):
                    lines.append(measured.layers[self.key])
            self._band(arm, lines)
        self.axis.set(xlabel="hidden layer", ylabel=self.key)
        if self.key.endswith(("gradient_norm", "std")):
            self.axis.set_yscale("log")

    def across(self) -> None:
        """Draw a measure over the second factor, with a line for each level."""
        by_level: dict[str, list[Arm]] = {}
        for arm in self.arms:
            by_level.setdefault(arm.level, []).append(arm)
        for level, arms in by_level.items():
            self._across_of(level, arms)
        numbers = [arm.across for arm in self.arms if isinstance(arm.across, int | float)]
        if _needs_log(numbers):
            self.axis.set_xscale("log")
        self._finish("second factor")

    def _across_of(self, level: str, arms: Sequence[Arm]) -> None:
        x: list[float | str] = []
        means = []
        low = []
        high = []
        for arm in arms:
            found = list(self._values(arm, self.key).values())
            if found and arm.across is not None:
                x.append(arm.across)
                means.append(np.mean(found))
                low.append(min(found))
                high.append(max(found))
        if x:
            color = self.looks[arms[0].name]["color"]
            self.axis.plot(x, means, "o-", label=level, color=color)
            self.axis.fill_between(x, low, high, color=color, alpha=0.15)

    def scatter(self) -> None:
        """Draw a measure over another, with a point for each training."""
        first, second = self.key.split(",")
        for arm in self.arms:
            x = self._values(arm, first)
            y = self._values(arm, second)
            paired = [x.get(seed, 0.0) for seed in y]
            color = self.looks[arm.name]["color"]
            self.axis.plot(paired, list(y.values()), "o", label=arm.name, color=color)
        self.axis.set(xlabel=first, ylabel=second)

    def _values(self, arm: Arm, measure: str) -> dict[int, float]:
        """Return a measure of an arm by seed."""
        return values(self.results[arm.name], measure)

    def _with_curve(self, arm: Arm) -> list[Measured]:
        """Return the trainings of an arm that have a curve of the metric."""
        trainings = self.results[arm.name].values()
        return [measured for measured in trainings if measured.curves.get(self.key)]

    def _band(self, arm: Arm, lines: Sequence[list[float]], x: Floats | None = None) -> None:
        """Draw the mean of lines with a band around it, as far as the shortest line reaches."""
        if not lines:
            return
        n = min(map(len, lines))
        stacked = np.array([line[:n] for line in lines], np.float64)
        if x is None:
            x = np.arange(1, n + 1, dtype=np.float64)
        x = x[:n]
        marker = None
        if n < 3:
            marker = "o"
        mean = stacked.mean(axis=0)
        look = self.looks[arm.name]
        self.axis.plot(x, mean, label=arm.name, marker=marker, **look)
        low = stacked.min(axis=0)
        high = stacked.max(axis=0)
        self.axis.fill_between(x, low, high, color=look["color"], alpha=0.15)

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
    if not numbers:
        return False
    low = min(numbers)
    return low > 0 and max(numbers) > 20 * low
