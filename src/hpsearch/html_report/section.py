"""One section of a report: its text, table, numbers, figures and commands.

Code that examines a study or a model returns sections. `page` writes them as an HTML page. The
table of a section can also be written as Markdown or for a terminal.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

plt.switch_backend("Agg")  # this backend draws without a display


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: The heading.
        text: Paragraphs, separated by empty lines.
        table: Rows of cells. The first row is the head. An empty table is left out.
        metrics: Numbers by their MLflow keys.
        curves: Pairs (step, value) by their MLflow keys.
        figures: Pictures, in the order in which they are shown.
        commands: Shell commands that the reader may want to run next.
    """

    title: str
    text: str
    table: Sequence[Sequence[str]] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    curves: Mapping[str, Sequence[tuple[int, float]]] = field(default_factory=dict)
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = ()

    def as_table(self) -> TerminalTable | None:
        """Return the table for a terminal, or None if the section has no table."""
        if not self.table:
            return None
        return TerminalTable(self.table, self.title)


@dataclass(frozen=True)
class Figure:
    """A picture with its caption.

    Attributes:
        name: The picture is stored as `figures/<name>.png`.
        png: The content of the PNG file.
        caption: What the picture shows and how to read it.
    """

    name: str
    png: bytes
    caption: str


def drawn(name: str, plot: Plot, caption: str) -> Figure:
    """Return a Matplotlib figure as a picture, and close the Matplotlib figure."""
    buffer = io.BytesIO()
    plot.savefig(buffer, dpi=90, bbox_inches="tight", metadata={"Software": None})
    plt.close(plot)
    return Figure(name, buffer.getvalue(), caption)


def panels(n: int, *, width: float, height: float) -> tuple[Plot, list[Axes]]:
    """Return a figure of n axes with one vertical scale, at most four in a row.

    Args:
        n: Number of axes.
        width: Width of each, in inches.
        height: Height of each, in inches.
    """
    n_columns = min(n, 4)
    n_rows = -(-n // n_columns)
    plot, grid = plt.subplots(
        n_rows,
        n_columns,
        figsize=(width * n_columns, height * n_rows),
        sharey=True,
        squeeze=False,
        layout="constrained" if n_rows > 1 else None,
    )
    axes = list(grid.ravel())
    for unused in axes[n:]:
        unused.set_axis_off()
    return plot, axes[:n]


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. The first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    rule = "|" + "---|" * len(rows[0])
    lines.insert(1, rule)
    return "\n".join(lines)


@dataclass(frozen=True)
class TerminalTable:
    """A table for a terminal.

    On a terminal that is too narrow for the longest words of the columns, each row is a line of
    text, so that no digit is cut off.

    Attributes:
        rows: The rows, of which the first is the head.
        title: The title of the table.
    """

    rows: Sequence[Sequence[str]]
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield what rich prints."""
        head, *others = self.rows
        table = Table(title=Text(self.title), title_justify="left")
        needed = 1
        for column in zip(*self.rows, strict=True):
            longest = max(len(word) for cell in column for word in [*cell.split(), ""])
            table.add_column(Text(column[0]), min_width=longest)
            needed += longest + 3  # two spaces and a line
        for row in others:
            table.add_row(*map(Text, row))
        if needed <= options.max_width:
            yield table
            return
        yield Text(self.title, style="table.title")
        for name, *cells in others:
            pairs = zip(head[1:], cells, strict=True)
            shown = ", ".join(f"{column} {cell}" for column, cell in pairs if cell)
            yield Text(f"{name}: {shown}")
