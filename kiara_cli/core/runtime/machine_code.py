"""Machine code made on this machine for this machine, kept between processes.

In: a module and example inputs. Out: a file in the user's cache folder, and a function that runs it.

A file here is code: the folder belongs to the user alone (0700), and beside each file stands its hash, which is
checked before it is loaded. What is damaged or in another's hands is not loaded, as if it were not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import stat
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kiara_cli.errors import KiaraError

CONFIG = {"cpp.enable_floating_point_contract_flag": "fast"}  # one instruction to multiply and add
Run = Callable[[list[Tensor]], list[Tensor]]


def key(**what: Any) -> str:
    """Return a name for machine code made from `what` on this processor with this torch."""
    flags = ""
    try:
        flags = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        flags = platform.processor()
    about = what | {"torch": torch.__version__, "machine": platform.machine(), "flags": flags, "form": 2}
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:32]


def find(folder: Path, name: str) -> Path | None:
    """Return the kept file of this name, if it is whole and only the user can have written it."""
    path = folder / f"{name}.pt2"
    try:
        if not _is_ours(folder) or not _is_ours(path):
            return None
        return path if path.with_suffix(".sha256").read_text() == _hash(path) else None
    except OSError:
        return None


def keep(folder: Path, name: str, make: Callable[[Path], None]) -> Path:
    """Let `make` write a file and keep it under a name. Raises KiaraError if the folder cannot be written."""
    path, partial = folder / f"{name}.pt2", folder / f".{name}.{os.getpid()}.pt2"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        try:
            make(partial)
            partial.chmod(0o600)
            path.with_suffix(".sha256").write_text(_hash(partial))
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise KiaraError(
            f"compiled code cannot be kept in {folder} ({error.strerror or error})",
            "set KIARA_CACHE to a folder of yours, or runtime.compile=false",
        ) from None
    return path


def compiler() -> str:
    """Return the system's C++ compiler. Raises KiaraError where there is none."""
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "cl"))), None)
    if found is None:
        raise KiaraError(
            "compiling needs a C++ compiler, and there is none", "install g++, or set runtime.compile=false"
        )
    return found


def build(
    module: nn.Module,
    inputs: tuple[Any, ...],
    dynamic: tuple[Any, ...],
    path: Path,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Compile a module ahead of time to a file. Raises KiaraError where there is no compiler or it fails.

    `config` are settings of torch's compiler beside our own.
    """
    compiler()
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        try:
            program = torch.export.export(module, inputs, dynamic_shapes=dynamic)
            settings = {**CONFIG, **(config or {})}
            torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)
        except Exception as error:
            if isinstance(error, OSError):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise KiaraError(f"compiling failed ({reason})", "set runtime.compile=false") from error


def load(path: Path) -> Run | None:
    """Load compiled code, which runs with the number of threads it was made for; None if it cannot be loaded here."""
    try:
        loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1)
    except RuntimeError:  # a missing library, or no room to unpack it
        return None
    run: Run = loader.run
    return run


def _is_ours(path: Path) -> bool:
    about = path.stat()
    return os.name != "posix" or (about.st_uid == os.getuid() and not stat.S_IMODE(about.st_mode) & 0o022)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
