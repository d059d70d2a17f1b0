"""A folder that `transformers` loads with its own classes, those of the `families`.

In: a checkpoint. Out: config.json, generation_config.json, model.safetensors and the tokenizer's files. Nothing of
`transformers` is needed to write it. `reading.py` goes the other way.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.export import names
from kiara_cli.core.export import tokenizer as tokenizer_files
from kiara_cli.core.export.architectures import as_architecture, choose, shapes
from kiara_cli.core.export.families import FAMILIES
from kiara_cli.core.export.target import new_folder
from kiara_cli.core.generate.text import forbidden_ids
from kiara_cli.core.tokenizer.chat_format import END
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer
from kiara_cli.errors import KiaraError

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
DTYPE_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


@contextmanager
def writing(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    path: Path,
    quant: str = "f32",
    conversations: bool = False,
) -> Iterator[Path]:
    """Write the folder beside `path`, hand it out to be looked at, and give it its name at the end.

    `conversations`: the model learned to end a reply, which then ends a text too. Raises KiaraError for options or a
    tokenizer that cannot be expressed, and if something is at `path`.
    """
    if quant not in DTYPES:
        raise KiaraError(f"--quant {quant} is of GGUF", f"choose {', '.join(DTYPES)}, or --to gguf")
    came = tokenizer.family if isinstance(tokenizer, ImportedTokenizer) else None
    architecture = choose(config, "transformers", preferred=came)
    with new_folder(path) as folder:
        tokenizer_files.write_files(tokenizer, folder, config.context_length, config.vocab_size, conversations)
        full, filled = as_architecture(config, weights, architecture)
        write_config(full, architecture, DTYPES[quant], tokenizer, conversations, folder)
        if architecture == "gpt_neox":
            filled = names.by_head(full, filled)
        linked = names.links(full, shapes(full), names.HUGGINGFACE[architecture])
        theirs = {name: tensor.to(DTYPES[quant]) for name, tensor in names.to_theirs(filled, linked).items()}
        try:
            save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
        except SafetensorError as error:  # how its writer reports a full disk
            raise OSError(f"cannot write {folder / 'model.safetensors'}: {error}") from error
        yield folder


def write_config(
    config: ModelConfig,
    architecture: str,
    dtype: torch.dtype,
    tokenizer: Tokenizer,
    conversations: bool,
    folder: Path,
) -> None:
    """Write config.json, and generation_config.json with what ends a text and what must never be sampled."""
    assert config.vocab_size is not None
    family = FAMILIES[architecture]
    common = {
        "architectures": [family.name],
        "model_type": architecture,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "dtype": DTYPE_NAMES[dtype],
        "torch_dtype": DTYPE_NAMES[dtype],  # as transformers before 5 calls it
    }
    specials, generation = special_ids(tokenizer, config.vocab_size, conversations)
    written = {"config.json": common | family.write(config) | specials, "generation_config.json": generation}
    for name, value in written.items():
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def special_ids(tokenizer: Tokenizer, rows: int, conversations: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what begins and ends a text, for config.json; and generation_config.json, with what is never sampled."""
    marks = tokenizer_files.marks_within(tokenizer, rows)
    if isinstance(tokenizer, ImportedTokenizer):
        came = json.loads(tokenizer.files.get("generation_config.json", json.dumps(tokenizer.config)))
        learned = {"eos_token_id": sorted({*tokenizer.ends, marks[END]})} if conversations else {}
        return tokenizer.config | learned, came | learned
    ends = [marks[name] for name in (END_OF_TEXT, END)[: 1 + conversations] if name in marks]
    specials = {"bos_token_id": ends[0], "eos_token_id": ends, "pad_token_id": ends[0]} if ends else {}
    never = forbidden_ids(tokenizer, max(rows, tokenizer.size))[:rows]
    silent = [token for token in never.nonzero().flatten().tolist() if token not in ends]
    generation = {"do_sample": True, "temperature": 0.8} | specials
    return specials, generation | ({"suppress_tokens": silent} if silent else {})
