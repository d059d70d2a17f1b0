"""Commands run by several processes at once, as torchrun would start them, for the price of one import of torch.

In: a list of `Group`s. Out: for each what came of its processes. A process of its own imports everything and forks
them: a fork of pytest's would inherit its threads.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Group:
    """`size` processes that run one command line in a folder; `before` is Python that each runs first."""

    size: int
    arguments: Sequence[str]
    folder: Path
    before: str = ""  # may ask for its `rank`


@dataclass(frozen=True)
class Came:
    """What came of one process."""

    status: int  # -9: killed
    out: str
    err: str


def run_groups(groups: Sequence[Group]) -> list[list[Came]]:
    """Run groups one after the other; return what came of each process of each."""
    plan = json.dumps([asdict(group) | {"folder": str(group.folder.resolve())} for group in groups])
    ran = subprocess.run([sys.executable, __file__], input=plan, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return [[Came(**one) for one in group] for group in json.loads(ran.stdout)]


def _main() -> None:
    import torch.distributed

    for module in ("app", "console.preparing", "console.scores", "commands.model", "core.export.tokenizer"):
        importlib.import_module(f"kiara_cli.{module}")  # once for all processes
    torch.set_num_threads(1)
    found = []
    for plan in json.loads(sys.stdin.read()):
        group = Group(**plan)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        pids = [_fork(group, rank, port) for rank in range(group.size)]
        for pid in pids:
            _, status = os.waitpid(pid, 0)
            found.append((group, pid, os.waitstatus_to_exitcode(status)))
    answer: list[list[dict[str, object]]] = []
    for number, (group, pid, code) in enumerate(found):
        if number == 0 or group is not found[number - 1][0]:
            answer.append([])
        out, err = (Path(group.folder, f".{pid}.{stream}") for stream in ("out", "err"))
        answer[-1].append({"status": code, "out": out.read_text(), "err": err.read_text()})
        out.unlink()
        err.unlink()
    json.dump(answer, sys.stdout)


def _fork(group: Group, rank: int, port: int) -> int:
    """Start one process of a group; return its number."""
    if pid := os.fork():
        return pid
    signal.alarm(120)  # never left behind
    os.chdir(group.folder)
    for number, stream in ((1, "out"), (2, "err")):
        os.dup2(os.open(f".{os.getpid()}.{stream}", os.O_WRONLY | os.O_CREAT), number)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(group.size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_WORLD_SIZE": str(group.size)}
    status = 1
    try:
        from kiara_cli.app import main

        exec(group.before, {"rank": rank})
        main(list(group.arguments))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 (whatever it is, this process must not go on as a copy of the other one)
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _main()
