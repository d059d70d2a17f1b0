"""Continuations of prompts as they are printed: streamed one after the other, or as JSON lines in order.

In: an opened model, prompts with their settings, a JSON schema perhaps. Out: stdout; sources, warnings and speeds on
stderr.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.console import output, sources
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Completion, complete_all, stream_text
from kiara_cli.core.retrieve.prompt import Grounded


@dataclass(frozen=True)
class Prompt:
    """What is to be continued, and how. `grounded`: the question and its passages; None where no index was asked."""

    ids: Sequence[int]
    config: GenerateConfig
    ends: frozenset[int]
    grounded: Grounded | None = None


def stream_each(opened: Opened, prompts: Sequence[Prompt], json_: bool, stats: bool, schema: Any = None) -> None:
    """Stream one continuation after the other."""
    engine = opened.engine()
    grammar = None if schema is None else opened.grammar(engine, schema)
    for index, prompt in enumerate(prompts):
        if index and not json_:
            output.result("\n---")
        for event in stream_text(engine, opened.tokenizer, prompt.ids, prompt.config, prompt.ends, grammar):
            if isinstance(event, Completion):
                finish(event, prompt, json_, stats, how=engine.backend.name, whole=grammar is None)
            elif not json_:
                output.stream(event.text)


def show_in_order(opened: Opened, prompts: Sequence[Prompt], n: int, stats: bool, schema: Any = None) -> None:
    """Generate all continuations together; print one JSON object each, in the order of the prompts."""
    early: dict[int, Completion] = {}
    printed = 0
    engine = opened.engine()
    grammar = None if schema is None else opened.grammar(engine, schema)
    several = [(prompt.ids, prompt.config) for prompt in prompts]
    for number, done in complete_all(engine, opened.tokenizer, several, prompts[0].ends, grammar):
        early[number] = done
        while printed in early:
            about, how = {"index": printed // n}, engine.backend.name
            finish(early.pop(printed), prompts[printed], True, stats, about, how, grammar is None)
            printed += 1


def finish(
    done: Completion,
    prompt: Prompt,
    json_: bool,
    stats: bool,
    about: dict[str, int] | None = None,
    how: str = "",
    whole: bool = True,
) -> None:
    """End a continuation: with its JSON object, or a newline where a person reads it.

    `whole`: a text that ends for its length is as good as any other, which is not so for JSON.
    """
    if json_:
        output.record(
            (about or {})
            | {
                "text": done.text,
                "finish_reason": done.finish_reason,
                "prompt_tokens": done.prompt_tokens,
                "completion_tokens": done.completion_tokens,
                "tokens_per_second": done.tokens_per_second,
                "first_token_seconds": done.first_token_seconds,
                "writing_tokens_per_second": done.writing_tokens_per_second,
                "forgotten_tokens": done.forgotten_tokens,
            }
            | ({} if prompt.grounded is None else {"sources": [one.record() for one in prompt.grounded.sources]})
        )
    elif sys.stdout.isatty():
        output.stream("\n")
    if not json_:
        for line in sources.cited(prompt.grounded):
            output.hint(line)
    if not whole and done.finish_reason == "length":
        output.warn(
            f"the JSON is cut off after {done.completion_tokens} tokens, and not valid: raise --max-new-tokens, or "
            "bound the schema (maxLength, maxItems, additionalProperties: false)"
        )
    if done.forgotten_tokens:
        output.warn(
            f"the prompt is longer than the context: of its {done.prompt_tokens} tokens the model "
            f"read the last {done.prompt_tokens - done.forgotten_tokens}"
        )
    if stats:
        output.note(
            f"{done.completion_tokens} tokens at {done.tokens_per_second:.0f} tokens/s, "
            f"the first after {done.first_token_seconds * 1000:.0f} ms ({done.finish_reason}); decoding: {how}"
        )
