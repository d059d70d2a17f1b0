"""What other programs call Kiara's weights, and how they lay them out.

In: weights under Kiara's names. Out: the same numbers under theirs, and back. Kiara keeps queries, keys and values in
one matrix, and gate and up in another; Hugging Face's GPT-2 keeps its matrices turned, (in, out).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.errors import KiaraError

QKV, GATE_UP = "attention.qkv", "feedforward.gate_up"  # the modules that others keep in parts


@dataclass(frozen=True)
class Names:
    """The names of one format: of modules outside of blocks, of a block, and of modules inside one."""

    outside: Mapping[str, str]
    block: str
    inside: Mapping[str, tuple[str, ...]]  # Kiara's module → theirs, in the order they lie on top of each other
    turned: frozenset[str] = field(default_factory=frozenset)  # Kiara's modules whose matrices they keep as (in, out)


@dataclass(frozen=True)
class Link:
    """One weight of Kiara's and where it stands elsewhere."""

    ours: str
    theirs: tuple[str, ...]
    rows: tuple[int, ...]  # of each of theirs
    turned: bool

    def split(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Yield theirs."""
        for name, part in zip(self.theirs, torch.split(tensor, list(self.rows)), strict=True):
            yield name, (part.T if self.turned else part).clone(memory_format=torch.contiguous_format)

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Return ours."""
        parts = [tensors[name].T if self.turned else tensors[name] for name in self.theirs]
        return torch.cat(parts).contiguous() if len(parts) > 1 else parts[0].contiguous()


def links(config: ModelConfig, shapes: Mapping[str, torch.Size], names: Names) -> list[Link]:
    """Link every weight of a model to its names in another format."""
    C, hidden = config.head_dim, config.hidden_dim
    parts = {QKV: (config.n_heads * C, config.n_kv_heads * C, config.n_kv_heads * C), GATE_UP: (hidden, hidden)}
    found = []
    for ours, shape in shapes.items():
        module, _, kind = ours.rpartition(".")
        inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", module)
        theirs: tuple[str, ...]
        if inside is None:
            theirs = (names.outside[module],)
        else:
            module = inside[2]
            theirs = tuple(names.block.format(inside[1]) + name for name in names.inside[module])
        rows = parts[module] if len(theirs) > 1 else (shape[0],)
        turned = module in names.turned and kind == "weight"
        found.append(Link(ours, tuple(f"{name}.{kind}" for name in theirs), rows, turned))
    return found


def to_theirs(weights: Mapping[str, Tensor], linked: list[Link]) -> dict[str, Tensor]:
    """Return weights under their names, in their layout."""
    return {name: part for link in linked for name, part in link.split(weights[link.ours])}


def to_ours(
    tensors: Mapping[str, Tensor], linked: list[Link], shapes: Mapping[str, torch.Size], origin: str
) -> dict[str, Tensor]:
    """Undo `to_theirs`. Raises KiaraError naming a tensor that is missing, too many or of the wrong shape."""
    expected = {}
    for link in linked:
        rest = shapes[link.ours][1:]
        for name, rows in zip(link.theirs, link.rows, strict=True):
            expected[name] = (*rest, rows) if link.turned else (rows, *rest)
    remedy = "give a folder whose weights and config.json belong together"
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise KiaraError(f"{origin}: the weight {name} is missing", remedy)
        if name not in expected:
            raise KiaraError(f"{origin}: there is a weight {name} that its architecture does not have", remedy)
        if tuple(tensors[name].shape) != expected[name]:
            found = tuple(tensors[name].shape)
            raise KiaraError(f"{origin}: {name} is {found}, and {expected[name]} by its config.json", remedy)
    return {link.ours: link.join(tensors) for link in linked}


def by_head(config: ModelConfig, weights: Mapping[str, Tensor], back: bool = False) -> dict[str, Tensor]:
    """Reorder the rows of queries, keys and values: GPT-NeoX keeps them head by head, Kiara all queries first."""
    parts = (config.n_heads, 3) if back else (3, config.n_heads)

    def reorder(tensor: Tensor) -> Tensor:
        rest = tensor.shape[1:]
        return tensor.reshape(*parts, config.head_dim, *rest).transpose(0, 1).reshape(-1, *rest).contiguous()

    return {key: reorder(tensor) if f".{QKV}." in key else tensor for key, tensor in weights.items()}


OUTSIDE = {"tokens": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
LLAMA_NAMES = Names(
    OUTSIDE,
    "model.layers.{}.",
    {
        "norm_1": ("input_layernorm",),
        QKV: ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.q_norm": ("self_attn.q_norm",),
        "attention.k_norm": ("self_attn.k_norm",),
        "attention.out": ("self_attn.o_proj",),
        "norm_2": ("post_attention_layernorm",),
        GATE_UP: ("mlp.gate_proj", "mlp.up_proj"),
        "feedforward.down": ("mlp.down_proj",),
    },
)
GPT2_NAMES = Names(
    {
        "tokens": "transformer.wte",
        "positions.table": "transformer.wpe",
        "norm": "transformer.ln_f",
        "head": "lm_head",
    },
    "transformer.h.{}.",
    {
        "norm_1": ("ln_1",),
        QKV: ("attn.c_attn",),
        "attention.out": ("attn.c_proj",),
        "norm_2": ("ln_2",),
        "feedforward.up": ("mlp.c_fc",),
        "feedforward.down": ("mlp.c_proj",),
    },
    turned=frozenset({QKV, "attention.out", "feedforward.up", "feedforward.down"}),
)
NEOX_NAMES = Names(
    {"tokens": "gpt_neox.embed_in", "norm": "gpt_neox.final_layer_norm", "head": "embed_out"},
    "gpt_neox.layers.{}.",
    {
        "norm_1": ("input_layernorm",),
        QKV: ("attention.query_key_value",),
        "attention.out": ("attention.dense",),
        "norm_2": ("post_attention_layernorm",),
        "feedforward.up": ("mlp.dense_h_to_4h",),
        "feedforward.down": ("mlp.dense_4h_to_h",),
    },
)
LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "gemma")
HUGGINGFACE = {**dict.fromkeys(LLAMA_LIKE, LLAMA_NAMES), "gpt2": GPT2_NAMES, "gpt_neox": NEOX_NAMES}

GGUF_OUTSIDE = {"tokens": "token_embd", "positions.table": "position_embd", "norm": "output_norm", "head": "output"}
GGUF_INSIDE: dict[str, tuple[str, ...]] = {
    "norm_1": ("attn_norm",),
    "attention.q_norm": ("attn_q_norm",),
    "attention.k_norm": ("attn_k_norm",),
    "attention.out": ("attn_output",),
    "norm_2": ("ffn_norm",),
    GATE_UP: ("ffn_gate", "ffn_up"),
    "feedforward.up": ("ffn_up",),
    "feedforward.down": ("ffn_down",),
}
GGUF_LLAMA = Names(GGUF_OUTSIDE, "blk.{}.", GGUF_INSIDE | {QKV: ("attn_q", "attn_k", "attn_v")})
GGUF_FUSED = Names(GGUF_OUTSIDE, "blk.{}.", GGUF_INSIDE | {QKV: ("attn_qkv",)})
GGUF = {**dict.fromkeys(LLAMA_LIKE, GGUF_LLAMA), "gpt2": GGUF_FUSED, "gpt_neox": GGUF_FUSED}
