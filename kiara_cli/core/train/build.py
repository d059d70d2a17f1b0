"""How a training is put together: the plan's model, changed step by step as the plan says, and its optimizer.

In: a plan, and a checkpoint to start from if there is one. Out: `Training`, ready for the loop.

`TRANSFORMATIONS` is the one place where a model is changed for training. Each entry takes a model and returns one;
they are applied from top to bottom, and the order matters:
1. what adds or freezes weights, as all that follows must see the weights that are trained;
2. what watches or changes named points: it has to attach to plain modules;
3. recompute, which wraps whole blocks with whatever is in them by then;
4. native code in the place of modules' own operators; it leaves alone what an earlier entry has exchanged;
5. compile: it traces all of the above into one graph;
6. what spreads the model over processes, last: what they send each other stays outside of the graph.
"""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.adapters import Base, keep
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.identity import code_hash
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.model.fused import fuse, load
from kiara_cli.core.model.lora import add_adapters
from kiara_cli.core.model.points import OWN
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import seed_everything
from kiara_cli.core.runtime.ranks import from_first
from kiara_cli.core.train.average import Average
from kiara_cli.core.train.numerics import FIRST_SCALE
from kiara_cli.core.train.optimizer import make_optimizer
from kiara_cli.core.train.plan import Plan
from kiara_cli.core.train.preference import score_reference
from kiara_cli.core.train.progress import Progress
from kiara_cli.core.train.recompute import recompute_blocks
from kiara_cli.core.train.saving import Background
from kiara_cli.core.train.spread import spread
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.train")


def compile_states(model: Transformer) -> Transformer:
    """Compile the way from ids to the last hidden states, for training alone: evaluation has other shapes."""
    plain, compiled = model.states, torch.compile(model.states, dynamic=False)
    model.states = functools.partial(_states, model, plain, compiled)  # type: ignore[method-assign]
    return model


def _states(
    model: Transformer, plain: Callable[..., Tensor], compiled: Callable[..., Tensor], *inputs: Any, **named: Any
) -> Tensor:
    return (compiled if model.training else plain)(*inputs, **named)


OWN.add(_states)


class Transformation(NamedTuple):
    """One change of the model: its name, whether the plan asks for it, and what it does."""

    name: str
    applies: Callable[[Plan], bool]
    apply: Callable[[Transformer, Plan], Transformer]


def attach_hooks(model: Transformer, plan: Plan) -> Transformer:
    """Attach what the config's hooks watch or change; `model.hooks` holds it. Without one nothing is imported."""
    from kiara_cli.core.hooks.training import attach_for_training

    hooks = attach_for_training(plan.config, model, plan.runtime, plan.data.tokenizer, plan.steps)
    object.__setattr__(model, "hooks", hooks)
    return model


TRANSFORMATIONS = (
    Transformation(
        "lora",
        lambda plan: plan.config.train.lora.rank > 0,
        lambda model, plan: add_adapters(model, plan.config.train.lora),
    ),
    Transformation("hooks", lambda plan: bool(plan.config.hooks), attach_hooks),
    Transformation("recompute", lambda plan: plan.config.train.recompute, lambda model, _: recompute_blocks(model)),
    Transformation("fuse", lambda plan: plan.config.runtime.native is True, lambda model, _: fuse(model, load())),
    Transformation(
        "compile", lambda plan: plan.config.runtime.compile is True, lambda model, _: compile_states(model)
    ),
    Transformation(
        "spread",
        lambda plan: plan.world.size > 1,
        lambda model, plan: spread(model, plan.config.runtime.parallel, plan.runtime.device),
    ),
)


def begin(
    plan: Plan,
    root: Path,
    weights: Checkpoint | None = None,
    name: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Training:
    """Start a new run in a new folder under `root`, from random weights or from a checkpoint's; note more facts."""
    for key, reason in plan.unmet.items():
        log.warning("runtime.%s=true cannot be honoured: %s", key, reason)
    seed_everything(plan.config.runtime.seed)
    model = weights.make_model(plan.config.model) if weights is not None else Transformer(plan.config.model)
    progress = Progress(loss_scale=FIRST_SCALE if plan.runtime.dtype == "fp16" else 1.0)
    folder = from_first(plan.world, lambda: str(Run.create(root, name or plan.data.meta.name).folder))
    run = Run(root, Path(folder), plan.world.is_first)
    lock = run.lock()
    try:
        base = keep(weights, run.folder) if weights is not None and plan.config.train.lora.rank else None
        training = build(plan, model, run, lock, progress, base)
    except KiaraError:  # a hook that cannot be made: there is no run yet
        lock.release()
        if run.writes:
            shutil.rmtree(run.folder)
        raise
    if plan.config.train.objective == "dpo":
        score_reference(training.model, training.pairs, plan.runtime, run.folder if run.writes else None)
    describe(training, {**known(plan, weights), **(facts or {})})
    return training


def build(
    plan: Plan, model: Transformer, run: Run, lock: Lock, progress: Progress, base: Base | None = None
) -> Training:
    """Apply the transformations that the plan asks for, and make the optimizer of the weights there are then."""
    model.to(plan.runtime.device)
    for transformation in TRANSFORMATIONS:
        if transformation.applies(plan):
            model = transformation.apply(model, plan)
    hooks = vars(model).get("hooks")
    if hooks is not None:
        hooks.report()
    decay = plan.config.train.ema_decay
    average = Average(model, decay) if decay else None
    optimizer, background = make_optimizer(model, plan.config.train), Background() if plan.world.size > 1 else None
    return Training(plan, model, optimizer, average, run, lock, progress, base, hooks, background=background)


def sources(config: Config) -> dict[str, str]:
    """Return the hashes of the files that hooks of the config come from."""
    from kiara_cli.core.hooks.loading import sources_of

    return sources_of(config.hooks)


def describe(training: Training, facts: Mapping[str, Any]) -> None:
    """Write config.yaml and run.json."""
    training.run.describe(
        training.config,
        {"status": "running", "data_folder": str(training.data.folder), **known(training.plan), **facts},
        training.progress.step,
    )


def known(plan: Plan, weights: Checkpoint | None = None) -> dict[str, Any]:
    """Return what a run's results depend on beside its config, and what it will cost, as run.json has it."""
    meta, config = plan.data.meta, plan.config
    started_from = {"from": str(weights.path), "weights_hash": weights.identity} if weights else {}
    return {
        "seed": config.runtime.seed,
        "steps": plan.steps,
        "data": meta.name,
        "data_hash": meta.hash,
        "text_hash": meta.text_hash,
        "tokenizer_hash": meta.tokenizer_hash,
        "evaluation": {
            "max_tokens": config.eval.max_tokens,
            "window": config.model.context_length,
            "stride": config.eval.stride,
        },
        "parameters": plan.count.parameters,
        "flops_per_token": plan.flops_per_token,
        "threads": plan.runtime.threads,
        "ranks": plan.world.size,
        "torch": torch.__version__,
        "code_hash": code_hash(),
        **({"hook_files": sources(config)} if config.hooks else {}),
        **started_from,
    }
