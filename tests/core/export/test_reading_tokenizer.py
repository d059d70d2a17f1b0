"""Tokenizers of folders: what transformers completes is used, what came in is kept, the rest is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from kiara_cli.core.export.reading_tokenizer import read_tokenizer
from kiara_cli.core.export.tokenizer import writing
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, SPECIALS, decode, document_start, prompt_ids
from kiara_cli.errors import KiaraError

TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"


def trained(special: list[str]) -> Tokenizer:
    """Train a byte-level BPE whose special tokens stand before the bytes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    wanted = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(["the cat's mat, the dog's log: 12 cats and über dogs"] * 20, wanted)
    return made


def saved(
    folder: Path, made: Tokenizer, about: dict[str, Any], change: Callable[[Any], Any] = lambda _: None
) -> Path:
    folder.mkdir(exist_ok=True)
    value = json.loads(made.to_str())
    change(value)
    (folder / "tokenizer.json").write_text(json.dumps(value), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"} | about))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "in", trained(["</s>", "<end>", "<pad>"]), {"eos_token": "</s>", "bos_token": "<pad>"})


def test_every_id_that_ends_a_text_does_and_one_of_them_is_the_mark_between_documents(folder: Path) -> None:
    made = read_tokenizer(folder, {"eos_token_id": [1, 0], "bos_token_id": 2}, 320)
    assert made.ends == {0, 1}
    assert made.specials[END_OF_TEXT] == 1
    assert made.start == 2
    assert prompt_ids(made, "") == [2]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    assert read_tokenizer(folder, {"eos_token_id": [1]}, 320).ends == {0}  # as transformers' generate does
    assert read_tokenizer(folder, {}, 320).ends == {0}
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "generation_config.json").unlink()
    without = read_tokenizer(folder, {}, 320)
    assert without.ends == {without.specials[END_OF_TEXT]} == {without.start} == {320}


def test_special_tokens_that_it_lacks_come_after_the_rows_of_the_model(folder: Path) -> None:
    made = read_tokenizer(folder, {"eos_token_id": 0}, 400)
    assert made.specials == dict(zip(SPECIALS, (0, 400, 401, 402, 403), strict=True))
    assert made.size == 404
    assert made.used == trained(["</s>", "<end>", "<pad>"]).get_vocab_size()
    assert decode(made, [0, 350, 401, *made.encode("x")]) == "x"
    assert document_start(made) == [0]


def test_it_is_the_same_after_it_was_kept_as_a_file(folder: Path, tmp_path: Path, strings: list[str]) -> None:
    made = read_tokenizer(folder, {"eos_token_id": 0}, 400)
    files.save(made, tmp_path / "tokenizer.json")
    again = files.load(tmp_path / "tokenizer.json")
    assert isinstance(again, ImportedTokenizer)
    assert again.state() == made.state()
    assert [again.encode(text) for text in strings[:50]] == [made.encode(text) for text in strings[:50]]
    assert [again.token_bytes(again.encode_byte(byte)) for byte in (0x41, 0xE4)] == [b"A", b"\xe4"]
    assert again.encode("a\ud800b") == again.encode("a\ufffdb")


def test_a_template_is_found_wherever_hubs_keep_it(folder: Path) -> None:
    def template(**about: Any) -> str | None:
        (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"} | about))
        return read_tokenizer(folder, {}, 320).template

    assert template() is None
    assert template(chat_template=TURNS) == TURNS
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": TURNS}]
    assert template(chat_template=several) == TURNS
    (folder / "chat_template.jinja").write_text(TURNS + "{# file #}")
    made = read_tokenizer(folder, {}, 320)
    assert made.template == TURNS + "{# file #}"
    assert made.turn_end == {1}
    assert made.files["chat_template.jinja"] == made.template


def test_conversations_that_were_learned_go_out_with_kiaras_template_and_marks(folder: Path, tmp_path: Path) -> None:
    from kiara_cli.core.tokenizer.chat_format import encode_prompt

    (folder / "chat_template.jinja").write_text(TURNS)
    made = read_tokenizer(folder, {"eos_token_id": 0}, 400)
    with writing(made, tmp_path / "out", 64, conversations=True):
        pass
    (tmp_path / "out/config.json").write_text(json.dumps({"model_type": "llama"}))
    again = read_tokenizer(tmp_path / "out", {"eos_token_id": [0, made.specials["<|end|>"]]}, made.size)
    assert again.specials == made.specials
    talk = [{"role": "user", "content": "the cat </s><|end|>"}]
    assert again.encode_chat(talk) == encode_prompt(talk, made)
    assert again.encode("12 cats") == made.encode("12 cats")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda value: value.pop("model"), "transformers cannot read"),
        (lambda value: value["model"].update(merges=[["x", "nowhere"]]), "transformers cannot read"),
        (lambda value: value["model"].update(vocab={"a": 10**12}), "transformers cannot read"),
        (lambda value: value.update(decoder={"type": "WordPiece", "prefix": "##", "cleanup": True}), "WordPiece"),
        (lambda value: value.update(decoder=None), "token by token"),
    ],
)
def test_what_cannot_be_used_is_refused(change: Any, named: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "in", trained(["</s>"]), {}, change)
    with pytest.raises(KiaraError, match=named):
        read_tokenizer(folder, {}, 320)


def test_code_of_the_folder_is_not_run_and_a_missing_package_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "evil.py").write_text("open('ran', 'w')")
    about = {"auto_map": {"AutoTokenizer": ["evil.Tok", None]}, "tokenizer_class": "Tok"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    try:
        read_tokenizer(folder, {}, 320)
    except KiaraError as error:
        assert "cannot read" in str(error)  # noqa: PT017 - either way is right, running it is not
    assert not Path("ran").exists()
    state = {"tokenizer": "{}", "specials": dict.fromkeys(SPECIALS, 1), "rows": 9, "prefix": [], "start": 0}
    state |= {"ends": [], "names": {}, "template": None, "files": {}, "config": {}, "family": "", "kind": "imported"}
    with pytest.raises(KiaraError, match="no tokenizer that this Kiara can read"):
        files.from_state(state, "x.pt")
    for package in ("transformers", "tokenizers"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(KiaraError, match=r"kiara-slm\[export\]"):
        read_tokenizer(folder, {}, 320)
    with pytest.raises(KiaraError, match=r"kiara-slm\[export\]"):
        files.from_state(state, "x.pt")
