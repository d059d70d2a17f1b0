"""Named points: modules that return what they are given, where a hook from outside reads or changes what is computed.

In: a model. Out: its points by name, in the order in which they are passed. `KINDS` is the one table of them: order
and meaning are TransformerLens' (version 4), whose name for each stands beside it. There heads come after positions,
(B, T, H, C).

B batch, T new positions, S all positions, D width, H heads, K key/value heads, C head width, F hidden width,
V vocabulary.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torch import nn

from kiara_cli.config.model import ModelConfig

_second_pass = False
OWN: set[Callable[..., Any]] = set()  # functions of Kiara's that may stand in a module's slot


class Point(nn.Identity):
    """A place for hooks."""


class Kind(NamedTuple):
    """One kind of point; a * stands for the number of the block."""

    name: str
    module: str  # where the model keeps it
    axes: str  # its shape, a letter an axis
    lens: str  # TransformerLens' name
    holds: str


KINDS = (
    Kind("embed.out", "embed", "BTD", "hook_embed", "token embeddings"),
    Kind("pos_embed.out", "pos_embed", "TD", "hook_pos_embed", "learned or sinusoidal positions"),
    Kind("blocks.*.resid_pre", "blocks.*.resid_pre", "BTD", "blocks.*.hook_resid_pre", "the stream before the block"),
    Kind("blocks.*.attention.q", "blocks.*.attention.q", "BHTC", "blocks.*.attn.hook_q", "queries as projected"),
    Kind("blocks.*.attention.k", "blocks.*.attention.k", "BKTC", "blocks.*.attn.hook_k", "keys as projected"),
    Kind("blocks.*.attention.v", "blocks.*.attention.v", "BKTC", "blocks.*.attn.hook_v", "values as projected"),
    Kind("blocks.*.attention.rot_q", "blocks.*.attention.rot_q", "BHTC", "blocks.*.attn.hook_rot_q",
         "queries, normalised and rotated"),
    Kind("blocks.*.attention.rot_k", "blocks.*.attention.rot_k", "BKTC", "blocks.*.attn.hook_rot_k",
         "keys, normalised and rotated"),
    Kind("blocks.*.attention.scores", "blocks.*.attention.scores", "BHTS", "blocks.*.attn.hook_attn_scores",
         "before the softmax, -inf where masked"),
    Kind("blocks.*.attention.pattern", "blocks.*.attention.pattern", "BHTS", "blocks.*.attn.hook_pattern",
         "after the softmax"),
    Kind("blocks.*.attention.heads", "blocks.*.attention.heads", "BHTC", "blocks.*.attn.hook_z",
         "values weighted by the pattern"),
    Kind("blocks.*.attention.out", "blocks.*.attn_out", "BTD", "blocks.*.hook_attn_out",
         "what attention adds to the stream"),
    Kind("blocks.*.resid_mid", "blocks.*.resid_mid", "BTD", "blocks.*.hook_resid_mid", "resid_pre + attention.out"),
    Kind("blocks.*.feedforward.hidden", "blocks.*.feedforward.hidden", "BTF", "blocks.*.mlp.hook_post",
         "after the activation, and the gate where there is one"),
    Kind("blocks.*.feedforward.out", "blocks.*.mlp_out", "BTD", "blocks.*.hook_mlp_out",
         "what the feedforward adds to the stream"),
    Kind("blocks.*.resid_post", "blocks.*.resid_post", "BTD", "blocks.*.hook_resid_post",
         "resid_mid + feedforward.out"),
    Kind("final_norm.out", "normalized", "BTD", "ln_final.hook_out", "after the final norm"),
    Kind("logits", "logits", "BTV", "hook_unembed", "after the head"),
)  # fmt: skip
BY_NAME = {kind.name: kind for kind in KINDS}
BY_MODULE = {kind.module: kind for kind in KINDS}
WRITTEN_OUT = ("blocks.*.attention.scores", "blocks.*.attention.pattern")  # points that the fused kernels do not pass


def points(model: nn.Module) -> dict[str, Point]:
    """Return the points of a model by their public name, in the order in which they are passed."""
    return {public_name(name): module for name, module in model.named_modules() if isinstance(module, Point)}


def point_names(config: ModelConfig) -> list[str]:
    """Return the names of the points that a model of this config passes, in order."""
    return [name for name in _all_names(config) if name != "pos_embed.out" or config.positions != "rotary"]


def kind_of(name: str) -> Kind:
    """Return the kind of a point by its public name."""
    return BY_NAME[_starred(name)]


def public_name(module: str) -> str:
    """Return the name of a point for the name of its module; that of any other module stays as it is."""
    kind = BY_MODULE.get(_starred(module))
    return module if kind is None else kind.name.replace("*", module.split(".")[1] if "." in module else "")


def lens_name(name: str) -> str:
    """Return TransformerLens' name for a point."""
    return kind_of(name).lens.replace("*", name.split(".")[1] if "." in name else "")


def sizes(config: ModelConfig) -> dict[str, int]:
    """Return how long the axes of fixed length are; V is missing where the vocabulary is not known yet."""
    found = {
        "D": config.emb_dim, "H": config.n_heads, "K": config.n_kv_heads, "C": config.head_dim,
        "F": config.hidden_dim, "T": config.context_length, "V": config.vocab_size,
    }  # fmt: skip
    return {axis: size for axis, size in found.items() if size is not None}


def off_fast_path(name: str) -> str:
    """Say which fast paths a hook at a point takes a model off.

    Always the decode steps of generation; at some the layer's fused attention, which is written out then, or the
    selection of the positions that have a target, as all are scored.
    """
    if matches(name, WRITTEN_OUT):
        return "decode, attention"
    if name == "logits":
        return "decode, selection"
    return "decode"


def hooked(*modules: nn.Module) -> bool:
    """Say whether any of these modules has a hook, forward or backward."""
    return any(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
        for module in modules
    )


def is_own(function: Callable[..., Any]) -> bool:
    """Say whether a function in a slot is one of Kiara's own, alone or with arguments filled in."""
    return (function.func if isinstance(function, functools.partial) else function) in OWN


def matches(name: str, kinds: Iterable[str]) -> bool:
    """Say whether a point is of one of these kinds."""
    return _starred(name) in kinds


@contextlib.contextmanager
def second_pass() -> Iterator[None]:
    """Within this block a forward pass is computed again for its gradients: hooks are not to count it."""
    global _second_pass
    _second_pass = True
    try:
        yield
    finally:
        _second_pass = False


def is_second_pass() -> bool:
    """Say whether a forward pass is being computed again."""
    return _second_pass


def _all_names(config: ModelConfig) -> Iterator[str]:
    for inside, kinds in itertools.groupby(KINDS, lambda kind: "*" in kind.name):
        names = [kind.name for kind in kinds]
        for layer in range(config.n_layers if inside else 1):
            yield from (name.replace("*", str(layer)) for name in names)


def _starred(name: str) -> str:
    return re.sub(r"^blocks\.\d+(?=\.)", "blocks.*", name)
