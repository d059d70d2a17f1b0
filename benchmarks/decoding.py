"""Decoding beside llama.cpp and transformers: the same random weights, the same prompt, in one run.

    python benchmarks/decoding.py --shape m10 --dtype fp32 --rounds 3

Prints one table and writes it as JSON. Programs take turns, and each keeps its best round: other work on the machine
slows a round down and never speeds one up. The floor of decoding is the time that reading every weight once takes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from kiara_cli.commands.model import cache_folder
from kiara_cli.config.schema import GenerateConfig, ModelConfig
from kiara_cli.core.export import gguf
from kiara_cli.core.export.oracles import LlamaCpp
from kiara_cli.core.generate.engine import Engine, Options, Wish
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime, physical_cores
from kiara_cli.core.tokenizer.bpe import BPETokenizer

SHAPES = {
    "m10": {"n_layers": 6, "emb_dim": 384, "n_heads": 6, "ffn_dim": 1024, "vocab_size": 4096},
    "m110": {"n_layers": 12, "emb_dim": 768, "n_heads": 12, "ffn_dim": 2048, "vocab_size": 16384},
}
CONTEXT, PROMPT, NEW, LONG, STREAMS = 1024, 32, 128, 512, 16
Row = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="m10")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=NEW)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(physical_cores())
    config = ModelConfig(**SHAPES[options.shape], context_length=CONTEXT, tied_head=False, qk_norm=False)
    model = Transformer(config).eval()
    programs = {"kiara eager": kiara(model, options.dtype, options.new, False)}
    if not options.no_compile:
        programs["kiara compiled"] = kiara(model, options.dtype, options.new, True)
    programs["transformers"] = transformers(model, options.dtype, options.new)
    programs["llama.cpp"] = llama(model, options.dtype, options.new)
    best: dict[str, Row] = {name: {} for name in programs}
    for _ in range(options.rounds):
        for name, run in programs.items():
            for what, speed in run().items():
                best[name][what] = max(speed, best[name].get(what, 0.0))
    show(options.shape, options.dtype, best, floor(model, options.dtype))
    if options.json:
        options.json.write_text(json.dumps({"shape": options.shape, "dtype": options.dtype, "tokens/s": best}))


def kiara(model: Transformer, dtype: str, new: int, compiled: bool) -> Callable[[], Row]:
    runtime = Runtime(model.device, dtype, physical_cores())  # type: ignore[arg-type]
    folder = cache_folder() / "compiled"
    options = Options(streams=STREAMS, compile=compiled, compile_folder=folder)
    engine = Engine(model, runtime, options=options)

    def together(number: int, length: int, new: int) -> tuple[float, float]:
        """Return the seconds of reading and of writing."""
        config = GenerateConfig(max_new_tokens=new, temperature=0)
        began = time.perf_counter()
        requests = [engine.submit(Wish([(7 * i + k) % 256 for i in range(length)], config)) for k in range(number)]
        while not all(request.filled for request in requests):
            engine.step()
        read = time.perf_counter()
        while engine.busy:
            engine.step()
        return read - began, time.perf_counter() - read

    def run() -> Row:
        row = {"one stream": (new - 1) / together(1, PROMPT, new)[1], "prompt": LONG / together(1, LONG, 1)[0]}
        if not compiled:
            row["16 streams"] = STREAMS * (new - 1) / together(STREAMS, PROMPT, new)[1]
        return row

    return run


def transformers(model: Transformer, dtype: str, new: int) -> Callable[[], Row]:
    from transformers import LlamaConfig, LlamaForCausalLM

    c = model.config
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.emb_dim, intermediate_size=c.hidden_dim,
            num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads, max_position_embeddings=CONTEXT,
        )
    )  # fmt: skip
    peer = peer.to(torch.float32 if dtype == "fp32" else torch.bfloat16).eval()

    @torch.inference_mode()
    def run() -> Row:
        past, ids = None, torch.arange(PROMPT)[None]
        began = time.perf_counter()
        for index in range(new):
            answer = peer(input_ids=ids, past_key_values=past, use_cache=True)
            past, ids = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
            if index == 0:
                began = time.perf_counter()
        return {"one stream": (new - 1) / (time.perf_counter() - began)}

    return run


def llama(model: Transformer, dtype: str, new: int) -> Callable[[], Row]:
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name) / "model.gguf"
    weights = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    pairs = [bytes([a, b]) for a in b"abcdefgh" for b in b"abcdefgh"]  # llama.cpp wants some merges
    tokenizer = BPETokenizer([bytes([byte]) for byte in range(256)] + pairs)
    with gguf.writing(model.config, weights, tokenizer, path, {"fp32": "f32", "bf16": "bf16"}[dtype]):
        pass
    server = LlamaCpp(path, CONTEXT, threads=physical_cores())

    def ask(length: int, new: int) -> Row:
        prompt = [(7 * i) % 256 for i in range(length)]
        wish = {"prompt": prompt, "n_predict": new, "temperature": 0, "ignore_eos": True, "cache_prompt": False}
        timings: Row = server.ask("completion", wish)["timings"]
        return timings

    def run() -> Row:
        _ = folder  # lives as long as the server
        return {"one stream": ask(PROMPT, new)["predicted_per_second"], "prompt": ask(LONG, 1)["prompt_per_second"]}

    return run


def floor(model: Transformer, dtype: str) -> float:
    """Return tokens per second if a token cost nothing but reading the weights from memory."""
    block = torch.ones(64_000_000)
    seconds = min(_timed(block.sum) for _ in range(5))
    numbers = sum(p.numel() for name, p in model.named_parameters() if name != "tokens.weight")
    return block.numel() * 4 / seconds / (numbers * (4 if dtype == "fp32" else 2))


def _timed(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def show(shape: str, dtype: str, best: dict[str, Row], floor: float) -> None:
    print(f"{shape} {dtype}, tokens/s (times llama.cpp); floor of one stream {floor:.0f}")
    for name, row in best.items():
        peer = best["llama.cpp"]
        cells = [f"{what} {v:.0f}" + (f" ({v / peer[what]:.2f})" if what in peer else "") for what, v in row.items()]
        print(f"{name:16}" + "   ".join(cells) + f"   {row['one stream'] / floor:.2f} of the floor")


if __name__ == "__main__":
    main()
