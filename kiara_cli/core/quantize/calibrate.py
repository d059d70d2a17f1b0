"""What the matrices of a model are multiplied with: second moments of their inputs, over real text.

In: a model and batches of ids. Out: block by block, H = Σ x xᵀ of each matrix's inputs, with all matrices before it
already made small, so that later ones make up for what earlier ones have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kiara_cli.core.data.batches import Batcher
from kiara_cli.core.data.conversations import ConversationBatcher, document_mask
from kiara_cli.core.data.shards import Tokens
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT
from kiara_cli.errors import KiaraError

ROWS = 16  # windows that pass the model together
Batch = tuple[Tensor, Tensor | None]  # ids (B, T), and which positions they may look at or None


def batches_of(
    tokens: Tokens, specials: Mapping[str, int], context: int, conversations: bool, enough: int
) -> list[Batch]:
    """Draw about `enough` tokens of text in windows, the same ones each time. Raises KiaraError if there is too little."""
    rows = min(ROWS, -(-enough // context))
    steps = range(max(1, enough // (rows * context)))
    if conversations:
        mark = specials[END_OF_TEXT]
        talks = ConversationBatcher(tokens, specials, context, rows, seed=0)
        return [(ids, document_mask(ids, mark)) for ids, _ in map(talks.batch, steps)]
    if len(tokens) <= context:
        raise KiaraError(f"the text to calibrate on has {len(tokens)} tokens, too few", "give a longer one: --text FILE")
    return [(ids, None) for ids, _ in map(Batcher(tokens, context, rows, context, seed=0).batch, steps)]


@torch.inference_mode()
def moments(model: Transformer, batches: Iterable[Batch]) -> Iterator[tuple[str, Tensor]]:
    """Yield the name of each matrix of the blocks, then of the head, and its H (K, K), in the order of the pass.

    Whoever asks may exchange the matrix before asking for the next.
    """
    states = [_first_states(model, *batch) for batch in batches]  # what the next block reads, per batch
    for index, block in enumerate(model.blocks):
        for name, layer in _products(block):
            total = torch.zeros(layer.in_features, layer.in_features, device=model.device)
            with _watching(layer, total):
                for arguments in states:
                    block(*arguments)
            yield f"blocks.{index}.{name}", total
        states = [(block(*arguments), *arguments[1:]) for arguments in states]
    total = torch.zeros(model.config.emb_dim, model.config.emb_dim, device=model.device)
    for x, *_ in states:
        rows = model.norm(x).flatten(0, -2)
        total += rows.T @ rows
    yield "head", total


def _products(block: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Return the matrices of a block, in the order in which it multiplies with them."""
    return [(name, module) for name, module in block.named_modules() if isinstance(module, nn.Linear)]


class _watching:
    """Add up x xᵀ of all that a layer reads inside this block."""

    def __init__(self, layer: nn.Module, total: Tensor) -> None:
        def add(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows = inputs[0].flatten(0, -2).float()
            total.add_(rows.T @ rows)

        self.hook = layer.register_forward_pre_hook(add)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self.hook.remove()


def _first_states(model: Transformer, ids: Tensor, visible: Tensor | None) -> tuple[Any, ...]:
    """Return what the first block is called with."""
    seen: list[tuple[Any, ...]] = []
    keep: Callable[[nn.Module, tuple[Any, ...]], None] = lambda block, arguments: seen.append(arguments)  # noqa: E731
    hook = model.blocks[0].register_forward_pre_hook(keep)
    try:
        model.states(ids.to(model.device), visible=visible)
    finally:
        hook.remove()
    return seen[0]
