"""The ablate job: it trains the levels of one factor from the same seeds and reports intervals.

An `Ablation` is the question, as a file in conf/ablation describes it. `Ablate` trains the arms,
prints a table with a verdict, and writes table, verdict and figure to the parent run in MLflow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

from rich.console import Console

from hpsearch.data.split import Data
from hpsearch.experiments.answers import Answer, Claim, Results, Table
from hpsearch.experiments.arms import Arm, Trained, Workbench
from hpsearch.experiments.figures import draw
from hpsearch.experiments.session import Session
from hpsearch.html_report.section import TerminalTable, markdown
from hpsearch.tracking.tracking import Tracking


class _Cell(NamedTuple):
    """An arm that is to be trained.

    Attributes:
        name: Its name.
        level: Its level of the factor.
        across: The value of the second factor; None where there is none.
        overrides: The overrides of the configuration.
    """

    name: str
    level: str
    across: float | str | None
    overrides: list[str]


class _Across(TypedDict):
    """A second factor.

    Attributes:
        setting: The key of the setting that varies.
        values: The values of the setting.
        best: Whether the best value of each level stands for the level; otherwise the levels are
            compared at each value.
    """

    setting: str
    values: Sequence[float | str]
    best: bool


@dataclass(frozen=True)
class Ablation:
    """A question and the way to answer it; see conf/ablation.

    Attributes:
        name: The name of its file.
        question: The question as one sentence.
        levels: The overrides of the configuration, for each level of the factor.
        baseline: The level that the others are compared with.
        across: The second factor; None where only one factor varies.
        measures: The columns of the table; the first one decides.
        panels: The panels of the figure, as `figures.draw` describes them.
        inspect: Whether the hidden layers are measured before and after training.
        claims: Claims of textbooks, each with the fields of a `Claim`.
        probes: Further measurements of each trained model.
    """

    name: str
    question: str
    levels: Mapping[str, Sequence[str]]
    baseline: str
    across: _Across | None
    measures: Sequence[str]
    panels: Sequence[str]
    inspect: bool
    claims: Sequence[Mapping[str, str]]
    probes: Sequence[Callable[[Workbench, Trained], Mapping[str, float]]] = ()

    def cells(self, wanted: Sequence[str] | None) -> list[_Cell]:
        """Return name, level, value of the second factor, and overrides of each arm.

        Args:
            wanted: The levels to train; None for all.
        """
        found = []
        for level, overrides in self.levels.items():
            if wanted is None or level in wanted:
                found.extend(self._cells_of(level, overrides))
        return found

    def _cells_of(self, level: str, overrides: Sequence[str]) -> list[_Cell]:
        if self.across is None:
            return [_Cell(level, level, None, list(overrides))]
        setting = self.across["setting"]
        short = setting.rpartition(".")[2]
        found = []
        for value in self.across["values"]:
            name = f"{level}, {short} {value}"
            own = [*overrides, f"{setting}={value}"]
            found.append(_Cell(name, level, value, own))
        return found

    def groups(self, arms: Sequence[Arm], results: Results) -> list[list[Arm]]:
        """Return the groups of arms that are compared with each other.

        With a second factor, they are the best arm of each level, or the arms of each value.
        """
        if self.across is None:
            return [list(arms)]
        if self.across["best"]:
            return [results.best_across(arms, self.measures[0])]
        groups: dict[object, list[Arm]] = {}
        for arm in arms:
            group = groups.setdefault(arm.across, [])
            group.append(arm)
        return list(groups.values())


@dataclass(frozen=True)
class Ablate:
    """Runs an ablation, or the part that is missing.

    Attributes:
        ablation: The question.
        arms: The arms.
        data: The data set.
        tracking: The MLflow store.
        seed: The root of all seeds.
        n_seeds: The number of trainings of each arm. All arms have the same seeds, so that results
            are paired.
    """

    ablation: Ablation
    arms: Sequence[Arm]
    data: Data
    tracking: Tracking
    seed: int
    n_seeds: int

    def run(
        self,
        config: Mapping[str, object],
        command: str,
        console: Console,
    ) -> Answer:
        """Train what is missing, print the tables, and return the answer.

        Args:
            config: The composed configuration as plain data.
            command: The command line, for the record.
            console: Where progress and tables are printed.
        """
        ablation = self.ablation
        data = self.data.for_search()
        bench = Workbench(
            data,
            inspect=ablation.inspect,
            probes=ablation.probes,
        )
        arms = [bench.directed(arm) for arm in self.arms]
        identity = self._identity(config, data.fingerprint)
        tags = {
            "hpsearch.kind": "ablation",
            "hpsearch.ablation": ablation.name,
            "hpsearch.command": command,
            "hpsearch.data": data.name,
        }
        name = f"{data.name}-{ablation.name}"
        session = Session(
            self.tracking,
            bench,
            name,
            identity,
            tags,
        )
        with session.parent.ending():
            session.parent.data(data, self.data.path or data.name)
            results = session.measure(
                arms,
                self.seed,
                "ablation",
                self.n_seeds,
                console,
            )
            return self._answer(results, session, console)

    def _identity(self, config: Mapping[str, object], fingerprint: str) -> Sequence[object]:
        """Return all that is equal in two sessions of the same ablation."""
        keys = (*Arm.PARTS, "hyperparameters", "ablation")
        base = {}
        for key in keys:
            if key in config:
                base[key] = config[key]
        training = dict(cast("Mapping[str, object]", config["training"]))
        if training.get("direction") is None:
            training.pop("direction", None)
        training.pop("swag", None)  # an experiment keeps no model, so this changes nothing
        base["training"] = training
        return base, fingerprint, self.seed

    def _answer(
        self,
        results: Results,
        session: Session,
        console: Console,
    ) -> Answer:
        """Print and write what was found, and return the answer."""
        ablation = self.ablation
        paragraphs = [f"## {ablation.question}"]
        tables = []
        pages = []
        verdicts = []
        claims = []
        for group in ablation.groups(self.arms, results):
            of_group = results.of(group)
            race = self._race(of_group)
            by_level = {arm.level: arm.name for arm in group}
            first = group[0].name
            baseline = by_level.get(ablation.baseline, first)
            table = Table.of(group, of_group, ablation.measures, baseline)
            verdict = table.verdict()
            asked = [Claim(**claim) for claim in ablation.claims]
            judged = of_group.judged(asked, by_level)
            cells = table.cells()
            console.print(TerminalTable(cells, ablation.question))
            for line in (*race, verdict, *judged):
                console.print(line, soft_wrap=True, markup=False)
            page = markdown(cells)
            paragraphs += [page, *race, f"**{verdict}**", *judged]
            tables.append(table)
            pages.append(page)
            verdicts.append(verdict)
            claims.extend(judged)
        parent = session.parent
        parent.client.log_text(parent.run_id, "\n\n".join(pages), "table.md")
        picture = draw(ablation.name, ablation.panels, self.arms, results)
        parent.file(f"figures/{picture.name}.png", picture.png)
        text = "\n\n".join(paragraphs)
        summary = " ".join(verdicts)
        return session.answer(text, summary, tables, claims, console)

    def _race(self, results: Results) -> list[str]:
        """Add the measures of the race, and return a sentence on its loss; none without a race."""
        target = results.add_race()
        measures = self.ablation.measures
        has_race = any(measure.startswith("race/") for measure in measures)
        if target is None or not has_race:
            return []
        return [f"The race is to val/loss {target:.4f}."]
