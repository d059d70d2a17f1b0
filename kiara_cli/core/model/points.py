"""Named points: modules that return what they are given, where a hook from outside reads or changes what is computed.

In: a model. Out: its points by name, in the order in which they are passed. Order and meaning are TransformerLens',
and so are the names, without "hook_":

| point                              | shape        | holds                                                    |
|------------------------------------|--------------|----------------------------------------------------------|
| embed, pos_embed                   | (B, T, D)    | token embeddings; learned or sinusoidal positions (T, D) |
| blocks.i.resid_pre                 | (B, T, D)    | the residual stream before the block                     |
| blocks.i.attention.q, k, v         | (B, H, T, C) | queries, keys and values (K heads) as projected          |
| blocks.i.attention.rot_q, rot_k    | (B, H, T, C) | the first two normalised and rotated                     |
| blocks.i.attention.scores, pattern | (B, H, T, S) | before the softmax, -inf where masked; after it          |
| blocks.i.attention.z               | (B, H, T, C) | values weighted by the pattern                           |
| blocks.i.attn_out, resid_mid       | (B, T, D)    | what attention adds to the stream; the sum               |
| blocks.i.feedforward.post          | (B, T, F)    | after the activation, and the gate where there is one    |
| blocks.i.mlp_out, resid_post       | (B, T, D)    | what the feedforward adds; the sum                       |
| normalized, logits                 | (B, T, D), V | after the final norm; after the head                     |

A hook takes the model off the fast paths: see fastpath.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import nn

OWN: set[Callable[..., Any]] = set()  # functions of Kiara's that may stand in a module's slot


class Point(nn.Identity):
    """A place for hooks."""


def points(model: nn.Module) -> dict[str, Point]:
    """Return the points of a model by name, in the order in which they are passed."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Point)}


def hooked(*modules: nn.Module) -> bool:
    """Say whether any of these modules has a hook, forward or backward."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def is_own(function: Callable[..., Any]) -> bool:
    """Say whether a function in a slot is one of Kiara's own, alone or with arguments filled in."""
    return (function.func if isinstance(function, functools.partial) else function) in OWN
