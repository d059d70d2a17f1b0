"""Documents are cut at headings and sentences, with overlap, and every chunk knows the lines it stands on."""

from __future__ import annotations

import random

import pytest

from kiara_cli.core.retrieve.chunk import Chunk, Cutting, cut
from kiara_cli.core.retrieve.outline import OUTLINES

SHORT = Cutting(chars=80, overlap=30)


def chunks(kind: str, text: str, cutting: Cutting = SHORT) -> list[Chunk]:
    return list(cut(OUTLINES[kind](text, cutting), cutting))


MARKDOWN = """Before any heading.

# Points #

A point is a place in the model. It has a name.
```python
# no heading
```

Names
-----

They have dots.

## Deeper
Below.
# Next
- one
---
"""
RST = "=====\nTitle\n=====\n\nIntro.\n\nPart\n----\nText here.\n\nOther\n-----\nMore.\n"
HTML = """<html><head><title>no</title><style>p {}</style></head><body>
<h1>Big <b>one</b></h1>
<p>First &amp; best
paragraph.</p><script>alert("no")</script>
<h2>Small</h2><ul><li>item</li>
<li>other</li></ul></body></html>"""
PYTHON = '''"""About."""
import os

# Says hello.
@deco
def hello():
    return "hi"


class Long:
    """A class."""

    kind = 1

    def one(self):
        return "a long enough body that the class is no single chunk"

    def two(self):
        return 2
'''
SECTIONED = {
    "markdown": (
        MARKDOWN,
        [
            ((), "Before any heading.", 1, 1),
            (("Points",), "A point is a place in the model. It has a name.\n```python\n# no heading\n```", 5, 8),
            (("Points", "Names"), "They have dots.", 13, 13),
            (("Points", "Deeper"), "Below.", 16, 16),
            (("Next",), "- one\n---", 18, 19),
        ],
    ),
    "restructured": (
        RST,
        [
            (("Title",), "Intro.", 5, 5),
            (("Title", "Part"), "Text here.", 9, 9),
            (("Title", "Other"), "More.", 13, 13),
        ],
    ),
    "html": (
        HTML,
        [
            (("Big one",), "First & best\nparagraph.", 3, 4),
            (("Big one", "Small"), "item\n\n\nother", 5, 6),
        ],
    ),
    "python": (
        PYTHON,
        [
            ((), '"""About."""\nimport os', 1, 2),
            (("hello",), '# Says hello.\n@deco\ndef hello():\n    return "hi"', 4, 7),
            (("Long",), 'class Long:\n    """A class."""\n\n    kind = 1', 10, 13),
            (
                ("Long", "one"),
                '    def one(self):\n        return "a long enough body that the class is no single chunk"',
                15,
                16,
            ),
            (("Long", "two"), "    def two(self):\n        return 2", 18, 19),
        ],
    ),
    "code": ("int a;\n\nint b;\n", [((), "int a;\n\nint b;", 1, 3)]),
    "text": ("One.\n\nTwo.", [((), "One.\n\nTwo.", 1, 3)]),
}


@pytest.mark.parametrize("kind", SECTIONED)
def test_a_document_is_cut_at_its_headings_and_every_chunk_knows_its_lines(kind: str) -> None:
    text, expected = SECTIONED[kind]
    found = chunks(kind, text, Cutting(chars=100, overlap=0))
    assert [(chunk.heading, chunk.text, chunk.first_line, chunk.last_line) for chunk in found] == expected


def test_python_that_does_not_parse_is_cut_at_blank_lines() -> None:
    assert [chunk.text for chunk in chunks("python", "print 'old'\n\n" + "x" * 70)] == ["print 'old'", "x" * 70]


def test_chunks_end_at_sentences_and_the_next_one_repeats_the_last_of_them() -> None:
    text = 'The fox had a lantern. It was green. "Look!" The crow said nothing. Then it rained on them all day long.'
    assert [chunk.text for chunk in chunks("text", text)] == [
        'The fox had a lantern. It was green. "Look!" The crow said nothing.',
        '"Look!" The crow said nothing. Then it rained on them all day long.',
    ]


@pytest.mark.parametrize("kind", OUTLINES)
def test_chunks_of_any_text_are_short_enough_and_hold_all_of_its_words_on_their_lines(kind: str) -> None:
    draw = random.Random(kind)
    pieces = [
        "word",
        "Ende.",
        "\n",
        "\n\n",
        " ",
        "# Title\n",
        "x" * 200,
        "- item",
        "```\n",
        "長い文。",
        "<p>",
        "def f():\n",
    ]
    for _ in range(60):
        text = "".join(draw.choice(pieces) + draw.choice(("", " ", "\n")) for _ in range(60))
        lines, covered = text.split("\n"), set()
        for chunk in chunks(kind, text):
            assert 0 < len(chunk.text) <= SHORT.chars
            assert chunk.text.strip()
            assert 1 <= chunk.first_line <= chunk.last_line <= len(lines)
            if kind != "html":
                assert chunk.text in "\n".join(lines[chunk.first_line - 1 : chunk.last_line])
            covered.update(range(chunk.first_line, chunk.last_line + 1))
        if kind in ("text", "code", "python"):
            assert covered >= {number for number, line in enumerate(lines, 1) if line.strip()}
