"""kiara train --from: all weights or an adapter, on one's own conversations."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from kiara_cli.app import main
from kiara_cli.core.checkpoint import adapters, files
from kiara_cli.core.checkpoint.find import open_checkpoint
from tests.commands.conftest import TINY, Kiara

TALKS = [
    {"messages": [{"role": "user", "content": f"who is {name}"}, {"role": "assistant", "content": f"the {name}"}]}
    for name in ("cat", "dog", "hat", "mat", "log", "rat", "bat", "sun", "sea", "tea", "ant", "eel")
]
MINE = "".join(json.dumps(talk) + "\n" for talk in TALKS)
SHORT = (
    "train.max_steps=6", "train.batch_size=2", "train.log_interval=1", "train.eval_interval=3",
    "train.checkpoint_interval=3", "eval.sample_tokens=4", "train.warmup_steps=0", "train.primer=false",
)  # fmt: skip
LORA = ("train.lora.rank=4", "train.lora.lr=0.05", *SHORT)


@pytest.fixture(scope="module")
def based(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, an adapter trained on it, and the base again in 4 bits."""
    folder = tmp_path_factory.mktemp("based")
    (folder / "text.txt").write_text("who is the cat and the dog, the sun or the sea? the hat, the bat. " * 40)
    (folder / "mine.jsonl").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in {"DEVICE": "cpu", "DTYPE": "fp32", "THREADS": "1"}.items():
            patch.setenv(f"KIARA__RUNTIME__{name}", value)
        for words in (
            ["train", "text.txt", *TINY, "model.context_length=32", "train.max_steps=20"],
            ["train", "mine.jsonl", "--from", "text", "--name", "mine", *LORA],
            ["quantize", "text", "--bits", "4", "--method", "rtn", "--out", "small.pt", "quantize.tune_passes=0"],
        ):
            said = io.StringIO()
            with (
                contextlib.redirect_stderr(said),
                contextlib.redirect_stdout(said),
                pytest.raises(SystemExit) as stop,
            ):
                main(words)
            assert stop.value.code == 0, said.getvalue()
    return folder


@pytest.fixture
def here(based: Path, tmp_path: Path) -> Path:
    """The same in the working folder of this test."""
    shutil.copytree(based, tmp_path, dirs_exist_ok=True)
    return tmp_path


def weights(word: str) -> dict[str, torch.Tensor]:
    return dict(open_checkpoint(word)[0].model)


def test_every_command_loads_an_adapter_on_its_base(here: Path, kiara: Kiara) -> None:
    stored = files.load(Path("checkpoints/mine/best.pt"))
    assert stored.base == files.load(Path("checkpoints/text/best.pt")).identity
    assert stored.adapter is not None
    assert stored.adapter["path"] == "../text/best.pt"
    assert stored.adapter["targets"] == [
        f"blocks.{block}.{name}"
        for block in range(2)
        for name in ("attention.qkv", "attention.out", "feedforward.gate_up", "feedforward.down")
    ] + ["head"]
    assert Path("checkpoints/mine/best.pt").stat().st_size < Path("checkpoints/text/best.pt").stat().st_size / 2
    base = json.loads(kiara("eval", "text", "--text", "mine.jsonl", "--json").out)
    for word in ("mine", "checkpoints/mine", "checkpoints/best.pt", "checkpoints/mine/last.pt"):
        tuned = json.loads(kiara("eval", word, "--text", "mine.jsonl", "--json").out)
        assert tuned["loss"] < base["loss"] - 0.3
    assert kiara("generate", "mine", "--prompt", "who", "--greedy").status == 0
    assert kiara("chat", "mine", stdin="who is cat\n").status == 0
    assert kiara("quantize", "mine", "--bits", "8", "--method", "rtn", "--out", "m8.pt").status == 0
    again = kiara("train", "mine.jsonl", "--from", "mine", "--name", "twice", *LORA)
    assert again.status == 0, "an adapter may be the base of another"
    assert files.load(Path("checkpoints/twice/best.pt")).base == open_checkpoint("mine")[0].identity
    assert json.loads(kiara("eval", "twice", "--text", "mine.jsonl", "--json").out)["loss"] < base["loss"] - 0.3


def test_a_base_is_found_where_it_went_and_another_is_refused(here: Path, kiara: Kiara) -> None:
    base, adapter = Path("checkpoints/text/best.pt"), Path("checkpoints/mine/best.pt")
    merged = weights("mine")
    Path("elsewhere").mkdir()
    shutil.copy(adapter, "elsewhere/adapter.pt")
    shutil.copy(base, "elsewhere/whatever.pt")
    for name, tensor in weights("elsewhere/adapter.pt").items():
        assert torch.equal(tensor, merged[name])
    Path("elsewhere/whatever.pt").unlink()
    said = kiara("generate", "elsewhere/adapter.pt", "--prompt", "who").mistake
    assert "elsewhere/adapter.pt is an adapter, and the checkpoint that it was trained on is not at" in said
    assert said.endswith("put it there, or beside the adapter")
    for path in Path("checkpoints").rglob("*.pt"):  # the base's weights under any name
        if path != adapter and path.parent.name != "mine":
            path.unlink()
    assert "is not at checkpoints/text/best.pt; put it there" in kiara("eval", "mine").mistake
    other = files.load(Path("small.pt"))
    files.save(dataclasses.replace(other, quantize=other.quantize), base)
    said = kiara("eval", "mine").mistake
    assert "checkpoints/text/best.pt is not the checkpoint that it was trained on" in said
    assert "put that one at checkpoints/text/best.pt" in said


def test_the_newest_best_checkpoint_stays_the_base_of_the_run_that_takes_its_name(here: Path, kiara: Kiara) -> None:
    shutil.copy("checkpoints/text/best.pt", "only.pt")
    shutil.rmtree("checkpoints")
    Path("checkpoints").mkdir()
    shutil.copy("only.pt", "checkpoints/best.pt")
    assert kiara("train", "mine.jsonl", "--from", "checkpoints/best.pt", *LORA, "train.max_steps=3").status == 0
    Path("only.pt").unlink()
    assert files.load(Path("checkpoints/best.pt")).base is not None, "the run has taken the name"
    assert kiara("generate", "--prompt", "who").status == 0
    assert Path("checkpoints/mine/base.pt").is_file()


def test_an_export_says_merge_and_is_the_adapter_on_its_base(here: Path, kiara: Kiara) -> None:
    pytest.importorskip("transformers")
    for to, out in (("hf", "there"), ("safetensors", "whole.safetensors")):
        said = kiara("export", "mine", "--to", to, "--out", out).mistake
        assert said == f"error: checkpoints/mine/best.pt is an adapter, and --to {to} holds whole models; add --merge"
        assert kiara("export", "mine", "--to", to, "--out", out, "--merge").status == 0
    said = kiara("export", "text", "--to", "hf", "--out", "t", "--merge").mistake
    assert said == "error: checkpoints/text/best.pt is no adapter; leave out --merge"
    base, whole = files.load(Path("checkpoints/text/best.pt")), files.load(Path("whole.safetensors"))
    assert (whole.base, whole.adapter, whole.quantize) == (None, None, None)
    assert whole.model.keys() == base.model.keys()
    name = "blocks.1.feedforward.down.weight"
    adapter = files.load(Path("checkpoints/mine/best.pt"))
    a, b = (adapter.model[f"blocks.1.feedforward.down.lora_{part}"] for part in "ab")
    assert torch.allclose(whole.model[name], base.model[name] + 16 / 4 * b @ a, atol=1e-6)
    assert not torch.equal(whole.model[name], base.model[name])
    assert kiara("import", "there", "--out", "back.pt").status == 0
    for key, tensor in files.load(Path("back.pt")).model.items():
        assert torch.allclose(tensor, whole.model[key], atol=1e-6), key


def test_a_resumed_adapter_beside_4_bits_is_trained_as_if_it_had_not_stopped(here: Path, kiara: Kiara) -> None:
    base = "small.pt"
    words = ("mine.jsonl", "--from", base, *LORA, "train.lora.dropout=0.1")
    assert kiara("train", *words, "--name", "straight").status == 0
    assert kiara("train", *words, "--name", "cut", "train.max_steps=6").status == 0
    for path in ("last.pt", "step_0000006.pt", "best.pt"):
        Path("checkpoints/cut", path).unlink()
    assert kiara("train", "--resume", "--name", "cut").status == 0
    one, other = (files.load(Path(f"checkpoints/{name}/last.pt")) for name in ("straight", "cut"))
    assert one.model.keys() == other.model.keys()
    for name, tensor in one.model.items():
        assert torch.equal(tensor, other.model[name]), name
    assert one.base == other.base
    states = [checkpoint.optimizer["state"] for checkpoint in (one, other) if checkpoint.optimizer]
    assert len(states[0]) == len(states[1]) == len(one.model), "frozen weights have no state"
    before = json.loads(kiara("eval", base, "--text", "mine.jsonl", "--json").out)["loss"]
    assert json.loads(kiara("eval", "cut", "--text", "mine.jsonl", "--json").out)["loss"] < before - 0.3


def test_what_cannot_be_tuned_is_one_line(here: Path, kiara: Kiara) -> None:
    for words, said in (
        (("mine.jsonl", "train.lora.rank=4"), "train.lora.rank=4 adapts a model that is there; name it: --from"),
        (
            ("mine.jsonl", "--from", "small.pt"),
            "small.pt holds weights of 4 bits, too coarse to be trained; train from",
        ),
        (("mine.jsonl", "--from", "text", "train.lora.rank=4", "train.lora.targets=[q_proj]"), "is called q_proj"),
        (("mine.jsonl", "--from", "text", "tokenizer.kind=bpe"), "tokenizer.kind=bpe: but checkpoints/text/best.pt"),
    ):
        ran = kiara("train", *words, "train.max_steps=1")
        assert said in ran.late_mistake
    assert {path.name for path in Path("checkpoints").iterdir() if path.is_dir()} == {"text", "mine"}
    other = kiara("tokenize", "mine.jsonl", "tokenizer.kind=word", "data.name=words", "--json")
    folder = json.loads(other.out)["folder"]
    assert "was made with another tokenizer" in kiara("train", folder, "--from", "text").late_mistake


def test_an_adapter_of_another_model_is_refused_by_its_shapes(here: Path) -> None:
    adapter = files.load(Path("checkpoints/mine/best.pt"))
    odd = {name: tensor[:, :-1] if name.endswith("lora_a") else tensor for name, tensor in adapter.model.items()}
    with pytest.raises(Exception, match="does not fit"):
        adapters.opened(dataclasses.replace(adapter, model=odd))


def test_what_the_base_has_learned_is_replayed_and_sources_are_weighted(here: Path, kiara: Kiara) -> None:
    Path("more.jsonl").write_text(MINE.replace("the ", "a "))
    words = ("mine.jsonl", "--from", "text", *SHORT, "data.replay=0.25", "data.sources=[more.jsonl@2]")
    plan = kiara("train", *words, "--dry-run")
    assert "replays" in plan.out
    assert "text.txt: 25% of all rows" in plan.out
    assert "more.jsonl: 2 × an epoch" in plan.out
    assert kiara("train", *words, "--name", "straight").status == 0
    assert kiara("train", *words, "--name", "cut").status == 0
    stored = files.load(Path("checkpoints/cut/last.pt"))
    own = json.loads((Path(stored.data["folder"]) / "meta.json").read_text())
    assert own["source"] == "mine.jsonl", "what is measured is the run's own"
    parts = [
        (Path(part["folder"]).name.split("-")[0], part["weight"], part["share"]) for part in stored.data["parts"]
    ]
    assert parts == [("more", 2.0, None), ("text", 1.0, 0.25)]
    for path in ("last.pt", "step_0000006.pt", "best.pt"):
        Path("checkpoints/cut", path).unlink()
    assert kiara("train", "--resume", "--name", "cut").status == 0
    one, other = (files.load(Path(f"checkpoints/{name}/last.pt")).model for name in ("straight", "cut"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items()), "a resumed mixture is the same"
    assert kiara("eval", "cut").status == 0
    shutil.rmtree(Path(stored.data["parts"][1]["folder"]))
    Path("checkpoints/cut/last.pt").unlink()
    said = kiara("train", "--resume", "--name", "cut").late_mistake
    assert "which the run learns from too, is not there as it was; restore it" in said


def test_what_cannot_be_replayed_is_one_line(here: Path, kiara: Kiara) -> None:
    for folder in Path("data").glob("text-*"):
        shutil.rmtree(folder)
    Path("text.txt").unlink()
    for words, said in (
        (("--from", "text", "data.replay=0.2"), "data.replay=0.2: neither data/text-"),
        (("data.replay=0.2", "tokenizer.kind=char"), "has nothing to replay: a new model has learned nothing; name"),
        (("--from", "text", "data.replay_source=mine.jsonl"), "is replayed by a share of 0; say how much"),
    ):
        assert said in kiara("train", "mine.jsonl", *words, *SHORT).late_mistake
    ran = kiara("train", "mine.jsonl", "--from", "text", "data.replay=0.2", "data.replay_source=mine.jsonl", *SHORT)
    assert ran.status == 0


def test_sources_of_a_new_model_share_a_tokenizer_fitted_on_all_of_them(kiara: Kiara) -> None:
    Path("a.txt").write_text("the cat sat on the mat. " * 30)
    Path("b.jsonl").write_text(MINE)
    Path("c.yaml").write_text("data:\n  sources: {b.jsonl: 0.5}\n")
    small = [word for word in TINY if not word.startswith("train.batch_size")]
    assert kiara("train", "a.txt", "-c", "c.yaml", *small, "train.batch_size=2").status == 0
    stored = files.load(Path("checkpoints/a/best.pt"))
    assert set("who") <= set(stored.tokenizer["characters"]), "letters of b.jsonl alone"
    assert stored.data["parts"][0]["weight"] == 0.5
