"""Records to disk: metrics.jsonl always, and TensorBoard and Weights & Biases where logging.writers names them.

In: one dict of numbers at a time. Out: files in the run's folder; with logging.wandb_mode=online, wandb's server too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from kiara_cli.config.load import to_mapping
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.run import Run
from kiara_cli.errors import KiaraError

Record: TypeAlias = Mapping[str, Any]
Write: TypeAlias = Callable[[Record], None]


def check_writers(config: Config) -> None:
    """Raise KiaraError if a package that logging.writers needs is not installed."""
    for writer in config.logging.writers:
        if importlib.util.find_spec(writer) is None:
            raise KiaraError(
                f"logging.writers={writer}: the package {writer} is not installed",
                "pip install 'kiara-slm[track]', or leave it out",
            )


@contextmanager
def recording(config: Config, run: Run, step: int) -> Iterator[Write]:
    """Within this block, yield a function that writes a record everywhere; the run stands at `step`."""
    with ExitStack() as stack:
        writes: list[Write] = [run.record]
        writes += [stack.enter_context(WRITERS[name](config, run, step)) for name in config.logging.writers]

        def write(record: Record) -> None:
            for each in writes:
                each(record)

        yield write


@contextmanager
def tensorboard(config: Config, run: Run, step: int) -> Iterator[Write]:
    """Write event files that `tensorboard --logdir checkpoints` shows; what lies beyond `step` is taken back."""
    from torch.utils import tensorboard as package

    make: Any = package.SummaryWriter
    writer = make(str(run.folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(record: Record) -> None:
        for name, value in _numbers(record):
            writer.add_scalar(name, value, record["step"])
        writer.flush()

    try:
        yield write
    finally:
        writer.close()


@contextmanager
def wandb(config: Config, run: Run, step: int) -> Iterator[Write]:
    """Write to Weights & Biases: offline into the run's folder, or online."""
    import wandb as package

    logging.getLogger("wandb").setLevel(logging.ERROR)
    settings = package.Settings(mode=config.logging.wandb_mode, silent=True, console="off")
    package.setup(settings=settings)  # before `init`, whose telemetry would look its server up even when offline
    tracked = package.init(
        project=config.logging.wandb_project,
        name=run.name,
        id=hashlib.sha256(f"{run.name} {run.facts().get('created')}".encode()).hexdigest()[:12],
        resume="allow",
        dir=str(run.folder),
        config=to_mapping(config),
        settings=settings,
    )

    def write(record: Record) -> None:
        tracked.log(dict(_numbers(record)), step=record["step"])

    try:
        yield write
    finally:
        tracked.finish()


WRITERS = {"tensorboard": tensorboard, "wandb": wandb}


def _numbers(record: Record) -> Iterator[tuple[str, float]]:
    for name, value in record.items():
        if name != "step" and isinstance(value, int | float):
            yield name, value
