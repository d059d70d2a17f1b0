"""kiara config: the resolved config, and where each value came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.config.uses import USES, unused
from kiara_cli.errors import KiaraError

For = Annotated[
    str | None,
    typer.Option("--for", metavar="COMMAND", help="Mark what this command does not use; with --json, leave it out."),
]


def config(
    words: Words = None, config: ConfigFiles = None, for_: For = None, json_: Json = False, debug: Debug = False
) -> None:
    """Show the resolved config as YAML; a comment on each line says where the value came from."""
    from kiara_cli.config.layers import flatten
    from kiara_cli.config.load import DEFAULT, to_mapping, to_yaml
    from kiara_cli.console import output

    if for_ is not None and for_ not in USES:
        raise KiaraError(f"--for {for_}: no such command reads a config", f"choose one of: {', '.join(USES)}")
    given = read(words, config)
    if given.word is not None:
        raise KiaraError(f"{given.word} is no setting", "write KEY=VALUE, such as train.max_steps=100")
    loaded = given.loaded
    values, origins = to_mapping(loaded.config), dict(loaded.origins)
    for key in unused(for_, flatten(values, DEFAULT)) if for_ is not None else ():
        leave_out(values, key.split("."))
        origins[key] = f"{origins.get(key, DEFAULT)}; not used by {for_}"
    text = json.dumps(values, indent=2) if json_ else to_yaml(loaded.config, origins)
    output.result(text.rstrip("\n"))


def leave_out(values: dict[str, Any], path: Sequence[str]) -> None:
    """Take a setting out of nested values, and a section that nothing is left of."""
    first, *rest = path
    if rest:
        leave_out(values[first], rest)
    if not rest or not values[first]:
        del values[first]
