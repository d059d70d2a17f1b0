"""The points of a model and the hooks there are, as tables for people and as objects for programs."""

from __future__ import annotations

import sys
from typing import Any

from rich.markup import escape
from rich.table import Table

from kiara_cli.config.model import ModelConfig
from kiara_cli.console import output
from kiara_cli.core.hooks.registry import Registered
from kiara_cli.core.hooks.select import shape_of
from kiara_cli.core.model.points import kind_of, lens_name, off_fast_path, point_names

WIDE = 150  # characters from which on there is room to say what a point holds
LEGEND = (
    "B batch, T positions, S all positions so far; in a config: at: blocks.*.attention.heads",
    "decode: the fast decode steps of generate, chat and serve; attention: this layer's fused one, which is",
    "written out; selection: all positions are scored, not only those with a target.",
)


def show_points(config: ModelConfig, json_: bool) -> None:
    """Print each point: its name, shape, what it holds, what a hook there costs, and TransformerLens' name."""
    rows = [point_row(name, config) for name in point_names(config)]
    if json_:
        for row in rows:
            output.record(row)
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    console = output.console(sys.stdout, width=None if sys.stdout.isatty() else 200)
    columns = {"point": "point", "shape": "shape", "leaves": "a hook leaves", "transformer_lens": "TransformerLens"}
    columns |= {"holds": "holds"} if console.width >= WIDE else {}
    for title in columns.values():
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(*(escape(row[column]) for column in columns))
    console.print(table)
    for line in LEGEND:
        output.hint(line)


def point_row(name: str, config: ModelConfig) -> dict[str, str]:
    """Describe one point."""
    return {
        "point": name,
        "shape": shape_of(name, config),
        "holds": kind_of(name).holds,
        "leaves": off_fast_path(name),
        "transformer_lens": lens_name(name),
    }


def show_hooks(hooks: list[Registered], json_: bool) -> None:
    """Print each hook there is: its kind, its arguments with types and defaults, and its docstring."""
    for hook in hooks:
        if json_:
            output.record(hook_row(hook))
            continue
        arguments = ", ".join(map(str, hook.arguments.values()))
        where = f", from {hook.source.path}" if hook.source is not None else ""
        output.result(f"{hook.name}({arguments})  [{hook.kind}{where}]")
        for line in hook.doc.splitlines() or ["(no docstring)"]:
            output.result(f"    {line}".rstrip())
    if not json_:
        output.hint("In a config: hooks: {NAME: {use: HOOK, at: POINT, with: {ARGUMENT: VALUE}}}; see docs/hooks.md")


def hook_row(hook: Registered) -> dict[str, Any]:
    """Describe one hook."""
    arguments = [
        {"name": one.name, "type": one.words, "required": one.required}
        | ({} if one.required else {"default": one.default})
        for one in hook.arguments.values()
    ]
    return {
        "hook": hook.name,
        "kind": hook.kind,
        "arguments": arguments,
        "points": list(hook.points),
        "file": hook.source.path if hook.source is not None else None,
        "doc": hook.doc,
    }
