"""kiara generate: a prompt to its continuation, streamed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kiara_cli.commands.knowledge import KnowledgeOption, knowledge_of
from kiara_cli.commands.options import ConfigFiles, Debug, Given, HookFiles, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.config.schema import GenerateConfig
    from kiara_cli.console.completions import Prompt
    from kiara_cli.core.generate.opened import Opened
    from kiara_cli.core.retrieve.prompt import Knowledge


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
        str | None,
        typer.Option(metavar="FILE.jsonl", help='Continue every line\'s {"prompt": …}, all together, as JSON lines.'),
    ] = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JSON of the schema in this file, and nothing else.")
    ] = None,
    knowledge: KnowledgeOption = None,
    stats: Annotated[bool, typer.Option("--stats", help="Say on stderr how fast it was.")] = False,
    hooks: HookFiles = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Continue a text: kiara generate --prompt 'Once upon a time'."""
    from kiara_cli.commands.model import open_model
    from kiara_cli.config.schema import GenerateConfig

    given = read(words, config, command="generate")
    texts = texts_of(prompt, prompts, given)
    chosen = {
        "max_new_tokens": max_new_tokens, "temperature": 0.0 if greedy else temperature, "top_k": top_k,
        "top_p": top_p, "min_p": min_p, "repetition_penalty": repetition_penalty,
        "stop": tuple(stop) if stop else None, "seed": seed,
    }  # fmt: skip
    settled(GenerateConfig(), chosen)  # a wrong option is said before a checkpoint is looked for
    schema = None if json_schema is None else schema_of(json_schema)
    known = asked_of(knowledge, texts, given)
    opened = open_model(given, hooks=hooks or ())
    from kiara_cli.console.completions import show_in_order, stream_each

    settings = settled(opened.config.generate, chosen)
    if schema is not None and settings.stop:
        raise KiaraError("--json-schema, and texts to stop before, which could cut the JSON", "leave --stop out")
    several = [again for text in texts for again in repeated(prompt_of(text, settings, opened, known), n)]
    if prompts is not None or (json_ and n > 1):
        show_in_order(opened, several, n, stats, schema)
    else:
        stream_each(opened, several, json_, stats, schema)


def schema_of(path: Path) -> Any:
    """Read a JSON schema. Raises KiaraError."""
    from kiara_cli.commands.model import set_spin

    set_spin()
    from kiara_cli.core.generate.grammar import read_schema

    return read_schema(path)


def asked_of(name: str | None, texts: list[str], given: Given) -> Knowledge | None:
    """Open the index that texts are questions to. Raises KiaraError where one of them asks nothing."""
    known = knowledge_of(name, given)
    if known is not None and not all(map(str.strip, texts)):
        raise KiaraError(f"an empty prompt, and passages of {known.name} for it", "ask something: --prompt TEXT")
    return known


def prompt_of(text: str, settings: GenerateConfig, opened: Opened, known: Knowledge | None) -> Prompt:
    """Return what the model reads: the text, or with passages the question that it is. Raises KiaraError."""
    from kiara_cli.console.completions import Prompt
    from kiara_cli.core.chat.fit import prompt_budget
    from kiara_cli.core.chat.knowledge import prompt_with
    from kiara_cli.core.tokenizer.protocol import prompt_ids

    ends = opened.ends | opened.tokenizer.ends
    if known is None:
        return Prompt(prompt_ids(opened.tokenizer, text), settings, ends)
    budget = prompt_budget(opened.model.config.context_length, settings.max_new_tokens)
    ids, grounded = prompt_with(known, opened.template, text, budget)
    return Prompt(ids, settings, ends | opened.template.stop_ids, grounded)


def repeated(prompt: Prompt, n: int) -> list[Prompt]:
    """Ask for n continuations of a prompt, with seeds in a row."""
    seed = prompt.config.seed
    if seed is None:
        return [prompt] * n
    return [
        dataclasses.replace(prompt, config=dataclasses.replace(prompt.config, seed=seed + index))
        for index in range(n)
    ]


def texts_of(prompt: str, prompts: str | None, given: Given) -> list[str]:
    """Return the texts to continue: those of a file of prompts, itself, stdin for -, or a file for @FILE."""
    if prompts is None and prompt != "-" and not prompt.startswith("@"):
        return [prompt]
    from kiara_cli.config.schema import DataConfig
    from kiara_cli.console import output
    from kiara_cli.core.data.charset import decode_text
    from kiara_cli.core.data.notices import Notices
    from kiara_cli.core.data.prompts import read_prompt, read_prompts

    notices = Notices()
    encoding = DataConfig(encoding=given.loaded.values.get("data.encoding")).encoding
    if prompts is not None:
        texts = read_prompts(prompts, encoding, notices)
    elif prompt == "-":
        if not (raw := sys.stdin.buffer.read()):
            raise KiaraError("stdin is empty", "pipe a prompt in, or give --prompt TEXT")
        texts = [decode_text(raw, "stdin", encoding, notices).removesuffix("\n")]
    else:
        texts = [read_prompt(prompt[1:], encoding, notices)]
    for line in notices.lines():
        output.warn(line)
    return texts


def settled(settings: GenerateConfig, chosen: dict[str, Any]) -> GenerateConfig:
    """Put the options that were given over the config's settings. Raises KiaraError for one out of range."""
    return dataclasses.replace(settings, **{key: value for key, value in chosen.items() if value is not None})
