"""A part of a page: what was found, in the form in which it is logged and read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from hpsearch.pages.tables import terminal

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
    """A part of a page.

    Attributes:
        title: Its heading.
        text: What it says, in whole sentences.
        table: Rows of cells, the first being the head; empty for none.
        metrics: Numbers by their MLflow keys.
        curves: Numbers at steps, (step, value), by their MLflow keys.
        figures: Pictures.
        commands: What to type next, each a line of a shell.
    """

    title: str
    text: str
    table: Sequence[Sequence[str]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Curve] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = ()

    def as_table(self) -> Table | None:
        """Return the table for a terminal; None where there is none."""
        return terminal(self.table, self.title) if self.table else None
