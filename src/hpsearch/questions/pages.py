"""Tables of experiments, for terminals and in Markdown."""

from __future__ import annotations

import html
from collections.abc import Sequence

from rich.table import Table

from hpsearch.questions.answers import RACE_EPOCHS, RACE_SECONDS, Row
from hpsearch.questions.paired import Interval


def cells(table: Sequence[Row], measures: Sequence[str], baseline: str) -> list[list[str]]:
    """Return head and rows: arm, each measure with the half width of its interval, difference, p by Holm."""
    head = ["arm", *measures, f"{measures[0]} minus {baseline}'s", "p (Holm)", "diverged"]
    body = []
    for row in table:
        n = max((found.n for found in row.measures.values()), default=0) or 1
        shown = [_measure(row.measures[key], key, row.n_censored) for key in measures]
        against = str(row.against) if row.against.n else ""
        p = f"{row.p:.3f}" if row.p == row.p else ""
        body.append([row.arm.name, *shown, against, p, f"{row.n_diverged} of {n}" if row.n_diverged else ""])
    return [head, *body]


def _measure(found: Interval, key: str, n_censored: int) -> str:
    late = f" ({n_censored} never)" if key in {RACE_EPOCHS, RACE_SECONDS} and n_censored else ""
    if not found.n:
        return f"never{late}" if late else ""
    half = f" ± {found.half:.2g}" if found.n > 1 else ""
    return f"{found.mean:.4g}{half}{late}"


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; the first row is the head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])


def terminal(rows: Sequence[Sequence[str]], title: str) -> Table:
    """Return the same for a terminal."""
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def as_html(rows: Sequence[Sequence[str]]) -> str:
    """Return the same for a browser."""
    lines = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"
        for row, tag in zip(rows, ["th", *["td"] * (len(rows) - 1)], strict=True)
    ]
    return f"<table>{''.join(lines)}</table>"
