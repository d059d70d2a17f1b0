"""Why the last reply says what it says, in the terminal: `/why` of a conversation.

In: a session, and what was typed behind the command. Out: a row for each token that is asked for, on stderr.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from kiara_cli.console import output
from kiara_cli.console.inspect import percent
from kiara_cli.core.chat.answered import answered
from kiara_cli.core.chat.session import Session
from kiara_cli.core.lab.inspect.prompted import label
from kiara_cli.core.lab.inspect.why import Why, why
from kiara_cli.errors import KiaraError

ROWS = 12
LEANED = (
    "leaned on: earlier tokens, those alike together, and what heads that look there add to the logit by themselves"
)
SOURCES = 8  # positions that are asked for; tokens alike are added up


def show_why(session: Session, which: str = "") -> None:
    """Explain the last reply. Raises KiaraError if there is none, or no such word in it."""
    ids, start = answered(session.template, session.system, session.read(), session.engine.context)
    tokenizer = session.tokenizer
    labels = [label(tokenizer, token) for token in ids]
    chosen = pick(why(session.engine.original, ids, start, sources=SOURCES), labels, which.strip())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in ("token", "p", "instead of it", "leaned on"):
        table.add_column(name, justify="right" if name == "p" else "left", no_wrap=name != "leaned on")
    for one in chosen:
        others = [f"{label(tokenizer, token)} {percent(share)}" for token, share in one.top if token != one.token]
        sources = [f"{text} {value:+.1f}" for text, value in leaning(one, labels) if value >= 0.05]
        table.add_row(labels[one.position], percent(one.probability), "  ".join(others[:2]), "  ".join(sources))
    output.console().print(table)
    output.hint(LEANED)


def leaning(one: Why, labels: Sequence[str]) -> list[tuple[str, float]]:
    """Return the tokens that one leaned on most, those alike added up."""
    sums: dict[str, float] = {}
    for place, value in one.sources:
        sums[labels[place]] = sums.get(labels[place], 0.0) + value
    return sorted(sums.items(), key=lambda pair: -pair[1])[:4]


def pick(whys: Sequence[Why], labels: Sequence[str], which: str) -> list[Why]:
    """Return the tokens that are asked for: all, those of a word, or else the least certain ones, as they stand."""
    if which == "all":
        return list(whys)
    if which:
        found = [one for one in whys if which.lower() in labels[one.position].lower()] or spelled(whys, labels, which)
        if not found:
            raise KiaraError(f"the last reply does not say {which!r}", "/why all shows all of it")
        return found
    return sorted(sorted(whys, key=lambda one: one.probability)[:ROWS], key=lambda one: one.position)


def spelled(whys: Sequence[Why], labels: Sequence[str], word: str) -> list[Why]:
    """Return the tokens that a word is spelled with, the first time it is said."""
    text, starts = "", []
    for one in whys:
        starts.append(len(text))
        text += labels[one.position].replace("␣", " ").lower()
    place = text.find(word.lower())
    if place < 0:
        return []
    ends = [*starts[1:], len(text)]
    return [
        one for one, begin, end in zip(whys, starts, ends, strict=True) if begin < place + len(word) and end > place
    ]
