"""The table of contents: one line per command, in the order of work; and how every command ends."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from kiara_cli.commands.ablate import ablate
from kiara_cli.commands.bench import bench
from kiara_cli.commands.chat import chat
from kiara_cli.commands.completion import VARIABLE, answer
from kiara_cli.commands.config import config
from kiara_cli.commands.doctor import doctor
from kiara_cli.commands.eval import eval
from kiara_cli.commands.examples import HAND_ON, LEARN, MACHINE, MEASURE, USE, grouped, shown
from kiara_cli.commands.export import export
from kiara_cli.commands.generate import generate
from kiara_cli.commands.import_ import import_
from kiara_cli.commands.index import index
from kiara_cli.commands.inspect import inspect
from kiara_cli.commands.plan import plan
from kiara_cli.commands.quantize import quantize
from kiara_cli.commands.runs import runs
from kiara_cli.commands.serve import serve
from kiara_cli.commands.tokenize import tokenize
from kiara_cli.commands.train import train
from kiara_cli.config.layers import OVERRIDE
from kiara_cli.console import streams
from kiara_cli.errors import KiaraError

app = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command(**grouped("tokenize", LEARN))(tokenize)
app.command(**grouped("train", LEARN))(train)
app.command(**grouped("plan", LEARN))(plan)
app.command(**grouped("eval", MEASURE))(eval)
app.add_typer(runs, **grouped("runs", MEASURE))
runs.command(**shown("runs ablate"))(ablate)
app.command(**grouped("inspect", MEASURE))(inspect)
app.command(**grouped("generate", USE))(generate)
app.command(**grouped("chat", USE))(chat)
app.command(**grouped("serve", USE))(serve)
app.command(**grouped("index", USE))(index)
app.command(**grouped("quantize", HAND_ON))(quantize)
app.command(**grouped("export", HAND_ON))(export)
app.command(**grouped("import", HAND_ON))(import_)
app.command(**grouped("doctor", MACHINE))(doctor)
app.command(**grouped("bench", MACHINE))(bench)
app.command(**grouped("config", MACHINE))(config)


@app.callback()
def kiara(
    version: Annotated[bool, typer.Option("--version", help="Show the versions that matter.", is_eager=True)] = False,
) -> None:
    """From a text file to a small language model of your own."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 the user's mistake in one line, 1 a fault, 128 + N after signal N."""
    streams.prepare()
    if VARIABLE in os.environ:
        answer(app)
    if arguments is None:
        streams.read_arguments_as_utf8()
        arguments = sys.argv[1:]
    arguments = arguments or ["--help"]
    debug = "--debug" in arguments
    try:
        status = run(arguments)
        sys.stdout.flush()
        sys.exit(status)
    except KiaraError as error:
        fail(str(error), 2, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes
        sys.exit(0)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        fail(f"cannot write or read{place}: {error.strerror or error}; check space and permissions", 2, debug)
    except Exception as error:
        if not hasattr(error, "format_message"):  # not a complaint of the command line's parser
            raise
        fail(usage(error, arguments), 2, debug)


def run(arguments: list[str]) -> int:
    """Run one command and return its exit status; errors come through as they are.

    Not by calling `app`, as that ends with status 1 on a closed pipe.
    """
    if arguments[:1] == ["--version"]:
        show_versions()
        return 0
    command = typer.main.get_command(app)
    try:
        with command.make_context("kiara", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    return 0


def fail(line: str, status: int, debug: bool) -> None:
    """Print an error on one line, with --debug after where it came from, and exit."""
    if debug:
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(line.split())}\n")
    sys.exit(status)


def usage(error: Exception, arguments: list[str]) -> str:
    """Say what was wrong with the command line, and what to type instead."""
    for word in arguments:
        if word.startswith("--") and OVERRIDE.match(word[2:]):
            return f"no option {word}; settings are written without dashes: {word[2:]}"
    message: str = error.format_message().rstrip(".").replace("Value error, ", "")  # type: ignore[attr-defined]
    return f"{message[0].lower()}{message[1:]}; see: {' '.join(['kiara', *command_of(arguments), '--help'])}"


def command_of(arguments: list[str]) -> list[str]:
    """Return the words that name a command: `["train"]`, `["runs", "list"]`; none where there is no such one."""
    words = [word for word in arguments if not word.startswith("-")]
    group, named = app, list[str]()
    while words:
        word = words.pop(0)
        commands = {info.name or info.callback.__name__ for info in group.registered_commands if info.callback}
        groups = {info.name: info.typer_instance for info in group.registered_groups}
        if word in commands or word in groups:
            named.append(word)
        if (inner := groups.get(word)) is None:
            break
        group = inner
    return named


def show_versions() -> None:
    """Print what decides how Kiara behaves."""
    from kiara_cli.console import output
    from kiara_cli.core.checkpoint.run import versions

    found = versions()
    output.result(f"kiara {found.pop('kiara-slm', 'from source')}")
    output.result(", ".join(f"{name} {version}" for name, version in found.items()))


if __name__ == "__main__":
    main()
