"""kiara serve: a model over HTTP, as OpenAI's clients know it, and a chat page."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.knowledge import OFF, open_knowledge
from kiara_cli.commands.options import ConfigFiles, Debug, Given, Words, read
from kiara_cli.config.layers import read_dotenv
from kiara_cli.config.schema import ServeConfig
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.generate.opened import Opened
    from kiara_cli.core.retrieve.prompt import Knowledge
    from kiara_cli.core.serve.served import Served

KEY_VARIABLE = "KIARA_API_KEY"


def serve(
    words: Words = None,
    config: ConfigFiles = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; other than this machine's needs a key.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0: any that is free.")
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help=f"Keys that clients must show, one a line; or ${KEY_VARIABLE}."),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Let everyone in who can reach the address.")] = False,
    knowledge: Annotated[
        list[str] | None,
        typer.Option(
            "--knowledge",
            metavar="NAME",
            help="An index that requests may name; repeatable. Chats are answered from the first; off: from none.",
            autocompletion=completion.indexes,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Serve a model with an OpenAI-compatible API and a chat page: kiara serve."""
    given = read(words, config, command="serve")
    variables = {**read_dotenv(Path(".env")), **os.environ}
    keys = read_keys(api_key_file, variables.get(KEY_VARIABLE, ""))
    host = host or str(given.loaded.values.get("serve.host", ServeConfig.host))
    check_exposure(host, bool(keys), no_auth)

    from kiara_cli.commands.model import open_model
    from kiara_cli.console import logs, output

    named = knowledge or [str(given.loaded.values.get("retrieve.knowledge") or OFF)]
    known = open_all(named, given)
    opened = open_model(given)
    from kiara_cli.core.serve import server
    from kiara_cli.core.serve.origins import Hosts, Origins
    from kiara_cli.core.serve.worker import Worker

    limits = opened.config.serve
    Hosts(limits.allowed_hosts)  # what is no host or origin is refused before anything listens
    Origins(limits.allowed_origins)
    with server.listen(host, limits.port if port is None else port) as listener:
        served = served_from(opened, known, named[0] == OFF)
        logs.start_access_log(limits.access_log)
        if no_auth:
            output.warn("no key is asked for (--no-auth): whoever reaches this address may use the model")
        if "*" in limits.allowed_origins:
            output.warn("every web page may use this server (serve.allowed_origins holds *)")
        address = f"[{host}]" if ":" in host else host
        announce(served, f"http://{address}:{listener.getsockname()[1]}/")
        worker = Worker(served, limits.queue, opened.config.generate.streams)

        def again() -> Served:
            return served_from(open_model(given, runtime=opened.runtime), open_all(named, given), named[0] == OFF)

        server.serve(worker, limits, keys, listener, again)


def announce(served: Served, place: str) -> None:
    """Say where the server is, and what of its model a person should know."""
    from kiara_cli.console import output
    from kiara_cli.core.chat.fit import fit, prompt_budget

    output.note(f"Serving {served.name} at {place} (API: {place}v1). Ctrl-C stops.")
    if served.knowledge:
        chats = f"chats are answered from {served.consulted}" if served.consulted else "none unless it is asked for"
        output.note(f"Indexes that requests may name: {', '.join(served.knowledge)}; {chats}.")
    if served.template.kind == "transcript":
        output.note("It learned from plain text: conversations reach it as a transcript.")
    if served.chat.system:
        system, turn = {"role": "system", "content": served.chat.system}, {"role": "user", "content": ""}
        _, forgot = fit(served.template, [system], [turn], prompt_budget(served.context, served.chat.max_new_tokens))
        if forgot is not None:
            output.warn(
                f"chat.system is {forgot.system} tokens long, too long for this model, which reads {served.context}: "
                "a conversation without a system message of its own is refused"
            )


def open_all(named: list[str], given: Given) -> list[Knowledge]:
    """Open the indexes that requests may name. Raises KiaraError for two of one name."""
    known = [open_knowledge(name, given) for name in named if name != OFF]
    names = [one.name for one in known]
    if twice := [name for name in names if names.count(name) > 1]:
        raise KiaraError(f"two indexes are called {twice[0]}", "rename one of their folders, or name it once")
    return known


def served_from(opened: Opened, known: Sequence[Knowledge] = (), unasked: bool = False) -> Served:
    """Make what the server serves; `unasked`: a chat that names no index gets none. Raises KiaraError."""
    from kiara_cli.core.serve.served import Served

    path, config = opened.checkpoint.path, opened.config
    run = opened.checkpoint.data.get("name") or path.stem
    return Served(
        name=config.serve.model_name or str(run),
        engine=opened.engine(),
        tokenizer=opened.tokenizer,
        template=opened.template,
        ends=opened.ends,
        settings=config.generate,
        chat=config.chat,
        knowledge={one.name: one for one in known},
        consulted=known[0].name if known and not unasked else None,
    )


def read_keys(path: Path | None, variable: str) -> list[str]:
    """Return the keys of a file, or of the environment. Raises KiaraError."""
    if path is None:
        return [variable.strip()] if variable.strip() else []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise KiaraError(f"cannot read the keys in {path}: {reason}", "give a file with one key a line") from None
    keys = [key for key in map(str.strip, lines) if key and not key.startswith("#")]
    if not keys:
        raise KiaraError(f"{path} holds no key", "write one key a line, such as the output of: openssl rand -hex 24")
    return keys


def check_exposure(host: str, keys: bool, no_auth: bool) -> None:
    """Refuse to listen where strangers are without a key, unless that was asked for. Raises KiaraError."""
    if keys and no_auth:
        raise KiaraError("--no-auth, and there are keys", f"give one of them (${KEY_VARIABLE} counts as a key)")
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if not (own or keys or no_auth):
        raise KiaraError(
            f"{host} can be reached by others, and there is no key",
            "give --api-key-file FILE, or --no-auth if everyone may use the model",
        )
