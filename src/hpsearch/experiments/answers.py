"""Answers of an experiment: rows of tables, verdicts and judged claims, from its measurements.

Arms are trained from the same seeds. A measure of two arms is therefore compared by the
differences that are paired by seed, with Student's 95 % interval. A sentence says that an arm is
better or worse only where the interval or the test allows it. In a table the differences of several
arms are corrected for their number, the intervals as much as the p values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from hpsearch.evaluation.differences import holm
from hpsearch.experiments.arms import Arm, Measured
from hpsearch.study.direction import Direction


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval.

    Attributes:
        n: The number of seeds.
        mean: The mean; NaN where n is 0.
        low: The lower end; NaN where n is below 2.
        high: The upper end; NaN where n is below 2.
        p: The two-sided p value of the hypothesis that the mean is 0; NaN where n is below 2.
    """

    n: int
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    p: float = math.nan

    @classmethod
    def of(cls, numbers: Iterable[float]) -> Interval:
        """Return the mean of the finite numbers with Student's interval (n - 1 degrees)."""
        finite = list(filter(math.isfinite, numbers))
        x = np.array(finite)
        n = len(x)
        if n == 0:
            return cls(n)
        mean = float(x.mean())
        if n == 1:
            return cls(n, mean)
        deviation = float(x.std(ddof=1))
        error = deviation / n**0.5
        if error == 0:
            return cls(n, mean, mean, mean, float(mean == 0))
        student = stats.t(n - 1)
        half = float(student.ppf(0.975)) * error
        tail = student.sf(abs(mean) / error)
        p = float(2 * tail)
        return cls(n, mean, mean - half, mean + half, p)

    @classmethod
    def of_difference(cls, mine: Mapping[int, float], theirs: Mapping[int, float]) -> Interval:
        """Return mine minus theirs, paired by seed, over the seeds that both have."""
        common = sorted(mine.keys() & theirs.keys())
        return cls.of(mine[seed] - theirs[seed] for seed in common)

    def __str__(self) -> str:
        if self.n <= 1:
            return f"{self.mean:+z.4g}"
        return f"{self.mean:+z.4g} [{self.low:+z.4g}, {self.high:+z.4g}]"

    @property
    def half(self) -> float:
        """Half the width of the interval."""
        return (self.high - self.low) / 2

    def corrected(self, p: float) -> Interval:
        """Return the interval with a corrected p value, as wide as the same correction makes it.

        It leaves out 0 exactly where the corrected p value is below 0.05.

        Args:
            p: The corrected value of `p`, from `p` to 1.
        """
        if p == 0:  # all differences are the same
            return self
        student = stats.t(self.n - 1)
        wider = float(student.isf(0.025 * self.p / p) / student.isf(0.025))
        half = self.half * wider
        return replace(self, low=self.mean - half, high=self.mean + half, p=p)


class Results(dict[str, dict[int, Measured]]):
    """What was measured, by the name of the arm and the place of the seed."""

    def of(self, arms: Iterable[Arm]) -> Results:
        """Return the results of some arms."""
        return Results({arm.name: self[arm.name] for arm in arms})

    def by_seed(
        self,
        arm: str,
        measure: str,
        target: float | None = None,
    ) -> dict[int, float]:
        """Return a measure of an arm, of the trainings that have it.

        Args:
            arm: The name of the arm.
            measure: The name of the measure.
            target: The loss of a race whose measure is returned; None takes the recorded measure.
        """
        found = {}
        for seed, measured in self[arm].items():
            scalars = measured.scalars
            if target is not None:
                scalars = measured.race(target)
            if measure in scalars:
                found[seed] = scalars[measure]
        return found

    def interval(self, arm: str, measure: str) -> Interval:
        """Return the mean of a measure of an arm over seeds, with its interval."""
        found = self.by_seed(arm, measure)
        return Interval.of(found.values())

    def loss(self, arm: Arm, measure: str) -> float:
        """Return the mean of a measure over seeds, negated where more of it is better.

        The arm with the lowest result is therefore the best one. The result is infinite where no
        seed has a finite value, so that such an arm is never the best of several.
        """
        found = self.interval(arm.name, measure)
        if not found.n:
            return math.inf
        return _goal_of(measure).as_loss(found.mean)

    def best_across(self, arms: Sequence[Arm], measure: str) -> list[Arm]:
        """Return for each level the arm with the best mean of the measure."""
        chosen: dict[str, Arm] = {}
        for arm in arms:
            best = chosen.setdefault(arm.level, arm)
            if self.loss(arm, measure) < self.loss(best, measure):
                chosen[arm.level] = arm
        return list(chosen.values())

    def add_race(self) -> float | None:
        """Add to each measurement the epochs and seconds to a loss that three quarters reach.

        A training that does not reach the loss gets no such values.

        Returns:
            The loss; None where no training has a curve.
        """
        trainings: list[Measured] = []
        for seeds in self.values():
            trainings.extend(seeds.values())
        lowest = [min(measured.losses) for measured in trainings if measured.losses]
        if not lowest:
            return None
        target = float(np.quantile(lowest, 0.75))
        for measured in trainings:
            measured.scalars.update(measured.race(target))
        return target

    def reached_by_all(self, *arms: str) -> float | None:
        """Return the loss that all trainings of some arms reach, those that diverged left out."""
        lowest = []
        for arm in arms:
            for measured in self[arm].values():
                if measured.losses and not measured.diverged:
                    lowest.append(min(measured.losses))
        return max(lowest, default=None)

    def judged(self, claims: Sequence[Claim], by_level: Mapping[str, str]) -> list[str]:
        """Return one sentence for each claim: whether it is confirmed, with the interval.

        A claim on a level that was not measured is left out.

        Args:
            claims: The claims of textbooks.
            by_level: The name of the arm that stands for each level.
        """
        sentences = []
        for claim in claims:
            lower = by_level.get(claim.lower, "")
            than = by_level.get(claim.than, "")
            if lower in self and than in self:
                sentences.append(claim.judge(self, lower, than))
        return sentences


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

    def judge(
        self,
        results: Results,
        lower: str,
        than: str,
    ) -> str:
        """Return the sentence on this claim, with the names of the two arms that it is about.

        Two arms race to the loss that all their trainings reach.
        """
        target = None
        goal = ""
        if _is_race(self.measure):
            target = results.reached_by_all(lower, than)
        if target is not None:
            goal = f" to val/loss {target:.4f}"
        mine = results.by_seed(lower, self.measure, target)
        theirs = results.by_seed(than, self.measure, target)
        found = Interval.of_difference(mine, theirs)
        word = "Undecided"
        if found.low > 0:
            word = "**Contradicted**"
        elif found.high < 0:
            word = "Confirmed"
        told = "no seed has both"
        if found.n:
            plural = "s" * (found.n != 1)
            told = f"{found} over {found.n} seed{plural}"
        for name, measured in ((lower, mine), (than, theirs)):
            n_lacking = len(results[name]) - len(measured)
            if n_lacking:
                told += f"; {n_lacking} of {name} have none"
        comparison = f"{self.measure} of {lower} minus {than}{goal}"
        return f'{word}: "{self.says}" ({comparison}: {told}).'


@dataclass(frozen=True)
class _Row:
    """The row of an arm in a table.

    Attributes:
        arm: The arm.
        measures: The interval over seeds of each measure.
        against: The first measure minus that of the baseline, paired by seed. Interval and p value
            are corrected by Holm's method over all arms; p is NaN for the baseline.
        n_diverged: The number of seeds whose training diverged.
        n_censored: The number of seeds that did not reach the loss of the race.
    """

    arm: Arm
    measures: dict[str, Interval]
    against: Interval
    n_diverged: int
    n_censored: int

    def cells(self) -> list[str]:
        """Return the cells of the row, as `Table.cells` describes them."""
        against = ""
        if self.against.n:
            against = str(self.against)
        p = ""
        if not math.isnan(self.against.p):
            p = f"{self.against.p:.3f}"
        diverged = ""
        if self.n_diverged:
            counts = [found.n for found in self.measures.values()]
            n = max(counts) or 1
            diverged = f"{self.n_diverged} of {n}"
        shown = map(self._cell, self.measures)
        return [self.arm.name, *shown, against, p, diverged]

    def _cell(self, measure: str) -> str:
        found = self.measures[measure]
        text = ""
        if found.n:
            text = f"{found.mean:.4g}"
        if found.n > 1:
            text += f" ± {found.half:.2g}"
        if _is_race(measure) and self.n_censored:
            text = f"{text or 'never'} ({self.n_censored} never)"
        return text


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
        cls,
        arms: Sequence[Arm],
        results: Results,
        measures: Sequence[str],
        baseline: str,
    ) -> Table:
        """Return the table of some arms.

        Args:
            arms: The arms of the table.
            results: What was measured.
            measures: The columns; differences to the baseline are those of the first measure.
            baseline: The name of the arm that the others are compared with.
        """
        theirs = results.by_seed(baseline, measures[0])
        against = {}
        for arm in arms:
            mine = results.by_seed(arm.name, measures[0])
            against[arm.name] = Interval.of_difference(mine, theirs)
        against[baseline] = Interval(0)
        tests = {}
        for name, found in against.items():
            if found.n > 1:
                tests[name] = found.p
        for name, p in zip(tests, holm(list(tests.values())), strict=True):
            against[name] = against[name].corrected(p)
        rows = []
        for arm in arms:
            name = arm.name
            trainings = results[name].values()
            row = _Row(
                arm,
                {key: results.interval(name, key) for key in measures},
                against[name],
                n_diverged=sum(bool(measured.diverged) for measured in trainings),
                n_censored=sum("race/epochs" not in measured.scalars for measured in trainings),
            )
            rows.append(row)
        return cls(rows, measures, baseline)

    def cells(self) -> list[list[str]]:
        """Return the head and the rows as text.

        The columns are the arm, each measure with the half width of its interval, the difference
        of the first measure to the baseline with its interval and its p value, both corrected by
        Holm's method, and the number of diverged seeds.
        """
        against = f"{self.measures[0]} minus {self.baseline}'s"
        head = ["arm", *self.measures, against, "p (Holm)", "diverged"]
        return [head, *(row.cells() for row in self.rows)]

    def verdict(self) -> str:
        """Return one sentence: the best arm, and the certain differences to the baseline."""
        measure = self.measures[0]
        goal = _goal_of(measure)
        means = {}
        for row in self.rows:
            found = row.measures[measure]
            if found.n:
                means[row.arm.name] = found.mean
        if not means:
            return f"No arm reached a finite {measure}."
        best = min(means, key=lambda name: goal.as_loss(means[name]))
        parts = [f"{best} has the best {measure}, {means[best]:.4g}"]
        for words, names in self._groups(goal).items():
            if names:
                parts.append(f"{words}: {', '.join(names)}")
        return "; ".join(parts) + "."

    def _groups(self, goal: Direction) -> dict[str, list[str]]:
        """Return the arms that a verdict names, by the words that it has for them."""
        better = []
        worse = []
        undecided = []
        diverged = []
        for row in self.rows:
            name = row.arm.name
            difference = f"{name} ({row.against})"
            is_certain = row.against.p < 0.05
            if is_certain and goal.as_loss(row.against.mean) < 0:
                better.append(difference)
            elif is_certain:
                worse.append(difference)
            elif name != self.baseline:
                undecided.append(name)
            if row.n_diverged:
                diverged.append(name)
        return {
            f"better than {self.baseline} beyond doubt": better,
            "worse": worse,
            f"not told apart from {self.baseline} by these seeds": undecided,
            "diverged at least once": diverged,
        }


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
        arms: dict[str, object] = {}
        measures: dict[str, dict[str, object]] = {}
        for table in self.tables:
            for row in table.rows:
                arm = row.arm
                of_arm = measures.setdefault(arm.name, {})
                for key, found in row.measures.items():
                    of_arm[key] = {
                        "mean": found.mean,
                        "low": found.low,
                        "high": found.high,
                        "n": found.n,
                    }
                first = {
                    "level": arm.level,
                    "hyperparameters": arm.hyperparameters,
                    "n_diverged": row.n_diverged,
                    "measures": of_arm,
                }
                arms.setdefault(arm.name, first)
        return {
            "name": self.name,
            "verdict": self.verdict,
            "arms": arms,
            "claims": self.claims,
            "run_id": self.run_id,
            "tracking_uri": self.tracking_uri,
        }


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


def _is_race(measure: str) -> bool:
    return measure in ("race/epochs", "race/seconds")
