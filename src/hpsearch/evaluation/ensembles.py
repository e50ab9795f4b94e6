"""Measure ensembles, and how many members of one recipe a single model is worth.

Members that were trained from fresh seeds with the hyperparameters of the model give the deep
ensemble equivalent. The best models of the study do not: each has hyperparameters of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from hpsearch import metrics
from hpsearch.alternatives.ensemble import Ensemble
from hpsearch.alternatives.method import LABELS
from hpsearch.evaluation import settings
from hpsearch.evaluation.calibration import scaled, temperature
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.metrics import Floats
from hpsearch.seeds import derive

_HEAD = ["arm", "accuracy", "NLL", "NLL scaled", "ECE"]
_Predictions = tuple[Floats, Floats]  # the distributions on calibrating and on test, (N, C) each


class Ensembles(settings.Ensembles):
    """The part of an evaluation that measures ensembles.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure the ensembles of one recipe where there are members of it, else the study's.

        Returns:
            A section, or None if there are fewer than two models of either kind.
        """
        ensemble = evaluated.alternatives.get("ensemble")
        if isinstance(ensemble, Ensemble):
            return _of_one_recipe(evaluated, ensemble)
        return self._of_study(evaluated)

    def _of_study(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure ensembles of plain members and, where all have dropout, of MC Dropout members."""
        models = self._members(evaluated)
        size = len(models)
        if size < 2:
            return None
        arms = ["plain"]
        if all(model.left_out is None for model in (evaluated, *models)):
            arms.append("mc")
        rows = [_HEAD]
        found = {}
        for arm in arms:
            one = _measures(evaluated, [_predictions(evaluated, arm)])
            rows.append(_row(f"one model, {LABELS[arm]}", one))
        for arm in arms:
            whole = _measures(evaluated, [_predictions(model, arm) for model in models])
            rows.append(_row(f"ensemble of {size}, {LABELS[arm]}", whole))
            key = {"plain": "study_ensemble", "mc": "study_mc_ensemble"}[arm]
            for measure in ("accuracy", "nll", "ece"):
                found[f"test/{key}/{measure}"] = whole[measure]
            found[f"test/{key}_scaled/nll"] = whole["nll_scaled"]
        curve = _nll_by_size(evaluated, [_predictions(model, "plain") for model in models])
        text = (
            f"The ensembles consist of the {size} best models that the study has kept. Each was "
            "trained with its own hyperparameters, so most of them are worse than the best one. "
            "How many models of its own recipe this model is worth, its deep ensemble equivalent, "
            "is measured with uncertainty=ensemble, which trains them."
        )
        return Section(
            title="Ensembles of the study's models",
            text=text,
            table=rows,
            metrics=found,
            curves={"test/study_ensemble_scaled/nll_over_members": list(enumerate(curve, 1))},
        )

    def _members(self, evaluated: EvaluatedModel) -> list[EvaluatedModel]:
        """Return the members as evaluated models, each with masks of its own."""
        own = evaluated.settings
        members = evaluated.members[: self.n_members]
        models = []
        for place, member in enumerate(members):
            seed = derive(own.seed, "member", place)
            settings = replace(own, n_samples=self.n_samples, seed=seed)
            # The other ways to predict are those of the evaluated model, and not of a member.
            model = replace(evaluated, model=member, settings=settings, alternatives={})
            models.append(model)
        return models


def _of_one_recipe(evaluated: EvaluatedModel, ensemble: Ensemble) -> Section:
    """Measure how many members of one recipe the predictions of a model are worth."""
    on_calibrating = ensemble.by_member(evaluated.calibrating.inputs)
    on_test = ensemble.by_member(evaluated.test.inputs)
    members = list(zip(on_calibrating, on_test, strict=True))
    curve = _nll_by_size(evaluated, members)
    rows = [_HEAD]
    found = {}
    said = []
    for arm in evaluated.on_test:
        if arm not in ("plain", "mc"):
            continue
        one = _measures(evaluated, [_predictions(evaluated, arm)])
        rows.append(_row(f"one model, {LABELS[arm]}", one))
        found[f"test/{arm}/deep_ensemble_equivalent"] = equivalent(curve, one["nll_scaled"])
        said.append(f"{LABELS[arm]} of this model {compared(one['nll_scaled'], curve)}")
    size = len(members)
    rows.append(_row(f"ensemble of {size}, plain", _measures(evaluated, members)))
    text = (
        f"{ensemble.how} By its NLL after temperature scaling, {'; '.join(said)} (Ashukha et al., "
        "2020). The plain prediction would be worth one model if the search had not chosen it: "
        "what lies beyond is that choice, and the luck of few models."
    )
    return Section(
        title="Ensembles of one recipe",
        text=text,
        table=rows,
        metrics=found,
        curves={"test/ensemble_scaled/nll_over_members": list(enumerate(curve, 1))},
    )


def _row(name: str, measures: Mapping[str, float]) -> list[str]:
    """Return the row of the table for one way to predict."""
    return [name, *(f"{value:.4f}" for value in measures.values())]


def compared(nll: float, curve: Sequence[float]) -> str:
    """Return how an NLL compares with those of ensembles of 1, 2, ... members, in words."""
    if nll < min(curve):
        return f"has a lower NLL than ensembles of 1 to {len(curve)} of them have on average"
    if nll > curve[0]:
        return "has a higher NLL than one of them alone has on average"
    return f"is worth a deep ensemble of {equivalent(curve, nll):.1f}"


def equivalent(curve: Sequence[float], nll: float) -> float:
    """Return how many members a deep ensemble needs for an NLL, interpolated linearly.

    Args:
        curve: NLL of ensembles of 1, 2, ... members.
        nll: The NLL to be reached.

    Returns:
        A number from 1 to the length of the curve, also where the NLL lies outside of the curve.

    Reference: Ashukha et al., "Pitfalls of In-Domain Uncertainty Estimation and Ensembling in
    Deep Learning", 2020.
    """
    best = np.minimum.accumulate(curve)
    sizes = np.arange(1, len(curve) + 1)
    return float(np.interp(-nll, -best, sizes))


def _predictions(model: EvaluatedModel, arm: str) -> _Predictions:
    """Return what an arm of a model predicts."""
    return model.on_calibrating[arm], model.on_test[arm]


def _nll_by_size(evaluated: EvaluatedModel, members: Sequence[_Predictions]) -> list[float]:
    """Return the scaled NLL of ensembles of 1, 2, ... members, averaged over all such ensembles."""
    found = []
    for size in range(1, len(members) + 1):
        nlls = [_scaled_nll(evaluated, chosen) for chosen in combinations(members, size)]
        found.append(float(np.mean(nlls)))
    return found


def _scaled_nll(evaluated: EvaluatedModel, members: Sequence[_Predictions]) -> float:
    """Return the NLL of an ensemble on test after temperature scaling."""
    calibrating, test = (np.mean(part, axis=0) for part in zip(*members, strict=True))
    fitted = temperature(calibrating, evaluated.calibrating.targets)
    return metrics.nll(scaled(test, fitted), evaluated.test.targets)


def _measures(evaluated: EvaluatedModel, members: Sequence[_Predictions]) -> dict[str, float]:
    """Return the measures of an ensemble, whose prediction is the mean of its members'."""
    probs = np.mean([on_test for _, on_test in members], axis=0)
    labels = evaluated.test.targets
    return {
        "accuracy": metrics.accuracy(probs, labels),
        "nll": metrics.nll(probs, labels),
        "nll_scaled": _scaled_nll(evaluated, members),
        "ece": metrics.ece(probs, labels),
    }
