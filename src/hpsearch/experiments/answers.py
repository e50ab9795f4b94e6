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
from hpsearch.experiments import arms
from hpsearch.experiments.arms import RACE_EPOCHS, RACE_SECONDS, Arm, Measured

_CONFIDENCE = 0.95
_LOSS = "val/loss"  # the loss that arms race to
_RACES = (RACE_EPOCHS, RACE_SECONDS)
_BySeed = Mapping[int, Measured]
_Values = dict[int, float]  # a measure, by seed
Results = Mapping[str, _BySeed]  # what was measured, by arm and seed
HIGHER_IS_BETTER = (
    "accuracy",
    "rank",
    "distinct",
    "examples_per_s",
    "sparsity",
    "stable_learning_rate",
)


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

    def facts(self) -> dict[str, float]:
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
class Row:
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
class Answer:
    """The answer of an experiment.

    Attributes:
        name: The name of the experiment and of its parent run.
        verdict: One sentence for each group of arms that were compared.
        tables: The rows of each table.
        claims: One sentence for each claim of a textbook that was judged.
        run_id: The run that holds tables and figures.
        tracking_uri: The MLflow store of that run.
    """

    name: str
    verdict: str
    tables: Sequence[Sequence[Row]]
    claims: Sequence[str]
    run_id: str
    tracking_uri: str

    def facts(self) -> dict[str, object]:
        """Return the answer as plain data."""
        arm_facts: dict[str, object] = {}
        measures: dict[str, dict[str, object]] = {}
        for table in self.tables:
            for row in table:
                arm = row.arm
                of_arm = measures.setdefault(arm.name, {})
                for key, found in row.measures.items():
                    of_arm[key] = found.facts()
                first = {
                    "level": arm.level,
                    "hyperparameters": arm.hyperparameters,
                    "n_diverged": row.n_diverged,
                    "measures": of_arm,
                }
                arm_facts.setdefault(arm.name, first)
        return {
            "name": self.name,
            "verdict": self.verdict,
            "arms": arm_facts,
            "claims": list(self.claims),
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
        }


def interval(numbers: Iterable[float]) -> _Interval:
    """Return the mean of the finite numbers with Student's interval (n - 1 degrees of freedom)."""
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
    half = float(student.ppf((1 + _CONFIDENCE) / 2)) * error
    p = float(2 * student.sf(abs(mean) / error))
    return _Interval(mean, mean - half, mean + half, p, n)


def difference(mine: _Values, theirs: _Values) -> _Interval:
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


def values(seeds: _BySeed, measure: str) -> _Values:
    """Return a measure by seed, of the trainings that have it."""
    found = {}
    for seed, measured in seeds.items():
        if measure in measured.scalars:
            found[seed] = measured.scalars[measure]
    return found


def sign(measure: str) -> int:
    """Return 1 where less of a measure is better, -1 where more is."""
    return -1 if measure.endswith(HIGHER_IS_BETTER) else 1


def mean(results: Results, arm: Arm, measure: str) -> float:
    """Return the mean of a measure over seeds, negated where more of it is better.

    The arm with the lowest result is therefore the best one. The result is infinite where no seed
    has the measure.
    """
    found = values(results[arm.name], measure)
    if not found:
        return math.inf
    return sign(measure) * interval(found.values()).mean


def best_across(arms: Sequence[Arm], results: Results, measure: str) -> list[Arm]:
    """Return for each level the arm with the best mean of the measure."""
    chosen: dict[str, Arm] = {}
    for arm in arms:
        best = chosen.setdefault(arm.level, arm)
        if mean(results, arm, measure) < mean(results, best, measure):
            chosen[arm.level] = arm
    return list(chosen.values())


def with_race(results: Results) -> tuple[Results, float | None]:
    """Add to each measurement the epochs and seconds to a loss that three quarters of them reach.

    A training that does not reach the loss gets no such values.

    Returns:
        The results and the loss; the loss is None where no training has a curve.
    """
    trainings = [measured for seeds in results.values() for measured in seeds.values()]
    target = arms.common_target([_losses(measured) for measured in trainings])
    if target is None:
        return results, None
    for measured in trainings:
        measured.scalars.update(_race(measured, target))
    return results, target


def _losses(measured: Measured) -> list[float]:
    return measured.curves.get(_LOSS, [])


def _race(measured: Measured, target: float) -> dict[str, float]:
    """Return the epochs and seconds of a training to a loss; empty where it is not reached."""
    epoch_s = measured.curves.get("time/epoch_s", [])
    return arms.race(_losses(measured), epoch_s, target)


def rows(
    arms: Sequence[Arm], results: Results, measures: Sequence[str], baseline: str
) -> list[Row]:
    """Return the row of each arm.

    Args:
        arms: The arms of the table.
        results: What was measured.
        measures: The columns; differences to the baseline are those of the first measure.
        baseline: The name of the arm that the others are compared with.
    """
    first = measures[0]
    theirs: _Values = {}
    if baseline in results:
        theirs = values(results[baseline], first)
    against = {}
    for arm in arms:
        if arm.name != baseline:
            mine = values(results[arm.name], first)
            against[arm.name] = difference(mine, theirs)
    adjusted = holm_of({name: found.p for name, found in against.items()})
    table = []
    for arm in arms:
        seeds = results[arm.name]
        trainings = seeds.values()
        row = Row(
            arm=arm,
            measures={key: interval(values(seeds, key).values()) for key in measures},
            against=against.get(arm.name, interval([])),
            p=adjusted.get(arm.name, math.nan),
            n_diverged=sum(bool(measured.diverged) for measured in trainings),
            n_censored=sum(RACE_EPOCHS not in measured.scalars for measured in trainings),
        )
        table.append(row)
    return table


def cells(table: Sequence[Row], measures: Sequence[str], baseline: str) -> list[list[str]]:
    """Return the head and the rows of a table as text.

    The columns are the arm, each measure with the half width of its interval, the difference of
    the first measure to the baseline, its p value by Holm, and the number of diverged seeds.
    """
    head = ["arm", *measures, f"{measures[0]} minus {baseline}'s", "p (Holm)", "diverged"]
    body = []
    for row in table:
        shown = [_measure_cell(row, key) for key in measures]
        body.append([row.arm.name, *shown, *_difference_cells(row)])
    return [head, *body]


def _measure_cell(row: Row, key: str) -> str:
    found = row.measures[key]
    late = ""
    if key in _RACES and row.n_censored:
        late = f" ({row.n_censored} never)"
    if found.n == 0:
        return f"never{late}" if late else ""
    if found.n == 1:
        return f"{found.mean:.4g}{late}"
    return f"{found.mean:.4g} ± {found.half:.2g}{late}"


def _difference_cells(row: Row) -> list[str]:
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


def verdict(table: Sequence[Row], measure: str, baseline: str) -> str:
    """Return one sentence: the best arm, and the differences to the baseline that are certain.

    Args:
        table: The row of each arm.
        measure: The measure that decides, the first one of the table.
        baseline: The name of the arm that the others are compared with.
    """
    finite = [row for row in table if row.measures[measure].n]
    if not finite:
        return f"No arm reached a finite {measure}."
    best = min(finite, key=lambda row: sign(measure) * row.measures[measure].mean)
    parts = [f"{best.arm.name} has the best {measure}, {best.measures[measure].mean:.4g}"]
    better, worse, undecided = _compared(table, measure, baseline)
    diverged = [row.arm.name for row in table if row.n_diverged]
    groups = {
        f"better than {baseline} beyond doubt": better,
        "worse": worse,
        f"not told apart from {baseline} by these seeds": undecided,
        "diverged at least once": diverged,
    }
    for words, names in groups.items():
        if names:
            parts.append(f"{words}: {', '.join(names)}")
    return "; ".join(parts) + "."


def _compared(
    table: Sequence[Row], measure: str, baseline: str
) -> tuple[list[str], list[str], list[str]]:
    """Return the arms that are better than the baseline, those that are worse, and all others."""
    better = []
    worse = []
    undecided = []
    for row in table:
        name = row.arm.name
        if row.p < 0.05:
            words = f"{name} ({row.against})"
            signed = sign(measure) * row.against.mean
            if signed > 0:
                worse.append(words)
            if signed < 0:
                better.append(words)
        elif name != baseline:
            undecided.append(name)
    return better, worse, undecided


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
        word = "Confirmed" if found.mean < 0 else "**Contradicted**"
    told = "no seed has both"
    if found.n:
        told = f"{found} over {found.n} seed{'s' * (found.n != 1)}"
    lacking = _lacking(lower, results[lower], mine) + _lacking(than, results[than], theirs)
    comparison = f"{claim.measure} of {lower} minus {than}{goal}"
    return f'{word}: "{claim.says}" ({comparison}: {told}{lacking}).'


def _of_pair(first: _BySeed, second: _BySeed, measure: str) -> tuple[_Values, _Values, str]:
    """Return a measure of two arms by seed, and words that name the goal of a race.

    Two arms race to the loss that all their trainings reach, those that diverged left out.
    """
    if measure in _RACES:
        curves = []
        for measured in (*first.values(), *second.values()):
            if not measured.diverged:
                curves.append(_losses(measured))
        target = arms.common_target(curves, 1.0)
        if target is not None:
            goal = f" to {_LOSS} {target:.4f}"
            return _raced(first, measure, target), _raced(second, measure, target), goal
    return values(first, measure), values(second, measure), ""


def _raced(seeds: _BySeed, measure: str, target: float) -> _Values:
    """Return epochs or seconds to a loss by seed, of the trainings that reach it."""
    found = {}
    for seed, measured in seeds.items():
        raced = _race(measured, target)
        if raced:
            found[seed] = raced[measure]
    return found


def _lacking(name: str, seeds: _BySeed, found: _Values) -> str:
    """Return words for the number of seeds that have no value; empty where every seed has one."""
    n = len(seeds) - len(found)
    if not n:
        return ""
    return f"; {n} of {name} have none"
