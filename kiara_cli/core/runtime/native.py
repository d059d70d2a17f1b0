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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from kiara_cli.config.folders import cache_folder

COMPILERS = ("cc", "gcc", "clang", "/opt/homebrew/opt/llvm/bin/clang", "/usr/local/opt/llvm/bin/clang")
LIBOMP = ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp")  # OpenMP beside Apple's compiler, which has none
FLAGS = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
X86 = platform.machine() in ("x86_64", "AMD64")
NATIVE = ["-march=native", "-mprefer-vector-width=512"] if X86 else ["-mcpu=native"]  # 512: twice as fast as 256
if platform.system() == "Darwin" and not X86:
    NATIVE = []  # its compiler makes code for this processor anyway
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}
HEADER = Path(__file__).with_name("numbers.h")  # what a source may include
PATIENCE = 60  # seconds that a compiler may take
TRIAL = """#include <omp.h>
int trial(int n) { int s = 0;
#pragma omp parallel for reduction(+ : s)
for (int i = 0; i < n; i++) s += i;
return s; }"""


class CompilerError(Exception):
    """There is no compiler that makes this; the message says why in one line."""


class Library(ctypes.CDLL):
    """A loaded library, and the compiler that made it."""

    compiler = "unknown"

    def __deepcopy__(self, memo: object) -> Self:
        return self  # a copied model calls the same code


_loaded: dict[str, Library] = {}  # in this process


def build(source: Path, signatures: Mapping[str, str]) -> Library:
    """Return a C file as a library: the one kept in the cache folder, or a new one, kept there if that can be done.

    `signatures`: of each function, a letter an argument (pointer, integer, float); they return an integer or nothing.
    Raises CompilerError.
    """
    library = _library(source)
    for name, letters in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [TYPES[letter] for letter in letters], ctypes.c_int64
    return library


def _library(source: Path) -> Library:
    """Load a library once a process: what is mapped must not be written over."""
    name = f"{source.stem}-{_key(source)}.so"
    if name not in _loaded:
        path = cache_folder() / "compiled" / name
        _loaded[name] = _kept(path) or _made(source, path)
    return _loaded[name]


def _kept(path: Path) -> Library | None:
    """Load a kept library, if it is whole and only the user can have written it."""
    try:
        digest, _, compiler = path.with_suffix(".sha256").read_text().partition(" ")
        if not (is_ours(path.parent) and is_ours(path) and digest == _hash(path)):
            return None
        library = Library(str(path))
    except OSError:  # it is not there, or was made for other libraries than this system's
        return None
    library.compiler = compiler
    return library


def _made(source: Path, keep: Path) -> Library:
    """Compile and load a library with the first compiler that can, and keep it if that can be done."""
    failures: dict[str, str] = {}
    for name, command in _compilers():
        with tempfile.TemporaryDirectory(prefix="kiara-", ignore_cleanup_errors=True) as place:
            made = Path(place, source.stem + ".so")
            try:
                _compile([*command, "-fPIC", "-shared", f"-I{HEADER.parent}", str(source), "-o", str(made), "-lm"])
                with contextlib.suppress(OSError):  # no room, someone else's folder, in use on Windows
                    _keep(made, keep, name)
                library = _kept(keep) or Library(
                    str(made)
                )  # Windows cannot remove what is loaded: rather the kept one
            except (OSError, CompilerError, subprocess.TimeoutExpired) as error:
                failures[name] = str(error)[:200]
                continue
            library.compiler = name
            return library
    raise CompilerError("; ".join(f"{name}: {why}" for name, why in failures.items()) or "no C compiler")


def try_compilers() -> Iterator[tuple[str, str | None]]:
    """Have each compiler that is found make a small parallel library; yield its name, and what went wrong or None."""
    with tempfile.TemporaryDirectory(prefix="kiara-", ignore_cleanup_errors=True) as place:
        source = Path(place, "trial.c")
        source.write_text(TRIAL)
        for number, (name, command) in enumerate(_compilers()):
            made = Path(place, f"trial-{number}.so")
            try:
                _compile([*command, "-fPIC", "-shared", str(source), "-o", str(made), "-lm"])
                right = ctypes.CDLL(str(made)).trial(100) == 4950
                yield name, None if right else "what it makes computes something else"
            except (OSError, CompilerError, subprocess.TimeoutExpired) as error:
                yield name, str(error)[:200]


def _compilers() -> Iterator[tuple[str, list[str]]]:
    """Yield names and commands of the compilers here, each once, and again with OpenMP's library from elsewhere."""
    seen: set[str] = set()
    for name in COMPILERS:
        path = shutil.which(name)
        if path is None or (real := os.path.realpath(path)) in seen:
            continue
        seen.add(real)
        yield name, [path, *FLAGS, *NATIVE, "-fopenmp"]
        for folder in filter(os.path.isdir, LIBOMP):
            linked = [f"-I{folder}/include", f"-L{folder}/lib", f"-Wl,-rpath,{folder}/lib", "-lomp"]
            yield f"{name} with libomp", [path, *FLAGS, *NATIVE, "-Xpreprocessor", "-fopenmp", *linked]


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"]
        raise CompilerError(next((line for line in lines if "error" in line), lines[0])[:200])


def _key(source: Path) -> str:
    """Name what a library depends on: its source, the header, the flags, and the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        processor = platform.processor()
    texts = [file.read_text(encoding="utf-8") for file in (source, HEADER)]
    about = [texts, FLAGS, NATIVE, platform.platform(), platform.machine(), processor]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]


def _keep(made: Path, kept: Path, compiler: str) -> None:
    folder, partial = kept.parent, kept.with_name(f".{kept.name}.{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.chmod(0o700)
    try:
        shutil.copyfile(made, partial)
        partial.chmod(0o600)
        kept.with_suffix(".sha256").write_text(f"{_hash(partial)} {compiler}")
        partial.replace(kept)
    finally:
        partial.unlink(missing_ok=True)


def is_ours(path: Path) -> bool:
    about = path.stat()
    return os.name != "posix" or (about.st_uid == os.getuid() and not stat.S_IMODE(about.st_mode) & 0o022)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
