"""Preparing data as a person watches it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from kiara_cli.config.folders import cache_folder
from kiara_cli.config.schema import Config
from kiara_cli.console.output import amount, note
from kiara_cli.core.data.encoding import cores
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import Means, Preparing, prepare, reopen
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


def prepare_showing(
    config: Config,
    root: Path,
    tokenizer: Tokenizer | None = None,
    recorded: Mapping[str, Any] | None = None,
    means: Means | None = None,
    check: Callable[[Prepared], object] = lambda prepared: None,
) -> Prepared:
    """Prepare data, or with `recorded` find a checkpoint's, with a progress bar; say what came of it.

    What `check` raises KiaraError for is not kept if it was made just now.
    """
    means = means or means_of(config)
    with showing() as report:
        if recorded is not None:
            assert tokenizer is not None
            prepared = reopen(config.data, config.tokenizer, root, tokenizer, recorded, report, means)
        else:
            prepared = prepare(config.data, config.tokenizer, root, tokenizer, report, means)
    try:
        check(prepared)
    except KiaraError:
        if prepared.made:
            shutil.rmtree(prepared.folder)
            with suppress(OSError):  # others are in it
                root.rmdir()
        raise
    if not prepared.made and recorded is None:
        note(f"Using {prepared.folder}, made before of the same data.")
    asked, got = config.tokenizer.vocab_size, prepared.tokenizer.size
    if prepared.made and prepared.tokenizer.kind == "bpe" and tokenizer is None and got < asked:
        note(f"The text is small: it earned {amount(got)} of the {amount(asked)} tokens asked for.")
    if prepared.made and prepared.meta.skipped:
        note(f"Left out {prepared.meta.skipped:,} lines, rows or files that could not be read.")
    return prepared


def means_of(config: Config, skip_bad: bool = False) -> Means:
    """Return what a preparation on this machine may use."""
    threads = config.runtime.threads
    return Means(threads if isinstance(threads, int) else cores(), cache_folder() / "corpora", skip_bad)


@contextmanager
def showing() -> Iterator[Callable[[Preparing], None]]:
    """Show a progress bar with bytes a second and the time left; say when the network is used."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr)
    bar = Bar(
        TextColumn("{task.description}"), *columns,
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    stage, task = "", bar.add_task("reading", total=None)

    def report(progress: Preparing) -> None:
        nonlocal stage
        if progress.stage != stage:
            stage = progress.stage
            if stage.startswith("downloading "):
                note(f"D{stage[1:]}")
            bar.reset(task, description=stage.split("/")[-1] if "://" in stage else stage)
        bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None)

    with bar:
        yield report
