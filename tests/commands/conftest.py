"""Running commands as a person would, and a tiny model to run them on."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kiara_cli.app import main

TINY = (
    "tokenizer.kind=char",
    "model.context_length=16",
    "model.emb_dim=32",
    "model.n_heads=4",
    "model.n_layers=2",
    "train.max_steps=4",
    "train.batch_size=4",
    "train.log_interval=1",
    "train.eval_interval=2",
    "train.checkpoint_interval=2",
    "train.warmup_steps=0",
    "eval.sample_tokens=4",
)
TEXT = "the cat sat on the mat and the dog sat on the log. hör auf, 漢!\n" * 40


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    status: int
    out: str
    err: str
    raw: bytes  # stdout

    @property
    def mistake(self) -> str:
        """Return the one line of an error; fail if there was anything else."""
        assert len(self.err.splitlines()) == 1, self.err
        return self.late_mistake

    @property
    def late_mistake(self) -> str:
        """Return the one line of an error that came after work had begun and had been talked about."""
        assert self.status == 2, self.err
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("error: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        assert "; " in lines[-1]
        assert self.out == ""
        return lines[-1]


Kiara = Callable[..., Ran]


@pytest.fixture
def kiara(capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Kiara:
    """Return a function that runs a command line in this process; `stdin` is what it can read there."""
    monkeypatch.setenv("KIARA__RUNTIME__DEVICE", "cpu")
    monkeypatch.setenv("KIARA__RUNTIME__DTYPE", "fp32")
    monkeypatch.setenv("KIARA__RUNTIME__THREADS", "1")

    def run(*arguments: str, stdin: bytes | str = b"") -> Ran:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsysbinary.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(arguments))
        captured = capsysbinary.readouterr()
        assert isinstance(stop.value.code, int)
        out, err = (stream.decode("utf-8", errors="replace") for stream in (captured.out, captured.err))
        return Ran(stop.value.code, out, err, captured.out)

    return run


@pytest.fixture
def text() -> Path:
    """A small text in the working folder."""
    Path("text.txt").write_text(TEXT, encoding="utf-8")
    return Path("text.txt")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a tiny model has been trained."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    environment = {"KIARA__RUNTIME__DEVICE": "cpu", "KIARA__RUNTIME__DTYPE": "fp32", "KIARA__RUNTIME__THREADS": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        with contextlib.redirect_stderr(io.StringIO()), pytest.raises(SystemExit) as stop:
            main(["train", "text.txt", *TINY])
        assert stop.value.code == 0
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """The same in the working folder of this test: text.txt, data/ and checkpoints/text/."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return tmp_path


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file under a folder with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def nothing_behind(tmp_path: Path) -> Callable[[], None]:
    """Return a function that fails if the working folder is not as it was when it was first called."""
    before: list[dict[str, bytes]] = []

    def check() -> None:
        if not before:
            before.append(tree(tmp_path))
        assert tree(tmp_path).keys() == before[0].keys()
        assert tree(tmp_path) == before[0]

    return check


@pytest.fixture
def tiny_settings() -> tuple[str, ...]:
    """Settings that make a run of 4 steps on a model of 2 layers."""
    return TINY
