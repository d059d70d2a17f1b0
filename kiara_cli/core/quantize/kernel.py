"""The product of one row with a small matrix as machine code of our own: kernel.cpp, built by the system's compiler.

In: a folder to keep it in. Out: an operator that a compiled step may call. torch's compiler makes good loops of plain
matrices, but unpacks nibbles at a third of the speed at which they can be read (measured: 12 against 35 billion
weights a second), and an operator of torch's costs a call through its dispatcher.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kiara_cli.core.quantize.layers import product
from kiara_cli.core.quantize.nibbles import to_nibbles
from kiara_cli.core.quantize.rounding import round_to_nearest
from kiara_cli.core.runtime import machine_code
from kiara_cli.errors import KiaraError

SOURCE = Path(__file__).with_name("kernel.cpp")
# Sums in any order, but not -ffast-math: linked into a library, it rounds the whole process's tiny numbers to 0.
LOOSE = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math", "-fno-math-errno", "-ffp-contract=fast")
FLAGS = ("-O3", "-march=native", *LOOSE, "-fopenmp", "-std=c++17", "-shared", "-fPIC", "-w")
SHIM = (
    "AOTITorchError aoti_torch_cpu_small_product("
    "AtenTensorHandle x, AtenTensorHandle codes, AtenTensorHandle scales, AtenTensorHandle* out)"
)

_loaded: dict[Path, bool] = {}  # libraries of this process, and whether they compute what they should


def _plain(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return product(x, codes, scales, None)


def _shape(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return x.new_empty(1, codes.shape[0])


@functools.cache
def _operator() -> tuple[Any, torch.library.Library]:
    """Tell torch of the operator, when it is first asked for: that takes time, and writing does not need it."""
    library = torch.library.Library("kiara", "DEF")  # type: ignore[no-untyped-call]
    library.define("small_product(Tensor x, Tensor codes, Tensor scales) -> Tensor")  # type: ignore[no-untyped-call]
    library.impl("small_product", _plain, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake("kiara::small_product", _shape, lib=library)
    return torch.ops.kiara.small_product.default, library


def small_product(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Return x (1, K) float times a small matrix. Inside a compiled step: kernel.cpp; elsewhere: torch."""
    out: Tensor = _operator()[0](x, codes, scales)
    return out


def config() -> dict[str, object]:
    """Return what torch's compiler must know to call kernel.cpp."""
    return {"aot_inductor.custom_ops_to_c_shims": {_operator()[0]: [SHIM]}}


def find(folder: Path, threads: int) -> Path | None:
    """Return the kept library, if there is one for this processor and this source."""
    return machine_code.find(folder, _key(threads))


def build(folder: Path, threads: int) -> Path:
    """Build the library and keep it. Raises KiaraError where there is no compiler or it fails."""
    return machine_code.keep(folder, _key(threads), lambda path: _compile(path, threads))


def load(path: Path) -> bool:
    """Make the library's operator known to steps that are loaded after it; say whether it computes what it should."""
    if path not in _loaded:
        library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        _loaded[path] = all(_agrees(library, bits) for bits in (8, 4))
    return _loaded[path]


def call(library: ctypes.CDLL, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    """Call the library's product as a compiled step does."""
    handles = torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([x, codes, scales])
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    out = ctypes.c_void_p()
    arguments = [ctypes.c_void_p(pointer(handle, None)) for handle in handles]
    assert library.aoti_torch_cpu_small_product(*arguments, ctypes.byref(out)) == 0
    return torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule(out))


def _capsule(pointer: ctypes.c_void_p) -> Any:
    make = ctypes.pythonapi.PyCapsule_New
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
    return make(pointer, None, None)


def _agrees(library: ctypes.CDLL, bits: int) -> bool:
    """Compare a product with that of the matrix in full."""
    generator = torch.Generator().manual_seed(0)
    small = round_to_nearest(torch.randn(70, 64, generator=generator), bits, 64 if bits == 8 else 32)
    codes = to_nibbles(small.codes) if bits == 4 else small.codes
    x = torch.randn(1, 64, generator=generator)
    return torch.allclose(call(library, x, codes, small.scales), x @ small.full().T, rtol=1e-3, atol=1e-3)


def _key(threads: int) -> str:
    return machine_code.key(source=SOURCE.read_text(encoding="utf-8"), flags=FLAGS, threads=threads)


def _compile(path: Path, threads: int) -> None:
    libraries = Path(torch.__file__).with_name("lib")
    link = (f"-L{libraries}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{libraries}")
    command = [machine_code.compiler(), *FLAGS, f"-DTHREADS={threads}", str(SOURCE), "-o", str(path), *link]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = next((line for line in done.stderr.splitlines() if "error" in line), "no reason given")
        raise KiaraError(f"compiling failed ({reason})", "set runtime.compile=false")
