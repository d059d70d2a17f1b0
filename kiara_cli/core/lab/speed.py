"""How fast an engine is in prefill and in decoding.

In: an engine. Out: tokens per second, the best of several rounds: other work on the machine slows a round down and
never speeds one up.
"""

from __future__ import annotations

import time

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.generate.engine import Engine, GenerationRequest

ROUNDS = 3
PROMPT, NEW = 16, 64  # tokens of a measurement, or what fits into the context


def decoding(engine: Engine, streams: int = 1, rounds: int = ROUNDS) -> float:
    """Return the tokens per second of `streams` requests decoded together, greedily, prompts not counted."""
    prompt = min(PROMPT, engine.context // 4)
    new = max(2, min(NEW, engine.context - prompt - 1))
    return max(_round(engine, streams, max(1, prompt), new)[1] for _ in range(rounds + 1))


def bytes_read(engine: Engine) -> int:
    """Return how many bytes of weights each new token reads: all but the embedding's, of which it is one row."""
    weights = engine.backend.weights
    places = {name.rpartition(".")[0] for name in weights if name.endswith(".packed")}
    unread = {f"{place}.{part}" for place in places for part in ("codes", "scales")}  # they are read packed
    read = [tensor for name, tensor in weights.items() if not name.startswith("tokens.") and name not in unread]
    return sum(tensor.numel() * tensor.element_size() for tensor in read)


def prefill(engine: Engine, length: int, rounds: int = ROUNDS) -> float:
    """Return the tokens per second of the prefill of a prompt of `length`."""
    return max(_round(engine, 1, length, 1)[0] for _ in range(rounds + 1))


def _round(engine: Engine, streams: int, prompt: int, new: int) -> tuple[float, float]:
    """Return the rates of prefill and of decoding."""
    config = GenerateConfig(max_new_tokens=new, temperature=0)
    began = time.perf_counter()
    size = engine.vocab_size
    requests = [
        engine.submit(GenerationRequest([(7 * i + k) % size for i in range(prompt)], config)) for k in range(streams)
    ]
    while not all(request.filled for request in requests):
        engine.step()
    read = time.perf_counter()
    while engine.busy:
        engine.step()
    return streams * prompt / (read - began), streams * (new - 1) / max(time.perf_counter() - read, 1e-9)
