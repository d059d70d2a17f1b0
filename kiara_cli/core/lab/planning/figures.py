"""An estimate as a list of figures, each with its basis and the command that checks it.

In: an `Estimate`. Out: `Figure`s in the order in which they are read.
"""

from __future__ import annotations

from collections.abc import Iterator

from kiara_cli.core.lab.planning.advice import GOOD_EPOCHS, TOKENS_PER_PARAMETER, compute_optimal, largest_batch
from kiara_cli.core.lab.planning.estimate import STEPS, Estimate, Figure

COUNTED = "counted"
FOLLOWED = "counted: an update followed under fake tensors"
RECORDS = f"{STEPS}, then memory_bytes in metrics.jsonl"
PARTS = {
    "process": "Python, PyTorch and what the first update loads: measured on this machine",
    "allocator": "freed blocks that the allocator keeps: a share fitted to benchmarks/plan.py",
    "gathered": "arithmetic: two blocks in full",
    "buckets": "arithmetic: DDP's copy of the gradients",
}


def figures(estimate: Estimate) -> Iterator[Figure]:
    """Yield every figure of a plan."""
    yield from of_model(estimate)
    yield from of_memory(estimate)
    yield from of_time(estimate)
    yield from of_advice(estimate)


def of_model(estimate: Estimate) -> Iterator[Figure]:
    """Yield parameters and operations."""
    count, check = estimate.count, "kiara train --dry-run"
    yield Figure("parameters", count.parameters, "", COUNTED, check)
    for part, number in count.parts.items():
        if number:
            yield Figure(f"parameters, {part}", number, "", COUNTED)
    if estimate.config.train.lora.rank:
        yield Figure("parameters, trained", estimate.trained, "", COUNTED, check)
    yield Figure("forward pass", count.forward_flops, "FLOP/token", COUNTED)
    yield Figure("training", estimate.flops_per_token, "FLOP/token", COUNTED + ", the backward pass as two forward")
    yield Figure("training, in all", estimate.flops_per_token * estimate.tokens, "FLOP", COUNTED)


def of_memory(estimate: Estimate) -> Iterator[Figure]:
    """Yield memory by part."""
    target = estimate.target
    guess = "a guess for a GPU" if target.kind != "cpu" else ""
    for part, size in sorted(estimate.memory.items(), key=lambda each: -each[1]):
        basis = PARTS.get(part, FOLLOWED)
        yield Figure(f"memory, {part}", size, "B", guess if guess and part in ("process", "allocator") else basis)
    yield Figure("memory, at most", estimate.peak, "B", "the sum", RECORDS)
    if target.available is not None:
        yield Figure(
            "memory there is",
            target.available,
            "B",
            "asked the system" if not target.price and not target.watts else "data sheet",
            "kiara doctor",
        )
    batch = largest_batch(estimate)
    if batch is not None:
        yield Figure("largest batch", batch, "rows a device", FOLLOWED + " for one row and for two", RECORDS)
    elif target.kind == "cpu":
        yield Figure("largest batch", "any", "", "on a CPU rows go through in pieces of about 4,096 tokens")


def of_time(estimate: Estimate) -> Iterator[Figure]:
    """Yield time, energy and cost."""
    target, step = estimate.target, estimate.seconds
    basis = "measured: real updates of this shape" if estimate.step is not None else target.speed.basis
    check = STEPS if target.devices == 1 else f"torchrun --nproc-per-node={target.devices} -m kiara_cli train"
    yield Figure("steps", estimate.facts.steps, "", estimate.facts.limit)
    yield Figure("tokens", estimate.tokens, "", COUNTED)
    yield Figure("an update", step.total, "s", basis, check)
    yield Figure("an update, matrix products", step.products, "s", target.speed.basis, "kiara bench")
    yield Figure("an update, moving bytes", step.memory, "s", target.speed.basis, "kiara bench")
    yield Figure("an update, calling operators", step.dispatch, "s", target.speed.basis)
    if target.devices > 1:
        sent = estimate.cluster.bytes_sent(estimate.count.parameters, estimate.trained)
        beyond = (
            "a projection"
            if target.devices > 2 or target.name != "this machine"
            else "a model, not yet checked with 2 processes"
        )
        basis = f"ring of {estimate.strategy.upper()}, nothing overlapped; {beyond}"
        yield Figure("an update, communication", step.communication, "s", basis, "benchmarks/plan.py --ranks")
        yield Figure("sent by each device", sent, "B/update", COUNTED)
    yield Figure("limited by", step.limit, "", "the largest of these")
    yield Figure("speed", estimate.tokens_per_step / step.total, "tokens/s", basis, check)
    yield Figure("time", estimate.time, "time", "steps × an update; evaluations and saving come on top", check)
    yield Figure("energy", estimate.energy, "J", "watts × time" if target.watts else "give --watts")
    yield Figure("cost", estimate.cost, "$", "price × time, May 2026" if target.price else "give --price-per-hour")


def of_advice(estimate: Estimate) -> Iterator[Figure]:
    """Yield what this much compute would best be spent on, and how far the data goes."""
    source = "Hoffmann et al., 2022: 20 tokens a parameter"
    parameters, tokens = compute_optimal(estimate)
    yield Figure("tokens a parameter", estimate.tokens / estimate.count.parameters, "", COUNTED)
    yield Figure("tokens for this model", TOKENS_PER_PARAMETER * estimate.count.parameters, "", source)
    yield Figure("best model for this work", parameters, "", source)
    yield Figure("and its tokens", tokens, "", source)
    if estimate.facts.tokens:
        epochs = estimate.tokens / estimate.facts.tokens
        said = f"up to {GOOD_EPOCHS} are nearly as good as new text: Muennighoff et al., 2023"
        yield Figure("passes over the data", epochs, "", said)
