"""Differences between two arms that were trained from the same seeds, with intervals.

From what was measured to an answer: a row for each arm, and sentences that an interval stands
behind.

What an experiment measured, as the cells of a table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from hpsearch.evaluation.differences import holm
from hpsearch.experiments import arms
from hpsearch.experiments.arms import RACE_EPOCHS, RACE_SECONDS, Arm, Measured

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval; `p` tests that the mean is 0, two-sided; all NaN but the mean
    where n < 2.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+z.4g}" + (
            f" [{self.low:+z.4g}, {self.high:+z.4g}]" if self.n > 1 else ""
        )

    @property
    def half(self) -> float:
        """Half the interval's width."""
        return (self.high - self.low) / 2

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float]) -> Interval:
    """Return the mean of values with Student's interval (n - 1 degrees of freedom)."""
    x = np.asarray([v for v in values if np.isfinite(v)], np.float64)
    n = len(x)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), float("nan"), 0)
    mean = float(x.mean())
    if n == 1:
        return Interval(mean, float("nan"), float("nan"), float("nan"), 1)
    error = float(x.std(ddof=1)) / n**0.5
    if error == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0, n)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * error
    return Interval(
        mean, mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / error, n - 1)), n
    )


def difference(mine: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
    """Return mine minus theirs, paired by seed; seeds that only one of them has are left out."""
    return interval([mine[seed] - theirs[seed] for seed in sorted(mine.keys() & theirs.keys())])


def holm_of(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p values that hold for the whole family; NaN ones are no tests and stay NaN."""
    tests = {name: p for name, p in p_values.items() if not math.isnan(p)}
    return dict.fromkeys(p_values, float("nan")) | dict(
        zip(tests, holm(list(tests.values())), strict=True)
    )


HIGHER_IS_BETTER = (
    "accuracy",
    "rank",
    "distinct",
    "examples_per_s",
    "sparsity",
    "stable_learning_rate",
)
LOSS = "val/loss"  # what is raced to
Results = Mapping[str, Mapping[int, Measured]]


@dataclass(frozen=True)
class Claim:
    """What textbooks say: arm `lower` has less of `measure` than arm `than`."""

    says: str
    lower: str
    than: str
    measure: str


@dataclass(frozen=True)
class Row:
    """An arm in a table: each measure with its interval over seeds, and the first one's difference
    to the baseline.
    """

    arm: Arm
    measures: dict[str, Interval]
    against: Interval
    p: float
    n_diverged: int
    n_censored: int


@dataclass(frozen=True)
class Answer:
    """What an experiment came to.

    Attributes:
        name: The experiment's, which its run has too.
        verdict: A sentence.
        tables: Rows of each table that was shown.
        claims: What came of those of textbooks.
        run_id: The run that holds tables and figures.
        tracking_uri: The MLflow store of that run.
    """

    name: str
    verdict: str
    tables: Sequence[Sequence[Row]]
    claims: Sequence[str]
    run_id: str
    tracking_uri: str

    def facts(self) -> dict[str, Any]:
        """Return the same as plain data."""
        arms: dict[str, dict[str, Any]] = {}
        for row in (row for table in self.tables for row in table):
            first = {
                "level": row.arm.level,
                "hyperparameters": row.arm.hyperparameters,
                "n_diverged": row.n_diverged,
            }
            measures = arms.setdefault(row.arm.name, {**first, "measures": {}})["measures"]
            measures |= {
                key: {"mean": m.mean, "low": m.low, "high": m.high, "n": m.n}
                for key, m in row.measures.items()
            }
        run = {"run_id": self.run_id, "tracking_uri": self.tracking_uri}
        return {
            "name": self.name,
            "verdict": self.verdict,
            "arms": arms,
            "claims": list(self.claims),
            **run,
        }


def with_race(results: Results) -> tuple[Results, float | None]:
    """Add epochs and seconds to a common target to each measurement; a training that never gets
    there has none.
    """
    every = [m for seeds in results.values() for m in seeds.values()]
    target = arms.common_target([m.curves.get(LOSS, []) for m in every])
    if target is None:
        return results, None
    for measured in every:
        measured.scalars |= race(measured, target)
    return results, target


def race(measured: Measured, target: float) -> dict[str, float]:
    """Return epochs and seconds of a training to a loss."""
    return arms.race(measured.curves.get(LOSS, []), measured.curves.get("time/epoch_s", []), target)


def rows(
    arms: Sequence[Arm], results: Results, measures: Sequence[str], baseline: str
) -> list[Row]:
    """Return a row for each arm; differences are to the arm named `baseline`, with p values by Holm
    over all arms.
    """
    first = measures[0]
    base = values(results[baseline], first) if baseline in results else {}
    against = {
        a.name: difference(values(results[a.name], first), base) for a in arms if a.name != baseline
    }
    adjusted = holm_of({name: found.p for name, found in against.items()})
    none = interval([])
    return [
        Row(
            arm,
            {key: interval(list(values(results[arm.name], key).values())) for key in measures},
            against.get(arm.name, none),
            adjusted.get(arm.name, float("nan")),
            sum(bool(m.diverged) for m in results[arm.name].values()),
            sum(RACE_EPOCHS not in m.scalars for m in results[arm.name].values()),
        )
        for arm in arms
    ]


def values(seeds: Mapping[int, Measured], measure: str) -> dict[int, float]:
    """Return a measure by seed, of the trainings that have it."""
    return {seed: m.scalars[measure] for seed, m in seeds.items() if measure in m.scalars}


def sign(measure: str) -> int:
    """Return 1 where less of a measure is better, -1 where more is."""
    return -1 if measure.endswith(HIGHER_IS_BETTER) else 1


def best_across(arms: Sequence[Arm], results: Results, measure: str) -> list[Arm]:
    """Return for each level the arm whose second factor suits it best."""
    chosen: dict[str, Arm] = {}
    for arm in arms:
        if arm.level not in chosen or mean(results, arm, measure) < mean(
            results, chosen[arm.level], measure
        ):
            chosen[arm.level] = arm
    return list(chosen.values())


def mean(results: Results, arm: Arm, measure: str) -> float:
    """Return the mean of a measure over seeds, signed so that less is better; infinite where there
    is none.
    """
    found = list(values(results[arm.name], measure).values())
    return sign(measure) * interval(found).mean if found else float("inf")


def verdict(table: Sequence[Row], measure: str, baseline: str) -> str:
    """Return one sentence: who is best, and which differences to the baseline the seeds bear out."""
    able = [row for row in table if row.measures[measure].n]
    if not able:
        return f"No arm reached a finite {measure}."
    best = min(able, key=lambda row: sign(measure) * row.measures[measure].mean)
    words = [f"{best.arm.name} has the best {measure}, {best.measures[measure].mean:.4g}"]
    sure = [row for row in table if row.p < 0.05]
    worse = [f"{r.arm.name} ({r.against})" for r in sure if sign(measure) * r.against.mean > 0]
    better = [f"{r.arm.name} ({r.against})" for r in sure if sign(measure) * r.against.mean < 0]
    words += [f"better than {baseline} beyond doubt: {', '.join(better)}"] if better else []
    words += [f"worse: {', '.join(worse)}"] if worse else []
    open_ = [
        r.arm.name
        for r in table
        if r.arm.name != baseline and r.arm.name not in {s.arm.name for s in sure}
    ]
    words += [f"not told apart from {baseline} by these seeds: {', '.join(open_)}"] if open_ else []
    gone = [r.arm.name for r in table if r.n_diverged]
    words += [f"diverged at least once: {', '.join(gone)}"] if gone else []
    return "; ".join(words) + "."


def judged(claims: Sequence[Claim], results: Results, by_level: Mapping[str, str]) -> list[str]:
    """Return for each claim whether the measurements bear it out, with the interval of the
    difference.

    Args:
        claims: What textbooks say.
        results: What was measured.
        by_level: The arm that stands for a level.
    """
    sentences = []
    for claim in claims:
        pair = [by_level.get(claim.lower, ""), by_level.get(claim.than, "")]
        if not all(name in results for name in pair):
            continue
        (mine, theirs), goal = _of_pair([results[name] for name in pair], claim.measure)
        found = difference(mine, theirs)
        sure = "Confirmed" if found.mean < 0 else "**Contradicted**"
        word = sure if found.excludes_zero else "Undecided"
        over = f" over {found.n} seed{'s' * (found.n != 1)}" if found.n else "no seed has both"
        text = (
            f"{claim.measure} of {pair[0]} minus {pair[1]}{goal}: {found if found.n else ''}{over}"
        )
        text += _left_out(results, dict(zip(pair, (mine, theirs), strict=True)))
        sentences.append(f'{word}: "{claim.says}" ({text}).')
    return sentences


def _of_pair(
    pair: Sequence[Mapping[int, Measured]], measure: str
) -> tuple[list[dict[int, float]], str]:
    """Return a measure of two arms by seed; two that race go to a loss which all trainings of both
    come to.
    """
    if measure in {RACE_EPOCHS, RACE_SECONDS}:
        target = arms.common_target(
            [m.curves.get(LOSS, []) for seeds in pair for m in seeds.values() if not m.diverged],
            1.0,
        )
        if target is not None:
            raced = [{seed: race(m, target) for seed, m in seeds.items()} for seeds in pair]
            return [
                {s: r[measure] for s, r in seeds.items() if r} for seeds in raced
            ], f" to {LOSS} {target:.4f}"
    return [values(seeds, measure) for seeds in pair], ""


def _left_out(results: Results, found: Mapping[str, Mapping[int, float]]) -> str:
    """Return how many seeds of each arm have no value, such as those that never got to a race's
    loss.
    """
    lacking = {name: len(results[name]) - len(seeds) for name, seeds in found.items()}
    return "".join(f"; {n} of {name} have none" for name, n in lacking.items() if n)


def cells(table: Sequence[Row], measures: Sequence[str], baseline: str) -> list[list[str]]:
    """Return head and rows: arm, each measure with the half width of its interval, difference, p by
    Holm.
    """
    head = ["arm", *measures, f"{measures[0]} minus {baseline}'s", "p (Holm)", "diverged"]
    body = []
    for row in table:
        n = max((found.n for found in row.measures.values()), default=0) or 1
        shown = [_measure(row.measures[key], key, row.n_censored) for key in measures]
        against = str(row.against) if row.against.n else ""
        p = f"{row.p:.3f}" if row.p == row.p else ""
        body.append(
            [row.arm.name, *shown, against, p, f"{row.n_diverged} of {n}" if row.n_diverged else ""]
        )
    return [head, *body]


def _measure(found: Interval, key: str, n_censored: int) -> str:
    late = f" ({n_censored} never)" if key in {RACE_EPOCHS, RACE_SECONDS} and n_censored else ""
    if not found.n:
        return f"never{late}" if late else ""
    half = f" ± {found.half:.2g}" if found.n > 1 else ""
    return f"{found.mean:.4g}{half}{late}"
