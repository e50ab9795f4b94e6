"""The front of a study with two objectives, a value and a cost.

The front is the set of trials that no other trial beats in both objectives. `Front` finds it and
the cheapest good trial on it, and makes the section of the study's page that shows them.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from optuna.trial import FrozenTrial

from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.study.study import number_of, ranked
from hpsearch.study_report.searched import Searched
from hpsearch.tracking.names import CHEAPEST


class Front:
    """The trials that no other beats in both objectives.

    Args:
        searched: A study with two objectives and at least one finished trial.

    Attributes:
        trials: The trials on the front, the best by the first objective first.
        cheapest: The trial with the least cost whose value is worse than the best by at most
            `costs.tolerance`, a share of the best.
    """

    def __init__(self, searched: Searched) -> None:
        self._searched = searched
        self._tolerance = searched.config["costs"]["tolerance"]
        self.trials = ranked(searched.study.best_trials, searched.direction)
        best = self.trials[0].values[0]
        furthest = self._tolerance * abs(best)
        near = []
        for trial in self.trials:
            value, _cost = trial.values
            if abs(value - best) <= furthest:
                near.append(trial)
        self.cheapest = min(near, key=lambda trial: (trial.values[1], number_of(trial)))

    def section(self) -> Section:
        """Return the section of the study's page that shows the front."""
        searched = self._searched
        cost = searched.objectives[1]
        alias = CHEAPEST[cost]
        rows = [["trial", *searched.objectives, ""]]
        for trial in self.trials:
            marks = []
            if trial is self.trials[0]:
                marks.append("best")
            if trial is self.cheapest:
                marks.append(alias)
            title = searched.title(trial)
            values = searched.numbers(trial)
            rows.append([title, *values, " and ".join(marks)])
        text = (
            f"{len(self.trials)} of {len(searched.ranked)} finished trials are beaten by no other "
            f"in both {searched.monitor} and {cost}. Alias {alias} goes to the one that costs "
            f"least among those whose {searched.monitor} is not more than {self._tolerance:.0%} "
            "worse than the best."
        )
        return Section(
            "What a better value costs",
            text,
            rows,
            figures=[self._figure()],
        )

    def _figure(self) -> Figure:
        """Draw all finished trials, the front, the best trial on it and the cheapest good one."""
        searched = self._searched
        cost = searched.objectives[1]
        plot, axis = plt.subplots(figsize=(8, 5), layout="constrained")
        costs, values = _points(searched.ranked)
        axis.plot(
            costs,
            values,
            "o",
            color="0.6",
            label="finished trials",
        )
        costs, values = _points(self.trials[::-1])
        (line,) = axis.plot(costs, values, "o-", color="black")
        # The line has steps: between two trials, nothing better than the cheaper one is known.
        line.set(drawstyle="steps-post", label="no other is better in both")
        for trial in self.trials:
            value, price = trial.values
            number = f"#{number_of(trial)}"
            axis.annotate(number, (price, value), (6, 6), textcoords="offset points")
        for trial, name, marker in (
            (self.trials[0], "best", "*"),
            (self.cheapest, CHEAPEST[cost], "D"),
        ):
            value, price = trial.values
            (ring,) = axis.plot(price, value, marker, color="tab:red")
            ring.set(label=f"{name}, #{number_of(trial)}")
            ring.set(markersize=14, markerfacecolor="none")
        units = {"latency_ms": "one prediction", "n_parameters": "weights"}
        axis.set_xlabel(f"{cost} ({units[cost]})")
        axis.set_ylabel(searched.label)
        axis.legend()
        return drawn(
            "pareto",
            plot,
            "Each finished trial with its value and its cost. The line is the front: whoever wants "
            "a better value than a trial on it must pay more.",
        )


def _points(trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    """Return the costs and the values of trials."""
    costs = [trial.values[1] for trial in trials]
    values = [trial.values[0] for trial in trials]
    return costs, values
