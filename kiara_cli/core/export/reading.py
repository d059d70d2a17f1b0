"""A Hugging Face folder of Llama, Qwen3 or GPT-2 to a Kiara checkpoint.

In: config.json, model.safetensors (or its parts and their index) and tokenizer.json. Out: a checkpoint that every
command reads. JSON and plain tensors are all that is opened: pickles are refused, code in the folder is never run.

A vocabulary without room for Kiara's marks of a conversation gets rows for them, the mean of all others; the number
of rows it came with is kept in the checkpoint's `data`, and an export drops the others again.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kiara_cli.config.load import from_mapping, to_mapping
from kiara_cli.config.schema import Config, ModelConfig, TokenizerConfig
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.export import names
from kiara_cli.core.export.architectures import shapes
from kiara_cli.core.export.tokenizer import from_json
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

ROWS = "imported_vocab_size"  # in a checkpoint's `data`: the rows its vocabulary was imported with
IGNORED = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")  # constants that old files hold besides weights
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
REMEDY = "Kiara imports Llama, Qwen3 and GPT-2 with their usual options"
GPT2_ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu2": "relu2"}


def read_folder(folder: Path, tokenizer: Tokenizer | None = None, context_length: int | None = None) -> Checkpoint:
    """Read a folder. `tokenizer` takes the place of its tokenizer.json, `context_length` shortens rotary models.

    Raises KiaraError for whatever Kiara could not compute exactly, and for files that are missing or damaged.
    """
    if not folder.is_dir():
        raise KiaraError(f"no folder {folder}", "give a folder with config.json and model.safetensors")
    values = _json(folder / "config.json")
    model = model_config(values, str(folder / "config.json"))
    if context_length is not None:
        model = _shortened(model, context_length)
    expected = shapes(model)
    linked = names.links(model, expected, names.HUGGINGFACE[values["model_type"]])
    tensors = _usual_names(_tensors(folder), values["model_type"], model.tied_head, str(folder))
    weights = names.to_ours(tensors, linked, expected, str(folder))
    if tokenizer is None:
        tokenizer = _tokenizer(folder, values)
    elif tokenizer.size > (model.vocab_size or 0):
        raise KiaraError(
            f"the tokenizer has {tokenizer.size} ids, the model in {folder} scores {model.vocab_size}",
            "give the tokenizer it was trained with",
        )
    return _checkpoint(folder, model, weights, tokenizer)


def model_config(values: Mapping[str, Any], origin: str) -> ModelConfig:
    """Turn a config.json into a model config. Raises KiaraError naming an option that Kiara does not have."""
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in names.HUGGINGFACE:
        raise KiaraError(f"{origin}: model_type {kind!r} is not one that Kiara can compute", REMEDY)
    if "auto_map" in values:
        raise KiaraError(f"{origin}: auto_map asks to run code of its own, which is never done", REMEDY)
    try:
        options = _gpt2(values, origin) if kind == "gpt2" else _llama(values, origin)
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise KiaraError(f"{origin}: no usable {error}", REMEDY) from None
    return from_mapping({"model": options}, origin).config.model


def _llama(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    kind, heads, width = values["model_type"], values["num_attention_heads"], values["hidden_size"]
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    attention_bias, mlp_bias = bool(values.get("attention_bias")), bool(values.get("mlp_bias"))
    _refuse(
        origin,
        {
            f"hidden_act={values.get('hidden_act')}": values.get("hidden_act", "silu") not in ("silu", "swish"),
            f"rope_type={rope_type}": rope_type != "default",
            "partial_rotary_factor": rope.get("partial_rotary_factor", 1.0) != 1.0,
            "use_sliding_window": bool(values.get("use_sliding_window")),
            "attention_bias without mlp_bias": attention_bias and not mlp_bias,
            "mlp_bias without attention_bias": mlp_bias and not attention_bias,
            "quantization_config": "quantization_config" in values,
        },
    )
    head_dim = values.get("head_dim") or (128 if kind == "qwen3" else width // heads)
    return dict(
        vocab_size=values["vocab_size"],
        context_length=values.get("max_position_embeddings", 2048),
        emb_dim=width,
        n_heads=heads,
        n_kv_heads=_unless(values.get("num_key_value_heads"), heads),
        head_dim=None if head_dim * heads == width else head_dim,
        n_layers=values["num_hidden_layers"],
        hidden_dim=values["intermediate_size"],
        positions="rotary",
        rope_theta=float(rope.get("rope_theta", values.get("rope_theta", 10_000.0))),
        norm="rmsnorm",
        norm_eps=float(values.get("rms_norm_eps", 1e-6)),
        feedforward="swiglu",
        qk_norm=kind == "qwen3",
        tied_head=bool(values.get("tie_word_embeddings", False)),
        bias=attention_bias,
    )


def _gpt2(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    activation = values.get("activation_function", "gelu_new")
    _refuse(
        origin,
        {
            f"activation_function={activation}": activation not in GPT2_ACTIVATIONS,
            "scale_attn_weights=false": not values.get("scale_attn_weights", True),
            "scale_attn_by_inverse_layer_idx": bool(values.get("scale_attn_by_inverse_layer_idx")),
            "add_cross_attention": bool(values.get("add_cross_attention")),
            "quantization_config": "quantization_config" in values,
        },
    )
    return dict(
        vocab_size=values["vocab_size"],
        context_length=values["n_positions"],
        emb_dim=values["n_embd"],
        n_heads=values["n_head"],
        n_layers=values["n_layer"],
        hidden_dim=values.get("n_inner") or 4 * values["n_embd"],
        positions="learned",
        norm="layernorm",
        norm_eps=float(values.get("layer_norm_epsilon", 1e-5)),
        feedforward="relu2" if activation == "relu2" else "gelu",
        qk_norm=False,
        tied_head=bool(values.get("tie_word_embeddings", True)),
        bias=True,
    )


def _refuse(origin: str, wrong: Mapping[str, bool]) -> None:
    if found := [option for option, is_wrong in wrong.items() if is_wrong]:
        raise KiaraError(f"{origin}: Kiara's models cannot have {', '.join(found)}", REMEDY)


def _unless(value: int | None, default: int) -> int | None:
    """Return a value, or None where it is what the schema takes by itself."""
    return None if value in (None, default) else value


def _shortened(model: ModelConfig, context_length: int) -> ModelConfig:
    if model.positions == "learned" or context_length > model.context_length:
        raise KiaraError(
            f"model.context_length={context_length}: this model reads {model.context_length} tokens"
            + (", by a table of positions" if model.positions == "learned" else ""),
            "leave it out" if model.positions == "learned" else "give less, or leave it out",
        )
    return dataclasses.replace(model, context_length=context_length)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise KiaraError(f"cannot read {path}: {reason}", "give a whole Hugging Face folder") from None
    if not isinstance(value, dict):
        raise KiaraError(f"{path} holds no JSON object", "give a whole Hugging Face folder")
    return value


def _tensors(folder: Path) -> dict[str, Tensor]:
    """Read every tensor of the folder's safetensors files."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        listed = _json(index).get("weight_map")
        parts = (
            sorted(set(listed.values()))
            if isinstance(listed, dict)
            and all(isinstance(part, str) and Path(part).name == part for part in listed.values())
            else []
        )
        if not parts:
            raise KiaraError(f"{index} names no files of this folder", "give a whole Hugging Face folder")
        files = [folder / part for part in parts]
    elif single.is_file():
        files = [single]
    elif pickles := sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES):
        raise KiaraError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which could run code and is never opened",
            "save them as model.safetensors",
        )
    else:
        raise KiaraError(f"{folder} holds no model.safetensors", "give a whole Hugging Face folder")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, ValueError) as error:
            raise KiaraError(f"{file} is missing or damaged ({error})", "fetch or save it again") from None
        if twice := tensors.keys() & found.keys():
            raise KiaraError(f"{file}: the weight {min(twice)} is in two files", "fetch or save them again")
        tensors |= found
    return tensors


def _usual_names(tensors: dict[str, Tensor], kind: str, tied: bool, origin: str) -> dict[str, Tensor]:
    """Drop constants and a head that repeats the embedding; give GPT-2's old files today's names; float32 all."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(IGNORED)}
    if kind == "gpt2" and not any(name.startswith("transformer.") for name in kept):
        kept = {name if name == "lm_head.weight" else f"transformer.{name}": tensor for name, tensor in kept.items()}
    if whole := next((name for name, tensor in kept.items() if not tensor.is_floating_point()), None):
        raise KiaraError(f"{origin}: {whole} holds {kept[whole].dtype}, not floating-point numbers", REMEDY)
    embedding = kept.get(names.HUGGINGFACE[kind].outside["tokens"] + ".weight")
    if tied and embedding is not None and "lm_head.weight" in kept:
        if not torch.equal(kept["lm_head.weight"], embedding):
            raise KiaraError(f"{origin}: lm_head.weight differs from the embedding it is tied to", REMEDY)
        del kept["lm_head.weight"]
    return {name: tensor.float() for name, tensor in kept.items()}


def _tokenizer(folder: Path, values: Mapping[str, Any]) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise KiaraError(f"{folder} holds no tokenizer.json", "add it, or give --tokenizer FILE_OR_CHECKPOINT")
    end = values.get("eos_token_id")
    end = next(iter(end), None) if isinstance(end, list) else end
    end = values.get("bos_token_id") if end is None else end
    return from_json(_json(path), end, str(path))


def _checkpoint(folder: Path, model: ModelConfig, weights: dict[str, Tensor], tokenizer: Tokenizer) -> Checkpoint:
    rows = model.vocab_size or 0
    if tokenizer.size > rows:
        missing = tokenizer.size - rows
        for name in ("tokens.weight", "head.weight"):
            if name in weights:
                mean = weights[name].mean(dim=0, keepdim=True)
                weights[name] = torch.cat([weights[name], mean.expand(missing, -1)]).contiguous()
        model = dataclasses.replace(model, vocab_size=tokenizer.size)
    config = dataclasses.replace(
        Config(), model=model, tokenizer=TokenizerConfig(kind="bpe", vocab_size=max(300, tokenizer.size))
    )
    return Checkpoint(
        model=weights,
        config=to_mapping(config),
        tokenizer=tokenizer.state(),
        metrics={},
        data={"folder": "", "hash": "", "name": folder.resolve().name, "conversations": False, ROWS: rows},
    )


def as_imported(checkpoint: Checkpoint, model: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return a checkpoint's model without the rows that importing added; any other checkpoint's as it is."""
    rows = checkpoint.data.get(ROWS, model.vocab_size)
    weights = {
        name: tensor[:rows] if name in ("tokens.weight", "head.weight") else tensor
        for name, tensor in checkpoint.full_weights().items()
    }
    return dataclasses.replace(model, vocab_size=rows), weights
