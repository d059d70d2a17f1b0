"""A study as a person watches it and reads what it found.

In: a plan, events, a report. Out: progress on stderr, the result on stdout.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.live import Live
from rich.text import Text

from kiara_cli.console import output
from kiara_cli.console.output import amount, duration
from kiara_cli.core.lab.ablate import Event, GivenUp, RunEnded, RunGoesOn, RunStarted
from kiara_cli.core.lab.report import Report
from kiara_cli.core.lab.study import Study
from kiara_cli.core.lab.study_page import NOTHING, pairing_words, scaling_words
from kiara_cli.core.lab.table import DONE
from kiara_cli.core.train.plan import USUAL_SHARE, Plan

SIGNS = {"better": "green", "worse": "red", "unstable": "yellow", "not judged": "yellow"}


def show_study(
    study: Study, plans: Mapping[str, Plan], rate: float, jobs: int, there: int, to_stdout: bool = False
) -> None:
    """Print what will be run, and about how long it takes at a rate of floating-point operations a second."""
    total = len(study.arms) * len(study.seeds)
    flops = len(study.seeds) * sum(plan.training_flops for plan in plans.values())
    seconds = flops / (USUAL_SHARE * rate) / jobs * (1 - there / total)
    rows = [(arm.name, f"{arm.change}: {_plan_words(plans[arm.name])}") for arm in study.arms]
    rows.append(("seeds", f"{', '.join(map(str, study.seeds))}, each for all of them, in this order"))
    rows.append(("runs", f"{total}, {there} of them there already; {jobs} at a time"))
    rows.append(("time", f"about {duration(seconds)} or, for models so small, a few times that"))
    rows.append(("measured", f"{study.measure} at the end of each run"))
    output.facts(f"The study {study.name}", rows, to_stdout)


def _plan_words(plan: Plan) -> str:
    return f"{amount(plan.count.parameters)} parameters, {plan.steps:,} steps, {amount(plan.training_flops, 'FLOP')}"


class StudyView:
    """Draw the events of a study: a line that is redrawn in a terminal, a line for each run elsewhere."""

    def __init__(self, steps: Mapping[str, int], jobs: int) -> None:
        self.steps, self.jobs = steps, jobs  # steps of a run, by arm
        self.console = output.console()
        self.live: Live | None = None
        self.running: dict[str, tuple[str, int]] = {}  # by the run's name: its arm, its steps so far
        self.took: list[float] = []
        self.total, self.ended, self.first = 0, 0, time.monotonic()
        self.began: dict[str, float] = {}

    @contextmanager
    def showing(self) -> Iterator[StudyView]:
        if not self.console.is_terminal:
            yield self
            return
        with Live(get_renderable=self.line, console=self.console, refresh_per_second=2, transient=True) as self.live:
            yield self
        self.live = None

    def show(self, event: Event) -> None:
        """Take in one event."""
        if isinstance(event, RunStarted):
            self.total, name = event.total, event.order.name
            self.running[name] = event.order.arm, 0
            self.began[name] = time.monotonic()
            self.ended = event.number - len(self.running)
        elif isinstance(event, RunGoesOn):
            self.running = {name: (self.running[name][0], step) for name, step in event.steps.items()}
        elif isinstance(event, RunEnded):
            name = event.order.name
            self.running.pop(name, None)
            if event.ending.status in DONE:
                self.ended += 1
                self.took.append(time.monotonic() - self.began[name])
            value = "" if math.isnan(event.value) else f"  {event.value:.4f}"
            left = f"  {self.left()}" if event.ending.status in DONE else ""
            reason = f": {event.ending.reason}" if event.ending.reason else ""
            self.say(f"{self.ended}/{self.total}  {name}  {event.ending.status}{reason}{value}{left}")
        elif isinstance(event, GivenUp) and event.arm in self.steps:
            why = "has its answer" if event.told else "cannot gain what matters any more"
            self.say(f"{event.arm} {why} after {event.seeds} seeds: no more runs of it")

    def say(self, text: str) -> None:
        """Print a line that stays, above the one that is redrawn."""
        self.console.print(Text(text.rstrip()), soft_wrap=True)

    def left(self) -> str:
        if not self.took or self.ended >= self.total:
            return ""
        seconds = (self.total - self.ended) * sum(self.took) / len(self.took) / self.jobs
        return f"{duration(seconds)} left"

    def line(self) -> Text:
        """Return the line that says what goes on."""
        parts = [f"{name} {step}/{self.steps.get(arm, 0)}" for name, (arm, step) in self.running.items()]
        words = f"{self.ended}/{self.total} runs  {self.left()}  {'   '.join(parts)}"
        return Text(words, no_wrap=True, overflow="ellipsis")


def show_report(found: Report) -> None:
    """Print a report on stdout."""
    for warning in found.warnings:
        output.warn(warning)
    rows = []
    for line in found.lines:
        judged = line.comparison
        row = {
            "arm": line.arm, "mean": _number(line.mean), "± sd": _number(line.sd), "seeds": str(line.seeds),
            "difference": NOTHING if judged is None else f"{judged.difference:+.4f}",
            f"{100 * found.level:.4g} % interval": NOTHING
            if judged is None else f"{judged.low:+.4f} to {judged.high:+.4f}",
            "p": NOTHING if judged is None else f"{judged.p:.2g}",
            "as % of steps": NOTHING if line.steps is None else f"{line.steps:.0%}",
            "FLOPs": NOTHING if math.isnan(line.flops) else amount(line.flops),
            "seconds": NOTHING if math.isnan(line.seconds) else f"{line.seconds:.1f}",
        }  # fmt: skip
        shorter = {name: value for name, value in row.items() if not found.scaling or name in SIZES}
        rows.append(shorter)
    output.table(rows)
    printer = output.console(sys.stdout, width=None if sys.stdout.isatty() else 200)
    printer.print()
    if found.scaling is not None:
        for words in scaling_words(found):
            printer.print(words, markup=False)
    for line in found.judged if found.scaling is None else ():
        style = SIGNS.get(line.verdict, "")
        printer.print(Text.assemble((line.arm, f"bold {style}".strip()), f" ({line.change}): {line.words}"))
    printer.print()
    printer.print(f"{pairing_words(found)} {found.method[:1].upper()}{found.method[1:]}.", style="dim", markup=False)


SIZES = ("arm", "mean", "± sd", "seeds", "FLOPs", "seconds")  # columns where there is nothing to compare with


def _number(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.4f}"
