"""GPTQ: round a matrix so that its products on real inputs change least (Frantar et al., 2022).

In: a weight (N, K), the inputs' second moments H = Σ x xᵀ (K, K), and the scales of round-to-nearest. Out: codes for
the same scales. Rounding one column leaves an error that the columns after it can make up for, as far as their inputs
go together; columns whose inputs are largest come first. Then single codes move as long as the error falls. Each row
is compared with its round-to-nearest at the end, so that no row is ever worse.

The objective of a row w rounded to q is (w − q) H (w − q)ᵀ: the squared change of its products over all the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kiara_cli.core.quantize.rounding import HIGHEST, LOWEST, Small, to_nearest
from kiara_cli.core.runtime.device import exact

DAMPING = 0.01  # of the mean of H's diagonal, added to it (Frantar et al.)
CHUNK = 256  # rows whose scales are fitted together
SWEEPS = 4  # over all columns after the first pass (measured: more change little)


def objective(weight: Tensor, rounded: Tensor, hessian: Tensor) -> Tensor:
    """Return the squared change of each row's products, (N,) in float64."""
    error = exact(weight - rounded)
    return ((error @ exact(hessian)) * error).sum(dim=1)


def gptq(weight: Tensor, scales: Tensor, bits: int, hessian: Tensor) -> Small:
    """Choose codes for the scales by what they do to the products. float32 in; H (K, K) may be singular."""
    plain = to_nearest(weight, scales, bits)
    steps = scales.float().repeat_interleave(plain.group, dim=1)  # (N, K)
    damping = DAMPING * hessian.diagonal().mean().clamp(min=1e-12)
    damped = exact(hessian)
    damped += damping.to(damped.device) * torch.eye(len(damped), device=damped.device)
    codes = _forward(weight, steps, bits, damped)
    damped = damped.float().to(weight.device)
    codes = _sweep(weight, steps, bits, codes, damped)
    better = Small(bits, codes.to(torch.int8), scales)
    if scales.shape[1] > 1:
        scales = refit(weight, better, damped)
        steps = scales.float().repeat_interleave(plain.group, dim=1)
        again = Small(bits, _sweep(weight, steps, bits, codes, damped).to(torch.int8), scales)
        better = choose(weight, hessian, again, better)
    return choose(weight, hessian, better, plain)


def choose(weight: Tensor, hessian: Tensor, new: Small, old: Small) -> Small:
    """Take each row from `new`, unless `old` has less error there."""
    worse = objective(weight, new.full(), hessian) > objective(weight, old.full(), hessian)
    worse = worse.to(weight.device)[:, None]
    return Small(new.bits, torch.where(worse, old.codes, new.codes), torch.where(worse, old.scales, new.scales))


def refit(weight: Tensor, small: Small, hessian: Tensor) -> Tensor:
    """Return the scales (N, G) that leave the least error with the codes as they are: least squares, row by row."""
    rows, groups = small.scales.shape
    out = []
    for first in range(0, rows, CHUNK):
        codes = small.codes[first : first + CHUNK].float().view(-1, groups, small.group)  # (n, G, Q)
        pulled = torch.einsum("ngq,gqk->ngk", codes, hessian.view(groups, small.group, -1))  # (n, G, K)
        both = torch.einsum("nghq,nhq->ngh", pulled.view(*pulled.shape[:2], groups, -1), codes)  # (n, G, G)
        wanted = torch.einsum("ngk,nk->ng", pulled, weight[first : first + CHUNK])
        steady = 1e-4 * both.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
        old = small.scales[first : first + CHUNK].float()
        both = both + steady[:, None, None] * torch.eye(groups, device=both.device)
        out.append(torch.linalg.solve(both, wanted + steady[:, None] * old))
    scales = torch.cat(out).bfloat16()
    return torch.where(scales == 0, small.scales, scales)


def _forward(weight: Tensor, steps: Tensor, bits: int, hessian: Tensor) -> Tensor:
    """Round column after column, passing each one's error on to those that follow; return codes (N, K)."""
    order = hessian.diagonal().argsort(descending=True)
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian[order][:, order]), upper=True).float().to(weight.device)
    order = order.to(weight.device)
    left, steps = weight[:, order].clone(), steps[:, order]
    codes = torch.empty_like(left)
    for j in range(left.shape[1]):
        codes[:, j] = (left[:, j] / steps[:, j]).round().clamp(LOWEST[bits], HIGHEST[bits])
        error = (left[:, j] - codes[:, j] * steps[:, j]) / upper[j, j]
        left[:, j + 1 :] -= error[:, None] * upper[j, j + 1 :]
    return codes[:, order.argsort()]


def _sweep(weight: Tensor, steps: Tensor, bits: int, codes: Tensor, hessian: Tensor) -> Tensor:
    """Move each code to where the error is smallest with all others as they are, again and again."""
    codes = codes.clone()
    pull = (weight - codes * steps) @ hessian  # (N, K)
    for _ in range(SWEEPS):
        for j in range(codes.shape[1]):
            wanted = codes[:, j] + pull[:, j] / (hessian[j, j] * steps[:, j])
            moved = wanted.round().clamp(LOWEST[bits], HIGHEST[bits]) - codes[:, j]
            codes[:, j] += moved
            pull -= (moved * steps[:, j])[:, None] * hessian[j]
    return codes
