"""A data folder is made once, whole, and never goes stale."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import DataConfig, TokenizerConfig
from kiara_cli.core.data.documents import Document
from kiara_cli.core.data.folders import dataset_name, open_folder
from kiara_cli.core.data.prepare import prepare, reopen
from kiara_cli.core.data.source import Means, Preparing
from kiara_cli.core.data.windows import WindowBatcher
from kiara_cli.core.data.worlds.read import packaged, read_world, world_of
from kiara_cli.core.data.worlds.talks import conversations
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, decode, fingerprint
from kiara_cli.errors import KiaraError

ROOT = Path("data")
BPE = TokenizerConfig(vocab_size=320)
CHAR = TokenizerConfig(kind="char")
TALE = "The fox sat down by the river and told the heron a long story, née fable.\n"


@pytest.fixture(autouse=True)
def _text() -> None:
    Path("tale.txt").write_text(TALE * 60, encoding="utf-8")


def folder_of(count: int) -> str:
    Path("texts").mkdir()
    for index in range(count):
        Path(f"texts/{index:02}.txt").write_text(f"{index} {TALE}", encoding="utf-8")
    return "texts"


@pytest.mark.parametrize("tokenizing", [BPE, CHAR], ids=["bpe", "char"])
def test_both_splits_together_are_the_text(tokenizing: TokenizerConfig) -> None:
    made = prepare(DataConfig(source="tale.txt"), tokenizing, ROOT)
    assert decode(made.tokenizer, [*made.train, *made.val]) == TALE * 60
    mark = made.tokenizer.specials[END_OF_TEXT]
    assert made.train[0] == made.val[0] == mark
    assert (made.train == mark).sum() + (made.val == mark).sum() == 2


def test_the_record_says_what_the_folder_holds() -> None:
    made = prepare(DataConfig(source="tale.txt"), BPE, ROOT)
    meta = made.meta
    assert made.folder == ROOT / f"tale-{meta.hash[:8]}"
    assert {path.name for path in made.folder.iterdir()} == {"tokenizer.json", "train.bin", "val.bin", "meta.json"}
    assert (meta.train_tokens, meta.val_tokens) == (len(made.train), len(made.val))
    assert meta.train_bytes + meta.val_bytes == len((TALE * 60).encode())
    assert (meta.documents, meta.vocab_size) == (1, made.tokenizer.size)
    assert meta.tokenizer_hash == fingerprint(made.tokenizer)
    assert meta.bytes_per_token > 1.5


def test_preparing_again_touches_nothing() -> None:
    first = prepare(DataConfig(source="tale.txt"), BPE, ROOT)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}

    def report(progress: Preparing) -> None:
        assert progress.stage == "checking the source", "made again"

    second = prepare(DataConfig(source="tale.txt"), BPE, ROOT, report=report)
    assert first.made
    assert not second.made
    assert second.folder == first.folder
    assert {path: path.stat().st_mtime_ns for path in second.folder.iterdir()} == before


def test_anything_that_changes_the_content_is_another_folder() -> None:
    data = DataConfig(source="tale.txt")
    folders = {
        prepare(data, BPE, ROOT).folder,
        prepare(data, CHAR, ROOT).folder,
        prepare(data, replace(BPE, vocab_size=330), ROOT).folder,
        prepare(replace(data, val_fraction=0.2), BPE, ROOT).folder,
        prepare(replace(data, name="other"), BPE, ROOT).folder,
        prepare(data, BPE, ROOT, tokenizer=CharTokenizer.ascii()).folder,
    }
    Path("tale.txt").write_text(TALE * 60 + "One more line.\n", encoding="utf-8")
    folders.add(prepare(data, BPE, ROOT).folder)
    assert len(folders) == 7


def test_moving_a_file_from_training_to_validation_is_another_folder() -> None:
    source = Path(folder_of(2))
    Path("held").mkdir()
    Path("held/99.txt").write_text(TALE)
    data = DataConfig(source="texts", val_source="held", name="x")
    first = prepare(data, CHAR, ROOT)
    (source / "01.txt").rename("held/01.txt")
    assert prepare(data, CHAR, ROOT).folder != first.folder


def test_a_given_tokenizer_is_used_as_it_is() -> None:
    tokenizer = CharTokenizer.ascii()
    made = prepare(DataConfig(source="tale.txt"), BPE, ROOT, tokenizer=tokenizer)
    assert fingerprint(made.tokenizer) == fingerprint(tokenizer)


def test_the_tokenizer_is_fitted_on_the_training_split_alone() -> None:
    Path("tale.txt").write_text("abc " * 300 + "XYZ " * 20)
    made = prepare(DataConfig(source="tale.txt"), CHAR, ROOT)
    assert isinstance(made.tokenizer, CharTokenizer)
    assert made.tokenizer.characters == " abc"


def test_fit_bytes_limits_what_the_tokenizer_sees() -> None:
    Path("tale.txt").write_text("abc " * 300 + "XYZ " * 300)
    made = prepare(DataConfig(source="tale.txt"), replace(CHAR, fit_bytes=100), ROOT)
    assert made.tokenizer.size == CharTokenizer("abc ").size


def test_an_interrupted_preparation_leaves_nothing_where_nothing_was_done() -> None:
    def interrupt(progress: Preparing) -> None:
        if progress.stage == "tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(DataConfig(source="tale.txt"), BPE, ROOT, report=interrupt)
    assert list(ROOT.iterdir()) == []
    assert prepare(DataConfig(source="tale.txt"), BPE, ROOT).folder.is_dir()


def test_progress_ends_at_the_whole() -> None:
    seen: list[Preparing] = []
    prepare(DataConfig(source="tale.txt"), BPE, ROOT, report=seen.append)
    assert list(dict.fromkeys(progress.stage for progress in seen)) == [
        "checking the source", "fitting the tokenizer", "tokenizing",
    ]  # fmt: skip
    assert seen[-1].done_bytes == seen[-1].total_bytes == len((TALE * 60).encode())


def test_one_kilobyte_is_enough_for_the_default_model() -> None:
    talks = conversations(read_world(packaged("tales")), seed=1, size=5000)
    prose = "\n".join(message["content"] for talk in talks for message in talk)
    Path("small.txt").write_text(prose[:1024])
    for tokenizing in (TokenizerConfig(), TokenizerConfig(kind="char")):
        made = prepare(DataConfig(source="small.txt"), tokenizing, ROOT)
        context = ModelConfig().context_length
        batch = WindowBatcher(made.train, context, 2, context, 0).batch(0)
        assert batch.inputs.shape == (2, context)
        assert len(made.val) >= 2


def test_a_text_that_is_too_short_says_how_long_it_is_and_must_be() -> None:
    Path("short.txt").write_text("Hello, fox.")
    made = prepare(DataConfig(source="short.txt"), CHAR, ROOT)
    with pytest.raises(KiaraError, match=r"has 10 tokens, one window of model.context_length=256 needs 257"):
        WindowBatcher(made.train, 256, 1, 256, 0)


def test_a_folder_of_an_earlier_version_which_only_said_if_there_are_conversations_is_opened() -> None:
    talks = [[{"role": "user", "content": str(n)}, {"role": "assistant", "content": "b"}] for n in range(30)]
    Path("talks.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    made = prepare(DataConfig(source="talks.jsonl"), CHAR, ROOT)
    assert made.meta.train_conversations + made.meta.val_conversations == 30
    values = json.loads((made.folder / "meta.json").read_text())
    for key in ("train_conversations", "val_conversations"):
        del values[key]
    (made.folder / "meta.json").write_text(json.dumps(values | {"conversations": True}))
    assert open_folder(made.folder).meta == made.meta


@pytest.mark.parametrize("text", ["a", "ab", "ab\n"])
@pytest.mark.parametrize("tokenizing", [BPE, CHAR], ids=["bpe", "char"])
def test_even_a_few_characters_are_prepared(text: str, tokenizing: TokenizerConfig) -> None:
    Path("few.txt").write_text(text)
    made = prepare(DataConfig(source="few.txt"), tokenizing, ROOT)
    assert made.meta.train_bytes + made.meta.val_bytes == len(text)


def test_a_folder_counts_its_documents() -> None:
    made = prepare(DataConfig(source=folder_of(12)), CHAR, ROOT)
    mark = made.tokenizer.specials[END_OF_TEXT]
    assert made.meta.documents == 12
    assert (made.train == mark).sum() + (made.val == mark).sum() == 12


def test_validation_may_be_a_file_of_its_own() -> None:
    Path("val.txt").write_text("Held out: né.")
    made = prepare(DataConfig(source="tale.txt", val_source="val.txt"), CHAR, ROOT)
    assert decode(made.tokenizer, made.train.tolist()) == TALE * 60
    assert len(made.val) == 1 + len("Held out: né.")
    assert made.meta.documents == 2


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (DataConfig(source="texts/My Novel.txt"), "My_Novel"),
        (DataConfig(source="texts/*.txt"), "texts"),
        (DataConfig(source="a.txt", name="my data"), "my_data"),
        (DataConfig(source="***"), "data"),
    ],
)
def test_a_data_set_is_named_after_its_source(data: DataConfig, name: str) -> None:
    assert dataset_name(data) == name


def test_a_damaged_folder_is_the_users_to_delete() -> None:
    made = prepare(DataConfig(source="tale.txt"), BPE, ROOT)
    files.save(CharTokenizer.ascii(), made.folder / "tokenizer.json")
    with pytest.raises(KiaraError, match=r"was changed after its tokens were made; delete"):
        prepare(DataConfig(source="tale.txt"), BPE, ROOT)
    (made.folder / "meta.json").write_text(json.dumps({"name": "tale"}))
    with pytest.raises(KiaraError, match="is not a whole data folder"):
        open_folder(made.folder)
    (made.folder / "meta.json").unlink()
    with pytest.raises(KiaraError, match="is not a whole data folder; delete"):
        prepare(DataConfig(source="tale.txt"), BPE, ROOT)
    assert [path.name for path in ROOT.iterdir()] == [made.folder.name]


@pytest.mark.parametrize("given", [None, CharTokenizer.ascii()], ids=["fitted", "given"])
def test_the_data_of_a_checkpoint_is_made_again_from_its_source(given: CharTokenizer | None) -> None:
    data = DataConfig(source="tale.txt")
    made = prepare(data, BPE, ROOT, tokenizer=given)
    recorded = {"folder": str(made.folder), "hash": made.meta.hash}
    ids = made.val.tolist()
    shutil.rmtree(made.folder)
    assert reopen(data, BPE, ROOT, made.tokenizer, recorded).val.tolist() == ids
    Path("tale.txt").unlink()
    assert reopen(data, BPE, ROOT, made.tokenizer, recorded).meta == made.meta  # the folder is enough
    shutil.rmtree(made.folder)
    with pytest.raises(KiaraError, match=r"neither .* nor its source tale.txt is there"):
        reopen(data, BPE, ROOT, made.tokenizer, recorded)


def test_a_source_that_changed_is_not_the_data_of_the_checkpoint_but_its_folder_is() -> None:
    data = DataConfig(source="tale.txt")
    made = prepare(data, BPE, ROOT)
    recorded = {"folder": str(made.folder), "hash": made.meta.hash}
    Path("tale.txt").write_text(TALE * 61, encoding="utf-8")
    assert reopen(data, BPE, ROOT, made.tokenizer, recorded).meta == made.meta
    made.folder.rename("data/elsewhere")
    with pytest.raises(KiaraError, match=r"the data at tale.txt has changed since the checkpoint was made"):
        reopen(data, BPE, ROOT, made.tokenizer, recorded)


def test_a_folder_made_without_bad_lines_is_made_again_without_them() -> None:
    Path("a.jsonl").write_text('{"text": "one, and more of it"}\n{"text": \n' + '{"text": "three"}\n' * 9)
    data = DataConfig(source="a.jsonl")
    made = prepare(data, BPE, ROOT, means=Means(skip_bad=True))
    recorded, ids = {"folder": str(made.folder), "hash": made.meta.hash}, made.train.tolist()
    shutil.rmtree(made.folder)
    assert reopen(data, BPE, ROOT, made.tokenizer, recorded).train.tolist() == ids


def test_several_sources_are_one_corpus() -> None:
    for name in "abc":
        Path(f"{name}.txt").write_text(name * 30)
    made = prepare(DataConfig(source="a.txt", sources=("b.txt", "c.txt")), CHAR, ROOT)
    assert made.meta.documents == 3
    assert made.folder.name.startswith("a-and-2-more-")


def test_the_default_corpus_keeps_its_name_and_its_held_out_documents() -> None:
    size = 30_000  # of fewer bytes the documents that are drawn are not about a tenth
    made = prepare(DataConfig(corpus_bytes=size), CHAR, ROOT)
    assert made.folder.name.startswith("tales-")
    world = world_of("tales")
    assert world is not None
    texts = ["\n".join(turn["content"] for turn in talk) for talk in conversations(world, 0, size)]
    held = [text for text in texts if Document("", text).draw < 0.1]
    mark = made.tokenizer.specials[END_OF_TEXT]
    assert (made.val == mark).sum() == len(held)


def test_a_document_that_is_cut_counts_once_however_often_it_stands_there() -> None:
    Path("a.jsonl").write_text((json.dumps({"text": TALE * 9}) + "\n" + json.dumps({"text": "note"}) + "\n") * 20)
    made = prepare(DataConfig(source="a.jsonl"), CHAR, ROOT)
    assert made.meta.documents == 40
    mark = made.tokenizer.specials[END_OF_TEXT]
    assert (made.train == mark).sum() + (made.val == mark).sum() == 60
    assert 0.05 < made.meta.val_bytes / (made.meta.train_bytes + made.meta.val_bytes) < 0.2
