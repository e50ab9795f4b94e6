"""Answers of an experiment: rows of tables, verdicts and judged claims, from its measurements.

Arms are trained from the same seeds. A measure of two arms is therefore compared by the
differences that are paired by seed, with Student's 95 % interval. A sentence says that an arm is
better or worse only where the interval or the test allows it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from hpsearch.evaluation.differences import holm
from hpsearch.experiments.arms import Arm, Measured, common_target
from hpsearch.study.direction import Direction

Results = Mapping[str, Mapping[int, Measured]]  # what was measured, by arm and seed


@dataclass(frozen=True)
class _Interval:
    """A mean over seeds with its 95 % interval.

    Attributes:
        mean: The mean; NaN where n is 0.
        low: The lower end; NaN where n is below 2.
        high: The upper end; NaN where n is below 2.
        p: The two-sided p value of the hypothesis that the mean is 0; NaN where n is below 2.
        n: The number of seeds.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        if self.n <= 1:
            return f"{self.mean:+z.4g}"
        return f"{self.mean:+z.4g} [{self.low:+z.4g}, {self.high:+z.4g}]"

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0

    def summary(self) -> dict[str, float]:
        """Return mean, interval and number of seeds as plain data."""
        return {"mean": self.mean, "low": self.low, "high": self.high, "n": self.n}


@dataclass(frozen=True)
class Claim:
    """A claim of a textbook: arm `lower` has less of `measure` than arm `than`.

    Attributes:
        says: The claim as a sentence.
        lower: The level of the arm that has less.
        than: The level of the arm that has more.
        measure: The name of the measure, such as `best/val/loss`.
    """

    says: str
    lower: str
    than: str
    measure: str


@dataclass(frozen=True)
class _Row:
    """The row of an arm in a table.

    Attributes:
        arm: The arm.
        measures: The interval over seeds of each measure.
        against: The first measure minus that of the baseline, paired by seed.
        p: The p value of that difference, by Holm over all arms; NaN for the baseline.
        n_diverged: The number of seeds whose training diverged.
        n_censored: The number of seeds that did not reach the loss of the race.
    """

    arm: Arm
    measures: dict[str, _Interval]
    against: _Interval
    p: float
    n_diverged: int
    n_censored: int


@dataclass(frozen=True)
class Table:
    """A table with a row for each arm.

    Attributes:
        rows: The rows.
        measures: The columns. The first measure decides.
        baseline: The name of the arm that the others are compared with.
    """

    rows: Sequence[_Row]
    measures: Sequence[str]
    baseline: str

    @classmethod
    def of(
        cls, arms: Sequence[Arm], results: Results, measures: Sequence[str], baseline: str
    ) -> Table:
        """Return the table of some arms.

        Args:
            arms: The arms of the table.
            results: What was measured.
            measures: The columns; differences to the baseline are those of the first measure.
            baseline: The name of the arm that the others are compared with.
        """
        first = measures[0]
        theirs = values(results.get(baseline, {}), first)
        against = {}
        for arm in arms:
            if arm.name != baseline:
                mine = values(results[arm.name], first)
                against[arm.name] = difference(mine, theirs)
        adjusted = holm_of({name: found.p for name, found in against.items()})
        rows = []
        for arm in arms:
            seeds = results[arm.name]
            trainings = seeds.values()
            row = _Row(
                arm=arm,
                measures={key: interval(values(seeds, key).values()) for key in measures},
                against=against.get(arm.name, interval([])),
                p=adjusted.get(arm.name, math.nan),
                n_diverged=sum(bool(measured.diverged) for measured in trainings),
                n_censored=sum("race/epochs" not in measured.scalars for measured in trainings),
            )
            rows.append(row)
        return cls(rows, measures, baseline)

    def cells(self) -> list[list[str]]:
        """Return the head and the rows as text.

        The columns are the arm, each measure with the half width of its interval, the difference
        of the first measure to the baseline, its p value by Holm, and the number of diverged seeds.
        """
        against = f"{self.measures[0]} minus {self.baseline}'s"
        lines = [["arm", *self.measures, against, "p (Holm)", "diverged"]]
        for row in self.rows:
            shown = [_measure_cell(row, key) for key in self.measures]
            lines.append([row.arm.name, *shown, *_difference_cells(row)])
        return lines

    def verdict(self) -> str:
        """Return one sentence: the best arm, and the certain differences to the baseline."""
        measure = self.measures[0]
        goal = _goal_of(measure)
        finite = [row for row in self.rows if row.measures[measure].n]
        if not finite:
            return f"No arm reached a finite {measure}."
        best = min(finite, key=lambda row: goal.as_loss(row.measures[measure].mean))
        parts = [f"{best.arm.name} has the best {measure}, {best.measures[measure].mean:.4g}"]
        better, worse, undecided = self._compared(goal)
        groups = {
            f"better than {self.baseline} beyond doubt": better,
            "worse": worse,
            f"not told apart from {self.baseline} by these seeds": undecided,
            "diverged at least once": [row.arm.name for row in self.rows if row.n_diverged],
        }
        for words, names in groups.items():
            if names:
                parts.append(f"{words}: {', '.join(names)}")
        return "; ".join(parts) + "."

    def _compared(self, goal: Direction) -> tuple[list[str], list[str], list[str]]:
        """Return the arms that are better than the baseline, those that are worse, and others."""
        better = []
        worse = []
        undecided = []
        for row in self.rows:
            name = row.arm.name
            loss = goal.as_loss(row.against.mean)
            if row.p < 0.05 and loss < 0:
                better.append(f"{name} ({row.against})")
            elif row.p < 0.05:
                worse.append(f"{name} ({row.against})")
            elif name != self.baseline:
                undecided.append(name)
        return better, worse, undecided


@dataclass(frozen=True)
class Answer:
    """The answer of an experiment.

    Attributes:
        name: The name of the experiment and of its parent run.
        verdict: One sentence for each group of arms that were compared.
        tables: The tables.
        claims: One sentence for each claim of a textbook that was judged.
        run_id: The run that holds tables and figures.
        tracking_uri: The MLflow store of that run.
    """

    name: str
    verdict: str
    tables: Sequence[Table]
    claims: Sequence[str]
    run_id: str
    tracking_uri: str

    def summary(self) -> dict[str, object]:
        """Return the answer as plain data."""
        of_arms: dict[str, object] = {}
        measures: dict[str, dict[str, object]] = {}
        for table in self.tables:
            for row in table.rows:
                arm = row.arm
                of_arm = measures.setdefault(arm.name, {})
                for key, found in row.measures.items():
                    of_arm[key] = found.summary()
                first = {
                    "level": arm.level,
                    "hyperparameters": arm.hyperparameters,
                    "n_diverged": row.n_diverged,
                    "measures": of_arm,
                }
                of_arms.setdefault(arm.name, first)
        return {
            "name": self.name,
            "verdict": self.verdict,
            "arms": of_arms,
            "claims": list(self.claims),
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
        }


def interval(numbers: Iterable[float]) -> _Interval:
    """Return the mean of the finite numbers with Student's interval (n - 1 degrees of freedom)."""
    confidence = 0.95
    finite = [number for number in numbers if np.isfinite(number)]
    x = np.asarray(finite, np.float64)
    n = len(x)
    if n == 0:
        return _Interval(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(x.mean())
    if n == 1:
        return _Interval(mean, math.nan, math.nan, math.nan, 1)
    error = float(x.std(ddof=1)) / n**0.5
    if error == 0:
        p = float(mean == 0)
        return _Interval(mean, mean, mean, p, n)
    student = stats.t(n - 1)
    half = float(student.ppf((1 + confidence) / 2)) * error
    p = float(2 * student.sf(abs(mean) / error))
    return _Interval(mean, mean - half, mean + half, p, n)


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> _Interval:
    """Return mine minus theirs, paired by seed, over the seeds that both have."""
    common = sorted(mine.keys() & theirs.keys())
    return interval([mine[seed] - theirs[seed] for seed in common])


def holm_of(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return the p values corrected by Holm's method; NaN values are no tests and stay NaN."""
    tests = {name: p for name, p in p_values.items() if not math.isnan(p)}
    corrected = holm(list(tests.values()))
    adjusted = dict.fromkeys(p_values, math.nan)
    adjusted.update(zip(tests, corrected, strict=True))
    return adjusted


def values(seeds: Mapping[int, Measured], measure: str) -> dict[int, float]:
    """Return a measure by seed, of the trainings that have it."""
    found = {}
    for seed, measured in seeds.items():
        if measure in measured.scalars:
            found[seed] = measured.scalars[measure]
    return found


def _goal_of(measure: str) -> Direction:
    """Return whether less or more of a measure is better."""
    more_is_better = (
        "accuracy",
        "rank",
        "distinct",
        "examples_per_s",
        "sparsity",
        "stable_learning_rate",
    )
    if measure.endswith(more_is_better):
        return Direction.MAXIMIZE
    return Direction.MINIMIZE


def mean(results: Results, arm: Arm, measure: str) -> float:
    """Return the mean of a measure over seeds, negated where more of it is better.

    The arm with the lowest result is therefore the best one. The result is infinite where no seed
    has the measure.
    """
    found = values(results[arm.name], measure)
    if not found:
        return math.inf
    return _goal_of(measure).as_loss(interval(found.values()).mean)


def best_across(arms: Sequence[Arm], results: Results, measure: str) -> list[Arm]:
    """Return for each level the arm with the best mean of the measure."""
    chosen: dict[str, Arm] = {}
    for arm in arms:
        best = chosen.setdefault(arm.level, arm)
        if mean(results, arm, measure) < mean(results, best, measure):
            chosen[arm.level] = arm
    return list(chosen.values())


def add_race(results: Results) -> float | None:
    """Add to each measurement the epochs and seconds to a loss that three quarters of them reach.

    A training that does not reach the loss gets no such values.

    Returns:
        The loss; None where no training has a curve.
    """
    trainings: list[Measured] = []
    for seeds in results.values():
        trainings.extend(seeds.values())
    target = common_target([measured.losses for measured in trainings])
    if target is not None:
        for measured in trainings:
            measured.scalars.update(measured.race(target))
    return target


def _is_race(measure: str) -> bool:
    return measure in ("race/epochs", "race/seconds")


def _measure_cell(row: _Row, key: str) -> str:
    found = row.measures[key]
    late = ""
    if _is_race(key) and row.n_censored:
        late = f" ({row.n_censored} never)"
    if found.n == 0 and late:
        return f"never{late}"
    if found.n == 0:
        return ""
    if found.n == 1:
        return f"{found.mean:.4g}{late}"
    return f"{found.mean:.4g} ± {found.half:.2g}{late}"


def _difference_cells(row: _Row) -> list[str]:
    against = ""
    if row.against.n:
        against = str(row.against)
    p = ""
    if not math.isnan(row.p):
        p = f"{row.p:.3f}"
    diverged = ""
    if row.n_diverged:
        n = max((found.n for found in row.measures.values()), default=0)
        diverged = f"{row.n_diverged} of {n or 1}"
    return [against, p, diverged]


def judged(claims: Sequence[Claim], results: Results, by_level: Mapping[str, str]) -> list[str]:
    """Return one sentence for each claim: whether the measurements confirm it, with the interval.

    A claim on a level that was not measured is left out.

    Args:
        claims: The claims of textbooks.
        results: What was measured.
        by_level: The name of the arm that stands for each level.
    """
    sentences = []
    for claim in claims:
        lower = by_level.get(claim.lower, "")
        than = by_level.get(claim.than, "")
        if lower in results and than in results:
            sentences.append(_judged(claim, results, lower, than))
    return sentences


def _judged(claim: Claim, results: Results, lower: str, than: str) -> str:
    """Return the sentence on one claim, with the two arms that it is about."""
    mine, theirs, goal = _of_pair(results[lower], results[than], claim.measure)
    found = difference(mine, theirs)
    word = "Undecided"
    if found.excludes_zero:
        word = "**Contradicted**"
        if found.mean < 0:
            word = "Confirmed"
    told = "no seed has both"
    if found.n:
        told = f"{found} over {found.n} seed{'s' * (found.n != 1)}"
    for name, measured in ((lower, mine), (than, theirs)):
        n_lacking = len(results[name]) - len(measured)
        if n_lacking:
            told += f"; {n_lacking} of {name} have none"
    comparison = f"{claim.measure} of {lower} minus {than}{goal}"
    return f'{word}: "{claim.says}" ({comparison}: {told}).'


def _of_pair(
    first: Mapping[int, Measured], second: Mapping[int, Measured], measure: str
) -> tuple[dict[int, float], dict[int, float], str]:
    """Return a measure of two arms by seed, and words that name the goal of a race.

    Two arms race to the loss that all their trainings reach, those that diverged left out.
    """
    if _is_race(measure):
        curves = []
        for measured in (*first.values(), *second.values()):
            if not measured.diverged:
                curves.append(measured.losses)
        target = common_target(curves, 1.0)
        if target is not None:
            goal = f" to val/loss {target:.4f}"
            return _raced(first, measure, target), _raced(second, measure, target), goal
    return values(first, measure), values(second, measure), ""


def _raced(seeds: Mapping[int, Measured], measure: str, target: float) -> dict[int, float]:
    """Return epochs or seconds to a loss by seed, of the trainings that reach it."""
    found = {}
    for seed, measured in seeds.items():
        raced = measured.race(target)
        if raced:
            found[seed] = raced[measure]
    return found
