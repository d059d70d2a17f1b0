"""How people type: a message as it was written, or in haste.

In: a wording, what its slots stand for, and a number that decides. Out: the message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kiara_cli.core.data.worlds.template import Rows, Template

TYPED = 0.25  # share of messages that are not typed as written
HASTE = 0.5  # the same share of the scorer's messages
MANNERS = (  # an equal share of TYPED each; the last: all others
    "a typing error", "short forms in lower case", "lower case, no mark", "lower case", "short forms", "no mark",
    "a word before", "as written",
)  # fmt: skip
BEFORE = ("So, ", "And ", "Ok, ", "Kiara, ", "Now, ", "Well, ", "Please, ", "Hey, ")
SMALL = ("a typing error", "short forms in lower case", "lower case, no mark", "lower case")
SHORTER = (("What is", "What's"), ("Who is", "Who's"), ("Where is", "Where's"), ("How is", "How's"), ("I am", "I'm"),
           ("My name is", "My name's"), ("It is", "It's"), ("Can you", "Could you"), ("Please", "Pls"))  # fmt: skip


def manner(style: float) -> str:
    """Say how a message of this style, in 0 … 1, is typed."""
    last = len(MANNERS) - 1
    return MANNERS[min(int(style / TYPED * last), last)]


def in_small_letters(style: float) -> bool:
    """Say whether a message of this style has no capitals."""
    return manner(style) in SMALL


def typed(style: float, wording: Template, rows: Rows) -> str:
    """Write a message as people type it: now and then without capital or mark, or with two letters exchanged.

    `style` decides how, so that the same message about something else is typed alike. What the slots hold is typed
    without an error, as is what could be read as another word.
    """
    text, how = capital(wording.fill(rows)), manner(style)
    if how == "a typing error":
        text = _mistyped(text, [slot.value(rows) for slot in wording.slots()], int(style * 1e6))
    if how == "a word before":
        text = BEFORE[int(style * 1e6) % len(BEFORE)] + text[0].lower() + text[1:]
    if how.startswith("short forms"):
        for long, short in SHORTER:
            text = text.replace(long, short).replace(long.lower(), short.lower())
    if how in ("a typing error", "lower case, no mark", "no mark", "short forms in lower case"):
        text = text.rstrip(".?!")
    if how == "short forms in lower case":
        text = text.replace("'", "")
    return text.lower() if how in SMALL else text


def _mistyped(text: str, kept: Sequence[str], draw: int) -> str:
    """Exchange two neighbouring letters inside a word of four letters or more, but not in what is `kept`."""
    fixed = text.lower()
    for value in kept:
        fixed = fixed.replace(value.lower(), "_" * len(value))
    places = [
        found.start() + i
        for found in re.finditer(r"[a-z]{4,}", fixed) for i in range(1, len(found[0]) - 2)
        if found[0][i] != found[0][i + 1]
    ]  # fmt: skip
    if not places:
        return text
    at = places[draw % len(places)]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
