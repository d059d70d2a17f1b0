"""From a run's checkpoint back to a training: the next step sees what it would have seen.

In: a plan of the stored config, the checkpoint with optimizer and progress, and the run. Out: `Training`, as if it
had never stopped.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from kiara_cli.config import load as config_load
from kiara_cli.config.keys import mistake_at
from kiara_cli.config.layers import IMPLICIT, Layer
from kiara_cli.config.load import Loaded
from kiara_cli.config.schema import Config
from kiara_cli.config.text import shown
from kiara_cli.core.checkpoint.adapters import Base, base_of
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.mixture import Part
from kiara_cli.core.model.initialize import NoDraws
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import pick_device
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.tokenizer.protocol import fingerprint
from kiara_cli.core.train.build import build, describe
from kiara_cli.core.train.plan import LIMITS, Plan, plan, total_steps
from kiara_cli.core.train.preference import load_reference
from kiara_cli.core.train.progress import Progress, set_random_state
from kiara_cli.core.train.saving import fill, prepare_state
from kiara_cli.core.train.spread import is_shared_out, put, tensors_in
from kiara_cli.core.train.state import Training
from kiara_cli.errors import KiaraError

# Sections that a resumed run may change: what training does not read, or only to show.
RESUMABLE = {"logging", "eval", "generate", "chat", "serve", "quantize"}
RESUMABLE_KEYS = {
    *LIMITS, "train.log_interval", "train.eval_interval", "train.checkpoint_interval", "train.keep_last",
    "train.save_safetensors", "runtime.parallel",
}  # fmt: skip

log = logging.getLogger("kiara.train")


def resumed_config(loaded: Loaded, checkpoint: Checkpoint) -> Config:
    """Return the stored config with what may change taken from the layers that set it.

    A new limit takes the place of the stored ones. Raises KiaraError for a change that makes it another training.
    """
    origin = str(checkpoint.path)
    stored = config_load.from_mapping(checkpoint.config, origin).config
    allowed = []
    for change in config_load.changes(loaded, stored):
        if change.key.split(".")[0] not in RESUMABLE and change.key not in RESUMABLE_KEYS:
            raise mistake_at(
                change.origin,
                f"{change.key}={shown(change.wanted)}: the run to resume has {change.key}={shown(change.stored)}",
                "leave it out, or start a new run without --resume",
            )
        allowed.append(Layer(change.origin, {change.key: change.wanted}))
    if any(key in LIMITS for layer in allowed for key in layer.values):
        set_by_default = str(IMPLICIT), None
        allowed.append(Layer(origin, {key: None for key in LIMITS if loaded.origins.get(key) in set_by_default}))
    return config_load.from_mapping(checkpoint.config, origin, over=allowed).config


def plan_resumed(
    config: Config,
    checkpoint: Checkpoint,
    data: Prepared,
    allow_changed_data: bool = False,
    parts: Sequence[Part] = (),
    world: World = ALONE,
) -> Plan:
    """Plan the rest of a run as its config was decided.

    Raises KiaraError for a checkpoint of weights alone, another tokenizer, other data (unless allowed), a machine
    that cannot do what was decided, or fewer steps than were planned.
    """
    if checkpoint.progress is None or checkpoint.optimizer is None:
        raise KiaraError(
            f"{checkpoint.path} holds weights alone and cannot be resumed",
            f"start a new run from it: kiara train --from {checkpoint.path}",
        )
    check_data(checkpoint, data, allow_changed_data)
    elsewhere = f"resume it where there is one, or start a new run from it: kiara train --from {checkpoint.path}"
    try:
        pick_device(config.runtime.device)
    except KiaraError as error:
        raise KiaraError(error.cause, elsewhere) from None
    planned = plan(config, data, parts=parts, world=world)
    for key, reason in planned.unmet.items():
        raise KiaraError(f"the run has runtime.{key}=true, and {reason}", elsewhere)
    stored = config_load.from_mapping(checkpoint.config, str(checkpoint.path)).config.train
    before, done = total_steps(stored, planned.batcher)[0], checkpoint.progress["step"]
    if planned.steps < before:
        raise KiaraError(
            f"{planned.limit}={config_load.value_at(config, planned.limit)}: the run was planned for {before} steps "
            f"and has made {done}",
            "give a larger number, or leave it out",
            key=planned.limit,
        )
    if planned.steps > before:
        log.info("The learning rate is planned anew: %d steps instead of %d.", planned.steps, before)
    return planned


def resume(plan: Plan, checkpoint: Checkpoint, run: Run, lock: Lock | None = None) -> Training:
    """Continue a run where `checkpoint` left it; `lock` is the claim on it, if there is one already."""
    lock = lock or run.lock()
    assert checkpoint.progress is not None
    progress = Progress.from_state(checkpoint.progress, plan.config.train.accumulation)
    whole = checkpoint if checkpoint.base is None else base_of(checkpoint)
    base = None if checkpoint.base is None else Base.recorded(checkpoint)
    if checkpoint.sharded and base is None:  # its weights come once it is known which process has which
        with NoDraws():
            model = Transformer(plan.config.model, initialized=False)
    else:
        model = whole.make_model(plan.config.model)
    training = build(plan, model, run, lock, progress, base)
    if checkpoint.sharded:
        fill(training, checkpoint)
    else:
        take(training, checkpoint)
    if plan.config.train.objective == "dpo":
        load_reference(training.pairs, run.folder)
    training.metrics |= checkpoint.metrics
    if training.hooks is not None:
        training.hooks.load(progress.hooks)
    set_random_state(progress.random)
    run.cut_records(progress.step)
    changed = checkpoint.data["hash"] != plan.data.meta.hash
    if changed:
        log.warning("the data has changed since step %d: from here on it is another training", progress.step)
    describe(training, {"data_changed_at_step": progress.step} if changed else {})
    return training


def take(training: Training, checkpoint: Checkpoint) -> None:
    """Take the optimizer's state and the average from a file, and of an adapter its weights."""
    if checkpoint.base is not None:
        training.model.load_state_dict(dict(checkpoint.model), strict=False)
    take_optimizer(training, checkpoint)
    if training.average is not None:
        training.average.load(training.progress.average)


def take_optimizer(training: Training, checkpoint: Checkpoint) -> None:
    """Give the optimizer its state. Raises KiaraError for that of another: the first versions had AdamW alone."""
    state = dict(checkpoint.optimizer or {})
    try:
        if is_shared_out(training.model):
            prepare_state(training.optimizer)
            theirs = dict(tensors_in(state, ""))
            for name, tensor in tensors_in(training.optimizer.state_dict(), ""):
                put(tensor, theirs[name])
        else:
            training.optimizer.load_state_dict(state)
    except (KeyError, ValueError):
        raise KiaraError(
            f"{checkpoint.path} holds the state of another optimizer than train.optimizer="
            f"{training.config.train.optimizer}: an earlier version wrote it",
            f"start a new run from it: kiara train --from {checkpoint.path}",
        ) from None


def check_data(checkpoint: Checkpoint, data: Prepared, allow_changed_data: bool) -> None:
    """Raise KiaraError for another tokenizer than the checkpoint's, or for other data where that is not allowed."""
    if fingerprint(checkpoint.make_tokenizer()) != data.meta.tokenizer_hash:
        raise KiaraError(
            f"{data.folder} was made with another tokenizer than {checkpoint.path}",
            "a model cannot change its tokenizer: start a new run without --resume",
        )
    if checkpoint.data["hash"] != data.meta.hash and not allow_changed_data:
        raise KiaraError(
            f"{data.folder} holds other data than {checkpoint.path} learned from",
            "restore it, or go on with it as it is: --allow-changed-data",
        )
