"""Bytes of the KV cache: before a model with a long context has read anything, and while it is used.

    python benchmarks/memory.py

One table: for each context length, bytes a sequence before use, after a short text, and for sixteen short texts at
once; and what allocating the whole context would take, as was done before. No timing: the machine need not be quiet.
"""

from __future__ import annotations

import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, GenerationRequest, Options
from kiara_cli.core.model.cache import position_bytes
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime

CONTEXTS = (384, 8_192, 131_072)
STREAMS, PROMPT, NEW, LIMIT = 16, 100, 100, 1_000_000_000


def measure(context: int) -> tuple[int, int, int, int]:
    """Return bytes a sequence: before use, after one text, of sixteen texts; and of the whole context."""
    config = ModelConfig(vocab_size=4096, context_length=context, emb_dim=128, n_heads=4, n_layers=2)
    runtime = Runtime(torch.device("cpu"), "fp32", torch.get_num_threads())
    engine = Engine(Transformer(config), runtime, options=Options(STREAMS, cache_bytes=LIMIT))
    asked = GenerationRequest(range(PROMPT), GenerateConfig(max_new_tokens=NEW, temperature=0))

    def run(count: int) -> int:
        for _ in range(count):
            engine.submit(asked)
        while engine.busy:
            engine.step()
        return engine.slots.cache.bytes // engine.slots.cache.slots

    before = engine.slots.cache.bytes
    return before, run(1), run(STREAMS), position_bytes(config, torch.float32) * engine.config.context_length


def main() -> None:
    print("| context | before use | one text | each of sixteen | whole context |")
    print("|---|---|---|---|---|")
    for context in CONTEXTS:
        print(f"| {context:,} | " + " | ".join(f"{found / 1e6:,.1f} MB" for found in measure(context)) + " |")


if __name__ == "__main__":
    main()
