"""What a study came to: a table, a summary and figures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization import matplotlib as plots
from rich.table import Table

from hpsearch.spaces.bounds import COMPLEMENT
from hpsearch.spaces.space import Space
from hpsearch.studies.budget import SPENT
from hpsearch.studies.study import best_trial, number_of, ranked, value_of
from hpsearch.tracking.runs import TrialName
from hpsearch.training.range_test import Curve

mpl.use("Agg")


@dataclass(frozen=True)
class Outcome:
    """How many trials ended in which way, and the best."""

    n_finished: int
    n_pruned: int
    n_diverged: int
    n_infeasible: int
    n_failed: int
    n_epochs: int
    best: FrozenTrial | None

    @classmethod
    def of(cls, trials: list[FrozenTrial], maximize: bool) -> Outcome:
        """Count the trials of a study; one that was killed and tried again counts once."""
        reasons = [t.user_attrs.get("reason") for t in trials if t.state in SPENT]
        failed = [t for t in trials if t.state == TrialState.FAIL and t.user_attrs.get("reason") == "error"]
        return cls(
            n_finished=sum(t.state == TrialState.COMPLETE for t in trials),
            n_pruned=reasons.count("pruned"),
            n_diverged=reasons.count("diverged"),
            n_infeasible=reasons.count("infeasible"),
            n_failed=len(failed),
            n_epochs=sum(len(t.intermediate_values) for t in trials),
            best=best_trial(trials, maximize),
        )

    def counts(self) -> str:
        """Return the counts in words."""
        parts = [f"{self.n_finished} finished", f"{self.n_pruned} pruned"]
        parts += [f"{self.n_diverged} diverged"] if self.n_diverged else []
        parts += [f"{self.n_infeasible} beyond a constraint"] if self.n_infeasible else []
        parts += [f"{self.n_failed} failed"] if self.n_failed else []
        return ", ".join(parts)


def best_table(
    trials: list[FrozenTrial], space: Space, objectives: Sequence[str], maximize: bool, n_best: int = 5
) -> Table:
    """Return the best trials as a table for the terminal, a column each: there may be many hyperparameters."""
    best = ranked(trials, maximize)[:n_best]
    drawn = [space.values(trial) for trial in best]
    table = Table("trial", title=f"The best {len(best)} trials", title_justify="left")
    for trial in best:
        table.add_column(f"#{number_of(trial)}", justify="right")
    for place, objective in enumerate(objectives):
        values = [trial.values[place] for trial in best]
        table.add_row(objective, *(f"{value:.0f}" if value.is_integer() else f"{value:.4f}" for value in values))
    table.add_row("epochs", *(str(len(trial.intermediate_values)) for trial in best), end_section=True)
    for name in dict.fromkeys(name for values in drawn for name in values):
        cells = (values.get(name, "") for values in drawn)
        table.add_row(name, *(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    return table


def summary(name: str, outcome: Outcome, space: Space, monitor: str, facts: Mapping[str, str]) -> str:
    """Return the description of the parent run, in Markdown."""
    lines = [f"## Study {name}", "", f"{outcome.counts()}; {outcome.n_epochs} epochs in all."]
    if outcome.best is not None:
        best = TrialName(number_of(outcome.best), space.values(outcome.best))
        lines += ["", f"**Best trial:** {best}, {monitor} {value_of(outcome.best):.4f}"]
    lines += ["", *(f"- **{key}:** {value}" for key, value in facts.items())]
    return "\n".join(lines)


def as_shown(study: optuna.Study, space: Space) -> optuna.Study:
    """Return a copy in memory whose hyperparameters have the names and values that people see (momentum itself)."""
    copy = optuna.create_study(direction=study.directions[0], study_name=study.study_name)
    for trial in study.get_trials(deepcopy=False, states=SPENT):
        values = space.values(trial)
        copy.add_trial(
            optuna.trial.create_trial(
                state=trial.state,
                value=value_of(trial),
                params=values,
                distributions={name: _as_shown(name, value, trial) for name, value in values.items()},
                intermediate_values=trial.intermediate_values,
            )
        )
    return copy


def _as_shown(name: str, value: Any, trial: FrozenTrial) -> BaseDistribution:
    if name in trial.distributions:
        return trial.distributions[name]
    if isinstance(value, float):  # drawn in another form, or fixed
        stored = trial.distributions.get(COMPLEMENT + name)
        low, high = (1 - stored.high, 1 - stored.low) if isinstance(stored, FloatDistribution) else (value, value)
        return FloatDistribution(low, high)
    return optuna.distributions.CategoricalDistribution((value,))


def figures(study: optuna.Study, space: Space, monitor: str) -> dict[str, bytes]:
    """Return the study's figures as PNG files by name; a figure that needs more trials is left out."""
    shown = as_shown(study, space)
    make: dict[str, Callable[..., Any]] = {
        "history": plots.plot_optimization_history,
        "parallel_coordinates": plots.plot_parallel_coordinate,
        "slices": plots.plot_slice,
        "importances": plots.plot_param_importances,
        "learning_curves": plots.plot_intermediate_values,
    }
    made = {}
    for name, plot in make.items():
        if name == "importances" and not _can_rank(shown):
            continue
        named = {} if name == "learning_curves" else {"target_name": monitor}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls its Matplotlib figures experimental
            plot(shown, **named)
        figure = plt.gcf()
        figure.set_size_inches(10, 6)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=90, bbox_inches="tight")
        plt.close("all")
        made[f"figures/{name}.png"] = buffer.getvalue()
    return made


def range_test_figure(curve: Curve) -> dict[str, bytes]:
    """Return the picture of a learning rate test."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    axis.semilogx(curve.learning_rates, curve.losses, alpha=0.3, label="training loss")
    axis.semilogx(curve.learning_rates, curve.smooth(), label="smoothed")
    axis.axvline(curve.largest_stable, color="C3", label="largest stable")
    axis.axvline(curve.proposal, color="C2", label="proposed")
    axis.set(xlabel="learning_rate", ylabel="train/loss")
    axis.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=90)
    plt.close(figure)
    return {"figures/lr_test.png": buffer.getvalue()}


def _can_rank(study: optuna.Study) -> bool:
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = complete and len({t.value for t in complete}) > 1 and complete[0].params
    return bool(varied) and len(complete) >= 4
