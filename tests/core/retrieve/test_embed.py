"""Each embedder makes vectors of length 1 that are near where texts are alike, and an index refuses another."""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from kiara_cli.config.load import from_mapping
from kiara_cli.core.retrieve.build import Built, build
from kiara_cli.core.retrieve.embed import Means
from kiara_cli.core.retrieve.search import open_index
from kiara_cli.core.retrieve.tfidf import TfIdf
from kiara_cli.errors import KiaraError

TEXTS = [f"{animal} {doing} in the {place}" for animal in ("fox", "crow", "mole", "otter") for doing in (
    "sings", "sleeps", "swims") for place in ("river", "forest", "tower")]  # fmt: skip


class Server(BaseHTTPRequestHandler):
    """An embeddings API whose vectors count letters; it is busy once, and wants a key."""

    asked: ClassVar[list[dict[str, Any]]] = []
    busy: ClassVar[list[int]] = []
    power: ClassVar[float] = 1.0
    redirect: ClassVar[str] = ""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body | {"path": self.path})
        if self.redirect:
            return self.answer(307, {}, {"Location": self.redirect})
        if self.headers["Authorization"] != "Bearer secret":
            return self.answer(401, {"error": {"message": "no such key"}})
        if self.busy:
            return self.answer(self.busy.pop(), {}, {"Retry-After": "0"})
        data = [
            {"index": number, "embedding": [text.count(chr(97 + at)) ** self.power for at in range(26)]}
            for number, text in enumerate(body["input"])
        ]
        return self.answer(200, {"data": data[::-1]})

    def answer(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        raw = json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(raw)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    Server.asked, Server.busy, Server.power, Server.redirect = [], [], 1.0, ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return tmp_path


def means(key: str = "", **settings: object) -> Means:
    return Means(from_mapping({"retrieve": settings, "runtime": {"device": "cpu", "dtype": "fp32"}}, "test"), key)


def indexed(embedder: str, key: str = "", **settings: object) -> Built:
    return build(["notes.jsonl"], "own", means=means(key, embedder=embedder, **settings))


def test_words_of_the_same_company_and_the_same_letters_are_near_each_other() -> None:
    tfidf = TfIdf(8)
    tfidf.fit(TEXTS)
    vectors = tfidf.documents(TEXTS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    again = TfIdf(8)
    again.fit(TEXTS)
    assert np.array_equal(again.documents(TEXTS), vectors)  # the same texts give the same vectors
    scores = vectors @ tfidf.question("an otter, swimming")
    assert {TEXTS[at].split()[0] for at in np.argsort(-scores)[:3]} == {"otter"}
    assert TEXTS[int(scores.argmax())].startswith("otter swims")
    assert not tfidf.question("zzz").any()


def test_an_address_is_asked_in_batches_with_its_key_and_asked_again_while_it_is_busy(
    here: Path, address: str
) -> None:
    Server.busy = [503, 429]
    built = indexed(address, "secret", embedding_model="letters")
    assert (built.dimensions, built.embedded) == (26, 36)
    assert {asked["path"] for asked in Server.asked} == {"/v1/embeddings"}
    assert {asked["model"] for asked in Server.asked} == {"letters"}
    index = open_index("own", means=means("secret", embedding_model="letters"))
    assert index.search("mole sleeps in the tower")[0].text == "mole sleeps in the tower"
    assert "secret" not in "".join(path.read_text() for path in here.rglob("*.json"))


def test_what_an_address_does_wrong_is_one_line(here: Path, address: str) -> None:
    with pytest.raises(KiaraError, match=r"answered 401: no such key; set \$KIARA_EMBEDDINGS_KEY"):
        indexed(address)
    Server.redirect = "http://127.0.0.1:1/elsewhere"
    with pytest.raises(KiaraError, match="answered 307"):
        indexed(address, "secret")
    assert len(Server.asked) == 2  # the key went nowhere else
    with pytest.raises(KiaraError, match=r"cannot reach http://127.0.0.1:9/v1: .*refused; check the address"):
        indexed("http://127.0.0.1:9/v1")
    assert not Path("data/index/own/index.json").exists()


def test_an_index_refuses_another_model_at_its_address(here: Path, address: str) -> None:
    indexed(address, "secret")
    Server.power = 3.0
    with pytest.raises(KiaraError, match="another model answers at"):
        open_index("own", means=means("secret"))
    with pytest.raises(KiaraError, match="was made with the embedder http.* and retrieve.embedder=tfidf"):
        indexed("tfidf")


def test_a_folder_of_sentence_transformers_needs_its_extra(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "model").mkdir()
    (here / "model/modules.json").write_text("[]")
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] in ("sentence_transformers", "bm25s", "usearch"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        KiaraError, match=r"needs bm25s, which is not installed; run: pip install 'kiara-slm\[retrieval\]'"
    ):
        indexed("tfidf")
    monkeypatch.setattr("kiara_cli.core.retrieve.build.library", lambda: None)
    monkeypatch.setattr("kiara_cli.core.retrieve.build.save_ranking", lambda texts, folder: None)
    with pytest.raises(KiaraError, match=r"needs sentence-transformers.*pip install 'kiara-slm\[sentences\]'"):
        indexed("model")
    with pytest.raises(KiaraError, match=r"needs usearch.*or set retrieve.search=exact"):
        indexed("tfidf", search="hnsw")
