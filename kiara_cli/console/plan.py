"""A training's plan, as a table for people and as one object for programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from kiara_cli.config.load import value_at
from kiara_cli.console import output
from kiara_cli.console.output import amount, duration
from kiara_cli.core.data.pairs import PairBatcher
from kiara_cli.core.data.segments import Contents
from kiara_cli.core.lab.planning.estimate import Estimate, Figure
from kiara_cli.core.lab.planning.figures import figures
from kiara_cli.core.lab.planning.make import SHORT, estimate_of, is_short
from kiara_cli.core.train.plan import LIMITS, Plan

WORDS = ("tokens/s", "rows a device")  # units that take no prefix


def show_plan(plan: Plan, root: Path, name: str | None, dry_run: bool, json_: bool) -> None:
    """Print the plan: of a dry run on stdout, of any other on stderr."""
    if dry_run and json_:
        return output.record(plan_record(plan, estimate_of(plan)))
    estimate = None if is_short(plan) and not dry_run else estimate_of(plan)
    title = "The plan (nothing was written)" if dry_run else "The plan"
    output.facts(title, plan_rows(plan, estimate, root, name), dry_run)
    if estimate is not None and estimate.missing:
        output.warn(f"that is {amount(estimate.missing, 'B')} more memory than there is; see: kiara plan")


def show_estimate(estimate: Estimate, json_: bool) -> None:
    """Print an estimate: a table of figures, or one object."""
    if json_:
        return output.record(estimate_record(estimate))
    target, facts = estimate.target, estimate.facts
    many = f"{target.devices} × " if target.devices > 1 else ""
    rows = [("data", facts.data), ("assumed", facts.assumed or ""), ("device", f"{many}{target.name}")]
    rows.append(("computes", target.how))
    model = estimate.config.model
    rows.append(("model", f"{model.n_layers} layers × {model.emb_dim}, context {model.context_length}"))
    output.facts("The plan", [row for row in rows if row[1]], to_stdout=True)
    output.columns(
        [
            {"figure": figure.name, "": shown(figure), "basis": figure.basis, "check": figure.check}
            for figure in figures(estimate)
        ]
    )


def shown(figure: Figure) -> str:
    """Write a figure's value the way people say it."""
    value, unit = figure.value, figure.unit
    if value is None:
        return "not known"
    if isinstance(value, str):
        return value
    if unit == "time":
        return duration(value)
    if unit == "s":
        return f"{value:.3g} s"
    if unit == "J":
        return amount(value / 3600, "Wh")
    if unit == "$":
        return f"$ {value:,.2f}"
    return f"{value:,.0f} {unit}" if unit in WORDS else amount(value, unit)


def estimate_record(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as one JSON object: seconds, bytes, joules, dollars; times and shares as plain numbers."""
    target, facts = estimate.target, estimate.facts
    return {
        "device": target.name,
        "devices": target.devices,
        "computes": target.how,
        "data": facts.data,
        "assumed": facts.assumed,
        "fits": None if target.available is None else not estimate.missing,
        "parameters": estimate.count.parameters,
        "memory_bytes": estimate.peak,
        "memory": estimate.memory,
        "steps": facts.steps,
        "tokens": estimate.tokens,
        "flops": estimate.flops_per_token * estimate.tokens,
        "seconds_per_step": estimate.seconds.total,
        "seconds": estimate.time,
        "joules": estimate.energy,
        "dollars": estimate.cost,
        "limited_by": estimate.seconds.limit,
        "figures": [dataclasses.asdict(figure) for figure in figures(estimate)],
    }


def plan_rows(plan: Plan, estimate: Estimate | None, root: Path, name: str | None = None) -> list[tuple[str, str]]:
    """Describe what will be done, what it costs and where it goes."""
    meta, model, train = plan.data.meta, plan.config.model, plan.config.train
    rows = [
        ("data", f"{meta.source}: {amount(meta.train_tokens)} tokens, {amount(meta.val_tokens)} more held out"),
        ("tokenizer", f"{plan.data.tokenizer.kind}, {meta.vocab_size:,} ids, {meta.bytes_per_token:.2f} bytes each"),
        ("model", f"{amount(plan.count.parameters)} parameters: {model.n_layers} layers × {model.emb_dim}, "
                  f"{model.n_heads} heads, context {model.context_length}"),
        ("training", f"{plan.steps:,} steps of {train.batch_size * train.accumulation} × {model.context_length} "
                     f"tokens: {amount(plan.tokens)} tokens, {plan.epochs:.1f} epochs"),
        ("ends by", ends_by(plan)),
        ("computes", plan.how),
        ("work", f"{amount(plan.training_flops, 'FLOP')}, {takes(estimate)}"),
        ("writes to", f"{root / (name or meta.name)}/"),
    ]  # fmt: skip
    if hooks := plan.config.hooks:
        rows.insert(4, ("hooks", ", ".join(f"{name} ({hook['use']})" for name, hook in hooks.items())))
    for part in reversed(plan.parts):
        said = f"{part.share:.0%} of all rows" if part.share is not None else f"{part.weight:g} × an epoch"
        rows.insert(1, ("and" if part.share is None else "replays", f"{part.data.meta.source}: {said}"))
    if (lora := train.lora).rank:
        share = f"{amount(plan.trained)} parameters ({plan.trained / plan.count.parameters:.1%}), rank {lora.rank}"
        rows.insert(3 + len(plan.parts), ("adapter", f"{share}; the weights of the model stay as they are"))
    if isinstance(plan.batcher, PairBatcher):
        pairs, out = plan.batcher.count, plan.batcher.left_out
        said = f"; {out:,} more are too long" if out else ""
        rows[1:1] = [("prefers", f"one reply to the other in {pairs - out:,} pairs{said}")]
    elif meta.conversations:
        rows[1:1] = [("learns", contents_row(plan.learned)), ("measures", contents_row(plan.measured))]
    return rows


def takes(estimate: Estimate | None) -> str:
    """Say what memory and time a training takes; None: it is short."""
    if estimate is None:
        return f"less than {SHORT:.0f} s"
    time = duration(estimate.time)
    return f"about {amount(estimate.peak, 'B')} of memory and {time} without evaluations"


def contents_row(contents: Contents) -> str:
    """Say how many targets documents and conversations have."""
    parts = []
    for targets, number, kind in (
        (contents.document_targets, contents.documents, "document"),
        (contents.conversation_targets, contents.conversations, "conversation"),
    ):
        if targets or number:
            many = f"{number:,} {kind}{'s' if number != 1 else ''}" if number else f"{kind}s"
            parts.append(f"{amount(targets)} targets in {many}")
    if contents.silent:
        parts.append(f"{contents.silent:,} of these without a reply")
    if contents.too_long:
        parts.append(f"{contents.too_long:,} longer than the context, which lose their ends")
    return ", ".join(parts)


def ends_by(plan: Plan) -> str:
    """Name the setting that ends the run, and the other limit where one is set."""
    limits = {key: value for key in (plan.limit, *LIMITS) if (value := value_at(plan.config, key)) is not None}
    return ", before ".join(f"{key}={value:g}" for key, value in limits.items())


def plan_record(plan: Plan, estimate: Estimate) -> dict[str, Any]:
    """Return the plan as one JSON object."""
    meta = plan.data.meta
    return {
        "name": meta.name,
        "documents": meta.documents,
        "train_tokens": meta.train_tokens,
        "val_tokens": meta.val_tokens,
        "vocab_size": meta.vocab_size,
        "bytes_per_token": meta.bytes_per_token,
        "n_layers": plan.config.model.n_layers,
        "parameters": plan.count.parameters,
        "trained_parameters": plan.trained,
        "steps": plan.steps,
        "limit": plan.limit,
        "tokens": plan.tokens,
        "epochs": plan.epochs,
        "flops": plan.training_flops,
        "memory_bytes": estimate.peak,
        "memory": estimate.memory,
        "seconds": estimate.time,
        "train": dataclasses.asdict(plan.learned),
        "val": dataclasses.asdict(plan.measured),
    }
