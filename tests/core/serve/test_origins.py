from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.serve.origins import Hosts, Origins
from kiara_cli.errors import KiaraError


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        ("*", "https://anyone.example", True),
        ("https://example.org", "https://example.org", True),
        ("https://example.org/", "https://example.org", True),
        ("HTTPS://Example.ORG", "https://example.org", True),
        ("https://example.org:443", "https://example.org", True),
        ("http://localhost:*", "http://localhost:5173", True),
        ("http://localhost:*", "http://localhost", True),
        ("http://localhost:*", "https://localhost:1", False),
        ("http://localhost:*", "http://localhost.evil.example:1", False),
        ("http://localhost:3000", "http://localhost:3001", False),
        ("https://*.example.org", "https://a.b.example.org", True),
        ("https://*.example.org", "https://example.org", False),
        ("https://*.example.org", "https://evilexample.org", False),
        ("https://*.example.org", "https://evil.example/.example.org", False),
        ("http://[::1]:8000", "http://[::1]:8000", True),
        ("app://obsidian.md", "app://obsidian.md", True),
        ("chrome-extension://*", "chrome-extension://abcdef", True),
        ("null", "null", True),
        ("https://bücher.example", "https://xn--bcher-kva.example", True),
        ("https://example.org", "https://example.org.evil.example", False),
        ("https://exampleXorg", "https://example.org", False),
    ],
)
def test_an_origin_means_what_a_person_writes(allowed: str, origin: str, may: bool) -> None:
    assert (origin in Origins([allowed])) is may
    assert (origin in Origins(["https://other.example", allowed])) is may


@pytest.mark.parametrize(
    ("allowed", "host", "ours"),
    [
        ("*", "anything.example:9", True),
        ("kiara.lan", "kiara.lan", True),
        ("kiara.lan", "KIARA.lan:8000", True),
        ("Kiara.LAN", "kiara.lan", True),
        ("kiara.lan:8000", "kiara.lan:8000", True),
        ("kiara.lan:8000", "kiara.lan:8001", False),
        ("*.local", "mac.local:8000", True),
        ("*.local", "local", False),
        ("*.local", "mac.local.evil.example", False),
        ("kiara.lan", "kiara.lan.evil.example", False),
        ("kiara.lan", "", False),
    ],
)
def test_a_host_means_what_a_person_writes(allowed: str, host: str, ours: bool) -> None:
    assert (host in Hosts([allowed])) is ours


def test_addresses_and_localhost_are_always_ours() -> None:
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1", "192.168.1.5:8000", "[::1]", "[::1]:8000"):
        assert host in Hosts([])
    for host in ("localhost.evil.example", "127.0.0.1.evil.example", "[bad", "", "[]:1", "evil.example"):
        assert host not in Hosts([])


@pytest.mark.parametrize(
    "entry", ["localhost:3000", "https://example.org/app", "http://", "", "https://a b", "http://[::1"]
)
def test_what_is_no_origin_is_refused(entry: str) -> None:
    with pytest.raises(KiaraError, match="serve.allowed_origins: .* is no origin; write scheme, host and port"):
        Origins([entry])


@pytest.mark.parametrize("entry", ["http://kiara.lan", "kiara.lan/", "", "a b", "kiara.lan:port"])
def test_what_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(KiaraError, match="serve.allowed_hosts: .* is no host; write a name"):
        Hosts([entry])


@given(st.text())
def test_no_header_can_make_a_comparison_fail(header: str) -> None:
    assert (
        header not in Origins(["https://kiara.lan", "http://localhost:*"])
        or "kiara.lan" in header.lower()
        or "localhost" in header.lower()
    )
    assert isinstance(header in Hosts(["*.local", "kiara.lan:8000"]), bool)
