"""However the work is cut, stopped or shared out, the data folder is the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest

from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data import prepare as stage
from kiara_cli.core.data import units
from kiara_cli.core.data.encoding import in_order
from kiara_cli.core.data.prepare import Means, prepare
from kiara_cli.core.data.shards import Shards
from kiara_cli.core.data.shares import merge_shares, prepare_share
from kiara_cli.core.data.units import Share
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.errors import KiaraError

ROOT = Path("data")
TOKENIZER = BPETokenizer.fit(["the fox told the heron a long story, née fable " * 50], 300)
BPE = TokenizerConfig()


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """A folder of a long text, a file of lines that is cut into several slices, and small files."""
    monkeypatch.setattr(units, "CUT", 4000)
    monkeypatch.setattr(units, "UNIT", 3000)
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("The fox told the heron a story.\n" * 300)
    lines = [{"text": f"line {number}: the heron sat by the river, née fable"} for number in range(300)]
    Path("texts/b.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number in range(9):
        Path(f"texts/c{number}.md").write_text(f"# {number}\n\nA long story about the fox.\n" * 20)
    return DataConfig(source="texts", shard_tokens=1000)


def test_shares_put_together_are_one_run(data: DataConfig) -> None:
    one = prepare(data, BPE, Path("one"), TOKENIZER, means=Means(threads=3))
    assert isinstance(one.train, Shards)
    done = [prepare_share(data, ROOT, TOKENIZER, Share(index, 3)) for index in (2, 0, 1)]
    assert sum(units for _, units, _ in done) == done[0][2] >= 5
    merged = merge_shares(data, ROOT, TOKENIZER)
    assert merged.folder.name == one.folder.name
    assert tree(merged.folder) == tree(one.folder)
    assert [path.name for path in ROOT.iterdir()] == [merged.folder.name]


def test_merging_before_all_shares_are_done_is_refused(data: DataConfig) -> None:
    prepare_share(data, ROOT, TOKENIZER, Share(0, 2))
    with pytest.raises(KiaraError, match=r"unit 1 of \d+ is not tokenized yet .*; run each share before merging"):
        merge_shares(data, ROOT, TOKENIZER)
    assert not list(ROOT.glob("texts-*"))


def test_a_share_says_its_number_and_of_how_many() -> None:
    assert Share.parse("2/3") == Share(2, 3)
    for wrong in ("3/3", "1", "a/b", "-1/3", "1/0", ""):
        with pytest.raises(KiaraError, match="write --shard 0/3"):
            Share.parse(wrong)


def test_the_units_follow_from_the_list_of_inputs_alone(data: DataConfig) -> None:
    source = stage.Source(data, Means(), lambda progress: None)
    assert len({part.input.address for unit in source.units for part in unit.slices}) == 11
    assert max(part.of for unit in source.units for part in unit.slices) > 3
    os.chmod("texts/a.txt", 0)
    assert stage.Source(data, Means(), lambda progress: None).units == source.units


def test_an_interrupted_preparation_goes_on_where_it_was(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = tree(prepare(data, BPE, Path("one"), TOKENIZER).folder)
    done: list[int] = []

    def report(progress: stage.Preparing) -> None:
        if progress.stage == "tokenizing":
            done.append(progress.done_bytes)
            if 0.5 * progress.total_bytes < progress.done_bytes < progress.total_bytes:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(data, BPE, ROOT, TOKENIZER, report)
    assert [path.suffix for path in ROOT.iterdir()] == [".parts"]
    done.clear()
    assert tree(prepare(data, BPE, ROOT, TOKENIZER, lambda p: done.append(p.done_bytes)).folder) == whole
    assert [path.name[0] for path in ROOT.iterdir()] == ["t"]


def test_a_unit_whose_source_has_changed_meanwhile_is_done_again(data: DataConfig) -> None:
    prepare_share(data, ROOT, TOKENIZER, Share(0, 1))
    text = Path("texts/a.txt").read_text()
    Path("texts/a.txt").write_text(text.replace("fox", "cat"))
    prepare_share(data, ROOT, TOKENIZER, Share(0, 1))
    merged = merge_shares(data, ROOT, TOKENIZER)
    assert tree(merged.folder) == tree(prepare(data, BPE, Path("one"), TOKENIZER).folder)


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_change_nothing(data: DataConfig, threads: int) -> None:
    one = prepare(data, BPE, Path("one"), TOKENIZER, means=Means(threads=1))
    many = prepare(data, BPE, ROOT, TOKENIZER, means=Means(threads=threads))
    assert tree(one.folder) == tree(many.folder)


def test_shard_tokens_change_the_files_and_not_the_ids(data: DataConfig) -> None:
    several = prepare(data, BPE, ROOT, TOKENIZER)
    single = prepare(replace(data, shard_tokens=10**9), BPE, ROOT, TOKENIZER)
    assert several.train.tolist() == single.train.tolist()
    assert several.val.tolist() == single.val.tolist()
    assert len(list(several.folder.glob("train-*.bin"))) == -(-len(several.train) // 1000)
    assert (single.folder / "train.bin").is_file()


def test_work_is_done_in_order_and_not_far_ahead() -> None:
    begun: list[int] = []

    def given() -> object:
        for number in range(100):
            begun.append(number)
            yield number

    results = in_order(lambda number: number * 2, given(), threads=2)  # type: ignore[arg-type, operator]
    assert [next(results) for _ in range(10)] == list(range(0, 20, 2))
    assert len(begun) <= 15
    results.close()


def test_addresses_are_read_and_written(data: DataConfig) -> None:
    local = prepare(data, BPE, Path("one"), TOKENIZER)
    system = fsspec.filesystem("memory")
    for path in Path("texts").iterdir():
        system.pipe_file(f"/bucket/texts/{path.name}", path.read_bytes())
    remote = replace(data, source="memory://bucket/texts", output="memory://bucket/data")
    for index in range(2):
        address, _, _ = prepare_share(remote, ROOT, TOKENIZER, Share(index, 2))
        assert address.startswith("memory://bucket/data/.texts-")
    merged = merge_shares(remote, ROOT, TOKENIZER)
    assert merged.train.tolist() == local.train.tolist()
    copied = f"/bucket/data/{merged.folder.name}"
    assert {path.rsplit("/", 1)[-1] for path in system.ls(copied, detail=False)} == set(tree(merged.folder))
    assert system.ls("/bucket/data", detail=False) == [copied]
    opened = prepare(DataConfig(source=f"memory:/{copied}"), BPE, Path("elsewhere"))
    assert tree(opened.folder) == tree(merged.folder)
    assert opened.val.tolist() == local.val.tolist()
    system.rm("/bucket", recursive=True)


def test_a_data_folder_is_a_source_and_another_tokenizer_is_refused(data: DataConfig) -> None:
    made = prepare(data, BPE, ROOT, TOKENIZER)
    again = prepare(DataConfig(source=str(made.folder)), BPE, ROOT)
    assert again.meta == made.meta
    with pytest.raises(KiaraError, match=r"was made with tokenizer.kind=bpe, the config says char"):
        prepare(DataConfig(source=str(made.folder)), TokenizerConfig(kind="char"), ROOT)
    other = BPETokenizer.fit(["nothing of the kind " * 99], 300)
    with pytest.raises(KiaraError, match="was made with another tokenizer"):
        prepare(DataConfig(source=str(made.folder)), BPE, ROOT, other)


def test_ids_of_datatrove_become_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"story {number}: the fox" for number in range(40)]
    Path("a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    plain = prepare(DataConfig(source="a.jsonl", val_source="a.jsonl"), BPE, ROOT, TOKENIZER)
    mark = TOKENIZER.specials["<|endoftext|>"]
    ids = [[*TOKENIZER.encode(text), mark] for text in texts]
    Path("a.ds").write_bytes(np.concatenate(ids).astype("<u2").tobytes())
    Path("a.ds.index").write_bytes(np.cumsum([len(row) for row in ids]).astype("<u8").tobytes())
    foreign = prepare(DataConfig(source="a.ds", val_source="a.ds"), BPE, ROOT, TOKENIZER)
    assert foreign.train.tolist() == plain.train.tolist()
    assert foreign.meta.train_bytes == plain.meta.train_bytes
    with pytest.raises(KiaraError, match="holds the id"):
        prepare(DataConfig(source="a.ds"), BPE, ROOT, BPETokenizer([bytes([byte]) for byte in range(256)]))
    assert {path.name for path in ROOT.iterdir()} == {plain.folder.name, foreign.folder.name}


def test_token_files_are_read_with_the_tokenizer_that_lies_beside_them() -> None:
    Path("tokens").mkdir()
    mark = TOKENIZER.specials["<|endoftext|>"]
    ids = [[*TOKENIZER.encode(f"story {number}: the fox"), mark] for number in range(40)]
    Path("tokens/a.ds").write_bytes(np.concatenate(ids).astype("<u2").tobytes())
    Path("tokens/a.ds.index").write_bytes(np.cumsum([len(row) for row in ids]).astype("<u8").tobytes())
    data = DataConfig(source="tokens")
    with pytest.raises(KiaraError, match=r"tokens/a.ds holds ids, .* is not known \(.*\); copy Kiara's"):
        prepare(data, BPE, ROOT)
    Path("tokens/tokenizer.json").write_text('{"model": {"type": "BPE"}}')
    with pytest.raises(KiaraError, match=r"\(tokens/tokenizer.json is not a Kiara tokenizer\); copy Kiara's"):
        prepare(data, BPE, ROOT)
    files.save(TOKENIZER, Path("tokens/tokenizer.json"))
    found = prepare(data, BPE, ROOT)
    assert found.tokenizer.state() == TOKENIZER.state()
    assert found.notices == ()
    assert len(found.train) + len(found.val) == sum(map(len, ids))
    assert found.folder == prepare(data, BPE, ROOT, TOKENIZER).folder


TOKENIZE = """
import sys
from kiara_cli.app import main
from kiara_cli.core.data import units
units.UNIT = 200_000
words = ["tokenize", "texts", "--tokenizer", "tokenizer.json", "runtime.threads=1", "data.shard_tokens=500000"]
main([*words, *sys.argv[1:], "--json"])
"""


def test_a_killed_process_is_taken_up_where_it_was_and_makes_identical_shards() -> None:
    files.save(TOKENIZER, Path("tokenizer.json"))
    Path("texts").mkdir()
    words = ["the", "fox", "told", "heron", "long", "story", "née", "fable", "river", "sat"]
    for number in range(40):  # each larger than a unit, so that each is one
        chosen = np.random.default_rng(number).choice(words, 60_000)
        Path(f"texts/{number:02}.txt").write_text(" ".join(chosen))
    command = [sys.executable, "-c", TOKENIZE]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(Path("data").glob(".*.parts/*.json")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list(Path("data").glob("texts-*"))
    before = {path: path.stat().st_mtime_ns for path in Path("data").glob(".*.parts/*.json")}
    assert 1 <= len(before) < 40
    subprocess.run([*command, "--shard", "0/1"], check=True, stdout=subprocess.DEVNULL)
    after = {path: path.stat().st_mtime_ns for path in Path("data").glob(".*.parts/*.json")}
    assert len(after) == 40
    assert before.items() <= after.items(), "finished files are not done again"
    resumed = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["folder"]
    shards = tree(Path(resumed))
    assert len([name for name in shards if name.startswith("train-")]) > 1
    Path(resumed).rename("first")
    straight = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["folder"]
    assert straight == resumed
    assert tree(Path(straight)) == shards


FULL = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as if the disk were full
from kiara_cli.app import main
main(["tokenize", "big.txt", "tokenizer.kind=char"])
"""


def test_a_full_disk_is_one_line_and_leaves_nothing() -> None:
    Path("big.txt").write_text("the fox and the heron\n" * 50_000)
    ran = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: cannot write")
    assert len(ran.stderr.splitlines()) == 1
    assert list(Path("data").iterdir()) == []


def test_a_source_that_changes_while_it_is_read_is_noticed(data: DataConfig) -> None:
    def report(progress: stage.Preparing) -> None:
        if progress.stage == "fitting the tokenizer":
            Path("texts/a.txt").write_text("something else\n" * 99)

    with pytest.raises(KiaraError, match="texts was changed while it was read"):
        prepare(data, BPE, ROOT, report=report)
    assert not list(ROOT.iterdir())
