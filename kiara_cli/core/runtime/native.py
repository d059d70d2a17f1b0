"""C made into a library of this process, where a compiler is at hand.

In: a source file. Out: the library, made anew each time: half a second, and nothing left on disk to be trusted.
"""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp")
WIDE = ("-mprefer-vector-width=512",) if platform.machine() in ("x86_64", "AMD64") else ()  # twice as fast as 256
TYPES = {"p": ctypes.c_void_p, "i": ctypes.c_int64, "f": ctypes.c_float}


class CompilerError(Exception):
    """There is no compiler that makes this; the message says why in one line."""


def build(source: Path, signatures: Mapping[str, str]) -> ctypes.CDLL:
    """Compile and load a C file. `signatures`: of each function, a letter an argument (pointer, integer, float).

    Raises CompilerError.
    """
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        raise CompilerError("no C compiler")
    with tempfile.TemporaryDirectory(prefix="kiara-") as folder:
        made = Path(folder, source.stem + ".so")
        command = [compiler, *FLAGS, *WIDE, "-fPIC", "-shared", str(source), "-o", str(made), "-lm"]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
            library = ctypes.CDLL(str(made))
        except subprocess.CalledProcessError as error:
            raise CompilerError((error.stderr.strip().splitlines() or [str(error)])[0][:200]) from None
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(str(error)[:200]) from None
    for name, letters in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [TYPES[letter] for letter in letters], None
    return library
