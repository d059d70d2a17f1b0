"""Command lines against the real parser: what is written in examples, containers and docs is understood."""

from __future__ import annotations

from typing import Any

import typer

from kiara_cli.app import app
from kiara_cli.config.layers import is_override
from kiara_cli.config.load import load_config


def commands(group: Any, before: str = "") -> dict[str, Any]:
    """List every command and group by the words that name it."""
    found = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        found |= commands(command, f"{before}{name} ") if hasattr(command, "commands") else {}
    return found


COMMANDS = commands(typer.main.get_command(app))


def parse(words: list[str]) -> str:
    """Parse what stands after `kiara`, its settings too; return the name of the command."""
    name = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
    context = COMMANDS[name].make_context(name, words[len(name.split()) :])
    settings = [word for word in context.params.get("words") or [] if is_override(word)]
    if "config" in context.params or settings:
        load_config(context.params.get("config") or (), settings, {})
    return name
