"""Measurements of a model as a person reads them, and scoring a chat with a progress bar on stderr."""

from __future__ import annotations

import dataclasses

from rich.progress import Progress

from kiara_cli.console import output
from kiara_cli.core.eval.chat import score_chat, shares
from kiara_cli.core.eval.metrics import Metrics
from kiara_cli.core.generate.opened import Opened

TEMPERATURES = (0.0, 0.8)


def show_metrics(checkpoint: str, split: str, metrics: Metrics, samples: list[dict[str, str]], json_: bool) -> None:
    """Print what was measured, and what was written."""
    values = {
        "checkpoint": checkpoint,
        "split": split,
        "loss": metrics.loss,
        "perplexity": metrics.perplexity,
        "bits_per_byte": metrics.bits_per_byte,
        "accuracy": metrics.accuracy,
        "tokens": metrics.tokens,
        "bytes": metrics.bytes,
    }
    kinds = {"documents": metrics.documents, "conversations": metrics.conversations}
    for kind, part in kinds.items():
        if part is not None and part.tokens:
            values |= {f"{kind}_loss": part.loss, f"{kind}_tokens": part.tokens}
    if json_:
        return output.record(values | ({"samples": samples} if samples else {}))
    forms = {float: "{:.4f}", int: "{:,}", str: "{}"}
    rows = [(key.replace("_", " "), forms[type(value)].format(value)) for key, value in values.items()]
    output.facts("", rows, to_stdout=True)
    for sample in samples:
        output.result(f"\n--- {sample['how']}\n{sample['text']}")


def show_chat_scores(opened: Opened, requests: int, seeds: int, json_: bool) -> None:
    """Score replies greedily and at temperature 0.8, for each seed, and print them as a table."""
    if opened.template.kind == "transcript":
        output.warn("this model learned from plain text, not from conversations: expect low scores")
    rows = _scored(opened, requests, seeds)
    if json_:
        for row in rows:
            output.record({"checkpoint": str(opened.checkpoint.path), **row})
        return
    output.table([
        {key: f"{value:.1%}" if isinstance(value, float) and key != "temperature" else str(value)
         for key, value in row.items()}
        for row in rows
    ])  # fmt: skip


def _scored(opened: Opened, requests: int, seeds: int) -> list[dict[str, float | int]]:
    """Score every temperature and seed; return one row of shares each."""
    engine = opened.engine()
    console = output.console()
    rows: list[dict[str, float | int]] = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("asking", total=len(TEMPERATURES) * seeds * requests)
        for temperature in TEMPERATURES:
            settings = dataclasses.replace(opened.config.generate, temperature=temperature)
            for seed in range(1, seeds + 1):
                scored = []
                for one in score_chat(engine, opened.template, settings, requests, seed):
                    scored.append(one)
                    progress.advance(task)
                rows.append({"temperature": temperature, "seed": seed, "requests": requests, **shares(scored)})
    return rows
