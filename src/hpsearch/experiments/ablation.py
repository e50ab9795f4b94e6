"""The ablate job: one factor varies, all else stays, several seeds, and an answer with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from rich.console import Console

from hpsearch.data.split import Data
from hpsearch.errors import ConfigError, did_you_mean
from hpsearch.experiments import answers, figures
from hpsearch.experiments.answers import Answer, Claim, Results, Row, cells
from hpsearch.experiments.arms import Arm, Probe, Workbench
from hpsearch.experiments.session import PARTS, Records, Session, digest, seeds_of
from hpsearch.html_report.section import markdown, terminal
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Ablation:
    """A question and how it is answered; see conf/ablation.

    Attributes:
        name: Its file's name.
        question: One sentence.
        levels: Overrides of the configuration for each level of the factor.
        baseline: The level that the others are compared with.
        across: A second factor: `setting`, `values`, and whether only the `best` value of each
            level is compared.
        measures: Columns of the table; the first one decides.
        panels: Of the figure, as `figures.draw` says.
        inspect: Whether the layers are looked at before and after training.
        claims: What textbooks say.
        probes: Further measurements of each trained model.
    """

    name: str
    question: str
    levels: Mapping[str, Sequence[str]]
    baseline: str
    across: Mapping[str, Any] | None
    measures: Sequence[str]
    panels: Sequence[str]
    inspect: bool
    claims: Sequence[Mapping[str, str]]
    probes: Sequence[Probe] = field(default_factory=tuple)

    def chosen(self, wanted: Sequence[str] | None) -> dict[str, Sequence[str]]:
        """Return the levels that are wanted, with their overrides; all where `wanted` is None.

        Raises:
            ConfigError: One of them is no level.
        """
        if isinstance(wanted, str):
            raise ConfigError(f"levels must be a list, such as [{wanted}], but is {wanted}.")
        for name in wanted or ():
            if name not in self.levels:
                raise ConfigError(
                    f"Ablation {self.name} has no level "
                    f"{name}.{did_you_mean(str(name), self.levels)}"
                )
        return {
            name: overrides
            for name, overrides in self.levels.items()
            if wanted is None or name in wanted
        }

    def cells(self, wanted: Sequence[str] | None) -> list[tuple[str, str, Any, list[str]]]:
        """Return name, level, second factor and overrides of each arm."""
        found: list[tuple[str, str, Any, list[str]]] = []
        for level, overrides in self.chosen(wanted).items():
            if self.across is None:
                found.append((level, level, None, list(overrides)))
                continue
            setting = str(self.across["setting"])
            for value in self.across["values"]:
                name = f"{level}, {setting.rpartition('.')[2]} {value}"
                found.append((name, level, value, [*overrides, f"{setting}={value}"]))
        return found

    def groups(self, arms: Sequence[Arm], results: Results) -> list[list[Arm]]:
        """Return the arms that are compared with each other: the best of each level, or those of
        one second factor.
        """
        if self.across is None:
            return [list(arms)]
        if self.across["best"]:
            return [answers.best_across(arms, results, self.measures[0])]
        return [
            [arm for arm in arms if arm.across == value]
            for value in dict.fromkeys(arm.across for arm in arms)
        ]


@dataclass(frozen=True)
class Part:
    """What was found among arms that are compared with each other."""

    rows: list[Row]
    cells: list[list[str]]
    race: str
    verdict: str
    claims: list[str]

    def as_text(self) -> str:
        """Return it in Markdown."""
        return "\n\n".join(
            filter(None, [markdown(self.cells), self.race, f"**{self.verdict}**", *self.claims])
        )


@dataclass(frozen=True)
class Ablate:
    """Runs an ablation, or what is missing of it.

    Attributes:
        ablation: The question.
        arms: What is trained, each with its composed configuration as plain data.
        data: The data set.
        tracking: The MLflow store.
        seed: All randomness grows from it.
        n_seeds: Trainings of each arm; the same seeds for all arms, so that results are paired.
    """

    ablation: Ablation
    arms: Sequence[tuple[Arm, Mapping[str, Any]]]
    data: Data
    tracking: Tracking
    seed: int
    n_seeds: int

    def run(self, config: Mapping[str, Any], command: str, console: Console) -> Answer:
        """Train what is missing, print the table, and return the answer."""
        data = self.data.for_search()
        bench = Workbench(data)
        arms = [(bench.directed(arm), composed) for arm, composed in self.arms]
        base = {
            key: config[key] for key in (*PARTS, "hyperparameters", "ablation") if key in config
        }
        said = {k: v for k, v in base["training"].items() if (k, v) != ("direction", None)}
        identity = digest({**base, "training": said}, data.fingerprint, self.seed)
        name = f"{data.name}-{self.ablation.name}"
        tags = {"hpsearch.ablation": self.ablation.name, "hpsearch.fingerprint": data.fingerprint}
        tags |= {"hpsearch.command": command, "hpsearch.data": data.name}
        records = Records(self.tracking, name, "ablation", identity, tags)
        with records.parent.ending():
            records.parent.data(data, self.data.path or data.name)
            ablation = self.ablation
            seeds = seeds_of(self.seed, "ablation", self.n_seeds)
            session = Session(arms, seeds, records, bench, ablation.inspect, ablation.probes)
            return self._answer(session.measure(console), records, console)

    def _answer(self, results: Results, records: Records, console: Console) -> Answer:
        ablation, arms = self.ablation, [arm for arm, _ in self.arms]
        groups = ablation.groups(arms, results)
        parts = [self._part(group, results) for group in groups]
        text = "\n\n".join([f"## {ablation.question}", *(part.as_text() for part in parts)])
        picture = figures.draw(ablation.name, ablation.panels, arms, results)
        records.parent.file(f"figures/{picture.name}.png", picture.png)
        client, run_id = records.parent.client, records.parent.run_id
        client.log_text(run_id, text, "answer.md")
        client.log_text(run_id, "\n\n".join(markdown(part.cells) for part in parts), "table.md")
        sentence = " ".join(part.verdict for part in parts)
        records.parent.tag({MLFLOW_RUN_NOTE: text[:5000], "hpsearch.verdict": sentence[:5000]})
        for part in parts:
            console.print(terminal(part.cells, ablation.question))
            for line in filter(None, (part.race, part.verdict, *part.claims)):
                console.print(line, soft_wrap=True, markup=False)
        for line in records.where_to_look():
            console.print(line, soft_wrap=True, markup=False)
        claims = [claim for part in parts for claim in part.claims]
        return Answer(
            records.name, sentence, [p.rows for p in parts], claims, run_id, records.tracking_uri
        )

    def _part(self, group: Sequence[Arm], results: Results) -> Part:
        ablation, by_level = self.ablation, {arm.level: arm.name for arm in group}
        raced, target = answers.with_race({arm.name: results[arm.name] for arm in group})
        baseline = by_level.get(ablation.baseline, group[0].name)
        rows = answers.rows(group, raced, ablation.measures, baseline)
        races = target is not None and any(
            measure.startswith("race/") for measure in ablation.measures
        )
        return Part(
            rows,
            cells(rows, ablation.measures, baseline),
            f"The race is to val/loss {target:.4f}." if races else "",
            answers.verdict(rows, ablation.measures[0], baseline),
            answers.judged([Claim(**claim) for claim in ablation.claims], raced, by_level),
        )
