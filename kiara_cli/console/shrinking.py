"""Making a model small as a person watches it: progress on stderr, then the error of every matrix as bars."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from kiara_cli.console import output
from kiara_cli.core.lab.shrink import Report, Shrinking, Texts
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import Rounded

WIDTH = 32  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"


def shrink_showing(work: Shrinking, model: Transformer, texts: Texts, out: Path) -> Report:
    """Run it with a progress bar; return the report."""
    console = Console(file=sys.stderr)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rounding", total=4 * work.config.model.n_layers + 2)
        for event in work.run(model, texts, out):
            if isinstance(event, Report):
                return event
            progress.update(task, advance=1, description=f"rounded {event.name}")
    raise AssertionError("the report comes last")


def draw_errors(layers: Sequence[Rounded]) -> None:
    """Print a bar for each matrix: its error, and in dots what round-to-nearest would have left."""
    most = max((layer.nearest_error for layer in layers), default=0.0) or 1.0
    name = max(len(layer.name) for layer in layers)
    output.result("error of each matrix (· to the nearest)")
    for layer in layers:
        eighths = round(8 * WIDTH * layer.error / most)
        filled = "█" * (eighths // 8) + EIGHTHS[eighths % 8].strip()
        dots = "·" * (round(WIDTH * layer.nearest_error / most) - len(filled))
        output.result(f"{layer.name:<{name}}  {layer.bits:>2}  {filled + dots:<{WIDTH}}  {layer.error:.2%}")
    output.result("")
