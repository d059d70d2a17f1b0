"""kiara doctor: what this machine can do, what is in the way, and what to do about it."""

from __future__ import annotations

import dataclasses
import os
import sys
from typing import TYPE_CHECKING

import typer

from kiara_cli.commands.options import DATA_ROOT, RUNS_ROOT, ConfigFiles, Debug, Json, Words, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.lab.doctor.finding import Host


def doctor(words: Words = None, config: ConfigFiles = None, json_: Json = False, debug: Debug = False) -> None:
    """Look at this machine: what works, what is slower than it could be, what is broken, and what to do about it."""
    environment = dict(os.environ)  # as the person set it
    host = host_of(words, config, environment)
    from kiara_cli.commands.model import set_spin

    set_spin()  # before torch is imported, as the commands do whose speed is measured here
    from kiara_cli.console.doctor import show_doctor
    from kiara_cli.core.lab.doctor.examine import examine

    if not show_doctor(examine(host), json_):
        raise typer.Exit(1)


def host_of(words: list[str] | None, config: list[str] | None, environment: dict[str, str]) -> Host:
    """Say what is to be examined. Raises KiaraError for a mistake in what was typed; one in a file is examined."""
    from kiara_cli.config.schema import LoggingConfig, RuntimeConfig
    from kiara_cli.console import logs
    from kiara_cli.console.terminal import columns
    from kiara_cli.core.lab.doctor.finding import Host

    runtime, log, sources, fault = RuntimeConfig(), LoggingConfig(), list[str](), None
    try:
        given = read(words, config, command="doctor")
        if given.word is not None:
            raise KiaraError(f"{given.word} is no setting", "kiara doctor looks at the machine: leave it out")
        found = given.loaded.config
        runtime, log, sources = found.runtime, found.logging, list(dict.fromkeys(given.loaded.origins.values()))
    except KiaraError as error:
        if words or config:
            raise
        fault = error
    logs.start_logging(dataclasses.replace(log, level="warning"))  # what is decided on the way is in the findings
    return Host(
        environment,
        runtime,
        tuple(sources),
        fault,
        DATA_ROOT,
        RUNS_ROOT,
        sys.stdout.encoding or "ascii",
        columns() if sys.stdout.isatty() else None,
    )
