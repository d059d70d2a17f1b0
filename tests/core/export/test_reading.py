"""Folders of transformers become checkpoints that compute the same, or are refused by name."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from kiara_cli.config.load import from_mapping
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.vocabulary import with_rows
from kiara_cli.core.export import huggingface
from kiara_cli.core.export.reading import as_imported, read_folder
from kiara_cli.core.export.tokenizer import write_files
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.errors import KiaraError

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
ROTARY = {
    "vocab_size": 448, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
NEOX = {key: value for key, value in ROTARY.items() if key != "num_key_value_heads"}
FOREIGN: dict[str, Any] = {
    "gpt2": transformers.GPT2Config(vocab_size=448, n_positions=64, n_embd=64, n_layer=2, n_head=4),
    "gpt2-untied": transformers.GPT2Config(
        vocab_size=448, n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=96, tie_word_embeddings=False
    ),
    "llama": transformers.LlamaConfig(
        **ROTARY, rms_norm_eps=1e-3, rope_parameters={"rope_theta": 5e5, "rope_type": "default"}
    ),
    "llama-biases": transformers.LlamaConfig(**ROTARY, attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "llama-attention-biases": transformers.LlamaConfig(**ROTARY, attention_bias=True),
    "llama3.2": transformers.LlamaConfig(
        **ROTARY, head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-5,
        rope_parameters={"rope_theta": 5e5, "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                         "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    ),
    "llama-linear": transformers.LlamaConfig(
        **ROTARY, rope_parameters={"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
    ),
    "llama-dynamic": transformers.LlamaConfig(
        **ROTARY, rope_parameters={"rope_theta": 1e4, "rope_type": "dynamic", "factor": 2.0}
    ),
    "qwen2.5": transformers.Qwen2Config(**ROTARY, rms_norm_eps=1e-6, sliding_window=32768, tie_word_embeddings=True,
        rope_parameters={"rope_theta": 1e6, "rope_type": "default"}),
    "qwen2.5-yarn": transformers.Qwen2Config(**ROTARY,
        rope_parameters={"rope_theta": 1e6, "rope_type": "yarn", "factor": 4.0,
                         "original_max_position_embeddings": 16}),
    "mistral": transformers.MistralConfig(**ROTARY, sliding_window=64),
    "mistral-nemo": transformers.MistralConfig(**ROTARY, head_dim=32, sliding_window=None),
    "pythia": transformers.GPTNeoXConfig(**NEOX),
    "gpt-neox-sequential": transformers.GPTNeoXConfig(
        **NEOX, use_parallel_residual=False, hidden_act="gelu_fast", tie_word_embeddings=True, attention_bias=False,
        rope_parameters={"rope_theta": 500.0, "rope_type": "default", "partial_rotary_factor": 1.0},
    ),
    "gemma": transformers.GemmaConfig(**ROTARY | {"num_key_value_heads": 1}, head_dim=32),
    "gpt2-exact-gelu": transformers.GPT2Config(
        vocab_size=448, n_positions=64, n_embd=64, n_layer=2, n_head=4, activation_function="gelu"
    ),
    "qwen3": transformers.Qwen3Config(**ROTARY),  # its heads are 128 wide
    "qwen3-tied": transformers.Qwen3Config(**ROTARY, head_dim=16, tie_word_embeddings=True),
}  # fmt: skip


def foreign(name: str) -> Any:
    """Make a random model of transformers."""
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_config(FOREIGN[name]).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


@pytest.fixture
def folder(tokenizer: BPETokenizer, tmp_path: Path) -> Path:
    """A Llama as transformers saves it, with a tokenizer."""
    return saved(foreign("llama"), tokenizer, tmp_path / "theirs")


def saved(model: Any, tokenizer: BPETokenizer, folder: Path, **options: Any) -> Path:
    model.save_pretrained(folder, **options)
    write_files(tokenizer, folder, 64)
    return folder


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")


def model_of(checkpoint: Checkpoint) -> Any:
    return checkpoint.make_model(from_mapping(checkpoint.config, "x").config.model).eval()


@torch.inference_mode()
@pytest.mark.parametrize("name", FOREIGN)
def test_logits_are_the_same_and_exporting_again_gives_the_same_bytes(
    name: str, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    theirs = foreign(name)
    checkpoint = read_folder(saved(theirs, tokenizer, tmp_path / "theirs"))
    ours = model_of(checkpoint)
    ids = torch.randint(0, 448, (2, 64))
    assert (ours(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-4
    assert checkpoint.make_tokenizer().encode("the cat") == tokenizer.encode("the cat")
    config, weights = as_imported(checkpoint, ours.config)
    with huggingface.writing(config, weights, tokenizer, tmp_path / "again"):
        pass
    assert (tmp_path / "again/model.safetensors").read_bytes() == (tmp_path / "theirs/model.safetensors").read_bytes()


def test_parts_with_an_index_and_half_precision_are_read(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    theirs = foreign("qwen3").to(torch.bfloat16)
    folder = saved(theirs, tokenizer, tmp_path / "theirs", max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    checkpoint = read_folder(folder)
    with huggingface.writing(model_of(checkpoint).config, checkpoint.model, tokenizer, tmp_path / "again", "bf16"):
        pass
    again = load_file(tmp_path / "again/model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.state_dict().items())


@torch.inference_mode()
def test_old_gpt2_files_without_a_prefix_and_with_masks_are_read(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    theirs = foreign("gpt2")
    folder = saved(theirs, tokenizer, tmp_path / "theirs")
    tensors = load_file(folder / "model.safetensors")
    old = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    save_file(old | {"h.0.attn.bias": torch.ones(1, 1, 64, 64)}, folder / "model.safetensors")
    ids = torch.randint(0, 448, (1, 20))
    assert (model_of(read_folder(folder))(ids) - theirs(input_ids=ids).logits).abs().max() < 1e-4


@torch.inference_mode()
def test_added_tokens_beyond_the_rows_get_rows_that_an_export_drops(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    theirs = foreign("gpt2")
    folder = saved(theirs, tokenizer, tmp_path / "theirs")
    about = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"special": False, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    about["model"]["vocab"] |= {"<EOL>": 449}
    about["added_tokens"].append({"id": 449, "content": "<EOL>"} | flags)
    edit(folder / "tokenizer.json", **about)
    checkpoint = read_folder(folder)
    ours, spoken = model_of(checkpoint), checkpoint.make_tokenizer()
    assert spoken.encode("a<EOL>b")[1] == 449 == (ours.config.vocab_size or 0) - 1
    ids = torch.randint(0, 448, (1, 20))
    assert (ours(ids)[..., :448] - theirs(input_ids=ids).logits).abs().max() < 1e-4
    config, weights = as_imported(checkpoint, ours.config)
    with huggingface.writing(config, weights, spoken, tmp_path / "again"):
        pass
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    grown = with_rows(checkpoint, spoken.size)  # for training on conversations
    assert model_of(grown).config.vocab_size == spoken.size > 450
    assert as_imported(grown, model_of(grown).config)[0].vocab_size == 448


def test_the_context_of_a_rotary_model_can_be_shortened(
    folder: Path, tokenizer: BPETokenizer, tmp_path: Path
) -> None:
    assert model_of(read_folder(folder, context_length=16)).config.context_length == 16
    with pytest.raises(KiaraError, match="context_length=65"):
        read_folder(folder, context_length=65)
    gpt2 = saved(foreign("gpt2"), tokenizer, tmp_path / "gpt2")
    with pytest.raises(KiaraError, match="table of positions"):
        read_folder(gpt2, context_length=16)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": ["llama"]}, "llama"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}}, "no usable 'factor'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "no usable 'factor'"),
        ({"rope_parameters": None, "rope_scaling": {"type": "longrope"}}, "rope_type=longrope"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "yarn with attention_factor"),
        ({"model_type": "mistral", "sliding_window": 32}, r"32 tokens alone and reads 64; .*context_length=32"),
        ({"use_sliding_window": True, "sliding_window": 16}, r"model.context_length=16"),
        ({"model_type": "gemma2"}, "gemma2"),
        ({"quantization_config": {}}, "quantization_config"),
        ({"hidden_size": "wide"}, "emb_dim=wide"),
        ({"num_attention_heads": 3}, "n_heads"),
        ({"num_attention_heads": 0}, "usable|n_heads"),
        ({"num_hidden_layers": 3}, r"model.layers.2.\S+ is missing"),
        ({"num_hidden_layers": 1}, r"model.layers.1.\S+ that its architecture does not have"),
        ({"intermediate_size": 64}, r"mlp.\S+ is \("),
    ],
)
def test_a_config_that_kiara_cannot_compute_is_refused_by_name(
    values: dict[str, Any], named: str, folder: Path
) -> None:
    edit(folder / "config.json", **values)
    with pytest.raises(KiaraError, match=named):
        read_folder(folder)


class Evil:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("ran"),))


def test_pickles_are_refused_unread(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(KiaraError, match="pickle"):
        read_folder(folder)
    assert not Path("ran").exists()


@pytest.mark.parametrize("part", ["../config.json", "/etc/passwd", 3])
def test_an_index_cannot_point_outside_of_its_folder(folder: Path, part: Any) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": part}}))
    with pytest.raises(KiaraError, match="no files of this folder"):
        read_folder(folder)


def test_damaged_and_missing_files_are_named(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1000])
    with pytest.raises(KiaraError, match="damaged"):
        read_folder(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(KiaraError, match=r"no model.safetensors"):
        read_folder(folder)
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(KiaraError, match="--tokenizer"):
        read_folder(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(KiaraError, match=r"config.json"):
        read_folder(folder)
    with pytest.raises(KiaraError, match="no folder"):
        read_folder(folder / "nowhere")


def test_a_tokenizer_can_be_given_if_it_fits(folder: Path, tokenizer: BPETokenizer) -> None:
    (folder / "tokenizer.json").unlink()
    assert read_folder(folder, tokenizer).tokenizer == tokenizer.state()
    large = BPETokenizer([*(bytes([byte]) for byte in range(256)), *(b"x" * n for n in range(2, 200))])
    with pytest.raises(KiaraError, match="459 ids"):
        read_folder(folder, large)
