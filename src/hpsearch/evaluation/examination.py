"""Ask one question of a model after the other, and write the answers as a page.

Each part of an evaluation, such as `calibration` or `shift`, answers one question with a section.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpsearch.evaluation.evaluated_model import EvaluatedModel, Evaluation
from hpsearch.evaluation.verdict import Verdict
from hpsearch.html_report.page import html
from hpsearch.html_report.section import Section


class Part(Protocol):
    """A part of an evaluation, which asks one question of the model."""

    def examine(self, evaluated: EvaluatedModel) -> Section | None:
        """Return the answer; None where the question does not apply."""


@dataclass(frozen=True)
class Examination:
    """The answers that an evaluation has found.

    Attributes:
        evaluation: The predictions without MC Dropout against those with it.
        sections: Their comparison, and the answer of each part that applies.
    """

    evaluation: Evaluation
    sections: Sequence[Section]

    @classmethod
    def of(
        cls,
        evaluated: EvaluatedModel,
        evaluation: Evaluation,
        parts: Iterable[Part | None],
    ) -> Examination:
        """Ask all parts; None stands for one that is left out.

        The verdict comes first, since its first sentence says what was found and what follows.
        """
        answers = []
        for part in parts:
            if part is not None:
                section = part.examine(evaluated)
                if section is not None:
                    answers.append(section)
        verdicts = [section for section in answers if section.title.startswith(Verdict.TITLE)]
        others = [section for section in answers if section not in verdicts]
        return cls(evaluation, [*verdicts, evaluation.section(), *others])

    def page(self, title: str, key_values: Sequence[tuple[str, str]]) -> str:
        """Return the page; `key_values` are the pairs at its head, each with its name."""
        return html(f"Evaluation of {title}", key_values, self.sections)

    def metrics(self) -> dict[str, float]:
        """Return the numbers of all sections by their MLflow keys."""
        found: dict[str, float] = {}
        for section in self.sections:
            found.update(section.metrics)
        return found
