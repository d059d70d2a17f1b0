"""What JSON by a schema costs: the time of a mask, and tokens a second with and without it, by size of vocabulary.

    python benchmarks/json_mask.py --vocabulary 2048 50304 --streams 1 8

Random weights of the default shape; a vocabulary of random words over all bytes. Text without a schema and text of a
schema that never ends are written by the same engine, in turn, `--repeats` times; medians. Prints a table.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import random
import statistics
import time

import torch

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config, GenerateConfig
from kiara_cli.core.generate.engine import Engine, GenerationRequest
from kiara_cli.core.generate.grammar import Grammar, Grammars
from kiara_cli.core.generate.text import make_engine, options_of
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import decide
from kiara_cli.core.tokenizer.bpe import BPETokenizer

TOKENS = 200
SCHEMAS = {  # that hold more than TOKENS tokens of any vocabulary
    "a text": {"type": "string", "minLength": 20_000},
    "objects": {
        "type": "array", "minItems": 2000, "items": {
            "type": "object", "additionalProperties": False, "required": ["name", "age"],
            "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "maximum": 150}},
        },
    },
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[2048, 50304])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    columns = ("vocabulary", "schema", "streams", "compile ms", "mask µs", "without", "with")
    print("".join(f"{column:>11}" for column in columns))
    for size in options.vocabulary:
        tokenizer, engine = made(size)
        for name, schema in SCHEMAS.items():
            grammars = Grammars(tokenizer, engine.forbidden)
            grammars.compile({"type": "null"})  # the vocabulary is read once for all schemas
            began = time.perf_counter()
            grammar = grammars.compile(schema)
            compiling = 1000 * (time.perf_counter() - began)
            mask = 1e6 * mask_seconds(engine, grammar)
            for streams in options.streams:
                rates: dict[bool, list[float]] = {False: [], True: []}
                for _, constrained in itertools.product(range(options.repeats), rates):
                    rates[constrained].append(rate(engine, grammar if constrained else None, streams))
                without, with_ = (statistics.median(rates[way]) for way in (False, True))
                numbers = f"{compiling:>11.1f}{mask:>11.0f}{without:>11.0f}{with_:>11.0f}"
                print(f"{size:>11}{name:>11}{streams:>11}{numbers}", flush=True)


def made(size: int) -> tuple[BPETokenizer, Engine]:
    """Make a tokenizer of so many ids, and a model of the default shape for it."""
    drawn = random.Random(1)
    tokens = dict.fromkeys(bytes([byte]) for byte in range(256))
    while len(tokens) < size - 64:
        tokens[
            (" " if drawn.random() < 0.5 else "").encode()
            + bytes(drawn.choices(range(97, 123), k=drawn.randint(2, 9)))
        ] = None
    tokenizer = BPETokenizer(list(tokens))
    config = Config()
    torch.manual_seed(0)
    model = Transformer(dataclasses.replace(ModelConfig(), vocab_size=size))
    return tokenizer, make_engine(model, tokenizer, decide(config.runtime), options_of(config))


def mask_seconds(engine: Engine, grammar: Grammar) -> float:
    """Return the median time of one mask and its use on scores, over the ids that a greedy text takes."""
    constraint, times = grammar.start(frozenset()), []
    scores = torch.randn(engine.vocab_size)
    for _ in range(TOKENS):
        began = time.perf_counter()
        allowed = torch.where(constraint.allowed(), scores, -torch.inf)
        times.append(time.perf_counter() - began)
        constraint.take(int(allowed.argmax()))
        scores = torch.randn(engine.vocab_size)
    return statistics.median(times)


def rate(engine: Engine, grammar: Grammar | None, streams: int) -> float:
    """Return tokens a second of so many texts at once."""
    settings = GenerateConfig(max_new_tokens=TOKENS, seed=1)
    asked = [GenerationRequest([65], settings, grammar=grammar) for _ in range(streams)]
    began = time.perf_counter()
    running = [engine.submit(request) for request in asked]
    while engine.busy:
        engine.step()
    assert all(request.written == TOKENS for request in running)
    return streams * TOKENS / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
