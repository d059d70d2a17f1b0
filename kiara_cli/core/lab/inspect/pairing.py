"""Which token of an answer is explained, and what it is compared with.

In: what a person says, and by choice another prompt, another answer and a word. Out: `Pair`: the prompt with its
answer, the other one with the same tokens before the word, where the word stands, and the token that it is held
against.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.lab.inspect.patching import first_difference
from kiara_cli.core.lab.inspect.prompted import Prompted, as_prompted, make_prompted, plain_engine
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Wanted:
    """What a person asks for. Each of `said` is a turn of a conversation, or with `raw` there is one text."""

    said: Sequence[str]
    answer: str | None = None
    tokens: int = 16  # of an answer that is not given
    raw: bool = False
    word: str | None = None
    against: str | None = None
    corrupt: Sequence[str] = ()


@dataclass(frozen=True)
class Pair:
    """The token at `position` is explained; `corrupt` has as many before it, `against` is another one there."""

    prompted: Prompted
    position: int
    against: int | None = None
    corrupt: Prompted | None = None


def pair(opened: Opened, wanted: Wanted) -> Pair:
    """Settle what is looked at. Raises KiaraError for prompts that cannot be compared, and for a word never said."""
    engine = plain_engine(opened)
    prompted = make_prompted(opened, wanted.said, wanted.answer, wanted.tokens, wanted.raw, engine)
    if not prompted.answer:
        raise KiaraError("the prompt fills the context: there is no room for an answer", "shorten --prompt")
    other: list[int] | None = None
    if wanted.against is not None:
        other = opened.tokenizer.encode(wanted.against)
    corrupt = None
    if wanted.corrupt:
        corrupt = make_prompted(opened, wanted.corrupt, None, wanted.tokens, wanted.raw, engine)
        check_lengths(prompted, corrupt)
        if other is None and wanted.answer is None:
            other = corrupt.answer
    position, against = _position(opened, prompted, wanted.word, other)
    if corrupt is not None:
        same = prompted.answer[: position - prompted.start]
        corrupt = as_prompted(opened, corrupt.ids[: corrupt.start], same)
    return Pair(prompted, position, against, corrupt)


def _position(
    opened: Opened, prompted: Prompted, word: str | None, other: Sequence[int] | None
) -> tuple[int, int | None]:
    """Return where the explained token stands, and what another answer says there if all before it is the same."""
    shared = None if other is None else first_difference(prompted.answer, other)
    if word is not None:
        position = prompted.position(word, opened.tokenizer)
        differs = other is not None and shared == position - prompted.start and shared < len(other)
        return position, other[shared] if differs and other is not None and shared is not None else None
    if shared is None or other is None:
        return prompted.start, None
    if shared >= min(len(prompted.answer), len(other)):
        raise KiaraError(
            f"both answers begin with the same {shared} tokens, and nothing after them",
            "look at more of them by --tokens, or give --answer and --against, or a word by --word",
        )
    return prompted.start + shared, other[shared]


def check_lengths(prompted: Prompted, corrupt: Prompted) -> None:
    """Raise KiaraError for prompts of different lengths, with the tokens in which they differ."""
    one, other = prompted.labels[: prompted.start], corrupt.labels[: corrupt.start]
    if len(one) == len(other):
        return
    first = first_difference(prompted.ids[: prompted.start], corrupt.ids[: corrupt.start])
    last = first_difference(prompted.ids[: prompted.start][::-1], corrupt.ids[: corrupt.start][::-1])
    last = min(last, min(len(one), len(other)) - first)
    mine, theirs = one[first : len(one) - last], other[first : len(other) - last]
    count = f"{len(mine)} token{'s'[: len(mine) != 1]}"
    raise KiaraError(
        f"--prompt is {len(one)} tokens long and --corrupt {len(other)}: from token {first} on they differ, "
        f"{'|'.join(mine) or 'nothing'} against {'|'.join(theirs) or 'nothing'}",
        f"write something of {count} there; kiara tokenize --encode TEXT shows them",
    )
