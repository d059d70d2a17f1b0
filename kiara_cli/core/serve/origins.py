"""Which web pages may ask this server, and under which names it answers.

In: `serve.allowed_origins` and `serve.allowed_hosts` as a person writes them. Out: patterns that the headers of a
request are compared with. Nothing in a header is parsed, so nothing in it can fail.
"""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence

from kiara_cli.errors import KiaraError

NAME = r"(\*|(\*\.)?[^\s/*?#@:\[\]]+|\[[0-9a-f:.]+\])"  # *, *.example.org, example.org, [::1]
ORIGIN = re.compile(rf"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<name>{NAME})(:(?P<port>\d+|\*))?")
HOST = re.compile(rf"(?P<name>{NAME})(:(?P<port>\d+|\*))?")
PORTS = {"http": "80", "https": "443"}  # what a browser leaves out
ANY = r"[^/\s]*"


class Origins:
    """Pages of other sites that may ask: `https://example.org`, `http://localhost:*`, `https://*.example.org`, `*`.

    Raises KiaraError for what is no origin.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self.everyone = "*" in (entry.strip() for entry in allowed)
        self._pattern = re.compile("|".join(map(_origin, allowed)) or r"(?!)")

    def __contains__(self, origin: str) -> bool:
        return self.everyone or self._pattern.fullmatch(origin.lower()) is not None


class Hosts:
    """Names of this server besides addresses and localhost: `kiara.lan`, `kiara.lan:8000`, `*.local`, `*`.

    Raises KiaraError for what is no host.
    """

    def __init__(self, allowed: Sequence[str]) -> None:
        self._pattern = re.compile("|".join([r"localhost(:\d+)?", *map(_host, allowed)]))

    def __contains__(self, host: str) -> bool:
        host = host.lower()
        return self._pattern.fullmatch(host) is not None or _is_address(host)


def _is_address(host: str) -> bool:
    """Say whether a Host is a number: a foreign page can only reach us by a name of its own."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _origin(entry: str) -> str:
    """Return the pattern of an allowed origin."""
    text = entry.strip().lower().removesuffix("/")
    if text == "*":
        return r"(?s:.*)"
    if text == "null":
        return "null"  # a page from a file
    found = ORIGIN.fullmatch(text)
    if found is None:
        raise KiaraError(
            f"serve.allowed_origins: {entry!r} is no origin",
            "write scheme, host and port, without a path: https://example.org, http://localhost:3000, "
            "http://localhost:* or *",
            key="serve.allowed_origins",
        )
    port = found["port"] if found["port"] != PORTS.get(found["scheme"]) else None
    return f"{re.escape(found['scheme'])}://{_name(found['name'])}{_port(port)}"


def _host(entry: str) -> str:
    """Return the pattern of an allowed host; without a port it is allowed on every one."""
    text = entry.strip().lower()
    if text == "*":
        return r"(?s:.*)"
    found = HOST.fullmatch(text)
    if found is None:
        raise KiaraError(
            f"serve.allowed_hosts: {entry!r} is no host",
            "write a name, without a scheme or a path: kiara.example.org, kiara.lan:8000, *.local or *",
            key="serve.allowed_hosts",
        )
    return f"{_name(found['name'])}{_port(found['port'] or '*')}"


def _name(name: str) -> str:
    with contextlib.suppress(UnicodeError):
        name = name if name.isascii() else name.encode("idna").decode()  # as browsers send it
    return re.escape(name).replace(r"\*", ANY if name == "*" else r"[^/\s:]+") + r"\.?"


def _port(port: str | None) -> str:
    return r"(:\d+)?" if port == "*" else f":{port}" if port else ""
