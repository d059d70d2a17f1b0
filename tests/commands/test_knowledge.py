"""--knowledge of chat, generate and serve, on a real index, as a person uses it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.commands.conftest import TEXT, TINY, Kiara

MANUAL = (
    "# Pump\n\n## Cleaning\n\nClean the pump with warm water.\nDry it well.\n\n## Noise\n\nA loud pump lacks oil.\n"
)


@pytest.fixture(scope="module")
def trained_wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model whose context holds passages."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return folder


@pytest.fixture
def home(trained_wide: Path, tmp_path: Path, kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same with an index of a manual, in the working folder of this test."""
    monkeypatch.setenv("KIARA__RUNTIME__NATIVE", "false")  # nothing here is about speed
    if not (trained_wide / "checkpoints" / "best.pt").exists():
        with monkeypatch.context() as patch:
            patch.chdir(trained_wide)
            words = [word for word in TINY if not word.startswith(("model.context", "train.max_steps"))]
            assert kiara("train", "text.txt", *words, "model.context_length=320", "train.max_steps=1").status == 0
    shutil.copytree(trained_wide, tmp_path, dirs_exist_ok=True)
    (tmp_path / "manual").mkdir()
    (tmp_path / "manual" / "pump.md").write_text(MANUAL)
    assert kiara("index", "manual", "--name", "manual", "retrieve.embedder=none").status == 0
    return tmp_path


SHORT = ("--max-new-tokens", "4", "--greedy")


def test_generate_puts_passages_before_the_question_and_names_their_places(home: Path, kiara: Kiara) -> None:
    bare = json.loads(kiara("generate", "--prompt", "How is the pump cleaned?", "--json", *SHORT).out)
    asked = ("generate", "--knowledge", "manual", "--prompt", "Clean the pump?")
    plain, told = kiara(*asked, *SHORT), json.loads(kiara(*asked, "--json", *SHORT).out)
    assert "[1] manual/pump.md › Pump › Cleaning, lines 5–6" in plain.err.splitlines()
    assert "manual" not in plain.out
    assert [(one["file"], one["first_line"], one["read"]) for one in told["sources"]] == [
        ("manual/pump.md", 5, "Clean the pump with warm water. Dry it well."),
        ("manual/pump.md", 10, "A loud pump lacks oil."),
    ]
    assert told["prompt_tokens"] > bare["prompt_tokens"] + 50
    assert "sources" not in bare
    single = json.loads(kiara(*asked, "retrieve.passages=1", "--json", *SHORT).out)
    assert len(single["sources"]) == 1
    Path("p.jsonl").write_text('{"prompt": "loud pump"}\n{"prompt": "zebra"}\n')
    lines = kiara("generate", "--prompts", "p.jsonl", "retrieve.knowledge=manual", *SHORT).out.splitlines()
    assert [len(json.loads(line)["sources"]) for line in lines] == [2, 0]


def test_chat_in_a_pipe_goes_on_where_files_and_the_index_have_vanished(home: Path, kiara: Kiara) -> None:
    (home / "manual" / "pump.md").unlink()
    done = kiara(
        "chat", "--knowledge", "manual", "chat.max_new_tokens=4", stdin="Clean the pump?\n/sources\nAnd why?\n"
    )
    assert done.status == 0
    lines = done.err.splitlines()
    assert lines.count("[1] manual/pump.md › Pump › Cleaning, lines 5–6 (file not found)") >= 2
    assert "Clean the pump with warm water." in lines
    said = kiara("chat", "chat.max_new_tokens=4", stdin="/knowledge\n/knowledge nix\n/knowledge manual\nOil?\n").err
    assert "No index is in use; there is: manual." in said
    assert "error: no index nix" in said
    assert "[1] manual/pump.md › Pump › Noise, line 10 (file not found)" in said


def test_a_question_without_a_passage_and_one_of_100_000_characters_are_answered(home: Path, kiara: Kiara) -> None:
    talk = f"zebra\n{'pump ' * 20_000}\nloud pump?\n"
    done = kiara("chat", "--knowledge", "manual", "chat.max_new_tokens=4", stdin=talk)
    assert done.status == 0
    assert done.err.count("(No passage was put before this question.)") == 2
    assert "[1] manual/pump.md › Pump › Noise, line 10 (file not found)" not in done.err
    assert "[1] manual/pump.md › Pump › Noise, line 10" in done.err


@pytest.mark.parametrize("command", [("chat",), ("generate", "--prompt", "x"), ("serve", "--port", "0")])
def test_an_index_that_is_not_there_is_said_with_those_that_are(
    home: Path, kiara: Kiara, command: tuple[str]
) -> None:
    mistake = kiara(*command, "--knowledge", "nix").mistake
    assert mistake.startswith("error: no index nix")
    assert mistake.endswith("; there is: manual")


def test_what_makes_no_sense_is_said_before_a_model_is_opened(home: Path, kiara: Kiara) -> None:
    (home / "copy").mkdir()
    shutil.copytree(home / "data" / "index" / "manual", home / "copy" / "manual")
    twice = kiara("serve", "--port", "0", "--knowledge", "manual", "--knowledge", "copy/manual").mistake
    assert "two indexes are called manual" in twice
    assert "an empty prompt" in kiara("generate", "--knowledge", "manual", "--prompt", " ").mistake
    assert "from 1 to 100" in kiara("chat", "--knowledge", "manual", "retrieve.passages=0").mistake
