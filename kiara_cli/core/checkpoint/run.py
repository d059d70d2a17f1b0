"""A run's folder: the one module that makes it, and writes run.json, metrics.jsonl and its checkpoints' names.

In: a data set's name, a config, records, checkpoints. Out: checkpoints/<run>/ as `kiara runs` and people read it.
torch is imported where a checkpoint is saved and nowhere else: whoever looks at records does not wait for it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kiara_cli.config.load import from_mapping, to_yaml
from kiara_cli.config.schema import Config
from kiara_cli.config.text import read_mapping
from kiara_cli.core.checkpoint import identity
from kiara_cli.core.checkpoint.atomic import link, replacing
from kiara_cli.core.checkpoint.history import History, read_history
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.checkpoint.files import Checkpoint

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

log = logging.getLogger("kiara.checkpoint")

STUDY = "study.json"  # in a folder of runs: they were made to be compared, and none of them is the last or the best
STALE = ".*.partial*"  # what a process that was killed while writing left behind
PACKAGES = ("kiara-slm", "torch", "numpy", "tiktoken", "rustbpe")


@dataclass(frozen=True)
class Run:
    """One run folder under `root`."""

    root: Path
    folder: Path
    writes: bool = True  # of several processes that train it one does

    @classmethod
    def create(cls, root: Path, name: str) -> Run:
        """Make a new folder: `name`, or `name-2`, `name-3` … where it is taken. Two runs never share one.

        Raises KiaraError for a name that would be another place than one folder in `root`.
        """
        _check_name(name)
        root.mkdir(parents=True, exist_ok=True)
        note_killed(root)
        for folder in _names(root, name):
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                return cls(root, folder)
        raise AssertionError("there is always a next number")

    @staticmethod
    def check(root: Path, name: str | None) -> None:
        """Raise KiaraError, before any work is done, if a run of this name could not be made under `root`."""
        if name is not None:
            _check_name(name)
        if root.exists() and not root.is_dir():
            raise KiaraError(f"{root} is a file, not the folder of runs", "move it away")

    @classmethod
    def find(cls, root: Path, name: str | None) -> Run:
        """Find a run by name, or the one that saved last. Raises KiaraError with the runs there are."""
        note_killed(root)
        if name is not None and (root / name / "run.json").is_file():
            return cls(root, root / name)
        saved = [path for name in ("last.pt", "step_*/rest") for path in root.glob(f"*/{name}")]
        runs = [path.parents[path.name == "rest"] for path in sorted(saved, key=lambda path: path.stat().st_mtime)]
        if name is None and runs:
            return cls(root, runs[-1])
        there = ", ".join(dict.fromkeys(run.name for run in runs)) or "none yet"
        raise KiaraError(
            f"no run {name} in {root}" if name else f"no run in {root} to resume",
            f"runs that can be resumed: {there}",
        )

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    def lock(self) -> Lock:
        """Claim the run for this process, and clear away what a killed one left. Raises KiaraError if it is taken."""
        if not self.writes:
            return Lock(None)  # another process of the group has it
        lock = Lock(self.folder)
        if not lock.holds:
            log.warning("%s cannot be locked here: do not train it twice at once", self.folder)
        for stale in self.folder.glob(STALE):
            remove(stale)
        return lock

    def steps(self) -> list[Path]:
        """List the periodic checkpoints, oldest first: files, and folders that several processes wrote."""
        return sorted(path for path in self.folder.glob("step_*") if path.suffix == ".pt" or path.is_dir())

    def step(self, number: int) -> Path:
        """Name a periodic checkpoint, without its suffix."""
        return self.folder / f"step_{number:07d}"

    def describe(self, config: Config, facts: Mapping[str, Any], step: int = 0) -> None:
        """Write config.yaml and run.json; facts already in run.json stay unless given anew. The run stands at `step`.

        With the facts there are the hashes of what decides the results, which follow where a resumed run changes.
        """
        before = self.facts()
        defined_before = self._definition(before)
        self.write_text("config.yaml", f"# hash: {config_hash(config)}\n{to_yaml(config)}")
        known: dict[str, Any] = {
            "run": self.name,
            "created": now(),
            "git_commit": git_commit(),
        }
        known |= {"versions": versions(), "machine": f"{platform.platform()}, {platform.machine()}"}
        process = {"pid": os.getpid(), "host": platform.node(), "reason": None}
        merged = known | before | {"config_hash": config_hash(config)} | process | dict(facts)
        merged |= identity.hashes(identity.definition(config, merged), defined_before, before, step)
        self.write_text("run.json", json.dumps(merged, indent=2) + "\n")

    def facts(self) -> dict[str, Any]:
        """Read run.json; empty where there is none yet."""
        try:
            facts = json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def config(self) -> Config:
        """Read config.yaml. Raises KiaraError if it is missing or damaged."""
        path = self.folder / "config.yaml"
        if not path.is_file():
            raise KiaraError(f"{path} is not there", "restore it, or remove the run")
        return from_mapping(read_mapping(path), str(path)).config

    def history(self) -> History:
        """Read metrics.jsonl."""
        return read_history(self.folder / "metrics.jsonl")

    def _definition(self, facts: Mapping[str, Any]) -> identity.Definition | None:
        """Return what the run's results depended on until now; None for a new run and for one that cannot tell."""
        if "results_hash" not in facts:
            return None
        try:
            return identity.definition(self.config(), facts)
        except KiaraError:
            return {}

    @property
    def status(self) -> str | None:
        """How the run stands; `killed` where run.json says `running` and no process trains the run."""
        if (lock := self.abandoned()) is not None:
            lock.release()
            return "killed"
        status: str | None = self.facts().get("status")
        return status

    def abandoned(self) -> Lock | None:
        """Claim a run that says it is running although no process trains it; None for any other run."""
        if self.facts().get("status") != "running":
            return None
        try:
            lock = Lock(self.folder)
        except (KiaraError, OSError):
            return None
        facts = self.facts()  # read again: now nobody changes them
        if facts.get("status") == "running" and (lock.holds or not _may_be_alive(facts)):
            return lock
        lock.release()
        return None

    @contextlib.contextmanager
    def noting_the_end(self) -> Iterator[None]:
        """Set the status to failed, with the reason, or to interrupted if an exception leaves this block."""
        try:
            yield
        except BaseException as error:
            failed = isinstance(error, Exception)
            reason = f"{type(error).__name__}: {error}" if failed else None
            with contextlib.suppress(OSError):  # the error on its way out says more
                if self.facts().get("status") == "running":
                    self.set_status("failed" if failed else "interrupted", reason=reason)
            raise

    def set_status(self, status: str, **facts: Any) -> None:
        """Note in run.json how the run stands: running, finished, interrupted, diverged, failed or killed."""
        merged = self.facts() | {"status": status, "updated": now(), **facts}
        self.write_text("run.json", json.dumps(merged, indent=2) + "\n")

    def record(self, values: Mapping[str, Any]) -> None:
        """Append one object to metrics.jsonl."""
        if not self.writes:
            return
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def cut_records(self, step: int) -> None:
        """Drop what metrics.jsonl says beyond `step`, and a line that a kill cut short."""
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                if json.loads(line)["step"] <= step:
                    kept.append(line)
        self.write_text("metrics.jsonl", "".join(line + "\n" for line in kept))

    def save_step(self, checkpoint: Checkpoint, step: int, keep: int, safetensors: bool) -> Path:
        """Write step_<step>.pt and make last.pt the same file; drop all but the newest `keep`."""
        from kiara_cli.core.checkpoint import files

        path = self.step(step).with_suffix(".pt")
        if not self.writes:
            return path
        files.save(checkpoint, path)
        link(path, self.last)
        if safetensors:
            files.save(checkpoint, path.with_suffix(".safetensors"))
        self.prune(keep)
        return path

    def prune(self, keep: int) -> None:
        """Drop all periodic checkpoints but the newest `keep`."""
        for old in self.steps()[:-keep]:
            remove(old)
            old.with_suffix(".safetensors").unlink(missing_ok=True)

    def save_best(self, checkpoint: Checkpoint, safetensors: bool) -> Path:
        """Write best.pt."""
        from kiara_cli.core.checkpoint import files

        if not self.writes:
            return self.best
        files.save(checkpoint, self.best)
        if safetensors:
            files.save(checkpoint, self.best.with_suffix(".safetensors"))
        return self.best

    def publish(self) -> None:
        """Make checkpoints/best.pt and checkpoints/last.pt those of this run, unless it is one of a study's."""
        if not self.writes or (self.root / STUDY).exists():
            return
        for path in (self.best, self.last):
            if path.is_file():
                link(path, self.root / path.name)

    def write_text(self, name: str, text: str) -> None:
        """Replace a text file of the run, atomically."""
        if not self.writes:
            return
        with replacing(self.folder / name) as partial:
            partial.write_text(text, encoding="utf-8")


class Lock:
    """A claim on a folder that ends with `release`, or with the process however it ends.

    The operating system keeps it (flock on the folder itself); Windows has no such lock, and gets none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._descriptor: int | None = None
        if fcntl is None or folder is None:
            return
        self._descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise KiaraError(
                f"{folder} is being trained by another process", "wait for it, or start a new run without --resume"
            ) from None
        except OSError:  # a file system without locks
            self.release()

    @property
    def holds(self) -> bool:
        """Whether the operating system keeps this claim; it cannot on Windows and on some network file systems."""
        return self._descriptor is not None

    def release(self) -> None:
        """Let others have it; a second time changes nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def note_killed(root: Path) -> None:
    """Correct run.json of each run whose process ended without noting how, as by kill -9."""
    for path in root.glob("*/run.json"):
        run = Run(root, path.parent)
        if (lock := run.abandoned()) is not None:
            with contextlib.suppress(OSError):  # a folder that only others may write to
                run.set_status("killed", reason="the process ended without noting how")
            lock.release()


def config_hash(config: Config) -> str:
    """Return the SHA-256 of a config's YAML."""
    return hashlib.sha256(to_yaml(config).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def git_commit() -> str | None:
    """Return the commit checked out in the working folder, with + for uncommitted changes; None outside git."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        ask = {"capture_output": True, "text": True, "timeout": 10, "check": True}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **ask).stdout.strip()  # type: ignore[call-overload]
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **ask).stdout  # type: ignore[call-overload]
        return f"{head}+" if changed.strip() else str(head)
    return None


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _may_be_alive(facts: Mapping[str, Any]) -> bool:
    """Tell whether the process that run.json names may be there; of another machine's and on Windows nobody knows."""
    if os.name != "posix" or facts.get("host") != platform.node():
        return True
    try:
        os.kill(int(facts["pid"]), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, KeyError, TypeError, ValueError):
        return False
    return True


def _names(root: Path, name: str) -> Iterator[Path]:
    yield root / name
    number = 2
    while True:
        yield root / f"{name}-{number}"
        number += 1


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise KiaraError(f"--name {name!r} cannot name a run", "use letters, digits, _ - and .")
