"""How the trials of a study ended: counts, and a table of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hpsearch.spaces.space import Space
from hpsearch.studies.budget import SPENT
from hpsearch.studies.study import best_trial, number_of, ranked


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


def numbers(trial: FrozenTrial) -> list[str]:
    """Return the values of a finished trial as people read them: weights are counted, all else is measured."""
    value, *costs = trial.values
    return [f"{value:.4f}", *(f"{cost:.0f}" if cost.is_integer() else f"{cost:.4f}" for cost in costs)]


def best_rows(
    trials: list[FrozenTrial], space: Space, objectives: Sequence[str], maximize: bool, n_rows: int = 5
) -> list[list[str]]:
    """Return the best trials as rows of a table, the first being the head."""
    rows = [(t, space.values(t)) for t in ranked(trials, maximize)[:n_rows]]
    names = list(dict.fromkeys(name for _, values in rows for name in values))
    table = [["trial", *objectives, "epochs", *names]]
    for trial, values in rows:
        cells = [f"{values[n]:.4g}" if isinstance(values.get(n), float) else str(values.get(n, "")) for n in names]
        table.append([f"#{number_of(trial)}", *numbers(trial), str(len(trial.intermediate_values)), *cells])
    return table
