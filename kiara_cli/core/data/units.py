"""A list of inputs → units of work, which any number of processes can share out.

In: inputs. Out: units, the same for the same list of names and sizes: small inputs together, huge ones cut between
documents. A unit is what is tokenized in one go, and what a preparation that was killed need not do again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from kiara_cli.core.data.inputs import Input
from kiara_cli.core.data.slices import Slice
from kiara_cli.errors import KiaraError

UNIT = 16 << 20  # bytes that small inputs are gathered to
CUT = 64 << 20  # bytes of a slice of a huge input; a guess: seconds of work each
CUTTABLE = ("jsonl", "parquet")  # other texts are one document each


@dataclass(frozen=True)
class Unit:
    """Slices to tokenize one after the other; `held_out` if all of it is validation data."""

    slices: tuple[Slice, ...]
    held_out: bool = False

    @property
    def size(self) -> int:
        return sum(end - start for start, end in (part.range for part in self.slices))


@dataclass(frozen=True)
class Share:
    """The part of the work that one of several processes does: every `of`-th unit from `index` on."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read `i/n`. Raises KiaraError."""
        index, slash, of = text.partition("/")
        if not (slash and index.isdecimal() and of.isdecimal() and int(index) < int(of)):
            raise KiaraError(f"--shard {text} is no share of the work", "write --shard 0/3, --shard 1/3, --shard 2/3")
        return cls(int(index), int(of))


def slices_of(inputs: Sequence[Input]) -> Iterator[Slice]:
    """Cut huge inputs into slices; others are one slice each."""
    for found in inputs:
        cuttable = found.kind in CUTTABLE and not found.packing
        of = max(1, -(-found.size // CUT)) if cuttable else 1
        yield from (Slice(found, index, of) for index in range(of))


def units_of(inputs: Sequence[Input], held_out: bool = False) -> list[Unit]:
    """Gather slices into units, in order."""
    units: list[Unit] = []
    gathered: list[Slice] = []
    for part in slices_of(inputs):
        gathered.append(part)
        if Unit(tuple(gathered)).size >= UNIT:
            units.append(Unit(tuple(gathered), held_out))
            gathered = []
    return [*units, Unit(tuple(gathered), held_out)] if gathered else units
