"""Tell what each way to predict costs, and which one is worth it for a model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hpsearch import metrics
from hpsearch.alternatives.method import LABELS
from hpsearch.evaluation import settings
from hpsearch.evaluation.differences import compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section

_NONE = (
    "No method has a better NLL than the plain prediction by more than chance: by that measure use "
    "the plain prediction."
)
_NEEDS = {"plain": "nothing", "mc": "dropout in the model"}


class Methods(settings.Methods):
    """The part of an evaluation that tells what each way to predict costs."""

    _HEAD = (
        "method",
        "NLL",
        "accuracy",
        "s for 1,000 examples",
        "times plain",
        "made in",
        "needs",
    )

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Return a section with all arms, or None where MC Dropout alone was asked for."""
        if not evaluated.alternatives and not evaluated.not_made:
            return None
        rows: list[tuple[str, ...]] = [self._HEAD]
        found = {}
        for arm in evaluated.arms:
            rows.append(_row(evaluated, arm))
            found[f"test/{arm}/s_per_1000"] = evaluated.seconds[arm]
            found[f"test/{arm}/made_in_s"] = _made_in_s(evaluated, arm)
        said = [
            "Seconds are those of a call that is compiled already, on this machine; what is made "
            "once, such as the models of an ensemble, has its own column.",
            *(f"{LABELS[arm]}: {made.how}" for arm, made in evaluated.alternatives.items()),
            *(f"{LABELS[arm]} is left out. {why}" for arm, why in evaluated.not_made.items()),
        ]
        return Section("What the methods cost", "\n\n".join(said), rows, found)


def _row(evaluated: EvaluatedModel, arm: str) -> tuple[str, ...]:
    """Return the row of the table for one arm."""
    labels = evaluated.test.targets
    probs = evaluated.on_test[arm]
    seconds = evaluated.seconds
    needs = _NEEDS.get(arm, "")
    if arm in evaluated.alternatives:
        needs = evaluated.alternatives[arm].needs
    return (
        LABELS[arm],
        f"{metrics.nll(probs, labels):.4f}",
        f"{metrics.accuracy(probs, labels):.4f}",
        f"{seconds[arm]:.3g}",
        f"{seconds[arm] / seconds['plain']:.3g}",
        f"{_made_in_s(evaluated, arm):.3g} s",
        needs,
    )


def _made_in_s(evaluated: EvaluatedModel, arm: str) -> float:
    """Return the seconds that it took to make an arm; 0 for what the model has already."""
    if arm in evaluated.alternatives:
        return evaluated.alternatives[arm].made_in_s
    return 0.0


def recommendation(
    evaluated: EvaluatedModel,
    better: Sequence[str],
    *,
    level: float,
    n_resamples: int,
    seed: int,
) -> str:
    """Return which method is worth it by its NLL and its time, in words.

    Of the methods that are better than the plain prediction, those are left out to which another
    of them is preferable by more than chance. The cheapest of the rest is recommended.

    Args:
        evaluated: The model with its arms.
        better: The arms whose NLL is better than that of the plain prediction.
        level: Probability that any two equally good arms are called different, in (0, 1). All
            pairs of arms share it, as the data have chosen those that are compared.
        n_resamples: Number of resamples of the paired bootstrap.
        seed: Its seed.
    """
    if not better:
        return _NONE
    labels = evaluated.test.targets
    n_pairs = math.comb(len(evaluated.on_test) - 1, 2)
    n_resamples = max(n_resamples, math.ceil(n_pairs / level))  # fewer can call no difference

    def beats(arm: str, other: str) -> bool:
        (difference,) = compare(
            evaluated.on_test[other],
            evaluated.on_test[arm],
            labels,
            n_resamples=n_resamples,
            level=level / n_pairs,
            seed=seed,
            measures=("nll",),
        )
        return difference.verdict(level / n_pairs) == "better"

    seconds = evaluated.seconds
    by_cost = sorted(better, key=seconds.__getitem__)

    def is_beaten(arm: str) -> bool:
        return any(beats(rival, arm) for rival in by_cost if rival != arm)

    chosen = next(arm for arm in by_cost if not is_beaten(arm))  # that of the lowest NLL at most
    return _in_words(chosen, by_cost, seconds)


def _in_words(chosen: str, by_cost: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Return that a method is worth it, of those that are better than the plain prediction."""
    cheaper = by_cost[: by_cost.index(chosen)]

    def told(arm: str) -> str:
        return f"{LABELS[arm]} ({seconds[arm] / seconds['plain']:.3g} times)"

    compared = "no other method is so by more than chance"
    if len(by_cost) > 1:
        compared = "none of the others that are so is better than it by more than chance"
    text = (
        f"By its NLL, {LABELS[chosen]} is worth it for this model: it is better than the plain "
        f"prediction, {compared}, and it takes {seconds[chosen] / seconds['plain']:.3g} times as "
        "long as the plain prediction."
    )
    if cheaper:
        names = " and ".join(told(arm) for arm in cheaper)
        text += (
            " Cheaper, and better than the plain prediction too, but another method is better "
            f"still: {names}."
        )
    return text
