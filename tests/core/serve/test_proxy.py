"""Two replicas behind nginx, as the recipe sets it up: who is ready answers, streams come as they are written, and a
replica that dies in the middle of a text is an error to its reader and to nobody else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

RECIPE = Path(__file__).parents[3] / "docs/recipes/nginx/kiara.conf"
NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
MAIN = """
{user}daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
    uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
    include {folder}/kiara.conf;
}}
"""
BODY = {"messages": [{"role": "user", "content": "a fox"}], "max_tokens": 60, "stream": True}

pytestmark = pytest.mark.skipif(NGINX is None, reason="there is no nginx")


class Wire:
    """What lies between nginx and a replica: it can stop in the middle of an answer, and break as a killed process
    breaks it."""

    def __init__(self, port: int) -> None:
        self.replica, self.ends = port, list[socket.socket]()
        self.held, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.replica))
                self.ends += [near, far]
                threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
                threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while part := source.recv(1 << 16):
                sink.sendall(part)
                if answers and b"data: " in part and not self.go_on.is_set():
                    self.held.set()
                    self.go_on.wait(30)
            sink.shutdown(socket.SHUT_WR)

    def hold(self) -> None:
        """From now on let the first event of a stream through, and wait."""
        self.go_on.clear()

    def die(self) -> None:
        """Break all connections at once, and take no more."""
        for end in [self.listener, *self.ends]:
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.go_on.set()


@dataclass(frozen=True)
class Proxied:
    """Two replicas behind one address."""

    url: str
    wires: list[Wire]
    replicas: list[object]

    def ask(self) -> httpx2.Response:
        return httpx2.post(
            f"{self.url}/v1/chat/completions", json=BODY | {"stream": False, "max_tokens": 3}, timeout=30
        )


@pytest.fixture
def proxied(start: Callable[..., contextlib.AbstractContextManager[object]], tmp_path: Path) -> Iterator[Proxied]:
    with start() as one, start() as other:
        replicas = [one, other]
        wires = [Wire(int(up.url.rpartition(":")[2])) for up in replicas]  # type: ignore[attr-defined]
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        recipe = RECIPE.read_text()
        for written, here in (("listen 8080", f"listen 127.0.0.1:{port}"), ("8001 max", f"{wires[0].port} max"),
                              ("8002 max", f"{wires[1].port} max")):  # fmt: skip
            assert recipe.count(written) == 1
            recipe = recipe.replace(written, here)
        (tmp_path / "kiara.conf").write_text(recipe)
        user = "user root; " if os.geteuid() == 0 else ""
        (tmp_path / "nginx.conf").write_text(MAIN.format(folder=tmp_path, user=user))
        command = [
            str(NGINX),
            "-p",
            str(tmp_path),
            "-c",
            str(tmp_path / "nginx.conf"),
            "-e",
            str(tmp_path / "error.log"),
        ]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
        assert "warn" not in checked.stderr
        process = subprocess.Popen(command)
        try:
            wait_for(port)
            yield Proxied(f"http://127.0.0.1:{port}", wires, replicas)
        finally:
            process.terminate()
            process.wait()
            for wire in wires:
                wire.die()


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise AssertionError("nginx does not listen")


def test_streams_come_as_they_are_written_and_whole(proxied: Proxied) -> None:
    for wire in proxied.wires:
        wire.hold()
    with httpx2.stream("POST", f"{proxied.url}/v1/chat/completions", json=BODY, timeout=30) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert next(lines).startswith("data: "), "the first event, while the rest is held back"
        for wire in proxied.wires:
            wire.go_on.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"


def test_a_replica_that_dies_while_it_writes_is_an_error_and_the_other_one_answers_all_that_follow(
    proxied: Proxied,
) -> None:
    for wire in proxied.wires:
        wire.hold()
    got: list[str] = []

    def read(answer: httpx2.Response) -> None:
        for line in answer.iter_lines():
            got.append(line)
            next(wire for wire in proxied.wires if wire.held.is_set()).die()

    with (
        httpx2.stream("POST", f"{proxied.url}/v1/chat/completions", json=BODY, timeout=30) as answer,
        pytest.raises(httpx2.RemoteProtocolError),
    ):
        read(answer)
    assert got, "it had begun"
    assert "data: [DONE]" not in got, "a text that was cut does not look whole"
    for wire in proxied.wires:
        wire.go_on.set()
    assert [proxied.ask().status_code for _ in range(8)] == [200] * 8


def test_only_who_is_ready_is_asked_and_with_nobody_left_clients_are_told_to_come_again(proxied: Proxied) -> None:
    proxied.replicas[0].worker.close()  # type: ignore[attr-defined]  # as when it is told to stop
    assert httpx2.get(proxied.replicas[0].url + "/health").status_code == 503  # type: ignore[attr-defined]
    assert [proxied.ask().status_code for _ in range(6)] == [200] * 6
    assert httpx2.get(f"{proxied.url}/health").json()["status"] == "ok"
    assert httpx2.get(f"{proxied.url}/metrics").status_code == 404
    for wire in proxied.wires:
        wire.die()
    refused = proxied.ask()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert json.loads(refused.text)["error"]["code"] == "no_replica"
    assert refused.headers["Content-Type"] == "application/json"
