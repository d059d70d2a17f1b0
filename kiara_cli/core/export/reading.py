"""A Hugging Face folder of one of the `families` to a Kiara checkpoint.

In: config.json, model.safetensors (or its parts and their index) and tokenizer.json. Out: a checkpoint that every
command reads. JSON and plain tensors are all that is opened: pickles are refused, code in the folder is never run.

The tokenizer's added tokens may have ids beyond the model's rows: those get rows, the mean of all others. The number
of rows it came with is kept in the checkpoint's `data`, and an export drops the others again.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kiara_cli.config.load import to_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.config.schema import Config, TokenizerConfig
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.vocabulary import TABLES, with_rows
from kiara_cli.core.export import names
from kiara_cli.core.export.architectures import shapes
from kiara_cli.core.export.families import REMEDY, read_config
from kiara_cli.core.export.reading_tokenizer import read_tokenizer
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

ROWS = "imported_vocab_size"  # in a checkpoint's `data`: the rows its vocabulary was imported with
# constants that old files hold besides weights
IGNORED = (".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq")
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")


def read_folder(folder: Path, tokenizer: Tokenizer | None = None, context_length: int | None = None) -> Checkpoint:
    """Read a folder. `tokenizer` takes the place of its tokenizer.json, `context_length` shortens rotary models.

    Raises KiaraError for whatever Kiara could not compute exactly, and for files that are missing or damaged.
    """
    if not folder.is_dir():
        raise KiaraError(f"no folder {folder}", "give a folder with config.json and model.safetensors")
    values = _json(folder / "config.json")
    model = read_config(values, str(folder / "config.json"), context_length)
    family, expected = values["model_type"], shapes(model)
    linked = names.links(model, expected, names.HUGGINGFACE[family])
    tensors = _usual_names(_tensors(folder), family, model.tied_head, str(folder))
    weights = names.to_ours(tensors, linked, expected, str(folder))
    if family == "gpt_neox":
        weights = names.by_head(model, weights, back=True)
    if tokenizer is None:
        tokenizer = read_tokenizer(folder, values, model.vocab_size or 0)
    elif tokenizer.size > (model.vocab_size or 0):
        raise KiaraError(
            f"the tokenizer has {tokenizer.size} ids, the model in {folder} scores {model.vocab_size}",
            "give the tokenizer it was trained with",
        )
    return _checkpoint(folder, model, weights, tokenizer)


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
    if kind == "gpt_neox" and "lm_head.weight" in kept:  # as transformers calls it in memory
        kept["embed_out.weight"] = kept.pop("lm_head.weight")
    if kind == "gpt2" and not any(name.startswith("transformer.") for name in kept):
        kept = {name if name == "lm_head.weight" else f"transformer.{name}": tensor for name, tensor in kept.items()}
    if whole := next((name for name, tensor in kept.items() if not tensor.is_floating_point()), None):
        raise KiaraError(f"{origin}: {whole} holds {kept[whole].dtype}, not floating-point numbers", REMEDY)
    embedding, head = (names.HUGGINGFACE[kind].outside[ours] + ".weight" for ours in ("tokens", "head"))
    if tied and embedding in kept and head in kept:
        if not torch.equal(kept[head], kept[embedding]):
            raise KiaraError(f"{origin}: {head} differs from the embedding it is tied to", REMEDY)
        del kept[head]
    return {name: tensor.float() for name, tensor in kept.items()}


def _checkpoint(folder: Path, model: ModelConfig, weights: dict[str, Tensor], tokenizer: Tokenizer) -> Checkpoint:
    rows = model.vocab_size or 0
    config = dataclasses.replace(
        Config(), model=model, tokenizer=TokenizerConfig(kind="bpe", vocab_size=max(300, tokenizer.size))
    )
    checkpoint = Checkpoint(
        model=weights,
        config=to_mapping(config),
        tokenizer=tokenizer.state(),
        metrics={},
        data={"folder": "", "hash": "", "name": folder.resolve().name, "conversations": False, ROWS: rows},
    )
    used = tokenizer.used if isinstance(tokenizer, ImportedTokenizer) else tokenizer.size
    return with_rows(checkpoint, used)


def as_imported(checkpoint: Checkpoint, model: ModelConfig) -> tuple[ModelConfig, dict[str, Tensor]]:
    """Return a checkpoint's model without the rows that importing added, or training on texts alone; any other
    checkpoint's as it is."""
    rows = checkpoint.data.get(ROWS, model.vocab_size)
    if not checkpoint.data.get("conversations"):
        rows = checkpoint.tokenizer.get("rows", rows)
    weights = {
        name: tensor[:rows] if name in TABLES else tensor for name, tensor in checkpoint.full_weights().items()
    }
    return dataclasses.replace(model, vocab_size=rows), weights
