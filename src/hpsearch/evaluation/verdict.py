"""Decide whether MC Dropout is better than the plain prediction on test, worse, or neither."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation import figures
from hpsearch.evaluation.differences import MEASURES, Difference, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Section
from hpsearch.seeds import derive


@dataclass(frozen=True)
class Verdict:
    """The part of an evaluation that compares the two arms on test.

    Attributes:
        level: Probability that equally good arms are called different by any measure, in (0, 1).
        n_resamples: Number of resamples of the paired bootstrap and of the permutation test.
        n_seeds: Number of sets of masks over which the spread of MC Dropout is measured.
        seed: Seed of the resampling.
    """

    level: float
    n_resamples: int
    n_seeds: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse settings that are out of range."""
        if not 0 < self.level < 1:
            raise ConfigError(f"level must lie between 0 and 1, but is {self.level}.")
        fewest = math.ceil(len(MEASURES) / self.level)
        if self.n_resamples < fewest or self.n_seeds < 1:
            raise ConfigError(
                f"Expected at least {fewest} resamples for the level {self.level} and at least "
                f"one seed, received n_resamples={self.n_resamples}, n_seeds={self.n_seeds}."
            )

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Compare the arms on test by every measure."""
        found = compare(
            evaluated.on_test["plain"],
            evaluated.on_test["mc"],
            evaluated.test.targets,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
        )
        measures = [difference.measure for difference in found]
        spread = self._spread(evaluated, measures)
        rows = [self._head()]
        values: dict[str, float] = {}
        for difference in found:
            measure = difference.measure
            rows.append(self._row(difference, spread[measure]))
            numbers = {
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "p": difference.p,
                "detectable": difference.detectable,
                "seed_spread": spread[measure],
            }
            for name, number in numbers.items():
                values[f"test/verdict/{measure}/{name}"] = number
        figure = figures.differences(found, self.level)
        return Section("Verdict", self.sentence(found), rows, values, figures=[figure])

    def sentence(self, found: Sequence[Difference]) -> str:
        """Return the verdict in words."""
        parts = []
        for verdict in ("better", "worse", "no detectable difference"):
            names = [d.measure for d in found if d.verdict(self.level) == verdict]
            if names:
                parts.append(f"{verdict} in {', '.join(names)}")
        return f"MC Dropout against the plain prediction: {'; '.join(parts)}."

    def _head(self) -> tuple[str, ...]:
        return (
            "measure",
            "plain",
            "MC Dropout",
            "difference",
            f"{1 - self.level:.0%} interval",
            "p (Holm)",
            "spread over seeds",
            "detectable",
            "verdict",
        )

    def _row(self, difference: Difference, spread: float) -> tuple[str, ...]:
        plain, mc = difference.values
        return (
            difference.measure,
            f"{plain:.4f}",
            f"{mc:.4f}",
            f"{difference.value:+z.4f}",
            f"{difference.low:+z.4f} to {difference.high:+z.4f}",
            f"{difference.p:.3g}",
            f"{spread:.4f}",
            f"{difference.detectable:.4f}",
            difference.verdict(self.level),
        )

    def _spread(self, evaluated: EvaluatedModel, measures: Sequence[str]) -> dict[str, float]:
        """Return the standard deviation of MC Dropout's measures over sets of masks."""
        summaries = []
        for place in range(self.n_seeds):
            seed = derive(evaluated.settings.seed, "spread", place)
            prediction = evaluated.sampler.predict(evaluated.test.inputs, seed=seed)
            summary = metrics.summary(prediction.probs, evaluated.test.targets)
            summaries.append(summary)
        ddof = min(1, self.n_seeds - 1)
        spread = {}
        for name in measures:
            values = [summary[name] for summary in summaries]
            spread[name] = float(np.std(values, ddof=ddof))
        return spread
