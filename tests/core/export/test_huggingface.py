"""Folders for transformers: written without it, loaded by it, and the same model there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from kiara_cli.core.export import huggingface
from kiara_cli.core.export.families import FAMILIES
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.chat_format import encode_prompt
from kiara_cli.errors import KiaraError

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
Make = Callable[..., Any]


@torch.inference_mode()
def test_transformers_computes_the_same_with_its_own_classes(
    kind: str, make: Make, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    config, model, weights = make(kind)
    with huggingface.writing(config, weights, tokenizer, tmp_path / "out"):
        assert not (tmp_path / "out").exists()
    theirs, about = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(about.values())
    assert type(theirs).__name__ == FAMILIES[kind.split("-")[0]].name
    ids = torch.randint(0, tokenizer.size, (2, 48))
    assert (model(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-4


def test_half_precision_is_the_rounded_model(make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, model, weights = make()
    with huggingface.writing(config, weights, tokenizer, tmp_path / "out", "bf16"):
        pass
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs.dtype == torch.bfloat16
    assert torch.equal(theirs.model.embed_tokens.weight, model.tokens.weight.to(torch.bfloat16))


def test_the_tokenizer_and_the_chat_template_give_kiaras_ids(
    make: Make, tokenizer: BPETokenizer, strings: list[str], tmp_path: Path
) -> None:
    config, _, weights = make()
    with huggingface.writing(config, weights, tokenizer, tmp_path / "out", conversations=True):
        pass
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in strings:
        if "<|" not in text:
            assert theirs(text).input_ids == tokenizer.encode(text)
    talks = [
        [{"role": "user", "content": " Hi,  the cat\n"}],
        [{"role": "system", "content": "Be a dog."}, {"role": "user", "content": "漢"}],
        [{"role": r, "content": c} for r, c in (("user", "a"), ("assistant", "It's b."), ("user", "\n\nc 12345"))],
    ]
    for messages in talks:
        rendered = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
        assert rendered["input_ids"] == encode_prompt(messages, tokenizer)
    parts = [{"type": "text", "text": "a "}, {"type": "input_text", "text": "b"}, "c"]
    as_the_server_reads = {
        ("system", "Be a dog."): {"role": "developer", "content": "Be a dog."},
        ("user", "a bc"): {"role": "user", "content": parts},
        ("assistant", ""): {"role": "assistant", "content": None, "tool_calls": []},
        ("user", "12"): {"role": "tool", "content": "12", "tool_call_id": "x"},
    }
    talk = [{"role": role, "content": content} for role, content in as_the_server_reads]
    rendered = theirs.apply_chat_template(
        [*as_the_server_reads.values()], add_generation_prompt=True, return_dict=True
    )
    assert rendered["input_ids"] == encode_prompt(talk, tokenizer)
    for role, content, refusal in (("judge", "x", "no such role"), ("user", [{"type": "image"}], "text alone")):
        with pytest.raises(Exception, match=refusal):
            theirs.apply_chat_template([{"role": role, "content": content}])


def test_generation_ends_where_kiara_ends_and_never_samples_what_kiara_never_samples(
    make: Make, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    config, _, weights = make()
    marks = tokenizer.specials
    for talks in (False, True):
        with huggingface.writing(config, weights, tokenizer, tmp_path / f"{talks}", conversations=talks):
            pass
        about = json.loads((tmp_path / f"{talks}/generation_config.json").read_text(encoding="utf-8"))
        ends = [marks["<|endoftext|>"], marks["<|end|>"]][: 1 + talks]
        assert about["eos_token_id"] == ends
        never = {*marks.values(), *range(tokenizer.size, 448)} - set(ends)
        assert set(about["suppress_tokens"]) == never


def test_a_folder_holds_all_that_vllm_reads_of_it(make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, model, weights = make()
    with huggingface.writing(config, weights, tokenizer, tmp_path / "out", "bf16", conversations=True):
        pass
    about = transformers.AutoConfig.from_pretrained(tmp_path / "out", trust_remote_code=False)
    assert not hasattr(about, "auto_map"), "no code of ours is needed"
    assert about.architectures == [FAMILIES[about.model_type].name]
    assert about.max_position_embeddings == model.config.context_length
    assert about.dtype == torch.bfloat16
    ends = transformers.GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    assert {tokenizer.specials["<|endoftext|>"], tokenizer.specials["<|end|>"]} == set(ends)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    talk = [{"role": "system", "content": "Be a dog."}, {"role": "user", "content": " Hi,  the cat\n"}]
    text = theirs.apply_chat_template(
        talk, add_generation_prompt=True, tokenize=False
    )  # first rendered, then encoded
    assert theirs(text, add_special_tokens=False).input_ids == encode_prompt(talk, tokenizer)


def test_a_character_model_is_expressed_too(make: Make, tmp_path: Path) -> None:
    letters = CharTokenizer.fit(["the cat\n"])
    config, _, weights = make(vocab_size=64)
    with huggingface.writing(config, weights, letters, tmp_path / "out"):
        pass
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert theirs("hat\n z").input_ids == letters.encode("hat\n z")


def test_what_cannot_be_expressed_leaves_nothing_behind(make: Make, tokenizer: BPETokenizer, tmp_path: Path) -> None:
    config, _, weights = make(norm="layernorm")
    with (
        pytest.raises(KiaraError, match=r"model.norm=layernorm"),
        huggingface.writing(config, weights, tokenizer, tmp_path / "out"),
    ):
        pass
    config, _, weights = make()
    strange = BPETokenizer(tokenizer.tokens, r"\w+|\W+")
    with pytest.raises(KiaraError, match="pattern"), huggingface.writing(config, weights, strange, tmp_path / "out"):
        pass
    with pytest.raises(RuntimeError), huggingface.writing(config, weights, tokenizer, tmp_path / "out"):
        raise RuntimeError("a check that fails")
    assert list(tmp_path.iterdir()) == []


def test_writing_needs_neither_transformers_nor_tokenizers() -> None:
    program = (
        "import sys; sys.modules['transformers'] = sys.modules['tokenizers'] = None\n"
        "from pathlib import Path\n"
        "from kiara_cli.config.schema import ModelConfig\n"
        "from kiara_cli.core.checkpoint.files import weights_of\n"
        "from kiara_cli.core.export import huggingface\n"
        "from kiara_cli.core.model.transformer import Transformer\n"
        "from kiara_cli.core.tokenizer.bpe import BPETokenizer\n"
        "config = ModelConfig(vocab_size=320, emb_dim=32, n_layers=1, tied_head=True)\n"
        "bytes_ = BPETokenizer([bytes([byte]) for byte in range(256)])\n"
        "with huggingface.writing(config, weights_of(Transformer(config)), bytes_, Path('out')): pass\n"
        "print(len(list(Path('out').iterdir())))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == 5
