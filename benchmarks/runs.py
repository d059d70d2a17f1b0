"""How long `kiara runs list` takes with ten thousand runs: python benchmarks/runs.py [RUNS]

Makes so many run folders in a temporary place (config.yaml, run.json, metrics.jsonl of 40 records, two files in the
place of checkpoints), then lists them as a person does, in a new process each time: the first time all of them are
read, after that the index is; then with a hundred runs changed, and grouped. The table says seconds of wall time, the
start of Python included, and the best of three where it can be repeated.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kiara_cli.config.load import load_config, to_yaml
from kiara_cli.core.checkpoint import identity

LIST = [sys.executable, "-c", "from kiara_cli.app import main; main()", "runs", "list"]


def make(root: Path, number: int) -> None:
    """Write `number` runs: groups of five seeds, one in a hundred killed without a word."""
    rates = [0.001 * (1 + rate) for rate in range(20)]
    configs = [load_config(overrides=[f"train.lr={rate}", "train.max_steps=1350"]).config for rate in rates]
    texts, definitions = (
        [to_yaml(config) for config in configs],
        [identity.definition(config, {}) for config in configs],
    )
    for index in range(number):
        folder = root / f"tales-{index}"
        folder.mkdir(parents=True)
        rate, loss = index // 5 % len(rates), 1 + index % 97 / 1000
        defined = definitions[rate] | {identity.SEED: index % 5, "data": str(index // 100)}
        rows = [{"step": step, "loss": loss + 1350 / step, "tokens": 4224 * step, "seconds": 0.2 * step, "lr": 0.01,
                 "grad_norm": 0.5, "tokens_per_second": 22_000.0} for step in range(33, 1351, 33)]  # fmt: skip
        best = {"step": 1350, "val_loss": loss, "val_bits_per_byte": loss / 3, "val_accuracy": 0.9}
        facts = {"run": folder.name, "created": f"2026-11-{1 + index % 28:02}T12:00:00+00:00", "seed": index % 5,
                 "status": "running" if index % 100 == 0 else "finished", "pid": 2**22 - 1, "data": "tales",
                 "parameters": 1_300_000, "flops_per_token": 8e6, "steps": 1350, "step": 1350, "tokens": 5_702_400,
                 "seconds": 260.0, "training_flops": 4.5e13, "best": best, "val_loss": loss,
                 "versions": {"torch": "2.13.0", "numpy": "2.4.6"}, "machine": "Linux", "data_hash": "0" * 64,
                 "group_hash": identity.group_hash(defined)}  # fmt: skip
        (folder / "run.json").write_text(json.dumps(facts, indent=2))
        (folder / "config.yaml").write_text(texts[rate])
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, best]))
        (folder / "step_0001350.pt").write_bytes(b"0" * 1000)
        os.link(folder / "step_0001350.pt", folder / "last.pt")


def measured(root: Path, *options: str, repeats: int = 3) -> tuple[float, int]:
    """Return the least seconds that a listing took, and how many lines it has."""
    best, lines = float("inf"), 0
    for _ in range(repeats):
        began = time.perf_counter()
        ran = subprocess.run([*LIST, "--runs", str(root), *options], capture_output=True, text=True, check=True)
        best, lines = min(best, time.perf_counter() - began), ran.stdout.count("\n")
    return best, lines


def main(number: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkpoints"
        make(root, number)
        rows = [("the first time: all are read", *measured(root, repeats=1)), ("again", *measured(root))]
        for index in range(0, number, max(1, number // 100)):
            (root / f"tales-{index}" / "best.pt").write_bytes(b"1")
        rows.append(("a hundred have changed", *measured(root, repeats=1)))
        rows.append(("grouped by all but the seed", *measured(root, "--group")))
        rows.append(("the ten best, as JSON", *measured(root, "--sort", "val_loss", "--last", "10", "--json")))
        index = (root / ".runs.json").stat().st_size
    print(f"| {number:,} runs, index of {index / 1e6:.1f} MB | seconds | lines |\n|---|---|---|")
    for what, seconds, lines in rows:
        print(f"| {what} | {seconds:.2f} | {lines:,} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
