"""Write the sections of a report as one HTML page.

The page is a single file: it contains its pictures and its style, and it needs no other file.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape

from jinja2 import Environment

from hpsearch.html_report.section import Section


def html(
    title: str,
    key_values: Sequence[tuple[str, str]],
    sections: Sequence[Section],
) -> str:
    """Return an HTML page.

    Args:
        title: The heading of the page.
        key_values: Pairs of a name and a value, shown as a table below the heading.
        sections: The sections in the order in which they are read.
    """
    environment = Environment(finalize=escape, trim_blocks=True, keep_trailing_newline=True)
    environment.filters["anchor"] = _anchor
    environment.filters["base64"] = _base64
    page = environment.from_string(_template())
    return page.render(
        title=title,
        style=_style(),
        key_values=key_values,
        sections=sections,
    )


def _anchor(title: str) -> str:
    lowered = title.lower()
    words = re.sub(r"\W+", "-", lowered)
    return words.strip("-")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _template() -> str:
    """Return the page as a template of Jinja2; what stands in double braces is escaped."""
    return r"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title><style>
{{ style }}</style></head>
<body>
<h1>{{ title }}</h1>
<table class=key_values>
{% for name, value in key_values %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table>
<nav>
{%- for section in sections %}
<a href="#{{ section.title | anchor }}">{{ section.title }}</a>
{%- if not loop.last %} {% endif %}
{% endfor %}
</nav>
{% for section in sections %}
<h2 id="{{ section.title | anchor }}">{{ section.title }}</h2>
{% for paragraph in section.text.split("\n\n") if paragraph %}
<p>{{ paragraph }}</p>
{% endfor %}
{% if section.commands %}
<pre>{{ section.commands | join("\n") }}</pre>
{% endif %}
{% if section.table %}
<table>
<tr>{% for cell in section.table[0] %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in section.table[1:] %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for figure in section.figures %}
<figure><img alt="{{ figure.caption }}" src="data:image/png;base64,{{ figure.png | base64 }}">
{#- -#}
<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% endfor %}
</body></html>
"""


def _style() -> str:
    return """\
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
