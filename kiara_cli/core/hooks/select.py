"""Which points a hook is for, and which part of what passes there.

In: patterns such as `blocks.*.attention.heads`, and lists of heads, positions and channels. Out: names of points, and
masks. Raises KiaraError for what a model does not have.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.points import KINDS, kind_of, lens_name, point_names, sizes
from kiara_cli.errors import KiaraError

WHERE = "kiara inspect --points lists them"


class Axis(NamedTuple):
    letters: str
    holds: str


AXES = {  # what a config selects → the letters of such an axis in a point's shape
    "heads": Axis("HK", "heads"),
    "positions": Axis("T", "positions"),
    "channels": Axis("DCFV", "channels"),
}


@dataclass(frozen=True)
class Select:
    """Heads, positions and channels; None is all of them. Negative ones count from the end."""

    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, name) is not None for name in AXES)

    def mask(self, x: Tensor, axes: str, start: int = 0) -> Tensor | None:
        """Return what is selected of x as truth values that broadcast to it; None: all.

        Position 0 is the first of the text: `start` positions before those of x are in a cache. Position -1 is the
        last one that x holds.
        """
        axes = axes[len(axes) - x.ndim :]  # logits of single positions have no axis of the batch
        out: Tensor | None = None
        for name, axis in AXES.items():
            chosen = getattr(self, name)
            if chosen is None:
                continue
            dim = next(index for index, letter in enumerate(axes) if letter in axis.letters)
            size = x.shape[dim]
            before = start if name == "positions" else 0
            wanted = [index - before if index >= 0 else size + index for index in chosen]
            row = torch.zeros(size, dtype=torch.bool)
            row[[index for index in wanted if 0 <= index < size]] = True
            row = row.to(x.device).view([-1 if index == dim else 1 for index in range(x.ndim)])
            out = row if out is None else out & row
        return out

    def check(self, point: str, config: ModelConfig) -> None:
        """Raise KiaraError for what the tensor at a point does not have."""
        axes, known = kind_of(point).axes, sizes(config)
        for name, axis in AXES.items():
            chosen = getattr(self, name)
            letter = next((letter for letter in axes if letter in axis.letters), None)
            if chosen is None:
                continue
            if letter is None:
                raise KiaraError(f"{name}: {point} has no {axis.holds}", f"its shape is {shape_of(point, config)}")
            size = known.get(letter)
            for index in chosen:
                if size is not None and not -size <= index < size:
                    cause = f"{name}: {index} is not there, {point} has {size} {axis.holds}"
                    raise KiaraError(cause, f"give {-size} to {size - 1}")

    def overlaps(self, other: Select) -> bool:
        """Say whether both can select the same number. Negative ones are taken as other than positive ones."""
        pairs = [(getattr(self, name), getattr(other, name)) for name in AXES]
        return all(a is None or b is None or set(a) & set(b) for a, b in pairs)


def matching(patterns: Iterable[str], config: ModelConfig) -> list[str]:
    """Return the points that patterns mean, in the order in which they are passed.

    A * stands for anything up to the next dot, {0,2} for one of several, {1-3} for a range. Raises KiaraError for a
    pattern that no point fits.
    """
    names, found = point_names(config), set()
    for pattern in patterns:
        fits = [name for name in names if re.fullmatch(expression(pattern), name)]
        if not fits:
            raise unknown_point(pattern, config)
        found.update(fits)
    return [name for name in names if name in found]


def unknown_point(pattern: str, config: ModelConfig) -> KiaraError:
    """Say that no point fits a pattern, and which one may be meant."""
    names = point_names(config)
    starred = [re.sub(r"^blocks\.\d+", "blocks.*", name) for name in names] if "*" in pattern else names
    layer = re.match(r"blocks\.(\d+)\.", pattern)
    if layer and int(layer[1]) >= config.n_layers:
        meant = f"did you mean one of the blocks 0 to {config.n_layers - 1}"
    else:
        theirs = {lens_name(name): name for name in names} | {kind.lens: kind.name for kind in KINDS}
        close = difflib.get_close_matches(pattern, list(dict.fromkeys(starred)), n=1, cutoff=0.4)
        close = [theirs[pattern]] if pattern in theirs else close
        meant = f"did you mean '{close[0]}'" if close else "is it one that another model has"
    return KiaraError(f"there is no point '{pattern}' in this model", f"{meant}? {WHERE}")


def shape_of(point: str, config: ModelConfig) -> str:
    """Write the shape at a point, with numbers for the axes of fixed length: (B, 4, T, 32)."""
    known = {axis: size for axis, size in sizes(config).items() if axis != "T"}
    return f"({', '.join(str(known.get(axis, axis)) for axis in kind_of(point).axes)})"


def expression(pattern: str) -> str:
    """Return the regular expression of a pattern. Raises KiaraError for braces that hold no numbers."""
    out = ""
    for part in re.split(r"(\*|\{[^}]*\})", pattern):
        if part == "*":
            out += r"[^.]+"
        elif part.startswith("{"):
            out += f"(?:{'|'.join(_numbers(part[1:-1], pattern))})"
        else:
            out += re.escape(part)
    return out


def _numbers(text: str, pattern: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if dash and first.isdigit() and last.isdigit():
            found += map(str, range(int(first), int(last) + 1))
        elif re.fullmatch(r"\w+", part.strip()):
            found.append(part.strip())
        else:
            raise KiaraError(f"'{pattern}' is no pattern of points", "write {0,2} or {1-3}, with * for anything")
    return found
