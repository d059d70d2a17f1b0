"""What the Tab key offers in bash, zsh and fish."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kiara_cli import app
from kiara_cli.commands import completion
from kiara_cli.core.data.corpora import CORPORA


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working folder with runs, checkpoints, data, an index and a config."""
    for file in (
        "checkpoints/tales/run.json", "checkpoints/tales/best.pt", "checkpoints/tales-2/run.json",
        "checkpoints/best.pt", "checkpoints/.runs.json", "models/smol.safetensors", "data/tales-1234/meta.json",
        "data/index/manual/meta.json", "configs/mine.yaml", "talks.jsonl", "tales folder/a.txt",
    ):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    return tmp_path


def offered(shell: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Ask as the shell's function does; bash splits its words at each =."""
    words = line.replace("=", " = ").split(" ") if shell == "bash" else line.split(" ")
    words = [word for word in words[:-1] if word] + words[-1:]
    if shell == "bash" and line.endswith("="):
        words.pop()
    for name, value in {
        completion.VARIABLE: f"complete_{shell}", "COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        app.main([])
    assert stop.value.code == 0
    said = capsys.readouterr().out.strip()
    if shell == "zsh":
        said = said.removeprefix("_arguments '*: :((").removesuffix("))'").replace('"', "")
    return [entry.split("\t")[0].split(":")[0] for entry in said.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_is_offered_names_and_values_as_it_puts_them_in(
    shell: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offered(shell, "kiara chat ta", monkeypatch, capsys) == ["tales", "tales folder/", "talks.jsonl"]
    begun = "" if shell == "bash" else "logging.level="
    assert offered(shell, "kiara train logging.level=d", monkeypatch, capsys) == [f"{begun}debug"]


def test_names_of_what_is_here_and_settings_are_offered(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def tab(line: str) -> list[str]:
        return offered("bash", line, monkeypatch, capsys)

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert tab("kiara tok") == ["tokenize"]
    assert tab("kiara runs sh") == ["show"]
    assert tab("kiara eval smol") == []  # a file: models/smol.safetensors
    assert {"tales", "checkpoints/best.pt", "models/smol.safetensors"} == set(tab("kiara train --from "))
    assert tab("kiara runs show ta") == ["tales", "tales-2", "tales folder/", "talks.jsonl"]
    assert tab("kiara train data/ta") == ["data/tales-1234"]
    assert "tinyshakespeare" in tab("kiara train tiny")
    assert set(tab("kiara eval -c m")) == {"mine", "models/"}
    assert "small" in tab("kiara eval -c s")
    assert "model.n_layers=" in tab("kiara train model.n_")
    assert len(tab("kiara train model.n_layers")) == 2  # with one alone the shell would put a space behind the =
    assert set(tab("kiara train logging.level=")) == {"debug", "info", "warning", "error"}
    assert tab("kiara eval --split t") == ["train"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_completion_knows_the_corpora_and_the_indexes_and_that_a_folder_may_be_missing(tmp_path: Path) -> None:
    assert set(completion.CORPORA) == set(CORPORA)
    assert completion.runs("") == completion.indexes("") == []
    (tmp_path / "data/index/manual").mkdir(parents=True)
    (tmp_path / "data/index/manual/meta.json").touch()
    assert [name for name, _ in completion.indexes("m")] == ["manual"]


def test_completion_loads_neither_torch_nor_numpy(folder: Path) -> None:
    program = (
        "import sys\nfrom kiara_cli.app import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "sys.stderr.write(' '.join({'torch', 'numpy'} & set(sys.modules)))"
    )
    asked = {completion.VARIABLE: "complete_bash", "COMP_WORDS": "kiara\nchat\ntal", "COMP_CWORD": "2"}
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert (ran.stdout.splitlines()[0], ran.stderr) == ("tales", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_asks_kiara(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(completion.VARIABLE, f"source_{shell}")
    with pytest.raises(SystemExit):
        app.main([])
    said = capsys.readouterr().out
    assert f"{completion.VARIABLE}=complete_{shell}" in said
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=said, text=True, check=False).returncode == 0
