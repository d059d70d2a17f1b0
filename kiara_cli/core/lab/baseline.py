"""A run that is held to a baseline: one change, on the same data, measured the same way, or it does not begin.

In: what is asked for. Out: a check for train's `Job`, which refuses, or returns what run.json is to say.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kiara_cli.config.schema import Config
from kiara_cli.core.lab.compare import Comparison, Known, compare, known_run
from kiara_cli.core.lab.records import find_run
from kiara_cli.core.train.job import Check, accept
from kiara_cli.errors import KiaraError

MUCH = 6  # of differing settings that are named

log = logging.getLogger("kiara.lab")


@dataclass(frozen=True)
class Change:
    """Settings that are declared to be one change, under a name. A key may be a section or a part of a key."""

    name: str
    keys: tuple[str, ...] = field(default=())

    @classmethod
    def parse(cls, text: str) -> Change:
        """Read NAME=KEY,KEY. Raises KiaraError."""
        name, equals, keys = text.partition("=")
        found = tuple(key.strip() for key in keys.split(",") if key.strip())
        if not equals or not name.strip() or not found:
            raise KiaraError(
                f"--change {text}: expected NAME=KEY,KEY",
                "for example: --change wider=model.emb_dim,model.n_heads",
            )
        return cls(name.strip(), found)

    def covers(self, key: str) -> bool:
        return any(key == own or key.startswith(f"{own}.") for own in self.keys)


def held_to(baseline: str | None, change: str | None, resume: bool, root: Path) -> Check:
    """Return the check of a run that is held to a baseline; of any other, one that accepts all. Raises KiaraError."""
    if baseline is None:
        if change is not None:
            raise KiaraError("--change goes with --baseline", "name the run that it is a change to, or leave it out")
        return accept
    if resume:
        raise KiaraError("--resume continues a run as it was", "leave out --baseline: the run keeps its own")
    return check_baseline(known_run(find_run(baseline, root)), None if change is None else Change.parse(change))


def check_baseline(baseline: Known, change: Change | None = None) -> Check:
    """Return a check for train's `Job`: it refuses a run that has more than one change to the baseline.

    The facts that it returns name the baseline and the change. Raises KiaraError from the check.
    """

    def check(config: Config, facts: Mapping[str, Any]) -> Mapping[str, Any]:
        found = compare(Known("this run", config, facts), baseline)
        _refuse(found, baseline.name, change)
        if (status := baseline.facts.get("status")) != "finished":
            log.warning(
                "%s did not come to its end (%s): its result is not that of its settings", baseline.name, status
            )
        for caution in found.cautions:
            log.warning("compared with %s: %s", baseline.name, caution)
        if found.repeat:
            same = (
                "nothing differs: a repeat, which is to give the same"
                if found.same_seed
                else "another seed: a repeat"
            )
            log.info("Compared with %s: %s.", baseline.name, same)
        keys = [difference.key for difference in found.changes]
        name = change.name if change is not None else ", ".join(keys) or "a repeat"
        if keys:
            log.info("The change to %s: %s.", baseline.name, ", ".join(map(str, found.changes)))
        return {
            "baseline": {"run": baseline.name, "results_hash": baseline.facts.get("results_hash")},
            "change": {"name": name, "keys": keys},
        }

    return check


def _refuse(found: Comparison, name: str, change: Change | None) -> None:
    """Raise KiaraError for a comparison that is not fair, or that has more than one change."""
    if found.unfair:
        raise KiaraError(
            f"this run cannot be compared with {name}: {'; '.join(found.unfair)}".replace("; ", ", and "),
            f"leave the data and the evaluation as {name} has them, or leave out --baseline",
        )
    changes = found.changes
    said = ", ".join(map(str, changes[:MUCH])) + (f" and {len(changes) - MUCH} more" if len(changes) > MUCH else "")
    if change is None:
        if len(changes) > 1:
            keys = ",".join(difference.key for difference in changes)
            raise KiaraError(
                f"{len(changes)} settings differ from {name}: {said}",
                f"change one at a time, or say that they are one change: --change NAME={keys}",
            )
        return
    outside = [str(difference) for difference in changes if not change.covers(difference.key)]
    if outside:
        raise KiaraError(
            f"--change {change.name} does not name what differs from {name} too: {', '.join(outside[:MUCH])}",
            "add it, or leave it as the baseline has it",
        )
    idle = [key for key in change.keys if not any(Change("", (key,)).covers(each.key) for each in changes)]
    if idle:
        raise KiaraError(
            f"--change {change.name} names {', '.join(idle)}, which is as {name} has it", "leave it out, or change it"
        )
