"""Training beside nanoGPT: one table, and with --json a file.

    python benchmarks/training.py NANOGPT [--rounds 3] [--shapes small large] [--to-loss TEXT] [--json FILE]

NANOGPT is a copy of nanoGPT's repository. Each contestant trains random tokens in a process of its own, nanoGPT as
its users get it on a CPU (fp32, not compiled, its own AdamW) and Kiara as it decides for itself; rounds alternate,
medians count. `--to-loss` trains tiny Shakespeare, the file TEXT, in both: nanoGPT's recipe for laptops to its end,
and benchmarks/shakespeare-fast.yaml; whole processes are timed, and the losses are over the whole validation split.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPES = {  # layers, heads, width, context, batch, steps timed: nanoGPT's recipes for laptops and for one GPU
    "small": (4, 4, 128, 64, 12, 100),
    "large": (6, 6, 384, 256, 64, 3),
}
VOCABULARY = 65
RECIPE = {  # nanoGPT's README, "I only have a macbook"
    "device": "cpu", "compile": False, "eval_iters": 20, "log_interval": 1, "block_size": 64, "batch_size": 12,
    "n_layer": 4, "n_head": 4, "n_embd": 128, "max_iters": 2000, "lr_decay_iters": 2000, "dropout": 0.0,
}  # fmt: skip
FAST = Path(__file__).with_name("shakespeare-fast.yaml")


def timed(step: Callable[[], object], steps: int) -> float:
    """Return the median seconds of a step, after two that warm up."""
    seconds = []
    for _ in range(steps + 2):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[2:])


def step_nanogpt(shape: str, folder: Path) -> dict[str, float]:
    """Time nanoGPT's step as its train.py makes it."""
    sys.path.insert(0, str(folder))
    from model import GPT, GPTConfig

    layers, heads, width, context, batch, steps = SHAPES[shape]
    torch.manual_seed(1337)
    model = GPT(GPTConfig(context, VOCABULARY, layers, heads, width, 0.0, False))
    optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    ids = torch.randint(VOCABULARY, (batch, context + 1))

    def step() -> None:
        _, loss = model(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return {"tokens_per_second": batch * context / timed(step, steps)}


def step_kiara(shape: str, optimizer: str) -> dict[str, float]:
    """Time Kiara's own update, and what its meter says of it."""
    from kiara_cli.config.load import load_config
    from kiara_cli.core.data.prepare import prepare
    from kiara_cli.core.model.count import count
    from kiara_cli.core.runtime.device import matrix_rate
    from kiara_cli.core.train.build import begin
    from kiara_cli.core.train.loop import update
    from kiara_cli.core.train.meter import Meter
    from kiara_cli.core.train.plan import plan

    layers, heads, width, context, batch, steps = SHAPES[shape]
    Path("text.txt").write_text("".join(chr(33 + index % VOCABULARY) for index in np.random.randint(0, 65, 500_000)))
    settings = {
        "tokenizer.kind": "char", "data.source": "text.txt", "model.n_layers": layers, "model.n_heads": heads,
        "model.emb_dim": width, "model.context_length": context, "train.batch_size": batch,
        "train.optimizer": optimizer,
    }  # fmt: skip
    config = load_config(overrides=[f"{key}={value}" for key, value in settings.items()]).config
    data = prepare(config.data, config.tokenizer, Path("data"))
    training = begin(plan(config, data), Path("checkpoints"))
    costs = count(training.config.model)
    device, dtype = training.runtime.device, training.runtime.dtype
    meter = Meter(costs.training_flops, matrix_rate(device, dtype))

    def step() -> None:
        update(training, 1e-3, meter)
        training.progress.step += 1

    seconds = timed(step, steps)
    spent, peak = meter.read().seconds, matrix_rate(device, dtype, again=True)
    training.feed.close()
    return {
        "tokens_per_second": batch * context / seconds,
        "fraction_of_peak": costs.training_flops * batch * context / seconds / peak,
        "peak_gflops": peak / 1e9,
        "optimizer_share": spent["optimizer"] / sum(spent.values()),
    }


def worker(nanogpt: Path, *words: str) -> dict[str, float]:
    """Run one contestant in a process and a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="kiara-training-") as folder:
        command = [sys.executable, str(Path(__file__).resolve()), str(nanogpt.resolve()), "--worker", *words]
        ran = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def speeds(nanogpt: Path, shapes: list[str], rounds: int) -> dict[str, float]:
    """Alternate the contestants; return medians by name."""
    values: dict[str, float] = {}
    for shape in shapes:
        runs: dict[str, list[dict[str, float]]] = {"nanogpt": [], "muon": [], "adamw": []}
        for _ in range(rounds):
            for contestant, made in runs.items():
                made.append(worker(nanogpt, contestant, shape))
        for contestant, made in runs.items():
            name = "nanoGPT" if contestant == "nanogpt" else f"kiara, {contestant}"
            for key in made[0]:
                values[f"{shape}: {name}: {key}"] = statistics.median(run[key] for run in made)
        base = values[f"{shape}: nanoGPT: tokens_per_second"]
        for contestant in ("muon", "adamw"):
            rate = values[f"{shape}: kiara, {contestant}: tokens_per_second"]
            values[f"{shape}: kiara, {contestant} / nanoGPT"] = rate / base
    return values


def train_nanogpt(nanogpt: Path, text: Path, folder: Path) -> dict[str, float]:
    """Run nanoGPT's train.py to its end in a copy of it, and measure what it leaves on the whole validation split."""
    copy = folder / "nanogpt"
    shutil.copytree(nanogpt, copy, ignore=shutil.ignore_patterns(".git", "assets"))
    characters = text.read_text()
    numbers = {letter: index for index, letter in enumerate(sorted(set(characters)))}  # as its prepare.py does it
    ids = np.array([numbers[letter] for letter in characters], dtype=np.uint16)
    cut, place = int(0.9 * len(ids)), copy / "data" / "shakespeare_char"
    ids[:cut].tofile(place / "train.bin")
    ids[cut:].tofile(place / "val.bin")
    (place / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": len(numbers)}))
    began = time.perf_counter()
    settings = [f"--{name}={value}" for name, value in RECIPE.items()]
    command = [sys.executable, "train.py", "config/train_shakespeare_char.py", *settings]
    subprocess.run(command, cwd=copy, check=True, capture_output=True)
    seconds = time.perf_counter() - began
    sys.path.insert(0, str(copy))
    from model import GPT, GPTConfig

    saved = torch.load(copy / "out-shakespeare-char" / "ckpt.pt", weights_only=False)  # made a moment ago, here
    model = GPT(GPTConfig(**saved["model_args"]))
    model.load_state_dict(saved["model"])
    model.eval()
    held_out = torch.from_numpy(ids[cut:].astype(np.int64))
    windows = (len(held_out) - 1) // 64
    inputs, targets = held_out[: windows * 64].view(-1, 64), held_out[1 : windows * 64 + 1].view(-1, 64)
    with torch.no_grad():
        losses = [model(a, b)[1].item() * len(a) for a, b in zip(inputs.split(256), targets.split(256), strict=True)]
    return {"seconds": seconds, "val_loss": sum(losses) / windows}


def train_kiara(text: Path, folder: Path) -> dict[str, float]:
    """Run `kiara train` in an empty folder."""
    place = folder / "kiara"
    place.mkdir()
    began = time.perf_counter()
    command = [sys.executable, "-m", "kiara_cli.app", "train", "-c", str(FAST), str(text), "--name", "fast"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    subprocess.run(command, cwd=place, check=True, capture_output=True, env=environment)
    seconds = time.perf_counter() - began
    records = [json.loads(line) for line in (place / "checkpoints/fast/metrics.jsonl").read_text().splitlines()]
    return {
        "seconds": seconds,
        "val_loss": next(line["val_loss"] for line in reversed(records) if "val_loss" in line),
    }


def to_loss(nanogpt: Path, text: Path, rounds: int) -> dict[str, float]:
    """Time both recipes: nanoGPT's once, as it takes minutes, Kiara's before and after it."""
    values: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="kiara-training-") as name:
        kiara = []
        for index in range(rounds):
            (Path(name) / str(index)).mkdir()
            kiara.append(train_kiara(text, Path(name) / str(index)))
            if index == 0:
                peer = train_nanogpt(nanogpt, text, Path(name))
    for key, value in peer.items():
        values[f"to 1.89: nanoGPT: {key}"] = value
        values[f"to 1.89: kiara: {key}"] = statistics.median(run[key] for run in kiara)
    ratio = values["to 1.89: kiara: seconds"] / values["to 1.89: nanoGPT: seconds"]
    return values | {"to 1.89: kiara / nanoGPT": ratio}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("nanogpt", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--to-loss", type=Path, metavar="TEXT")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        contestant, shape = given.worker
        found: dict[str, Any]
        found = step_nanogpt(shape, given.nanogpt) if contestant == "nanogpt" else step_kiara(shape, contestant)
        print(json.dumps(found))
        return
    values = speeds(given.nanogpt, given.shapes, given.rounds)
    if given.to_loss:
        values |= to_loss(given.nanogpt, given.to_loss.resolve(), given.rounds)
    for name, value in values.items():
        print(f"{name:<48}{value:>12,.3f}")
    if given.json:
        given.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
