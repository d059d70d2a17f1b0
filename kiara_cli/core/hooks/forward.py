"""Forward hooks that come with Kiara, in TransformerLens' words: suppress, scale, add, set; and mean, noise, patch.

In: what passes a point, (B, T, D) or as model/points.py says. Out: what takes its place where the config selects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.hooks.context import At, Setting
from kiara_cli.core.hooks.registry import forward
from kiara_cli.core.tokenizer.protocol import fingerprint, prompt_ids
from kiara_cli.errors import KiaraError


@forward
def identity(x: Tensor, at: At) -> Tensor:
    """Change nothing: to see that a hook is called, and what being called costs."""
    return x


@forward(replaces=True)
def suppress(x: Tensor, at: At) -> Tensor:
    """Put zero in its place."""
    return at.put(x, 0.0)


@forward
def scale(x: Tensor, at: At, factor: float) -> Tensor:
    """Multiply it with a factor."""
    return at.put(x, x * factor)


@forward(width="value")
def add(x: Tensor, at: At, value: tuple[float, ...]) -> Tensor:
    """Add a number, or a vector as long as the last axis."""
    return at.put(x, x + vector(x, value))


@forward(name="set", width="value", replaces=True)
def set_to(x: Tensor, at: At, value: tuple[float, ...]) -> Tensor:
    """Put a number in its place, or a vector as long as the last axis."""
    return at.put(x, vector(x, value))


@forward(name="mean", replaces=True)
class Mean:
    """Put a mean in its place: over all texts and positions at once, over the texts, or over the positions.

    `over: run` is the mean over all texts and positions of the training so far; evaluation uses it and adds nothing.
    """

    def __init__(self, over: Literal["all", "batch", "positions", "run"] = "all") -> None:
        self.over = over
        self._means: dict[str, Tensor] = {}  # of `run`, by point
        self._counts: dict[str, int] = {}

    def __call__(self, x: Tensor, at: At) -> Tensor:
        axes = {"batch": "B", "positions": "T"}.get(self.over, "BT")
        mean = x.float().mean([dim for dim, letter in enumerate(at.axes) if letter in axes], keepdim=True)
        if self.over == "run":
            mean = self._running(mean.detach(), at)
        return at.put(x, mean.to(x.dtype))

    def state_dict(self) -> dict[str, dict[str, Tensor] | dict[str, int]]:
        return {"means": dict(self._means), "counts": dict(self._counts)}

    def load_state_dict(self, state: dict[str, dict[str, Tensor] | dict[str, int]]) -> None:
        self._means = {name: torch.as_tensor(mean) for name, mean in state["means"].items()}
        self._counts = {name: int(count) for name, count in state["counts"].items()}

    def _running(self, mean: Tensor, at: At) -> Tensor:
        """Take a new mean in, unless nothing is learned from it; return that of all so far."""
        count, before = self._counts.get(at.point, 0), self._means.get(at.point)
        if at.training and not at.again:
            self._counts[at.point] = count + 1
            self._means[at.point] = mean if before is None else before.to(mean.device).lerp(mean, 1 / (count + 1))
        if at.point not in self._means:
            raise KiaraError("there is no mean of a training here", "use with.over=all, batch or positions")
        return self._means[at.point].to(mean.device)


@forward
def noise(x: Tensor, at: At, deviation: float, relative: bool = False, in_evaluation: bool = False) -> Tensor | None:
    """Add normal noise of this standard deviation; relative: times the root mean square of what is there.

    It is drawn anew in each forward pass, from the seed and the step: a resumed run draws the same.
    """
    if not (at.training or in_evaluation):
        return None
    drawn = torch.randn(x.shape, generator=at.generator(x.device), device=x.device)
    size = x.detach().float().square().mean().sqrt() if relative else 1.0
    return at.put(x, x + (drawn * (deviation * size)).to(x.dtype))


@forward(name="patch", replaces=True)
class Patch:
    """Put in its place what passes here when the model, or another checkpoint of its kind, reads a prompt.

    Position by position from the first; of selected negative positions from the last. What the prompt is too short
    for stays. The model reads the prompt anew in every step of a training, without its hooks.
    """

    def __init__(self, prompt: str, checkpoint: str | None = None) -> None:
        self.prompt, self.checkpoint = prompt, checkpoint

    def prepare(self, setting: Setting) -> None:
        """Encode the prompt and open the checkpoint. Raises KiaraError for one of another kind."""
        ids, config = prompt_ids(setting.tokenizer, self.prompt), setting.model.config
        if len(ids) > config.context_length:
            cause = f"with.prompt has {len(ids)} tokens, and the model reads {config.context_length}"
            raise KiaraError(cause, "give a shorter one")
        self.ids = torch.tensor([ids], device=setting.runtime.device)
        self.points, self.model = setting.points, None
        self.known: tuple[tuple[int, bool], dict[str, Tensor]] | None = None
        if self.checkpoint is not None:
            found, _ = open_checkpoint(self.checkpoint, Path())
            if fingerprint(found.make_tokenizer()) != fingerprint(setting.tokenizer):
                raise KiaraError(f"with.checkpoint={self.checkpoint} has another tokenizer", "give one with the same")
            self.model = found.make_model(config).to(setting.runtime.device)

    def __call__(self, x: Tensor, at: At) -> Tensor:
        key = (0, False) if self.model is not None else (at.step, at.training)
        if self.known is None or self.known[0] != key:
            self.known = key, at.attached.values(self.ids, self.points, self.model)
        axes, value = at.axes[len(at.axes) - x.ndim :], self.known[1][at.point].to(x.dtype)
        if axes.endswith("S") and value.shape[-1] != x.shape[-1]:
            cause = f"the prompt has {value.shape[-1]} positions, and the text {x.shape[-1]}"
            raise KiaraError(cause, "give one of the same length, or patch another point")
        dim, out = axes.index("T"), x.clone()
        value = value.flatten(0, value.ndim - x.ndim) if value.ndim > x.ndim else value
        for there, here in _pairs(at, value.shape[dim], x.shape[dim]):
            out.select(dim, here).copy_(value.select(dim, there).expand_as(out.select(dim, here)))
        return at.put(x, out)


def vector(x: Tensor, value: tuple[float, ...]) -> Tensor:
    """Return a value of the config as a tensor that broadcasts to x."""
    return torch.tensor(value, dtype=x.dtype, device=x.device)


def _pairs(at: At, there: int, here: int) -> list[tuple[int, int]]:
    """Return which of the prompt's positions goes to which of x's."""
    chosen = at.select.positions if at.select.positions is not None else range(at.start, at.start + here)
    pairs = [(p % there if -there <= p < 0 else p, p - at.start if p >= 0 else here + p) for p in chosen]
    return [(a, b) for a, b in pairs if 0 <= a < there and 0 <= b < here]
