"""C made into a library of this process, where a compiler is at hand.

In: a source file. Out: the library, made once and kept in the user's cache folder, or made by each process where
nothing can be kept.

A kept file is code: the folder belongs to the user alone (0700), and beside each file stands its hash, which is
checked before it is loaded. What is damaged or in another's hands is made again, as if it were not there.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from kiara_cli.config.folders import cache_folder

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()  # twice as fast as 256
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
HEADER = Path(__file__).with_name("numbers.h")  # what a source may include
PATIENCE = 60  # seconds that a compiler may take

_loaded: dict[str, ctypes.CDLL] = {}  # in this process


class CompilerError(Exception):
    """There is no compiler that makes this; the message says why in one line."""


def build(source: Path, signatures: Mapping[str, str]) -> ctypes.CDLL:
    """Return a C file as a library: the one kept in the cache folder, or a new one, kept there if that can be done.

    `signatures`: of each function, a letter an argument (pointer, integer, float); they return an integer or nothing.
    Raises CompilerError.
    """
    library = _library(source)
    for name, letters in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [TYPES[letter] for letter in letters], ctypes.c_int64
    return library


def _library(source: Path) -> ctypes.CDLL:
    """Load a library once a process: what is mapped must not be written over."""
    name = f"{source.stem}-{_key(source)}.so"
    if name not in _loaded:
        path = cache_folder() / "compiled" / name
        _loaded[name] = _kept(path) or _made(source, path)
    return _loaded[name]


def _kept(path: Path) -> ctypes.CDLL | None:
    """Load a kept library, if it is whole and only the user can have written it."""
    try:
        mine = _is_ours(path.parent) and _is_ours(path)
        whole = mine and path.with_suffix(".sha256").read_text() == _hash(path)
        return ctypes.CDLL(str(path)) if whole else None
    except OSError:  # it is not there, or was made for other libraries than this system's
        return None


def _made(source: Path, keep: Path) -> ctypes.CDLL:
    """Compile and load a library, and keep it if that can be done."""
    with tempfile.TemporaryDirectory(prefix="kiara-") as place:
        made = Path(place, source.stem + ".so")
        try:
            _compile(source, made)
            library = ctypes.CDLL(str(made))
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(str(error)[:200]) from None
        with contextlib.suppress(OSError):  # no room, someone else's folder: the next process compiles again
            _keep(made, keep)
    return library


def _compile(source: Path, made: Path) -> None:
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CompilerError("no C compiler")
    shared = ["-fPIC", "-shared", f"-I{HEADER.parent}", str(source), "-o", str(made), "-lm"]
    command = [compiler, *FLAGS, *WIDE, *shared]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{compiler} ended with {done.returncode}"]
        raise CompilerError(next((line for line in lines if "error" in line), lines[0])[:200])


def _key(source: Path) -> str:
    """Name what a library depends on: its source, the header, the flags, and the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    texts = [file.read_text(encoding="utf-8") for file in (source, HEADER)]
    about = [texts, FLAGS, WIDE, platform.platform(), platform.machine(), processor]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _keep(made: Path, kept: Path) -> None:
    folder, partial = kept.parent, kept.with_name(f".{kept.name}.{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    try:
        shutil.copyfile(made, partial)
        partial.chmod(0o600)
        kept.with_suffix(".sha256").write_text(_hash(partial))
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    about = path.stat()
    return os.name != "posix" or (about.st_uid == os.getuid() and not stat.S_IMODE(about.st_mode) & 0o022)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
