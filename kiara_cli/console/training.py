"""Training as a person watches it: a live panel in a terminal, plain lines elsewhere.

In: the events of the training loop. Out: stderr.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.cells import cell_len, set_cell_size
from rich.console import Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from kiara_cli.console import output
from kiara_cli.console.output import amount, duration
from kiara_cli.console.plots import MARK, curves
from kiara_cli.core.train.events import (
    Evaluated,
    Event,
    Finished,
    Sampled,
    Saved,
    Skipped,
    Spiked,
    Started,
    Stepped,
    ThreadsChanged,
)
from kiara_cli.core.train.plan import Plan
from kiara_cli.core.train.preference import PairMetrics

STYLES = "cyan", "bold green"  # of the loss, and of the validation loss
POINTS = 2000  # of the loss curve: beyond that every second one goes
HIGHEST_CURVE = 14  # rows


class TrainingView:
    """Draw events. In a terminal the panel is redrawn in place; elsewhere each event worth it is a line."""

    def __init__(self, started: Started, stopping: Callable[[], bool] = lambda: False) -> None:
        self.total, self.stopping = started.steps, stopping
        self.run = " · ".join(filter(None, (started.run, started.together)))
        self.console = output.console()
        self.losses: list[tuple[float, float]] = []
        self.val_losses: list[tuple[float, float]] = []
        self.step: Stepped | None = None
        self.saved: Saved | None = None
        self.sample = ""
        self.live: Live | None = None
        self.size = self.console.size

    @contextmanager
    def showing(self) -> Iterator[TrainingView]:
        """Keep the panel on screen inside this block; it stays there afterwards."""
        if not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self.frame, console=self.console, refresh_per_second=2) as self.live:
            yield self
        self.live = None

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, Stepped):
            self.step = event
            self.losses.append((event.step, event.loss))
            if len(self.losses) > POINTS:
                del self.losses[::2]
        elif isinstance(event, Evaluated):
            self.val_losses.append((event.step, event.metrics.loss))
        elif isinstance(event, Sampled):
            self.sample = event.text
        elif isinstance(event, Saved):
            self.saved = event
        troubles = isinstance(event, Skipped | Spiked | ThreadsChanged)
        if self.live is None or troubles:  # which stay to be read, above the panel
            for line in plain_lines(event, self.total):
                self.console.print(escape(line), soft_wrap=True)

    def frame(self) -> RenderableType:
        """Return the panel; after a change of the terminal's size, on a cleared screen."""
        if self.console.size == self.size:
            return self.render()
        self.size = self.console.size  # the terminal has wrapped the old panel anew: there is no telling where it is
        return Group(Control(ControlType.CLEAR, ControlType.HOME), self.render())

    def render(self) -> RenderableType:
        """Lay out the panel for the terminal's present size: what does not fit is left out, the sample first."""
        width, height = self.console.width - 4, self.console.height - 1
        facts = self.facts()
        room = height - 3 - facts.row_count  # the border, the bar, the facts
        parts: list[RenderableType] = [self.bar(width), facts]
        sample = self.sample.strip().splitlines()
        if len(self.losses) > 1 and room >= 3:
            rows = min(HIGHEST_CURVE, room if not sample else max(3, room * 2 // 3))
            parts += curves(self.losses, self.val_losses, width, rows, STYLES)
            room -= rows
        if sample and room >= 2:
            parts.append(Text("sample", style="dim"))
            parts += fold(sample, width, room - 1)
        title = f"kiara train · {escape(self.run)}" + (" · stopping after this step" if self.stopping() else "")
        return Panel(Group(*parts), title=title, border_style="cyan", width=self.console.width)

    def bar(self, width: int) -> RenderableType:
        """Draw how far the training is, and when it will be done."""
        step, left = (self.step.step, duration(self.step.seconds_left)) if self.step else (0, "…")
        words = f" {step / self.total:4.0%}  step {step:,} of {self.total:,}, {left} left"
        row = Table.grid(expand=False)
        row.add_row(ProgressBar(self.total, step, width=max(4, width - len(words))), words)
        return row

    def facts(self) -> Table:
        """Tabulate the numbers of the newest events."""
        rows = Table.grid(padding=(0, 2))
        rows.add_column(style="dim", no_wrap=True, min_width=6)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        if self.step is not None:
            losses = [f"[{STYLES[0]}]{self.step.loss:.4f}[/]"]
            if self.val_losses:
                best = min(loss for _, loss in self.val_losses)
                losses.append(f"[{STYLES[1]}]{MARK}[/] validation {self.val_losses[-1][1]:.4f}, best {best:.4f}")
            rows.add_row("loss", "   ".join(losses))
            rows.add_row("speed", speed(self.step))
            rows.add_row("a step", shares(self.step))
            held = f"memory {amount(self.step.memory, 'B')}"
            saved = f"   saved at step {self.saved.step:,}" if self.saved else ""
            rows.add_row("state", f"rate {self.step.lr:.2e}   gradient {self.step.grad_norm:.2f}   {held}{saved}")
        return rows


def speed(event: Stepped) -> str:
    """Say how fast it goes, and how near that is to what the machine's matrix products reach."""
    reading = event.reading
    said = f"{amount(reading.tokens_per_second)} tokens/s"
    if reading.fraction_of_peak is None:
        return said
    return f"{said}   {amount(reading.flops_per_second, 'FLOP')}/s, {reading.fraction_of_peak:.0%} of the peak"


def shares(event: Stepped) -> str:
    """Say how long a step takes and on what."""
    seconds = event.reading.seconds
    total = sum(seconds.values())
    parts = [f"{phase} {part / total:.0%}" for phase, part in seconds.items() if total]
    return "  ".join([f"{1000 * total:,.0f} ms:", *parts])


def fold(lines: list[str], width: int, rows: int) -> list[Text]:
    """Break lines at the width, the first `rows` of them; control characters are shown as spaces."""
    folded: list[Text] = []
    for line in lines:
        rest = "".join(character if character.isprintable() else " " for character in line)
        while rest and len(folded) < rows:
            piece = rest
            while cell_len(piece) > width:
                piece = set_cell_size(piece, width).rstrip()
                if rest[len(piece) : len(piece) + 1] != " " and " " in piece.strip():
                    piece = piece[: piece.rindex(" ")]
            folded.append(Text(piece, no_wrap=True))
            rest = rest[len(piece) :].lstrip()
    return folded


def plain_lines(event: Event, total: int) -> list[str]:
    """Return the lines that an event is worth where nothing can be redrawn."""
    if isinstance(event, Stepped):
        return [
            f"step {event.step}/{total}  loss {event.loss:.4f}  rate {event.lr:.2e}  "
            f"{amount(event.reading.tokens_per_second)} tokens/s  {duration(event.seconds_left)} left"
        ]
    if isinstance(event, Evaluated):
        metrics, mark = event.metrics, "  (best so far)" if event.is_best else ""
        if isinstance(metrics, PairMetrics):
            return [
                f"step {event.step}/{total}  validation loss {metrics.loss:.4f}  "
                f"preferred in {metrics.accuracy:.1%} of {metrics.pairs:,} pairs  margin {metrics.margin:.3f}{mark}"
            ]
        return [
            f"step {event.step}/{total}  validation loss {metrics.loss:.4f}  "
            f"{metrics.bits_per_byte:.3f} bits per byte  accuracy {metrics.accuracy:.1%}{mark}"
        ]
    if isinstance(event, Sampled):
        return ["  sample: " + " / ".join(event.text.split("\n"))[:200]]
    if isinstance(event, Skipped):
        what = f"loss {event.loss:.4g}, gradient {event.grad_norm:.4g} ({event.parameter})"
        return [f"warning: step {event.step}/{total}  batch {event.batch} skipped: {what}"]
    if isinstance(event, ThreadsChanged):  # what was only tried is in metrics.jsonl
        threads = f"{event.threads} thread{'s' if event.threads > 1 else ''} instead of {event.before}"
        return [f"step {event.step}/{total}  {threads}: {event.reason}"] if event.stays else []
    if isinstance(event, Spiked):
        return [f"warning: step {event.step}/{total}  the loss spiked from {event.usual:.4f} to {event.loss:.4f}"]
    return []


def show_end(finished: Finished, plan: Plan) -> None:
    """Say how a training ended, and what to type next."""
    best = finished.best or finished.last
    if finished.status == "diverged":
        output.warn(f"diverged at {finished.reason}")
        good = f"The last good checkpoint is {finished.last}:" if finished.last else "There is no checkpoint yet:"
        again = f"kiara train --from {finished.last} train.lr=…" if finished.last else "kiara train … train.lr=…"
        return output.hint(f"{good} start again with a lower rate.  {again}")
    if finished.status == "interrupted":
        output.note(f"Stopped and saved at step {finished.step}.")
        return output.hint(f"To go on:  kiara train --resume --name {finished.run}")
    if finished.reason:
        output.note(f"Ended at step {finished.step}: {finished.reason}.")
    prompt = shlex.quote(plan.config.eval.sample_prompt or "Once upon a time")
    talks = plan.data.meta.train_conversations
    first = f"kiara chat {best}" if talks else f"kiara generate {best} --prompt {prompt}"
    output.hint(f"Try it:      {first}\nMeasure it:  kiara eval {best}")
