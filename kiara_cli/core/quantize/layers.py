"""A quantized matrix in the place of a linear layer or an embedding.

In and out as the layers they replace. What is kept is what a checkpoint stores: `codes`, int8 (N, K) or two 4-bit
ones a byte (N, K / 2), and bfloat16 `scales` (N, G). Many rows at a time are multiplied with the full matrix, made
each time; few rows with the codes themselves, where torch has a product for them: see `pack`.

N outputs, K inputs, G groups of columns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kiara_cli.core.model.fastpath import stands_for
from kiara_cli.core.quantize.nibbles import ZERO, from_nibbles, to_nibbles
from kiara_cli.core.quantize.rounding import Small, dequantize

FEW = 4  # rows up to which torch's products with codes are quicker than the full matrix (measured: 16384 × 768)
CLOSE = 0.02  # largest difference of packed and full product, relative to the largest result: in bfloat16 both round


Packed = tuple[Tensor | None, Tensor | None]  # codes and scales as torch's product wants them, or nothing
UNPACKED: Packed = (None, None)


class Codes(nn.Module):
    """Codes and scales, and the number type of what is computed with them, which follows `.to(dtype)`."""

    codes: Tensor
    scales: Tensor

    def __init__(self, bits: int, rows: int, columns: int, group: int) -> None:
        super().__init__()
        self.bits = bits
        empty = torch.zeros(rows, columns, dtype=torch.int8)
        self.register_buffer("codes", to_nibbles(empty) if bits == 4 else empty)
        self.register_buffer("scales", torch.ones(rows, columns // group, dtype=torch.bfloat16))
        self.dtype = torch.float32

    def fill(self, small: Small) -> None:
        """Take codes and scales of a quantized matrix of the same shape."""
        self.codes.copy_(to_nibbles(small.codes) if self.bits == 4 else small.codes)
        self.scales.copy_(small.scales)

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to(dtype)`; codes and scales stay what they are."""
        self.dtype = change(torch.empty(0, dtype=self.dtype)).dtype
        super()._apply(lambda tensor: change(tensor).to(tensor.dtype), recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def weight(self) -> Tensor:
        """The full matrix (N, K), made anew each time."""
        return full(self.codes, self.scales, self.dtype)


class QuantizedEmbedding(Codes):
    """Rows by index, (…) → (…, K)."""

    def forward(self, ids: Tensor) -> Tensor:
        return full(self.codes[ids], self.scales[ids], self.dtype)


class QuantizedLinear(Codes):
    """x (…, K) → x @ weight.T + bias (…, N)."""

    def __init__(self, bits: int, layer: nn.Linear, group: int) -> None:
        super().__init__(bits, layer.out_features, layer.in_features, group)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.packed: Packed = UNPACKED

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        return product(x, self.codes, self.scales, self.bias, self.packed)


stands_for(QuantizedLinear, nn.Linear)
stands_for(QuantizedEmbedding, nn.Embedding)


def full(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the numbers (…, K) that stored codes (…, K or K / 2) and scales (…, G) stand for."""
    codes = from_nibbles(codes) if codes.dtype == torch.uint8 else codes
    return dequantize(codes.flatten(0, -2), scales.flatten(0, -2), dtype).view(codes.shape)


def product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None, packed: Packed = UNPACKED) -> Tensor:
    """Return x (…, K) times a quantized matrix, by torch's product with codes where it is packed and rows are few."""
    rows = x.flatten(0, -2)
    if x.requires_grad and torch.is_grad_enabled() and not scales.requires_grad:  # tuning learns the scales
        y: Tensor = Unheld.apply(x, codes, scales)  # type: ignore[no-untyped-call]
        return y if bias is None else y + bias.to(y.dtype)
    if packed[0] is None or len(rows) > FEW:
        return F.linear(x, full(codes, scales, x.dtype), None if bias is None else bias.to(x.dtype))
    y = by_codes(rows, packed).to(x.dtype).view(*x.shape[:-1], -1)
    return y if bias is None else y + bias.to(y.dtype)


class Unheld(torch.autograd.Function):
    """x (…, K) times a quantized matrix that is made anew for the way back, and not held in full until then."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return F.linear(x, full(codes, scales, x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return grad @ full(codes, scales, grad.dtype), None, None


def by_codes(rows: Tensor, packed: Packed) -> Tensor:
    """Multiply rows (B, K) by torch's product with packed codes, in the number type of their scales."""
    codes, scales = packed
    assert codes is not None
    assert scales is not None
    rows = rows.to(scales.dtype)
    if codes.dtype == torch.int8:
        return torch._weight_int8pack_mm(rows, codes, scales)
    return torch._weight_int4pack_mm_for_cpu(rows, codes, rows.shape[1] // scales.shape[0], scales)


def pack(layer: QuantizedLinear) -> bool:
    """Arrange the codes as torch's product on this processor wants them; say whether it computes what it should.

    Where it does not, or there is none for these shapes, the layer goes on with the full matrix.
    """
    layer.packed = UNPACKED
    if layer.codes.device.type != "cpu":
        return False
    x = torch.randn(1, layer.in_features, generator=torch.Generator().manual_seed(0)).to(layer.dtype)
    try:
        packed = _arranged(layer)
        found = by_codes(x, packed).float()
    except RuntimeError:  # torch's way to say that these shapes have no such product
        return False
    expected = x.float() @ full(layer.codes, layer.scales, torch.float32).T
    if not bool((found - expected).abs().max() <= CLOSE * expected.abs().max()):
        return False
    layer.packed = packed
    return True


def packed_of(model: nn.Module) -> dict[str, Tensor]:
    """Return what packing added to a model, by name: X.packed and X.packed_scales for a layer X."""
    found: dict[str, Tensor] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, QuantizedLinear) and layer.packed[0] is not None and layer.packed[1] is not None:
            found |= {f"{name}.packed": layer.packed[0], f"{name}.packed_scales": layer.packed[1]}
    return found


def _arranged(layer: QuantizedLinear) -> Packed:
    if layer.bits == 8:
        return layer.codes, layer.scales[:, 0].to(layer.dtype)
    codes = from_nibbles(layer.codes).int() + ZERO
    scales = torch.stack([layer.scales, torch.zeros_like(layer.scales)], dim=-1)  # with zero points, (N, G, 2)
    packed = torch._convert_weight_to_int4pack_for_cpu(codes, 1)
    return packed, scales.transpose(0, 1).to(layer.dtype).contiguous()
