"""Preparing data as a person watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bar

from kiara_cli.config.schema import Config
from kiara_cli.console import output
from kiara_cli.console.output import amount, note
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.data.shares import prepare_together
from kiara_cli.core.data.slices import BadInput
from kiara_cli.core.data.source import Means, Preparing
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


def prepare_showing(
    config: Config, root: Path, tokenizer: Tokenizer | None, means: Means, world: World = ALONE
) -> Prepared | None:
    """Prepare data with a progress bar; say what came of it. Of several processes the first gets it."""
    with showing() as report:
        if world.size == 1:
            prepared: Prepared | None = prepare(config.data, config.tokenizer, root, tokenizer, report, means)
        else:
            prepared = prepare_together(world, config.data, config.tokenizer, root, tokenizer, report, means)
    if prepared is not None:
        describe(prepared, config.tokenizer.vocab_size if tokenizer is None else None)
    return prepared


def describe(prepared: Prepared, vocab_size: int | None) -> None:
    """Say what is worth saying of a preparation; `vocab_size` is what was asked for, if a tokenizer was fitted."""
    for notice in prepared.notices:
        note(f"{notice[:1].upper()}{notice[1:]}.")
    if not prepared.made:
        return note(f"Using {prepared.folder}, made before of the same data.")
    got = prepared.tokenizer.size
    if prepared.tokenizer.kind == "bpe" and vocab_size is not None and got < vocab_size:
        note(f"The text is small: it earned {amount(got)} of the {amount(vocab_size)} tokens asked for.")
    if prepared.meta.skipped:
        note(f"Left out {prepared.meta.skipped:,} lines, rows or files that could not be read.")


@contextmanager
def showing() -> Iterator[Callable[[Preparing], None]]:
    """Show a progress bar with bytes a second and the time left; say when the network is used.

    For commands that have --skip-bad: an error that it would leave out says so.
    """
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = output.console()
    bar = Bar(
        TextColumn("{task.description}"), *columns,
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    stage, task = "", bar.add_task("reading", total=None)

    def report(progress: Preparing) -> None:
        nonlocal stage
        if progress.stage != stage:
            stage = progress.stage
            if stage.startswith(("downloading ", "waiting ")):
                note(f"{stage[0].upper()}{stage[1:]}")
            bar.reset(task, description=stage.split("/")[-1] if "://" in stage else stage)
        bar.update(task, completed=progress.done_bytes, total=progress.total_bytes or None)

    with bar:
        try:
            yield report
        except BadInput as error:
            raise KiaraError(error.cause, f"{error.remedy}, or leave such things out with --skip-bad") from None
