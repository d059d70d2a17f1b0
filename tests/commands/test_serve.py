from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from kiara_cli.commands.serve import read_keys

Kiara = Callable[..., Any]


def start(*words: str, **variables: str) -> tuple[subprocess.Popen[str], str, list[str]]:
    """Start a server; return it, its address and what it said until it was ready."""
    command = [sys.executable, "-m", "kiara_cli.app", "serve", "--port", "0", *words, "runtime.threads=1"]
    environment = {**os.environ, "KIARA__RUNTIME__DEVICE": "cpu", "KIARA__RUNTIME__DTYPE": "fp32", **variables}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"http://[^ ]+?:\d+", line):
            url = found[0]
            break
    else:
        raise AssertionError(said)
    for _ in range(400):
        try:
            if httpx2.get(url + "/health").status_code == 200:
                return process, url, said
        except httpx2.ConnectError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


def test_a_server_lives_reloads_and_ends(trained: Path) -> None:
    process, url, said = start("text", "serve.access_log=json", KIARA_API_KEY="secret")
    assert process.stderr is not None
    try:
        assert "Serving text at" in said[-1]
        with httpx2.Client(base_url=url, headers={"Authorization": "Bearer secret"}, timeout=30) as client:
            assert httpx2.get(url + "/v1/models").status_code == 401
            body = {"prompt": "the cat", "max_tokens": 12, "temperature": 0}
            first = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
            created = client.get("/v1/models").json()["data"][0]["created"]
            time.sleep(1.1)  # the time of loading is in whole seconds
            process.send_signal(signal.SIGHUP)
            for _ in range(400):
                if client.get("/v1/models").json()["data"][0]["created"] != created:
                    break
                time.sleep(0.05)
            else:
                raise AssertionError("not read anew")
            assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == first
            shutil.rmtree("checkpoints")
            process.send_signal(signal.SIGHUP)
            assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] == first
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        assert process.wait(20) == 0
    finally:
        end(process)
    lines = [line for line in rest.splitlines() if line.startswith("{")]
    assert {"client", "method", "path", "status", "milliseconds", "prompt_tokens"} <= json.loads(lines[-1]).keys()
    assert "the old one stays: no checkpoint text" in rest
    assert "Traceback" not in rest
    assert "the cat" not in rest


def test_ctrl_c_ends_a_server_that_has_said_what_its_settings_mean(trained: Path) -> None:
    process, _, said = start("serve.allowed_origins=[*]", "chat.system=" + "word " * 400)
    process.send_signal(signal.SIGINT)
    try:
        assert process.stderr is not None
        rest = "".join(said) + process.stderr.read()
        assert process.wait(20) == 0
        assert "warning: every web page may use this server" in rest
        assert "too long for this model, which reads" in rest
    finally:
        end(process)


def test_a_key_file_s_byte_order_mark_and_comments_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbf# ours\r\n  # indented\r\n\tfirst \r\n\r\nsecond#1\n")
    assert read_keys(tmp_path / "keys.txt", "") == ["first", "second#1"]
    (tmp_path / "keys.txt").write_bytes(b"\xef\xbb\xbffirst\n")
    assert read_keys(tmp_path / "keys.txt", "") == ["first"]


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others, and there is no key; give --api-key-file"),
        (["serve.host=192.168.1.1"], "192.168.1.1 can be reached by others"),
        (["--host", "example.org"], "example.org can be reached by others"),
        (["--api-key-file", "none.txt"], "cannot read the keys in none.txt"),
        (["--api-key-file", "empty.txt"], "empty.txt holds no key"),
        (["--api-key-file", "keys.txt", "--no-auth"], "--no-auth, and there are keys"),
        (["--host", "192.0.2.1", "--no-auth"], "cannot listen on 192.0.2.1:8000"),
        (
            ["serve.allowed_origins=[localhost:3000]"],
            "serve.allowed_origins: 'localhost:3000' is no origin; write scheme",
        ),
        (
            ["serve.allowed_hosts=[http://kiara.lan]"],
            "serve.allowed_hosts: 'http://kiara.lan' is no host; write a name",
        ),
        (["serve.queue=-1"], "serve.queue=-1 is out of range"),
        (["nowhere"], "no checkpoint nowhere"),
    ],
)
def test_mistakes_name_what_to_do(kiara: Kiara, trained: Path, words: list[str], mistake: str) -> None:
    Path("empty.txt").write_text("# nothing\n\n")
    Path("keys.txt").write_text("# of ours\nsecret\n")
    assert mistake in kiara("serve", *words).mistake


def test_a_key_in_an_env_file_is_the_servers(kiara: Kiara) -> None:
    Path(".env").write_text("KIARA_API_KEY=a-secret\n")
    refused = kiara("serve", "--host", "0.0.0.0", "--no-auth")
    assert "there are keys" in refused.mistake
