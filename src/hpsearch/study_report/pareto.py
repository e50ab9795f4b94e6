"""Two objectives: the trials that no other beats in both, the one for each alias, and their
picture.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import optuna
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.study.direction import Direction
from hpsearch.study.study import number_of, ranked
from hpsearch.study_report.searched import Searched, numbers
from hpsearch.trials.costs import ALIASES, UNITS

TITLE = "What a better value costs"


def front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that no other beats in both objectives, the best by the first one first."""
    return ranked(study.best_trials, Direction.of(study))


def cheapest(study: optuna.Study, tolerance: float) -> FrozenTrial:
    """Return the trial with the least cost among those of the front that are nearly as good as the
    best.

    Args:
        study: With at least one finished trial and two objectives.
        tolerance: How much worse the first objective may be, as a share of the best.
    """
    best, *others = front(study)
    allowed = tolerance * abs(best.values[0])
    near = [best, *(trial for trial in others if abs(trial.values[0] - best.values[0]) <= allowed)]
    return min(near, key=lambda trial: (trial.values[1], number_of(trial)))


def section(searched: Searched) -> Section:
    """Return the part of the study's page that shows its front."""
    best, tolerance = front(searched.study), searched.config["costs"]["tolerance"]
    cost, cheap = searched.objectives[1], cheapest(searched.study, tolerance)
    rows = [["trial", *searched.objectives, ""]]
    for trial in best:
        named = (("best", best[0]), (ALIASES[cost], cheap))
        marks = [name for name, marked in named if marked.number == trial.number]
        rows.append([searched.title(trial), *numbers(trial), " and ".join(marks)])
    text = (
        f"{len(best)} of {len(searched.ranked)} finished trials are beaten by no other in both "
        f"{searched.monitor} and "
        f"{cost}. Alias {ALIASES[cost]} goes to the one that costs least among those whose "
        f"{searched.monitor} is not "
        f"more than {tolerance:.0%} worse than the best."
    )
    return Section(TITLE, text, rows, figures=[figure(searched, cheap)])


def figure(searched: Searched, cheap: FrozenTrial) -> Figure:
    """Draw all finished trials, their front, the best of them and the one that is `cheap`."""
    best, cost = front(searched.study), searched.objectives[1]
    plot, axis = plt.subplots(figsize=(8, 5), layout="constrained")
    axis.plot(*_points(searched.ranked), "o", color="0.6", label="finished trials")
    stairs = _points(best[::-1])  # between two trials nothing better than the cheaper one is known
    axis.plot(
        *stairs, "o-", color="black", drawstyle="steps-post", label="no other is better in both"
    )
    for trial in best:
        axis.annotate(
            f"#{number_of(trial)}", trial.values[::-1], (6, 6), textcoords="offset points"
        )
    for trial, name, marker in ((best[0], "best", "*"), (cheap, ALIASES[cost], "D")):
        (point,) = axis.plot(
            *_points([trial]), marker, color="tab:red", label=f"{name}, #{number_of(trial)}"
        )
        point.set(markersize=14, markerfacecolor="none")
    axis.set(xlabel=f"{cost} ({UNITS[cost]})", ylabel=searched.label)
    axis.legend()
    return drawn(
        "pareto",
        plot,
        "Each finished trial with its value and its cost. The line is the front: whoever wants a "
        "better value than a "
        "trial on it must pay more.",
    )


def _points(trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    return [trial.values[1] for trial in trials], [trial.values[0] for trial in trials]
