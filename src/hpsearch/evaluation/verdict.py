"""Better, worse, or no detectable difference: MC Dropout against the plain prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpsearch import metrics
from hpsearch.errors import ConfigError
from hpsearch.evaluation import figures
from hpsearch.evaluation.differences import MEASURES, Difference, compare
from hpsearch.evaluation.evaluated_model import Subject
from hpsearch.html_report.section import Section
from hpsearch.seeds import derive


@dataclass(frozen=True)
class Verdict:
    """Settings of the verdict.

    Attributes:
        level: Chance that equally good arms are called different by any measure.
        n_resamples: Of the paired bootstrap and of the permutation test.
        n_seeds: Sets of masks over which the spread of MC Dropout is measured.
        seed: Of the resampling.
    """

    level: float
    n_resamples: int
    n_seeds: int
    seed: int

    def __post_init__(self) -> None:
        """Refuse impossible settings."""
        if not 0 < self.level < 1:
            raise ConfigError(f"level must lie between 0 and 1, but is {self.level}.")
        fewest = math.ceil(len(MEASURES) / self.level)
        if self.n_resamples < fewest or self.n_seeds < 1:
            raise ConfigError(
                f"Expected at least {fewest} resamples for the level {self.level} and one seed, "
                f"received "
                f"n_resamples={self.n_resamples}, n_seeds={self.n_seeds}."
            )

    def examine(self, subject: Subject) -> Section:
        """Compare the arms on test."""
        labels = np.asarray(subject.test.labels)
        arms = subject.on_test
        found = compare(
            arms["plain"],
            arms["mc"],
            labels,
            n_resamples=self.n_resamples,
            level=self.level,
            seed=self.seed,
        )
        spread = self._spread(subject, [d.measure for d in found])
        head = ("measure", "plain", "MC Dropout", "difference", f"{1 - self.level:.0%} interval", "p (Holm)",
                "spread over seeds", "detectable", "verdict")  # fmt: skip
        rows = [head, *(self._row(d, spread[d.measure]) for d in found)]
        values: dict[str, float] = {}
        for d in found:
            values |= {
                f"test/verdict/{d.measure}/{name}": value for name, value in _numbers(d).items()
            }
            values[f"test/verdict/{d.measure}/seed_spread"] = spread[d.measure]
        return Section(
            "Verdict",
            self.sentence(found),
            rows,
            values,
            figures=[figures.differences(found, self.level)],
        )

    def sentence(self, found: Sequence[Difference]) -> str:
        """Return the verdict in words."""
        said = {
            verdict: [d.measure for d in found if d.verdict(self.level) == verdict]
            for verdict in ("better", "worse", "no detectable difference")
        }
        parts = [f"{verdict} in {', '.join(names)}" for verdict, names in said.items() if names]
        return f"MC Dropout against the plain prediction: {'; '.join(parts)}."

    def _row(self, d: Difference, spread: float) -> tuple[str, ...]:
        numbers = (
            f"{d.values[0]:.4f}",
            f"{d.values[1]:.4f}",
            f"{d.value:+z.4f}",
            f"{d.low:+z.4f} to {d.high:+z.4f}",
        )
        return (
            d.measure,
            *numbers,
            f"{d.p:.3g}",
            f"{spread:.4f}",
            f"{d.detectable:.4f}",
            d.verdict(self.level),
        )

    def _spread(self, subject: Subject, measures: list[str]) -> dict[str, float]:
        """Return the standard deviation of MC Dropout's measures over sets of masks."""
        seeds = [derive(subject.settings.seed, "spread", i) for i in range(self.n_seeds)]
        labels = subject.test.labels
        summaries = [
            metrics.summary(subject.sampler.predict(subject.test.images, seed=s).probs, labels)
            for s in seeds
        ]
        return {
            name: float(np.std([s[name] for s in summaries], ddof=min(1, len(seeds) - 1)))
            for name in measures
        }


def _numbers(d: Difference) -> dict[str, float]:
    return {
        "difference": d.value,
        "low": d.low,
        "high": d.high,
        "p": d.p,
        "detectable": d.detectable,
    }
