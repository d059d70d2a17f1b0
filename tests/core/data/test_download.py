"""What is downloaded is whole and the right thing, whatever the server does."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import corpora, download
from kiara_cli.core.data.corpora import CORPORA, Corpus, resolve
from kiara_cli.core.data.download import Remote, cached
from kiara_cli.core.data.prepare import Means, prepare, reopen
from kiara_cli.errors import KiaraError

CONTENT = b"".join(b"line %06d of a downloaded text\n" % number for number in range(20_000))
FOLDER = Path("cache")


class Server(ThreadingHTTPServer):
    """Serves CONTENT, well or badly."""

    daemon_threads = True
    content, etag = CONTENT, '"one"'
    behaviour = "good"  # truncate, stall, corrupt, or ignore what range is asked for
    ranges: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that gives up is expected."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range", "")
        server.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-") or 0) if wanted else 0
        if server.behaviour == "ignore ranges" or self.headers.get("If-Range", server.etag) != server.etag:
            start = 0
        if self.path == "/missing":
            return self.send_error(404)
        body = server.content[start:]
        if start and not body:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", server.etag)
        self.send_header("Connection", "close")
        self.end_headers()
        if server.behaviour == "corrupt":
            body = body[:-9] + b"x" * 9
        if server.behaviour in ("truncate", "stall"):
            body = body[:200_000]
        self.wfile.write(body)
        self.wfile.flush()
        if server.behaviour == "stall":
            time.sleep(1)
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as server:
        server.ranges = []
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Server) -> Remote:
    address = f"http://127.0.0.1:{server.server_address[1]}/text"
    return Remote(address, "text.txt", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def fetch(remote: Remote) -> bytes:
    return download.download(remote, FOLDER, lambda stage, done, total: None).read_bytes()


def test_a_file_is_fetched_once(server: Server, remote: Remote) -> None:
    seen: list[tuple[str, int, int]] = []
    path = download.download(remote, FOLDER, lambda *progress: seen.append(progress))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (f"downloading {remote.address}", len(CONTENT), len(CONTENT))
    assert fetch(remote) == CONTENT
    assert len(server.ranges) == 1
    assert [path.name for path in FOLDER.iterdir()] == ["text.txt"]


def test_a_server_that_breaks_off_is_asked_for_the_rest(server: Server, remote: Remote) -> None:
    server.behaviour = "truncate"
    assert fetch(remote) == CONTENT
    assert server.ranges == ["", "bytes=200000-", "bytes=400000-", "bytes=600000-"]


def test_a_server_that_stalls_is_given_up_and_resumed(
    server: Server, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    server.behaviour = "stall"
    server.content = CONTENT[:300_000]
    whole = replace(remote, size=300_000, sha256=hashlib.sha256(server.content).hexdigest())
    assert fetch(whole) == server.content, "each attempt that brings something is worth another"
    assert server.ranges == ["", "bytes=200000-"]


def test_what_was_kept_of_an_earlier_attempt_is_used(server: Server, remote: Remote) -> None:
    FOLDER.mkdir()
    (FOLDER / "text.txt.part").write_bytes(CONTENT[:1234])
    assert fetch(remote) == CONTENT
    assert server.ranges == ["bytes=1234-"]


def test_a_whole_part_needs_no_more(server: Server, remote: Remote) -> None:
    FOLDER.mkdir()
    (FOLDER / "text.txt.part").write_bytes(CONTENT)
    assert fetch(remote) == CONTENT


def test_two_versions_of_a_file_are_never_mixed(server: Server, remote: Remote) -> None:
    FOLDER.mkdir()
    (FOLDER / "text.txt.part").write_bytes(b"y" * 5000)
    (FOLDER / "text.txt.etag").write_text('"another"')
    assert fetch(remote) == CONTENT


def test_a_server_without_ranges_sends_all_of_it_again(server: Server, remote: Remote) -> None:
    server.behaviour = "ignore ranges"
    FOLDER.mkdir()
    (FOLDER / "text.txt.part").write_bytes(CONTENT[:1234])
    assert fetch(remote) == CONTENT


def test_a_corrupt_file_is_refused_and_not_kept(server: Server, remote: Remote) -> None:
    server.behaviour = "corrupt"
    with pytest.raises(KiaraError, match=r"text.txt from http.* is not what it should be .*; run the same again"):
        fetch(remote)
    assert not cached(remote, FOLDER)
    assert not (FOLDER / "text.txt.part").exists()
    server.behaviour = "good"
    assert fetch(remote) == CONTENT


def test_a_hash_nobody_stated_is_held_to_from_the_first_download_on(server: Server, remote: Remote) -> None:
    unknown = replace(remote, size=None, sha256=None)
    path = download.download(unknown, FOLDER, lambda stage, done, total: None)
    assert (FOLDER / "text.txt.sha256").read_text().strip() == remote.sha256
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(KiaraError, match=r"is not what it should be .*; delete cache/text.txt"):
        fetch(unknown)
    path.unlink()
    server.behaviour = "corrupt"
    with pytest.raises(KiaraError, match="is not what it should be"):
        fetch(unknown)


def test_a_missing_file_and_no_server_are_one_line(server: Server, remote: Remote) -> None:
    with pytest.raises(KiaraError, match="the server says 404"):
        fetch(replace(remote, address=remote.address.replace("/text", "/missing")))
    with pytest.raises(KiaraError, match="broke off at 0 bytes"):
        fetch(replace(remote, address="http://127.0.0.1:9/text"))
    assert not cached(remote, FOLDER)


def test_a_corpus_by_name_is_fetched_tokenized_and_reopened_offline(
    server: Server, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CORPORA, "lines", Corpus("none", (remote,)))
    data, means = DataConfig(source="lines"), Means(cache=FOLDER)
    kind = TokenizerConfig(kind="char")
    with pytest.raises(KiaraError, match="the corpus lines is not on this machine; download it"):
        resolve("lines", data, FOLDER, lambda stage, done, total: None, fetch=False)
    assert server.ranges == []
    made = prepare(data, kind, Path("data"), means=means)
    assert made.folder.name.startswith("lines-")
    assert made.meta.train_bytes + made.meta.val_bytes == len(CONTENT)
    (FOLDER / "lines/text.txt").unlink()
    recorded = {"folder": str(made.folder), "hash": made.meta.hash}
    assert reopen(data, kind, Path("data"), made.tokenizer, recorded, means=means).meta == made.meta
    assert len(server.ranges) == 1, "looking at old data downloads nothing"


def test_the_standard_library_is_a_corpus_on_this_machine() -> None:
    inputs = resolve("python", DataConfig(), FOLDER, lambda stage, done, total: None)
    assert len(inputs) > 100
    assert {found.kind for found in inputs} == {"text"}
    assert not FOLDER.exists()


def test_every_corpus_says_its_licence_and_stands_in_the_table() -> None:
    for name, corpus in CORPORA.items():
        assert corpus.licence
        assert f"| {name} |" in (corpora.__doc__ or "")
        assert all(file.address.startswith("https://") for file in corpus.files)


SHAKESPEARE = Path(__file__).parents[3] / "../shared/data/tinyshakespeare.txt"


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="the corpus is not on this machine")
def test_the_table_knows_tinyshakespeare() -> None:
    (stated,) = CORPORA["tinyshakespeare"].files
    raw = SHAKESPEARE.read_bytes()
    assert (stated.size, stated.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
