"""Which matrices become small, and how small: what a person asks for and what a checkpoint records.

In: the section `quantize` of a config and a model's config. Out: `Scheme`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import QuantizeConfig
from kiara_cli.errors import KiaraError

FORM = 1  # of the stored codes: rows of int8, or of nibbles, even columns low; bfloat16 scales
WHOLE = 16  # bits of a matrix that stays as it is, but for its storing in bfloat16


@dataclass(frozen=True)
class Scheme:
    """Bits per number of the blocks' matrices, of the embedding and of the head; columns that share a 4-bit scale."""

    bits: int
    method: str
    group_size: int
    embedding_bits: int
    head_bits: int
    form: int = FORM

    def bits_of(self, name: str) -> int:
        """Return the bits of a module's matrix: of `tokens`, `head`, or one of a block."""
        return {"tokens": self.embedding_bits, "head": self.head_bits}.get(name, self.bits)

    def group_of(self, name: str, columns: int) -> int:
        """Return how many columns share a scale. Raises KiaraError if they do not divide the matrix."""
        if self.bits_of(name) == 8:
            return columns
        if columns % self.group_size or columns % 2:
            raise KiaraError(
                f"groups of {self.group_size} do not divide the {columns} columns of {name}",
                f"give --group-size {math.gcd(columns, self.group_size) or columns}"
                if columns % 2 == 0
                else "4 bits need an even number of columns: use --bits 8",
            )
        return self.group_size

    def record(self) -> dict[str, Any]:
        """Return the scheme as a checkpoint keeps it."""
        return dataclasses.asdict(self)


def asked_for(bits: int, settings: QuantizeConfig, model: ModelConfig) -> Scheme:
    """Return the scheme for a model. A head tied to the embedding is one matrix, as sharp as the sharper of both."""
    embedding, head = settings.embedding_bits or bits, settings.head_bits or bits
    if model.tied_head:
        embedding = head = max(settings.embedding_bits or 0, settings.head_bits or 0) or bits
    return Scheme(bits, settings.method, settings.group_size, embedding, head)


def recorded(values: Mapping[str, Any], origin: str) -> Scheme:
    """Read a scheme back. Raises KiaraError for one that this Kiara does not know."""
    try:
        scheme = Scheme(**values)
        known = scheme.form == FORM and {scheme.bits, scheme.embedding_bits, scheme.head_bits} <= {4, 8, WHOLE}
    except TypeError:
        known = False
    if not known:
        raise KiaraError(
            f"{origin} stores its numbers in a way that this Kiara does not read",
            "make it again from the checkpoint it came from: kiara quantize",
        )
    return scheme
