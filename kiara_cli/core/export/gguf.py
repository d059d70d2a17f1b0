"""One .gguf file that llama.cpp, and what is built on it, runs.

In: a model and its tokenizer, and how to store the matrices. Out: the file, written with the `gguf` package. Vectors
and the table of positions stay in float32; q4_0 keeps the embedding and the head in q8_0.

What the format cannot say is an error: tokenizers that llama.cpp has no equal of, and options that none of its
architectures has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.export import gguf_tokenizer, modelfile, names
from kiara_cli.core.export.architectures import as_architecture, choose, shapes
from kiara_cli.core.export.target import check_suffix, new_file
from kiara_cli.core.model.positions import rotary_frequencies
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    import gguf

BLOCK = 32  # numbers of a row that q8_0 and q4_0 give one scale
NO_LLAMA3 = {"rope_scaling": ("llama3",)}  # llama.cpp knows it for llama alone
LACKING = {  # what llama.cpp's architectures miss and transformers' have
    "gpt2": {"feedforward": ("relu2",)},
    "gpt_neox": {"feedforward": ("relu2",)} | NO_LLAMA3,
    "gemma": {"attention_bias": ("all",)} | NO_LLAMA3,
    "qwen2": NO_LLAMA3,
    "qwen3": NO_LLAMA3,
}
ARCHITECTURES = {"gpt_neox": "gptneox"}  # where llama.cpp's name is another
WHOLE = ("position_embd.weight",)  # matrices that llama.cpp reads as float32
ROPE_FACTORS = "rope_freqs.weight"  # what llama3's scaling divides each frequency by
SHARP = ("token_embd.weight", "output.weight")  # q8_0 where the others are q4_0


def package() -> Any:
    """Import `gguf`. Raises KiaraError naming the extra it comes with."""
    try:
        import gguf
    except ImportError:
        raise KiaraError(
            "--to gguf needs the package gguf, which is not installed", "pip install 'kiara-slm[export]'"
        ) from None
    return gguf


@contextmanager
def writing(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    path: Path,
    quant: str = "f32",
    name: str = "kiara",
    conversations: bool = False,
) -> Iterator[Path]:
    """Write the file beside `path`, hand it out to be looked at, and give it its name and a Modelfile at the end.

    `conversations`: the model learned from some, so it gets Kiara's chat template.

    Raises KiaraError for options or a tokenizer that cannot be expressed, and if something is at `path`.
    """
    gguf = package()
    check_suffix(path, (".gguf",))
    vocabulary = gguf_tokenizer.describe(tokenizer, config.vocab_size or 0, conversations)
    architecture = choose(config, "GGUF", LACKING)
    full, filled = as_architecture(config, weights, architecture)
    linked = names.links(full, shapes(full), names.GGUF[architecture])
    tensors = names.to_theirs(_as_gguf(full, filled, architecture), linked)
    if full.rope_scaling == "llama3":
        unscaled, _ = rotary_frequencies(full.replace(rope_scaling="none"))
        tensors[ROPE_FACTORS] = unscaled / rotary_frequencies(full)[0]
    kinds = {key: _kind(key, tensor, quant) for key, tensor in tensors.items()}
    with new_file(path) as partial:
        with closing(gguf.GGUFWriter(partial, ARCHITECTURES.get(architecture, architecture))) as writer:
            _add_model(writer, full, architecture, name, quant)
            gguf_tokenizer.write(writer, vocabulary)
            for key, tensor in tensors.items():
                kind = gguf.GGMLQuantizationType[kinds[key].upper()]
                writer.add_tensor(key, gguf.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        yield partial
    modelfile.write(path, vocabulary, config.context_length)


def read_weights(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """Read a file that `writing` wrote back into Kiara's weights, quantized ones as what they stand for."""
    gguf = package()
    architecture = choose(config, "GGUF", LACKING)
    full, _ = as_architecture(config, {}, architecture)
    expected = shapes(full)
    read = {}
    for tensor in gguf.GGUFReader(path).tensors:
        if tensor.name == ROPE_FACTORS:
            continue
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        read[tensor.name] = torch.from_numpy(values.reshape(*reversed(tensor.shape.tolist())).copy())
    linked = names.links(full, expected, names.GGUF[architecture])
    weights = _as_gguf(full, names.to_ours(read, linked, expected, str(path)), architecture, back=True)
    wanted = shapes(config)
    return {key: tensor for key, tensor in weights.items() if key in wanted}


def _kind(name: str, tensor: Tensor, quant: str) -> str:
    """Return how to store one tensor. Raises KiaraError if its rows do not divide into blocks."""
    if tensor.dim() < 2 or name in WHOLE:
        return "f32"
    if quant in ("q8_0", "q4_0") and tensor.shape[1] % BLOCK:
        raise KiaraError(
            f"--quant {quant} stores blocks of {BLOCK} numbers, and {name} has rows of {tensor.shape[1]}",
            f"use --quant f16, or train with model.emb_dim and model.hidden_dim that are multiples of {BLOCK}",
        )
    return "q8_0" if quant == "q4_0" and name in SHARP else quant


def _as_gguf(
    config: ModelConfig, weights: Mapping[str, Tensor], architecture: str, back: bool = False
) -> Mapping[str, Tensor]:
    """Change weights as llama.cpp wants them, or back: llama's rows, and gemma's norms with the 1 added."""
    if architecture == "llama":
        return _interleaved(config, weights, back)
    if architecture == "gemma":
        one = -1.0 if back else 1.0
        return {key: tensor + one if "norm" in key else tensor for key, tensor in weights.items()}
    return weights


def _interleaved(config: ModelConfig, weights: Mapping[str, Tensor], back: bool = False) -> dict[str, Tensor]:
    """Reorder the rows of queries and keys: llama.cpp's llama turns channels 2i and 2i + 1 together, Kiara's i and
    i + C/2."""
    heads, C = config.n_heads + config.n_kv_heads, config.head_dim
    pairs = (C // 2, 2) if back else (2, C // 2)

    def turn(tensor: Tensor) -> Tensor:
        turned, values = tensor[: heads * C], tensor[heads * C :]
        rest = tensor.shape[1:]
        return torch.cat([turned.reshape(heads, *pairs, *rest).transpose(1, 2).reshape(heads * C, *rest), values])

    return {key: turn(tensor) if ".qkv." in key else tensor for key, tensor in weights.items()}


def _add_model(writer: gguf.GGUFWriter, config: ModelConfig, architecture: str, name: str, quant: str) -> None:
    """Say what the model is."""
    files = package().LlamaFileType
    kinds = {"f32": files.ALL_F32, "f16": files.MOSTLY_F16, "bf16": files.MOSTLY_BF16}
    kinds |= {"q8_0": files.MOSTLY_Q8_0, "q4_0": files.MOSTLY_Q4_0}
    assert config.vocab_size is not None
    writer.add_name(name)
    writer.add_file_type(kinds[quant])
    writer.add_quantization_version(2)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.emb_dim)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    (writer.add_layer_norm_eps if config.norm == "layernorm" else writer.add_layer_norm_rms_eps)(config.norm_eps)
    if architecture == "gpt_neox":
        writer.add_parallel_residual(config.residual == "parallel")
    if config.positions == "rotary":
        _add_rope(writer, config)


def _add_rope(writer: gguf.GGUFWriter, config: ModelConfig) -> None:
    """Say how queries and keys are rotated; llama3's scaling is a tensor."""
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.rotary_dim)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    if config.rope_scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(package().RopeScalingType(config.rope_scaling))
        writer.add_rope_scaling_factor(config.rope_factor)
    if config.rope_scaling == "yarn":
        assert config.rope_original_context is not None
        writer.add_rope_scaling_orig_ctx_len(config.rope_original_context)
