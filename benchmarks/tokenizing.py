"""Tokenizing beside tiktoken and Hugging Face tokenizers: one table, and with --json a file.

    python benchmarks/tokenizing.py [--megabytes 100] [--large 1000] [--rounds 3] [--threads N] [--json FILE]

The text is the Python standard library's source and tales, in equal parts. `kiara tokenize` is timed as a person runs
it: a new process, reading and writing included; tiktoken has the text in memory. Rounds alternate, medians count.
`--large 0` leaves out the memory measurement. Hugging Face's part is left out where `tokenizers` is not installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiktoken
import torch

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data.corpora import CORPORA
from kiara_cli.core.data.source import Means, Source
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.data.worlds.read import packaged, read_world
from kiara_cli.core.data.worlds.talks import conversations
from kiara_cli.core.runtime.threads import allowed_workers
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.bpe import BPETokenizer, split
from kiara_cli.core.train.feed import Feed

VOCABULARY = 8192


def make_text(path: Path, size: int) -> None:
    """Write about `size` bytes of UTF-8: source code, repeated as needed, and tales, block by block."""
    code = [Path(found.address).read_bytes() for found in CORPORA["python"].local(DataConfig())]
    code = [source for source in code if b"\0" not in source and source.decode(errors="replace").encode() == source]
    talks = conversations(read_world(packaged("tales")), seed=1, size=size)
    with path.open("wb") as file:
        while file.tell() < size:
            for source in code:
                file.write(source)
                told = 0
                while told < len(source):
                    talk = "\n".join(turn["content"] for turn in next(talks)).encode() + b"\n\n"
                    told += file.write(talk)
                if file.tell() >= size:
                    break


# A process begins with the peak of the one that starts it: start it from a small one.
LAUNCH = """
import os, sys, time
began = time.perf_counter()
child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(child, 0)
scale = 1 if sys.platform == "darwin" else 1024
print(time.perf_counter() - began, usage.ru_maxrss * scale, sep="\\n", file=sys.stderr)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def tokenize(path: Path, tokenizer: Path, threads: int) -> tuple[float, int]:
    """Run `kiara tokenize` in a folder of its own; return seconds and peak bytes of memory."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [
            sys.executable, "-m", "kiara_cli.app", "tokenize", str(path), "--tokenizer", str(tokenizer),
            f"runtime.threads={threads}", "--json",
        ]  # fmt: skip
        ran = subprocess.run(
            [sys.executable, "-c", LAUNCH, *command], cwd=folder, check=True, capture_output=True, text=True
        )
    *_, seconds, peak = ran.stderr.splitlines()
    return float(seconds), int(peak)


def seconds_of(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def train_kiara(path: Path, out: Path) -> float:
    """Time reading, fitting and saving, as `kiara tokenize` does it."""

    def work() -> None:
        source = Source(DataConfig(source=str(path)), Means(), lambda progress: None)
        tokenizing = TokenizerConfig(vocab_size=VOCABULARY, fit_bytes=10**12)
        files.save(source.fit(tokenizing, source.split()), out)

    return seconds_of(work)


def train_peer(path: Path, out: Path) -> float | None:
    """Time Hugging Face's trainer with the same split pattern and vocabulary, from the file to its own file."""
    try:
        from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        return None

    pattern = (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*"
        r"|\s*[\r\n]|\s+(?!\S)|\s+"
    )

    def work() -> None:
        peer = Tokenizer(models.BPE())
        peer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
        )
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        peer.train([str(path)], trainers.BpeTrainer(vocab_size=VOCABULARY - 5, initial_alphabet=alphabet))
        peer.save(str(out))

    return seconds_of(work)


def compression_of_peer(path: Path, out: Path) -> float:
    """Return bytes per token of the peer's vocabulary on the head of the text."""
    from tokenizers import Tokenizer

    head = path.read_text(encoding="utf-8", errors="replace")[:4_000_000]
    ids = [len(made.ids) for made in Tokenizer.from_file(str(out)).encode_batch(list(split(head)))]
    return len(head.encode()) / sum(ids)


def waiting(steps: int = 200, rate: int = 200_000) -> dict[str, float]:
    """Ask for batches at `rate` tokens a second from a mapped file; return how long a step waited, in ms."""
    context, size = 256, 16
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        np.random.default_rng(0).integers(0, VOCABULARY, 100_000_000, dtype=np.uint16).tofile(path)
        feed = Feed(WindowBatcher(np.memmap(path, np.uint16, "r"), context, size, context, 0), 1, torch.device("cpu"))
        step_seconds, waits = context * size / rate, []
        matrix = torch.randn(256, 256)
        for step in range(steps):
            began = time.perf_counter()
            feed.take(step)
            waits.append(time.perf_counter() - began)
            while time.perf_counter() - began < step_seconds:
                matrix @ matrix  # the model at work
        feed.close()
    waits = waits[1:]  # nothing can have been made before the first
    return {
        "step_ms": 1000 * step_seconds,
        "median_wait_ms": 1000 * statistics.median(waits),
        "mean_wait_ms": 1000 * statistics.mean(waits),
        "longest_wait_ms": 1000 * max(waits),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--large", type=int, default=1000, help="megabytes for the memory measurement; 0: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=allowed_workers())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="kiara-tokenizing-"))
    try:
        values = measure(folder, given.megabytes, given.large, given.rounds, given.threads)
    finally:
        shutil.rmtree(folder)
    for name, value in values.items():
        print(f"{name:<44}{value:>12,.3f}" if isinstance(value, float) else f"{name:<44}{value:>12,}")
    if given.json:
        given.json.write_text(json.dumps(values, indent=2) + "\n")


def measure(folder: Path, megabytes: int, large: int, rounds: int, threads: int) -> dict[str, float]:
    """Make the text, alternate the contestants, and return every figure by name."""
    text, own, others = folder / "text.txt", folder / "tokenizer.json", folder / "peer.json"
    make_text(text, megabytes * 1_000_000)
    kiara_train, peer_train = [], []
    for _ in range(rounds):
        kiara_train.append(train_kiara(text, own))
        peer_train.append(train_peer(text, others))
    tokenizer = files.load(own)
    assert isinstance(tokenizer, BPETokenizer)
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    plain = tiktoken.Encoding("plain", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})
    parts = list(split(text.read_text(encoding="utf-8", errors="replace")))
    plain.encode_ordinary_batch(parts[:8], num_threads=threads)
    tiktoken_seconds, kiara_runs = [], []
    for _ in range(rounds):
        tiktoken_seconds.append(seconds_of(lambda: plain.encode_ordinary_batch(parts, num_threads=threads)))
        kiara_runs.append(tokenize(text, own, threads))
    parts.clear()  # or the memory of the processes to come would be squeezed
    kiara_seconds = statistics.median(run[0] for run in kiara_runs)
    values: dict[str, float] = {
        "threads": threads,
        "text, MB": megabytes,
        "encode: tiktoken in memory, MB/s": megabytes / statistics.median(tiktoken_seconds),
        "encode: kiara tokenize, MB/s": megabytes / kiara_seconds,
        "encode: kiara / tiktoken": statistics.median(tiktoken_seconds) / kiara_seconds,
        "train: kiara, s": statistics.median(kiara_train),
    }
    if None not in peer_train:
        peer_seconds = statistics.median(filter(None, peer_train))
        head = text.read_bytes()[:4_000_000].decode("utf-8", errors="replace")
        values |= {
            "train: Hugging Face tokenizers, s": peer_seconds,
            "train: Hugging Face / kiara": peer_seconds / values["train: kiara, s"],
            "bytes per token: kiara": len(head.encode()) / len(tokenizer.encode_array(head)),
            "bytes per token: Hugging Face": compression_of_peer(text, others),
        }
    values["memory: peak, MB"] = statistics.median(run[1] for run in kiara_runs) / 1e6
    if large:
        make_text(text, large * 1_000_000)
        values[f"memory: peak at {large} MB, MB"] = (peak := tokenize(text, own, threads)[1] / 1e6)
        values["memory: ratio"] = peak / values["memory: peak, MB"]
    return values | {f"waiting for data: {name}": value for name, value in waiting().items()}


if __name__ == "__main__":
    main()
