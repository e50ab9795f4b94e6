"""Decide whether MC Dropout is better than the plain prediction on test, worse, or neither."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.differences import Difference, compare
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.seeds import derive


class Verdict(settings.Verdict):
    """The part of an evaluation that compares the two arms on test.

    `evaluation.settings` describes its settings.
    """

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
        spreads = self._spreads(evaluated)
        head = [
            "measure",
            "plain",
            "MC Dropout",
            "difference",
            f"{1 - self.level:.0%} interval",
            "p (Holm)",
            "spread over seeds",
            "detectable",
            "verdict",
        ]
        rows = [head]
        values = {}
        for difference in found:
            spread = spreads[difference.measure]
            rows.append(self._row(difference, spread))
            key = f"test/verdict/{difference.measure}"
            values[f"{key}/difference"] = difference.value
            values[f"{key}/low"] = difference.low
            values[f"{key}/high"] = difference.high
            values[f"{key}/p"] = difference.p
            values[f"{key}/detectable"] = difference.detectable
            values[f"{key}/seed_spread"] = spread
        text = self.sentence(found)
        figure = self._figure(found)
        return Section(
            title="Verdict",
            text=text,
            table=rows,
            metrics=values,
            figures=[figure],
        )

    def sentence(self, found: Sequence[Difference]) -> str:
        """Return the verdict in words."""
        parts = []
        for verdict in ("better", "worse", "no detectable difference"):
            names = []
            for difference in found:
                if difference.verdict(self.level) == verdict:
                    names.append(difference.measure)
            if names:
                listed = ", ".join(names)
                parts.append(f"{verdict} in {listed}")
        said = "; ".join(parts)
        return f"MC Dropout against the plain prediction: {said}."

    def _row(self, difference: Difference, spread: float) -> list[str]:
        plain, mc = difference.values
        return [
            difference.measure,
            f"{plain:.4f}",
            f"{mc:.4f}",
            f"{difference.value:+z.4f}",
            f"{difference.low:+z.4f} to {difference.high:+z.4f}",
            f"{difference.p:.3g}",
            f"{spread:.4f}",
            f"{difference.detectable:.4f}",
            difference.verdict(self.level),
        ]

    def _spreads(self, evaluated: EvaluatedModel) -> dict[str, float]:
        """Return the standard deviation of MC Dropout's measures over sets of masks."""
        test = evaluated.test
        summaries = []
        for place in range(self.n_seeds):
            seed = derive(evaluated.settings.seed, "spread", place)
            prediction = evaluated.sampler.predict(test.inputs, seed=seed)
            summary = metrics.summary(prediction.probs, test.targets)
            summaries.append(summary)
        ddof = min(1, self.n_seeds - 1)
        spreads = {}
        for name in settings.MEASURES:
            values = [summary[name] for summary in summaries]
            spreads[name] = float(np.std(values, ddof=ddof))
        return spreads

    def _figure(self, found: Sequence[Difference]) -> Figure:
        """Draw each difference and its interval, in units of the smallest detectable difference."""
        inches = (5.5, 0.5 * len(found) + 1.4)
        plot, axis = plt.subplots(figsize=inches)
        names = []
        for row, difference in enumerate(reversed(found)):
            unit = difference.detectable or 1.0
            low = difference.low / unit
            high = difference.high / unit
            value = difference.value / unit
            interval = [low, high]
            axis.plot(interval, [row, row], color="tab:blue")
            axis.plot(value, row, "o", color="tab:blue")
            names.append(difference.measure)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("MC Dropout minus plain, in smallest detectable differences")
        caption = (
            f"Differences with their {1 - self.level:.0%} bootstrap intervals. An interval that "
            "holds 0 shows no difference. MC Dropout is better to the right of 0 for accuracy, and "
            "to the left of 0 for every other measure."
        )
        return drawn("differences", plot, caption)
