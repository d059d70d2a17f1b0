"""A server on a real socket, with a tiny real model, in a thread of the test's process."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import ChatConfig, GenerateConfig, ServeConfig
from kiara_cli.core.generate.engine import Options
from kiara_cli.core.generate.text import make_engine
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.serve import server
from kiara_cli.core.serve.served import Served
from kiara_cli.core.serve.worker import Worker
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.conversation import template_for

TEXT = "Once upon a time a fox met a hen. The fox said good day, and the hen said good night.\n"
CONTEXT = 96


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`."""

    url: str
    worker: Worker
    served: Served

    def get(self, path: str, **more: Any) -> httpx2.Response:
        return httpx2.get(self.url + path, timeout=30, **more)

    def post(self, path: str, body: dict[str, Any], **more: Any) -> httpx2.Response:
        return httpx2.post(self.url + path, json=body, timeout=60, **more)

    def wait_until_idle(self) -> None:
        """Wait until nothing is written any more; fail if that takes longer than a cancelled text may."""
        deadline = time.monotonic() + 10
        while self.worker._running or self.worker._queue or self.worker._engines:
            assert time.monotonic() < deadline, "texts go on although nobody wants them"
            time.sleep(0.01)


def tiny_model(conversations: bool = True, seed: int = 0, **options: Any) -> Served:
    torch.manual_seed(seed)
    tokenizer = BPETokenizer.fit([TEXT * 30], 320)
    config = ModelConfig(vocab_size=384, context_length=CONTEXT, emb_dim=32, n_heads=4, n_layers=2)
    runtime = Runtime(torch.device("cpu"), "fp32", 1)
    model = Transformer(config)
    with torch.no_grad():
        model.tokens.weight.normal_(std=0.5)  # choices are clear
        model.head.weight.normal_(std=0.5)
        for weight in (model.tokens.weight, model.head.weight):
            weight[list(tokenizer.specials.values())] = 0  # and a text hardly ever ends by itself
    engine = make_engine(model, tokenizer, runtime, Options(**options))
    template = template_for(tokenizer, conversations)
    return Served(
        "tiny",
        engine,
        tokenizer,
        template,
        frozenset(),
        GenerateConfig(max_new_tokens=20),
        ChatConfig(max_new_tokens=20),
    )


@contextlib.contextmanager
def running(
    limits: ServeConfig | None = None, keys: tuple[str, ...] = (), served: Served | None = None
) -> Iterator[Running]:
    """Serve until the block ends."""
    served = served or tiny_model()
    limits = limits or ServeConfig(stream_interval_ms=0)
    worker = Worker(served, limits.queue, served.engine.options.streams)
    listener = server.listen("127.0.0.1", 0)
    life = server.make_server(worker, limits, keys)
    thread = threading.Thread(target=life.run, kwargs={"sockets": [listener]})
    worker.start()
    thread.start()
    try:
        yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", worker, served)
    finally:
        life.should_exit = True
        thread.join()
        worker.stop()
        listener.close()


Start = Callable[..., contextlib.AbstractContextManager[Running]]


@pytest.fixture
def start() -> Start:
    """Return a function that starts a server with limits of the test's own."""

    def begin(keys: tuple[str, ...] = (), served: Served | None = None, **limits: Any) -> Any:
        return running(dataclasses.replace(ServeConfig(stream_interval_ms=0), **limits), keys, served)

    return begin


@pytest.fixture
def model() -> Callable[..., Served]:
    """Return a function that makes a tiny model ready to be served."""
    return tiny_model


@pytest.fixture(scope="session")
def shared_server() -> Iterator[Running]:
    with running() as up:
        yield up


@pytest.fixture
def up(shared_server: Running) -> Running:
    """One server for all tests that need nothing special."""
    return shared_server
