"""tokenizer.json is plain JSON, and damage is said in one line."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from kiara_cli.config.schema import TokenizerConfig
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer, fingerprint
from kiara_cli.errors import KiaraError

TEXT = "Once upon a time there was a fox, née Renard: 你好.\n" * 100
PATH = Path("tokenizer.json")


@pytest.mark.parametrize("kind", ["char", "word", "bpe"])
def test_a_saved_tokenizer_is_loaded_the_same(kind: str) -> None:
    tokenizer = files.fit(TokenizerConfig(kind=kind, vocab_size=320), [TEXT])  # type: ignore[arg-type]
    files.save(tokenizer, PATH)
    loaded = files.load(PATH)
    assert fingerprint(loaded) == fingerprint(tokenizer)
    assert loaded.size == tokenizer.size
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


def test_the_config_chooses_the_kind() -> None:
    tokenizers: list[Tokenizer] = [
        files.fit(TokenizerConfig(kind="bpe", vocab_size=300), [TEXT]),
        files.fit(TokenizerConfig(kind="char"), [TEXT]),
        files.fit(TokenizerConfig(kind="char", alphabet="ascii"), [TEXT]),
    ]
    assert [type(tokenizer) for tokenizer in tokenizers] == [BPETokenizer, CharTokenizer, CharTokenizer]
    assert len({fingerprint(tokenizer) for tokenizer in tokenizers}) == 3
    assert tokenizers[2].state() == CharTokenizer.ascii().state()


def test_the_file_is_plain_json() -> None:
    files.save(CharTokenizer.fit(["abc"]), PATH)
    state = json.loads(PATH.read_text(encoding="utf-8"))
    assert state == {"format": files.FORMAT, "version": 1, "kind": "char", "characters": "abc"}


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("exploded"),)  # type: ignore[return-value]


def test_a_pickle_is_refused_and_not_run() -> None:
    PATH.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(KiaraError, match="cannot read the tokenizer"):
        files.load(PATH)
    assert not Path("exploded").exists()


def damaged(**changes: object) -> str:
    state = {"format": files.FORMAT, "version": 1, **BPETokenizer.fit([TEXT], 300).state(), **changes}
    return json.dumps({key: value for key, value in state.items() if value is not None})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[1, 2]",
        "{}",
        '{"format": "something else"}',
        damaged(kind=None),
        damaged(kind="unheard of"),
        damaged(kind=["char"]),
        damaged(kind="char"),
        damaged(tokens=None),
        damaged(tokens=5),
        damaged(tokens=["YQ=="]),
        damaged(tokens=["not base64!"]),
        damaged(tokens=[1, 2]),
        damaged(pattern=5),
        damaged(pattern="(unclosed"),
        damaged()[:500],
    ],
)
def test_a_damaged_file_is_the_users_mistake(text: str) -> None:
    PATH.write_text(text, encoding="utf-8")
    with pytest.raises(KiaraError, match=r"tokenizer\.json"):
        files.load(PATH)


def test_a_missing_file_is_the_users_mistake() -> None:
    with pytest.raises(KiaraError, match="cannot read the tokenizer nowhere"):
        files.load(Path("nowhere.json"))
