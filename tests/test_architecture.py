"""The arrow of imports, the walls and the silences of docs and design, checked over the real source."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kiara_cli

PACKAGE = Path(kiara_cli.__file__).parent
ARROW = [  # anything may import to its left, nothing to its right
    "errors",
    "config",
    "runtime",
    "tokenizer",
    "data",
    "model",
    "loss",
    "quantize",
    "checkpoint",
    "generate",
    "eval",
    "hooks",
    "train",
    "lab",
    "retrieve",
    "chat",
    "serve",
    "export",
    "api",
    "console",
    "commands",
    "app",
    "__main__",
]
OUTSIDE_CORE = {"errors", "config", "api", "console", "commands", "app", "__main__"}
FILE_WALL = 400
FUNCTION_WALL = 60
LOOP_WALL = 120  # only the training loop may ask for more
COMMANDS = (
    "tokenize", "train", "eval", "runs", "generate", "chat", "serve", "quantize", "export", "import", "inspect",
    "index", "bench", "doctor", "config", "plan",
)  # fmt: skip

MODULES = sorted(PACKAGE.rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def in_core(path: Path) -> bool:
    return path.is_relative_to(PACKAGE / "core")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def stage(module: str) -> str | None:
    """Name the stage a dotted module belongs to: kiara_cli.core.model.cache is `model`."""
    parts = module.split(".")[1:]
    if parts[:1] == ["core"]:
        parts = parts[1:]
    return parts[0] if parts else None


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute name of every import of a module, those inside functions included."""
    package = dotted(path).split(".") if path.name == "__init__.py" else dotted(path).split(".")[:-1]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, (base, node.module)))
            yield from (f"{source}.{alias.name}" for alias in node.names)


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_module_has_its_place_in_the_arrow() -> None:
    strangers = [name(path) for path in MODULES if (stage(dotted(path)) or ARROW[0]) not in ARROW]
    assert strangers == []


def test_core_holds_the_stages_and_nothing_of_what_surrounds_them() -> None:
    misplaced = [
        name(path) for path in MODULES if (at := stage(dotted(path))) and in_core(path) == (at in OUTSIDE_CORE)
    ]
    assert misplaced == []


def test_imports_point_only_to_the_left() -> None:
    backwards = []
    for path in MODULES:
        here = stage(dotted(path))
        for imported in imports(path):
            there = stage(imported) if imported.split(".")[0] == "kiara_cli" else None
            if here and there in ARROW and ARROW.index(there) > ARROW.index(here):
                backwards.append(f"{name(path)} imports {imported}")
    assert backwards == []


def test_core_never_prints() -> None:
    prints = [
        f"{name(path)}:{node.lineno}"
        for path in filter(in_core, MODULES)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert prints == []


def test_core_never_reads_arguments_or_the_environment_and_never_exits() -> None:
    forbidden = {"sys.argv", "sys.exit", "sys.stdout", "sys.stderr", "os.environ", "os.getenv", "os._exit"}
    uses = []
    for path in filter(in_core, MODULES):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in forbidden:
                uses.append(f"{name(path)}:{node.lineno} {ast.unparse(node)}")
        uses += [f"{name(path)} imports {imported}" for imported in imports(path) if imported in forbidden]
    assert uses == []


def test_omegaconf_stops_at_config_load() -> None:
    importers = {name(path) for path in MODULES for module in imports(path) if module.split(".")[0] == "omegaconf"}
    assert importers <= {"config/load.py"}


def test_config_imports_neither_torch_nor_numpy() -> None:
    heavy = [
        f"{name(path)} imports {module}"
        for path in MODULES
        if stage(dotted(path)) in {"errors", "config"}
        for module in imports(path)
        if module.split(".")[0] in {"torch", "numpy"}
    ]
    assert heavy == []


def test_a_package_file_holds_a_docstring_and_nothing_else() -> None:
    crowded = [name(path) for path in MODULES if path.name == "__init__.py" and len(tree(path).body) != 1]
    assert crowded == []


def test_every_module_says_what_goes_in_and_what_comes_out() -> None:
    assert [name(path) for path in MODULES if not ast.get_docstring(tree(path))] == []


def test_no_module_is_a_drawer_for_strangers() -> None:
    drawers = {"utils", "util", "common", "helpers", "misc"}
    assert [name(path) for path in MODULES if drawers & set(Path(name(path)).with_suffix("").parts)] == []


def test_no_file_is_longer_than_the_wall() -> None:
    lengths = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {path: lines for path, lines in lengths.items() if lines > FILE_WALL} == {}


def test_no_function_is_longer_than_the_wall() -> None:
    long = []
    for path in MODULES:
        wall = LOOP_WALL if name(path) == "core/train/loop.py" else FUNCTION_WALL
        for function in functions(path):
            lines = (function.end_lineno or function.lineno) - function.lineno + 1
            if lines > wall:
                long.append(f"{name(path)}: {function.name} has {lines} lines")
    assert long == []


HELP = """
import sys
sys.argv[0] = "kiara"
from kiara_cli.app import main
status = 0
try:
    status = main() or 0
except SystemExit as exit:
    status = exit.code or 0
heavy = {"torch", "numpy"} & {module.split(".")[0] for module in sys.modules}
sys.exit(f"status {status}, imported {sorted(heavy)}" if status or heavy else 0)
"""


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=lambda words: " ".join(words))
def test_help_imports_neither_torch_nor_numpy(words: list[str]) -> None:
    answer = subprocess.run(
        [sys.executable, "-c", HELP, *words, "--help"],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert "Usage" in answer.stdout
