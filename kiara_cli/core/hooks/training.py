"""All hooks of one training, as the loop calls them; and of a model that is only used.

In: what a config asks for, and the model. Out: `Hooks`. The order within an update: forward and backward hooks and
auxiliary losses with each piece of the batch; `gradients`, once they are unscaled, finite and not clipped yet;
`before_step`, once they are clipped; `after_step`, while they are still there. Hooks of one kind are called in the
order of the config.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kiara_cli.config.hooks import hooks_of
from kiara_cli.config.schema import Config
from kiara_cli.core.data.batches import Batch
from kiara_cli.core.generate.opened import Opened
from kiara_cli.core.hooks.asked import Asked, ask
from kiara_cli.core.hooks.attach import Acting, Attached, make, telling, written_out
from kiara_cli.core.hooks.context import LossContext, Setting, UpdateContext
from kiara_cli.core.hooks.loading import use_files
from kiara_cli.core.hooks.registry import METHODS, Registered
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

STATISTIC = "stat_"  # begins what is recorded by its own name, whatever the hook is called: see statistics.py

log = logging.getLogger("kiara.hooks")


class Hooks:
    """The hooks of a model. `total` is how many updates the training makes; 0 where the model is only used."""

    def __init__(
        self,
        asked: Sequence[Asked],
        model: Transformer,
        runtime: Runtime,
        tokenizer: Tokenizer,
        seed: int,
        total: int,
        chunk: int | None = None,
    ) -> None:
        self.model, self.runtime, self.seed, self.total, self.chunk = model, runtime, seed, total, chunk
        self.acting = [make(one) for one in asked]
        self.updates = [one for one in self.acting if one.asked.hook.kind == "update"]
        self.auxiliaries = [one for one in self.acting if one.asked.hook.kind == "auxiliary"]
        on_model = [one for one in self.acting if one.asked.on_model]
        self.attached = Attached(model, on_model, seed, self._log) if on_model else None
        self.step = 0
        self._named = dict(model.named_parameters())
        self._sums: dict[str, Tensor | float] = {}  # of what hooks log, since the last record
        self._counts: dict[str, int] = {}
        for one in self.acting:
            prepare = getattr(one.call, "prepare", None)
            if callable(prepare):
                with telling(f"hooks.{one.name}"):
                    prepare(Setting(one.asked.points, model, tokenizer, runtime))

    def report(self) -> None:
        """Say which layers attend in another way, as scores or pattern have a hook, and what that changes."""
        for name, difference in written_out(self.model, self.runtime):
            log.info(
                "%s is written out, as its scores or pattern have a hook; on a probe outputs differ by up to %.2g.",
                name, difference,
            )  # fmt: skip

    def begin(self, step: int) -> None:
        """Begin an update, counted from 1."""
        self.step = step
        if self.attached is not None:
            self.attached.begin(step)

    def objective(self, objective: Tensor, states: Tensor, batch: Batch) -> Tensor:
        """Add the auxiliary losses to the objective of a piece of the batch, a sum over its targets."""
        if self.attached is not None:
            self.attached.check_logits()
        context = None
        for one in self.auxiliaries:
            strength = one.asked.config.strength(self.step)
            if not strength:
                continue
            captured = self.attached.captured if self.attached is not None else {}
            values = {name: captured[name] for name in one.asked.points}
            context = LossContext(
                one.name, self.step, self.total, strength, self.model, batch, states, values, self.seed,
                self._log_of(one), context.known_logits if context is not None else None, self.chunk,
            )  # fmt: skip
            with telling(self._where(one)):
                value = one.call(context)
            if not isinstance(value, Tensor) or value.numel() != 1:
                raise KiaraError(f"{self._where(one)} returned no single number", "return a scalar tensor")
            added = one.asked.weight * strength * value.float().reshape(())
            if not one.checked and not math.isfinite(number := float(added.detach())):
                raise KiaraError(f"{self._where(one)} returned {number}", "look for a division by zero or log(0)")
            one.checked = True
            self._add(f"aux_{one.name}", added.detach(), batch.target_count)
            self._add(f"aux_{one.name}_value", value.detach().float().reshape(()), batch.target_count)
            objective = objective + added * batch.target_count
        return objective

    def blame(self) -> None:
        """Raise KiaraError if the loss is not finite because of a hook."""
        if self.attached is not None:
            self.attached.blame()
        for one in self.auxiliaries:
            value = self._sums.get(f"aux_{one.name}_value", 0.0)
            if not math.isfinite(float(value)):
                raise KiaraError(f"{self._where(one)} returned numbers that are not finite", "look for log(0)")

    def gradients(self, optimizer: torch.optim.Optimizer, lr: float, norm: float) -> float:
        """Let update hooks change the gradients; return their norm after that. Raises KiaraError: not finite."""
        for one in self.updates:
            if self._call(one, METHODS[0], optimizer, lr):
                found = [weight.grad for weight in self._named.values() if weight.grad is not None]
                norm = float(torch.nn.utils.get_total_norm(found))
                if not math.isfinite(norm):
                    raise KiaraError(f"{self._where(one)} made gradients that are not finite", "correct the hook")
        return norm

    def before_step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Call update hooks before the optimizer."""
        for one in self.updates:
            self._call(one, METHODS[1], optimizer, lr)

    def after_step(self, optimizer: torch.optim.Optimizer, lr: float) -> None:
        """Call update hooks after the optimizer; the update is over then."""
        for one in self.updates:
            self._call(one, METHODS[2], optimizer, lr)
        if self.attached is not None:
            self.attached.updating = False

    def logged(self) -> dict[str, float]:
        """Return the means of what hooks have logged since the last time."""
        out = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return out

    def state(self) -> dict[str, Any]:
        """Return what a resume needs: the state of hooks that have one, and sums that are not in a record yet."""
        own = {one.name: one.call.state_dict() for one in self.acting if hasattr(one.call, "state_dict")}
        return {"own": own, "sums": dict(self._sums), "counts": dict(self._counts)} if self.acting else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up where other hooks of the same config were."""
        for one in self.acting:
            if one.name in state.get("own", {}) and hasattr(one.call, "load_state_dict"):
                with telling(f"hooks.{one.name} cannot be resumed"):
                    one.call.load_state_dict(state["own"][one.name])
        self._sums, self._counts = dict(state.get("sums", {})), dict(state.get("counts", {}))

    def _call(self, one: Acting, method: str, optimizer: torch.optim.Optimizer, lr: float) -> bool:
        """Call a method of an update hook, if it has it and acts in this step."""
        strength = one.asked.config.strength(self.step)
        function = getattr(one.call, method, None)
        if function is None or not strength:
            return False
        context = UpdateContext(
            one.name, self.step, self.total, lr, strength, optimizer, self.model, self.seed, self._log_of(one)
        )
        with telling(self._where(one)), torch.no_grad():
            function(self._named, context)
        return True

    def _where(self, one: Acting) -> str:
        return f"hooks.{one.name} in step {self.step}"

    def _log_of(self, one: Acting) -> Any:
        return lambda name, value: self._log(one.name, name, value)

    def _log(self, hook: str, name: str, value: Tensor | float) -> None:
        value = value.detach().float() if isinstance(value, Tensor) else float(value)
        self._add(name if name.startswith(STATISTIC) else f"hooks.{hook}.{name}", value, 1)

    def _add(self, key: str, value: Tensor | float, count: int) -> None:
        self._sums[key] = self._sums.get(key, 0.0) + value * count
        self._counts[key] = self._counts.get(key, 0) + count


def attach_for_training(
    config: Config, model: Transformer, runtime: Runtime, tokenizer: Tokenizer, total: int
) -> Hooks:
    """Make the hooks that a config asks for and attach them to a model that is to be trained. Raises KiaraError."""
    seed, chunk = config.runtime.seed, config.train.loss_chunk
    return Hooks(ask(config.hooks, config.model), model, runtime, tokenizer, seed, total, chunk)


def use(opened: Opened, files: Sequence[str | Path] = ()) -> Hooks:
    """Run the person's files, and attach the forward and backward hooks of a config to a model that is only used.

    Those that act on gradients, weights or the objective have nothing to do there, and that is said. Schedules do not
    count: each hook acts in full.
    """
    config = opened.config
    note_idle(use_files(files), config.hooks)
    asked = ask(config.hooks, config.model)
    used = [one for one in asked if one.hook.kind in ("forward", "backward")]
    if idle := [one.name for one in asked if one not in used]:
        log.warning("Nothing is trained here, so these hooks do nothing: %s.", ", ".join(idle))
    hooks = Hooks(used, opened.model, opened.runtime, opened.tokenizer, config.runtime.seed, 0)
    hooks.report()
    return hooks


def note_idle(there: Sequence[Registered], section: Mapping[str, Any]) -> None:
    """Say which files of the person's the config uses nothing of."""
    used = {config.use for config in hooks_of(section)}
    for source in dict.fromkeys(hook.source for hook in there):
        names = [hook.name for hook in there if hook.source == source]
        if source is not None and not used & set(names):
            log.warning(
                "The config uses nothing of %s, which registers %s: set hooks.NAME.use=%s.",
                source.path, ", ".join(names), names[0],
            )  # fmt: skip


def reaches_into_model(section: Mapping[str, Any], model: Any) -> str | None:
    """Name a hook of a config that attaches to the model, if one does. Raises KiaraError for a wrong one."""
    return next((one.name for one in ask(section, model) if one.on_model), None)
