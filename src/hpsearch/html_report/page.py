"""Write the sections of a report as one HTML page.

The page is a single file: it contains its pictures and its style, and it needs no other file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from hpsearch.html_report.section import Figure, Section


def html(title: str, key_values: Sequence[tuple[str, str]], sections: Sequence[Section]) -> str:
    """Return an HTML page.

    Args:
        title: The heading of the page.
        key_values: Pairs of a name and a value, shown as a table below the heading.
        sections: The sections in the order in which they are read.
    """
    heading = escape(title)
    head = f'<meta charset="utf-8"><title>{heading}</title><style>{_style()}</style>'
    links = [f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections]
    table = _table("table class=key_values", [_row(pair, "td") for pair in key_values])
    parts = [f"<h1>{heading}</h1>", table, f"<nav>{' '.join(links)}</nav>"]
    body = "\n".join([*parts, *map(_section, sections)])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _anchor(title: str) -> str:
    return re.sub(r"\W+", "-", title.lower()).strip("-")


def _section(section: Section) -> str:
    parts = [f'<h2 id="{_anchor(section.title)}">{escape(section.title)}</h2>']
    for paragraph in section.text.split("\n\n"):
        if paragraph:
            parts.append(f"<p>{escape(paragraph)}</p>")
    if section.commands:
        commands = "\n".join(section.commands)
        parts.append(f"<pre>{escape(commands)}</pre>")
    if section.table:
        head, *body = section.table
        rows = [_row(row, "td") for row in body]
        parts.append(_table("table", [_row(head, "th"), *rows]))
    return "\n".join([*parts, *map(_figure, section.figures)])


def _table(tag: str, rows: Sequence[str]) -> str:
    lines = "\n".join(rows)
    return f"<{tag}>\n{lines}\n</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    written = [f"<{tag}>{escape(cell)}</{tag}>" for cell in cells]
    return f"<tr>{''.join(written)}</tr>"


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode()
    caption = escape(figure.caption)
    image = f'<img alt="{caption}" src="data:image/png;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _style() -> str:
    return """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-bottom: 2px solid #ddd; }
nav { font-size: .9rem; } nav a { margin-right: 1rem; white-space: nowrap; }
table { border-collapse: collapse; margin: 1rem 0; }
table { font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
table.key_values td { text-align: left; } table.key_values td:first-child { color: #555; }
pre { background: #f3f3f3; padding: .6rem .8rem; font-size: .85rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } img { max-width: 100%; }
figcaption { color: #555; font-size: .9rem; }
"""
