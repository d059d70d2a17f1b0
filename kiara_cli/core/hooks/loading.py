"""A person's own file of hooks: run only when it is named on the command line.

In: paths. Out: what they register. Raises KiaraError, in one line with the file's own line, if one fails.
"""

from __future__ import annotations

import hashlib
import sys
import traceback
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kiara_cli.config.hooks import hooks_of
from kiara_cli.core.hooks.registry import Registered, Source, find, forget_files, register_from
from kiara_cli.errors import KiaraError


def use_files(paths: Iterable[str | Path]) -> list[Registered]:
    """Run these files and return the hooks that they register, in the place of those of files run before."""
    forget_files()
    return [hook for path in dict.fromkeys(map(Path, paths)) for hook in _load(path)]


def sources_of(section: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the SHA-256 of each file that hooks of a config come from, by its path."""
    found = [find(config.use).source for config in hooks_of(section)]
    return {source.path: source.sha256 for source in found if source is not None}


def check_same(recorded: Mapping[str, str], section: Mapping[str, Mapping[str, Any]], allow_changed: bool) -> None:
    """Raise KiaraError if hooks of a run come from other files than it was started with."""
    now, before = sorted(sources_of(section).values()), sorted(recorded.values())
    if now != before and not allow_changed:
        names = ", ".join(recorded) or "no file"
        raise KiaraError(
            f"the run was started with the hooks of {names}, and --hooks gives other code",
            "restore the file, or go on with it as it is: --allow-changed-hooks",
        )


def _load(path: Path) -> list[Registered]:
    """Run one file. Its code is what was read here, so that the hash is that of what ran."""
    try:
        code = path.read_bytes()
    except OSError as error:
        raise KiaraError(f"--hooks {path}: {error.strerror}", "give a Python file with hooks in it") from None
    source = Source(str(path), hashlib.sha256(code).hexdigest())
    module = types.ModuleType(f"kiara_hooks_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look there for the types of their fields
    try:
        hooks = register_from(source, lambda: exec(compile(code, str(path), "exec"), module.__dict__))
    except KiaraError as error:
        raise KiaraError(f"--hooks {path}{_line(error, path)}: {error.cause}", error.remedy) from None
    except (Exception, SystemExit) as error:
        what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise KiaraError(f"--hooks {path}{_line(error, path)}: {what}", "correct it") from error
    if not hooks:
        raise KiaraError(f"--hooks {path} registers no hook", "put @forward, @update or another one on a function")
    return hooks


def _line(error: BaseException, path: Path) -> str:
    """Name the line of a file at which an error arose."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f", line {lines[-1]}" if lines else ""
