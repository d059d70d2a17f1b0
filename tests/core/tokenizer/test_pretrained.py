"""OpenAI's encodings by name: the same ids, and offline a line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiktoken
import tiktoken.registry
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.tokenizer import files, pretrained
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.protocol import SPECIALS, decode, encode_bytes, fingerprint
from kiara_cli.errors import KiaraError

CACHE = Path(__file__).parents[3] / "../shared/tiktoken"
cached = pytest.mark.skipif(not CACHE.is_dir(), reason="tiktoken's files are not on this machine")


@pytest.fixture(scope="module", params=["gpt2", "cl100k_base"])
def tokenizer(request: pytest.FixtureRequest) -> BPETokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIKTOKEN_CACHE_DIR", str(CACHE))
        return pretrained.load(request.param)


@cached
@given(text=st.text())
def test_the_ids_are_tiktokens(tokenizer: BPETokenizer, text: str) -> None:
    ids = tiktoken.get_encoding(tokenizer.kind).encode_ordinary(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode_array(text).tolist() == ids
    assert decode(tokenizer, ids) == text


@cached
@given(raw=st.binary())
def test_any_bytes_come_back(tokenizer: BPETokenizer, raw: bytes) -> None:
    assert b"".join(map(tokenizer.token_bytes, encode_bytes(tokenizer, raw))) == raw


@cached
def test_its_end_of_text_is_ours_and_the_marks_come_after_all_of_its_ids(tokenizer: BPETokenizer) -> None:
    encoding = tiktoken.get_encoding(tokenizer.kind)
    assert tokenizer.specials["<|endoftext|>"] == encoding.eot_token
    assert list(tokenizer.specials.values())[1:] == [encoding.n_vocab + index for index in range(4)]
    assert tokenizer.size == encoding.n_vocab + 4
    assert all(tokenizer.token_bytes(token) == b"" for token in tokenizer.specials.values())
    for name in SPECIALS:
        assert not set(tokenizer.encode(name)) & set(tokenizer.specials.values())


@cached
def test_it_is_saved_whole_and_needs_no_network_again(
    tokenizer: BPETokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.save(tokenizer, Path("tokenizer.json"))
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: pytest.fail("asked for again"))
    loaded = files.load(Path("tokenizer.json"))
    assert fingerprint(loaded) == fingerprint(tokenizer)
    assert loaded.encode("née <|end|>\r\n   x") == tokenizer.encode("née <|end|>\r\n   x")


def test_offline_the_cache_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("nothing").mkdir()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "nothing")
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tiktoken.registry, "ENCODINGS", {})
    with pytest.raises(KiaraError, match=r"the encoding o200k_base is not on this machine .*TIKTOKEN_CACHE_DIR"):
        pretrained.load("o200k_base")
