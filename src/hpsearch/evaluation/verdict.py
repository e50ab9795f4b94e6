"""Decide which ways to predict are better than the plain prediction on test, worse, or neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import matplotlib.pyplot as plt
import numpy as np

from hpsearch import metrics
from hpsearch.alternatives.method import LABELS as ARMS
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
from hpsearch.evaluation.methods import recommendation
from hpsearch.html_report.section import Figure, Section, drawn
from hpsearch.seeds import derive

_IN_WORDS = {
    "mc": "MC Dropout, the mean of many predictions with dropout left on",
    "laplace": "Laplace, the mean of many predictions with a random last layer",
    "swag": "SWAG, the mean of the predictions of weights drawn around those of late epochs",
    "ensemble": "the ensemble, the mean of the predictions of models trained anew",
}


@dataclass(frozen=True)
class _Compared:
    """An arm that was compared with the plain prediction.

    Attributes:
        arm: Its name.
        by_measure: The differences of each measure with each set of random draws.
        eces: The ECE of the plain prediction, then that of each set.
        level: The level of its verdicts.
    """

    arm: str
    by_measure: Mapping[str, Sequence[Difference]]
    eces: Sequence[float]
    level: float

    @property
    def verdicts(self) -> dict[str, str]:
        """The verdict on each measure."""
        return {
            measure: verdict_over_masks(differences, self.level)
            for measure, differences in self.by_measure.items()
        }

    def rows(self) -> list[list[str]]:
        """Return the rows of the table."""
        verdicts = self.verdicts
        rows = []
        for measure, differences in self.by_measure.items():
            rows.append(_row(differences, _of_draws(verdicts[measure], self.arm), self.arm))
        return rows

    def values(self) -> dict[str, float]:
        """Return the numbers by their MLflow keys."""
        found: dict[str, float] = {}
        prefix = "test/verdict"
        if self.arm != "mc":
            prefix = f"test/verdict/{self.arm}"
        for measure, differences in self.by_measure.items():
            numbers = _values(differences, self.verdicts[measure], self.level)
            found |= {f"{prefix}/{measure}/{key}": value for key, value in numbers.items()}
        return found


class Verdict(settings.Verdict):
    """The part of an evaluation that compares each arm with the plain prediction on test.

    `evaluation.settings` describes its settings.

    Attributes:
        TITLE: How the title of its section begins. It goes on where the dropout of the passes is
            not Keras's alone, and where another method than MC Dropout is compared alone.
    """

    TITLE: ClassVar[str] = "Verdict"

    def examine(self, evaluated: EvaluatedModel) -> Section:
        """Compare the arms on test by every measure, with each set of random draws."""
        arms = evaluated.arms[1:]
        if not arms:
            why = [f"{ARMS['mc']}: {evaluated.left_out}"]
            why += [f"{ARMS[arm]}: {reason}" for arm, reason in evaluated.not_made.items()]
            return Section(
                self.TITLE,
                f"There is nothing to compare with the plain prediction. {' '.join(why)}",
            )
        level = self.level / len(arms)
        compared = [self._compared(evaluated, arm, level) for arm in arms]
        rows = [self._head(arms, level)]
        values: dict[str, float] = {}
        said = []
        for found in compared:
            values |= found.values()
            if len(arms) == 1:
                rows += [*found.rows(), _ece_row(found.eces)]
            else:
                rows += [[ARMS[found.arm], *row] for row in found.rows()]
            said.append(self._sentence(evaluated, found))
        if len(arms) > 1:
            said.insert(0, self._recommendation(evaluated, compared))
        said.append(self._reading(evaluated, compared))
        return Section(
            title=self._title(evaluated, arms),
            text="\n\n".join(said),
            table=rows,
            metrics=values,
            figures=[self._figure(compared)],
        )

    def _compared(self, evaluated: EvaluatedModel, arm: str, level: float) -> _Compared:
        """Compare one arm with the plain prediction."""
        labels = evaluated.test.targets
        plain = evaluated.on_test["plain"]
        sets = [evaluated.on_test[arm]]
        if evaluated.is_random(arm):
            for place in range(1, self.n_seeds):
                seed = derive(evaluated.settings.seed, "spread", place)
                sets.append(evaluated.predict(arm, evaluated.test.inputs, seed=seed))
        by_measure: dict[str, list[Difference]] = {}
        for probs in sets:
            found = compare(
                plain,
                probs,
                labels,
                n_resamples=self.n_resamples,
                level=level,
                seed=self.seed,
            )
            for difference in found:
                by_measure.setdefault(difference.measure, []).append(difference)
        eces = [metrics.ece(probs, labels) for probs in (plain, *sets)]
        return _Compared(arm, by_measure, eces, level)

    def _title(self, evaluated: EvaluatedModel, arms: Sequence[str]) -> str:
        if evaluated.qualified and "mc" in arms:
            return f"{self.TITLE} on MC Dropout {evaluated.qualified}"
        if len(arms) == 1 and "mc" not in arms:
            return f"{self.TITLE} on {ARMS[arms[0]]}"
        return self.TITLE

    def _sentence(self, evaluated: EvaluatedModel, compared: _Compared) -> str:
        qualified = ""
        if compared.arm == "mc":
            qualified = evaluated.qualified
        return sentence(compared.verdicts, len(evaluated.test.targets), qualified, compared.arm)

    def _recommendation(self, evaluated: EvaluatedModel, compared: Sequence[_Compared]) -> str:
        """Return which of several methods is worth it, in words."""
        better = [found.arm for found in compared if found.verdicts["nll"] == "better"]
        said = recommendation(
            evaluated,
            better,
            level=self.level,
            n_resamples=self.n_resamples,
            seed=self.seed,
        )
        names = _listed([ARMS[found.arm] for found in compared])
        n_examples = len(evaluated.test.targets)
        text = f"{names} were compared with the plain prediction on {n_examples:,} examples. {said}"
        gains = []
        for found in compared:
            gained = [
                LABELS[name] for name, verdict in found.verdicts.items() if verdict == "better"
            ]
            if gained and found.arm not in better:
                gains.append(f"{ARMS[found.arm]} in {_listed(gained)}")
        if gains:
            text += f" In other measures than the NLL, better are {'; '.join(gains)}."
        return text

    def _head(self, arms: Sequence[str], level: float) -> list[str]:
        names = ["measure", "plain", ARMS[arms[0]]]
        if len(arms) > 1:
            names = ["method", "measure", "plain", "with it"]
        spread = "spread over masks"
        if list(arms) != ["mc"]:
            spread = "spread over draws"
        return [
            *names,
            "difference",
            f"{settings.percent(1 - level)} interval",
            "p",
            spread,
            "detectable",
            "verdict",
        ]

    def _reading(self, evaluated: EvaluatedModel, compared: Sequence[_Compared]) -> str:
        """Return how interval, p and the random draws are to be read."""
        level = compared[0].level
        n_measures = len(compared[0].by_measure)
        share = settings.percent(1 - level)
        text = (
            f"An interval leaves out 0 exactly where p is at most {level:g}; both are "
            f"corrected for the {n_measures} measures, so that all intervals hold at once with a "
            f"probability of {share}. "
        )
        if len(compared) > 1:
            text += (
                f"This holds for each of the {len(compared)} methods, and for all of them at once "
                f"with a probability of {settings.percent(1 - self.level)}. "
            )
        text += "A difference as large as the detectable one is found in 80% of cases."
        if any(evaluated.is_random(found.arm) for found in compared):
            text += f" {self._of_sets(compared)}"
        return text

    def _of_sets(self, compared: Sequence[_Compared]) -> str:
        what = "masks"
        if [found.arm for found in compared] != ["mc"]:
            what = "masks or other random draws"
        if self.n_seeds == 1:
            return f"One set of {what} was used, so another one may give another verdict."
        text = (
            f"Each verdict was computed with {self.n_seeds} sets of {what}; the numbers are the "
            "first's."
        )
        if [found.arm for found in compared] != ["mc"]:
            text += (
                " The intervals are about the choice of the examples, not about the draws, which "
                "have a spread of their own, nor about other trainings of an ensemble."
            )
        return text

    def _figure(self, compared: Sequence[_Compared]) -> Figure:
        """Draw each difference and its interval, in units of the detectable difference."""
        measures = list(compared[0].by_measure)
        n_rows = len(measures) * len(compared)
        plot, axis = plt.subplots(figsize=(5.5, 0.5 * n_rows + 1.4))
        names = []
        for row, (measure, found) in enumerate(
            reversed([(measure, found) for measure in measures for found in compared])
        ):
            difference = found.by_measure[measure][0]
            unit = max(other.by_measure[measure][0].detectable for other in compared) or 1.0
            interval = [difference.low / unit, difference.high / unit]
            axis.plot(interval, [row, row], color="tab:blue")
            axis.plot(difference.value / unit, row, "o", color="tab:blue")
            name = LABELS[measure]
            if len(compared) > 1:
                name = f"{name}: {ARMS[found.arm]}"
            names.append(name)
        axis.axvline(0, color="grey", linewidth=1)
        axis.set_yticks(range(len(names)), names)
        said = "the method"
        if len(compared) == 1:
            said = ARMS[compared[0].arm]
        axis.set_xlabel(f"{said} minus plain, in detectable differences")
        caption = (
            f"Differences with their {settings.percent(1 - compared[0].level)} intervals, which "
            "are corrected for the number of measures. An interval that holds 0 shows no "
            f"difference. {said[0].upper()}{said[1:]} is better to the right of 0 for accuracy, "
            "and to the left of 0 for every other measure. Each measure has one unit, the largest "
            "detectable difference of any method in it."
        )
        return drawn("differences", plot, caption)


def sentence(
    verdicts: Mapping[str, str],
    n_examples: int,
    qualified: str = "",
    arm: str = "mc",
) -> str:
    """Return what was found and what follows from it, for people who are new to it.

    Args:
        verdicts: The verdict on each measure, from `verdict_over_masks`.
        n_examples: Number of test examples.
        qualified: What the dropout of the passes is, where it is not Keras's alone.
        arm: The arm that was compared with the plain prediction.
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
        depends = _of_draws(f"{DEPENDS} that are drawn", arm)
        masks = f"In {_listed(groups[DEPENDS])} the verdict {depends}. "
    return (
        f"On {n_examples:,} test examples {_IN_WORDS[arm]}{of_which}, {found}. {masks}"
        f"{_advice(groups, arm)}"
    )


def _advice(groups: Mapping[str, Sequence[str]], arm: str) -> str:
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
        advice = f"Use the plain prediction, unless you need {_OWNERS[arm]} uncertainties."
    if DEPENDS in groups:
        more = "passes (uncertainty.n_samples)"
        if arm == "laplace":
            more = "draws (uncertainty.n_samples)"
        elif arm == "swag":
            more = "models (uncertainty.swag_samples)"
        advice += _of_draws(f" Where it {DEPENDS}, more {more} may decide.", arm)
    return advice


_OWNERS = {
    "mc": "MC Dropout's",
    "laplace": "Laplace's",
    "swag": "SWAG's",
    "ensemble": "the ensemble's",
}


def _of_draws(text: str, arm: str) -> str:
    """Return what is said of masks as it is said of the random draws of an arm."""
    if arm == "mc":
        return text
    return text.replace("the masks that are drawn", "the random draws").replace(
        "the masks", "the random draws"
    )


def _listed(names: Sequence[str]) -> str:
    """Return names as a list in words."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _row(differences: Sequence[Difference], verdict: str, arm: str) -> list[str]:
    """Return the row of a measure that was compared with each set of random draws."""
    own = differences[0]
    spread = f"{_spread([difference.values[1] for difference in differences]):.4f}"
    if arm == "ensemble":  # it draws nothing
        spread = ""
    plain, mc = own.values
    return [
        LABELS[own.measure],
        f"{plain:z.4f}",
        f"{mc:z.4f}",
        f"{own.value:+z.4f}",
        f"{own.low:+z.4f} to {own.high:+z.4f}",
        f"{own.p:.3g}",
        spread,
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
    """Return the numbers of a measure by name."""
    own = differences[0]
    verdicts = [difference.verdict(level) for difference in differences]
    return {
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


def _spread(values: Sequence[float]) -> float:
    """Return the standard deviation over sets of masks; 0 for a single one."""
    if len(values) == 1:
        return 0.0
    return float(np.std(values, ddof=1))
