"""Adapters and the checkpoints that they belong to: a small file that is worth nothing without its base.

In: the checkpoint of an adapter. Out: its base, found by path and told by hash; and the two merged, which is what
every command works with. An adapter's `base` is the hash of the weights that it was trained on; its `adapter` says
how it is added (rank, alpha, names of layers) and where its base was: the path from the run's folder, and its size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kiara_cli.config.schema import LoraConfig
from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.atomic import link
from kiara_cli.core.checkpoint.files import SUFFIXES, Checkpoint, content_hash
from kiara_cli.core.checkpoint.vocabulary import with_rows
from kiara_cli.core.model import lora
from kiara_cli.errors import KiaraError

KEPT = "base"  # the name in a run's folder of a base that has no other lasting one


@dataclass(frozen=True)
class Base:
    """What an adapter's checkpoints say of the one that it belongs to."""

    hash: str
    path: str  # from the run's folder
    size: int

    def about(self, config: LoraConfig, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return what a checkpoint's `adapter` holds; `weights` are the adapter's."""
        targets = list(lora.layers_of(weights))
        return {
            "path": self.path, "size": self.size, "rank": config.rank, "alpha": config.alpha, "targets": targets,
        }  # fmt: skip

    @classmethod
    def recorded(cls, adapter: Checkpoint) -> Base:
        """Return what an adapter's checkpoint says."""
        about = adapter.adapter or {}
        return cls(str(adapter.base), str(about.get("path", "")), int(about.get("size", 0)))


def keep(base: Checkpoint, run: Path) -> Base:
    """Note where the base of a new run is.

    Where its name is that of the newest best or last checkpoint, which the run is going to take, and it has no other,
    it gets another one in the run's folder.
    """
    path = base.path
    if path.parent.resolve() == run.parent.resolve():
        known = (other for other in sorted(run.parent.glob(f"*/{path.name}")) if other.samefile(path))
        if (lasting := next(known, None)) is None:
            lasting = run / f"{KEPT}{path.suffix}"
            link(path, lasting)
        path = lasting
    try:
        recorded = os.path.relpath(path.resolve(), run.resolve())
    except ValueError:  # on another drive
        recorded = str(path.resolve())
    return Base(base.identity, recorded, path.stat().st_size)


def base_of(adapter: Checkpoint) -> Checkpoint:
    """Find and load the base of an adapter, with as many rows as it had in training. Raises KiaraError."""
    recorded, seen = Base.recorded(adapter), []
    for path in _candidates(adapter.path, recorded):
        found = opened(files.load(path, weights_only=True))
        if found.identity == recorded.hash:
            return with_rows(found, adapter.config["model"]["vocab_size"])
        seen.append(str(path))
    if seen:
        raise KiaraError(
            f"{adapter.path} is an adapter, and {seen[0]} is not the checkpoint that it was trained on",
            f"put that one at {_place(adapter.path, recorded)}",
        )
    raise KiaraError(
        f"{adapter.path} is an adapter, and the checkpoint that it was trained on is not at "
        f"{_place(adapter.path, recorded)}",
        "put it there, or beside the adapter",
    )


def opened(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint as commands use it: of an adapter its base with the adapter merged into it.

    Matrices that are quantized in the base become full ones: what the adapter adds is finer than their codes. Raises
    KiaraError if the base is not there.
    """
    if checkpoint.base is None:
        return checkpoint
    base = base_of(checkpoint)
    try:
        weights = lora.merged(base.full_weights(), checkpoint.model, float((checkpoint.adapter or {})["alpha"]))
    except (KeyError, ValueError) as error:
        raise KiaraError(f"{checkpoint.path} does not fit {base.path} ({error})", "use another checkpoint") from None
    both = hashlib.sha256(f"{checkpoint.base} {content_hash(checkpoint.model)}".encode()).hexdigest()
    whole = dataclasses.replace(checkpoint, model=weights, base=None, adapter=None, quantize=None)
    return dataclasses.replace(whole, known_as=both, merged=True)


def _place(adapter: Path, recorded: Base) -> Path:
    return Path(os.path.normpath(adapter.parent / recorded.path))


def _candidates(adapter: Path, recorded: Base) -> Iterator[Path]:
    """Yield files that may be the base: where it was, seen from the run or from beside it; then, of its size, those
    in the adapter's folder and in the folders beside it."""
    folder, given = adapter.parent, set()
    for start in (folder, folder / "run"):
        path = Path(os.path.normpath(start / recorded.path))
        if path.is_file() and path.resolve() not in given:
            given.add(path.resolve())
            yield path
    for pattern in ("*", "*/*", "../*", "../*/*"):
        for path in sorted(folder.glob(pattern)):
            fits = path.suffix in SUFFIXES and path.is_file() and path.stat().st_size == recorded.size
            if fits and path.resolve() not in given and not path.samefile(adapter):
                given.add(path.resolve())
                yield path
