"""READ FIRST. A decoder-only transformer: ids in, logits over the next token out.

B batch, T time, D width, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.model.attention import Attention, segment_mask
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.feedforward import FEEDFORWARDS, make_norm
from kiara_cli.core.model.initialize import initialize
from kiara_cli.core.model.points import Point
from kiara_cli.core.model.positions import ADDED, ROTATED


class Block(nn.Module):
    """Attention, which mixes positions, then a feedforward network for each position alone."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.resid_pre = Point()
        self.norm_1 = make_norm(config, config.emb_dim)
        self.attention = Attention(config, layer)
        self.attn_out, self.resid_mid = Point(), Point()
        self.norm_2 = make_norm(config, config.emb_dim)
        self.feedforward = FEEDFORWARDS[config.feedforward](config)
        self.mlp_out, self.resid_post = Point(), Point()
        self.dropout = nn.Dropout(config.drop_rate)

    def forward(self, x: Tensor, rotary: Tensor | None, cache: Cache | None, visible: Tensor | None) -> Tensor:
        x = self.resid_pre(x)
        x = self.resid_mid(x + self.attn_out(self.dropout(self.attention(self.norm_1(x), rotary, cache, visible))))
        x = self.resid_post(x + self.mlp_out(self.dropout(self.feedforward(self.norm_2(x)))))
        return x


class ParallelBlock(Block):
    """Both read the same input (GPT-J, Wang and Komatsuzaki, 2021; GPT-NeoX)."""

    def forward(self, x: Tensor, rotary: Tensor | None, cache: Cache | None, visible: Tensor | None) -> Tensor:
        x = self.resid_pre(x)
        y = self.resid_mid(x + self.attn_out(self.dropout(self.attention(self.norm_1(x), rotary, cache, visible))))
        x = self.resid_post(y + self.mlp_out(self.dropout(self.feedforward(self.norm_2(x)))))
        return x


BLOCKS = {"sequential": Block, "parallel": ParallelBlock}


class Transformer(nn.Module):
    """Token embeddings, blocks, a final norm, and a head that scores every token of the vocabulary.

    `config.vocab_size` must be set. The weights start as `initialize` says; with `initialized=False` as torch's
    layers make them, for a checkpoint to fill.
    """

    def __init__(self, config: ModelConfig, initialized: bool = True) -> None:
        super().__init__()
        assert config.vocab_size is not None, "the vocabulary's size comes from the tokenizer"
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.emb_dim)
        self.positions = ADDED[config.positions](config) if config.positions in ADDED else None
        self.rotary = ROTATED[config.positions](config) if config.positions in ROTATED else None
        self.embed, self.pos_embed = Point(), Point()
        self.dropout = nn.Dropout(config.drop_rate)
        self.blocks = nn.ModuleList(BLOCKS[config.residual](config, layer) for layer in range(config.n_layers))
        self.norm = make_norm(config, config.emb_dim)
        self.normalized = Point()
        self.head = nn.Linear(config.emb_dim, config.vocab_size, bias=False)
        self.logits = Point()
        if config.tied_head:
            self.head.weight = self.tokens.weight
        if initialized:
            initialize(self, config)

    def forward(self, ids: Tensor, cache: Cache | None = None, segments: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V) for ids (B, T). With a cache, ids continue what the cache holds.

        A position attends to those of its own segment that are not ahead of it. `segments` (B, T) numbers them; None:
        each row is one segment.
        """
        return self.unembed(self.states(ids, cache, segments))  # (B, T, V)

    def states(self, ids: Tensor, cache: Cache | None = None, segments: Tensor | None = None) -> Tensor:
        """Return what the head sees, (B, T, D)."""
        assert cache is None or segments is None, "a cache holds one segment a row"
        start = cache.length if cache is not None else 0
        positions = torch.arange(start, start + ids.shape[1], device=ids.device)  # (T,)
        x = at_speed(self.tokens(ids))  # (B, T, D)
        if self.config.scale_embeddings:
            x = x * self.config.emb_dim**0.5
        x = self.embed(x)
        if self.positions is not None:
            x = x + self.pos_embed(self.positions(positions).to(x.dtype))
        x = self.dropout(x)
        rotary = self.rotary(positions).to(x.dtype) if self.rotary is not None else None
        visible = segment_mask(segments, x.dtype) if segments is not None else None
        for block in self.blocks:
            x = block(x, rotary, cache, visible)
        if cache is not None:
            cache.advance(ids.shape[1])
        out: Tensor = self.normalized(self.norm(x))
        return out

    def unembed(self, states: Tensor) -> Tensor:
        """Return the logits (…, V) of states (…, D)."""
        logits: Tensor = self.logits(self.head(states))
        return logits

    @property
    def device(self) -> torch.device:
        return next(self.norm.parameters()).device


def at_speed(x: Tensor) -> Tensor:
    """Cast to the precision that products run in, so that the residual stream needs no cast at each of them."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
