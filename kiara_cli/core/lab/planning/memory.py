"""The memory and the operations of a training, counted on the model as it would be built.

In: a config whose `auto` values are decided, and what goes through the model at once. Out: `Counted`: bytes by what
they are held for when they are most, and every operation of an update.

Weights are made, one update is followed under fake tensors (forward, loss, backward, optimizer), then an evaluation's
forward pass; nothing is computed. What autograd keeps is counted as it is kept, not by a formula.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.schema import Config
from kiara_cli.core.lab.planning.trace import Operation, Trace, Unrun, traced
from kiara_cli.core.loss import ROWS, Objective, positions_at_once
from kiara_cli.core.model.attention import Attention, attend_all_heads
from kiara_cli.core.model.fused import put_loops
from kiara_cli.core.model.initialize import NoDraws
from kiara_cli.core.model.lora import add_adapters
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import prepare
from kiara_cli.core.quantize.scheme import Scheme
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.feed import DEPTH, rows_at_once
from kiara_cli.core.train.optimizer import make_optimizer
from kiara_cli.core.train.recompute import recompute_blocks


@dataclass(frozen=True)
class Rows:
    """What a batch holds, as far as it decides memory and time."""

    scored: float = 1.0  # share of positions with a target
    segmented: bool = False  # rows hold several texts, so that attention gets a mask
    scheme: Scheme | None = None  # of the frozen weights of a quantized checkpoint


@dataclass(frozen=True)
class Counted:
    """Bytes by part at the highest point of an update and of an evaluation; and what an update computes.

    The parts: weights, optimizer, average, data, activations (what the backward pass needs), logits (what scoring
    keeps), gradients, and scratch, which is made for a moment.
    """

    training: Mapping[str, int]
    evaluation: Mapping[str, int]
    saved: int  # bytes kept for the backward pass when it begins, the logits among them
    piece: Mapping[Operation, int]  # forward and backward pass of the rows that go through the model at once
    update: Mapping[Operation, int]  # the optimizer
    pieces: int  # of an update

    @property
    def parts(self) -> Mapping[str, int]:
        return max(self.training, self.evaluation, key=lambda parts: sum(parts.values()))

    @property
    def peak(self) -> int:
        return sum(self.parts.values())


def counted(config: Config, rows: Rows = Rows(), fused: bool = False) -> Counted:
    """Follow an update and an evaluation. `fused`: C loops take the place of a block's operators."""
    train, context = config.train, config.model.context_length
    at_once = rows_at_once(train.batch_size, context, config.runtime.device)
    pieces = math.ceil(train.batch_size / at_once) * train.accumulation
    with traced() as trace:
        model = built(config, trace, rows, fused)
        average = Average(model, train.ema_decay) if train.ema_decay else None
        optimizer = make_optimizer(model, train)
        first_update(model, optimizer, trace, keep=pieces > 1)
        trace.part = "data"
        batches = drawn(config, rows)
        for tensor in batches:
            trace.see(tensor)
        trace.restart()
        import builtins
        marks=[]
        for k in range(2):
            marks.append(len(trace.events))
            saved = learn(model, config, rows, at_once, trace)
            marks.append(len(trace.events))
            trace.part = "scratch"
            with precision(config):
                optimizer.step()
            if pieces==1: optimizer.zero_grad()
        marks.append(len(trace.events))
        builtins.EV=(trace.events[:],marks)
        piece = trace.taken()
        trace.part = "scratch"
        with precision(config):
            optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(1)
        update = trace.taken()
        training = dict(trace.highest)
        trace.counts = False
        trace.restart()
        measure(model, config, rows, trace)
        return Counted(training, dict(trace.highest), saved, piece, update, pieces)


def built(config: Config, trace: Trace, rows: Rows, fused: bool) -> Transformer:
    """Make the model as `train.build` does: the weights, then what changes it."""
    with NoDraws():
        model = Transformer(config.model, initialized=False)
    if rows.scheme is not None:
        prepare(model, rows.scheme)
    for tensor in (*model.parameters(), *model.buffers()):
        trace.see(tensor)
    trace.part = "weights"
    if config.train.lora.rank:
        add_adapters(model, config.train.lora)
    if config.train.recompute:
        recompute_blocks(model)
    if config.runtime.device != "cpu":  # the tensors here say they are on a CPU
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = attend_all_heads
    if fused:
        put_loops(model, Unrun(trace))
    return model.train()


def first_update(model: Transformer, optimizer: torch.optim.Optimizer, trace: Trace, keep: bool) -> None:
    """Let the optimizer make what it remembers between updates; with `keep` gradients are there from now on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trace.part = "gradients"
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
        parameter.register_post_accumulate_grad_hook(lambda weight: trace.move([weight.grad], "gradients"))
    trace.part = "optimizer"
    optimizer.step()
    if not keep:
        optimizer.zero_grad()


def learn(model: Transformer, config: Config, rows: Rows, at_once: int, trace: Trace) -> int:
    """Follow forward pass, loss and backward pass of the rows that go through together; return the bytes saved."""
    shape = (at_once, config.model.context_length)
    before, trace.counts = trace.now, True
    with precision(config):
        trace.part = "activations"
        ids = torch.empty(shape, dtype=torch.long)
        states = model.states(ids, segments=ids if rows.segmented else None)
        trace.part = "logits"
        chosen, targets = states.flatten(0, 1), ids.flatten()
        if rows.scored < 1:
            count = min(len(chosen), math.ceil(rows.scored * len(chosen) / ROWS) * ROWS)
            where = torch.empty(count, dtype=torch.long)
            chosen, targets = chosen[where], targets[where]
        train = config.train
        objective, _ = Objective(train.z_loss, train.label_smoothing, train.loss_chunk)(
            chosen, model.unembed, targets
        )
    saved = trace.now - before
    trace.part = "scratch"
    del states, chosen
    objective.backward()  # type: ignore[no-untyped-call]
    return saved


@torch.no_grad()
def measure(model: Transformer, config: Config, rows: Rows, trace: Trace) -> None:
    """Follow an evaluation's forward pass, scored in pieces."""
    model.eval()
    trace.part = "activations"
    with precision(config):
        ids = torch.empty((config.eval.batch_size, config.model.context_length), dtype=torch.long)
        states = model.states(ids, segments=ids if rows.segmented else None).flatten(0, 1)
        trace.part = "logits"
        assert config.model.vocab_size is not None
        some = states[: positions_at_once(config.model.vocab_size)]
        F.cross_entropy(model.unembed(some).float(), ids.flatten()[: len(some)], reduction="none")


def precision(config: Config) -> AbstractContextManager[None]:
    """Run products in the config's precision; the tensors are on a CPU whatever the machine."""
    dtype = config.runtime.dtype
    return Runtime(torch.device("cpu"), dtype, 1).precision()


def drawn(config: Config, rows: Rows) -> list[Tensor]:
    """Return the batches that lie ready: inputs, targets and segments."""
    train = config.train
    shape = (DEPTH + 1, train.accumulation, train.batch_size, config.model.context_length)
    return [torch.empty(shape, dtype=torch.long) for _ in range(3 if rows.segmented else 2)]
