"""Quantizing as a person watches it: progress on stderr, then the error of every matrix as bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.progress import Progress

from kiara_cli.console import output
from kiara_cli.core.lab.quantizing import Report
from kiara_cli.core.quantize.apply import Rounded

WIDTH = 32  # characters of the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉"


def show_rounding(events: Iterable[Rounded | Report], matrices: int) -> Report:
    """Draw a progress bar over so many matrices; return the report."""
    console = output.console()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("rounding", total=matrices)
        for event in events:
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
