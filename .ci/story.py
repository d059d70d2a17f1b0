"""A model's whole life with an installed `kiara`, in an empty folder: tokenize, train, eval, generate, chat, serve.

In: the command, a folder, the environment. Out: nothing; AssertionError or CalledProcessError where something is not
as it should be. Only Python's own library, so that it runs anywhere.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

TEXT = "The cat sat on the mat. The dog sat on the log.\nThe end of the tale, said Jürgen to 漢.\n" * 100
TINY = (
    "model.context_length=32", "model.emb_dim=32", "model.n_heads=4", "model.n_layers=1", "tokenizer.vocab_size=300",
    "train.max_steps=6", "train.batch_size=4", "eval.sample_tokens=4",
)  # fmt: skip
GUARD = '''"""Refuses every socket that is not this machine's own, and writes down who asked."""
import os, sys

def watch(event, arguments):
    if event not in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        return
    place = arguments[1] if event in ("socket.connect", "socket.sendto") else arguments[0]
    host = place[0] if isinstance(place, tuple) else place
    if isinstance(place, tuple | str) and host not in (None, "", "127.0.0.1", "::1", "localhost", b"localhost"):
        if isinstance(host, str) and host.startswith("/"):
            return  # a socket of the file system
        with open(os.environ["KIARA_NETWORK_LOG"], "a") as log:
            log.write(f"{event} {place}\\n")
        raise ConnectionRefusedError(f"no network here: {event} {place}")

sys.addaudithook(watch)
'''


def live(kiara: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Live a model's life in `folder`, which is empty, and see that nobody asked for the network."""
    guard, asked = folder.parent / "guard", folder.parent / "network.log"
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(GUARD)
    variables = {**environment, "PYTHONPATH": str(guard), "KIARA_NETWORK_LOG": str(asked)}

    def run(*words: str, stdin: str = "") -> str:
        done = subprocess.run(
            [str(kiara), *words], cwd=folder, env=variables, input=stdin.encode(), capture_output=True, timeout=600
        )
        said = done.stderr.decode()
        assert done.returncode == 0, f"kiara {' '.join(words)} ended with {done.returncode}:\n{said}"
        assert "Traceback" not in said, said
        return done.stdout.decode()

    (folder / "book.txt").write_text(TEXT, encoding="utf-8")
    assert run("--version").startswith("kiara 0.")
    made = json.loads(run("tokenize", "book.txt", *TINY, "--json"))
    *_, trained = map(json.loads, run("train", "book.txt", *TINY, "--json").splitlines())
    assert (trained["status"], trained["step"]) == ("finished", 6)
    measured = json.loads(run("eval", "--split", "val", "--json"))
    assert measured["tokens"] == made["val_tokens"] - 1
    ids = run("tokenize", "--encode", "sagte Jürgen 漢", "--tokenizer", "book").strip()
    assert run("tokenize", "--decode", ids, "--tokenizer", "book") == "sagte Jürgen 漢"
    written = run("generate", "--prompt", "-", "--greedy", "--max-new-tokens", "8", stdin="The cat")
    assert written == run("generate", "book", "--prompt", "The cat", "--greedy", "--max-new-tokens", "8")
    assert run("chat", "chat.max_new_tokens=8", stdin="Hello, Jürgen!\n").strip()
    serve(kiara, folder, variables)
    assert not asked.exists(), f"the network was asked for: {asked.read_text()}"


def serve(kiara: Path, folder: Path, variables: Mapping[str, str], *words: str) -> None:
    """Start the server on a free port of this machine, ask it, and stop it as an operator does."""
    command = [str(kiara), "serve", "--port", "0", *words]
    with subprocess.Popen(command, cwd=folder, env=variables, stderr=subprocess.PIPE) as server:
        try:
            assert server.stderr is not None
            lines = map(bytes.decode, server.stderr)
            url = next(found[0] for line in lines if (found := re.search(r"http://[^ ]+:\d+", line)))
            assert ask(f"{url}/health")["status"] == "ok"
            body = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
            reply = ask(f"{url}/v1/chat/completions", body)
            assert reply["usage"]["completion_tokens"] > 0
            server.terminate()
            assert server.wait(60) == 0 or os.name == "nt"  # where ending it so is no signal
        finally:
            server.kill()


def ask(url: str, body: object = None) -> dict:
    """Ask until the server listens; return its JSON."""
    request = urllib.request.Request(url, body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    for _ in range(300):
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{url}: {error.code} {error.read().decode()}") from None
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer")
