from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import pytest
import torch

from kiara_cli.core.quantize import kernel
from kiara_cli.core.quantize.nibbles import to_nibbles
from kiara_cli.core.quantize.rounding import round_to_nearest
from kiara_cli.errors import KiaraError

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="there is no compiler")
SHAPES = [(4, 32), (7, 32), (70, 64), (33, 352), (1, 6), (16, 20), (5, 96)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    path = kernel.build(tmp_path_factory.mktemp("code"), 2)
    return ctypes.CDLL(str(path))


@needs_compiler
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_compiled_product_agrees_with_the_full_matrix(
    library: ctypes.CDLL, bits: int, shape: tuple[int, int]
) -> None:
    rows, columns = shape
    groups = [columns] if bits == 8 else [size for size in (2, 4, 6, 16, 32, 352) if columns % size == 0]
    for group in groups:
        small = round_to_nearest(torch.randn(rows, columns), bits, group)
        codes = to_nibbles(small.codes) if bits == 4 else small.codes
        x = torch.randn(1, columns)
        found = kernel.call(library, x, codes, small.scales)
        assert torch.allclose(found, x @ small.full().T, rtol=1e-4, atol=1e-4), group
        assert torch.allclose(kernel.small_product(x, codes, small.scales), found, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_it_is_kept_and_found_again() -> None:
    folder = Path("code")
    assert kernel.find(folder, 1) is None
    path = kernel.build(folder, 1)
    assert kernel.find(folder, 1) == path
    assert kernel.find(folder, 2) is None
    assert kernel.load(path)
    path.unlink()  # a library that is loaded is mapped: never write into it
    path.write_bytes(b"damaged")
    assert kernel.find(folder, 1) is None


def test_without_a_compiler_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KiaraError, match=r"there is none"):
        kernel.build(Path("code"), 1)
    assert list(Path("code").iterdir()) == []


@needs_compiler
def test_tiny_numbers_of_the_whole_process_stay_what_they_are(library: ctypes.CDLL) -> None:
    assert sys.float_info.min / 2 > 0, "loading the library set the processor to round them to 0"
