"""Measure ensembles of a study's best models, and how many members one model is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.calibration import scaled, temperature
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.seeds import derive


class Ensembles(settings.Ensembles):
    """The part of an evaluation that measures ensembles.

    `evaluation.settings` describes its settings.
    """

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure ensembles of plain members and, where all have dropout, of MC Dropout members.

        Returns:
            A section, or None if the study has kept fewer than two models.
        """
        models = self._members(evaluated)
        size = len(models)
        if size < 2:
            return None
        arms = {"plain": "plain"}
        if all(model.left_out is None for model in (evaluated, *models)):
            arms["mc"] = "MC Dropout"
        nll_by_size = _nll_by_size(models)
        rows = [["arm", "accuracy", "NLL", "NLL scaled", "ECE"]]
        found = {}
        said = []
        for arm, name in arms.items():
            one = _measures([evaluated], arm)
            rows.append(_row(f"one model, {name}", one))
            worth = equivalent(nll_by_size, one["nll_scaled"])
            found[f"test/{arm}/deep_ensemble_equivalent"] = worth
            against = compared(one["nll_scaled"], nll_by_size)
            said.append(f"the model's prediction ({name}) {against}")
        for arm, name in arms.items():
            whole = _measures(models, arm)
            rows.append(_row(f"ensemble of {size}, {name}", whole))
            key = {"plain": "ensemble", "mc": "mc_ensemble"}[arm]
            for measure in ("accuracy", "nll", "ece"):
                found[f"test/{key}/{measure}"] = whole[measure]
            found[f"test/{key}_scaled/nll"] = whole["nll_scaled"]
        text = (
            f"The ensembles consist of the {size} best models that the study has kept. Each was "
            "trained with its own hyperparameters, so most of them are worse than the best one, "
            "and a single good model can be worth several of them. By its NLL after temperature "
            f"scaling, {'; '.join(said)}."
        )
        curve = list(enumerate(nll_by_size, start=1))
        curves = {"test/ensemble_scaled/nll_over_members": curve}
        return Section(
            title="Ensembles of the study's models",
            text=text,
            table=rows,
            metrics=found,
            curves=curves,
        )

    def _members(self, evaluated: EvaluatedModel) -> list[EvaluatedModel]:
        """Return the members as evaluated models, each with masks of its own."""
        own = evaluated.settings
        members = evaluated.members[: self.n_members]
        models = []
        for place, member in enumerate(members):
            seed = derive(own.seed, "member", place)
            settings = replace(own, n_samples=self.n_samples, seed=seed)
            model = replace(evaluated, model=member, settings=settings)
            models.append(model)
        return models


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


def _nll_by_size(models: Sequence[EvaluatedModel]) -> list[float]:
    """Return the scaled NLL of ensembles of 1, 2, ... members, averaged over all such ensembles."""
    found = []
    for place in range(len(models)):
        ensembles = combinations(models, place + 1)
        nlls = [_scaled_nll(chosen, "plain") for chosen in ensembles]
        mean = np.mean(nlls)
        found.append(float(mean))
    return found


def _scaled_nll(models: Sequence[EvaluatedModel], arm: str) -> float:
    """Return the NLL of an ensemble on test after temperature scaling."""
    on_calibrating = [model.on_calibrating[arm] for model in models]
    on_test = [model.on_test[arm] for model in models]
    calibrating = np.mean(on_calibrating, axis=0)
    test = np.mean(on_test, axis=0)
    first = models[0]
    fitted = temperature(calibrating, first.calibrating.targets)
    after = scaled(test, fitted)
    return metrics.nll(after, first.test.targets)


def _measures(models: Sequence[EvaluatedModel], arm: str) -> dict[str, float]:
    """Return the measures of an ensemble, whose prediction is the mean of its members'."""
    on_test = [model.on_test[arm] for model in models]
    probs = np.mean(on_test, axis=0)
    labels = models[0].test.targets
    return {
        "accuracy": metrics.accuracy(probs, labels),
        "nll": metrics.nll(probs, labels),
        "nll_scaled": _scaled_nll(models, arm),
        "ece": metrics.ece(probs, labels),
    }
