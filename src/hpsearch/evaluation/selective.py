"""Does the model know which of its answers are wrong?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.evaluation.out_of_distribution import auroc
from hpsearch.html_report.section import Section


@dataclass(frozen=True)
class Selective:
    """The part on answering only where the model is certain.

    Attributes:
        coverage: Share of images answered at which the risk is told, in (0, 1].
    """

    coverage: float

    def examine(self, subject: Subject, class_names: Sequence[str] = ()) -> Section:
        """Rank the test images by each uncertainty."""
        labels = np.asarray(subject.test.labels)
        plain, mc = subject.on_test["plain"], subject.mc_test
        doubts = {
            "plain/one_minus_confidence": 1.0 - plain.max(axis=1),
            "plain/entropy": metrics.predictive_entropy(plain),
            "mc/entropy": mc.predictive_entropy,
            "mc/mutual_information": mc.mutual_information,
            "mc/variation_ratio": mc.variation_ratio,
        }
        right = {arm: metrics.correct(probs, labels) for arm, probs in subject.on_test.items()}
        rights = {name: right[name.split("/")[0]] for name in doubts}
        risk = f"risk at {self.coverage:.0%}"
        rows: list[tuple[str, ...]] = [("uncertainty", "AURC", risk, "AUROC of errors")]
        found: dict[str, float] = {}
        for name, doubt in doubts.items():
            values = {
                "aurc": metrics.aurc(doubt, rights[name]),
                "risk": metrics.risk_at_coverage(doubt, rights[name], self.coverage),
            }
            if 0 < rights[name].mean() < 1:
                values["auroc"] = auroc(doubt[rights[name]], doubt[~rights[name]])
            found |= {f"test/selective/{name}/{key}": value for key, value in values.items()}
            rows.append((name, *(f"{value:.4f}" for value in values.values())))
        entropy = {"plain": doubts["plain/entropy"], "MC Dropout": doubts["mc/entropy"]}
        return Section(
            "Knowing its errors",
            f"Answers given only where the uncertainty is low: the error rate at "
            f"{self.coverage:.0%} coverage, and the "
            "chance that a wrong answer is more uncertain than a right one.",
            rows,
            found,
            figures=[
                figures.risk_coverage(doubts, rights),
                figures.entropies(entropy, {"plain": right["plain"], "MC Dropout": right["mc"]}),
                figures.extremes(
                    subject.test.images,
                    _titles(mc.probs.argmax(axis=1), labels, class_names),
                    doubts["mc/entropy"],
                ),
            ],
        )


def _titles(answers: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> list[str]:
    shown = [
        names[label] if names else str(label)
        for label in range(max(labels.max(), answers.max()) + 1)
    ]
    return [
        shown[y] if y == a else f"{shown[y]}, not {shown[a]}"
        for a, y in zip(answers, labels, strict=True)
    ]
