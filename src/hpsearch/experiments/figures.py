"""Figures of experiments, as PNG: learning curves with bands over seeds, layers, and a measure over
a second factor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from hpsearch.experiments.answers import Results, values
from hpsearch.experiments.arms import Arm
from hpsearch.html_report.section import Figure, drawn

WIDTH_IN, HEIGHT_IN = 5.5, 4.0
DASHES = ("-", "--", ":", "-.")
Looks = Mapping[str, Mapping[str, Any]]
CAPTION = "Lines are means over seeds; bands reach from the lowest to the highest."


def draw(name: str, panels: Sequence[str], arms: Sequence[Arm], results: Results) -> Figure:
    """Return one picture with a panel for each of `panels`.

    A panel is `curve:METRIC` over epochs, `clock:METRIC` over seconds, `layers:MEASURE` over hidden
    layers, `across:MEASURE` over the second factor, or `scatter:MEASURE,MEASURE`.
    """
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(WIDTH_IN * len(panels), HEIGHT_IN),
        layout="constrained",
        squeeze=False,
    )
    levels, factors = (
        list(dict.fromkeys(getattr(arm, name) for arm in arms)) for name in ("level", "across")
    )
    looks = {arm.name: _look(levels.index(arm.level), factors.index(arm.across)) for arm in arms}
    for axis, panel in zip(axes[0], panels, strict=True):
        kind, _, key = panel.partition(":")
        _KINDS[kind](axis, key, arms, results, looks)
        axis.grid(alpha=0.3)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=min(6, max(1, len(labels))),
        fontsize="small",
    )
    return drawn(name, figure, CAPTION)


def _look(level: int, factor: int) -> dict[str, Any]:
    """A level has one colour in all panels; the values of the second factor differ by the dashes."""
    return {"color": f"C{level}", "linestyle": DASHES[factor % len(DASHES)]}


def _curves(axis: Any, key: str, arms: Sequence[Arm], results: Results, looks: Looks) -> None:
    for arm in arms:
        curves = [m.curves[key] for m in results[arm.name].values() if m.curves.get(key)]
        _band(axis, arm.name, looks, curves)
    axis.set(xlabel="epoch", ylabel=key)
    _scale(axis, key)


def _clock(axis: Any, key: str, arms: Sequence[Arm], results: Results, looks: Looks) -> None:
    for arm in arms:
        seeds = [m for m in results[arm.name].values() if m.curves.get(key)]
        if not seeds:
            continue
        n = min(len(m.curves[key]) for m in seeds)
        clock = np.mean([np.cumsum(m.curves["time/epoch_s"][:n]) for m in seeds], axis=0)
        _band(axis, arm.name, looks, [m.curves[key] for m in seeds], clock)
    axis.set(xlabel="seconds", ylabel=key)
    _scale(axis, key)


def _layers(axis: Any, key: str, arms: Sequence[Arm], results: Results, looks: Looks) -> None:
    for arm in arms:
        layers = [m.layers[key] for m in results[arm.name].values() if m.layers.get(key)]
        _band(axis, arm.name, looks, layers)
    axis.set(xlabel="hidden layer", ylabel=key)
    if key.endswith(("gradient_norm", "std")):
        axis.set_yscale("log")


def _across(axis: Any, key: str, arms: Sequence[Arm], results: Results, looks: Looks) -> None:
    for level in dict.fromkeys(arm.level for arm in arms):
        mine = [arm for arm in arms if arm.level == level and arm.across is not None]
        found = [(arm.across, list(values(results[arm.name], key).values())) for arm in mine]
        found = [(x, y) for x, y in found if y]
        if found:
            x = [x for x, _ in found]
            color = looks[mine[0].name]["color"]
            axis.plot(x, [np.mean(y) for _, y in found], "o-", label=level, color=color)
            low, high = [min(y) for _, y in found], [max(y) for _, y in found]
            axis.fill_between(x, low, high, color=color, alpha=0.15)
    axis.set(xlabel="second factor", ylabel=key)
    numbers = [arm.across for arm in arms if isinstance(arm.across, int | float)]
    if numbers and min(numbers) > 0 and max(numbers) > 20 * min(numbers):
        axis.set_xscale("log")
    _scale(axis, key)


def _scatter(axis: Any, key: str, arms: Sequence[Arm], results: Results, looks: Looks) -> None:
    first, second = key.split(",")
    for arm in arms:
        x, y = (values(results[arm.name], measure) for measure in (first, second))
        axis.plot(
            [x.get(seed, 0.0) for seed in y],
            list(y.values()),
            "o",
            label=arm.name,
            color=looks[arm.name]["color"],
        )
    axis.set(xlabel=first, ylabel=second)


def _band(
    axis: Any, name: str, looks: Looks, lines: list[list[float]], x: NDArray[Any] | None = None
) -> None:
    if not lines:
        return
    n = min(map(len, lines))
    stacked = np.array([line[:n] for line in lines], np.float64)
    x = np.arange(1, n + 1) if x is None else x[:n]
    line = axis.plot(
        x, stacked.mean(axis=0), label=name, marker="o" if n < 3 else None, **looks[name]
    )[0]
    axis.fill_between(
        x, stacked.min(axis=0), stacked.max(axis=0), color=line.get_color(), alpha=0.15
    )


def _scale(axis: Any, key: str) -> None:
    """Losses of arms that explode would hide all others."""
    shown = [y for line in axis.get_lines() for y in line.get_ydata() if np.isfinite(y) and y > 0]
    if key.endswith("loss") and shown and max(shown) > 20 * min(shown):
        axis.set_yscale("log")


_KINDS = {
    "curve": _curves,
    "clock": _clock,
    "layers": _layers,
    "across": _across,
    "scatter": _scatter,
}
