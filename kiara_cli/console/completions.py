"""Continuations of prompts as they are printed: streamed one after the other, or as JSON lines in order.

In: an opened model, prompts with their settings, a JSON schema perhaps. Out: stdout; warnings and speeds on stderr.
"""

from __future__ import annotations

import sys
from typing import Any

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.console import output
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.generate.text import Completion, complete_all, generate_text


def stream_each(
    opened: Opened, several: list[tuple[str, GenerateConfig]], json_: bool, stats: bool, schema: Any = None
) -> None:
    """Stream one continuation after the other."""
    engine = opened.engine()
    grammar = None if schema is None else opened.grammar(engine, schema)
    for index, (text, settings) in enumerate(several):
        if index and not json_:
            output.result("\n---")
        for event in generate_text(engine, opened.tokenizer, text, settings, opened.ends, grammar):
            if isinstance(event, Completion):
                finish(event, json_, stats, how=engine.backend.name, whole=grammar is None)
            elif not json_:
                output.stream(event.text)


def show_in_order(
    opened: Opened, several: list[tuple[str, GenerateConfig]], n: int, stats: bool, schema: Any = None
) -> None:
    """Generate all continuations together; print one JSON object each, in the order of the prompts."""
    early: dict[int, Completion] = {}
    printed = 0
    engine = opened.engine()
    grammar = None if schema is None else opened.grammar(engine, schema)
    for number, done in complete_all(engine, opened.tokenizer, several, opened.ends, grammar):
        early[number] = done
        while printed in early:
            finish(early.pop(printed), True, stats, {"index": printed // n}, engine.backend.name, grammar is None)
            printed += 1


def finish(
    done: Completion,
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
        )
    elif sys.stdout.isatty():
        output.stream("\n")
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
