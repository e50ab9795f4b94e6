"""The best trials of a study as a deep ensemble, and how many of its members MC Dropout is worth."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation.calibration import scaled, temperature
from hpsearch.evaluation.evaluated_model import Subject, plain_probs
from hpsearch.html_report.section import Section
from hpsearch.mc_dropout.passes import Sampler
from hpsearch.metrics import Floats
from hpsearch.seeds import derive


def equivalent(curve: list[float], nll: float) -> float:
    """Return how many members an ensemble with this NLL has (Ashukha et al., 2020), between whole
    numbers linearly.

    Args:
        curve: NLL of ensembles of 1, 2, … members.
        nll: The NLL to be reached.

    Returns:
        A number from 1 to the length of the curve: less than one member counts as 1, more than all
        as all.
    """
    best = np.minimum.accumulate(curve)
    return float(np.interp(-nll, -best, np.arange(1, len(curve) + 1)))


@dataclass(frozen=True)
class Ensembles:
    """Settings of the part on ensembles.

    Attributes:
        n_members: The best so many trials of the study whose models have been kept.
        n_samples: Passes of MC Dropout for each member.
    """

    n_members: int
    n_samples: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if self.n_members < 2 or self.n_samples < 1:
            raise ConfigError(
                "Expected at least two members and one pass of an ensemble, received "
                f"n_members={self.n_members}, n_samples={self.n_samples}."
            )

    def examine(self, subject: Subject) -> Section | None:
        """Measure ensembles of plain and of MC Dropout members; None where the study has kept one
        model alone.
        """
        members = subject.members[: self.n_members]
        if len(members) < 2:
            return None
        plain = [
            [plain_probs(m, part.images, subject.settings) for m in members]
            for part in (subject.val, subject.test)
        ]
        mc = [[self._mc(m, place, part.images, subject) for place, m in enumerate(members)]
              for part in (subject.val, subject.test)]  # fmt: skip
        arms = {
            "one model, plain": (subject.on_val["plain"], subject.on_test["plain"]),
            "one model, MC Dropout": (subject.on_val["mc"], subject.on_test["mc"]),
            f"ensemble of {len(members)}": (np.mean(plain[0], axis=0), np.mean(plain[1], axis=0)),
            f"ensemble of {len(members)} x MC Dropout": (
                np.mean(mc[0], axis=0),
                np.mean(mc[1], axis=0),
            ),
        }
        labels = subject.test.labels
        calibrated = {name: self._calibrated_nll(*probs, subject) for name, probs in arms.items()}
        sizes = self._nll_by_size(plain, subject)
        worth = equivalent(sizes, calibrated["one model, MC Dropout"])
        rows = [("arm", "accuracy", "NLL", "NLL scaled", "ECE")]
        found = {"test/mc/deep_ensemble_equivalent": worth}
        for (name, (_, probs)), key in zip(
            arms.items(), (None, None, "ensemble", "mc_ensemble"), strict=True
        ):
            accuracy, nll, ece = (
                metrics.accuracy(probs, labels),
                metrics.nll(probs, labels),
                metrics.ece(probs, labels),
            )
            rows.append(
                (name, f"{accuracy:.4f}", f"{nll:.4f}", f"{calibrated[name]:.4f}", f"{ece:.4f}")
            )
            if key:
                found |= {
                    f"test/{key}/accuracy": accuracy,
                    f"test/{key}/nll": nll,
                    f"test/{key}/ece": ece,
                }
                found[f"test/{key}_scaled/nll"] = calibrated[name]
        text = (
            f"The study's {len(members)} best models that were kept, each trained with "
            f"hyperparameters of its own. "
            f"After temperature scaling, MC Dropout of one model is worth a deep ensemble of "
            f"{worth:.1f}."
        )
        return Section(
            "Ensembles for free", text, rows, found,
            curves={"test/ensemble_scaled/nll_over_members": list(enumerate(sizes, start=1))},
        )  # fmt: skip

    def _mc(
        self, member: keras.Model, place: int, images: NDArray[Any], subject: Subject
    ) -> Floats:
        """Return MC Dropout's distributions of a member, with masks of its own."""
        seed = derive(subject.settings.seed, "member", place)
        return (
            Sampler(member, subject.settings)
            .predict(images, n_samples=self.n_samples, seed=seed)
            .probs
        )

    def _calibrated_nll(self, val: Floats, test: Floats, subject: Subject) -> float:
        return metrics.nll(scaled(test, temperature(val, subject.val.labels)), subject.test.labels)

    def _nll_by_size(self, plain: list[list[Floats]], subject: Subject) -> list[float]:
        """Return the calibrated NLL of ensembles of 1, 2, … members, averaged over all choices of
        members.
        """
        n = len(plain[0])
        found = []
        for size in range(1, n + 1):
            choices = [list(chosen) for chosen in combinations(range(n), size)]
            means = [
                [np.mean([part[i] for i in chosen], axis=0) for part in plain] for chosen in choices
            ]
            nlls = [self._calibrated_nll(val, test, subject) for val, test in means]
            found.append(float(np.mean(nlls)))
        return found
