"""Decide whether MC Dropout is better than the plain prediction on test, worse, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from hpsearch import metrics
from hpsearch.evaluation import settings
from hpsearch.evaluation.differences import (
    DEPENDS,
    LABELS,
    NONE,
    Difference,
    compare,
    verdict_over_masks,
)
from hpsearch.evaluation.evaluated_model import EvaluatedModel
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.metrics import Floats
from hpsearch.seeds import derive


class Verdict(settings.Verdict):
    """The part of an evaluation that compares the two arms on test.

    `evaluation.settings` describes its settings.

    Attributes:
        TITLE: How the title of its section begins. It goes on where the dropout of the passes is
            not Keras's alone.
    """

    TITLE: ClassVar[str] = "Verdict"

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Compare the arms on test by every measure, with each set of masks."""
        if evaluated.left_out is not None:
            return Section(
                self.TITLE,
                "There is no MC Dropout to compare with the plain prediction. "
                f"{evaluated.left_out}",
            )
        labels = evaluated.test.targets
        plain = evaluated.on_test["plain"]
        sets = self._sets_of_masks(evaluated)
        by_measure: dict[str, list[Difference]] = {}
        for probs in sets:
            found = compare(
                plain,
                probs,
                labels,
                n_resamples=self.n_resamples,
                level=self.level,
                seed=self.seed,
            )
            for difference in found:
                by_measure.setdefault(difference.measure, []).append(difference)
        verdicts = {}
        values: dict[str, float] = {}
        rows = [self._head()]
        for measure, differences in by_measure.items():
            verdicts[measure] = verdict_over_masks(differences, self.level)
            rows.append(_row(differences, verdicts[measure]))
            values |= _values(differences, verdicts[measure], self.level)
        eces = [metrics.ece(plain, labels), *(metrics.ece(probs, labels) for probs in sets)]
        rows.append(_ece_row(eces))
        found = [differences[0] for differences in by_measure.values()]
        qualified = evaluated.qualified
        title = self.TITLE
        if qualified:
            title = f"{title} on MC Dropout {qualified}"
        said = sentence(verdicts, len(labels), qualified)
        return Section(
            title=title,
            text=f"{said}\n\n{self._reading(len(found), len(sets))}",
            table=rows,
            metrics=values,
            figures=[self._figure(found)],
        )

    def _sets_of_masks(self, evaluated: EvaluatedModel) -> list[Floats]:
        """Return the distributions with each set of masks; the first is the model's own."""
        found = [evaluated.on_test["mc"]]
        for place in range(1, self.n_seeds):
            seed = derive(evaluated.settings.seed, "spread", place)
            prediction = evaluated.sampler.predict(evaluated.test.inputs, seed=seed)
            found.append(prediction.probs)
        return found

    def _head(self) -> list[str]:
        return [
            "measure",
            "plain",
            "MC Dropout",
            "difference",
            f"{settings.percent(1 - self.level)} interval",
            "p",
            "spread over masks",
            "detectable",
            "verdict",
        ]

    def _reading(self, n_measures: int, n_sets: int) -> str:
        """Return how interval, p and the masks are to be read."""
        masks = (
            f"Each verdict was computed with {n_sets} sets of masks; the numbers are the first's."
        )
        if n_sets == 1:
            masks = "One set of masks was used, so another one may give another verdict."
        return (
            f"An interval leaves out 0 exactly where p is at most {self.level:g}; both are "
            f"corrected for the {n_measures} measures, so that all intervals hold at once with a "
            f"probability of {settings.percent(1 - self.level)}. A difference as large as the "
            f"detectable one is found in 80% of cases. {masks}"
        )

    def _figure(self, found: Sequence[Difference]) -> Figure:
        """Draw each difference and its interval, in units of the detectable difference."""
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
            names.append(LABELS[difference.measure])
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(names)), names)
        axis.set_xlabel("MC Dropout minus plain, in detectable differences")
        caption = (
            f"Differences with their {settings.percent(1 - self.level)} intervals, which are "
            "corrected for the number of measures. An interval that holds 0 shows no difference. "
            "MC Dropout is better to the right of 0 for accuracy, and to the left of 0 for every "
            "other measure."
        )
        return drawn("differences", plot, caption)


def sentence(verdicts: Mapping[str, str], n_examples: int, qualified: str = "") -> str:
    """Return what was found and what follows from it, for people who are new to it.

    Args:
        verdicts: The verdict on each measure, from `verdict_over_masks`.
        n_examples: Number of test examples.
        qualified: What the dropout of the passes is, where it is not Keras's alone.
    """
    groups: dict[str, list[str]] = {}
    for measure, verdict in verdicts.items():
        kind = verdict
        if verdict.startswith(DEPENDS):
            kind = DEPENDS
        groups.setdefault(kind, []).append(LABELS[measure])
    said = []
    for kind in ("better", "worse"):
        if kind in groups:
            said.append(f"is {kind} than the plain prediction in {_listed(groups[kind])}")
    if NONE in groups:
        said.append(f"shows {NONE} in {_listed(groups[NONE])}")
    found = "; it ".join(said) or "was compared with the plain prediction"
    of_which = ""
    if qualified:
        of_which = f" ({qualified})"
    masks = ""
    if DEPENDS in groups:
        masks = f"In {_listed(groups[DEPENDS])} the verdict {DEPENDS} that are drawn. "
    return (
        f"On {n_examples:,} test examples MC Dropout, the mean of many predictions with dropout "
        f"left on{of_which}, {found}. {masks}{_advice(groups)}"
    )


def _advice(groups: Mapping[str, Sequence[str]]) -> str:
    """Return what to do, from the measures by their verdict."""
    better = groups.get("better", [])
    worse = groups.get("worse", [])
    advice = "Nothing shows that it is better: use it only if you need its uncertainties."
    if better and worse:
        advice = (
            f"Use it if its gain in {_listed(better)} matters more to you than its loss in "
            f"{_listed(worse)}."
        )
    elif better:
        advice = "Use it if this gain is worth the time of its many predictions to you."
    elif worse:
        advice = "Use the plain prediction, unless you need MC Dropout's uncertainties."
    if DEPENDS in groups:
        advice += " Where it depends on the masks, more passes (uncertainty.n_samples) may decide."
    return advice


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _row(differences: Sequence[Difference], verdict: str) -> list[str]:
    """Return the row of a measure that was compared with each set of masks."""
    own = differences[0]
    plain, mc = own.values
    return [
        LABELS[own.measure],
        f"{plain:z.4f}",
        f"{mc:z.4f}",
        f"{own.value:+z.4f}",
        f"{own.low:+z.4f} to {own.high:+z.4f}",
        f"{own.p:.3g}",
        f"{_spread([difference.values[1] for difference in differences]):.4f}",
        f"{own.detectable:.4f}",
        verdict,
    ]


def _ece_row(eces: Sequence[float]) -> list[str]:
    """Return the row of the ECE, which is only told: that of plain, then one of each set."""
    plain, own, *_ = eces
    spread = f"{_spread(eces[1:]):.4f}"
    says = f"see {LABELS['squared_calibration_error']}"
    return ["ECE", f"{plain:.4f}", f"{own:.4f}", f"{own - plain:+z.4f}", "", "", spread, "", says]


def _values(
    differences: Sequence[Difference],
    verdict: str,
    level: float,
) -> dict[str, float]:
    """Return the numbers of a measure by their MLflow keys."""
    own = differences[0]
    verdicts = [difference.verdict(level) for difference in differences]
    numbers = {
        "difference": own.value,
        "low": own.low,
        "high": own.high,
        "p": own.p,
        "detectable": own.detectable,
        "seed_spread": _spread([difference.values[1] for difference in differences]),
        "sets_better": float(verdicts.count("better")),
        "sets_worse": float(verdicts.count("worse")),
        "depends_on_masks": float(verdict.startswith(DEPENDS)),
    }
    return {f"test/verdict/{own.measure}/{key}": value for key, value in numbers.items()}


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation over sets of masks; 0 for a single one."""
    if len(values) == 1:
        return 0.0
    return float(np.std(values, ddof=1))
