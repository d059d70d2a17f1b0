"""SIGKILL at random moments, again and again: the run ends with the weights of the undisturbed one.

KILLS=20 in the environment makes it a longer test.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kiara_cli.core.checkpoint import files

KILLS = int(os.environ.get("KILLS", "8"))  # two while it starts, six while it trains and saves

# One process imports torch once; each start of kiara is a fork of it, and a real process to be killed.
DRIVER = """
import os, random, signal, sys, time
import torch, torch._dynamo  # which every optimizer loads
torch.set_num_threads(1)
from kiara_cli.app import main
from kiara_cli.console import plan, preparing, training  # or each child would spend its life importing
from kiara_cli.core.train import job

def start(*words):
    child = os.fork()
    if child:
        return child
    sys.stderr = open("stderr", "w")
    try:
        main(["train", *words])
    except SystemExit as stop:
        os._exit(stop.code or 0)
    os._exit(99)

settings, kills = sys.argv[2:], int(sys.argv[1])
child = start("text.txt", "--name", "straight", *settings)
assert os.waitpid(child, 0)[1] == 0, open("stderr").read()

def newest():
    steps = [int(name[5:12]) for name in os.listdir("checkpoints/killed") if name[:5] == "step_"]
    return max(steps, default=0)

random.seed(0)
child, reached = start("text.txt", "--name", "killed", *settings), []
while not os.path.exists("checkpoints/killed/last.pt"):
    time.sleep(0.001)
while len(reached) < kills:
    before = newest()
    if len(reached) % 4:  # while it trains and saves; every fourth time, while it starts
        while newest() == before and os.waitpid(child, os.WNOHANG) == (0, 0):
            time.sleep(0.001)
    time.sleep(random.uniform(0.0, 0.1 if len(reached) % 4 else 0.5))
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    reached.append(newest())
    child = start("--resume", "--name", "killed")
status = os.waitpid(child, 0)[1]
assert status == 0, open("stderr").read()
print(*reached)
"""


def weights_hash(path: Path) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(files.load(path).model.items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_as_the_undisturbed_one() -> None:
    Path("text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    settings = [
        "tokenizer.kind=char", "model.context_length=16", "model.emb_dim=32", "model.n_layers=2",
        "model.drop_rate=0.1", "train.optimizer=muon", "train.accumulation=2", "train.batch_size=4",
        f"train.max_steps={30 * KILLS}", "train.log_interval=2", "train.eval_interval=60",
        "train.checkpoint_interval=3",
        "eval.sample_tokens=3", "eval.max_tokens=64", "train.ema_decay=0.9",
        "runtime.device=cpu", "runtime.dtype=fp32", "runtime.threads=1",
    ]  # fmt: skip
    driver = [sys.executable, "-c", DRIVER, str(KILLS), *settings]
    ran = subprocess.run(
        driver, capture_output=True, text=True, timeout=500, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    assert ran.returncode == 0, ran.stderr
    reached = list(map(int, ran.stdout.split()))  # the newest checkpoint at each kill
    assert len(reached) == KILLS
    assert len(set(reached)) > KILLS // 2  # it went on between them
    straight, killed = Path("checkpoints/straight"), Path("checkpoints/killed")
    assert weights_hash(straight / "last.pt") == weights_hash(killed / "last.pt")
    assert weights_hash(straight / "best.pt") == weights_hash(killed / "best.pt")
    losses = [
        [(record["step"], record["loss"]) for line in (run / "metrics.jsonl").read_text().splitlines()
         if "loss" in (record := json.loads(line))]
        for run in (straight, killed)
    ]  # fmt: skip
    assert losses[0] == losses[1]
    assert not list(killed.glob(".*"))  # nothing half-written is left
