"""The compare job: it trains the best trials of several studies again and compares them.

The trainings have fresh seeds, the same for all studies. The answer is one table for each of four
questions, with verdicts, learning curves and an HTML page in the parent run in MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.console import Console

from hpsearch.data.split import Data
from hpsearch.errors import ConfigError
from hpsearch.experiments.answers import Answer, Claim, Results, Table
from hpsearch.experiments.arms import Arm, Workbench
from hpsearch.experiments.figures import draw
from hpsearch.experiments.finished_study import FinishedStudy
from hpsearch.experiments.probes import Latency, OnTest
from hpsearch.experiments.session import Session
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Figure, Section, markdown
from hpsearch.mc_dropout.prediction import McDropout
from hpsearch.tracking.tracking import Tracking


@dataclass(frozen=True)
class Compare:
    """Compares studies.

    Attributes:
        studies: The studies to compare.
        archs: The architecture of each study, by the name of the study.
        arms: The best trials of each study. The level of an arm is the name of its study.
        data: The data set; all studies must have been searched on it.
        tracking: The MLflow store.
        uncertainty: The settings of MC Dropout.
        seed: The root of the fresh seeds.
        n_seeds: The number of trainings of each arm.
        claims: Claims of textbooks about architectures, which they name instead of studies.
    """

    studies: Sequence[FinishedStudy]
    archs: Mapping[str, str]
    arms: Sequence[Arm]
    data: Data
    tracking: Tracking
    uncertainty: McDropout
    seed: int
    n_seeds: int
    claims: Sequence[Claim] = ()

    # The measures that answer each question; the first one decides.
    _questions: ClassVar[Mapping[str, Sequence[str]]] = {
        "Is it a better model?": (
            "test/plain/nll",
            "test/plain/accuracy",
            "test/plain/ece",
            "test/mc/nll",
            "test/mc/ece",
        ),
        "Does it converge faster?": (
            "race/epochs",
            "race/seconds",
            "best/epoch",
            "best/val/loss",
        ),
        "What does it do to training speed?": (
            "time/epoch_s",
            "time/examples_per_s",
            "time/step_ms",
        ),
        "What does the model cost?": (
            "latency/plain_ms",
            "latency/mc_100_ms",
            "parameters",
            "file_mb",
        ),
    }

    def run(self, console: Console) -> Answer:
        """Train what is missing, print the tables and return the answer.

        Raises:
            ConfigError: A study was searched on other data.
        """
        data = self.data.for_search()
        for study in self.studies:
            theirs = study.settings.get("data.fingerprint")
            if theirs != data.fingerprint:
                # Studies of earlier versions had no calibration part.
                n_calibration = study.settings.get("data.n_calibration", 0)
                shown = json.dumps(n_calibration)
                raise ConfigError(
                    f"Study {study.name} was searched on data {theirs}, but data={data.name} with "
                    f"these settings is {data.fingerprint}; a comparison needs one data set with "
                    f"one split, and this study has data.n_calibration={shown}."
                )
        on_test = OnTest(self.data.test(), self.uncertainty)
        latency = Latency(256, (1, 100), 3, self.uncertainty)
        bench = Workbench(data, probes=(on_test, latency))
        arms = [bench.directed(arm) for arm in self.arms]
        names = [study.name for study in self.studies]
        hyperparameters = [arm.hyperparameters for arm in self.arms]
        identity = ("comparison", names, hyperparameters, self.seed)
        tags = {"hpsearch.kind": "comparison"}
        for study in self.studies:
            tags[f"hpsearch.study.{study.name}"] = study.parent_run_id
        name = f"{data.name}: {', '.join(names)}"
        session = Session(self.tracking, bench, name, identity, tags)
        with session.parent.ending():
            session.parent.data(data, self.data.path or data.name)
            results = session.measure(arms, self.seed, "confirm", self.n_seeds, console)
            return self._answer(results, session, console)

    def _answer(
        self,
        results: Results,
        session: Session,
        console: Console,
    ) -> Answer:
        """Print and write what was found, and return the answer."""
        selected_by = "best/val/loss"  # the test set must not select
        shown = results.best_across(self.arms, selected_by)
        results = results.of(shown)
        target = results.add_race()
        race = ""
        if target is not None:
            race = f"The race is to val/loss {target:.4f}; {self.n_seeds} fresh seeds each."
        best = min(shown, key=lambda arm: results.loss(arm, selected_by))
        tables = []
        sections = []
        for question, measures in self._questions.items():
            table = Table.of(shown, results, measures, best.name)
            tables.append(table)
            sections.append(Section(question, table.verdict(), table.cells()))
        by_arch: dict[str, str] = {}
        for arm in shown:
            by_arch.setdefault(self.archs[arm.level], arm.name)
        judged = results.judged(self.claims, by_arch)
        for section in sections:
            console.print(section.as_table())
            console.print(section.text, soft_wrap=True)
        for sentence in judged:
            console.print(sentence, soft_wrap=True, markup=False)
        panels = ("curve:val/loss", "clock:val/loss", "curve:val/accuracy")
        picture = draw("comparison", panels, shown, results)
        session.parent.file(f"figures/{picture.name}.png", picture.png)
        self._write_page(session, race, sections, judged, picture)
        paragraphs = [race]
        for section in sections:
            cells = markdown(section.table)
            paragraphs.append(f"## {section.title}\n\n{cells}\n\n**{section.text}**")
        text = "\n\n".join([*paragraphs, *judged])
        return session.answer(text, sections[0].text, tables, judged, console)

    def _write_page(
        self,
        session: Session,
        race: str,
        sections: Sequence[Section],
        judged: Sequence[str],
        picture: Figure,
    ) -> None:
        """Write the HTML page to the parent run."""
        shown = list(sections)
        if judged:
            text = "\n\n".join(judged)
            shown.append(Section("What textbooks say", text))
        shown.append(Section("Learning curves", race, figures=[picture]))
        key_values = [(study.name, f"run {study.parent_run_id}") for study in self.studies]
        page = html("Comparison of studies", key_values, shown)
        parent = session.parent
        parent.client.log_text(parent.run_id, page, "comparison.html")
