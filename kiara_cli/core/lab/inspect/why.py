"""Why a reply says what it says: each token with its probability, what else was likely, and what it leaned on.

In: ids, and where the reply begins in them. Out: a `Why` for each token of the reply.

What a token leaned on is direct attribution by source: for every earlier position, what its values add to the token's
logit where the heads of all layers read them, compared with the mean over the vocabulary, the final norm's scale
taken as it is. It is exact as far as it goes, and leaves out what earlier layers have moved between positions before.

L layers, H heads, P positions explained at a time, S positions so far, C head width, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.core.lab.inspect.attribution import attention_of, direction, head_rows, output_weights
from kiara_cli.core.lab.inspect.trace import Change, changed, check_length
from kiara_cli.core.model.cache import Cache
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

PASS = 256  # positions read in one step: so long does whoever shares the thread wait
ROWS = 32  # positions explained in one step


@dataclass(frozen=True)
class Why:
    """A token of a reply. `top` are the likeliest ids with their probabilities, `sources` earlier positions with what
    they add to the token's logit, the largest first."""

    position: int
    token: int
    probability: float
    rank: int
    top: list[tuple[int, float]]
    sources: list[tuple[int, float]]


class Explainer:
    """Explains the tokens from `start` on, in steps. Computes in the precision of the weights, not in bf16."""

    def __init__(self, model: Transformer, ids: Sequence[int], start: int, top: int = 5, sources: int = 5) -> None:
        check_length(model, ids)
        if not 0 < start < len(ids):
            raise KiaraError("there is no reply to explain", "say something first")
        self.model, self.ids, self.start = model, list(ids), start
        self.top, self.sources = top, sources
        self.whys: list[Why] = []
        self._cache = Cache(model.config, 1, model.device, torch.float32, len(ids))

    @property
    def done(self) -> bool:
        return len(self.whys) == len(self.ids) - self.start

    @torch.no_grad()
    def step(self) -> None:
        """Read at most PASS positions before the reply, or explain at most ROWS tokens of it."""
        read = self._cache.length
        if read < self.start - 1:
            self.model.states(self._tensor(read, min(read + PASS, self.start - 1)), self._cache)
            return
        end = min(read + ROWS, len(self.ids) - 1)
        seen: dict[str, Tensor] = {}

        def keep(name: str) -> Change:
            return lambda value: seen.setdefault(name, value)

        layers = range(self.model.config.n_layers)
        names = [f"blocks.{layer}.attention.pattern" for layer in layers] + [f"blocks.{layers[-1]}.resid_post"]
        with changed(self.model, {name: keep(name) for name in names}):
            logits = self.model(self._tensor(read, end), self._cache)[0].float()  # (P, V)
        if not bool(logits.isfinite().all()):
            raise KiaraError(
                "the model's scores are not finite numbers", "its training has diverged: use an earlier checkpoint"
            )
        patterns = [seen[name][0].float() for name in names[:-1]]  # (H, P, S)
        self._add(read, logits, self._leaning(read, end, patterns, seen[names[-1]][0].float()))

    def _tensor(self, start: int, end: int) -> Tensor:
        return torch.tensor([self.ids[start:end]], device=self.model.device)

    def _leaning(self, read: int, end: int, patterns: Sequence[Tensor], stream: Tensor) -> Tensor:
        """Return what each position so far adds to the logit of each token that follows, (P, S)."""
        rows = head_rows(self.model, self.ids[read + 1 : end + 1]) - self.model.head.weight.float().mean(dim=0)
        reads = direction(self.model.norm, stream, rows)  # (P, D)
        total = torch.zeros(end - read, end, device=stream.device)
        for layer, pattern in enumerate(patterns):
            attention = attention_of(self.model, layer)
            values = self._cache.layers[layer][1][0, :, :end]  # (K, S, C)
            values = values.repeat_interleave(attention.H // attention.K, dim=0)
            ways = torch.einsum("hcd,pd->hpc", output_weights(attention), reads)
            total += (pattern * (ways @ values.mT)).sum(dim=0)
        return total

    def _add(self, read: int, logits: Tensor, leaning: Tensor) -> None:
        shares = logits.softmax(dim=-1)
        best = shares.topk(min(self.top, shares.shape[-1]), dim=-1)
        for row, scores in enumerate(leaning):
            place = read + row + 1
            token = self.ids[place]
            most = scores[:place].topk(min(self.sources, place))
            pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
            self.whys.append(
                Why(
                    place,
                    token,
                    float(shares[row, token]),
                    1 + int((logits[row] > logits[row, token]).sum()),
                    list(zip(best.indices[row].tolist(), best.values[row].tolist(), strict=True)),
                    [(source, value) for source, value in pairs if value > 0],
                )
            )


def why(model: Transformer, ids: Sequence[int], start: int, top: int = 5, sources: int = 5) -> list[Why]:
    """Explain the tokens of a reply, from `start` on. Raises KiaraError for no reply, or one that is too long."""
    explainer = Explainer(model, ids, start, top, sources)
    while not explainer.done:
        explainer.step()
    return explainer.whys
