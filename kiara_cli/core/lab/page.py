"""One HTML file that needs nothing else: no outside address, light and dark by the reader's setting, and no script
but one that is given.

In: a title and parts. Out: the page's text. All words are escaped; only `Svg` is taken as it is, from figures.to_svg.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.errors import KiaraError

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUMBER = re.compile(r"[-+−±<>≈]?\s*\d[\d,. ]*([eE][-+]?\d+)?\s*(%|[a-zA-Z/]{1,12})?")  # is set to the right
STYLE = """
:root { color-scheme: light dark; --ink: #24292f; --ground: #ffffff; --faint: #d0d7de; --soft: #57606a; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #d7dde3; --ground: #0f1419; --faint: #30363d; --soft: #9aa4ae; }
}
body { color: var(--ink); background: var(--ground); font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2rem; } h3 { font-size: 1.05rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption, figcaption { color: var(--soft); font-size: .85rem; text-align: left; }
th, td { padding: .25rem .8rem .25rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid var(--faint); }
th { color: var(--soft); font-weight: 600; } td.n { text-align: right; }
figure { margin: 1.5rem 0; } svg { max-width: 100%; height: auto; }
summary { cursor: pointer; } pre { overflow-x: auto; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading inside the page, of level 2 or below."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Preformatted:
    """Text as it stands: a config, commands."""

    text: str


@dataclass(frozen=True)
class Table:
    """Rows of words under a header; what reads as a number is set to the right."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True)
class Svg:
    """A picture as figures.to_svg returns it. The caption says in words what is to be seen."""

    markup: str
    caption: str = ""


@dataclass(frozen=True)
class Place:
    """An empty element that the page's script fills; without scripts the text is seen."""

    id: str
    text: str


@dataclass(frozen=True)
class Details:
    """Parts that are folded away under a line."""

    summary: str
    parts: Sequence[Part]


Part: TypeAlias = Heading | Paragraph | Preformatted | Table | Svg | Place | Details


def page(title: str, parts: Iterable[Part], script: str = "", style: str = "") -> str:
    """Return a whole HTML document. The policy allows this script alone, by its hash."""
    body = "\n".join(_html(part) for part in parts)
    allowed = POLICY
    if script:
        assert "</script" not in script, "it would end there"
        allowed += f"; script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        body += f"\n<script>{script}</script>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{allowed}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def save_text(text: str, path: Path) -> None:
    """Write a text file, whole or not at all. Raises KiaraError if it cannot be written."""
    try:
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise KiaraError(f"cannot write {path}: {error.strerror or error}", "give another file") from None


def _table(part: Table) -> str:
    caption = f"<caption>{escape(part.caption)}</caption>" if part.caption else ""
    head = "".join(f"<th>{escape(name)}</th>" for name in part.header)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in part.rows)
    inside = f"{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody>"
    return f'<div class="scroll"><table>{inside}</table></div>'


def _cell(text: str) -> str:
    number = ' class="n"' if NUMBER.fullmatch(text.strip()) else ""
    return f"<td{number}>{escape(text)}</td>"


def _svg(part: Svg) -> str:
    caption = f"<figcaption>{escape(part.caption)}</figcaption>" if part.caption else ""
    return f"<figure>{part.markup}{caption}</figure>"


def _details(part: Details) -> str:
    inside = "\n".join(map(_html, part.parts))
    return f"<details><summary>{escape(part.summary)}</summary>\n{inside}\n</details>"


WRITERS: dict[type, Callable[[Any], str]] = {
    Heading: lambda part: f"<h{part.level}>{escape(part.text)}</h{part.level}>",
    Paragraph: lambda part: f"<p>{escape(part.text)}</p>",
    Preformatted: lambda part: f"<pre>{escape(part.text)}</pre>",
    Table: _table,
    Svg: _svg,
    Place: lambda part: f'<div id="{escape(part.id)}">{escape(part.text)}</div>',
    Details: _details,
}


def _html(part: Part) -> str:
    return WRITERS[type(part)](part)
