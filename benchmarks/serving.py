"""Serving beside llama.cpp's server and beside the engine alone: the same random weights, the same requests, one run.

    python benchmarks/serving.py --shape default --dtype bf16
    python benchmarks/serving.py --shape m110 --clients 16
    python benchmarks/serving.py --soak 600

Clients ask one request after the other (prompts of 16 to 400 tokens, 16 to 256 new ones, greedy, no end), over HTTP
and streaming; each program runs in a process of its own, the clients in another. Prints a table, writes it as JSON.
`--soak` keeps 24 clients at a server of 16 streams and 4 waiting for so many seconds, every third request left in the
middle, and counts what went wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "default": {},
    "m110": {
        "n_layers": 12, "emb_dim": 768, "n_heads": 12, "hidden_dim": 2048, "vocab_size": 16384,
        "tied_head": False, "qk_norm": False,
    },
}  # fmt: skip
CONTEXT, STREAMS, END = 1024, 16, "<|endoftext|>"
Ask = tuple[list[int], int]  # a prompt and how many tokens to write


@dataclass(frozen=True)
class Place:
    """Where a server is."""

    url: str
    process: int


@dataclass
class Load:
    """What clients saw."""

    first: list[float] = field(default_factory=list)
    tokens: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    def row(self, seconds: float) -> dict[str, float]:
        return {"tokens_per_second": self.tokens / seconds, "first_token_ms": 1000 * statistics.median(self.first)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="default")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--requests", type=int, default=48, help="by 16 clients and more; fewer clients make fewer")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="settings of kiara serve, KEY=VALUE")
    parser.add_argument("--soak", type=float, default=0.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", choices=("llama", "engine", "load"), help=argparse.SUPPRESS)
    parser.add_argument("--at", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part == "llama":
        serve_llama(Path(options.at), options.threads)
    elif options.part == "engine":
        engine_alone(Path(options.at), options)
    elif options.part == "load":
        print(json.dumps(asyncio.run(load(options.at, options.clients[0], options.requests))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            write_model(options.shape, options.dtype, Path(folder))
            (soak if options.soak else compare)(options, Path(folder))


def asks(number: int) -> list[Ask]:
    """Return the requests, the same for every program."""
    chance = random.Random(1)
    letters = range(97, 123)
    return [(chance.choices(letters, k=chance.randint(16, 400)), chance.randint(16, 256)) for _ in range(number)]


def compare(options: argparse.Namespace, folder: Path) -> None:
    table: dict[str, dict[str, Any]] = {}
    for clients in options.clients:
        number = min(options.requests, max(6, 3 * clients))
        row = table[str(clients)] = {}
        with kiara_server(folder, options) as place:
            row["kiara"] = clients_of(place.url, clients, number)
        with llama_server(folder, options) as place:
            row["llama.cpp"] = clients_of(place.url, clients, number)
        command = [*me("engine", str(folder / "model.pt"), options), "--clients", str(clients)]
        command += ["--requests", str(number)]
        row["engine"] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        show(options, clients, row)
    if options.json:
        options.json.write_text(json.dumps({"shape": options.shape, "dtype": options.dtype, "clients": table}))


def show(options: argparse.Namespace, clients: int, row: dict[str, dict[str, float]]) -> None:
    speed = {name: cells["tokens_per_second"] for name, cells in row.items()}
    first = {name: f"{cells['first_token_ms']:.0f}" for name, cells in row.items()}
    print(
        f"{options.shape} {options.dtype} {clients:3} clients: kiara {speed['kiara']:.0f} tokens/s, "
        f"llama.cpp {speed['llama.cpp']:.0f} ({speed['kiara'] / speed['llama.cpp']:.2f} ×), "
        f"engine alone {speed['engine']:.0f} ({speed['kiara'] / speed['engine']:.2f} of it); first token, median ms: "
        f"{first['kiara']}, {first['llama.cpp']}, {first['engine']}",
        flush=True,
    )


def me(part: str, at: str, options: argparse.Namespace) -> list[str]:
    same = ["--shape", options.shape, "--dtype", options.dtype, "--threads", str(options.threads)]
    return [sys.executable, __file__, "--part", part, "--at", at, *same]


def clients_of(url: str, clients: int, number: int) -> dict[str, float]:
    """Let a process of their own be the clients."""
    command = [sys.executable, __file__, "--part", "load", "--at", url]
    command += ["--clients", str(clients), "--requests", str(number)]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def write_model(shape: str, dtype: str, folder: Path) -> None:
    """Write random weights for both programs."""
    import torch

    from kiara_cli.config.load import to_mapping
    from kiara_cli.config.model import ModelConfig
    from kiara_cli.config.schema import Config
    from kiara_cli.core.checkpoint import files
    from kiara_cli.core.export import gguf
    from kiara_cli.core.model.transformer import Transformer
    from kiara_cli.core.tokenizer.bpe import BPETokenizer

    torch.manual_seed(0)
    config = ModelConfig(**{"vocab_size": 2048, **SHAPES[shape]}, context_length=CONTEXT)
    assert config.vocab_size is not None
    letters = [bytes([letter]) for letter in range(97, 123)]
    words = [a + b for a in letters for b in letters]
    words += [word + c for word in words for c in letters]
    tokenizer = BPETokenizer([bytes([byte]) for byte in range(256)] + words[: config.vocab_size - 261])
    model = Transformer(config)
    weights = files.weights_of(model)
    content = files.Checkpoint(weights, to_mapping(Config(model=config)), tokenizer.state(), {}, {})
    files.save(content, folder / "model.pt")
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with gguf.writing(config, state, tokenizer, folder / "model.gguf", {"fp32": "f32", "bf16": "bf16"}[dtype]):
        pass


@contextmanager
def kiara_server(folder: Path, options: argparse.Namespace, *more: str) -> Iterator[Place]:
    command = [sys.executable, "-m", "kiara_cli.app", "serve", str(folder / "model.pt"), "--port", "0"]
    command += [f"runtime.dtype={options.dtype}", f"runtime.threads={options.threads}", "serve.access_log=off", *more]
    command += options.set
    with process(command, "stderr") as found:
        yield found


@contextmanager
def llama_server(folder: Path, options: argparse.Namespace) -> Iterator[Place]:
    with process(me("llama", str(folder / "model.gguf"), options), "stdout") as found:
        yield found


@contextmanager
def process(command: list[str], says: str) -> Iterator[Place]:
    """Start a program that says at which address it listens; stop it in the end."""
    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, says: subprocess.PIPE}
    running = subprocess.Popen(command, text=True, **streams)
    try:
        lines = running.stdout if says == "stdout" else running.stderr
        assert lines is not None
        word = next(word for line in lines for word in line.split() if word.startswith("http://"))
        yield Place(word.rstrip("/"), running.pid)
    finally:
        running.terminate()
        running.wait(60)


def serve_llama(path: Path, threads: int) -> None:
    import xllamacpp as x

    wanted = x.CommonParams()
    wanted.model.path = str(path)
    wanted.n_ctx, wanted.n_parallel, wanted.n_gpu_layers, wanted.verbosity = CONTEXT * STREAMS, STREAMS, 0, -1
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
    wanted.ui = wanted.fit_params = False
    server = x.Server(wanted)
    print(server.listening_address, flush=True)
    time.sleep(3600)


def engine_alone(path: Path, options: argparse.Namespace) -> None:
    """Write the same texts without HTTP: as many at once as there are clients, one after the other."""
    from kiara_cli.commands.model import SPIN

    os.environ["GOMP_SPINCOUNT"] = SPIN  # as the command line sets it, before torch is imported
    import torch

    from kiara_cli.config.load import from_mapping
    from kiara_cli.config.schema import GenerateConfig
    from kiara_cli.core.checkpoint import files
    from kiara_cli.core.generate.engine import GenerationRequest, Options
    from kiara_cli.core.generate.text import make_engine
    from kiara_cli.core.runtime.device import Runtime

    torch.set_num_threads(options.threads)
    checkpoint = files.load(path, weights_only=True)
    tokenizer = checkpoint.make_tokenizer()
    model = checkpoint.make_model(from_mapping(checkpoint.config, str(path)).config.model)
    runtime = Runtime(torch.device("cpu"), options.dtype, options.threads)
    made = Options(streams=STREAMS, prefix_bytes=64_000_000, native="auto")
    engine = make_engine(model, tokenizer, runtime, made)
    end = tokenizer.specials[END]
    left = [
        GenerationRequest(prompt, GenerateConfig(max_new_tokens=new, temperature=0), frozenset({end}), {end: -100.0})
        for prompt, new in asks(options.requests)
    ]
    seen = Load()
    running = [(engine.submit(asked), time.perf_counter()) for asked in left[: options.clients[0]]]
    left = left[len(running) :]
    began = time.perf_counter()
    while running:
        engine.step()
        for request, asked in list(running):
            if request.events and request.written == len(request.events):
                seen.first.append(time.perf_counter() - asked)
            seen.tokens += len(request.events)
            request.events.clear()
            if request.finished:
                running.remove((request, asked))
                if left:
                    running.append((engine.submit(left.pop(0)), time.perf_counter()))
    print(json.dumps(seen.row(time.perf_counter() - began)))


async def load(url: str, clients: int, number: int) -> dict[str, float]:
    """Be so many clients, and say what they saw. One request first warms the server up."""
    seen, left = Load(), asks(number)
    end = await end_token(url)
    await ask(url, (list(range(97, 120)), 8), end, Load())

    async def one() -> None:
        while left:
            await ask(url, left.pop(0), end, seen)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    assert set(seen.statuses) == {"200"}, seen.statuses
    return seen.row(time.perf_counter() - began)


async def end_token(url: str) -> int | None:
    """Ask Kiara which token ends a text; llama.cpp has a word for leaving it out."""
    status, lines = await post(url, "/v1/models", None)
    text = "".join([line async for line in lines])
    if status != "200" or '"owned_by":"kiara"' not in text:
        return None
    low, high = 0, 2**20  # the special tokens stand behind all others: the first id without a text
    while low < high:
        middle = (low + high) // 2
        status, lines = await post(url, "/detokenize", {"ids": [middle]})
        text = "".join([line async for line in lines])
        if status == "200" and json.loads(text)["text"]:
            low = middle + 1
        else:
            high = middle
    return low


async def ask(url: str, asked: Ask, end: int | None, seen: Load, leave_after: int | None = None) -> None:
    """Stream one request; note when its first text came and how many tokens there were."""
    prompt, new = asked
    body: dict[str, Any] = {"prompt": prompt, "max_tokens": new, "temperature": 0, "stream": True}
    body["stream_options"] = {"include_usage": True}
    if end is None:
        body |= {"ignore_eos": True, "cache_prompt": False}
    else:
        body["logit_bias"] = {str(end): -100}
    began, first, last, events = time.perf_counter(), 0.0, "", 0
    status, lines = await post(url, "/v1/completions", body)
    seen.statuses[status] += 1
    if status == "503":
        await asyncio.sleep(1)  # as Retry-After asks
    async for line in lines:
        if line.startswith("data: {"):
            first = first or time.perf_counter() - began
            last, events = line, events + 1
            if leave_after is not None and events >= leave_after:
                break
    await lines.aclose()
    if status == "200" and leave_after is None:
        usage = json.loads(last[6:]).get("usage") or {}
        if usage.get("completion_tokens") != new:
            seen.statuses["short"] += 1
        seen.tokens += usage.get("completion_tokens", 0)
        seen.first.append(first)


async def post(url: str, path: str, body: dict[str, Any] | None) -> tuple[str, Any]:
    """Send a request over a connection of its own; return the status and the lines of the answer."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**22)
    data = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    writer.write(
        f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    status = (await reader.readline()).decode().split()[1]
    while (await reader.readline()).strip():
        pass

    async def lines() -> AsyncIterator[str]:
        try:
            while line := await reader.readline():
                yield line.decode("utf-8", errors="replace").rstrip("\r\n")
        finally:
            writer.close()

    return status, lines()


def soak(options: argparse.Namespace, folder: Path) -> None:
    more = ("serve.queue=4", f"generate.streams={STREAMS}")
    with kiara_server(folder, options, *more) as place:
        print(json.dumps(asyncio.run(saturate(place, options.soak)), indent=1))


async def saturate(place: Place, seconds: float) -> dict[str, Any]:
    """Keep a server full for so long, leaving every third request; say how it bore that."""
    url = place.url
    seen, health, memory = Load(), [], []
    end, stop = await end_token(url), time.monotonic() + seconds
    asked = asks(10_000)

    async def one(number: int) -> None:
        while time.monotonic() < stop:
            number += 24
            await ask(url, asked[number % len(asked)], end, seen, 1 + number % 20 if number % 3 == 0 else None)

    async def watch() -> None:
        while time.monotonic() < stop:
            began = time.perf_counter()
            status, lines = await post(url, "/health", None)
            _ = [line async for line in lines]
            health.append(1000 * (time.perf_counter() - began))
            assert status == "200"
            memory.append(resident(place.process))
            await asyncio.sleep(0.2)

    await asyncio.gather(watch(), *(one(number) for number in range(24)))
    await asyncio.sleep(2)
    _, lines = await post(url, "/metrics", None)
    gauges = [line async for line in lines if line.startswith(("kiara:num_requests", "kiara:request", "kiara:cache"))]
    settled = memory[round(len(memory) * min(1 / 3, 60 / seconds)) :]  # after a minute, or the first third
    health.sort()
    return {
        "statuses": dict(seen.statuses),
        "tokens": seen.tokens,
        "health_p99_ms": health[int(0.99 * (len(health) - 1))],
        "health_asked": len(health),
        "memory_mb_settled": settled[0] / 2**20,
        "memory_mb_in_the_end": settled[-1] / 2**20,
        "memory_growth": settled[-1] / settled[0] - 1,
        "in_the_end": gauges,
    }


def resident(number: int) -> int:
    """Return the bytes of memory of a process (Linux)."""
    return int(Path(f"/proc/{number}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
