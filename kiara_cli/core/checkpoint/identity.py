"""What a run's results depend on: the one place that says which settings count and which cannot matter.

In: the config as it was decided, and the facts of run.json. Out: a flat definition of the run, its hash, and what
differs between two. Runs of equal hashes compute the same on the same kind of machine; `group_hash` leaves the seed
out, so that repeats are found by it.

A setting that stands in none of the tables counts: a new one is safe until somebody shows that it has no effect.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import kiara_cli
from kiara_cli.config.load import to_mapping
from kiara_cli.config.schema import Config

Definition: TypeAlias = dict[str, Any]

SECTIONS_WITHOUT_EFFECT = (  # nothing of them is read in training
    "generate", "chat", "serve", "retrieve", "quantize", "logging",
)  # fmt: skip
WITHOUT_EFFECT = {  # what is shown, kept and how often; the text of samples, which draws from a generator of its own
    "version", "train.log_interval", "train.checkpoint_interval", "train.keep_last", "train.save_safetensors",
    "eval.sample_prompt", "eval.sample_tokens",
}  # fmt: skip
IN_THE_DATA = {  # what these do is in the hashes of the text and of the tokenizer
    "tokenizer.kind", "tokenizer.vocab_size", "tokenizer.alphabet", "tokenizer.fit_bytes", "data.source",
    "data.val_source", "data.name", "data.field", "data.prompt_field", "data.reply_field",
    "data.encoding", "data.val_fraction", "data.shard_tokens", "data.output", "data.corpus_bytes", "data.corpus_seed",
}  # fmt: skip
DECIDED = {  # what was decided of them counts instead: `steps`, train.accumulation, `threads`, `ranks`
    "train.max_steps", "train.max_epochs", "train.batch_tokens", "runtime.threads", "runtime.parallel",
}  # fmt: skip
FACTS = ("steps", "data", "tokenizer", "weights", "hooks", "code", "threads", "torch", "ranks")
SEED = "runtime.seed"
# Of the package, what training runs through; the console, the server and the rest cannot change what is learned.
SOURCES = (
    "config", "core/runtime", "core/tokenizer", "core/data", "core/model", "core/loss.py", "core/checkpoint",
    "core/eval", "core/hooks", "core/train",
)  # fmt: skip
SUFFIXES = {".py", ".c", ".h"}


def counts(key: str) -> bool:
    """Say whether a dotted key of the config is part of a run's definition."""
    section = key.partition(".")[0]
    return section not in SECTIONS_WITHOUT_EFFECT and key not in WITHOUT_EFFECT | IN_THE_DATA | DECIDED


def definition(config: Config, facts: Mapping[str, Any]) -> Definition:
    """Return all that a run's results depend on, by name; None for what an older run.json does not say."""
    settings = {key: value for key, value in flat(to_mapping(config)) if counts(key)}
    versions, files = facts.get("versions"), facts.get("hook_files")
    known = {
        "steps": facts.get("steps", config.train.max_steps),
        "data": facts.get("text_hash") or facts.get("data_hash"),
        "tokenizer": facts.get("tokenizer_hash"),
        "weights": facts.get("weights_hash") or facts.get("from"),
        "hooks": sorted(files.values()) if isinstance(files, Mapping) and files else None,  # those not of the package
        "code": facts.get("code_hash"),
        "threads": facts.get("threads"),
        "torch": facts.get("torch") or (versions.get("torch") if isinstance(versions, Mapping) else None),
    }
    ranks = {"ranks": facts["ranks"]} if facts.get("ranks", 1) > 1 else {}  # processes, where there were several
    return settings | known | ranks


def results_hash(defined: Definition) -> str:
    """Return the SHA-256 of a definition."""
    return hashlib.sha256(json.dumps(defined, sort_keys=True).encode()).hexdigest()


def group_hash(defined: Definition) -> str:
    """Return the SHA-256 of a definition without its seed."""
    return results_hash({key: value for key, value in defined.items() if key != SEED})


def different(one: Definition, other: Definition) -> list[str]:
    """Name what differs between two definitions, in their order."""
    return [key for key in {**one, **other} if one.get(key) != other.get(key)]


def hashes(defined: Definition, before: Definition | None, facts: Mapping[str, Any], step: int) -> dict[str, Any]:
    """Return the facts that identify a run: its hashes, and where it was resumed as another, each such change.

    `before` is its definition until now and `facts` what run.json said then; both hashes cover the history, so that
    a run which changed on its way equals no run that did not.
    """
    found = {"results_hash": results_hash(defined), "group_hash": group_hash(defined)}
    if before is None or "results_hash" not in facts:
        return found
    changed = different(before, defined)
    if not changed:
        return {name: facts.get(name, value) for name, value in found.items()}
    history = list(facts.get("resumed_with_changes") or [])
    chained = {name: _chain(str(facts.get(name)), step, value) for name, value in found.items()}
    return chained | {"resumed_with_changes": [*history, {"step": step, "changed": changed}]}


@functools.cache
def code_hash() -> str:
    """Return the SHA-256 over the sources that training runs through, and Kiara's version."""
    root = Path(kiara_cli.__file__).parent
    digest = hashlib.sha256(installed("kiara-slm").encode())
    for place in SOURCES:
        files = [root / place] if place.endswith(".py") else sorted((root / place).rglob("*"))
        for path in files:
            if path.suffix in SUFFIXES and path.is_file():
                digest.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def installed(package: str) -> str:
    """Return the version of an installed package; empty where it is used from its source."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _chain(before: str, step: int, after: str) -> str:
    return hashlib.sha256(f"{before} until step {step}, then {after}".encode()).hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield dotted keys and values; an empty mapping has none."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
