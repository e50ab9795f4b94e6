"""Examine whether a model is less certain of its wrong answers than of its right ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import figures
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.evaluation.out_of_distribution import auroc
from hpsearch.html_report.section import Figure, Section
from hpsearch.metrics import Floats, Ints


@dataclass(frozen=True)
class Selective:
    """The part of an evaluation in which the model answers only where it is certain.

    Attributes:
        coverage: Share of images answered at which the error rate is measured, in (0, 1].
    """

    coverage: float

    def examine(self, evaluated: EvaluatedModel, class_names: Sequence[str] = ()) -> Section:
        """Rank the test images by each score of uncertainty, and measure the errors.

        Args:
            evaluated: The model with its examples.
            class_names: A name for each class; the number of the class is shown without it.
        """
        labels = evaluated.test.targets
        doubts = _doubts(evaluated)
        right = {}
        for arm, probs in evaluated.on_test.items():
            right[arm] = metrics.correct(probs, labels)
        rights = {}
        for name in doubts:
            arm, _ = name.split("/")
            rights[name] = right[arm]
        rows: list[tuple[str, ...]] = [
            ("uncertainty", "AURC", f"risk at {self.coverage:.0%}", "AUROC of errors")
        ]
        found: dict[str, float] = {}
        for name, doubt in doubts.items():
            values = self._measures(doubt, rights[name])
            for key, value in values.items():
                found[f"test/selective/{name}/{key}"] = value
            cells = [f"{value:.4f}" for value in values.values()]
            rows.append((name, *cells))
        entropy = {"plain": doubts["plain/entropy"], "MC Dropout": doubts["mc/entropy"]}
        right_by_name = {"plain": right["plain"], "MC Dropout": right["mc"]}
        drawn = [
            figures.risk_coverage(doubts, rights),
            figures.entropies(entropy, right_by_name),
            _extremes(evaluated, doubts["mc/entropy"], class_names),
        ]
        text = (
            "The model answers only where its uncertainty is low. The table shows the error rate "
            f"at {self.coverage:.0%} coverage, and the probability that a wrong answer is more "
            "uncertain than a right one (AUROC)."
        )
        return Section("Knowing its errors", text, rows, found, figures=drawn)

    def _measures(self, doubt: Floats, right: np.ndarray) -> dict[str, float]:
        values = {
            "aurc": metrics.aurc(doubt, right),
            "risk": metrics.risk_at_coverage(doubt, right, self.coverage),
        }
        if 0 < right.mean() < 1:
            values["auroc"] = auroc(doubt[right], doubt[~right])
        return values


def _doubts(evaluated: EvaluatedModel) -> dict[str, Floats]:
    """Return the scores of uncertainty of the test images by name, (N,) each."""
    plain = evaluated.on_test["plain"]
    mc = evaluated.mc_test
    return {
        "plain/one_minus_confidence": 1.0 - plain.max(axis=1),
        "plain/entropy": metrics.predictive_entropy(plain),
        "mc/entropy": mc.predictive_entropy,
        "mc/mutual_information": mc.mutual_information,
        "mc/variation_ratio": mc.variation_ratio,
    }


def _extremes(evaluated: EvaluatedModel, doubt: Floats, class_names: Sequence[str]) -> Figure:
    answers = evaluated.mc_test.probs.argmax(axis=1)
    titles = _titles(answers, evaluated.test.targets, class_names)
    return figures.extremes(evaluated.test.inputs, titles, doubt)


def _titles(answers: Ints, labels: Ints, class_names: Sequence[str]) -> list[str]:
    """Return the class of each image, and the answer where it is wrong."""
    if not class_names:
        n_classes = max(labels.max(), answers.max()) + 1
        class_names = [str(number) for number in range(n_classes)]
    titles = []
    for answer, label in zip(answers, labels, strict=True):
        title = class_names[label]
        if answer != label:
            title = f"{title}, not {class_names[answer]}"
        titles.append(title)
    return titles
