"""A check that fails does not end the others, and only what is needed decides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kiara_cli.core.lab.doctor import examine
from kiara_cli.core.lab.doctor.finding import Finding, Host


def finding(name: str, level: str) -> Finding:
    return Finding(name, level, "", "")  # type: ignore[arg-type]


def test_a_check_that_fails_is_a_finding_and_the_next_is_made(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(host: Host) -> Iterator[Finding]:
        yield finding("first", "ok")
        raise ZeroDivisionError("division by zero\nand more")

    monkeypatch.setattr(examine, "LOOKS", {"One": fails, "Two": lambda host: iter([finding("last", "ok")])})
    events = list(examine.examine(host))
    assert [event for event in events if isinstance(event, str)] == ["One", "Two"]
    found = [event for event in events if isinstance(event, Finding)]
    assert [(one.group, one.name, one.level) for one in found] == [
        ("One", "first", "ok"), ("One", "check", "warning"), ("Two", "last", "ok"),
    ]  # fmt: skip
    assert found[1].value == "it ended early: ZeroDivisionError: division by zero"


def test_without_torch_the_rest_is_looked_at(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(host: Host) -> Iterator[Finding]:
        raise AssertionError

    looks = {"Programs": lambda host: iter([finding("torch", "broken")]), "Speed": never,
             "Places": lambda host: iter([finding("data/", "ok")])}  # fmt: skip
    monkeypatch.setattr(examine, "LOOKS", looks)
    found = [event for event in examine.examine(host) if isinstance(event, Finding)]
    assert [(one.name, one.level) for one in found] == [("torch", "broken"), ("speed", "off"), ("data/", "ok")]
    assert not examine.works(found)


def test_warnings_and_what_is_off_do_not_fail() -> None:
    assert examine.works([finding("a", "ok"), finding("b", "off"), finding("c", "warning")])
    assert not examine.works([finding("a", "ok"), finding("d", "broken")])
