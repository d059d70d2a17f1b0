"""How near this machine comes to its own limits with a model: training, prefill, decoding.

In: a model of any weights, and where to run it. Out: the machine's peaks, then one `Measured` after the other. Each
names its floor: the time that the products would take at the machine's own best rate, or that reading every weight
once from memory would, whichever is longer. `fraction` is the floor's share of the time it took.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch

from kiara_cli.config.load import Loaded, adopt
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config, Dtype
from kiara_cli.core.checkpoint.files import model_from
from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.generate.engine import Engine, Options
from kiara_cli.core.lab.speed import bytes_read, decoding, prefill
from kiara_cli.core.loss import batch_loss
from kiara_cli.core.model.count import Count, count
from kiara_cli.core.model.fused import decide_fused, fuse, load
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize import apply
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime.device import Runtime, decide
from kiara_cli.core.runtime.machine import Peaks, measure
from kiara_cli.core.train.optimizer import make_optimizer
from kiara_cli.errors import KiaraError

SHAPES = {  # Llama-shaped models of 14 and 110 million parameters
    "m10": ModelConfig(
        n_layers=6, emb_dim=384, n_heads=6, hidden_dim=1024, vocab_size=4096, context_length=1024, qk_norm=False
    ),
    "m110": ModelConfig(
        n_layers=12, emb_dim=768, n_heads=12, hidden_dim=2048, vocab_size=16384, context_length=1024, qk_norm=False
    ),
}
STREAMS = (1, 2, 4, 8, 16)
PROMPT = 512  # positions read, or as many as fit
EFFORT = 4e11  # operations of a measured training step, at most: a few seconds on a small machine
STEPS = 3


def bench_of(loaded: Loaded, word: str | None, shape: str | None, rounds: int) -> tuple[str, Bench]:
    """Return what to measure and its name: a shape, or a checkpoint with its weights in full. Raises KiaraError."""
    if shape is not None:
        name, config = shape, dataclasses.replace(loaded.config, model=SHAPES[shape])
        model = Transformer(config.model)
    else:
        checkpoint, _ = open_checkpoint(word)
        name = str(checkpoint.path)
        config = adopt(loaded, checkpoint.config, ("tokenizer", "model"), name)
        model = model_from(config.model, checkpoint.full_weights(), name)
    runtime = decide(config.runtime)
    options = Options(STREAMS[-1], native=config.runtime.native)
    return name, Bench(model.to(runtime.device).eval(), config, runtime, options, rounds)


@dataclass(frozen=True)
class Measured:
    """One measurement: weights of `dtype`, `floor` tokens a second at the machine's peak, computed by `how`."""

    what: str
    dtype: str
    streams: int
    tokens_per_second: float
    floor: float
    how: str = "PyTorch"

    @property
    def fraction(self) -> float:
        return self.tokens_per_second / self.floor


@dataclass(frozen=True)
class Bench:
    """A model to measure, in full weights."""

    model: Transformer
    config: Config  # of the training step; its model is the model's own
    runtime: Runtime
    options: Options = field(default_factory=Options)
    rounds: int = STEPS

    @cached_property
    def count(self) -> Count:
        return count(self.model.config)

    def run(self) -> Iterator[Peaks | Measured]:
        """Measure the machine, then the model: a training step, prefill, decoding by dtype, bits and requests."""
        peaks = measure(self.runtime)
        yield peaks
        yield self._training(peaks)
        dtypes: tuple[Dtype, ...] = ("fp32", "bf16")
        for dtype in dtypes:
            yield self._prefill(peaks, self._engine(self.model, dtype), dtype)
        for dtype in dtypes:
            yield self._decoding(peaks, self._engine(self.model, dtype), dtype, 1)
        dtype = self.runtime.dtype
        for bits in (8, 4):
            if (quantized := self._quantized(bits)) is not None:
                yield self._decoding(peaks, self._engine(quantized, dtype), f"int{bits}", 1)
        engine = self._engine(self.model, dtype)
        for streams in STREAMS[1:]:
            yield self._decoding(peaks, engine, dtype, streams)

    def _engine(self, model: Transformer, dtype: Dtype) -> Engine:
        runtime = Runtime(self.runtime.device, dtype, self.runtime.threads)
        return Engine(model, runtime, options=self.options)

    def _quantized(self, bits: int) -> Transformer | None:
        """Return the model with quantized matrices, or None where groups of 32 do not fit them."""
        scheme = Scheme(bits, "rtn", 32, bits, bits)
        try:
            quantized = copy.deepcopy(self.model)
            for _ in apply.quantize(quantized, scheme):
                pass
        except KiaraError:
            return None
        return quantized

    def _training(self, peaks: Peaks) -> Measured:
        """Take steps of the config's optimizer on a copy of the model."""
        model, context = copy.deepcopy(self.model).train(), self.model.config.context_length
        fused, why = decide_fused(self.config.runtime, self.runtime)
        if fused:
            fuse(model, load())
        context = min(context, max(2, int(EFFORT / self.count.training_flops)))
        most = max(1, int(EFFORT / (self.count.training_flops * context)))
        rows = min(self.config.train.batch_size, most)
        optimizer = make_optimizer(model, self.config.train)
        ids = torch.randint(self.count_of_ids, (rows, context + 1), generator=torch.Generator().manual_seed(0))
        batch = Batch.of(ids[:, :-1], ids[:, 1:]).to(self.runtime.device)
        best = math.inf
        for _ in range(self.rounds + 1):
            began = time.perf_counter()
            with self.runtime.precision():
                objective, _ = batch_loss(model, batch)
            (objective / (rows * context)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            float(objective.detach())  # waits for the device
            best = min(best, time.perf_counter() - began)
        floor = peaks.flops.get(self.runtime.dtype, math.nan) / self.count.training_flops
        how = "C loops" if fused else f"PyTorch, because {why}"
        return Measured("training step", self.runtime.dtype, rows, rows * context / best, floor, how)

    def _prefill(self, peaks: Peaks, engine: Engine, dtype: str) -> Measured:
        length = max(1, min(PROMPT, engine.context - 2))
        rate = prefill(engine, length, self.rounds)
        head = 2 * self.model.config.emb_dim * self.count_of_ids  # only the last position is scored
        return Measured("prefill", dtype, 1, rate, peaks.flops[dtype] / (self.count.forward_flops - head))

    def _decoding(self, peaks: Peaks, engine: Engine, dtype: str, streams: int) -> Measured:
        """Measure a decode step; its floor is the longer of reading all weights and computing all products."""
        flops = peaks.flops.get(self.runtime.dtype if dtype.startswith("int") else dtype, math.inf)
        seconds = max(bytes_read(engine) / peaks.memory, streams * self.count.forward_flops / flops)
        rate = decoding(engine, streams, self.rounds)
        return Measured("decoding", dtype, streams, rate, streams / seconds, engine.backend.name)

    @property
    def count_of_ids(self) -> int:
        assert self.model.config.vocab_size is not None
        return self.model.config.vocab_size
