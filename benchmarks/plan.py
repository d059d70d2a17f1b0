"""What `kiara plan` says beside what a training does: parameters, memory, time; and two processes.

    python benchmarks/plan.py [--shapes default m110 …] [--json FILE]      # about 4 minutes on 2 quiet cores
    python benchmarks/plan.py --ranks                                       # 2 processes × 1 thread, about a minute

Each shape is planned and then trained for a few updates and one batch of evaluation in a process of its own. Memory
is the most that the process held, as run.json notes it; the time of an update is the median after two that warm up.
Parameters must be equal, memory within 15 %, time within 25 %. Memory does not mind other work on the machine, time
does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LETTERS = 65
CHARS = ("data.source=text.txt", "tokenizer.kind=char")


def sized(layers: int, width: int, heads: int, context: int, batch: int, *more: str) -> tuple[str, ...]:
    shape = {"n_layers": layers, "emb_dim": width, "n_heads": heads, "context_length": context}
    return (*CHARS, *(f"model.{key}={value}" for key, value in shape.items()), f"train.batch_size={batch}", *more)


SHAPES: dict[str, tuple[int, tuple[str, ...]]] = {  # updates, settings
    "default": (40, ("data.source=tales",)),
    "6x384": (4, sized(6, 384, 6, 256, 64)),
    "m10": (6, sized(6, 384, 6, 512, 8, "model.hidden_dim=1024", "model.vocab_size=4096", "train.optimizer=adamw")),
    "m110": (4, sized(12, 768, 12, 512, 4, "model.hidden_dim=2048", "model.vocab_size=16384",
                      "train.optimizer=adamw")),
    "vocabulary": (6, sized(4, 256, 4, 256, 8, "model.vocab_size=50304")),
    "fp32": (6, sized(6, 384, 6, 256, 8, "runtime.dtype=fp32", "model.feedforward=gelu", "model.norm=layernorm",
                      "train.optimizer=adamw")),
    "lora": (6, sized(6, 384, 6, 256, 16, "train.lora.rank=8")),
    "recompute": (4, sized(8, 512, 8, 1024, 4, "model.vocab_size=32000", "train.recompute=true",
                           "train.loss_chunk=512")),
}  # fmt: skip
MEMORY, TIME = 0.15, 0.25


def worker(name: str) -> dict[str, Any]:
    """Plan a shape, train it, and return both."""
    import numpy as np

    from kiara_cli.config.load import load_config
    from kiara_cli.core.data.prepare import prepare
    from kiara_cli.core.lab.planning.make import estimate_of
    from kiara_cli.core.runtime.device import peak_memory
    from kiara_cli.core.train.build import begin
    from kiara_cli.core.train.loop import measure, update
    from kiara_cli.core.train.meter import Meter
    from kiara_cli.core.train.plan import plan

    letters = np.random.default_rng(0).integers(0, LETTERS, 500_000)
    Path("text.txt").write_text("".join(chr(33 + letter) for letter in letters))
    steps, words = SHAPES[name]
    config = load_config(overrides=[*words, "runtime.compile=false"]).config
    config = load_config(
        overrides=[*words, "runtime.compile=false",
                   f"eval.max_tokens={config.eval.batch_size * config.model.context_length}"]
    ).config  # fmt: skip
    planned = plan(config, prepare(config.data, config.tokenizer, Path("data")))
    began = time.perf_counter()
    estimate = estimate_of(planned)
    said = {"parameters": estimate.trained, "memory": estimate.peak, "update": estimate.seconds.total}
    took = time.perf_counter() - began
    training = begin(planned, Path("checkpoints"))
    meter, seconds, cpu = Meter(), list[float](), list[float]()
    for _ in range(steps):
        before, used = time.perf_counter(), time.process_time()
        with training.threads.step():
            update(training, 1e-3, meter)
        training.progress.step += 1
        seconds.append(time.perf_counter() - before)
        cpu.append(time.process_time() - used)
    measure(training)
    training.feed.close()
    training.lock.release()
    done = {
        "parameters": sum(weight.numel() for weight in training.weights),
        "memory": peak_memory(planned.runtime.device),
        "update": statistics.median(seconds[min(2, steps - 1) :]),
    }
    parts = {"memory": estimate.memory, "seconds": vars(estimate.seconds)}
    return {
        "said": said,
        "done": done,
        "parts": parts,
        "estimating": took,
        "cpu_seconds": min(cpu),
        "how": planned.how,
    }


def run(name: str) -> dict[str, Any]:
    """Do that in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="kiara-plan-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", name]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
        ran = subprocess.run(command, cwd=folder, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found


def ranks() -> None:
    """Train with one process of one thread, then with two, at the same batch; show what the model of it says."""
    from kiara_cli.core.lab.planning.cluster import Cluster

    words = [*sized(6, 384, 6, 256, 16), "runtime.threads=1", "train.max_steps=12", "eval.sample_tokens=0",
             "train.log_interval=1", "eval.max_tokens=4096", "runtime.compile=false"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="kiara-plan-") as folder:
        Path(folder, "text.txt").write_text("".join(chr(33 + index * 7919 % LETTERS) for index in range(200_000)))

        def update(*start: str) -> float:
            command = [sys.executable, *start, "-m", "kiara_cli", "train", *words, "--json"]
            ran = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, env=environment)
            rows = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
            rates = [row["tokens_per_second"] for row in rows if "tokens_per_second" in row]
            return 16 * 256 / rates[-1]

        one = update()
        two = update("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
        parameters = json.loads(next(Path(folder).glob("checkpoints/*/run.json")).read_text())["parameters"]
    rate = gloo_rate(4 * parameters)
    talk = Cluster(2, 2, rate, rate).seconds(parameters, parameters, 6, 1)
    said = one / 2 + talk
    print(f"one process, one thread: {one:.3f} s an update")
    print(f"two: {two:.3f} s, planned {said:.3f} s ({said / two - 1:+.0%})")
    print(f"gloo here: {rate / 1e9:.2f} GB/s, so {talk:.3f} s for gradients of {parameters:,} parameters")


def gloo_rate(size: int) -> float:
    """Return the bytes a second of a ring between two processes here, from an all-reduce of so many bytes."""
    code = f"""
import time, torch, torch.distributed as dist
dist.init_process_group("gloo")
x = torch.ones({size} // 4)
best = 9e9
for _ in range(5):
    began = time.perf_counter(); dist.all_reduce(x); best = min(best, time.perf_counter() - began)
if dist.get_rank() == 0:
    print(best)
dist.destroy_process_group()
"""
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "reduce.py")
        script.write_text(code)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
        ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return size / float(ran.stdout.split()[-1])  # each of two sends 2 × half of it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--ranks", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return print(json.dumps(worker(given.worker)))
    if given.ranks:
        return ranks()
    found, wrong = {}, []
    print("| shape | parameters | memory: said | held | | update: said | took | | estimating |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in given.shapes:
        found[name] = each = run(name)
        said, done = each["said"], each["done"]
        memory, update = said["memory"] / done["memory"] - 1, said["update"] / done["update"] - 1
        print(f"| {name} | {done['parameters']:,} | {said['memory'] / 1e6:,.0f} MB | {done['memory'] / 1e6:,.0f} MB "
              f"| {memory:+.0%} | {said['update']:.3f} s | {done['update']:.3f} s | {update:+.0%} "
              f"| {each['estimating']:.1f} s |", flush=True)  # fmt: skip
        wrong += [f"{name}: parameters"] * (said["parameters"] != done["parameters"])
        wrong += [f"{name}: memory"] * (abs(memory) > MEMORY) + [f"{name}: time"] * (abs(update) > TIME)
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n")
    print("all within bounds" if not wrong else f"out of bounds: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
