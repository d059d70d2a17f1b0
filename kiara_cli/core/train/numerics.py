"""Numbers that go wrong: gradients that are not finite, spikes of the loss, and the narrow range of fp16.

In: a model after its backward pass, or the state of a training and its newest loss. Out: what to say about it.
"""

from __future__ import annotations

from torch import nn

from kiara_cli.core.train.progress import Progress
from kiara_cli.core.train.spread import whole

DECAY = 0.9  # of the running means that a loss is compared with (a guess: about the last ten records)
SPIKE = 5.0  # a spike is further from the mean than so many usual changes (a guess)
LEAST = 0.1  # and than this share of the mean (a guess)

FIRST_SCALE = 2.0**16  # of the loss under fp16: gradients below 6e-8 would vanish (Micikevicius et al., 2018)
GROWS_AFTER = 2000  # updates without an overflow after which the scale doubles (torch's default)


def first_nonfinite(model: nn.Module) -> str:
    """Name the weight nearest to the loss whose gradient is not finite: that is where it went wrong first."""
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not bool(whole(parameter.grad).isfinite().all()):
            return name
    return "none: the loss alone is not finite"


def loss_spike(progress: Progress, loss: float) -> float | None:
    """Take in a logged loss; if it is a spike, return what was usual before it."""
    usual, change = progress.usual_loss, progress.usual_change
    if usual is None:
        progress.usual_loss, progress.usual_change = loss, LEAST * abs(loss)
        return None
    spiked = loss - usual > max(SPIKE * change, LEAST * abs(usual))
    progress.usual_change = DECAY * change + (1 - DECAY) * abs(loss - usual)
    progress.usual_loss = DECAY * usual + (1 - DECAY) * loss
    return usual if spiked else None


def lower_loss_scale(progress: Progress) -> bool:
    """Halve fp16's loss scale after an overflow; return whether there was room for that."""
    progress.scaled_at = progress.step
    if progress.loss_scale <= 1.0:
        return False
    progress.loss_scale /= 2
    return True


def raise_loss_scale(progress: Progress) -> None:
    """Double fp16's loss scale after a long time without an overflow."""
    if progress.loss_scale > 1.0 and progress.step - progress.scaled_at >= GROWS_AFTER:
        progress.loss_scale *= 2
        progress.scaled_at = progress.step
