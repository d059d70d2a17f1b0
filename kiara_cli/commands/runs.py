"""kiara runs: what has been trained, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kiara_cli.commands.options import RUNS_ROOT, Debug, Json

runs = typer.Typer(no_args_is_help=True, help="What has been trained: list, show, compare, plot, remove.")

Root = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where the runs are.", show_default=True)]


@runs.command("list")
def list_(root: Root = RUNS_ROOT, json_: Json = False, debug: Debug = False) -> None:
    """List the runs, and how each stands."""
    from kiara_cli.console import output
    from kiara_cli.core.checkpoint.run import Run

    found = [Run(root, path.parent) for path in sorted(root.glob("*/run.json"))]
    rows = [{"run": run.name, "status": run.status or "unknown"} for run in found]
    if json_:
        for row in rows:
            output.record(row)
    elif rows:
        output.table(rows)
    else:
        output.note(f"No runs in {root} yet.")
