"""Tables whose first row is the head, in Markdown and for a terminal; `page` writes them for a browser."""

from __future__ import annotations

from collections.abc import Sequence

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
