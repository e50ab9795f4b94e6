"""What an experiment measured, as the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence

from hpsearch.questions.answers import Row
from hpsearch.questions.curves import RACE_EPOCHS, RACE_SECONDS
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
