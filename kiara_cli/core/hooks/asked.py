"""What a config asks for, checked against the hooks there are and the model: before anything is built.

In: the section `hooks` and the model's config. Out: an `Asked` for each hook, in the order of the config. Raises
KiaraError, which names the hook, for a name, an argument, a point or a part of it that is not there, and for two
hooks that exclude each other.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.hooks import HookConfig, hooks_of
from kiara_cli.config.model import ModelConfig
from kiara_cli.core.hooks.registry import Registered, arguments_for, find
from kiara_cli.core.hooks.select import AXES, Select, matching
from kiara_cli.core.model.points import kind_of, sizes
from kiara_cli.errors import KiaraError

WEIGHT = "weight"  # the argument of every auxiliary loss that Kiara itself applies


@dataclass(frozen=True)
class Asked:
    """A hook of the config, as it will be called."""

    config: HookConfig
    hook: Registered
    arguments: Mapping[str, Any]
    points: tuple[str, ...]  # where a forward or backward hook acts, or what an auxiliary loss reads
    select: Select
    weight: float = 1.0  # of an auxiliary loss

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def on_model(self) -> bool:
        """Whether it attaches to points of the model."""
        return bool(self.points)


@contextlib.contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a hook's name before an error that is raised inside."""
    try:
        yield
    except KiaraError as error:
        raise KiaraError(f"hooks.{name}: {error.cause}", error.remedy) from None


def ask(section: Mapping[str, Mapping[str, Any]], model: ModelConfig) -> list[Asked]:
    """Check all hooks of a config."""
    asked = []
    for config in hooks_of(section):
        with naming(config.name):
            asked.append(_ask(config, model))
    for first, second in itertools.combinations(asked, 2):
        _check_pair(first, second)
    return asked


def _ask(config: HookConfig, model: ModelConfig) -> Asked:
    hook = find(config.use)
    given = dict(config.arguments)
    weight = given.pop(WEIGHT, 1.0) if hook.kind == "auxiliary" else 1.0
    if not isinstance(weight, int | float) or isinstance(weight, bool):
        raise KiaraError(f"with.weight={weight} is not a valid value", "expected number, 1.0 unless given")
    arguments = arguments_for(hook, given)
    select = Select(config.heads, config.positions, config.channels)
    points = _points(config, hook, model)
    if select and hook.kind in ("update", "auxiliary"):
        chosen = next(name for name in AXES if getattr(select, name) is not None)
        raise KiaraError(f"{chosen}: the {hook.kind} hook {hook.name} selects nothing at a point", "leave it out")
    for point in points:
        select.check(point, model)
        if hook.width is not None:
            _check_width(hook.width, arguments.get(hook.width), point, model)
    return Asked(config, hook, arguments, points, select, float(weight))


def _points(config: HookConfig, hook: Registered, model: ModelConfig) -> tuple[str, ...]:
    """Return the points that a hook is for: those of the config, or those that it names itself."""
    if hook.kind == "update":
        if config.at:
            raise KiaraError(f"the update hook {hook.name} acts on weights, not at {config.at[0]}", "leave `at` out")
        return ()
    patterns = config.at or hook.points
    if not patterns and hook.kind != "auxiliary":
        raise KiaraError(
            f"the {hook.kind} hook {hook.name} does not say where it acts", f"set hooks.{config.name}.at"
        )
    found = matching(patterns, model)
    strange = [point for point in found if hook.points and point not in matching(hook.points, model)]
    if strange:
        raise KiaraError(f"{hook.name} is not made for {strange[0]}", f"it is for {', '.join(hook.points)}")
    return tuple(found)


def _check_width(argument: str, value: Any, point: str, model: ModelConfig) -> None:
    """Refuse a vector that is neither one number nor as long as the last axis at a point."""
    axis = kind_of(point).axes[-1]
    width = sizes(model).get(axis)
    if axis == "V" and width is None:  # the vocabulary is not known yet: asked again when it is
        return
    numbers = len(value) if isinstance(value, list | tuple) else 1
    if numbers != 1 and numbers != width:
        wanted = f"1 or {width}" if width is not None else "1, as the last axis there grows with the text"
        raise KiaraError(f"with.{argument} has {numbers} numbers, which do not fit {point}", f"give {wanted}")


def _check_pair(first: Asked, second: Asked) -> None:
    """Refuse two hooks of which the second would undo the first, or do it again."""
    if not first.config.overlaps(second.config):
        return
    both = f"hooks.{first.name} and hooks.{second.name}"
    if first.hook.replaces and second.hook.replaces and first.select.overlaps(second.select):
        common = [point for point in first.points if point in second.points]
        if common:
            raise KiaraError(
                f"{both} conflict: both put something else in the place of {common[0]}",
                "take one out, or let them select different heads, positions, channels or steps",
            )
    same = first.hook.kind == "update" and first.hook == second.hook
    if same and (first.hook.alone or first.arguments == second.arguments):
        raise KiaraError(f"{both} conflict: both use {first.hook.name}", "take one out")
