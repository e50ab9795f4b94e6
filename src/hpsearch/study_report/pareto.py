"""The front of a study with two objectives, a value and a cost.

The front is the set of trials that no other trial beats in both objectives. This file finds it and
the cheapest good trial on it, and makes the section of the study's page that shows them.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import optuna
from matplotlib.axes import Axes
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.study.direction import Direction
from hpsearch.study.study import number_of, ranked
from hpsearch.study_report.searched import Searched, numbers
from hpsearch.trials.costs import Costs


def front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that no other beats in both objectives, the best by the first one first."""
    direction = Direction.of(study)
    return ranked(study.best_trials, direction)


def cheapest(study: optuna.Study, tolerance: float) -> FrozenTrial:
    """Return the trial with the least cost on the front that is nearly as good as the best.

    Args:
        study: A study with two objectives and at least one finished trial.
        tolerance: How much worse the first objective may be, as a share of the best.
    """
    trials = front(study)
    best = trials[0].values[0]
    near = []
    for trial in trials:
        difference = abs(trial.values[0] - best)
        if difference <= tolerance * abs(best):
            near.append(trial)
    return min(near, key=lambda trial: (trial.values[1], number_of(trial)))


def section(searched: Searched) -> Section:
    """Return the section of the study's page that shows the front."""
    trials = front(searched.study)
    tolerance = searched.config["costs"]["tolerance"]
    cheap = cheapest(searched.study, tolerance)
    cost = searched.objectives[1]
    alias = Costs.ALIASES[cost]
    rows = [["trial", *searched.objectives, ""]]
    for trial in trials:
        marks = []
        if trial.number == trials[0].number:
            marks.append("best")
        if trial.number == cheap.number:
            marks.append(alias)
        rows.append([searched.title(trial), *numbers(trial), " and ".join(marks)])
    text = (
        f"{len(trials)} of {len(searched.ranked)} finished trials are beaten by no other in both "
        f"{searched.monitor} and {cost}. Alias {alias} goes to the one that costs least among "
        f"those whose {searched.monitor} is not more than {tolerance:.0%} worse than the best."
    )
    picture = _figure(searched, cheap)
    return Section("What a better value costs", text, rows, figures=[picture])


def _figure(searched: Searched, cheap: FrozenTrial) -> Figure:
    """Draw all finished trials, their front, the best of them and the one that is `cheap`."""
    trials = front(searched.study)
    cost = searched.objectives[1]
    plot, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    costs, values = _points(searched.ranked)
    axis.plot(costs, values, "o", color="0.6", label="finished trials")
    # The line has steps: between two trials, nothing better than the cheaper one is known.
    costs, values = _points(trials[::-1])
    axis.plot(
        costs,
        values,
        "o-",
        color="black",
        drawstyle="steps-post",
        label="no other is better in both",
    )
    for trial in trials:
        value, price = trial.values
        number = f"#{number_of(trial)}"
        axis.annotate(number, (price, value), (6, 6), textcoords="offset points")
    _mark(axis, trials[0], "best", "*")
    _mark(axis, cheap, Costs.ALIASES[cost], "D")
    axis.set(xlabel=f"{cost} ({Costs.UNITS[cost]})", ylabel=searched.label)
    axis.legend()
    return drawn(
        "pareto",
        plot,
        "Each finished trial with its value and its cost. The line is the front: whoever wants a "
        "better value than a trial on it must pay more.",
    )


def _mark(axis: Axes, trial: FrozenTrial, name: str, marker: str) -> None:
    value, cost = trial.values
    axis.plot(
        cost,
        value,
        marker,
        color="tab:red",
        label=f"{name}, #{number_of(trial)}",
        markersize=14,
        markerfacecolor="none",
    )


def _points(trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    """Return the costs and the values of trials."""
    costs = [trial.values[1] for trial in trials]
    values = [trial.values[0] for trial in trials]
    return costs, values
