"""What a study found: for each variant the difference, its interval, what it is worth and costs, and a plain verdict.

In: a `Table` of what was measured, and what study.json says. Out: a `Report`, and it as one JSON object.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from kiara_cli.config.schema import DEFAULT_STEPS
from kiara_cli.core.lab import looks, statistics
from kiara_cli.core.lab.scaling import Scaling, scale
from kiara_cli.core.lab.statistics import Comparison, Pairing
from kiara_cli.core.lab.study import MEASURES, Study
from kiara_cli.core.lab.table import Cell, Table
from kiara_cli.core.model.count import count
from kiara_cli.errors import KiaraError

Verdict: TypeAlias = Literal["better", "worse", "cannot tell", "same", "unstable", "not judged", "baseline"]
UNITS = {"bits_per_byte": "bits per byte", "val_loss": "nats per token"}
DEARER = 1.02  # times the baseline's FLOPs, from which on it is said; of seconds SLOWER
SLOWER = 1.1
NOISIER = 4.0  # times the median variant's noise
FACTS = ("code_hash", "data_hash", "tokenizer_hash", "threads", "torch", "machine")  # which all runs should share


@dataclass(frozen=True)
class Line:
    """One arm of a study. Costs are means over its runs; NaN or None where a number is not there."""

    arm: str
    change: str
    mean: float
    sd: float
    seeds: int  # with a measurement
    diverged: tuple[int, ...]
    missing: tuple[int, ...]
    flops: float
    tokens: float
    seconds: float
    parameters: float
    comparison: Comparison | None = None
    verdict: Verdict = "baseline"
    words: str = ""  # the verdict in a sentence
    steps: float | None = None  # as good as the baseline after such a share of its steps
    other: float = math.nan  # the difference in the other measure


@dataclass(frozen=True)
class Report:
    """A study's result. `scaling` takes the place of comparisons where the arms are sizes."""

    study: Study
    folder: Path
    table: Table
    lines: tuple[Line, ...]
    pairing: Pairing | None
    method: str
    level: float
    warnings: tuple[str, ...]
    held: Mapping[str, Any]  # what was the same for all runs
    scaling: Scaling | None = None

    @property
    def unit(self) -> str:
        return UNITS[self.study.measure]

    @property
    def judged(self) -> list[Line]:
        return [line for line in self.lines if line.verdict != "baseline"]


def report(table: Table, folder: Path, manifest: Mapping[str, Any]) -> Report:
    """Judge a study. Raises KiaraError without scipy, where nothing has ended, or for sizes that no law fits."""
    statistics.require_scipy()
    study = table.study
    if not np.isfinite(table.values).any():
        raise KiaraError(f"no run of the study {folder} has ended with a measurement", "run it without --report")
    lines = [_line(table, index) for index in range(len(study.arms))]
    held, warnings = _held(table), _warnings(table, manifest)
    if study.scaling:
        law = scale([line.flops for line in lines], table.values, _next_compute(table))
        plain = "the law is fitted to the sizes' means"
        return Report(study, folder, table, tuple(lines), None, plain, statistics.LEVEL, warnings, held, law)
    level = looks.level_of(study.looks)
    compared = _compared(table, level)
    judged = [_judged(table, index, line, compared) for index, line in enumerate(lines)]
    pairing = statistics.pairing(table.values)
    return Report(study, folder, table, tuple(judged), pairing, _method(study, compared), level, warnings, held)


def _compared(table: Table, level: float) -> list[tuple[Comparison | None, bool]]:
    """Compare each variant, and say whether it was given up; with declared looks at the last one it was part of."""
    study = table.study
    if study.looks:
        decided = looks.decide(table.values, study.looks, study.worth, study.equal_noise, table.done)
        return [(each.comparison, each.hopeless) for each in decided]
    return [(each, False) for each in statistics.compare(table.values, level, equal_noise=study.equal_noise)]


def _line(table: Table, index: int) -> Line:
    arm, cells = table.study.arms[index], table.cells[index]
    mean, sd = statistics.spread(list(table.values[index]))
    return Line(
        arm=arm.name,
        change=arm.change,
        mean=mean,
        sd=sd,
        seeds=int(np.isfinite(table.values[index]).sum()),
        diverged=tuple(table.seeds_of(index, "diverged")),
        missing=tuple(cell.seed for cell in cells if cell.status not in ("finished", "diverged")),
        flops=_mean([cell.fact("training_flops") for cell in cells]),
        tokens=_mean([cell.fact("tokens") for cell in cells]),
        seconds=_mean([cell.fact("seconds") for cell in cells]),
        parameters=_mean([cell.fact("parameters") for cell in cells]),
    )


def _judged(table: Table, index: int, line: Line, compared: Sequence[tuple[Comparison | None, bool]]) -> Line:
    if not index:
        return line
    comparison, hopeless = compared[index - 1]
    verdict, words = verdict_of(line, comparison, table.study, hopeless, _costs(line, _line(table, 0)))
    others = [name for name in MEASURES if name != table.study.measure]
    cells = zip(table.cells[0], table.cells[index], strict=True)
    pairs = [(b.values.get(others[0], math.nan), v.values.get(others[0], math.nan)) for b, v in cells]
    other = _mean([v - b for b, v in pairs])
    steps = steps_share(table.cells[0], table.cells[index], MEASURES[table.study.measure])
    return dataclasses.replace(line, comparison=comparison, verdict=verdict, words=words, steps=steps, other=other)


def verdict_of(
    line: Line, found: Comparison | None, study: Study, hopeless: bool = False, costs: str = ""
) -> tuple[Verdict, str]:
    """Return the verdict and a sentence that says it."""
    unit = UNITS[study.measure]
    if found is None:
        return "not judged", "not judged: fewer than two seeds have ended in both this and the baseline"
    size = f"{abs(found.difference):.4f} {unit}"
    if line.diverged:
        seeds = ", ".join(map(str, line.diverged))
        rest = f"over the {found.seeds} others the difference is {found.difference:+.4f}"
        return "unstable", f"unstable: diverged with seed{'s' * (len(line.diverged) > 1)} {seeds}; {rest} {unit}"
    if found.told:
        word: Verdict = "better" if found.difference < 0 else "worse"
        return word, f"{word} by {size} (± {found.margin:.4f}, p = {found.p:.2g}){costs}"
    if not found.noise and not found.difference:
        return "same", "the same in every seed: it changes no result"
    noise = f"the noise is ± {found.margin:.4f} {unit}, the difference {found.difference:+.4f}"
    if hopeless:
        return "cannot tell", f"given up: {noise}, a gain of {study.worth:g} is ruled out"
    if found.seeds_needed is None:
        wanted = f"more than {statistics.MOST_SEEDS} seeds would be needed"
    else:
        wanted = f"about {found.seeds_needed} seeds would tell"
    return "cannot tell", f"cannot tell: {noise}; {wanted} if it is as large as it looks{costs}"


def _costs(line: Line, base: Line) -> str:
    """Say what a variant costs more, or less."""
    said = []
    for name, ours, theirs, limit in (
        ("FLOPs", line.flops, base.flops, DEARER), ("seconds", line.seconds, base.seconds, SLOWER),
    ):  # fmt: skip
        ratio = ours / theirs if theirs else math.nan
        if ratio > limit:
            said.append(f"{ratio - 1:.0%} more {name}")
        elif ratio < 1 / limit:
            said.append(f"{1 - ratio:.0%} fewer {name}")
    return f"; it costs {' and '.join(said)}" if said else ""


def steps_share(base: Sequence[Cell], variant: Sequence[Cell], key: str) -> float | None:
    """Return how many of the baseline's steps a variant is worth, as a share: from the mean curves of validation.

    Below 1: the baseline is there after that share of its steps. Above 1: the variant is where the baseline ends
    after the reciprocal. None where the evaluations do not reach so far. With a falling learning rate the curve of
    a longer run is another one, so this is an approximation.
    """
    pairs = [(b, v) for b, v in zip(base, variant, strict=True) if b.values and v.values]
    curves = [_curve([pair[side] for pair in pairs], key) for side in (0, 1)]
    if min(map(len, curves)) < 2:
        return None
    (_, ours), (_, theirs) = curves[1][-1], curves[0][-1]
    share = _reached(curves[0], ours) if ours > theirs else _reached(curves[1], theirs)
    if share is None:
        return None
    return share if ours > theirs else 1 / share


def _curve(cells: Sequence[Cell], key: str) -> list[tuple[float, float]]:
    """Return steps and mean losses where all of the runs were measured."""
    runs = [{int(row["step"]): row.get(key) for row in cell.evaluations} for cell in cells]
    steps = sorted(set.intersection(*map(set, runs))) if runs else []
    values = [(step, [run[step] for run in runs]) for step in steps]
    return [(step, _mean(each)) for step, each in values if all(isinstance(one, int | float) for one in each)]


def _reached(curve: Sequence[tuple[float, float]], loss: float) -> float | None:
    """Return the share of a curve's steps after which it is down to a loss."""
    last = curve[-1][0]
    for (step, before), (following, after) in itertools.pairwise(curve):
        if before >= loss >= after and before > after:
            return (step + (following - step) * (before - loss) / (before - after)) / last
    return None


def _method(study: Study, compared: Sequence[tuple[Comparison | None, bool]]) -> str:
    """Say how the differences were judged, and why so."""
    found = [each for each, _ in compared if each is not None]
    if not found:
        return "nothing could be judged"
    k = found[0].family
    said = "differences within seeds; " + (
        "a paired t-test" if k == 1 else f"intervals that hold for all {k} together"
    )
    if found[0].pooled:
        said += (
            "; the noise of all arms is pooled, as the study declares it equal and a check found nothing against it"
        )
    else:
        said += "" if k == 1 else "; the noise is in part shared by the variants, in part a variant's own"
        said += "; noise declared equal was not pooled: it is not" if study.equal_noise and k > 1 else ""
    if study.looks:
        said += f"; declared looks at {', '.join(map(str, study.looks))} seeds share the error rate"
    return f"{said}; level {100 * found[0].level:.4g} %"


def _warnings(table: Table, manifest: Mapping[str, Any]) -> tuple[str, ...]:
    study, found = table.study, []
    grown = [step for step in manifest.get("seeds", [])[1:] if step["runs_there"]]
    if grown and not study.looks:
        numbers = ", then ".join(str(len(step["seeds"])) for step in manifest["seeds"])
        found.append(
            f"seeds were added after results were there ({numbers}): errors are more frequent than stated; "
            "declare looks beforehand to stop early without that"
        )
    contexts = {study.configs[arm.name].model.context_length for arm in study.arms}
    if len(contexts) > 1 and not study.scaling:
        found.append(
            f"measured in windows of {' and '.join(map(str, sorted(contexts)))} tokens, as the models have them"
        )
    for name in ("code_hash", "torch", "threads"):
        if len({str(cell.facts.get(name)) for row in table.cells for cell in row if cell.facts}) > 1:
            found.append(f"not all runs have the same {name.replace('_hash', '')}: the study was gone on with later")
    for index, arm in enumerate(study.arms):
        if lost := table.seeds_of(index, "diverged"):
            found.append(f"{arm.name} diverged with {len(lost)} of {len(study.seeds)} seeds")
    found += _noisier(table)
    missing = sum(cell.status not in ("finished", "diverged") for row in table.cells for cell in row)
    if missing and not study.looks:
        found.append(f"{missing} runs are missing: what is said may change")
    return tuple(found)


def _noisier(table: Table) -> list[str]:
    """Name variants whose differences scatter far more than the others': the noise that is shared grows by them."""
    if table.study.scaling or len(table.study.variants) < 3:
        return []
    spreads = [statistics.spread(list(row - table.values[0]))[1] for row in table.values[1:]]
    usual = float(np.nanmedian(spreads)) if np.isfinite(spreads).any() else math.nan
    return [
        f"{arm.name} is {spread / usual:.0f} times as noisy as the others usually are, which widens all intervals: "
        "judge it in a study of its own"
        for arm, spread in zip(table.study.variants, spreads, strict=True)
        if usual and spread > NOISIER * usual
    ]


def _held(table: Table) -> dict[str, Any]:
    """Return what was the same for all runs, and how many values there were where it was not."""
    found: dict[str, Any] = {}
    for name in FACTS:
        values = sorted({str(cell.facts[name]) for row in table.cells for cell in row if cell.facts.get(name)})
        if values:
            found[name] = values[0] if len(values) == 1 else f"{len(values)} different"
    return found


def _next_compute(table: Table) -> float | None:
    """Return the FLOPs of the size to predict, where the study names one."""
    study = table.study
    if study.next is None:
        return None
    config = study.config_of(study.next)
    run = next(cell.run for row in table.cells for cell in row if cell.values)
    model = config.model.replace(vocab_size=run.config().model.vocab_size)  # the tokenizer's
    steps = config.train.max_steps or DEFAULT_STEPS
    tokens = steps * config.train.batch_size * config.train.accumulation * model.context_length
    return float(count(model).training_flops * tokens)


def _mean(values: Sequence[Any]) -> float:
    found = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return sum(found) / len(found) if found else math.nan


def record(found: Report) -> dict[str, Any]:
    """Return a report as one JSON object; null where a number is not there."""
    study = found.study
    values: dict[str, Any] = {
        "study": study.name, "folder": str(found.folder), "measure": study.measure, "seeds": list(study.seeds),
        "varied": list(study.varied), "method": found.method, "level": found.level, "warnings": list(found.warnings),
        "held_fixed": dict(found.held),
        "pairing": dataclasses.asdict(found.pairing) if found.pairing else None,
        "arms": [_line_record(line) for line in found.lines],
        "scaling": dataclasses.asdict(found.scaling) if found.scaling else None,
        "runs": [
            {"run": cell.run.name, "arm": cell.arm, "seed": cell.seed, "status": cell.status, **cell.values,
             "results_hash": cell.facts.get("results_hash")}
            for row in found.table.cells for cell in row
        ],
    }  # fmt: skip
    return {name: _plain(value) for name, value in values.items()}


def _line_record(line: Line) -> dict[str, Any]:
    values = {name: value for name, value in vars(line).items() if name not in ("comparison", "words")}
    found = line.comparison
    if found is not None:
        values |= {
            "difference": found.difference, "low": found.low, "high": found.high, "p": found.p, "noise": found.noise,
            "seeds_needed": found.seeds_needed,
        }  # fmt: skip
    return values | {"verdict_in_words": line.words}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
