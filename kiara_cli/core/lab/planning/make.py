"""From what is asked for to an estimate: for `kiara plan` before anything is there, and for a training's own plan.

In: a config, or a `Plan`. Out: `Estimate`.
"""

from __future__ import annotations

import dataclasses
import logging
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.data.folders import Prepared
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.lab.planning.devices import THIS, device_named
from kiara_cli.core.lab.planning.estimate import Estimate, Facts
from kiara_cli.core.lab.planning.facts import facts_before, facts_of, prepared
from kiara_cli.core.lab.planning.target import named_target, this_target, with_options
from kiara_cli.core.model.count import count
from kiara_cli.core.quantize.scheme import recorded
from kiara_cli.core.runtime.device import planning_rate
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.loop import update
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.plan import USUAL_SHARE, Plan, decide_runtime, hook_on_model, plan
from kiara_cli.errors import KiaraError

log = logging.getLogger("kiara.plan")

UPDATES, WARM = 4, 2  # that are measured, after those that warm up
SHORT = (
    60.0  # seconds of a training below which its start is not held up by counting, which takes about half a second
)
LONG = 20.0  # seconds of an update from which on one is enough


@dataclass(frozen=True)
class Asked:
    """What a plan is asked for."""

    device: str = THIS
    devices: int = 1
    price: float | None = None  # dollars an hour and device
    watts: float | None = None
    link: float | None = None  # bytes a second between devices
    measure: bool = False


def estimate_of(planned: Plan) -> Estimate:
    """Return the estimate of a training on this machine that is about to begin."""
    fused = planned.config.runtime.native is True
    return Estimate(planned.config, facts_of(planned), this_target(planned.runtime, fused, planned.how))


def is_short(planned: Plan) -> bool:
    """Say whether a training takes less than SHORT, by its operations at the usual share of the peak."""
    return planned.training_flops < SHORT * USUAL_SHARE * planning_rate(planned.runtime)


def estimate_before(config: Config, root: Path, asked: Asked, base: Checkpoint | None = None) -> Estimate:
    """Return the estimate of a training of which nothing needs to be there. Raises KiaraError."""
    if asked.devices < 1:
        raise KiaraError(f"--devices {asked.devices}: a training needs at least one", "give 1 or more")
    device = device_named(asked.device)
    if asked.measure and (device is not None or asked.devices > 1):
        raise KiaraError("--measure takes real updates on this machine", "leave out --device and --devices")
    config, facts = facts_before(config, root)
    if base is not None and base.quantize is not None:
        scheme = recorded(base.quantize, str(base.path))
        facts = dataclasses.replace(facts, rows=dataclasses.replace(facts.rows, scheme=scheme))
    if device is not None:
        target = named_target(device, config)
    else:
        train = config.train
        tokens = facts.steps * train.batch_size * train.accumulation * config.model.context_length
        flops = count(config.model).training_flops * tokens
        decided, runtime, how, _ = decide_runtime(config.runtime, flops, hook_on_model(config))
        config = dataclasses.replace(config, runtime=decided)
        target = this_target(runtime, decided.native is True, how)
    target = with_options(target, asked.devices, asked.price, asked.watts, asked.link)
    step = measured(config, facts, root) if asked.measure else None
    return Estimate(config, facts, target, step)


def measured(config: Config, facts: Facts, root: Path) -> float:
    """Take a few real updates of this shape in a scratch folder; return the median seconds of one.

    On the data where it is prepared; else on a text of random letters, a token each.
    """
    with tempfile.TemporaryDirectory(prefix="kiara-plan-") as name:
        folder = Path(name)
        data = prepared(config, root)
        if data is None:
            config, data = on_letters(config, folder)
        training = begin(plan(config, data), folder / "runs")
        meter, taken = Meter(), list[float]()
        try:
            while len(taken) < WARM + UPDATES and not (taken and taken[-1] > LONG and len(taken) > 1):
                began = time.perf_counter()
                update(training, config.train.lr, meter)
                training.progress.step += 1
                taken.append(time.perf_counter() - began)
        finally:
            training.feed.close()
            training.lock.release()
    log.info("%d updates measured; other work on this machine disturbs that.", len(taken))
    return statistics.median(taken[min(WARM, len(taken) - 1) :])


def on_letters(config: Config, folder: Path) -> tuple[Config, Prepared]:
    """Return the config on a text of random letters, and that text prepared."""
    import torch

    train, context = config.train, config.model.context_length
    letters = 4 * train.batch_size * train.accumulation * (context + 1) + 10_000
    ids = torch.randint(97, 122, (letters,), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    text = folder / "letters.txt"
    text.write_bytes(ids.numpy().tobytes())
    source = dataclasses.replace(
        config.data, source=str(text), sources=(), val_source=None, replay=0.0, name=None, output=None
    )
    tokenizer = dataclasses.replace(config.tokenizer, kind="char")
    config = dataclasses.replace(config, data=source, tokenizer=tokenizer)
    return config, prepare(config.data, config.tokenizer, folder / "data")
