"""C with mistakes in it, to see that they are noticed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from kiara_cli.core.runtime import native

Mutation = tuple[str, str]  # what stands in the source, and what is to stand there where WRONG is true
Build = Callable[[Path, Mapping[str, str], Mapping[str, Mutation]], "Mutants"]


class Mutants:
    """A library with all mutations of a source in it, of which one at a time is switched on."""

    def __init__(self, library: native.Library, names: Sequence[str]) -> None:
        self.library, self.names = library, names
        self._switch = ctypes.c_int.in_dll(library, "mutant")

    def choose(self, name: str | None) -> native.Library:
        self._switch.value = 0 if name is None else 1 + self.names.index(name)
        return self.library


@pytest.fixture(scope="session")
def build_mutants(tmp_path_factory: pytest.TempPathFactory) -> Build:
    def build(source: Path, signatures: Mapping[str, str], mutations: Mapping[str, Mutation]) -> Mutants:
        texts = {source.name: source.read_text(), "numbers.h": native.HEADER.read_text()}
        for number, (name, (right, wrong)) in enumerate(mutations.items(), 1):
            (file,) = (file for file, text in texts.items() if right in text)
            assert texts[file].count(right) == 1, name
            texts[file] = texts[file].replace(right, wrong.replace("WRONG", f"(mutant == {number})"))
        texts["numbers.h"] = texts["numbers.h"].replace("#pragma once\n", "#pragma once\nextern int mutant;\n")
        texts[source.name] += "\nint mutant;\n"
        folder = tmp_path_factory.mktemp("mutants")
        for file, text in texts.items():
            (folder / file).write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("KIARA_CACHE", str(folder))
            patch.setattr(native, "FLAGS", ("-O1", *native.FLAGS[1:]))
            patch.setattr(native, "HEADER", folder / "numbers.h")
            return Mutants(native.build(folder / source.name, signatures), list(mutations))

    return build
