"""One page that a person can read and send: all sections, tables and pictures in a single HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from hpsearch.uncertainty.section import Figure, Section

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
"""


def html(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return the page.

    Args:
        title: Its heading.
        facts: What was evaluated on what, as pairs of a name and a value.
        sections: In the order in which they are read.
    """
    body = [f"<h1>{escape(title)}</h1>", _table([("", ""), *facts]), *(_section(section) for section in sections)]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(body)}\n</body></html>\n'


def _section(section: Section) -> str:
    parts = [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>"]
    if section.table:
        parts.append(_table(section.table))
    return "\n".join([*parts, *(_figure(figure) for figure in section.figures)])


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    lines = [_row(rows[0], "th"), *(_row(row, "td") for row in rows[1:])]
    return f"<table>\n{chr(10).join(lines)}\n</table>"


def _row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"


def _figure(figure: Figure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    caption = escape(figure.caption)
    return f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'
