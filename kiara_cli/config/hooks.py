"""The section `hooks`: a mapping from a name of the person's choice to what is used, where and when.

In: dotted settings such as `hooks.quiet.with.factor`. Out: `HookConfig`s. Which hooks there are, and which arguments
they take, core/hooks knows.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kiara_cli.config.section import LARGEST
from kiara_cli.config.text import Plain, meant, shown
from kiara_cli.errors import KiaraError

SECTION = "hooks"
WITH = "with"
LISTS = ("heads", "positions", "channels")
STEPS = ("from_step", "to_step", "ramp", "fade")
KEYS = ("use", "at", *LISTS, WITH, *STEPS)


@dataclass(frozen=True)
class HookConfig:
    """One hook as a config asks for it."""

    name: str
    use: str
    at: tuple[str, ...] = ()
    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    from_step: int = 0
    to_step: int | None = None
    ramp: int = 0
    fade: int = 0

    def strength(self, step: int) -> float:
        """Return how strongly it acts in an update, counted from 1: 0 before from_step and after to_step.

        Over its first `ramp` updates it grows evenly to 1, over its last `fade` it falls. Step 0 is outside a
        training: there it acts in full.
        """
        if step == 0:
            return 1.0
        first = max(1, self.from_step)
        if step < first or (self.to_step is not None and step > self.to_step):
            return 0.0
        risen = (step - first + 1) / self.ramp if self.ramp else 1.0
        left = (self.to_step - step + 1) / self.fade if self.fade and self.to_step is not None else 1.0
        return min(1.0, risen, left)

    def overlaps(self, other: HookConfig) -> bool:
        """Say whether there can be an update in which both act."""
        ends = [hook.to_step if hook.to_step is not None else LARGEST for hook in (self, other)]
        return max(self.from_step, other.from_step) <= min(ends)


def settings(values: Mapping[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """Yield the dotted settings of the section; a hook with none of them, and null for one that is to go, too."""
    for name, hook in (values or {}).items():
        if not isinstance(hook, Mapping) or not hook:
            yield f"{SECTION}.{name}", hook
            continue
        for key, value in hook.items():
            if key == WITH and isinstance(value, Mapping):
                yield from ((f"{SECTION}.{name}.{WITH}.{argument}", given) for argument, given in value.items())
            else:
                yield f"{SECTION}.{name}.{key}", value


def checked(key: str, value: Any) -> Any:
    """Return the value of a setting in its type. Raises KiaraError for an unknown key or a wrong type."""
    _, _, rest = key.partition(".")
    name, _, setting = rest.partition(".")
    if not name:
        raise KiaraError(f"{key}={shown(value)}: {SECTION} is a section", f"write {SECTION}.NAME.use=HOOK")
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise KiaraError(f"{key}={shown(value)}: '{name}' cannot name a hook", "use letters, digits and _")
    if not setting:
        if value is None:
            return None
        raise KiaraError(
            f"{key}={shown(value)} is no hook",
            f"write {key}.use=NAME, and {key}.at=POINT where it needs one; {key}=null takes it out",
        )
    first, _, argument = setting.partition(".")
    if first == WITH and argument and "." not in argument:
        return _argument(key, value)
    if setting not in KEYS or setting == WITH:
        close = difflib.get_close_matches(first, KEYS, n=1, cutoff=0.5) if first != WITH else []
        meant_key = f"did you mean '{close[0]}'?" if close and setting != WITH else f"it has: {', '.join(KEYS)}"
        if setting == WITH:
            meant_key = f"write {key}.ARGUMENT=VALUE"
        raise KiaraError(f"{key}={shown(value)}: no key '{setting}' in a hook", meant_key)
    return _typed(key, setting, value)


def put(values: dict[str, Any], origins: dict[str, str], key: str, value: Any, origin: str) -> None:
    """Lay a setting over those of weaker layers; null in the place of a hook takes it out."""
    value = checked(key, value)
    hook = ".".join(key.split(".")[:2])
    gone = [old for old in values if old == hook or (key == hook and old.startswith(f"{hook}."))]
    for old in gone:
        del values[old]
        origins.pop(old, None)
    values[key], origins[key] = value, origin


def nested(values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the section as it is kept: hooks by name, in their order. Raises KiaraError for one without `use`."""
    out: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, *path = key.split(".")
        if section != SECTION or (len(path) == 1 and value is None):
            continue
        hook = out.setdefault(path[0], {})
        (hook.setdefault(WITH, {}) if len(path) == 3 else hook)[path[-1]] = value
    for name, hook in out.items():
        if "use" not in hook:
            key = f"{SECTION}.{name}.use"
            raise KiaraError(f"{SECTION}.{name} does not say what it uses", f"set {key}", key=f"{SECTION}.{name}")
    return out


def hooks_of(section: Mapping[str, Mapping[str, Any]]) -> list[HookConfig]:
    """Return the hooks of a config, in their order. Raises KiaraError for settings that contradict each other."""
    return [_hook(name, dict(values)) for name, values in section.items()]


def value_at(section: Mapping[str, Any], key: str) -> Any:
    """Look a dotted setting up; None where it is not set."""
    found: Any = section
    for part in key.split(".")[1:]:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _hook(name: str, values: dict[str, Any]) -> HookConfig:
    lists: dict[str, Any] = {key: tuple(values.pop(key)) for key in ("at", *LISTS) if key in values}
    hook = HookConfig(name, arguments=values.pop(WITH, {}), **lists, **values)
    if hook.to_step is not None and hook.to_step < max(1, hook.from_step):
        key = f"{SECTION}.{name}.to_step"
        cause = f"{key}={hook.to_step} is before its first step, {max(1, hook.from_step)}"
        raise KiaraError(cause, "give a later one, or null", key=key)
    if hook.fade and hook.to_step is None:
        key = f"{SECTION}.{name}.fade"
        raise KiaraError(f"{key}={hook.fade}: there is no end to fade to", f"set {SECTION}.{name}.to_step", key=key)
    return hook


def _typed(key: str, setting: str, value: Any) -> Any:
    typed = value.typed if isinstance(value, Plain) else value
    value = meant(value)
    if setting == "use" and isinstance(typed, str):
        return typed
    if setting == "at":
        items = typed if isinstance(typed, list) else [typed]
        if items and all(isinstance(item, str) for item in items):
            return items
    if setting in LISTS:
        items = value if isinstance(value, list) else [value]
        if items and all(_is_whole(item) for item in items):
            return items
    if setting in STEPS and ((_is_whole(value) and value >= 0) or (value is None and setting == "to_step")):
        return value
    expected = {"use": "the name of a hook", "at": "a point, or a list of points"}
    expected |= dict.fromkeys(LISTS, "a whole number, or a list of them") | dict.fromkeys(STEPS, "a step, at least 0")
    raise KiaraError(f"{key}={shown(value)} is not a valid value", f"expected {expected[setting]}")


def _argument(key: str, value: Any) -> Any:
    value = meant(value)
    plain = (str, int, float, bool, type(None))
    if isinstance(value, plain) or (isinstance(value, list) and all(isinstance(item, plain) for item in value)):
        return value
    raise KiaraError(f"{key}={shown(value)} is not a valid value", "expected a number, a text, or a list of them")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
