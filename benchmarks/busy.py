"""A busy or limited machine: training, decoding and serving, alone, beside a busy program, and in one core's quota.

    python benchmarks/busy.py --seconds 12 --json busy.json

Each number is tokens a second of a process of its own, over `--seconds` after a warm-up; the other program adds up
numbers in Python. The quota is that of a control group, version 1 or 2, where one can be made (root); else a process
is bound to one core, which is said. Bars, as shares of what runs alone: beside 0.5 (aim 0.6); threads that Kiara
decides on, of two that are pinned, 0.98; in the quota, of `runtime.threads=1` there, 0.9. About 7 minutes on 2 cores.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

WARM_UP = 4.0  # seconds: the first steps are slow, and threads are decided meanwhile
BARS = {"auto / pinned": 0.98, "beside / alone": 0.5, "quota / 1 thread": 0.9}
NEVER = 10**9
SMALL = ["model.n_layers=2", "tokenizer.kind=char", "runtime.dtype=fp32"]
QUIET = ["train.max_steps=5000", f"train.eval_interval={NEVER}", f"train.checkpoint_interval={NEVER}"]
CGROUPS = Path("/sys/fs/cgroup")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", choices=WORKS, help=argparse.SUPPRESS)
    parser.add_argument("--threads", default="auto", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(WORKS[options.run](options.threads, options.seconds)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_text(Path("text.txt"))
        results = {work: measure(work, options.seconds) for work in options.works}
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def measure(work: str, seconds: float) -> dict[str, float]:
    """Measure one kind of work in every condition, and print its line of the table."""
    rates = {"alone": launch(work, "auto", seconds), "pinned": launch(work, "2", seconds)}
    with busy_program():
        rates["beside"] = launch(work, "auto", seconds)
    with quota() as (join, how):
        rates["quota"] = launch(work, "auto", seconds, join)
        rates["quota, 1 thread"] = launch(work, "1", seconds, join)
    ratios = {
        "auto / pinned": rates["alone"] / rates["pinned"],
        "beside / alone": rates["beside"] / rates["alone"],
        "quota / 1 thread": rates["quota"] / rates["quota, 1 thread"],
    }
    cells = [f"{name} {rate:,.0f}" for name, rate in rates.items()]
    for name, ratio in ratios.items():
        cells.append(f"{name} {ratio:.2f} ({'≥' if ratio >= BARS[name] else '<'} {BARS[name]})")
    print(f"{work:8} tokens/s: " + " | ".join(cells) + f" | one core by {how}", flush=True)
    return rates | ratios


def launch(work: str, threads: str, seconds: float, join: Callable[[], None] | None = None) -> float:
    """Run one measurement in a process of its own; `join` puts it where it belongs. Return tokens a second."""
    command = [sys.executable, __file__, "--run", work, "--threads", threads, "--seconds", str(seconds)]
    ours = ("OMP_", "GOMP_", "MKL_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=join, env=environment
    )
    return float(json.loads(done.stdout.splitlines()[-1]))


@contextmanager
def busy_program() -> Iterator[None]:
    running = subprocess.Popen([sys.executable, "-c", "n = 0\nwhile True: n += 1"])
    try:
        yield
    finally:
        running.kill()
        running.wait()


@contextmanager
def quota() -> Iterator[tuple[Callable[[], None], str]]:
    """Make a control group of one core; yield what a process does to enter it, and how it is limited."""
    settings = {
        CGROUPS / "cpu/kiara-benchmark": {"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "100000"},
        CGROUPS / "kiara-benchmark": {"cpu.max": "100000 100000"},
    }
    for group, values in settings.items():
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            for name, value in values.items():
                (group / name).write_text(value)
            try:
                yield functools.partial(enter, group), "a quota"
            finally:
                group.rmdir()
            return
        with suppress(OSError):
            group.rmdir()
    core = min(os.sched_getaffinity(0))
    yield (lambda: os.sched_setaffinity(0, {core})), "affinity, as no control group can be made"


def enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def write_text(path: Path) -> None:
    """Write a megabyte of words, always the same."""
    chance = random.Random(1)
    words = ["".join(chance.choices("etaoinshrdlu", k=chance.randint(2, 8))) for _ in range(2000)]
    path.write_text("\n".join(" ".join(chance.choices(words, k=12)) + "." for _ in range(16000)))


def train(threads: str, seconds: float, *settings: str, config: str | None = None) -> float:
    """Train for a while and return the rate of all updates after the warm-up."""
    from kiara_cli.config.load import load_config
    from kiara_cli.core.train.events import Stepped
    from kiara_cli.core.train.job import Job, run

    overrides = [*QUIET, "train.log_interval=1", "eval.sample_tokens=0", f"runtime.threads={threads}", *settings]
    loaded = load_config([config] if config else [], overrides, {})
    began, marks = time.perf_counter(), []
    stop = lambda: len(marks) > 1 and marks[-1][0] - began > WARM_UP + seconds  # noqa: E731
    for event in run(Job(loaded, Path("data"), Path("runs"), source="text.txt"), should_stop=stop):
        now = time.perf_counter()
        if not isinstance(event, Stepped):
            began = now if not marks else began  # data and model are made
        else:
            marks.append((now, event.tokens))
    counted = [mark for mark in marks if mark[0] - began > WARM_UP]
    return (counted[-1][1] - counted[0][1]) / (counted[-1][0] - counted[0][0])


def decode(threads: str, seconds: float) -> float:
    """Write text after text with the default shape, and return the rate."""
    from kiara_cli.commands.model import set_spin

    set_spin()
    import torch

    from kiara_cli.config.load import load_config
    from kiara_cli.config.model import ModelConfig
    from kiara_cli.config.schema import GenerateConfig
    from kiara_cli.core.generate.engine import Engine, Options
    from kiara_cli.core.model.transformer import Transformer
    from kiara_cli.core.runtime.device import decide

    runtime = decide(load_config([], [f"runtime.threads={threads}"], {}).config.runtime)
    torch.manual_seed(0)
    engine = Engine(Transformer(ModelConfig(vocab_size=2048)), runtime, options=Options(native="auto"))
    greedy = GenerateConfig(max_new_tokens=200, temperature=0)
    began = time.perf_counter()
    tokens, first = 0, began + WARM_UP
    while (now := time.perf_counter()) < began + WARM_UP + seconds:
        written = sum(1 for _ in engine.generate([1, 2, 3, 4], greedy))
        if now >= first:
            tokens += written
        else:
            first = max(first, time.perf_counter())
    return tokens / (time.perf_counter() - first)


def serve(threads: str, seconds: float) -> float:
    """Let eight clients talk to a server, and return the rate that they saw."""
    import serving

    os.environ["KIARA_CACHE"] = str(Path("cache").absolute())
    with tempfile.TemporaryDirectory() as folder:
        serving.write_model("default", "bf16", Path(folder))
        options = argparse.Namespace(dtype="bf16", threads=threads, set=[])
        with serving.kiara_server(Path(folder), options) as place:
            asyncio.run(serving.load(place.url, 8, 8))
            began, tokens = time.perf_counter(), 0.0
            while time.perf_counter() - began < seconds:
                start = time.perf_counter()
                seen = asyncio.run(serving.load(place.url, 8, 16))
                tokens += seen["tokens_per_second"] * (time.perf_counter() - start)
            return tokens / (time.perf_counter() - began)


WORKS: dict[str, Callable[[str, float], float]] = {
    "training": train,
    "small": lambda threads, seconds: train(threads, seconds, *SMALL, config="small"),
    "decoding": decode,
    "serving": serve,
}


if __name__ == "__main__":
    main()
