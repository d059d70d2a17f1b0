"""What is looked at: a prompt as the model reads it, and an answer to it.

In: an opened model, what a person says, and an answer or the number of tokens to be written. Out: `Prompted`: ids,
where the answer begins, and each token as it is written in pictures.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Writing, make_engine, options_of
from kiara_cli.core.lab.inspect.trace import check_length
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.protocol import Tokenizer, decode, prompt_ids
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Prompted:
    """Ids of a prompt and, from `start` on, of its answer; `labels` are the tokens in writing, blanks as ␣."""

    ids: list[int]
    start: int
    labels: list[str]

    @property
    def answer(self) -> list[int]:
        return self.ids[self.start :]

    def position(self, text: str, tokenizer: Tokenizer) -> int:
        """Return where the first token of a word stands in the answer. Raises KiaraError if it is not there."""
        for ids in spellings(tokenizer, text):
            for place in range(self.start, len(self.ids) - len(ids) + 1):
                if self.ids[place : place + len(ids)] == ids:
                    return place
        raise KiaraError(
            f"the answer does not say {text!r}; it is {decode(tokenizer, self.answer)!r}",
            "name a word of it by --word, or another answer by --answer",
        )


def spellings(tokenizer: Tokenizer, text: str) -> list[list[int]]:
    """Return the ids of a word as it stands within a text, after a blank, and at the beginning."""
    bare = text.strip()
    found = [tokenizer.encode(text), tokenizer.encode(f" {bare}"), tokenizer.encode(bare)]
    return [ids for ids in found if ids]


def label(tokenizer: Tokenizer, token: int) -> str:
    """Write a token in one line: blanks as ␣, line ends as ↵, special tokens by name."""
    names = {number: name for name, number in tokenizer.specials.items()}
    data = tokenizer.token_bytes(token) if token < tokenizer.size else b""
    if not data:
        return names.get(token, f"<{token}>")
    text = data.decode("utf-8", errors="replace")
    return "".join({" ": "␣", "\n": "↵", "\t": "⇥"}.get(c, c if c.isprintable() else "�") for c in text)


def make_prompted(
    opened: Opened,
    said: Sequence[str],
    answer: str | None = None,
    tokens: int = 16,
    raw: bool = False,
    engine: Engine | None = None,
) -> Prompted:
    """Turn what a person says into a prompt, followed by an answer: the one given, or the greedy one.

    Each of `said` is a turn of a conversation, the replies between them are the model's own, greedy ones; with `raw`
    it is one text to be continued. Raises KiaraError for nothing said, or more than the model reads at once.
    """
    if not said or not all(text.strip() for text in said):
        raise KiaraError("--prompt is empty", "give a text to look at, such as --prompt 'Hello.'")
    if raw and len(said) > 1:
        raise KiaraError("--raw takes one --prompt: a text has no turns", "leave --raw out, or give one text")
    engine = engine or plain_engine(opened)
    ids = prompt_ids(opened.tokenizer, said[0]) if raw else _conversation(opened, engine, said)
    check_length(opened.model, ids)
    if answer is not None:
        following = opened.tokenizer.encode(answer)
        if not following:
            raise KiaraError("--answer is empty", "give a text, or leave it out for the model's own answer")
    else:
        room = min(tokens, opened.model.config.context_length - len(ids))
        following = greedy(opened, engine, ids, room, raw) if room else []
    return as_prompted(opened, ids, following)


def plain_engine(opened: Opened) -> Engine:
    """Make an engine for a few tokens: one that compiles nothing."""
    options = dataclasses.replace(options_of(opened.config), native=False)
    return make_engine(opened.model, opened.tokenizer, opened.runtime, options)


def as_prompted(opened: Opened, prompt: Sequence[int], answer: Sequence[int]) -> Prompted:
    """Put a prompt and an answer together. Raises KiaraError for more than the model reads at once."""
    ids = [*prompt, *answer]
    check_length(opened.model, ids)
    return Prompted(ids, len(prompt), [label(opened.tokenizer, token) for token in ids])


def greedy(opened: Opened, engine: Engine, ids: Sequence[int], tokens: int, raw: bool = False) -> list[int]:
    """Return the ids that the model finds likeliest after others, at most `tokens`, the end of a reply included."""
    template, config = opened.template, dataclasses.replace(GenerateConfig(), max_new_tokens=tokens, temperature=0.0)
    if not raw:
        config = dataclasses.replace(config, stop=template.stop)
    stop_ids = opened.ends | opened.tokenizer.ends | (frozenset() if raw else template.stop_ids)
    writing, out = Writing(engine, opened.tokenizer, ids, config, stop_ids), []
    for token in engine.generate(ids, config, stop_ids):
        out.append(token.id)
        writing.push(token)
        if writing.done is not None:
            break
    return out


def _conversation(opened: Opened, engine: Engine, said: Sequence[str]) -> list[int]:
    """Return the ids of a conversation as `kiara chat` writes it, the replies between its turns written greedily."""
    system = opened.config.chat.system
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    for number, text in enumerate(said):
        messages.append({"role": "user", "content": text})
        ids = opened.template.encode(messages)
        if number < len(said) - 1:
            check_length(opened.model, ids)
            room = opened.model.config.context_length - len(ids)
            reply = greedy(opened, engine, ids, min(opened.config.chat.max_new_tokens, room))
            messages.append({"role": "assistant", "content": _text(opened, ids, reply)})
    return ids


def _text(opened: Opened, ids: Sequence[int], reply: Sequence[int]) -> str:
    """Return a reply as text, without what ended it."""
    stops = opened.template.stop_ids
    text = decode(opened.tokenizer, [token for token in reply if token not in stops])
    for stop in opened.template.stop:
        text = text.partition(stop)[0]
    return text
