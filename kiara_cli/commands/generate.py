"""kiara generate: a prompt to its continuation, streamed."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.commands.model import Opened
    from kiara_cli.config.schema import GenerateConfig
    from kiara_cli.core.generate.text import Completion


def generate(
    words: Words = None,
    prompt: Annotated[
        str,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT|-|@FILE",
            help="What to continue; - reads stdin; empty starts a document.",
        ),
    ] = "",
    config: ConfigFiles = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; higher is bolder.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Choose among the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Choose among the likeliest that add up to p.")] = None,
    min_p: Annotated[float | None, typer.Option(help="Drop tokens less likely than this share of the best.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: avoid tokens already used.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be repeated.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same text.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many continuations.")] = 1,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE.jsonl", help='Continue every line\'s {"prompt": …}, all together, as JSON lines.'),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr how fast it was.")] = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a text: kiara generate --prompt 'Once upon a time'."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.config.schema import GenerateConfig

    given = read(words, config)
    texts = read_prompts(prompts) if prompts is not None else [read_prompt(prompt)]
    chosen = {
        "max_new_tokens": max_new_tokens, "temperature": 0.0 if greedy else temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "stop": tuple(stop) if stop else None, "seed": seed,
    }  # fmt: skip
    settled(GenerateConfig(), chosen)  # a wrong option is said before a checkpoint is looked for
    opened = open_model(given)
    settings = settled(opened.config.generate, chosen)
    several = [(text, seeded(settings, index)) for text in texts for index in range(n)]
    if prompts is not None or (json_ and n > 1):
        together(opened, several, n, stats)
    else:
        one_by_one(opened, several, json_, stats)


def one_by_one(opened: Opened, several: list[tuple[str, GenerateConfig]], json_: bool, stats: bool) -> None:
    """Stream one continuation after the other."""
    from kiara_cli.commands.model import open_engine
    from kiara_cli.console import output
    from kiara_cli.core.generate.text import Completion, generate_text

    engine = open_engine(opened)
    for index, (text, settings) in enumerate(several):
        if index and not json_:
            output.result("\n---")
        for event in generate_text(engine, opened.tokenizer, text, settings, ends_of(opened)):
            if isinstance(event, Completion):
                finish(event, json_, stats)
            elif not json_:
                output.stream(event.text)


def together(opened: Opened, several: list[tuple[str, GenerateConfig]], n: int, stats: bool) -> None:
    """Write all continuations at once; one JSON object each, in the order of the prompts."""
    from kiara_cli.commands.model import open_engine
    from kiara_cli.core.generate.text import complete_all

    early: dict[int, Completion] = {}
    printed = 0
    for number, done in complete_all(open_engine(opened), opened.tokenizer, several, ends_of(opened)):
        early[number] = done
        while printed in early:
            finish(early.pop(printed), True, stats, {"index": printed // n})
            printed += 1


def ends_of(opened: Opened) -> frozenset[int]:
    """Return the ids at which a text ends besides its document's end: where a reply would, if the model talks."""
    from kiara_cli.core.tokenizer.chat_format import stop_ids

    return stop_ids(opened.tokenizer) if opened.checkpoint.data.get("conversations") else frozenset()


def seeded(settings: GenerateConfig, index: int) -> GenerateConfig:
    """Give the continuations of a prompt seeds in a row."""
    return settings if settings.seed is None else dataclasses.replace(settings, seed=settings.seed + index)


def read_prompts(path: Path) -> list[str]:
    """Return the prompt of every line of a file of JSON objects. Raises KiaraError naming the line at fault."""
    from kiara_cli.core.data.documents import read_text

    texts = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["prompt"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise KiaraError(f"{path}:{number} is no prompt", 'write one JSON object a line: {"prompt": "…"}')
        texts.append(text)
    if not texts:
        raise KiaraError(f"{path} holds no prompts", 'write one JSON object a line: {"prompt": "…"}')
    return texts


def read_prompt(prompt: str) -> str:
    """Return the prompt's text: itself, stdin for -, or a file for @FILE, less one trailing newline."""
    if prompt == "-":
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace")
        if not text:
            raise KiaraError("stdin is empty", "pipe a prompt in, or give --prompt TEXT")
        return text.removesuffix("\n")
    if prompt.startswith("@"):
        from kiara_cli.core.data.documents import read_text

        return read_text(Path(prompt[1:])).removesuffix("\n")
    return prompt


def settled(settings: GenerateConfig, chosen: dict[str, Any]) -> GenerateConfig:
    """Put the options that were given over the config's settings. Raises KiaraError for one out of range."""
    return dataclasses.replace(settings, **{key: value for key, value in chosen.items() if value is not None})


def finish(done: Completion, json_: bool, stats: bool, about: dict[str, int] | None = None) -> None:
    """End a continuation: with its JSON object, or a newline where a person reads it."""
    from kiara_cli.console import output

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
            }
        )
    elif sys.stdout.isatty():
        output.stream("\n")
    if stats:
        output.note(
            f"{done.completion_tokens} tokens at {done.tokens_per_second:.0f} tokens/s, "
            f"the first after {done.first_token_seconds * 1000:.0f} ms ({done.finish_reason})"
        )
