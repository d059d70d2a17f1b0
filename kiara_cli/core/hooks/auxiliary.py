"""Auxiliary losses that come with Kiara: numbers that training makes smaller beside the cross-entropy.

In: the context of one piece of a batch. Out: a scalar, the mean over the targets of the piece, so that pieces and
accumulated batches weighed by their targets are the whole batch. What counts positions counts those with a target.

B batch, T time, S positions looked at, D width, H heads, F hidden width, V vocabulary, n targets.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kiara_cli.config.load import from_mapping
from kiara_cli.core.checkpoint.files import load_weights, model_from, weights_of
from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.data.batches import IGNORE, Batch
from kiara_cli.core.hooks.context import LossContext, Setting
from kiara_cli.core.hooks.registry import auxiliary
from kiara_cli.core.hooks.update import matrices
from kiara_cli.core.loss import in_pieces, where_targets, z_penalty
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.tokenizer.protocol import fingerprint
from kiara_cli.errors import KiaraError

TINY = 1e-12


@auxiliary
def z_loss(context: LossContext) -> Tensor:
    """The square of the log of the softmax's sum, which keeps logits small (PaLM, Chowdhery et al., 2022).

    The same as train.z_loss, which costs nothing as it has the logits at hand: use that where no schedule is needed.
    """
    head = context.model.head
    return over_targets(context, lambda states, targets: z_penalty(head(states).float(), targets))


@auxiliary(reads=("blocks.*.attention.pattern",))
def attention_entropy(context: LossContext) -> Tensor:
    """The entropy of each head's pattern, in nats; with a negative weight attention spreads (Zhai et al., 2023)."""
    return mean_over_points(context, lambda p: -(p * p.clamp(min=TINY).log()).sum(-1).mean(1))  # (B, T)


@auxiliary(reads=("blocks.*.feedforward.hidden",))
def activation_sparsity(context: LossContext) -> Tensor:
    """The mean size of the feedforward's activations (L1: Glorot et al., 2011), so that few of them are in use."""
    return mean_over_points(context, lambda hidden: hidden.abs().mean(-1))  # (B, T)


@auxiliary
def orthogonality(context: LossContext, parameters: str = "blocks.*.attention.out") -> Tensor:
    """The mean squared cosine between two rows of a matrix, or columns where they are fewer: 0 where all are at right
    angles, whatever their lengths (Rodríguez et al., 2017)."""

    def cosine(matrix: Tensor) -> Tensor:
        rows = F.normalize(matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT, dim=1)  # (n, m)
        count = len(rows)
        return ((rows @ rows.mT).square().sum() - count) / max(1, count * (count - 1))

    return mean_over_matrices(context, parameters, cosine)


@auxiliary
def weight_norm(context: LossContext, norm: float = 1.0, parameters: str = "blocks") -> Tensor:
    """The mean of (length of a matrix's row / norm - 1)²: a soft bound; the update hook bound_norm is a hard one."""
    if norm <= 0:
        raise KiaraError(f"with.norm={norm} is no length", "give a number above 0")
    return mean_over_matrices(
        context, parameters, lambda matrix: (torch.linalg.vector_norm(matrix, dim=1) / norm - 1).square().mean()
    )


@auxiliary
def multi_token(context: LossContext, ahead: int = 1, falloff: float = 0.5) -> Tensor:
    """The cross-entropy of the same logits against tokens further ahead: the one after the next, and so on.

    One head predicts them all, without weights of its own, as in modded-nanogpt's speed runs (2025; heads of their
    own: Gloeckle et al., 2024). Of token 1 + k the loss counts falloff^(k - 1). It pulls against the plain loss, so
    end it with `to_step` and `fade` before the run does. Tokens of another segment, or no target, are not asked for.
    """
    if ahead < 1 or falloff < 0:
        raise KiaraError(f"with.ahead={ahead}, with.falloff={falloff}", "ahead is 1 or more, falloff 0 or more")
    head = context.model.head

    def nats(states: Tensor, targets: Tensor, *later: Tensor) -> Tensor:
        logits = head(states).float()  # (n, V)
        losses = [F.cross_entropy(logits, wanted, ignore_index=IGNORE, reduction="sum") for wanted in later]
        return torch.stack([falloff**k * loss for k, loss in enumerate(losses)]).sum()

    return over_targets(context, nats, *(shifted(context.batch, k) for k in range(1, ahead + 1)))


def shifted(batch: Batch, ahead: int) -> Tensor:
    """Return the targets of `ahead` positions later, (B, T): IGNORE where that is another segment or has none."""
    out = torch.full_like(batch.targets, IGNORE)
    if ahead >= out.shape[1]:
        return out
    out[:, :-ahead] = batch.targets[:, ahead:]
    if batch.segments is not None:
        other = batch.segments[:, ahead:] != batch.segments[:, :-ahead]
        out[:, :-ahead].masked_fill_(other, IGNORE)
    return out.masked_fill_(batch.targets == IGNORE, IGNORE)


@auxiliary(name="self_distillation")
class SelfDistillation:
    """The divergence of the model's predictions from a teacher's, KL(teacher, model) at a temperature (Hinton, 2015).

    The teacher is the average of the model's own weights over the updates, with `decay` (mean teacher, Tarvainen and
    Valpola, 2017), saved with the run; or a checkpoint, named by `teacher`, of the same tokenizer. It learns nothing,
    drops nothing out, and costs a forward pass.
    """

    def __init__(self, teacher: str | None = None, decay: float = 0.999, temperature: float = 1.0) -> None:
        if not 0 <= decay < 1 or temperature <= 0:
            raise KiaraError(
                f"with.decay={decay}, with.temperature={temperature}",
                "decay is 0 or more and below 1, temperature above 0",
            )
        self.teacher, self.decay, self.temperature = teacher, decay, temperature
        self._model: Transformer | None = None
        self._step = 0  # whose weights the average has taken in

    def prepare(self, setting: Setting) -> None:
        """Load the teacher, or make it of the model's weights as they are."""
        if self.teacher is not None:
            self._model = load_teacher(self.teacher, setting)
        elif not all(weight.requires_grad for weight in setting.model.parameters()):
            cause = "an adapter learns here, and the average of the model's own weights would be the model"
            raise KiaraError(cause, "name a checkpoint as teacher: with.teacher")
        else:
            self._model = model_from(setting.model.config, weights_of(setting.model), "the model's own weights")
        self._model.eval().requires_grad_(False).to(setting.model.device)

    def __call__(self, context: LossContext) -> Tensor:
        teacher, batch, head = self._model, context.batch, context.model.head
        assert teacher is not None, "prepare comes first"
        with torch.no_grad():
            if self.teacher is None and context.step != self._step:
                self._step = context.step
                pairs = zip(teacher.parameters(), context.model.parameters(), strict=True)
                for theirs, ours in pairs:
                    theirs.lerp_(ours, 1 - self.decay)
            wanted = teacher.states(batch.inputs, segments=batch.segments)

        def divergence(states: Tensor, targets: Tensor, wanted: Tensor) -> Tensor:
            with torch.no_grad():
                aim = (teacher.head(wanted).float() / self.temperature).log_softmax(-1)
            made = (head(states).float() / self.temperature).log_softmax(-1)
            return (F.kl_div(made, aim, reduction="none", log_target=True).sum(-1) * (targets != IGNORE)).sum()

        return self.temperature**2 * over_targets(context, divergence, wanted)

    def state_dict(self) -> dict[str, Any]:
        average = self._model is not None and self.teacher is None
        return {"average": weights_of(self._model) if self._model and average else {}, "step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]
        if self._model is not None and self.teacher is None:
            load_weights(self._model, state["average"], "the average of the weights")


def load_teacher(word: str, setting: Setting) -> Transformer:
    """Load a teacher's checkpoint. Raises KiaraError for one of another tokenizer or a shorter context."""
    checkpoint, _ = open_checkpoint(word)
    config = from_mapping(checkpoint.config, str(checkpoint.path)).config.model
    if fingerprint(checkpoint.make_tokenizer()) != fingerprint(setting.tokenizer):
        raise KiaraError(
            f"with.teacher={word}: {checkpoint.path} has another tokenizer than the model",
            "name a checkpoint that was trained with the same one",
        )
    needed = setting.model.config.context_length
    if config.context_length < needed:
        raise KiaraError(
            f"with.teacher={word}: it reads {config.context_length} tokens, the model {needed}",
            f"set model.context_length={config.context_length}, or name another teacher",
        )
    return checkpoint.make_model(config)


def over_targets(context: LossContext, sums: Callable[..., Tensor], *more: Tensor) -> Tensor:
    """Return the mean over targets of what `sums` adds up over states (n, D), targets (n) and `more` like them.

    `more` is given by position, (B, T) or (B, T, D). In pieces of train.loss_chunk, as the cross-entropy.
    """
    picked = where_targets(context.states, context.batch, *more)
    (total,) = in_pieces(lambda *parts: (sums(*parts),), context.chunk, *picked)
    return total / max(1, context.batch.target_count)


def mean_over_points(context: LossContext, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean over points and targets of a measure (B, T) of what passed there, in float32."""
    asked = context.batch.targets != IGNORE
    sums = [(measure(value.float()) * asked).sum() for value in context.points.values()]
    return torch.stack(sums).mean() / max(1, context.batch.target_count)


def mean_over_matrices(context: LossContext, pattern: str, measure: Callable[[Tensor], Tensor]) -> Tensor:
    """Return the mean of a measure over the matrices that a pattern names, in float32."""
    with torch.autocast(context.states.device.type, enabled=False):
        return torch.stack(
            [measure(matrix) for matrix in matrices(dict(context.model.named_parameters()), pattern)]
        ).mean()
