"""kiara config: the resolved config, and where each value came from."""

from __future__ import annotations

import json

from kiara_cli.commands.options import ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError


def config(words: Words = None, config: ConfigFiles = None, json_: Json = False, debug: Debug = False) -> None:
    """Show the resolved config as YAML; a comment on each line says where the value came from."""
    from kiara_cli.config.load import to_mapping, to_yaml
    from kiara_cli.console import output

    given = read(words, config)
    if given.word is not None:
        raise KiaraError(f"{given.word} is no setting", "write KEY=VALUE, such as train.max_steps=100")
    loaded = given.loaded
    text = json.dumps(to_mapping(loaded.config), indent=2) if json_ else to_yaml(loaded.config, loaded.origins)
    output.result(text.rstrip("\n"))
