"""The examination: every check in order, and what each found.

In: a `Host`. Out: the title of each group when it begins, then its findings; `works` judges them. What needs torch is
left out where torch does not work, and a check that fails itself is a finding, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

from kiara_cli.core.lab.doctor.finding import Finding, Host
from kiara_cli.core.lab.doctor.machine import look_at_machine
from kiara_cli.core.lab.doctor.places import look_at_places
from kiara_cli.core.lab.doctor.programs import look_at_extras, look_at_programs
from kiara_cli.core.lab.doctor.settings import look_at_settings

Look = Callable[[Host], Iterator[Finding]]


def _speed(host: Host) -> Iterator[Finding]:
    from kiara_cli.core.lab.doctor.speed import look_at_speed  # imports torch, which may not be possible

    yield from look_at_speed(host)


def _paths(host: Host) -> Iterator[Finding]:
    from kiara_cli.core.lab.doctor.paths import look_at_paths

    yield from look_at_paths(host)


LOOKS: dict[str, Look] = {
    "Machine": look_at_machine,  # before torch is in memory, and while nothing else of Kiara computes
    "Programs": look_at_programs,
    "Speed": _speed,
    "Fast paths": _paths,
    "Places": look_at_places,
    "Settings": look_at_settings,
    "Extras": look_at_extras,
}
NEED_TORCH = ("Speed", "Fast paths")


def examine(host: Host) -> Iterator[str | Finding]:
    """Make every check; yield a group's title, then what was found in it."""
    torch_works = True
    for title, look in LOOKS.items():
        yield title
        if title in NEED_TORCH and not torch_works:
            yield Finding(title.lower(), "off", "not looked at", "it needs torch", "mend torch first", title)
            continue
        for finding in _guarded(look, host):
            torch_works = torch_works and (finding.name, finding.level) != ("torch", "broken")
            yield dataclasses.replace(finding, group=title)


def _guarded(look: Look, host: Host) -> Iterator[Finding]:
    """Yield what a check finds; what stops it is a finding."""
    try:
        yield from look(host)
    except Exception as error:  # noqa: BLE001 - a machine may be broken in any way, and the other checks still help
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        yield Finding(
            "check",
            "warning",
            f"it ended early: {said}",
            "what follows in this group is not known",
            "please report it, with the lines above",
        )


def works(findings: Iterable[Finding]) -> bool:
    """Say whether all that is needed works."""
    return all(finding.level != "broken" for finding in findings)
