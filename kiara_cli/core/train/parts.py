"""What a training learns from beside its own data folder: weighted sources, and what its checkpoint learned before.

In: the config, and the checkpoint that the run starts from. Out: data folders with their weights or shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kiara_cli.config import load as config_load
from kiara_cli.config.schema import Config, DataConfig
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.data.folders import Prepared, open_folder
from kiara_cli.core.data.mixture import Part, apart, paths_of
from kiara_cli.core.data.prepare import prepare, reopen
from kiara_cli.core.data.source import Means, Report, Source
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


def common_tokenizer(config: Config, means: Means, report: Report) -> Tokenizer | None:
    """Fit the tokenizer of a new model on all sources, where they get folders of their own; else None."""
    if not apart(config.data):
        return None
    whole = dataclasses.replace(config.data, sources=tuple(paths_of(config.data)[1:]))
    with Source(whole, means, report) as source:
        return source.fit(config.tokenizer, source.split())


def gather(
    config: Config, tokenizer: Tokenizer, base: Checkpoint | None, root: Path, report: Report, means: Means
) -> list[Part]:
    """Prepare what is learned from beside the run's own data. Raises KiaraError."""

    def made(source: str) -> Prepared:
        other = _beside(config.data, source)
        return prepare(other, config.tokenizer, root, tokenizer, report, means)

    parts = [Part(made(source), weight) for source, weight in apart(config.data)]
    if config.data.replay:
        parts.append(Part(_replayed(config, tokenizer, base, root, made, report, means), share=config.data.replay))
    elif config.data.replay_source is not None:
        raise KiaraError("data.replay_source is replayed by a share of 0", "say how much: data.replay=0.2")
    return parts


def recorded(parts: list[Mapping[str, Any]], root: Path) -> list[Part]:
    """Open what a checkpoint says that it learned from beside its own data. Raises KiaraError if it is not there."""
    found = []
    for record in parts:
        folder = Path(record["folder"])
        there = next((path for path in (folder, root / folder.name) if (path / "meta.json").is_file()), None)
        if there is None or (data := open_folder(there)).meta.hash != record["hash"]:
            raise KiaraError(f"{folder}, which the run learns from too, is not there as it was", "restore it")
        found.append(Part(data, record["weight"], record["share"]))
    return found


def _replayed(
    config: Config,
    tokenizer: Tokenizer,
    base: Checkpoint | None,
    root: Path,
    made: Callable[[str], Prepared],
    report: Report,
    means: Means,
) -> Prepared:
    """Return the data to replay. Raises KiaraError if there is none."""
    share, remedy = config.data.replay, "name what to replay: data.replay_source=PATH, or leave out data.replay"
    if config.data.replay_source is not None:
        return made(config.data.replay_source)
    if base is None:
        raise KiaraError(f"data.replay={share:g} has nothing to replay: a new model has learned nothing", remedy)
    if not base.data.get("folder"):
        raise KiaraError(f"data.replay={share:g}: {base.path} does not say what it has learned from", remedy)
    stored = config_load.from_mapping(base.config, str(base.path)).config
    try:
        return reopen(stored.data, stored.tokenizer, root, tokenizer, base.data, report, means)
    except KiaraError as error:
        raise KiaraError(f"data.replay={share:g}: {error.cause}", remedy) from None


def _beside(data: DataConfig, source: str) -> DataConfig:
    """Return the settings by which another source is read: as the run's own, but for what names that."""
    return dataclasses.replace(data, source=source, sources=(), val_source=None, name=None, output=None)
