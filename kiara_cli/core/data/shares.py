"""One preparation that many processes do together: each every n-th unit of work, and one puts them together.

In: the same settings in every process. Out: the folder that one process would have made, file by file the same. The
processes meet in the folder of parts, which all must reach. Under any scheduler `prepare_share` runs in each and
`merge_shares` once after all; processes that are a group (torchrun) run `prepare_together`, which waits for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import folders
from kiara_cli.core.data.folders import Prepared, dataset_name
from kiara_cli.core.data.mixture import own_sources
from kiara_cli.core.data.parts import Work, encode_units
from kiara_cli.core.data.places import Place
from kiara_cli.core.data.prepare import assemble, digests_of, published, there, told
from kiara_cli.core.data.source import Means, Report, Source
from kiara_cli.core.data.splitting import Split
from kiara_cli.core.data.units import Share
from kiara_cli.core.runtime.parallel import World
from kiara_cli.core.runtime.ranks import tell
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.errors import KiaraError


def prepare_share(
    data: DataConfig,
    root: Path,
    tokenizer: Tokenizer,
    share: Share,
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> tuple[str, int, int]:
    """Do one share of the work; return where it lies, its number of units and that of all. Raises KiaraError."""
    with Source(data, means or Means(), report) as source:
        work = source.work(source.split(), tokenizer)
        place = Place(f"{data.output or root}/{source.parts_name(work)}")
        try:
            mine = _encode(place, work, share, source)
        finally:
            place.close()
    return place.address, len(mine), len(work.units)


def merge_shares(
    data: DataConfig,
    root: Path,
    tokenizer: Tokenizer,
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> Prepared:
    """Put the shares that were done together: the folder that one run would have made. Raises KiaraError."""
    with Source(data, means or Means(), report) as source:
        work = source.work(source.split(), tokenizer)
        place = Place(f"{data.output or root}/{source.parts_name(work)}")
        try:
            total = source.combine(None, tokenizer, digests_of(place, work))
            return _put_together(place, work, source, root / f"{dataset_name(data)}-{total[:8]}", total)
        finally:
            place.close()


def prepare_together(
    world: World,
    data: DataConfig,
    tokenizing: TokenizerConfig,
    root: Path,
    tokenizer: Tokenizer | None = None,
    report: Report = lambda progress: None,
    means: Means | None = None,
) -> Prepared | None:
    """Do what `prepare` does, in every process of a group; the first returns the folder, the others None.

    What was done when a process died is not done again. Raises KiaraError, and FailedElsewhere in the processes that
    have nothing to say.
    """
    data = own_sources(data)
    if (found := folders.fetched(data.source, root)) is not None:
        return folders.checked(folders.open_folder(found), tokenizing, tokenizer) if world.is_first else None
    with Source(data, means or Means(), report) as source:
        tokenizer = tokenizer or source.beside(tokenizing)
        _agree(world, source, tokenizing, tokenizer)
        total = source.combine(tokenizing, tokenizer, _hash_together(world, source))
        folder = root / f"{dataset_name(data)}-{total[:8]}"
        prepared = there(folder, source) if world.is_first else None
        if tell(prepared is not None, world)[0]:
            return prepared
        work = _decide(world, source, tokenizing, tokenizer)
        place = Place(f"{data.output or root}/{source.parts_name(work)}")
        try:
            _encode(place, work, Share(world.rank, world.size), source)
            tell(True, world)  # all have done theirs
            if not world.is_first:
                return None
            _check_shared(place, work, world)
            if digests_of(place, work) != source.digests:
                raise KiaraError(f"{data.source} was changed while it was read", "run the same again")
            return _put_together(place, work, source, folder, total)
        finally:
            place.close()


def _encode(place: Place, work: Work, share: Share, source: Source) -> range:
    """Encode the units of a share; return their numbers."""
    mine = range(share.index, len(work.units), share.of)
    encode_units(place, work, mine, source.reporter("tokenizing", sum(work.units[number].size for number in mine)))
    return mine


def _put_together(place: Place, work: Work, source: Source, folder: Path, total: str) -> Prepared:
    """Make the data folder of all units, and delete that of the parts."""
    if not (folder / "meta.json").is_file():
        assemble(folder, place, source, work, total)
    place.remove()
    return told(dataclasses.replace(published(folder, source.data), made=True), source)


def _agree(world: World, source: Source, tokenizing: TokenizerConfig, tokenizer: Tokenizer | None) -> None:
    """Raise KiaraError, in every process, if one has other files, settings or another tokenizer than the first."""
    seen = {
        "other files": [(part.input.name, part.input.size) for unit in source.units for part in unit.slices],
        "other settings": [dataclasses.asdict(source.data), dataclasses.asdict(tokenizing)],
        "another tokenizer": fingerprint(tokenizer) if tokenizer is not None else None,
    }
    all_ = tell({what: hashlib.sha256(json.dumps(value).encode()).hexdigest() for what, value in seen.items()}, world)
    for rank, one in enumerate(all_):
        if different := [what for what in seen if one[what] != all_[0][what]]:
            raise KiaraError(
                f"process {rank} of {world.size} has {' and '.join(different)} than process 0",
                "start all with the same command, on the same files",
            )


def _hash_together(world: World, source: Source) -> list[str]:
    """Return the hash of each slice, of which each process has read its share."""
    mine = range(world.rank, len(source.units), world.size)
    own = iter(source.hashed([part for number in mine for part in source.units[number].slices]))
    shares = tell([[next(own) for _ in source.units[number].slices] for number in mine], world)
    source.digests = [
        value for number in range(len(source.units)) for value in shares[number % world.size][number // world.size]
    ]
    return source.digests


def _decide(world: World, source: Source, tokenizing: TokenizerConfig, tokenizer: Tokenizer | None) -> Work:
    """Let the first process decide what is held out, and fit the tokenizer if none is given; return all the work."""
    split, state = None, None
    if world.is_first:
        split = source.split()
        if tokenizer is None:
            state = (tokenizer := source.fit(tokenizing, split)).state()
    decided, state = tell((dataclasses.asdict(split) if split else None, state), world)[0]
    if tokenizer is None:
        tokenizer = files.from_state(state, "process 0")
    return source.work(Split(**decided), tokenizer)


def _check_shared(place: Place, work: Work, world: World) -> None:
    """Raise KiaraError if what another process has written is not to be seen here."""
    for number in range(len(work.units)):
        if place.read(f"{number:05}.json") is None:
            raise KiaraError(
                f"what process {number % world.size} of {world.size} has written is not in {place.address} here",
                "run in a folder that all machines share, or give them a place: data.output=s3://BUCKET/data",
            )
