"""Quantized weights as a whole: fit scales and norms so that the model predicts what the full one predicts.

In: a quantized model, the full one it was made from, and batches. Out: the same codes with better scales. GPTQ
looks at one matrix at a time; what is left is the error of all of them together. Only what multiplies whole groups
moves, so a little text is enough and little can go wrong; if held-out batches get worse, everything moves back.
Measured on the default model, 4 bits: bits per byte of the validation split +1.31 % without, +0.99 % with 2 passes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.loss import positions_at_once
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.layers import Codes

RATE = 2e-3  # of Adam, on factors that start at 1; falls to 0 (not searched for)
HELD_OUT = 8  # one batch in so many decides whether it was worth it


def tune(quantized: Transformer, full: Transformer, batches: Sequence[Batch], passes: int) -> bool:
    """Fit scales and norms in `passes` over the batches; say whether the model got better and was changed."""
    learned, judged = [b for i, b in enumerate(batches) if i % HELD_OUT], batches[::HELD_OUT]
    if not passes or not learned:
        return False
    layers = [
        layer
        for name, layer in quantized.named_modules()
        if isinstance(layer, Codes) and not (name == "head" and quantized.config.tied_head)
    ]
    starts = [layer.scales for layer in layers]
    factors = [torch.ones_like(scales, dtype=torch.float32, requires_grad=True) for scales in starts]
    norms = [weight for weight in quantized.parameters() if weight.dim() == 1]
    before = [weight.detach().clone() for weight in norms]
    worst = _distance(quantized, full, judged)

    optimizer = torch.optim.Adam([*factors, *norms], lr=RATE)
    total = passes * len(learned)
    for step in range(total):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (1 - step / total)
        _set_scales(quantized, layers, [scales * factor for scales, factor in zip(starts, factors, strict=True)])
        with torch.enable_grad():
            _difference(quantized, full, learned[step % len(learned)]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        quantized.zero_grad()
        optimizer.zero_grad()

    moved = [(scales * factor.detach()).bfloat16() for scales, factor in zip(starts, factors, strict=True)]
    _set_scales(quantized, layers, moved)
    if _distance(quantized, full, judged) < worst:
        return True
    _set_scales(quantized, layers, starts)
    with torch.no_grad():
        for weight, old in zip(norms, before, strict=True):
            weight.copy_(old)
    return False


def _difference(quantized: Transformer, full: Transformer, batch: Batch) -> Tensor:
    """Return how far apart both models' next tokens are, on average over the targets (Kullback–Leibler).

    Logits are forgotten and computed again on the way back, so that those of a few positions are held at a time.
    """
    batch = batch.to(quantized.device)
    where = batch.targets != IGNORE
    with torch.no_grad():
        wanted = full.states(batch.inputs, segments=batch.segments)[where]  # (n, D)
    found = quantized.states(batch.inputs, segments=batch.segments)[where]

    def distance(found: Tensor, wanted: Tensor) -> Tensor:
        with torch.no_grad():
            logs = F.log_softmax(full.head(wanted).float(), dim=-1)
        return F.kl_div(F.log_softmax(quantized.head(found).float(), dim=-1), logs, reduction="sum", log_target=True)

    assert quantized.config.vocab_size is not None
    at_once = positions_at_once(quantized.config.vocab_size)
    if len(found) <= at_once:
        return distance(found, wanted) / max(1, batch.target_count)
    total = found.new_zeros((), dtype=torch.float32)
    for part in zip(torch.split(found, at_once), torch.split(wanted, at_once), strict=True):
        total = total + checkpoint(distance, *part, use_reentrant=False, preserve_rng_state=False)
    return total / batch.target_count


@torch.no_grad()
def _distance(quantized: Transformer, full: Transformer, batches: Sequence[Batch]) -> float:
    return sum(float(_difference(quantized, full, batch)) for batch in batches)


def _set_scales(model: Transformer, layers: Sequence[Codes], scales: Sequence[Tensor]) -> None:
    """Give the layers scales; a tied head has the embedding's."""
    for layer, new in zip(layers, scales, strict=True):
        layer.scales = new
    head: nn.Module = model.head
    if model.config.tied_head and isinstance(head, Codes):
        head.scales = model.get_buffer("tokens.scales")
