"""The compare job: the best trials of several studies, trained again on fresh seeds, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from rich.console import Console

from hpsearch.data.split import Data
from hpsearch.errors import ConfigError
from hpsearch.experiments import answers, figures
from hpsearch.experiments.answers import Answer, Claim, Results, Row, cells
from hpsearch.experiments.arms import Arm, Workbench
from hpsearch.experiments.finished_study import FinishedStudy
from hpsearch.experiments.probes import Latency, OnTest
from hpsearch.experiments.session import Records, Session, digest, seeds_of
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Figure, Section, markdown
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.tracking.tracking import Tracking

SELECTED_BY = "best/val/loss"  # of the k best trials of a study: never by the test set
QUESTIONS = {
    "Is it a better model?": (
        "test/plain/nll",
        "test/plain/accuracy",
        "test/plain/ece",
        "test/mc/nll",
        "test/mc/ece",
    ),
    "Does it converge faster?": ("race/epochs", "race/seconds", "best/epoch", "best/val/loss"),
    "What does it do to training speed?": ("time/epoch_s", "time/examples_per_s", "time/step_ms"),
    "What does the model cost?": ("latency/plain_ms", "latency/mc_100_ms", "parameters", "file_mb"),
}
PANELS = ("curve:val/loss", "clock:val/loss", "curve:val/accuracy")


@dataclass(frozen=True)
class Compare:
    """Compares studies.

    Attributes:
        studies: Those that are compared.
        arms: The best trials of each, `level` being the study, with their configurations as plain
            data.
        data: The data set, which they must all have been searched on.
        tracking: The MLflow store.
        uncertainty: Settings of MC Dropout.
        seed: Fresh seeds grow from it.
        n_seeds: Trainings of each arm.
        claims: What textbooks say of architectures, by the part of a study's name that follows the
            data set's.
    """

    studies: Sequence[FinishedStudy]
    arms: Sequence[tuple[Arm, Mapping[str, Any]]]
    data: Data
    tracking: Tracking
    uncertainty: McDropout
    seed: int
    n_seeds: int
    claims: Sequence[Claim] = ()

    def run(self, console: Console) -> Answer:
        """Train what is missing, print the tables and return the answer."""
        data = self.data.for_search()
        check_data(self.studies, data.fingerprint, data.name)
        bench = Workbench(data)
        arms = [(bench.directed(arm), composed) for arm, composed in self.arms]
        names = [study.name for study in self.studies]
        identity = digest(
            "comparison", names, [arm.hyperparameters for arm, _ in self.arms], self.seed
        )
        tags = {f"hpsearch.study.{s.name}": s.parent_run_id for s in self.studies}
        tags["hpsearch.fingerprint"] = data.fingerprint
        records = Records(
            self.tracking, f"{data.name}: {', '.join(names)}", "comparison", identity, tags
        )
        with records.parent.ending():
            records.parent.data(data, self.data.path or data.name)
            latency = Latency(256, (1, 100), 3, self.uncertainty)
            probes = (OnTest(self.data.test(), self.uncertainty), latency)
            seeds = seeds_of(self.seed, "confirm", self.n_seeds)
            session = Session(arms, seeds, records, bench, inspect=False, probes=probes)
            return self._answer(session.measure(console), records, console)

    def _answer(self, results: Results, records: Records, console: Console) -> Answer:
        shown = answers.best_across([arm for arm, _ in self.arms], results, SELECTED_BY)
        results, target = answers.with_race({arm.name: results[arm.name] for arm in shown})
        best = min(shown, key=lambda arm: answers.mean(results, arm, SELECTED_BY)).name
        race = (
            ""
            if target is None
            else f"The race is to val/loss {target:.4f}; {self.n_seeds} fresh seeds each."
        )
        tables = [answers.rows(shown, results, measures, best) for measures in QUESTIONS.values()]
        sections = [
            self._section(question, rows, best)
            for question, rows in zip(QUESTIONS, tables, strict=True)
        ]
        by_arch = {arm.level.partition("-")[2]: arm.name for arm in shown}
        judged = answers.judged(self.claims, results, by_arch)
        for section in sections:
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True)
        for sentence in judged:
            console.print(sentence, soft_wrap=True, markup=False)
        picture = figures.draw("comparison", PANELS, shown, results)
        self._write(records, race, sections, judged, picture)
        for line in records.where_to_look():
            console.print(line, soft_wrap=True, markup=False)
        return Answer(
            records.name,
            sections[0].text,
            tables,
            judged,
            records.parent.run_id,
            records.tracking_uri,
        )

    def _section(self, question: str, rows: list[Row], best: str) -> Section:
        measures = QUESTIONS[question]
        return Section(
            question, answers.verdict(rows, measures[0], best), cells(rows, measures, best)
        )

    def _write(
        self,
        records: Records,
        race: str,
        sections: Sequence[Section],
        judged: Sequence[str],
        picture: Figure,
    ) -> None:
        client, run_id = records.parent.client, records.parent.run_id
        parts = [f"## {s.title}\n\n{markdown(s.table)}\n\n**{s.text}**" for s in sections]
        text = "\n\n".join([race, *parts, *judged])
        curves = Section("Learning curves", race, figures=[picture])
        facts = [(study.name, f"run {study.parent_run_id}") for study in self.studies]
        client.log_text(run_id, text, "answer.md")
        claims = Section("What textbooks say", "\n\n".join(judged))
        page = html(
            "Comparison of studies", facts, [*sections, *([claims] if judged else []), curves]
        )
        client.log_text(run_id, page, "comparison.html")
        records.parent.file(f"figures/{picture.name}.png", picture.png)
        records.parent.tag(
            {MLFLOW_RUN_NOTE: text[:5000], "hpsearch.verdict": sections[0].text[:5000]}
        )


def check_data(studies: Sequence[FinishedStudy], fingerprint: str, name: str) -> None:
    """Raise ConfigError unless all studies were searched on the data set with this fingerprint."""
    for study in studies:
        theirs = study.settings.get("data.fingerprint")
        if theirs != fingerprint:
            raise ConfigError(
                f"Study {study.name} was searched on data {theirs}, but data={name} with these "
                f"settings is "
                f"{fingerprint}; a comparison needs one data set with one split."
            )
