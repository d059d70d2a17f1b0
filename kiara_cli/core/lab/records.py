"""Runs as records: what each of the folders says of its run, however it ended; ten thousand of them in a moment.

In: the folder of runs. Out: a `Record` for each run. What was read is kept in an index beside the runs, and read
again where run.json or the run's folder has changed since; a run that says it is running is looked at every time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.core.checkpoint import identity
from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.core.checkpoint.history import History
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.errors import KiaraError

INDEX = ".runs.json"
FORMAT = 1  # of the index; another one is not read
DAMAGED, UNKNOWN = "damaged", "unknown"  # how a run stands whose run.json is none, or does not say


@dataclass(frozen=True)
class Record:
    """What is known of a run; None where its files do not say. Losses are of the best evaluation."""

    name: str
    status: str  # running, finished, interrupted, diverged, failed, killed; damaged, unknown
    reason: str | None = None
    created: str | None = None
    data: str | None = None
    seed: int | None = None
    parameters: int | None = None
    steps: int | None = None  # planned
    step: int | None = None  # made
    tokens: int | None = None
    val_loss: float | None = None
    bits_per_byte: float | None = None
    seconds: float | None = None
    flops: float | None = None
    memory: int | None = None  # bytes, at most
    bytes: int = 0  # on disk
    results_hash: str | None = None
    group: str | None = None  # equal for runs that differ in the seed alone
    baseline: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the run came to the end that was planned, so that its results can be held to others'."""
        return self.status == "finished" and self.val_loss is not None


FIELDS = {field.name: field.type for field in dataclasses.fields(Record)}
NUMBERS = {name for name, kind in FIELDS.items() if "int" in str(kind) or "float" in str(kind)}


def read_records(root: Path) -> list[Record]:
    """Read all runs under `root`, by name. Raises KiaraError if it is no folder."""
    if root.exists() and not root.is_dir():
        raise KiaraError(f"{root} is a file, not the folder of runs", "give another one: --runs FOLDER")
    known, found, kept = _read_index(root), list[Record](), dict[str, Any]()
    for name, stamp in _stamps(root):
        entry = known.get(name)
        if entry is None or entry[0] != stamp:
            entry = [stamp, list(dataclasses.astuple(read_record(Run(root, root / name))))]
        found.append(record := Record(*entry[1]))
        if record.status != "running":
            kept[name] = entry
    if kept != known:
        _write_index(root, kept)
    return found


def read_record(run: Run) -> Record:
    """Read one run; of one that was killed, note that in its run.json."""
    if (lock := run.abandoned()) is not None:
        with contextlib.suppress(OSError):  # a folder that only others may write to
            run.set_status("killed", reason="the process ended without noting how")
        lock.release()
    facts = run.facts()
    if not facts:
        return Record(run.name, DAMAGED, "run.json is not readable", bytes=disk_use(run.folder))
    killed = facts.get("status") == "running" and lock is not None
    best, seconds, tokens, step = _results(run, facts)
    flops_per_token = _number(facts.get("flops_per_token"))
    from_tokens = None if tokens is None or flops_per_token is None else flops_per_token * tokens
    values = {
        "name": run.name,
        "status": "killed" if killed else _text(facts.get("status")) or UNKNOWN,
        "reason": _text(facts.get("reason")),
        "created": _text(facts.get("created")),
        "data": _text(facts.get("data")) or _name_of(_text(facts.get("data_folder"))),
        "seed": facts.get("seed"),
        "parameters": facts.get("parameters"),
        "steps": facts.get("steps"),
        "step": step,
        "tokens": tokens,
        "val_loss": best.get("val_loss", facts.get("val_loss")),
        "bits_per_byte": best.get("val_bits_per_byte"),
        "seconds": seconds,
        "flops": facts.get("training_flops") or from_tokens,
        "memory": facts.get("peak_memory_bytes"),
        "bytes": disk_use(run.folder),
        "results_hash": _text(facts.get("results_hash")),
        "group": _text(facts.get("group_hash")) or _old_group(run, facts),
        "baseline": _text(_mapping(facts.get("baseline")).get("run")),
    }
    return Record(**{name: _number(value) if name in NUMBERS else value for name, value in values.items()})


def find_run(word: str, root: Path) -> Run:
    """Find a run by its name, or by its folder. Raises KiaraError with the names that are near."""
    folder = Path(word)
    if Path(word).name == word and word not in (".", "..") and (root / word / "run.json").is_file():
        return Run(root, root / word)
    if (folder / "run.json").is_file():
        folder = folder if folder.name not in ("", "..") else folder.resolve()
        return Run(folder.parent, folder)
    names = [name for name, _ in _stamps(root)]
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.4)
    newest = names[-6:]
    remedy = f"did you mean {' or '.join(close)}?" if close else f"there is: {', '.join(newest)}"
    raise KiaraError(f"no run {word} in {root}", remedy if names else "train one first: kiara train FILE")


def disk_use(folder: Path) -> int:
    """Return the bytes that a folder's files take; a file of several names counts once."""
    return sum({(info.st_dev, info.st_ino): info.st_size for info in _files(folder)}.values())


def _results(run: Run, facts: Mapping[str, Any]) -> tuple[Mapping[str, Any], Any, int | None, Any]:
    """Return the best evaluation, seconds, tokens and step; from metrics.jsonl where run.json was not completed."""
    best = _mapping(facts.get("best"))
    ended = facts.get("status") in ("finished", "interrupted", "diverged")
    if ended and best and "seconds" in facts:
        return best, facts["seconds"], facts.get("tokens"), facts.get("step")
    history = run.history()
    last = history.last
    seconds = facts.get("seconds") if ended else None
    tokens, step = (facts.get(name) if ended else None for name in ("tokens", "step"))
    return (
        best if ended and best else history.best or {},
        seconds if seconds is not None else seconds_of(history),
        tokens if tokens is not None else last.get("tokens"),
        step if step is not None else max((row["step"] for row in history.rows), default=None),
    )


def seconds_of(history: History) -> float | None:
    """Return how long the recorded part took; of older records, by their rates."""
    last = history.last
    if "seconds" in last or not last:
        seconds: float | None = _number(last.get("seconds"))
        return seconds
    spent, before = 0.0, 0.0
    for row in history.rows:
        tokens, rate = _number(row.get("tokens")), _number(row.get("tokens_per_second"))
        if tokens and rate:
            spent, before = spent + (tokens - before) / rate, tokens
    return spent or None


def _old_group(run: Run, facts: Mapping[str, Any]) -> str | None:
    """Return the group of a run that was made before run.json had one."""
    try:
        return identity.group_hash(identity.definition(run.config(), facts))
    except (KiaraError, TypeError, ValueError):
        return None


def _stamps(root: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield the name of each run, in their order, with what changes when its files do."""
    if not root.is_dir():
        return
    with os.scandir(root) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    for name in names:
        if (stamp := _stamp(f"{root}/{name}")) is not None:
            yield name, stamp


def _stamp(folder: str) -> list[int] | None:
    try:
        about, inside = os.stat(f"{folder}/run.json"), os.stat(folder)
    except (OSError, ValueError):
        return None
    return [about.st_mtime_ns, about.st_size, inside.st_mtime_ns]


def _read_index(root: Path) -> dict[str, Any]:
    """Read what was kept; nothing if it is damaged, or of another version."""
    try:
        index = json.loads((root / INDEX).read_bytes())
        if index["format"] != FORMAT or index["fields"] != list(FIELDS):
            return {}
        runs: dict[str, Any] = index["runs"]
        width = len(FIELDS)
        return runs if all(len(entry[0]) == 3 and len(entry[1]) == width for entry in runs.values()) else {}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def _write_index(root: Path, runs: Mapping[str, Any]) -> None:
    index = {"format": FORMAT, "fields": list(FIELDS), "runs": runs}
    with contextlib.suppress(OSError), replacing(root / INDEX) as partial:  # a folder that only others may write to
        partial.write_text(json.dumps(index), encoding="utf-8")


def _files(folder: Path) -> Iterator[os.stat_result]:
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # gone since
                yield os.lstat(os.path.join(place, name))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> Any:
    """Return a finite number; None for anything else, as of a file that somebody has edited."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value - value == 0 else None


def _name_of(folder: str | None) -> str | None:
    """Return the data set's name of data/<name>-<hash8>."""
    return Path(folder).name.rpartition("-")[0] or None if folder else None


def chosen(records: Iterable[Record], names: Sequence[str], status: str | None, data: str | None) -> list[Record]:
    """Keep the runs whose name is one of `names` (* stands for anything), that stand so, and of that data."""
    return [
        record
        for record in records
        if (not names or any(fnmatch.fnmatchcase(record.name, name) for name in names))
        and status in (None, record.status)
        and data in (None, record.data)
    ]


def ordered(records: Iterable[Record], key: str, reverse: bool = False) -> list[Record]:
    """Sort by a field, and by name where it is equal; runs that have none come last either way."""
    by_name = sorted(records, key=lambda record: record.name)
    known = [record for record in by_name if getattr(record, key) is not None]
    known.sort(key=lambda record: getattr(record, key), reverse=reverse)
    return known + [record for record in by_name if getattr(record, key) is None]
