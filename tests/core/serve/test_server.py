"""The server stays up, whatever is sent to it, and answers each abuse with the right status."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.serve.jobs import Job
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.server import listen
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

CHAT = "/v1/chat/completions"
FOX = [{"role": "user", "content": "Tell me about the fox."}]
JSON = {"Content-Type": "application/json"}


def connect(up: Any) -> socket.socket:
    host, port = up.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def endless(up: Any, **more: Any) -> dict[str, Any]:
    """Ask for a text that does not end by itself."""
    end = up.served.tokenizer.specials[END_OF_TEXT]
    return {"prompt": "The", "max_tokens": 4096, "logit_bias": {str(end): -100}, **more}


def read_until(stop: threading.Event, up: Any, n: int = 1) -> None:
    """Read an endless stream until the event, then leave."""
    with httpx2.stream("POST", up.url + "/v1/completions", json=endless(up, stream=True, n=n), timeout=60) as answer:
        for _ in answer.iter_lines():
            if stop.is_set():
                return


def still_serves(up: Any) -> None:
    assert up.post("/generate", {"prompt": "The", "max_new_tokens": 3}).status_code == 200


def error_of(answer: httpx2.Response) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "no JSON"),
        (b'{"messages": ', "no JSON"),
        (b"\xff\xfe{}", "body"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "body"),
        (b"[" * 100_000, "body"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "content"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": NaN}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "temperature": 1e999}', "temperature"),
        (b'{"messages": [{"role": "user", "content": "x"}], "max_tokens": ' + b"9" * 5000 + b"}", "body"),
        (b'{"messages": "x"}', "messages"),
        (b'{"messages": {"0": 1}}', "messages"),
        (b'{"messages": [{"role": "user", "content": 7}]}', "content"),
        (b"null", ""),
        (b"", ""),
    ],
    ids=range(14),
)
def test_a_body_that_makes_no_sense_is_a_mistake_of_the_client(up: Any, content: bytes, message: str) -> None:
    answer = httpx2.post(up.url + CHAT, content=content, headers=JSON, timeout=20)
    assert answer.status_code == 400, answer.text
    assert message in error_of(answer)["message"]
    still_serves(up)


def test_other_addresses_and_methods_are_refused_in_the_same_shape(up: Any) -> None:
    assert error_of(up.get("/nothing"))["type"] == "not_found_error"
    assert up.get("/nothing").status_code == 404
    assert up.get(CHAT).status_code == 405
    assert error_of(up.get(CHAT))
    assert httpx2.post(up.url + CHAT, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 400


def test_a_body_that_is_too_large_is_refused_announced_or_not(up: Any) -> None:
    large = json.dumps({"prompt": "x" * 10_000_000}).encode()
    answer = httpx2.post(up.url + "/generate", content=large, headers=JSON, timeout=20)
    assert answer.status_code == 413
    assert error_of(answer)["message"] == "the body is too large"
    pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
    with contextlib.suppress(httpx2.WriteError):  # the server may hang up before all of it was sent
        assert httpx2.post(up.url + "/generate", content=pieces, headers=JSON, timeout=20).status_code == 413
    still_serves(up)


def test_two_million_spaces_are_a_prompt_that_is_too_long(up: Any) -> None:
    for path, body in (
        ("/generate", {"prompt": " " * 2_000_000}),
        (CHAT, {"messages": [{"role": "user", "content": " " * 2_000_000}]}),
        ("/v1/embeddings", {"input": " " * 2_000_000}),
    ):
        answer = up.post(path, body)
        assert answer.status_code == 400
        assert error_of(answer)["code"] == "context_length_exceeded"
    assert up.post("/tokenize", {"text": " " * 2_000_000}).json()["count"] > 0
    still_serves(up)


def test_a_host_that_is_not_ours_and_a_page_of_another_site_are_refused(up: Any, start: Any) -> None:
    port = up.url.rsplit(":", 1)[1]
    for host, status in (
        ("evil.example", 421), ("evil.example:" + port, 421), ("localhost:" + port, 200), ("[::1]:" + port, 200),
        ("", 421), ("127.0.0.1.evil.example", 421), ("[bad", 421), ("192.168.1.5", 200),
    ):  # fmt: skip
        assert up.get("/health", headers={"Host": host}).status_code == status, host
    for origin, status in (("https://evil.example", 403), ("null", 403), (up.url, 200), ("http://localhost:1", 403)):
        answer = up.post("/tokenize", {"text": "x"}, headers={"Origin": origin})
        assert answer.status_code == status, origin
        assert "access-control-allow-origin" not in answer.headers
    with start(allowed_hosts=("kiara.lan",), allowed_origins=("https://friend.example",)) as other:
        assert other.get("/health", headers={"Host": "kiara.lan"}).status_code == 200
        answer = other.post("/tokenize", {"text": "x"}, headers={"Origin": "https://friend.example"})
        assert answer.headers["access-control-allow-origin"] == "https://friend.example"
        preflight = {"Origin": "https://friend.example", "Access-Control-Request-Method": "POST"}
        assert httpx2.options(other.url + "/tokenize", headers=preflight).status_code == 200


SDK = "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-retry-count"


@pytest.mark.parametrize("allowed", ["*", "http://localhost:3000", "HTTP://LocalHost:3000/", "http://localhost:*"])
def test_an_allowed_page_may_send_what_the_sdk_sends_and_read_every_answer(start: Any, allowed: str) -> None:
    page = {"Origin": "http://localhost:3000"}
    asked = {**page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": SDK}
    with start(keys=("secret",), allowed_origins=(allowed,)) as up:
        answer = httpx2.options(up.url + CHAT, headers=asked)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-headers"] == SDK
        key = {"Authorization": "Bearer secret"}
        answers = [
            answer,
            up.post(CHAT, {"messages": FOX, "max_tokens": 2}, headers={**page, **key}),  # 200
            up.post(CHAT, {"messages": 7}, headers={**page, **key}),  # 400
            up.post(CHAT, {}, headers=page),  # 401
            up.get("/nothing", headers={**page, **key}),  # 404
            up.get("/health", headers={**page, "Host": "evil.example"}),  # 421
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 400, 401, 404, 421]
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] in ("*", page["Origin"])


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "//", "://", "\xff", "http://localhost:99999999"])
def test_an_origin_that_cannot_be_read_is_refused_and_no_fault(up: Any, origin: str, caplog: Any) -> None:
    answer = up.post("/tokenize", {"text": "x"}, headers={"Origin": origin.encode("latin-1")})
    assert answer.status_code == 403
    assert "may not ask this server" in error_of(answer)["message"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_embeddings_of_a_client_that_left_are_not_made(up: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def slow(engine: Any, ids: list[int]) -> list[float]:
        made.append(len(ids))
        time.sleep(0.02)
        return [0.0]

    monkeypatch.setattr("kiara_cli.core.serve.openai.embed", slow)
    with connect(up) as talk:
        body = json.dumps({"input": ["the fox"] * 200}).encode()
        talk.sendall(
            b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        while len(made) < 2:
            time.sleep(0.005)
    before = -1
    while len(made) != before:  # until no more are made for ten times as long as one takes
        before = len(made)
        time.sleep(0.2)
    assert before < 200
    still_serves(up)


def test_keys_open_what_is_closed(start: Any) -> None:
    with start(keys=("first", "zweiter ß")) as up:
        assert up.get("/health").status_code == up.get("/").status_code == 200
        for path in ("/v1/models", "/metrics", "/openapi.json", "/nothing"):
            assert up.get(path).status_code == 401, path
        for wrong in ("Bearer", "Bearer firs", "Bearer first2", "Basic first", "first", "Bearer fírst"):
            answer = up.get("/v1/models", headers={"Authorization": wrong.encode()})
            assert answer.status_code == 401, wrong
        assert answer.headers["www-authenticate"] == "Bearer"
        assert error_of(answer)["code"] == "invalid_api_key"
        for right in ("Bearer first", "bearer first"):
            assert up.get("/v1/models", headers={"Authorization": right}).status_code == 200


def test_every_answer_tells_the_browser_to_be_careful(up: Any) -> None:
    for answer in (up.get("/"), up.get("/health"), up.get("/nothing"), up.get("/health", headers={"Host": "x"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "server" not in answer.headers
    assert up.get("/").headers["x-request-id"] != up.get("/").headers["x-request-id"]


def test_a_client_that_leaves_takes_its_text_along(up: Any) -> None:
    before = up.worker.metrics.cancelled._value.get()
    for stream in (True, False):
        with connect(up) as talk:
            body = json.dumps(endless(up, stream=stream, n=3)).encode()
            talk.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: %d\r\n\r\n" % len(body) + body
            )
            while len(up.worker._running) < 3:
                time.sleep(0.005)
            # a reset, not a polite goodbye
            talk.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        up.wait_until_idle()
    assert up.worker.metrics.cancelled._value.get() == before + 6
    still_serves(up)


def test_a_client_that_never_reads_is_not_waited_for(start: Any) -> None:
    with start(max_seconds=1.0) as up, connect(up) as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        body = json.dumps(endless(up, stream=True, logprobs=20, n=8)).encode()
        silent.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        while not up.worker._running:
            time.sleep(0.005)
        still_serves(up)
        up.wait_until_idle()
        assert up.get("/health").status_code == 200


def test_half_a_request_and_noise_harm_nobody(up: Any) -> None:
    for data in (b"GET / HT", b"\x00\xff\x16\x03\x01" * 50, b"POST /generate HTTP/1.1\r\nContent-Length: -5\r\n\r\n"):
        with connect(up) as talk:
            talk.sendall(data)
    still_serves(up)


def test_a_full_queue_refuses_for_now_and_leaving_it_makes_room(start: Any, model: Callable[..., Served]) -> None:
    with start(served=model(streams=1), queue=1) as up, ThreadPoolExecutor() as pool:
        stop = threading.Event()

        running = pool.submit(read_until, stop, up)
        while not up.worker._running:
            time.sleep(0.005)
        waiting = pool.submit(read_until, stop, up)
        while not len(up.worker._queue):
            time.sleep(0.005)
        refused = up.post("/v1/completions", {"prompt": "x"})
        assert refused.status_code == 503
        assert refused.headers["retry-after"].isdigit()
        assert error_of(refused)["code"] == "queue_full"
        assert up.get("/health").status_code == 200
        assert "kiara:num_requests_waiting 1.0" in up.get("/metrics").text
        stop.set()
        running.result()
        waiting.result()
        up.wait_until_idle()
        still_serves(up)


def test_a_request_ends_with_what_it_has_when_its_time_is_over(start: Any) -> None:
    with start(max_seconds=0.5) as up:
        answer = up.post("/v1/completions", endless(up))
    choice = answer.json()["choices"][0]
    assert choice["finish_reason"] == "length"
    assert choice["text"]


def test_a_request_that_never_has_its_turn_is_told_so(start: Any, model: Callable[..., Served]) -> None:
    served = model(streams=1)
    never = frozenset[int]()

    async def with_the_engine_taken(up: Any) -> httpx2.Response:
        job = Job(
            served, [GenerationRequest([1], GenerateConfig(max_new_tokens=10**6), never)], "someone", 1000, True
        )
        up.worker.submit(job)
        answer = await asyncio.to_thread(up.post, "/v1/completions", {"prompt": "The"})
        up.worker.cancel(job)
        return answer

    with start(served=served, max_seconds=0.3) as up:
        answer = asyncio.run(with_the_engine_taken(up))
        assert answer.status_code == 503
        assert error_of(answer)["code"] == "timeout"
        up.wait_until_idle()


def test_greedy_texts_are_the_same_alone_and_among_fifteen_others(start: Any, model: Callable[..., Served]) -> None:
    prompts = ["The fox met " * (1 + i) for i in range(16)]

    def ask(up: Any, i: int) -> Any:
        body = {"prompt": prompts[i], "max_tokens": 10 + 7 * i, "temperature": 0}
        return up.post("/v1/completions", body).json()["choices"][0]["text"]

    with start(served=model()) as up, ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda i: ask(up, i), range(16)))
        peak = up.worker.served.engine.slots.cache.slots
        alone = [ask(up, i) for i in range(16)]
    assert peak > 4, "they were not written together"
    assert together == alone


def test_health_says_what_decodes_and_why_nothing_faster(start: Any, model: Callable[..., Served]) -> None:
    for options, said in (
        ({"native": False}, "PyTorch's operators, because runtime.native=false"),
        ({"fast": False}, "plain PyTorch, because the fast paths are switched off"),
    ):
        served = model(**options)
        with start(served=served) as up:
            found = up.get("/health").json()["decoding"]
        assert found == served.engine.backend.name
        assert found.startswith(said)


def test_health_answers_while_the_engine_is_at_its_limit(up: Any) -> None:
    stop = threading.Event()

    threads = [threading.Thread(target=read_until, args=(stop, up, 8)) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(up.worker._running) < 16:
        time.sleep(0.01)
    for _ in range(20):
        health = up.get("/health").json()
        assert health["ready"]
    stop.set()
    for thread in threads:
        thread.join()
    up.wait_until_idle()


def test_metrics_count_what_happens(start: Any) -> None:
    with start() as up:
        up.post("/v1/completions", {"prompt": "The fox", "max_tokens": 7})
        up.get("/nothing")
        text = up.get("/metrics").text
    assert "kiara:generation_tokens_total 7.0" in text
    assert 'kiara:http_requests_total{method="POST",path="/v1/completions",status="200"} 1.0' in text
    assert 'kiara:http_requests_total{method="GET",path="other",status="404"} 1.0' in text
    assert "kiara:time_to_first_token_seconds_count 1.0" in text
    assert "kiara:inter_token_latency_seconds_count" in text
    assert "kiara:num_requests_running 0.0" in text
    assert "kiara:cache_bytes" in text


class Lines(logging.Handler):
    """What a logger was told, whoever else listens."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.mark.parametrize("log_prompts", [False, True])
def test_the_access_log_holds_nothing_of_a_prompt_unless_asked(
    start: Any, monkeypatch: pytest.MonkeyPatch, log_prompts: bool
) -> None:
    logger, heard = logging.getLogger("kiara.access"), Lines()
    monkeypatch.setattr(logger, "disabled", False)
    monkeypatch.setattr(logger, "isEnabledFor", lambda level: level >= logging.INFO)
    monkeypatch.setattr(logger, "handlers", [heard])
    with start(log_prompts=log_prompts) as up:
        up.post("/v1/completions", {"prompt": "a secret fox", "max_tokens": 2})
        up.post(CHAT, {"messages": [{"role": "user", "content": "a secret fox"}], "max_tokens": 2})
        up.post("/generate", {"prompt": "a secret fox", "max_new_tokens": 2})
    assert len(heard.lines) == 3
    assert all(("a secret fox" in line) is log_prompts for line in heard.lines)
    assert "POST '/v1/completions' 200" in heard.lines[0]


def test_another_model_takes_over_without_anyone_noticing(start: Any, model: Callable[..., Served]) -> None:
    with start() as up, ThreadPoolExecutor() as pool:
        body = {"prompt": "The", "max_tokens": 300, "temperature": 0}
        old = up.post("/v1/completions", body).json()["choices"][0]["text"]
        during = pool.submit(up.post, "/v1/completions", body)
        while not up.worker._running:
            time.sleep(0.002)
        up.worker.swap(model(seed=1))
        new = up.post("/v1/completions", body).json()["choices"][0]["text"]
        assert during.result().json()["choices"][0]["text"] == old
        assert new != old
        up.wait_until_idle()


def test_a_fault_of_the_engine_costs_the_texts_at_hand_and_no_more(
    start: Any, model: Callable[..., Served], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    served = model()
    steps = served.engine.step
    with start(served=served) as up:
        monkeypatch.setattr(served.engine, "_write", lambda requests: 1 / 0)
        answer = up.post("/v1/completions", {"prompt": "The", "max_tokens": 5})
        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text
        monkeypatch.undo()
        up.wait_until_idle()
        assert served.engine.step == steps
        still_serves(up)


def test_a_model_whose_scores_are_no_numbers_is_reported(start: Any, model: Callable[..., Served]) -> None:
    served = model()
    with torch.no_grad():
        served.engine.model.norm.weight.fill_(float("nan"))
    with start(served=served) as up:
        assert error_of(up.post("/v1/completions", {"prompt": "The"}))["message"].startswith("the model's scores")
        streamed = up.post("/v1/completions", {"prompt": "The", "stream": True}).text
        assert "the model's scores" in streamed
        for path, body in (
            ("/v1/completions", {"prompt": "The fox", "echo": True, "logprobs": 1}),
            ("/v1/embeddings", {"input": "The fox"}),
        ):
            answer = up.post(path, body)
            assert answer.status_code == 500
            assert "not finite numbers; its training has diverged" in error_of(answer)["message"]
        up.wait_until_idle()


def test_stopping_lets_texts_end_and_tells_those_that_do_not(start: Any) -> None:
    with ThreadPoolExecutor() as pool:
        with start(shutdown_seconds=0.3) as up:
            short = pool.submit(up.post, "/v1/completions", {"prompt": "The", "max_tokens": 40})
            long = pool.submit(up.post, "/v1/completions", endless(up, n=16))
            while len(up.worker._running) < 16:
                time.sleep(0.002)
        assert short.result().status_code in (200, 503)
        assert long.result().status_code == 503
        assert error_of(long.result())["code"] == "stopping"


def test_kiaras_own_routes_speak_like_its_commands(up: Any) -> None:
    done = up.post("/generate", {"prompt": "The fox", "max_new_tokens": 6, "seed": 1}).json()
    assert done.keys() >= {"text", "finish_reason", "prompt_tokens", "completion_tokens", "tokens_per_second"}
    events = up.post("/generate", {"prompt": "The fox", "max_new_tokens": 6, "seed": 1, "stream": True}).text.split(
        "\n\n"
    )
    said = [json.loads(event.removeprefix("data: ")) for event in events if event]
    assert "".join(event.get("text", "") for event in said) == done["text"]
    assert said[-1]["completion_tokens"] == 6
    ids = up.post("/tokenize", {"text": "héllo 🦊"}).json()
    assert up.post("/detokenize", {"ids": ids["ids"]}).json()["text"] == "héllo 🦊"
    assert up.post("/detokenize", {"ids": [10**6]}).status_code == 400


def test_a_port_that_is_taken_is_a_mistake_with_a_remedy() -> None:
    with listen("127.0.0.1", 0) as first, pytest.raises(KiaraError, match="cannot listen on .*; choose another"):
        listen("127.0.0.1", first.getsockname()[1])
    with pytest.raises(KiaraError, match="cannot listen on no.such.host.invalid"):
        listen("no.such.host.invalid", 1)


def test_the_connection_serves_one_request_after_the_other(up: Any) -> None:
    host, port = up.url.removeprefix("http://").split(":")
    line = http.client.HTTPConnection(host, int(port), timeout=20)
    for _ in range(3):
        line.request("POST", "/tokenize", body=b'{"text": "x"}', headers=JSON)
        assert json.loads(line.getresponse().read())["count"] == 1
    line.close()


def test_the_page_is_in_the_package() -> None:
    import kiara_cli

    assert (Path(kiara_cli.__file__).parent / "core/serve/page.html").is_file()
