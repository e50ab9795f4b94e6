"""One page that a person can read and send: all sections, tables and pictures in a single HTML
file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from hpsearch.html_report.section import Figure, Section

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #ddd; }
nav { font-size: .9rem; } nav a { margin-right: 1rem; white-space: nowrap; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
table.facts td { text-align: left; } table.facts td:first-child { color: #555; }
pre { background: #f3f3f3; padding: .6rem .8rem; white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; }
figure { margin: 1.5rem 0; } img { max-width: 100%; } figcaption { color: #555; font-size: .9rem; }
"""


def html(title: str, facts: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return the page.

    Args:
        title: Its heading.
        facts: What it is about, as pairs of a name and a value.
        sections: In the order in which they are read.
    """
    links = (f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections)
    facts_of_it = _table(facts, head=False)
    body = [
        f"<h1>{escape(title)}</h1>",
        facts_of_it,
        f"<nav>{' '.join(links)}</nav>",
        *map(_section, sections),
    ]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{chr(10).join(body)}\n</body></html>\n'


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _section(section: Section) -> str:
    parts = [f'<h2 id="{_anchor(section.title)}">{escape(section.title)}</h2>']
    parts += [
        f"<p>{escape(paragraph)}</p>" for paragraph in section.text.split("\n\n") if paragraph
    ]
    if section.commands:
        parts.append(f"<pre>{escape(chr(10).join(section.commands))}</pre>")
    if section.table:
        parts.append(_table(section.table))
    return "\n".join([*parts, *(_figure(figure) for figure in section.figures)])


def _table(rows: Sequence[Sequence[str]], head: bool = True) -> str:
    lines = [_row(row, "th" if head and place == 0 else "td") for place, row in enumerate(rows)]
    return f"<table{'' if head else ' class=facts'}>\n{chr(10).join(lines)}\n</table>"


def _row(cells: Sequence[str], kind: str) -> str:
    return "<tr>" + "".join(f"<{kind}>{escape(cell)}</{kind}>" for cell in cells) + "</tr>"


def _figure(figure: Figure) -> str:
    source = f"data:image/png;base64,{base64.b64encode(figure.png).decode()}"
    caption = escape(figure.caption)
    return (
        f'<figure><img alt="{caption}" src="{source}"><figcaption>{caption}</figcaption></figure>'
    )
