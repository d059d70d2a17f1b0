"""Decoding beside llama.cpp and transformers: the same random weights, the same prompt, in one run.

    python benchmarks/decoding.py --shape m10 m110 --dtype fp32 bf16 int8 int4 --rounds 3 [--json FILE]

Prints one table for each shape and dtype. Programs take turns, each in a process of its own, as a person would start
it (two that share a process share a pool of threads, which slows llama.cpp down to a half); each keeps its best
round: other work on the machine slows a round down and never speeds one up. llama.cpp runs with its own defaults;
beside int8 and int4 stand its q8_0 and q4_0, the latter with embedding and head of 8 bits in both programs. The
floor of decoding is the time that reading every weight once takes, at the speed the machine shows in the same run.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from kiara_cli.commands.model import SPIN

SHAPES = {
    "m10": {"n_layers": 6, "emb_dim": 384, "n_heads": 6, "hidden_dim": 1024, "vocab_size": 4096},
    "m110": {"n_layers": 12, "emb_dim": 768, "n_heads": 12, "hidden_dim": 2048, "vocab_size": 16384},
}
CONTEXT, PROMPT, NEW, LONG, STREAMS = 1024, 32, 128, 512, 16
ONE, READ, MANY, FLOOR = "one stream", "prompt", f"{STREAMS} streams", "floor"
Row = dict[str, float]
KINDS = {"fp32": "f32", "bf16": "bf16", "int8": "q8_0", "int4": "q4_0"}  # what llama.cpp calls them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["m10"])
    parser.add_argument("--dtype", nargs="+", choices=KINDS, default=["fp32", "bf16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(*options.worker)
    results = []
    for shape in options.shape:
        for dtype in options.dtype:
            best = measure(shape, dtype, options.programs, options.rounds)
            show(shape, dtype, best)
            results.append({"shape": shape, "dtype": dtype, "tokens/s": best})
    if options.json:
        options.json.write_text(json.dumps(results))


def measure(shape: str, dtype: str, programs: list[str], rounds: int) -> dict[str, Row]:
    """Start a process for each program, let them take turns, and return the best of each."""
    workers = {name: start(name, shape, dtype) for name in programs}
    best: dict[str, Row] = {name: {} for name in programs}
    for _ in range(rounds):
        for name, worker in workers.items():
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
            for what, speed in answer(worker).items():
                best[name][what] = max(speed, best[name].get(what, 0.0))
    for worker in workers.values():
        worker.kill()
        worker.communicate()
    return best


def start(name: str, shape: str, dtype: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    if name.startswith("kiara"):
        environment["GOMP_SPINCOUNT"] = SPIN  # as the command line sets it
    worker = subprocess.Popen(
        [sys.executable, __file__, "--worker", name, shape, dtype],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment,
    )  # fmt: skip
    answer(worker)  # it is ready
    return worker


def answer(worker: subprocess.Popen[str]) -> Row:
    """Return the next result of a worker; other programs print lines of their own in between."""
    assert worker.stdout is not None
    for line in worker.stdout:
        if line.startswith("result "):
            row: Row = json.loads(line.removeprefix("result "))
            return row
    raise SystemExit(f"{' '.join(worker.args[2:])} ended")  # type: ignore[arg-type]


def work(name: str, shape: str, dtype: str) -> None:
    """Be the process of one program: measure whenever asked to."""
    run = PROGRAMS[name](shape, dtype)
    print("result {}", flush=True)
    for _ in sys.stdin:
        print("result " + json.dumps(run()), flush=True)


def make_model(shape: str) -> Any:
    import torch

    from kiara_cli.config.model import ModelConfig
    from kiara_cli.core.model.transformer import Transformer
    from kiara_cli.core.runtime.threads import allowed_threads

    torch.manual_seed(0)
    torch.set_num_threads(allowed_threads().threads)
    config = ModelConfig(**SHAPES[shape], context_length=CONTEXT, tied_head=False, qk_norm=False)  # type: ignore[arg-type]
    return Transformer(config).eval()


def kiara(compiled: bool) -> Callable[[str, str], Callable[[], Row]]:
    def load(shape: str, dtype: str) -> Callable[[], Row]:
        from kiara_cli.config.schema import GenerateConfig
        from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options
        from kiara_cli.core.lab.speed import bytes_read
        from kiara_cli.core.quantize.apply import quantize
        from kiara_cli.core.quantize.scheme import Scheme
        from kiara_cli.core.runtime.device import Runtime
        from kiara_cli.core.runtime.threads import allowed_threads

        model = make_model(shape)
        if dtype.startswith("int"):
            for _ in quantize(model, Scheme(int(dtype[3:]), "rtn", 32, 8, 8)):
                pass
        precision = "bf16" if dtype.startswith("int") else dtype
        runtime = Runtime(model.device, precision, allowed_threads().threads)  # type: ignore[arg-type]
        options = Options(streams=STREAMS, native=compiled)
        engine = Engine(model, runtime, options=options)

        def together(number: int, length: int, new: int) -> tuple[float, float]:
            """Return the seconds of reading and of writing."""
            config = GenerateConfig(max_new_tokens=new, temperature=0)
            began = time.perf_counter()
            requests = [
                engine.submit(GenerationRequest([(7 * i + k) % 256 for i in range(length)], config))
                for k in range(number)
            ]
            while not all(request.filled for request in requests):
                engine.step()
            read = time.perf_counter()
            while engine.busy:
                engine.step()
            return read - began, time.perf_counter() - read

        def run() -> Row:
            row = {ONE: (NEW - 1) / together(1, PROMPT, NEW)[1], READ: LONG / together(1, LONG, 1)[0]}
            row[MANY] = STREAMS * (NEW - 1) / together(STREAMS, PROMPT, NEW)[1]
            if compiled:
                row[FLOOR] = reading_speed() / bytes_read(engine)
            return row

        return run

    return load


def reading_speed() -> float:
    """Measure how many bytes a second the machine reads from memory."""
    import torch

    block, best = torch.ones(64_000_000), float("inf")
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        best = min(best, time.perf_counter() - began)
    return block.numel() * 4 / best


def transformers(shape: str, dtype: str) -> Callable[[], Row]:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    c = make_model(shape).config
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.emb_dim, intermediate_size=c.hidden_dim,
            num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads, max_position_embeddings=CONTEXT,
        )
    )  # fmt: skip
    peer = peer.to(torch.float32 if dtype == "fp32" else torch.bfloat16).eval()
    name = "cache" if "cache" in inspect.signature(peer.forward).parameters else "past_key_values"

    @torch.inference_mode()
    def run() -> Row:
        past, ids = None, torch.arange(PROMPT)[None]
        began = time.perf_counter()
        for index in range(NEW):
            answer = peer(input_ids=ids, use_cache=True, **{name: past})
            past, ids = answer[name], answer.logits[:, -1:].argmax(-1)
            if index == 0:
                began = time.perf_counter()
        return {ONE: (NEW - 1) / (time.perf_counter() - began)}

    return run


def llama(shape: str, dtype: str) -> Callable[[], Row]:
    import xllamacpp as x

    wanted = x.CommonParams()
    wanted.model.path = str(gguf_of(shape, dtype))
    wanted.n_parallel, wanted.n_ctx, wanted.n_gpu_layers, wanted.verbosity = STREAMS, STREAMS * CONTEXT, 0, -1
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = len(os.sched_getaffinity(0))
    wanted.ui = wanted.fit_params = False
    server = x.Server(wanted)

    def ask(length: int, new: int, number: int = 0) -> Row:
        import urllib.request

        prompt = [(7 * i + number) % 256 for i in range(length)]
        wish = {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        request = urllib.request.Request(f"{server.listening_address}/completion", json.dumps(wish).encode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
            timings: Row = json.loads(reply.read())["timings"]
        return timings

    def run() -> Row:
        with ThreadPoolExecutor(STREAMS) as pool:
            seconds = max(
                timing["predicted_ms"] for timing in pool.map(lambda k: ask(PROMPT, NEW, k), range(STREAMS))
            )
        return {
            ONE: ask(PROMPT, NEW)["predicted_per_second"],
            READ: ask(LONG, 1)["prompt_per_second"],
            MANY: STREAMS * (NEW - 1) / (seconds / 1000),
        }

    return run


def gguf_of(shape: str, dtype: str) -> Path:
    """Write the model for llama.cpp, in a process of its own: this one must not load torch's threads."""
    path = Path(tempfile.mkdtemp()) / "model.gguf"
    subprocess.run([sys.executable, "-c", WRITE, str(Path(__file__).parent), shape, dtype, str(path)], check=True)
    return path


WRITE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from decoding import KINDS, make_model
from kiara_cli.core.export import gguf
from kiara_cli.core.tokenizer.bpe import BPETokenizer
model = make_model(sys.argv[2])
weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
pairs = [bytes([a, b]) for a in b"abcdefgh" for b in b"abcdefgh"]  # llama.cpp wants some merges
tokenizer = BPETokenizer([bytes([byte]) for byte in range(256)] + pairs)
with gguf.writing(model.config, weights, tokenizer, Path(sys.argv[4]), KINDS[sys.argv[3]]):
    pass
"""

PROGRAMS: dict[str, Callable[[str, str], Callable[[], Row]]] = {
    "kiara eager": kiara(compiled=False),
    "kiara compiled": kiara(compiled=True),
    "transformers": transformers,
    "llama.cpp": llama,
}


def show(shape: str, dtype: str, best: dict[str, Row]) -> None:
    floor = max((row.pop(FLOOR, 0.0) for row in best.values()), default=0.0)
    print(f"{shape} {dtype}, tokens/s (times llama.cpp); floor of one stream {floor:.0f}")
    for name, row in best.items():
        peer = best.get("llama.cpp", {})
        cells = [f"{what} {v:.0f}" + (f" ({v / peer[what]:.2f})" if what in peer else "") for what, v in row.items()]
        share = f"   {row[ONE] / floor:.2f} of the floor" if floor else ""
        print(f"{name:16}" + "   ".join(cells) + share, flush=True)


if __name__ == "__main__":
    main()
