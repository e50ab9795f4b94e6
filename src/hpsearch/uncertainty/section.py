"""What a part of an evaluation found, in the form in which it is logged and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Figure:
    """A picture with the sentence that says what it shows.

    Attributes:
        name: Its file is `figures/<name>.png`.
        png: The file.
        caption: What one sees, and how to read it.
    """

    name: str
    png: bytes
    caption: str


@dataclass(frozen=True)
class Section:
    """A part of an evaluation.

    Attributes:
        title: Its heading.
        text: What it says, in whole sentences.
        table: Rows of cells, the first being the head; empty for none.
        metrics: Numbers by their MLflow keys.
        curves: Numbers at steps, (step, value), by their MLflow keys.
        figures: Pictures.
    """

    title: str
    text: str
    table: Sequence[tuple[str, ...]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    figures: Sequence[Figure] = ()

    def as_table(self) -> Table | None:
        """Return the table for a terminal; None where there is none."""
        if not self.table:
            return None
        shown = Table(*self.table[0], title=self.title, title_justify="left")
        for row in self.table[1:]:
            shown.add_row(*row)
        return shown
