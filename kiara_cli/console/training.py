"""Training as a person watches it: a live panel in a terminal, plain lines elsewhere.

In: the events of the training loop. Out: stderr.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from kiara_cli.console.output import amount, duration
from kiara_cli.core.train.events import Evaluated, Event, Sampled, Stepped

BARS = "▁▂▃▄▅▆▇█"


class TrainingView:
    """Draw events. In a terminal the panel is redrawn in place; elsewhere each event worth it is a line."""

    def __init__(self, total_steps: int, run: str) -> None:
        self.total, self.run = total_steps, run
        self.console = Console(file=sys.stderr, highlight=False)
        self.losses: list[float] = []
        self.val_losses: list[float] = []
        self.step: Stepped | None = None
        self.sample = ""
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
        )
        self.task = self.bar.add_task(run, total=total_steps)
        self.live: Live | None = None

    @contextmanager
    def showing(self) -> Iterator[TrainingView]:
        """Keep the panel on screen inside this block; it stays there afterwards."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(self.render(), console=self.console, refresh_per_second=4) as self.live:
            yield self

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Stepped):
            self.step = event
            self.losses.append(event.loss)
            self.bar.update(self.task, completed=event.step)
        elif isinstance(event, Evaluated):
            self.val_losses.append(event.metrics.loss)
        elif isinstance(event, Sampled):
            self.sample = event.text
        if self.live is not None:
            self.live.update(self.render())
        else:
            for line in plain_lines(event, self.total):
                self.console.print(escape(line), soft_wrap=True)

    def render(self) -> RenderableType:
        """Lay out the panel for the terminal's present width."""
        width = max(20, self.console.width - 30)
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim")
        rows.add_column(no_wrap=True)
        if self.step is not None:
            rows.add_row("step", f"{self.step.step:,} of {self.total:,}, {duration(self.step.seconds_left)} left")
            rows.add_row("loss", f"{self.step.loss:.4f}  [cyan]{sparkline(self.losses, width)}[/]")
        if self.val_losses:
            best = f"best {min(self.val_losses):.4f}"
            rows.add_row(
                "validation",
                f"{self.val_losses[-1]:.4f}  [green]{sparkline(self.val_losses, width)}[/] {best}",
            )
        if self.step is not None:
            speed = f"{amount(self.step.tokens_per_second)} tokens/s"
            rows.add_row("speed", f"{speed}   rate {self.step.lr:.2e}   gradient {self.step.grad_norm:.2f}")
        parts: list[RenderableType] = [self.bar, rows]
        if self.sample:
            lines = self.sample.strip().splitlines()[:6]
            parts.append(Panel(escape("\n".join(lines)), title="it writes", title_align="left", border_style="dim"))
        return Panel(Group(*parts), title=f"kiara train · {escape(self.run)}", border_style="cyan")


def plain_lines(event: Event, total: int) -> list[str]:
    """Return the lines that an event is worth where nothing can be redrawn."""
    if isinstance(event, Stepped):
        return [
            f"step {event.step}/{total}  loss {event.loss:.4f}  rate {event.lr:.2e}  "
            f"{amount(event.tokens_per_second)} tokens/s  {duration(event.seconds_left)} left"
        ]
    if isinstance(event, Evaluated):
        metrics, mark = event.metrics, "  (best so far)" if event.is_best else ""
        return [
            f"step {event.step}/{total}  validation loss {metrics.loss:.4f}  "
            f"{metrics.bits_per_byte:.3f} bits per byte  accuracy {metrics.accuracy:.1%}{mark}"
        ]
    if isinstance(event, Sampled):
        return ["  it writes: " + " / ".join(event.text.split("\n"))[:200]]
    return []


def sparkline(values: list[float], width: int) -> str:
    """Draw values as a row of at most `width` block characters, averaging neighbours that share one."""
    if not values:
        return ""
    width = min(width, len(values))
    edges = [round(index * len(values) / width) for index in range(width + 1)]
    means = [sum(values[first:last]) / (last - first) for first, last in itertools.pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
