"""What the matrices of a model are multiplied with: second moments of their inputs, over real text.

In: a model and batches of ids. Out: block by block, H = Σ g x xᵀ of each matrix's inputs, with all matrices before it
already quantized, so that later ones make up for what earlier ones have changed. Each position counts as much as the
loss depends on what is computed there, g (Kim et al., GuidedQuant, 2025, in its simplest form).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kiara_cli.core.data.batches import Batch, Batcher
from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.data.segments import holds_conversations
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.loss import cross_entropy, positions_at_once
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

ROWS = 16  # windows that pass the model together
EVERY = 0.1  # what each position counts at least, the mean being 1 (a guess)


def batches_of(tokens: Tokens, specials: Mapping[str, int], context: int, enough: int) -> list[Batch]:
    """Draw about `enough` tokens of text, always the same ones. Raises KiaraError for too little of it."""
    rows = min(ROWS, -(-enough // context))
    batcher: Batcher
    if holds_conversations(tokens, specials):
        packed = batcher = PackedBatcher(tokens, specials, context, rows, seed=0)
        packed.contents.check("the text to calibrate on", context)
    elif len(tokens) <= context:
        raise KiaraError(f"the text to calibrate on has {len(tokens)} tokens, too few", "give --text FILE")
    else:
        batcher = WindowBatcher(tokens, context, rows, context, seed=0)
    return [batcher.batch(step) for step in range(max(1, enough // (rows * context)))]


def moments(model: Transformer, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each matrix of the blocks, then of the head, and its H (K, K), in the order of the pass.

    Whoever asks may exchange the matrix before asking for the next.
    """
    batches = list(batches)
    counted = [_position_weights(model, batch) for batch in batches]
    states = [_first_states(model, batch) for batch in batches]  # what the next block reads, per batch
    for index, block in enumerate(model.blocks):
        for name, layer in _products(block):
            total = torch.zeros(layer.in_features, layer.in_features, device=model.device)
            for arguments, weights in zip(states, counted, strict=True):
                with torch.no_grad(), _adding(layer, weights[f"blocks.{index}.{name}"], total):
                    block(*arguments)
            yield f"blocks.{index}.{name}", total
        with torch.no_grad():
            states = [(block(*arguments), *arguments[1:]) for arguments in states]
    if not isinstance(model.head, nn.Linear):  # tied to an embedding that is quantized already
        return
    total = torch.zeros(model.config.emb_dim, model.config.emb_dim, device=model.device)
    for (x, *_), weights in zip(states, counted, strict=True):
        with torch.no_grad():
            _add(model.norm(x), weights["head"], total)
    yield "head", total


def _position_weights(model: Transformer, batch: Batch) -> dict[str, Tensor]:
    """Return for each matrix how much each position counts, (B T, 1): the squared gradient of the loss there.

    What a matrix computes at a position where the model is sure, or that nothing is asked of, may change more.
    """
    batch = batch.to(model.device)
    squares: dict[str, list[Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def keep(gradient: Tensor) -> None:
            squares.setdefault(name, []).append(gradient.float().square().mean(dim=-1).flatten()[:, None])

        return lambda layer, inputs, output: output.register_hook(keep) and None  # type: ignore[no-untyped-call]

    hooks = [layer.register_forward_hook(watch(name)) for name, layer in _products(model)]
    try:
        with torch.enable_grad():
            states = model.states(batch.inputs, segments=batch.segments).flatten(0, 1)
            scored = states.detach().requires_grad_()
            assert model.config.vocab_size is not None
            at_once = positions_at_once(model.config.vocab_size)
            for first in range(0, len(scored), at_once):
                logits = model.head(scored[first : first + at_once])
                wanted = batch.targets.flatten()[first : first + at_once]
                cross_entropy(logits, wanted, reduction="sum").backward()  # type: ignore[no-untyped-call]
            states.backward(scored.grad)  # type: ignore[no-untyped-call]
    finally:
        for hook in hooks:
            hook.remove()
        model.zero_grad()
    whole = {name: torch.cat(parts) for name, parts in squares.items()}
    return {name: weight / weight.mean().clamp(min=1e-30) + EVERY for name, weight in whole.items()}


def _products(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the matrices of a block or model, in the order in which it multiplies with them."""
    return [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]


@contextmanager
def _adding(layer: nn.Module, weight: Tensor, total: Tensor) -> Iterator[None]:
    """Add up x xᵀ of all that a layer reads inside this block, each position times its weight."""

    hook = layer.register_forward_pre_hook(lambda layer, inputs: _add(inputs[0], weight, total))
    try:
        yield
    finally:
        hook.remove()


def _add(inputs: Tensor, weight: Tensor, total: Tensor) -> None:
    rows = inputs.flatten(0, -2).float()
    total.add_((rows * weight).T @ rows)


@torch.no_grad()
def _first_states(model: Transformer, batch: Batch) -> tuple[Any, ...]:
    """Return what the first block is called with."""
    batch = batch.to(model.device)
    seen: list[tuple[Any, ...]] = []
    keep: Callable[[nn.Module, tuple[Any, ...]], None] = lambda block, arguments: seen.append(arguments)  # noqa: E731
    hook = model.blocks[0].register_forward_pre_hook(keep)
    try:
        model.states(batch.inputs, segments=batch.segments)
    finally:
        hook.remove()
    return seen[0]
