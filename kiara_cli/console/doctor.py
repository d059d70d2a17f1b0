"""An examination as it goes on: one group of lines after the other, or one object."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from itertools import chain

from rich.markup import escape
from rich.table import Table

from kiara_cli.console import output
from kiara_cli.core.lab.doctor.examine import works
from kiara_cli.core.lab.doctor.finding import Finding

STYLES = {"ok": "green", "off": "dim", "warning": "yellow", "broken": "bold red"}


def show_doctor(events: Iterable[str | Finding], json_: bool) -> bool:
    """Print what is found, and a verdict; say whether all that is needed works."""
    found: list[Finding] = []
    for title, findings in _groups(events):
        found += findings
        if not json_ and findings:
            _show_group(title, findings)
    if json_:
        output.record({"works": works(found), "findings": [dataclasses.asdict(one) for one in found]})
    else:
        output.result(verdict(found))
    return works(found)


def verdict(found: Iterable[Finding]) -> str:
    """Say in one line what the findings come to."""
    by_level: dict[str, list[str]] = {"broken": [], "warning": []}
    for one in found:
        by_level.setdefault(one.level, []).append(one.name)
    broken, warned = by_level["broken"], by_level["warning"]
    more = f" Could be better: {', '.join(warned)}." if warned else ""
    if broken:
        return f"Broken: {', '.join(broken)}. Kiara cannot do its work until that is mended.{more}"
    return f"All that is needed works.{more}"


def _groups(events: Iterable[str | Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Collect the findings of each group, while a terminal shows what is looked at."""
    console = output.console()
    status = console.status("") if console.is_terminal else None
    title, findings = "", list[Finding]()
    for event in chain(events, [""]):
        if isinstance(event, Finding):
            findings.append(event)
            continue
        if status is not None:
            status.stop()
        if title:
            yield title, findings
        title, findings = event, []
        if status is not None and title:
            status.update(f"looking at: {title.lower()} …")
            status.start()


def _show_group(title: str, findings: Iterable[Finding]) -> None:
    terminal = sys.stdout.isatty()
    printer = output.console(sys.stdout, width=None if terminal else 120)
    grid = Table.grid(padding=(0, 2))
    grid.add_column(width=7)
    grid.add_column(min_width=20, max_width=26, overflow="fold")
    grid.add_column(overflow="fold")
    for one in findings:
        style = STYLES[one.level]
        about = f"{escape(one.value)}[dim] – {escape(one.meaning)}[/]" if one.meaning else escape(one.value)
        if one.remedy:
            about += f"\n[{style}]→[/] {escape(one.remedy)}"
        grid.add_row(f"[{style}]{one.level}[/]", escape(one.name), about)
    printer.print(f"[bold]{escape(title)}[/]")
    printer.print(grid)
    printer.print()
