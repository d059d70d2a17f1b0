"""Scoring a chat as a person watches it: a progress bar on stderr."""

from __future__ import annotations

import dataclasses
import sys

from rich.console import Console
from rich.progress import Progress

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.eval.chat import score_chat, shares
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.tokenizer.protocol import Tokenizer

TEMPERATURES = (0.0, 0.8)


def score_showing(
    engine: Engine, tokenizer: Tokenizer, config: GenerateConfig, requests: int, seeds: int
) -> list[dict[str, float | int]]:
    """Score every temperature and seed; return one row of shares each."""
    console = Console(file=sys.stderr)
    rows: list[dict[str, float | int]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=len(TEMPERATURES) * seeds * requests)
        for temperature in TEMPERATURES:
            settings = dataclasses.replace(config, temperature=temperature)
            for seed in range(1, seeds + 1):
                scored = []
                for one in score_chat(engine, tokenizer, settings, requests, seed):
                    scored.append(one)
                    progress.advance(task)
                rows.append({"temperature": temperature, "seed": seed, "requests": requests, **shares(scored)})
    return rows
