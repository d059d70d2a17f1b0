"""The fused loops of training in bf16 on a CPU: one pass over memory where torch makes five to fifteen.

In: a model. Out: the same model, whose norms, heads, gates and softmaxes run in the loops of fused.c. What the
modules do otherwise is the plain version: a test shows that they agree, and where the input is not bf16 it runs.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable
from ctypes import CDLL
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.model.attention import Attend, Attention, is_short
from kiara_cli.core.model.fastpath import differences, unknown_settings
from kiara_cli.core.model.feedforward import RMSNorm, SwiGLU
from kiara_cli.core.model.points import OWN, Point, hooked
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.model.verify import disagreement, small_model
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.runtime.native import CompilerError, Library, build

log = logging.getLogger("kiara.model")

Heads: TypeAlias = tuple[Tensor, Tensor, Tensor]  # queries (B, H, T, C), keys and values (B, K, T, C)

SOURCE = Path(__file__).with_suffix(".c")
SIGNATURES = {
    "rms_norm": "pppiifi",
    "rms_norm_back": "pppppiifi",
    "swiglu": "ppiii",
    "swiglu_back": "pppiii",
    "heads": "pppppppiiiiifi",
    "heads_back": "pppppppppiiiiifi",
    "softmax": "ppiiiifi",
    "softmax_back": "pppiifi",
    "drop": "ppiifi",
}


def decide_fused(config: RuntimeConfig, runtime: Runtime) -> tuple[bool, str]:
    """Decide runtime.native for a training; return it, and the reason in one line."""
    if config.native is False or config.compile is True:
        return False, "runtime.native=false" if config.native is False else "runtime.compile=true"
    if runtime.device.type != "cpu" or runtime.dtype != "bf16":
        return False, "the C loops are for bf16 on a CPU"
    try:
        load()
    except CompilerError as error:
        return False, f"the C compiler does not work here: {error}"
    return True, "the C compiler works"


def load() -> Library:
    """Return the library. Raises CompilerError."""
    return build(SOURCE, SIGNATURES)


def fuse(model: Transformer, library: CDLL) -> Transformer:
    """Put the loops of the library in the place of the modules' own operators, if they compute the same here.

    Modules that are not what the config makes keep theirs, and so does what reads their weights.
    """
    why = loops_fault(model.config, library)
    if why is not None:
        log.warning("Training runs on PyTorch's operators, without C loops: %s.", why)
        return model
    return put_loops(model, library)


def loops_fault(config: ModelConfig, library: CDLL) -> str | None:
    """Return what the loops compute wrong in a small model of this kind, or None."""
    small = small_model(config)
    return disagreement(small, put_loops(copy.deepcopy(small), library)) or drop_fault(library)


def put_loops(model: Transformer, library: CDLL) -> Transformer:
    """Exchange the functions of all modules that are what the config makes."""
    changed = dict(differences(model))
    strange = set(unknown_settings(model.config)) - {"residual", "scale_embeddings", "feedforward", "norm"}
    for name, reason in changed.items():
        if not isinstance(model.get_submodule(name), Point):  # at a point itself nothing is computed
            log.info("No C loops there: %s.", reason)
    for name, module in model.named_modules():
        if name in changed:
            continue
        if isinstance(module, RMSNorm):
            _replace(module, "forward", _normalize, library)
        if isinstance(module, SwiGLU):
            _replace(module, "gate", _gate, library)
        if isinstance(module, nn.Dropout) and module.p:
            _replace(module, "forward", _drop, library)
        if isinstance(module, Attention):
            _replace(module, "attend", _attend, library)
            usual = not strange and not {f"{name}.q_norm", f"{name}.k_norm", "rotary"} & changed.keys()
            if usual and model.rotary is not None and isinstance(module.q_norm, RMSNorm):
                _replace(module, "place", _place, library)
    return model


def drop_fault(library: CDLL, rate: float = 0.25, count: int = 20_000) -> str | None:
    """Return what is wrong with dropout: it leaves out its share, and its gradient the same numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.ones(count, dtype=torch.bfloat16, requires_grad=True)
        out: Tensor = Dropped.apply(x, rate, library)  # type: ignore[no-untyped-call]
    out.backward(torch.ones_like(out))  # type: ignore[no-untyped-call]
    kept = out != 0
    share, wanted = float(kept.float().mean()), torch.tensor(1 / (1 - rate)).bfloat16()
    right = abs(share - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5 and bool((out[kept] == wanted).all())
    assert x.grad is not None
    return None if right and torch.equal(x.grad, out) else f"dropout at {rate} keeps {share:.3f} of all numbers"


def _replace(module: Any, name: str, fast: Callable[..., Any], library: CDLL) -> None:
    setattr(module, name, functools.partial(fast, library, module, getattr(module, name)))


def _normalize(library: CDLL, module: RMSNorm, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    if not (_readable(x) and _is_weight(module.weight, x.shape[-1])):
        return plain(x)
    out: Tensor = Normalized.apply(x.contiguous(), module.weight, module.eps, library)  # type: ignore[no-untyped-call]
    return out


def _gate(library: CDLL, module: SwiGLU, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    if not _readable(x):
        return plain(x)
    out: Tensor = Gated.apply(x.contiguous(), library)  # type: ignore[no-untyped-call]
    return out


def _place(
    library: CDLL, module: Attention, plain: Callable[..., Heads], qkv: Tensor, rotary: Tensor | None
) -> Heads:
    norms, sizes = (module.q_norm, module.k_norm), (*qkv.shape[:2], module.H, module.K, module.C)
    fits = _readable(qkv) and rotary is not None and rotary.shape == (2, qkv.shape[1], module.C // 2)
    if not fits or hooked(*norms):
        return plain(qkv, rotary)
    if norms[0].eps != norms[1].eps or not all(_is_weight(norm.weight, module.C) for norm in norms):
        return plain(qkv, rotary)
    if hooked(module.q, module.k, module.v):  # points that the loop itself does not pass
        qkv = torch.cat([heads.transpose(1, 2) for heads in module.part(qkv)], dim=2).flatten(2)
    weights = norms[0].weight, norms[1].weight, rotary.float().contiguous()  # type: ignore[union-attr]
    q, k, v = Placed.apply(qkv.contiguous(), *weights, sizes, norms[0].eps, library)  # type: ignore[no-untyped-call]
    return module.rot_q(q), module.rot_k(k), v


def _attend(
    library: CDLL,
    module: Attention,
    plain: Attend,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    visible: Tensor | None,
    drop_rate: float,
) -> Tensor:
    if not is_short(q, k):
        return plain(q, k, v, visible, drop_rate)
    mask = None if visible is None else _mask(visible, (q.shape[0], 1, q.shape[2], k.shape[2]))
    if (mask is None) != (visible is None):
        return plain(q, k, v, visible, drop_rate)
    scale = q.shape[-1] ** -0.5
    weights = Weighed.apply(q @ k.mT, mask, scale, library)  # type: ignore[no-untyped-call]  # (B, H, T, S)
    if 0 < drop_rate < 1:
        weights = Dropped.apply(weights, drop_rate, library)  # type: ignore[no-untyped-call]
    elif drop_rate:
        weights = weights * 0
    out: Tensor = weights @ v  # (B, H, T, C)
    return out


def _drop(library: CDLL, module: nn.Dropout, plain: Callable[..., Tensor], x: Tensor) -> Tensor:
    if not module.training or not _readable(x) or module.p == 1:
        return plain(x)
    out: Tensor = Dropped.apply(x.contiguous(), module.p, library)  # type: ignore[no-untyped-call]
    return out


OWN.update((_normalize, _gate, _place, _attend, _drop))


def _readable(x: Tensor) -> bool:
    """Say whether the loops read such numbers: bf16 in this machine's memory."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


def _is_weight(weight: Any, width: int) -> bool:
    """Say whether the loops read a norm's weight: float32 in a row, as many as they expect."""
    return weight is not None and weight.dtype == torch.float32 and weight.is_contiguous() and len(weight) == width


def _mask(visible: Tensor, shape: tuple[int, int, int, int]) -> Tensor | None:
    """Return a mask as the softmax reads it, (B, 1, T, S) in bf16; None where it has another for each head."""
    if visible.ndim > 3 and visible.shape[-3] != 1:
        return None
    if visible.dtype == torch.bool:
        visible = torch.zeros_like(visible, dtype=torch.bfloat16).masked_fill_(~visible, float("-inf"))
    return visible.to(torch.bfloat16).expand(shape).contiguous()


class Normalized(torch.autograd.Function):
    """x / rms(x) × weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, library: CDLL) -> Tensor:
        out, width = torch.empty_like(x), x.shape[-1]
        ctx.save_for_backward(x, weight)
        ctx.rest = (x.numel() // width, width, eps, torch.get_num_threads())
        ctx.library = library
        library.rms_norm(*_at(x, weight, out), *ctx.rest)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grad.contiguous()
        grad_input, sums = torch.empty_like(x), weight.new_zeros(ctx.rest[-1], len(weight))
        ctx.library.rms_norm_back(*_at(grad, x, weight, grad_input, sums), *ctx.rest)
        return grad_input, sums.sum(0), None, None


class Gated(torch.autograd.Function):
    """silu(first half) × second half."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, library: CDLL) -> Tensor:
        width = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], width)
        ctx.save_for_backward(x)
        ctx.rest = (out.numel() // width, width, torch.get_num_threads())
        ctx.library = library
        library.swiglu(*_at(x, out), *ctx.rest)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        grad, grad_input = grad.contiguous(), torch.empty_like(x)
        ctx.library.swiglu_back(*_at(grad, x, grad_input), *ctx.rest)
        return grad_input, None


class Placed(torch.autograd.Function):
    """Queries, keys and values from their common product: queries and keys normalised and rotated, all by head."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        of_q: Tensor,
        of_k: Tensor,
        rotary: Tensor,
        sizes: tuple[int, ...],
        eps: float,
        library: CDLL,
    ) -> Heads:
        B, T, H, K, C = sizes
        q, k, v = (qkv.new_empty(B, heads, T, C) for heads in (H, K, K))
        ctx.save_for_backward(qkv, of_q, of_k, rotary)
        ctx.rest = (*sizes, eps, torch.get_num_threads())
        ctx.library = library
        library.heads(*_at(qkv, of_q, of_k, rotary, q, k, v), *ctx.rest)
        return q, k, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        qkv, of_q, of_k, rotary = ctx.saved_tensors
        grads = tuple(grad.contiguous() for grad in grads)
        grad_input, sums = torch.empty_like(qkv), of_q.new_zeros(ctx.rest[-1], 2, len(of_q))
        ctx.library.heads_back(*_at(*grads, qkv, of_q, of_k, rotary, grad_input, sums), *ctx.rest)
        return grad_input, *sums.sum(0), None, None, None, None


class Weighed(torch.autograd.Function):
    """softmax(scores × scale), in the place of the scores. `visible` (B, 1, T, S) in bf16 is added first."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, visible: Tensor | None, scale: float, library: CDLL) -> Tensor:
        threads = torch.get_num_threads()
        where = visible.data_ptr() if visible is not None else None
        library.softmax(scores.data_ptr(), where, *scores.shape, scale, threads)
        ctx.mark_dirty(scores)
        ctx.save_for_backward(scores)
        width = scores.shape[-1]
        ctx.rest = (scores.numel() // width, width, scale, threads)
        ctx.library = library
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (weights,) = ctx.saved_tensors
        grad, grad_input = grad.contiguous(), torch.empty_like(weights)
        ctx.library.softmax_back(*_at(grad, weights, grad_input), *ctx.rest)
        return grad_input, None, None, None


class Dropped(torch.autograd.Function):
    """Dropout with a seed of torch's for each call: torch draws one number after the other, with one thread.

    On 32 × 4 × 256 × 256 numbers that took 80 ms, and half the time of a training step.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float, library: CDLL) -> Tensor:
        seed = int(torch.randint(2**62, ()))
        ctx.rest, ctx.library = (x.numel(), seed, rate, torch.get_num_threads()), library
        out = torch.empty_like(x)
        library.drop(*_at(x, out), *ctx.rest)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad.contiguous()
        grad_input = torch.empty_like(grad)
        ctx.library.drop(*_at(grad, grad_input), *ctx.rest)
        return grad_input, None, None


def _at(*tensors: Tensor) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
