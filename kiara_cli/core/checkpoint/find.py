"""What a person typed to a checkpoint file.

In: nothing, a file, a folder or a name. Out: the loaded checkpoint and warnings; or an error that says where we
looked and what there is.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.config.folders import expanded
from kiara_cli.core.checkpoint import adapters, files, sharded
from kiara_cli.core.checkpoint.files import SUFFIXES, Checkpoint
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.errors import KiaraError

PLACES = ("checkpoints", "models", "trained_models", ".")
NAMES = ("best.pt", "best.safetensors", "last.pt")


def open_checkpoint(word: str | None, folder: Path | None = None) -> tuple[Checkpoint, list[str]]:
    """Find and load a checkpoint's weights, an adapter's merged into its base's; also return warnings for the person.

    A damaged file that was named is an error that names the last good one; a damaged one that was only found is
    passed over with a warning.
    """
    folder = folder or Path()
    candidates = find(word, folder)
    named = word is not None and (folder / expanded(word)).is_file()
    warnings: list[str] = []
    for path in candidates if not named else candidates[:1]:
        try:
            found = files.load(path, weights_only=True)
        except KiaraError as error:
            if named:
                raise KiaraError(error.cause, _last_good(path, folder)) from None
            warnings.append(f"{error.cause}; trying the one before it")
            continue
        try:
            return adapters.opened(found), warnings
        except KiaraError as error:
            if word is not None:
                raise
            warnings.append(f"{error.cause}; trying the one before it")
    raise KiaraError("; ".join(warnings).replace("; trying the one before it", ""), "train a new model")


def open_for_resume(run: Run) -> tuple[Checkpoint, list[str]]:
    """Load the newest whole checkpoint of a run that training can go on from; also return warnings.

    A periodic one may be newer than last.pt, if the process was killed between the two.
    """
    warnings: list[str] = []
    candidates = list(reversed(run.steps()))
    if run.last.is_file() and not any(path.samefile(run.last) for path in candidates):
        candidates.insert(1, run.last)
    for path in candidates:
        try:
            return load_for_resume(path), warnings
        except KiaraError as error:
            warnings.append(f"{error.cause}; trying the one before it")
    raise KiaraError(f"{run.folder} has no whole checkpoint to resume from", "start a new run")


def load_for_resume(path: Path) -> Checkpoint:
    """Load one periodic checkpoint: a file, or a folder that several processes wrote. Raises KiaraError."""
    return sharded.load(path) if path.is_dir() else files.load(path)


def find(word: str | None, folder: Path) -> list[Path]:
    """List the files that `word` may mean, best first. Raises KiaraError if there is none."""
    if word is None:
        shown = ["checkpoints/best.pt", "checkpoints/*/best.pt"]
        found = [path for name in NAMES if (path := folder / "checkpoints" / name).is_file()]
        for run in _newest_first(folder / "checkpoints"):
            found += _in_folder(run)
    else:
        path = expanded(word)
        if (folder / path).is_file():
            return [folder / path]
        places = [folder / path] if path.is_absolute() else [folder / place / path for place in PLACES]
        shown = [str(place) for place in places]
        found = []
        for place in places:
            if (place / sharded.INDEX).is_file():
                raise KiaraError(
                    f"{place} is a sharded checkpoint, which only the run that it is of is resumed from",
                    "name the run, its best.pt or its last.pt",
                )
            found += _in_folder(place)
            with_suffix = [place.with_name(place.name + suffix) for suffix in (*SUFFIXES, "_model.pt")]
            found += [file for file in (place, *with_suffix) if file.is_file()]
    if found:
        return list(dict.fromkeys(found))
    there = [str(path.relative_to(folder)) for path in existing(folder)]
    remedy = f"there is: {', '.join(there[:8])}" if there else "train one first: kiara train FILE"
    what = f"no checkpoint {word}" if word else "no checkpoint yet"
    raise KiaraError(f"{what} (looked at {', '.join(shown)})", remedy)


def existing(folder: Path) -> list[Path]:
    """List the checkpoints that a person may want to name."""
    found: list[Path] = []
    for place in PLACES:
        for name in NAMES:
            found += sorted((folder / place).glob(f"*/{name}")) if place != "." else []
        found += [path for suffix in SUFFIXES for path in sorted((folder / place).glob(f"*{suffix}"))]
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Listed:
    """A checkpoint that a person may choose: how to name it, and what helps to choose."""

    word: str
    loss: float | None  # the best on held-out data, in nats per token, where the run's records have one
    bytes: int
    modified: float  # in seconds since 1970


def listed(folder: Path) -> list[Listed]:
    """List runs by their names, and other checkpoints by their paths, the newest first."""
    found: dict[str, Listed] = {}
    for path in existing(folder):
        run = path.parent if (path.parent / "metrics.jsonl").is_file() else None
        word = str(path.relative_to(folder)) if run is None else run.name
        facts = path.stat()
        entry = Listed(word, None if run is None else _best_loss(run), facts.st_size, facts.st_mtime)
        found.setdefault(word, entry)
    return sorted(found.values(), key=lambda entry: -entry.modified)


def _best_loss(run: Path) -> float | None:
    losses = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            losses.append(float(json.loads(line)["val_loss"]))
        except (ValueError, LookupError, TypeError):
            continue
    return min(losses, default=None)


def _in_folder(folder: Path) -> list[Path]:
    """List a folder's checkpoints: best, last, then the periodic ones, newest first, then any other."""
    if not folder.is_dir():
        return []
    found = [folder / name for name in NAMES if (folder / name).is_file()]
    found += sorted(folder.glob("step_*.pt"), reverse=True)
    others = (path for suffix in SUFFIXES for path in sorted(folder.glob(f"*{suffix}")))
    return list(dict.fromkeys([*found, *others]))


def _newest_first(root: Path) -> list[Path]:
    runs = {path.parent for path in root.glob("*/*.pt")}
    return sorted(runs, key=lambda run: max(path.stat().st_mtime for path in run.glob("*.pt")), reverse=True)


def _last_good(damaged: Path, folder: Path) -> str:
    """Say which other checkpoint opens: of the same folder if possible."""
    others = _in_folder(damaged.parent) + [
        path for run in _newest_first(folder / "checkpoints") for path in _in_folder(run)
    ]
    for path in others:
        if path != damaged:
            try:
                files.load(path, weights_only=True)
            except KiaraError:
                continue
            return f"the last good one is {path}"
    return "there is no other one: train again"
