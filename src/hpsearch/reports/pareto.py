"""Two objectives: the trials that no other beats in both, the one for each alias, and their picture."""

from __future__ import annotations

import io

import matplotlib as mpl
import matplotlib.pyplot as plt
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hpsearch.studies.study import number_of, ranked
from hpsearch.trials.costs import UNITS, Costs

mpl.use("Agg")


def front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that no other beats in both objectives, the best by the first one first."""
    return ranked(study.best_trials, _maximize(study))


def cheapest(study: optuna.Study, tolerance: float) -> FrozenTrial:
    """Return the trial with the least cost among those of the front that are nearly as good as the best.

    Args:
        study: With at least one finished trial and two objectives.
        tolerance: How much worse the first objective may be, as a share of the best.
    """
    best, *others = front(study)
    allowed = tolerance * abs(best.values[0])
    near = [best, *(trial for trial in others if abs(trial.values[0] - best.values[0]) <= allowed)]
    return min(near, key=lambda trial: (trial.values[1], number_of(trial)))


def figure(study: optuna.Study, monitor: str, costs: Costs) -> bytes:
    """Return the picture of all finished trials, their front and both aliases, as PNG; readable in black and white."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best, objective = front(study), costs.second_objective or ""
    buffer = io.BytesIO()
    with plt.style.context("default"):  # Optuna's figures change the style of all others
        drawing, axis = plt.subplots(figsize=(8, 5), layout="constrained")
        axis.plot(*_points(complete), "o", color="0.75", label="finished trials")
        stairs = _points(best[::-1])  # between two trials nothing better than the cheaper one is known
        axis.plot(*stairs, "o-", color="black", drawstyle="steps-post", label="no other is better in both")
        for trial in best:
            axis.annotate(f"#{number_of(trial)}", trial.values[::-1], (6, 6), textcoords="offset points")
        for trial, alias, marker in ((best[0], "best", "*"), (cheapest(study, costs.tolerance), costs.alias, "D")):
            (point,) = axis.plot(*_points([trial]), marker, color="tab:red", label=f"{alias}: #{number_of(trial)}")
            point.set(markersize=14, markerfacecolor="none")
        unit = UNITS[objective]
        axis.set(xlabel=objective if objective.endswith(unit) else f"{objective} ({unit})", ylabel=monitor)
        axis.legend()
        drawing.savefig(buffer, dpi=90)
        plt.close(drawing)
    return buffer.getvalue()


def _points(trials: list[FrozenTrial]) -> tuple[list[float], list[float]]:
    return [trial.values[1] for trial in trials], [trial.values[0] for trial in trials]


def _maximize(study: optuna.Study) -> bool:
    return bool(study.directions[0] == StudyDirection.MAXIMIZE)
