"""However many processes do it, what tokenize writes and what eval measures is the same; and they fail together."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ranks import Came, Group, run_groups

from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.char import CharTokenizer

TOKENIZE = ("tokenize", "texts", "tokenizer.vocab_size=300", "data.shard_tokens=4000")
WITH_TOKENIZER = (*TOKENIZE, "--tokenizer", "tokenizer.json")
SMALL = """
import os, signal
from pathlib import Path
from kiara_cli.core.data import parts, shares, units
units.CUT, units.UNIT = 4000, 3000
"""
COUNTS = """
write = parts._write_unit
def counting(place, number, *given):
    with open("written", "a") as file:
        file.write(f"{number}\\n")
    return write(place, number, *given)
parts._write_unit = counting
"""
DIES = """
write, done = parts._write_unit, []
def dying(*given):
    if rank == 1 and done:
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(write(*given))
parts._write_unit = dying
"""
CHANGES = """
decide = shares._decide
def changing(world, *given):
    if world.is_first:
        Path("texts/c3.md").write_text("something else\\n" * 99)
    return decide(world, *given)
shares._decide = changing
"""
OWN_FOLDER = "os.chdir(str(rank))"


@dataclass(frozen=True)
class Ran:
    """What the groups below left behind and said, by their names."""

    root: Path
    came: dict[str, list[Came]]

    def folder(self, name: str) -> dict[str, bytes]:
        """Return the files of the data folder that a group made."""
        (made,) = (self.root / name / "data").iterdir()
        return {f"{made.name}/{path.name}": path.read_bytes() for path in made.iterdir()}

    def refusal(self, name: str) -> str:
        """Return the one line that a group said before all of its processes ended with status 2."""
        processes = self.came[name]
        assert [one.status for one in processes] == [2] * len(processes)
        assert "".join(one.out for one in processes) == ""
        (line,) = (line for one in processes for line in one.err.splitlines())
        return line


def write_texts(folder: Path) -> None:
    """A long text, lines that are cut into several slices, and small files."""
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("The fox told the heron a story.\n" * 300)
    lines = [{"text": f"line {number}: the heron sat by the river, née fable"} for number in range(300)]
    (folder / "b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in range(9):
        (folder / f"c{number}.md").write_text(f"# {number}\n\nA long story about the fox.\n" * 20)


def write_talks(path: Path) -> None:
    """Conversations of unequal length, and documents, one longer than the model reads."""
    talks = [
        [
            {"role": "user", "content": f"the cat {'sat ' * (number % 4)}"},
            {"role": "assistant", "content": "the dog " * (1 + number % 3)},
        ]
        for number in range(40)
    ]
    rows: list[dict[str, Any]] = [{"messages": talk} for talk in talks]
    rows += [{"text": text} for text in ("the mat", "the log", "the cat sat on the mat and the dog sat on the log")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def eval_groups(folder: Path) -> dict[str, Group]:
    talks = ("--text", "talks.jsonl", "--stride", "8")
    groups = {}
    split = ("--split", "train")  # more rows than blocks of text, whose neighbours count
    for name, size, words in (("split", 1, split), ("split", 3, split), ("talks", 1, talks), ("talks", 2, talks)):
        arguments = ("eval", *words, "--details", "--json", "eval.batch_size=3", "runtime.dtype=fp32")
        groups[f"{name} {size}"] = Group(size, arguments, folder)
    return groups | {"chat": Group(2, ("eval", "--chat"), folder)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, trained_once: Path) -> Ran:
    root = tmp_path_factory.mktemp("groups")
    groups = {
        "one": Group(1, TOKENIZE, root / "one", SMALL + COUNTS),
        "three": Group(3, (*TOKENIZE, "--json"), root / "three", SMALL),
        "again": Group(2, TOKENIZE, root / "three", SMALL),
        "killed": Group(3, TOKENIZE, root / "killed", SMALL + DIES),
        "resumed": Group(2, TOKENIZE, root / "killed", SMALL + COUNTS),
        "changed": Group(2, TOKENIZE, root / "changed", SMALL + CHANGES),
        "shard": Group(2, (*WITH_TOKENIZER, "--shard", "0/2"), root / "one"),
    }
    apart = {
        "apart": Group(2, WITH_TOKENIZER, root / "apart", SMALL + OWN_FOLDER),
        "strangers": Group(2, WITH_TOKENIZER, root / "strangers", SMALL + OWN_FOLDER),
        "missing": Group(2, WITH_TOKENIZER, root / "missing", SMALL + OWN_FOLDER),
    }
    for name in ("one", "three", "killed", "changed"):
        write_texts(root / name / "texts")
    for name, group in apart.items():
        for rank in range(group.size):
            write_texts(root / name / str(rank) / "texts")
            odd = name == "strangers" and rank == 1
            files.save(CharTokenizer.fit(["abc" if odd else "ab"]), root / name / str(rank) / "tokenizer.json")
    shutil.rmtree(root / "missing/1/texts")
    (root / "strangers/1/texts/c3.md").unlink()
    shutil.copytree(trained_once, root / "eval")
    write_talks(root / "eval/talks.jsonl")
    groups |= apart | eval_groups(root / "eval")
    return Ran(root, dict(zip(groups, run_groups(list(groups.values())), strict=True)))


def test_a_group_writes_the_same_files_as_one_process(ran: Ran) -> None:
    assert [one.status for one in ran.came["one"] + ran.came["three"]] == [0] * 4
    assert len(ran.folder("one")) > 5
    assert ran.folder("three") == ran.folder("one")


def test_the_first_of_a_group_speaks_for_all(ran: Ran) -> None:
    first, *others = ran.came["three"]
    assert json.loads(first.out)["folder"].startswith("data/texts-")
    assert {(one.out, one.err) for one in others} == {("", "")}
    first, *others = ran.came["again"]
    assert "made before of the same data" in first.err
    assert {(one.status, one.out, one.err) for one in others} == {(0, "", "")}


def test_a_group_whose_process_was_killed_says_so_once_and_is_taken_up_by_another_number(ran: Ran) -> None:
    first, second, third = ran.came["killed"]
    assert (first.status, second.status, third.status) == (2, -signal.SIGKILL, 2)
    assert first.err == (
        "error: another process of the group has died; see what torchrun says of it, and run the same again\n"
    )
    assert (second.err, third.err, third.out) == ("", "", "")
    assert ran.folder("killed") == ran.folder("one")
    again, all_ = (set((ran.root / name / "written").read_text().split()) for name in ("killed", "one"))
    assert 0 < len(again) < len(all_), "what was done is not done again"


def test_processes_that_do_not_have_the_same_say_what_differs_in_one_line(ran: Ran) -> None:
    assert "process 1 of 2 has other files and another tokenizer than process 0; start" in ran.refusal("strangers")
    assert "no data at texts; " in ran.refusal("missing")
    assert ran.came["missing"][1].err.startswith("error: "), "who knows says it"


def test_folders_that_are_not_shared_are_told_in_one_line(ran: Ran) -> None:
    line = ran.refusal("apart")
    assert "what process 1 of 2 has written is not in data/.texts-" in line
    assert "run in a folder that all machines share" in line


def test_a_source_that_changes_while_a_group_reads_it_is_noticed(ran: Ran) -> None:
    assert "texts was changed while it was read; run the same again" in ran.refusal("changed")
    assert not list((ran.root / "changed/data").glob("texts-*"))


@pytest.mark.parametrize(("name", "what"), [("shard", "--shard"), ("chat", "--chat")])
def test_what_only_one_process_can_do_is_refused(ran: Ran, name: str, what: str) -> None:
    assert ran.refusal(name) == f"error: {what} and 2 processes; run it in one process, without torchrun"


@pytest.mark.parametrize(("name", "size"), [("split", 3), ("talks", 2)])
def test_a_group_measures_what_one_process_measures(ran: Ran, name: str, size: int) -> None:
    (alone,) = ran.came[f"{name} 1"]
    first, *others = ran.came[f"{name} {size}"]
    assert (first.status, {(one.status, one.out, one.err) for one in others}) == (0, {(0, "", "")})
    expected, found = json.loads(alone.out), json.loads(first.out)
    assert expected["tokens"] > 200
    assert found["loss_by_position"] == [pytest.approx(one, rel=1e-12) for one in expected.pop("loss_by_position")]
    assert found["calibration"] == [pytest.approx(one, rel=1e-12) for one in expected.pop("calibration")]
    assert found["loss_by_frequency"] == [pytest.approx(one, rel=1e-12) for one in expected.pop("loss_by_frequency")]
    assert found.items() >= expected.items(), "to the last bit"


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"WORLD_SIZE": "two", "RANK": "0"}, "WORLD_SIZE=two LOCAL_RANK=0 LOCAL_WORLD_SIZE=1 are no numbers"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "name no process of a group"),
        ({"WORLD_SIZE": "-2", "RANK": "0"}, "name no process of a group"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "process 0 of 2 cannot join the others: "),
    ],
)
@pytest.mark.parametrize("command", ["tokenize", "eval"])
def test_a_world_that_makes_no_sense_is_one_line(
    kiara: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], line: str, command: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert line in kiara(command, "texts").mistake
    running = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert running == [], "it would end this process, which no group waits for, in the middle of another test"
