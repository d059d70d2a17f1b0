"""From a run's checkpoint back to a training state: the next step sees what it would have seen.

In: a checkpoint that has optimizer and progress, and the run's data. Out: `Training`, as if it had never stopped.
"""

from __future__ import annotations

from kiara_cli.config import load as config_load
from kiara_cli.config.load import Layer, Loaded
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.run import Lock, Run
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.model.fused import load
from kiara_cli.core.runtime.compile import broken_toolchain
from kiara_cli.core.runtime.device import Runtime, decide
from kiara_cli.core.runtime.native import CompilerError
from kiara_cli.core.tokenizer.protocol import fingerprint
from kiara_cli.core.train.progress import Progress, set_random_state
from kiara_cli.core.train.start import Training, assemble, describe
from kiara_cli.core.train.writers import check_writers
from kiara_cli.errors import KiaraError

RESUMABLE = {"logging", "eval", "generate"}  # sections that a resumed run may change
RESUMABLE_KEYS = {
    f"train.{key}"
    for key in (
        "max_steps",
        "log_interval",
        "eval_interval",
        "checkpoint_interval",
        "keep_last",
        "save_safetensors",
    )
}


def resume(
    config: Config,
    checkpoint: Checkpoint,
    data: Prepared,
    run: Run,
    lock: Lock | None = None,
    allow_changed_data: bool = False,
) -> Training:
    """Continue a run where `checkpoint` left it; `lock` is the claim on it, if there is one already.

    Raises KiaraError for another tokenizer, other data (unless allowed), or a checkpoint of weights alone.
    """
    checkpoint.check_trainable()
    if checkpoint.progress is None or checkpoint.optimizer is None:
        raise KiaraError(
            f"{checkpoint.path} holds weights alone and cannot be resumed",
            f"start a new run from it: kiara train --from {checkpoint.path}",
        )
    changed = check_data(checkpoint, data, allow_changed_data)
    check_writers(config)
    lock = lock or run.lock()
    runtime = same_machine(config, checkpoint)
    progress = Progress.from_state(checkpoint.progress, config.train.accumulation)
    model = checkpoint.make_model(config.model)
    training = assemble(config, runtime, data, model, run, lock, progress)
    training.optimizer.load_state_dict(dict(checkpoint.optimizer))
    training.metrics |= checkpoint.metrics
    if training.average is not None:
        training.average.load(progress.average)
    set_random_state(progress.random)
    run.cut_records(progress.step)
    describe(training, {"data_changed_at_step": progress.step} if changed else {})
    return training


def same_machine(config: Config, checkpoint: Checkpoint) -> Runtime:
    """Take up what was decided for the run. Raises KiaraError where this machine cannot honour it."""
    elsewhere = f"resume it where there is one, or start a new run from it: kiara train --from {checkpoint.path}"
    try:
        runtime = decide(config.runtime)
    except KiaraError as error:
        raise KiaraError(error.cause, elsewhere) from None
    if config.runtime.compile is True and (failure := broken_toolchain(runtime.device)) is not None:
        raise KiaraError(f"the run was compiled, and there is no working compiler here ({failure})", elsewhere)
    if config.runtime.native is True:
        try:
            load()
        except CompilerError as error:
            raise KiaraError(f"the run used C loops, and the C compiler fails here ({error})", elsewhere) from None
    return runtime


def check_data(checkpoint: Checkpoint, data: Prepared, allow_changed_data: bool) -> bool:
    """Return whether the data is other than the checkpoint's. Raises KiaraError where that is not allowed."""
    if fingerprint(checkpoint.make_tokenizer()) != data.meta.tokenizer_hash:
        raise KiaraError(
            f"{data.folder} was made with another tokenizer than {checkpoint.path}",
            "a model cannot change its tokenizer: start a new run without --resume",
        )
    changed = bool(checkpoint.data["hash"] != data.meta.hash)
    if changed and not allow_changed_data:
        raise KiaraError(
            f"{data.folder} holds other data than {checkpoint.path} learned from",
            "restore it, or go on with it as it is: --allow-changed-data",
        )
    return changed


def resumed_config(loaded: Loaded, checkpoint: Checkpoint) -> Config:
    """Return the stored config with what may change taken from the layers that set it.

    Raises KiaraError for a change that would make it another training.
    """
    origin = str(checkpoint.path)
    stored = config_load.from_mapping(checkpoint.config, origin).config
    allowed = []
    for change in config_load.changes(loaded, stored):
        key, wanted = change.key, change.wanted
        if key.split(".")[0] not in RESUMABLE and key not in RESUMABLE_KEYS:
            raise config_load.mistake_at(
                change.origin,
                f"{key}={wanted}: the run to resume has {key}={change.stored}",
                "leave it out, or start a new run without --resume",
            )
        if key == "train.max_steps" and wanted < change.stored:
            done = (checkpoint.progress or {}).get("step", 0)
            raise config_load.mistake_at(
                change.origin,
                f"train.max_steps={wanted}: the run was planned for {change.stored} steps and has made {done}",
                "give a larger number, or leave it out",
            )
        allowed.append(Layer(change.origin, {key: wanted}))
    return config_load.from_mapping(checkpoint.config, origin, over=allowed).config
