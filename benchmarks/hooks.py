"""What hooks cost: a table, and with --json a file.

    python benchmarks/hooks.py [--rounds 40] [--json FILE] [KEY=VALUE...]

Trains the default model (or what KEY=VALUE changes of it) on random letters, update by update: one of the plain loop,
one of a contestant, in turns and in one process; the ratio of the two medians counts. Contestants: the loop with its
lines about hooks taken out of it (what a run without hooks pays), an identity hook on each kind of point, statistics
at every step, every update hook and auxiliary loss, and runtime.deterministic=false. Before anything is timed, those
that change nothing must give the plain loop's losses, bit for bit.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from kiara_cli.config.load import load_config
from kiara_cli.core.data.prepare import prepare
from kiara_cli.core.model.points import KINDS, WRITTEN_OUT
from kiara_cli.core.train import loop
from kiara_cli.core.train.build import begin
from kiara_cli.core.train.meter import Meter
from kiara_cli.core.train.plan import plan
from kiara_cli.core.train.state import Training

LETTERS = "".join(chr(33 + index) for index in range(65))
WARM = 3  # updates before the first that is timed
CHECKED = 3  # updates whose losses must be equal
BACKWARD = {"gradient_scale": "factor=0.9", "gradient_clip": "norm=1", "gradient_noise": "", "gradient_sign": "",
            "straight_through": "bits=8"}  # fmt: skip
UPDATE = {"centralize": "", "project_gradient": "", "bound_norm": "norm=1", "freeze": "parameters=blocks.0",
          "layer_rates": "decay=0.9", "lookahead": "", "ema_nesterov": ""}  # fmt: skip
OFF_LOOPS = tuple(f"blocks.*.attention.{name}" for name in "qkv")  # the C loops do not pass them, and round otherwise
AUXILIARY = ("z_loss", "attention_entropy", "activation_sparsity", "orthogonality", "weight_norm", "multi_token",
             "self_distillation")  # fmt: skip


@dataclass(frozen=True)
class Contestant:
    """Settings on top of the plain ones, whether the losses must be the plain ones, and other code for an update."""

    name: str
    words: tuple[str, ...] = ()
    same: bool = False
    both: tuple[str, ...] = ()  # settings of the plain loop beside it, too
    update: Callable[..., Any] = loop.update


def contestants() -> Iterator[Contestant]:
    """Yield what is measured, in the order of the table."""
    yield Contestant("plain loop once more (noise)", same=True)
    yield Contestant("loop without lines about hooks", same=True, update=without_hooks())
    for kind in KINDS:
        if kind.name != "pos_embed.out":
            words = hook("identity", f"at={kind.name}")
            yield Contestant(f"identity at {kind.name}", words, same=kind.name not in (*WRITTEN_OUT, *OFF_LOOPS))
    watch = hook("activation_statistics", "with.interval=1", name="a")
    yield Contestant("activation statistics, every step", watch, same=True)
    yield Contestant("update statistics, every step", hook("update_statistics", "with.interval=1"), same=True)
    yield Contestant("both statistics, every tenth", hook("activation_statistics", name="a")
                     + hook("update_statistics", name="u"), same=True)  # fmt: skip
    for name, argument in BACKWARD.items():
        words = (f"with.{argument}",) if argument else ()
        yield Contestant(name, hook(name, "at=blocks.*.resid_post", *words))
    for name, argument in UPDATE.items():
        yield Contestant(name, hook(name, *((f"with.{argument}",) if argument else ())))
    for name in AUXILIARY:
        yield Contestant(name, hook(name, "with.weight=0.01"))
    loose, talks = ("runtime.deterministic=false",), ("data.source=talks.jsonl",)
    yield Contestant("runtime.deterministic=false", loose, same=True)
    yield Contestant("the same, on conversations", loose, same=True, both=talks)


def hook(use: str, *words: str, name: str = "mine") -> tuple[str, ...]:
    return (f"hooks.{name}.use={use}", *(f"hooks.{name}.{word}" for word in words))


def talk(seed: int) -> str:
    draw = random.Random(seed)
    said = [{"role": role, "content": "".join(draw.choices(LETTERS, k=20))} for role in ("user", "assistant")]
    return json.dumps({"messages": said}) + "\n"


def without_hooks() -> Callable[..., Any]:
    """Return the loop's update, made of its source without any statement that is there for hooks."""

    class Cut(ast.NodeTransformer):
        def visit_If(self, node: ast.If) -> Any:
            return None if "hooks" in ast.unparse(node.test) else self.generic_visit(node)

    tree = ast.fix_missing_locations(Cut().visit(ast.parse(inspect.getsource(loop.update))))
    source = ast.unparse(tree)
    assert source.count("hooks") == 2, source  # config, progress, model, hooks = …, training.hooks
    scope = dict(vars(loop))
    exec(compile(tree, "update without hooks", "exec"), scope)
    made: Callable[..., Any] = scope["update"]
    return made


def make(folder: Path, words: tuple[str, ...]) -> Training:
    config = load_config(overrides=words).config
    data = prepare(config.data, config.tokenizer, folder / "data")
    with contextlib.redirect_stderr(io.StringIO()):
        return begin(plan(config, data), folder / "checkpoints")


def step(training: Training, update: Callable[..., Any]) -> tuple[float, float]:
    """Make an update; return its loss and seconds."""
    strict = "error" if training.config.runtime.deterministic else "default"
    torch.set_deterministic_debug_mode(strict)
    began = time.perf_counter()
    loss, _, skipped = update(training, 1e-3, Meter())
    seconds = time.perf_counter() - began
    assert skipped is None
    training.progress.step += 1
    return loss, seconds


def measure(contestant: Contestant, folder: Path, base: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Time a contestant and the plain loop in turns; return the medians and their ratio."""
    base = (*base, *contestant.both)
    plain, other = make(folder, base), make(folder, (*base, *contestant.words))
    losses: list[list[float]] = []
    for training, update in ((plain, loop.update), (other, contestant.update)):
        torch.manual_seed(0)
        losses.append([step(training, update)[0] for _ in range(CHECKED)])
    equal = losses[0] == losses[1]
    if contestant.same and not equal:
        raise SystemExit(f"{contestant.name}: the losses are not the plain loop's: {losses}")
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM + rounds):
        pair = [(0, plain, loop.update), (1, other, contestant.update)]
        for index, training, update in pair if turn % 2 else pair[::-1]:
            seconds = step(training, update)[1]
            if turn >= WARM:
                times[index].append(seconds)
    for training in (plain, other):
        training.feed.close()
        training.lock.release()
    ratios = sorted(b / a for a, b in zip(*times, strict=True))
    return {
        "plain_ms": 1000 * statistics.median(times[0]),
        "ms": 1000 * statistics.median(times[1]),
        "ratio": statistics.median(ratios),
        "low": ratios[len(ratios) // 4],
        "high": ratios[-1 - len(ratios) // 4],
        "same_losses": equal,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", help="a part of the contestants' names")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {}
    place = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="kiara-hooks-") as name:
        os.chdir(name)
        Path("text.txt").write_text("".join(random.Random(0).choices(LETTERS, k=400_000)))
        Path("talks.jsonl").write_text("".join(map(talk, range(3000))))
        base = ("data.source=text.txt", "tokenizer.kind=char", *given.settings)
        first = make(Path(), base)
        decided = first.config.runtime  # once for all: `auto` is decided by measuring
        base += (f"runtime.dtype={decided.dtype}", f"runtime.native={decided.native}".lower())
        base += (f"runtime.compile={decided.compile}".lower(), f"runtime.threads={first.runtime.threads}")
        print(first.plan.how)
        print(f"{'':40} {'plain':>9} {'with it':>9} {'ratio':>7}  half of all pairs")
        for contestant in contestants():
            if given.only and given.only not in contestant.name:
                continue
            row = found[contestant.name] = measure(contestant, Path(), base, given.rounds)
            print(
                f"{contestant.name:40} {row['plain_ms']:6.1f} ms {row['ms']:6.1f} ms {row['ratio']:7.3f}"
                f"  {row['low']:.3f} to {row['high']:.3f}{'' if row['same_losses'] else '  (other losses)'}",
                flush=True,
            )
        os.chdir(place)
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
