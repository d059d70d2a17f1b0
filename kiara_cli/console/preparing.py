"""Preparing data as a person watches it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from kiara_cli.config.schema import Config
from kiara_cli.console.output import amount, note
from kiara_cli.core.data.prepare import Prepared, Progress, prepare, reopen
from kiara_cli.core.tokenizer.protocol import Tokenizer


def prepare_showing(
    config: Config, root: Path, tokenizer: Tokenizer | None = None, recorded: Mapping[str, Any] | None = None
) -> Prepared:
    """Prepare data, or with `recorded` find a checkpoint's, with a progress bar; say what came of it."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    bar = Bar(
        TextColumn("{task.description}"), *columns,
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    with bar:
        task = bar.add_task("reading", total=None)

        def report(progress: Progress) -> None:
            bar.update(task, description=progress.stage, completed=progress.done_bytes, total=progress.total_bytes)

        if recorded is not None:
            assert tokenizer is not None
            prepared = reopen(config.data, config.tokenizer, root, tokenizer, recorded, report)
        else:
            prepared = prepare(config.data, config.tokenizer, root, tokenizer, report)
    asked, got = config.tokenizer.vocab_size, prepared.tokenizer.size
    if prepared.tokenizer.kind == "bpe" and tokenizer is None and got < asked:
        note(f"The text is small: it earned {amount(got)} of the {amount(asked)} tokens asked for.")
    return prepared
