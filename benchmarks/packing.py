"""Memory and time of packing conversations into rows.

    python benchmarks/packing.py [CONVERSATIONS] [CONTEXT]

Writes a token file of that many conversations (10 million by default), maps it, packs it and
draws batches from it. Memory is what the process holds of its own (RssAnon of /proc: without the mapped file) at its
highest, less what it held before; seconds are of one run.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from kiara_cli.core.data.packing import PackedBatcher
from kiara_cli.core.tokenizer.protocol import SPECIALS

MARKS = {name: index for index, name in enumerate(SPECIALS)}
PIECE = 100_000  # conversations written at a time
EVERY = 0.01  # seconds between two looks at the memory


def write(path: Path, conversations: int, seed: int = 0) -> int:
    """Write conversations of one to three questions and answers, about 60 tokens in all; return the tokens."""
    rng, tokens = np.random.default_rng(seed), 0
    end_of_text, _, user, assistant, end = MARKS.values()
    with path.open("wb") as file:
        for first in range(0, conversations, PIECE):
            ids: list[int] = []
            for turns in rng.integers(1, 4, min(PIECE, conversations - first)).tolist():
                ids.append(end_of_text)
                for _ in range(turns):
                    asked, said = rng.geometric(0.1), rng.geometric(0.05)
                    ids += [user, *[9] * asked, end, assistant, *[8] * said, end]
            np.array(ids, dtype=np.uint16).tofile(file)
            tokens += len(ids)
    return tokens


def own_bytes() -> int:
    """Return the memory of this process that is of no file."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("RssAnon:")[1].split()[0])


class Peak:
    """The highest `own_bytes` while it is entered, above what they were then."""

    def __enter__(self) -> Peak:
        self._before = self.bytes = own_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(EVERY):
            self.bytes = max(self.bytes, own_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.bytes -= self._before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("conversations", type=int, nargs="?", default=10_000_000)
    parser.add_argument("context", type=int, nargs="?", default=1024)
    given = parser.parse_args()
    conversations, context = given.conversations, given.context
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tokens.bin")
        count = write(path, conversations)
        tokens = np.memmap(path, dtype=np.uint16, mode="r")
        packed = PackedBatcher(tokens, MARKS, context, 16, seed=0)
        result: dict[str, float] = {"conversations": conversations, "tokens": count, "context": context}
        for stage, work in (
            ("find", lambda: packed.segments),
            ("pack", lambda: packed.packed),
            ("batches", lambda: [packed.batch(step) for step in range(100)]),
        ):
            began = time.perf_counter()
            with Peak() as peak:
                work()
            seconds = time.perf_counter() - began
            result |= {f"{stage}_seconds": round(seconds, 2), f"{stage}_peak_mb": round(peak.bytes / 1e6, 1)}
        result |= {"rows": packed.rows, "full": round(count / packed.rows / (context + 1), 4)}
        print(json.dumps(result))


if __name__ == "__main__":
    main()
