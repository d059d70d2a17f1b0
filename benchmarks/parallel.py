"""Two processes beside one: the same losses over 100 steps, and how much of the second core is put to use.

    OMP_NUM_THREADS=1 python benchmarks/parallel.py [--rounds 3] [--steps 100] [--json FILE]

Each contestant is `kiara train` on the tales in a process, or by torchrun in two, with one thread each. First the
losses and the norms of the gradient of SGD, AdamW and Muon, by DDP and FSDP in fp32, beside one process at the same
batch: the largest difference of each. Then the rates: rounds alternate, medians count, and efficiency is the rate of
two processes over twice that of one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SAME = (
    "data.corpus_bytes=300000", "tokenizer.vocab_size=512", "model.n_layers=2", "model.emb_dim=64", "model.n_heads=4",
    "model.context_length=64", "train.batch_size=8", "train.accumulation=2", "runtime.dtype=fp32",
    "train.log_interval=1", "eval.max_tokens=4000", "eval.sample_tokens=0",
)  # fmt: skip
RATES = {"sgd": "train.lr=0.1", "adamw": "train.lr=0.003", "muon": "train.lr=0.012"}
FAST = ("train.log_interval=5", "eval.max_tokens=4000", "eval.sample_tokens=0")  # the default model as it is


def trained(folder: Path, name: str, ranks: int, words: tuple[str, ...]) -> list[dict[str, float]]:
    """Train in one process or several; return the records of its steps."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [
        sys.executable,
        *launch,
        "-m",
        "kiara_cli",
        "train",
        "tales",
        "--name",
        name,
        "runtime.threads=1",
        *words,
    ]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = (folder / "checkpoints" / name / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if "loss" in record]


def compare(folder: Path, steps: int) -> list[dict[str, object]]:
    """Return for each optimizer and way how far two processes are from one."""
    found: list[dict[str, object]] = []
    for optimizer, rate in RATES.items():
        words = (*SAME, f"train.optimizer={optimizer}", rate, f"train.max_steps={steps}")
        one = trained(folder, f"{optimizer}-1", 1, words)
        for parallel in ("ddp", "fsdp"):
            two = trained(folder, f"{optimizer}-{parallel}", 2, (*words, f"runtime.parallel={parallel}"))
            far = {
                key: max(abs(a[key] - b[key]) for a, b in zip(one, two, strict=True)) for key in ("loss", "grad_norm")
            }
            found.append({"optimizer": optimizer, "parallel": parallel, "steps": steps, **far})
    return found


def rates(folder: Path, rounds: int, steps: int) -> dict[str, float]:
    """Return tokens a second of one process and of two, and the efficiency."""
    seen: dict[int, list[float]] = {1: [], 2: []}
    for number in range(rounds):
        for ranks in seen:
            words = (*FAST, f"train.max_steps={steps}")
            records = trained(folder, f"rate-{ranks}-{number}", ranks, words)
            seen[ranks].append(statistics.median(record["tokens_per_second"] for record in records[1:]))
    one, two = (statistics.median(each) for each in seen.values())
    return {"one": one, "two": two, "efficiency": two / (2 * one)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        same, speed = compare(Path(place), asked.steps), rates(Path(place), asked.rounds, 40)
    for row in same:
        print(
            "{optimizer:6} {parallel:5} {steps} steps: loss differs by {loss:.1e}, norm by {grad_norm:.1e}".format(
                **row
            )
        )
    print("1 × 1 thread {one:,.0f} tokens/s, 2 × 1 {two:,.0f}: efficiency {efficiency:.2f}".format(**speed))
    if asked.json:
        asked.json.write_text(json.dumps({"same": same, "rates": speed}, indent=2))


if __name__ == "__main__":
    main()
