"""Every setting is read by some code, and the table of what each command reads is true.

Commands are run on a tiny model while each read of a setting outside config/ is recorded. What only other runs would
read (another optimizer, a request to the server) is looked for in the source: an attribute of that name on something
that is known to be that section.
"""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kiara_cli
from kiara_cli.app import app, main
from kiara_cli.config.keys import keys
from kiara_cli.config.section import Section
from kiara_cli.config.uses import USES, is_used

PACKAGE = Path(kiara_cli.__file__).parent
CONFIG = str(PACKAGE / "config")
SOURCES = [path for path in PACKAGE.rglob("*.py") if not path.is_relative_to(CONFIG)]
SCHEMA = [key for key in keys() if key != "version"]
WITHOUT_CONFIG = {"config", "runs"}  # config shows all of it; runs looks at what was stored
TINY = (
    "tokenizer.vocab_size=300", "model.context_length=32", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=1",
    "train.max_steps=2", "train.batch_size=2", "train.warmup_steps=0", "eval.sample_tokens=2",
    "runtime.native=false", "runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1",
)  # fmt: skip
PROPERTIES = {  # of sections, which code outside config/ asks for
    name for kind in Section.__subclasses__() for name, value in vars(kind).items() if isinstance(value, property)
}
ADOPTED = (
    "tokenizer",
    "data",
    "hooks",  # read only with --text, or taken from the checkpoint, which refuses others
    "chat.system",
    "chat.max_new_tokens",  # by eval only with --chat
    "retrieve.embedding_model",
    "retrieve.embedding_key_file",  # of an index whose embedder is at an address
    "retrieve.search",  # of one that has a graph
)  # fmt: skip
RUNTIME = [word for word in TINY if word.startswith("runtime.")]
COMMANDS: dict[str, list[str]] = {  # in the order of work
    "tokenize": ["text.txt", "tokenizer.vocab_size=300", "runtime.threads=1"],
    "train": ["text.txt", *TINY],
    "eval": ["--samples", "1", "eval.sample_tokens=2", *RUNTIME],
    "index": [
        "text.txt",
        "--name",
        "x",
        "--query",
        "cat",
        "retrieve.embedder=checkpoints/best.pt",
        *[word for word in RUNTIME if "native" not in word],
    ],
    "generate": ["--prompt", "cat", "retrieve.knowledge=x", "--max-new-tokens", "2", *RUNTIME],
    "chat": ["retrieve.knowledge=x", "chat.max_new_tokens=2", *RUNTIME],
    "serve": ["retrieve.knowledge=x", "--port", "0", *RUNTIME],
    "quantize": ["--bits", "8", "--out", "small.pt", "quantize.calibration_tokens=64", *RUNTIME],
    "export": ["--to", "hf", "--out", "theirs", *[word for word in RUNTIME if "native" not in word]],
    "bench": ["text", "--rounds", "1", "train.batch_size=2", *RUNTIME],
    "doctor": ["runtime.compile=false", *RUNTIME],
    "inspect": ["--prompt", "the", "--answer", " cat", "--show", "surprisal", *RUNTIME],
}


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Which settings each command has read."""
    seen: set[str] = set()

    def look(section: Section, name: str) -> Any:
        frame: FrameType | None = sys._getframe(1)
        value = object.__getattribute__(section, name)
        if frame is not None and frame.f_code.co_name in PROPERTIES:
            frame = frame.f_back  # who asked for the property
        caller = frame.f_code.co_filename if frame is not None else ""
        outside = caller.startswith(str(PACKAGE)) and not caller.startswith(CONFIG)
        if outside and "from_person" in object.__getattribute__(section, "__dict__"):
            seen.add(f"{type(section).section}.{name}")
        return value

    check = Section.__post_init__

    def mark(section: Section) -> None:
        """Mark sections that the layers of a config made, and copies of such: others are the code's own defaults."""
        frame: FrameType | None = sys._getframe(1)
        depth = 0
        while frame is not None and depth < 12:
            copied = frame.f_locals.get("self" if frame.f_code.co_name == "_replace" else "obj")
            if frame.f_code.co_filename.startswith(f"{CONFIG}/load.py") or (
                isinstance(copied, Section) and copied is not section and "from_person" in vars(copied)
            ):
                object.__setattr__(section, "from_person", True)
                break
            frame, depth = frame.f_back, depth + 1
        check(section)

    found = {}
    folder = tmp_path_factory.mktemp("uses")
    (folder / "text.txt").write_text("the cat sat on the mat and the dog sat on the log.\n" * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setattr("kiara_cli.core.serve.server.serve", lambda *given: None)
        patch.setattr("kiara_cli.core.runtime.machine.BLOCK", 100_000)  # measure with little effort
        patch.setattr("kiara_cli.core.lab.doctor.programs.TORCH", "print()")  # which is known to work
        patch.setattr("kiara_cli.core.lab.doctor.paths.COMPILE", "print()")
        patch.setattr("kiara_cli.core.lab.bench.EFFORT", 1e7)
        patch.setattr("kiara_cli.core.lab.bench.STREAMS", (1,))
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"Hi\n")))
        patch.setattr(Section, "__post_init__", mark)
        patch.setattr(Section, "__getattribute__", look, raising=False)
        for command, words in COMMANDS.items():
            seen.clear()
            said = io.StringIO()
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said), pytest.raises(SystemExit) as end:
                main([command, *words])
            assert end.value.code == 0, said.getvalue()
            found[command] = seen & set(SCHEMA)
    return found


def of_command(command: str) -> str:
    """Return the source of a command."""
    path = PACKAGE / "commands" / f"{command}.py"
    return (path if path.is_file() else path.with_name(f"{command}_.py")).read_text(encoding="utf-8")


SHARED = of_command("options") + of_command("knowledge")  # by several commands


def test_no_command_reads_a_setting_that_the_table_says_it_does_not(read: dict[str, set[str]]) -> None:
    """Else a person would be told that a setting has no effect which has one. Add it to USES in config/uses.py."""
    assert {command: sorted(k for k in found if not is_used(command, k)) for command, found in read.items()} == {
        command: [] for command in read
    }


def test_every_entry_of_the_table_is_read_by_its_command(read: dict[str, set[str]]) -> None:
    """Else a setting without effect would pass silently. Take it out of USES in config/uses.py."""
    idle = []
    for command, found in read.items():
        known = found | set(re.findall(r"\"([a-z]+\.[a-z_]+)\"", of_command(command) + SHARED))
        for entry in USES[command]:
            if entry not in ADOPTED and not any(key == entry or key.startswith(f"{entry}.") for key in known):
                idle.append(f"{command}: {entry}")
    assert idle == []


def test_every_command_that_reads_a_config_is_in_the_table_and_says_its_name() -> None:
    commands = {info.name or info.callback.__name__ for info in app.registered_commands if info.callback}
    assert commands - WITHOUT_CONFIG == set(USES)
    for command in USES:
        calls = [
            node
            for node in ast.walk(ast.parse(of_command(command)))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "read"
        ]
        assert calls, command
        for call in calls:
            assert f"command='{command}'" in ast.unparse(call)


def test_every_setting_of_the_schema_is_read_by_some_code(read: dict[str, set[str]]) -> None:
    seen: set[str] = set().union(*read.values())
    wanted = {*SCHEMA, "train.nonsense"} - seen
    assert wanted - set(in_source(wanted)) == {"train.nonsense"}


def in_source(wanted: set[str]) -> Iterator[str]:
    """Yield the settings that some source reads from something that is known to be their section."""
    kinds = {kind.__name__: kind.section for kind in Section.__subclasses__()}
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    typed = re.compile(rf"^    (\w+): ({'|'.join(kinds)})\b", re.MULTILINE)
    fields: dict[str, set[str]] = defaultdict(set)  # several sections are called settings
    for text in texts:
        for name, kind_name in typed.findall(text):
            fields[name].add(kinds[kind_name])
    for kind in Section.__subclasses__():
        for value in vars(kind).values():
            if isinstance(value, property):
                source = textwrap.dedent(inspect.getsource(value.fget))  # type: ignore[arg-type]
                yield from read_in(ast.parse(source), fields, kinds, kind.section)
    names = re.compile(rf"\.({'|'.join(key.rpartition('.')[2] for key in wanted)})\b")
    for text in filter(names.search, texts):
        yield from re.findall(r'"([a-z_]+\.[a-z_.]+)"', text)
        for function in ast.walk(ast.parse(text)):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from read_in(function, fields, kinds)


def read_in(
    function: ast.AST, fields: dict[str, set[str]], kinds: dict[str, str], own: str | None = None
) -> Iterator[str]:
    """Yield what one function reads: from a parameter, a variable or a field of a section's type, or `x.section`.

    `own` is the section that it is a property of.
    """
    sections: dict[str, set[str]] = defaultdict(set)  # name → the sections it may stand for
    sections["self"] |= set() if own is None else {own}

    def section_of(value: ast.expr) -> set[str]:
        if isinstance(value, ast.Name):
            return sections[value.id]
        if isinstance(value, ast.Attribute):
            found = {section for section in kinds.values() if section.rpartition(".")[2] == value.attr}
            return found | fields.get(value.attr, set())
        return set()

    for node in ast.walk(function):
        if isinstance(node, ast.arg) and node.annotation is not None and ast.unparse(node.annotation) in kinds:
            sections[node.arg].add(kinds[ast.unparse(node.annotation)])
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert isinstance(node, ast.Assign)
            several = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
            left, right = (target.elts, node.value.elts) if several else ([target], [node.value])  # type: ignore[attr-defined]
            for name, value in zip(left, right, strict=False):
                if isinstance(name, ast.Name):
                    sections[name.id] |= section_of(value)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute):
            yield from (f"{section}.{node.attr}" for section in section_of(node.value))
