"""The memory and the operations of a training, counted on the model as it would be built.

In: a config whose `auto` values are decided, and what a batch holds. Out: `Counted`: bytes by what they are held for
when they are most, and the work of an update.

Weights are made, one update is followed under fake tensors (forward, loss, backward, optimizer), then an evaluation's
forward pass; nothing is computed. What autograd keeps is counted as it is kept, not by a formula.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from ctypes import CDLL
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.schema import Config
from kiara_cli.core.lab.planning.trace import Trace, Unrun, Work, traced
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

DEEP = 6  # layers up to which a model is followed as it is: an update of a layer takes 0.05 s
FEW = (2, 4)  # layers of those that are followed in the place of a deeper one


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
    keeps), gradients, and temporary, which is made for a moment.
    """

    training: Mapping[str, int]
    evaluation: Mapping[str, int]
    small: tuple[int, int]  # bytes that come and go in small blocks, at most: of an update, of an evaluation
    saved: int  # bytes that autograd holds when the backward pass begins, the logits among them
    piece: Work  # forward and backward pass of the rows that go through the model at once
    update: Work  # the optimizer
    pieces: int  # of an update

    @property
    def parts(self) -> Mapping[str, int]:
        return max(self.training, self.evaluation, key=lambda parts: sum(parts.values()))


def counted(config: Config, rows: Rows = Rows(), fused: bool = False) -> Counted:
    """Follow an update and an evaluation. `fused`: C loops take the place of a block's operators.

    Of deep models whose layers are all alike two shallow ones are followed: everything grows by the same for a layer.
    """
    layers = config.model.n_layers
    if layers <= DEEP or any("blocks." in target for target in config.train.lora.targets):
        return followed(config, rows, fused)
    low, high = (followed(with_layers(config, few), rows, fused) for few in FEW)
    line: Counted = along(low, high, (layers - FEW[0]) / (FEW[1] - FEW[0]))
    return line


def along(low: Any, high: Any, share: float) -> Any:
    """Return what lies on the line through two counts, field by field."""
    if isinstance(low, dict):
        return type(low)({key: along(low.get(key, 0), high.get(key, 0), share) for key in {**low, **high}})
    if dataclasses.is_dataclass(low):
        names = [item.name for item in dataclasses.fields(low)]
        return type(low)(**{name: along(getattr(low, name), getattr(high, name), share) for name in names})  # type: ignore[misc]
    if isinstance(low, tuple):
        return tuple(along(one, other, share) for one, other in zip(low, high, strict=True))
    return round(low + share * (high - low))


def with_layers(config: Config, layers: int) -> Config:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, n_layers=layers))


def followed(config: Config, rows: Rows, fused: bool) -> Counted:
    """Follow an update and an evaluation of the model as it is."""
    train, context = config.train, config.model.context_length
    at_once = rows_at_once(train.batch_size, context, config.runtime.device)
    pieces = math.ceil(train.batch_size / at_once) * train.accumulation
    with traced() as trace:
        model = built(config, trace, rows, fused)
        trace.part = "average"
        average = Average(model, train.ema_decay) if train.ema_decay else None
        optimizer = make_optimizer(model, train)
        first_update(model, optimizer, trace, keep=pieces > 1)
        trace.part = "data"
        batches = drawn(config, rows)
        trace.restart()
        saved = learn(model, config, rows, at_once, trace)
        piece = trace.taken()
        trace.part = "temporary"
        with precision(config):
            optimizer.step()
        optimizer.zero_grad()
        if average is not None:
            average.update(1)
        update, training, small = trace.taken(), trace.highest, trace.most_small
        trace.restart()
        measure(model, config, rows, trace)
        del batches
        return Counted(training, trace.highest, (small, trace.most_small), saved, piece, update, pieces)


def built(config: Config, trace: Trace, rows: Rows, fused: bool) -> Transformer:
    """Make the model as `train.build` does: the weights, then what changes it."""
    with NoDraws():
        model = Transformer(config.model, initialized=False)
    if rows.scheme is not None:
        prepare(model, rows.scheme)
    if config.train.lora.rank:
        add_adapters(model, config.train.lora)
    if config.train.recompute:
        recompute_blocks(model)
    if config.runtime.device != "cpu":  # the tensors here say they are on a CPU
        for module in model.modules():
            if isinstance(module, Attention):
                module.attend = attend_all_heads
    if fused:
        put_loops(model, cast(CDLL, Unrun(trace)))
    return model.train()


def first_update(model: Transformer, optimizer: torch.optim.Optimizer, trace: Trace, keep: bool) -> None:
    """Let the optimizer make what it remembers between updates; with `keep` gradients are there from now on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def moved(weight: Tensor) -> None:
        assert weight.grad is not None
        trace.move([weight.grad], "gradients")

    trace.part = "gradients"
    for parameter in trained:
        parameter.grad = torch.empty_like(parameter)
        parameter.register_post_accumulate_grad_hook(moved)  # type: ignore[no-untyped-call]
    trace.part = "optimizer"
    optimizer.step()
    if not keep:
        optimizer.zero_grad()
    trace.taken()


def learn(model: Transformer, config: Config, rows: Rows, at_once: int, trace: Trace) -> int:
    """Follow forward pass, loss and backward pass of the rows that go through together; return the bytes saved."""
    shape = (at_once, config.model.context_length)
    before = trace.now
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
    trace.part = "temporary"
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
