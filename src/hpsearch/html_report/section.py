"""Tables whose first row is the head, in Markdown and for a terminal; `page` writes them for a
browser.

A part of a page: what was found, in the form in which it is logged and read.

From a Matplotlib figure to a picture that a page holds and a run keeps.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
from matplotlib.figure import Figure as Plot
from rich.table import Table


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def terminal(rows: Sequence[Sequence[str]], title: str) -> Table:
    """Return the same for a terminal."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


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


plt.switch_backend("Agg")
DPI = 90


def drawn(name: str, plot: Plot, caption: str) -> Figure:
    """Return a figure as a picture, and close it."""
    buffer = io.BytesIO()
    plot.savefig(buffer, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    plt.close(plot)
    return Figure(name, buffer.getvalue(), caption)
