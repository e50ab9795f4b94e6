"""Measure ensembles of a study's best models, and how many members MC Dropout is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import keras
import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.calibration import scaled, temperature
from hpsearch.evaluation.evaluated_model import EvaluatedModel, plain_probs
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.metrics import Floats
from hpsearch.seeds import derive


class _Probs(NamedTuple):
    """Distributions of one model or ensemble on val and on test, (N, C) each."""

    val: Floats
    test: Floats


@dataclass(frozen=True)
class Ensembles:
    """The part of an evaluation that measures ensembles.

    Attributes:
        n_members: Number of members, at most: the best trials whose models the study has kept.
        n_samples: Number of passes of MC Dropout of each member.
    """

    n_members: int
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if self.n_members < 2 or self.n_samples < 1:
            raise ConfigError(
                "Expected at least two members and one pass of an ensemble, received "
                f"n_members={self.n_members}, n_samples={self.n_samples}."
            )

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Measure ensembles of plain and of MC Dropout members.

        Returns:
            A section, or None if the study has kept fewer than two models.
        """
        members = evaluated.members[: self.n_members]
        if len(members) < 2:
            return None
        plain = [_plain(member, evaluated) for member in members]
        mc = []
        for place, member in enumerate(members):
            mc.append(self._mc(member, place, evaluated))
        size = len(members)
        rows: list[tuple[str, ...]] = [("arm", "accuracy", "NLL", "NLL scaled", "ECE")]
        one_plain = _Probs(evaluated.on_val["plain"], evaluated.on_test["plain"])
        measures = _measures(one_plain, evaluated)
        rows.append(_row("one model, plain", measures))
        one_mc = _Probs(evaluated.on_val["mc"], evaluated.on_test["mc"])
        measures = _measures(one_mc, evaluated)
        rows.append(_row("one model, MC Dropout", measures))
        nll_by_size = _nll_by_size(plain, evaluated)
        worth = equivalent(nll_by_size, measures["nll_scaled"])
        found = {"test/mc/deep_ensemble_equivalent": worth}
        ensembles = [
            ("ensemble", f"ensemble of {size}", plain),
            ("mc_ensemble", f"ensemble of {size} x MC Dropout", mc),
        ]
        for key, name, probs in ensembles:
            measures = _measures(_mean(probs), evaluated)
            rows.append(_row(name, measures))
            for measure in ("accuracy", "nll", "ece"):
                found[f"test/{key}/{measure}"] = measures[measure]
            found[f"test/{key}_scaled/nll"] = measures["nll_scaled"]
        text = (
            f"The ensembles consist of the {size} best models that the study has kept, each "
            "trained with its own hyperparameters. After temperature scaling, MC Dropout of one "
            f"model is worth a deep ensemble of {worth:.1f}."
        )
        curve = list(enumerate(nll_by_size, start=1))
        curves = {"test/ensemble_scaled/nll_over_members": curve}
        return Section("Ensembles for free", text, rows, found, curves)

    def _mc(self, member: keras.Model, place: int, evaluated: EvaluatedModel) -> _Probs:
        """Return the distributions of MC Dropout of a member, with masks of its own."""
        seed = derive(evaluated.settings.seed, "member", place)
        sampler = Sampler(member, evaluated.settings)
        val = sampler.predict(evaluated.val.inputs, n_samples=self.n_samples, seed=seed)
        test = sampler.predict(evaluated.test.inputs, n_samples=self.n_samples, seed=seed)
        return _Probs(val.probs, test.probs)


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


def _plain(member: keras.Model, evaluated: EvaluatedModel) -> _Probs:
    val = plain_probs(member, evaluated.val.inputs, evaluated.settings)
    test = plain_probs(member, evaluated.test.inputs, evaluated.settings)
    return _Probs(val, test)


def _mean(members: Sequence[_Probs]) -> _Probs:
    """Return the distributions of an ensemble: the mean of those of its members."""
    val = np.mean([member.val for member in members], axis=0)
    test = np.mean([member.test for member in members], axis=0)
    return _Probs(val, test)


def _nll_by_size(members: Sequence[_Probs], evaluated: EvaluatedModel) -> list[float]:
    """Return the scaled NLL of ensembles of 1, 2, ... members, averaged over all such ensembles."""
    found = []
    for size in range(1, len(members) + 1):
        nlls = []
        for chosen in combinations(members, size):
            nlls.append(_scaled_nll(_mean(chosen), evaluated))
        found.append(float(np.mean(nlls)))
    return found


def _scaled_nll(probs: _Probs, evaluated: EvaluatedModel) -> float:
    """Return the NLL on test after temperature scaling on val."""
    fitted = temperature(probs.val, evaluated.val.targets)
    return metrics.nll(scaled(probs.test, fitted), evaluated.test.targets)


def _measures(probs: _Probs, evaluated: EvaluatedModel) -> dict[str, float]:
    labels = evaluated.test.targets
    return {
        "accuracy": metrics.accuracy(probs.test, labels),
        "nll": metrics.nll(probs.test, labels),
        "nll_scaled": _scaled_nll(probs, evaluated),
        "ece": metrics.ece(probs.test, labels),
    }


def _row(name: str, measures: dict[str, float]) -> tuple[str, ...]:
    cells = [f"{value:.4f}" for value in measures.values()]
    return (name, *cells)
