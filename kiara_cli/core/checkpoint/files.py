"""Checkpoint files: the one module that writes and reads .pt and .safetensors.

In: weights, config, tokenizer, metrics, and for resuming the optimizer and progress. Out: one file, whole or not
there at all. Reading executes nothing: only plain tensors and containers are accepted.

Each file carries the version of its format and its checksum. A .pt is a zip file whose every entry has a CRC-32;
torch writes them and does not look at them again, so `load` does. A .safetensors has the SHA-256 of its weights among
its metadata.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint.atomic import replacing
from kiara_cli.core.model.initialize import NoDraws
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import full_weights, prepare
from kiara_cli.core.quantize.scheme import recorded
from kiara_cli.core.tokenizer import files as tokenizer_files
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

FORMAT = 2  # of these files; 1, before it was written down, lacked FORMAT_KEY and BASE and is read like 2
FORMAT_KEY = "format_version"
SUFFIXES = (".pt", ".safetensors")
PARTS = ("model", "config", "tokenizer", "metrics", "data")  # in every file
RESUME_PARTS = ("optimizer", "progress")  # in last.pt and step_*.pt as well
SCHEME = "quantize"  # in files of quantized weights: how they are stored
BASE = "base"  # in files of an adapter: the content hash of the weights that it belongs to
ADAPTER = "adapter"  # in such files: where those were, and how it is added to them (see `adapters`)
OPTIONAL = (SCHEME, BASE, ADAPTER)


@dataclass(frozen=True)
class Checkpoint:
    """All that a checkpoint holds, as plain values. `data` says which data folder it was trained on."""

    model: Mapping[str, Tensor]
    config: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    optimizer: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None
    quantize: Mapping[str, Any] | None = None  # the scheme, where weights are quantized
    base: str | None = None  # of an adapter: what `content_hash` gives for the weights that it belongs to
    adapter: Mapping[str, Any] | None = None  # of an adapter: where its base was, and how it is added to it
    known_as: str | None = None  # the hash that tells it where its weights were changed after reading; not stored
    merged: bool = False  # of an adapter and its base, opened together; not stored
    sharded: bool = False  # `path` is a folder that the tensors are still to be read from: see `sharded`; not stored
    path: Path = Path()

    @property
    def identity(self) -> str:
        """The hash by which an adapter knows its base."""
        return self.known_as or content_hash(self.model)

    def make_tokenizer(self) -> Tokenizer:
        return tokenizer_files.from_state(dict(self.tokenizer), str(self.path))

    def make_model(self, config: ModelConfig) -> Transformer:
        """Build the model and fill in the weights. Raises KiaraError if they do not fit."""
        return model_from(config, self.model, str(self.path), self.quantize)

    def full_weights(self) -> Mapping[str, Tensor]:
        """Return the weights by name, quantized ones as the full matrices that they stand for."""
        return full_weights(self.model)

    def check_trainable(self, frozen: bool = False) -> None:
        """Raise KiaraError for quantized weights, unless they are `frozen`: a training step is smaller than the gap
        between two of them."""
        if self.quantize is not None and not frozen:
            raise KiaraError(
                f"{self.path} holds weights of {self.quantize.get('bits')} bits, too coarse to be trained",
                "train from the checkpoint that it was made from, or an adapter beside it: train.lora.rank=8",
            )


def save(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically: the file that was there survives any failure. Raises OSError."""
    write = _save_safetensors if path.suffix == ".safetensors" else _save_pt
    with replacing(path) as partial:
        try:
            write(checkpoint, partial)
        except (RuntimeError, SafetensorError) as error:  # how torch's and safetensors' writers report a full disk
            raise OSError(f"{path} could not be written whole") from error


def load(path: Path, weights_only: bool = False) -> Checkpoint:
    """Read a checkpoint; with `weights_only`, without the parts that only resuming needs.

    Raises KiaraError for a file that is missing, damaged, or holds anything but plain data.
    """
    try:
        content = _load_safetensors(path) if path.suffix == ".safetensors" else _load_pt(path)
        parts = {part: content[part] for part in PARTS}
        for part, value in parts.items():
            if not isinstance(value, dict) or (part == "model" and not all(map(torch.is_tensor, value.values()))):
                raise TypeError(part)
        parts |= {part: content.get(part) for part in OPTIONAL}
        if not isinstance(parts[BASE], str | None) or not all(
            isinstance(parts[part], dict | None) for part in (SCHEME, ADAPTER)
        ):
            raise TypeError(f"{SCHEME}, {BASE} or {ADAPTER}")
        if not weights_only:
            parts |= {part: content.get(part) for part in RESUME_PARTS}
        return Checkpoint(**parts, path=path)
    except (KeyError, TypeError) as error:
        raise KiaraError(f"{path} is not a Kiara checkpoint (no {error})", "give one that kiara wrote") from None


def weights_of(model: Transformer) -> dict[str, Tensor]:
    """Return the weights by name; a head tied to the embedding is left out, as it is the same tensor."""
    weights = dict(model.state_dict())
    if model.config.tied_head:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
    return weights


def model_from(
    config: ModelConfig, weights: Mapping[str, Tensor], origin: str, scheme: Mapping[str, Any] | None = None
) -> Transformer:
    """Build a model and fill in its weights, quantized ones where there is a scheme for them.

    No random weights are drawn first: that takes longer than reading them, and would change the state of torch's
    generator. (Building on the meta device draws nothing either, but imports 800 modules at the first `normal_`.)
    Raises KiaraError for weights that do not fit.
    """
    with NoDraws():
        model = Transformer(config, initialized=False)
    if scheme is not None:
        prepare(model, recorded(scheme, origin))
    load_weights(model, weights, origin)
    return model


def load_weights(model: Transformer, weights: Mapping[str, Tensor], origin: str) -> None:
    """Copy weights into a model. Raises KiaraError naming the first that does not fit."""
    own = weights_of(model)
    for name in sorted(own.keys() | weights.keys()):
        ours = tuple(own[name].shape) if name in own else "no such weight"
        theirs = tuple(weights[name].shape) if name in weights else "no such weight"
        if ours != theirs:
            raise KiaraError(
                f"{origin}: {name} is {theirs} in the file and {ours} in the model",
                "the file is damaged or its config was edited: use another checkpoint",
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(weights[name])


def _read(path: Path, read: Callable[[], Any]) -> Any:
    """Turn the many ways in which a file can be unreadable into one error."""
    remedy = "use another checkpoint"
    if not path.is_file():
        raise KiaraError(f"no checkpoint at {path}", "check the path")
    try:
        return read()
    except pickle.UnpicklingError:
        raise KiaraError(
            f"{path} holds more than plain tensors and was refused unread, as it could run code",
            "use a checkpoint that kiara wrote, or a .safetensors file",
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, SafetensorError, KeyError, zipfile.BadZipFile) as error:
        if isinstance(error, PermissionError):
            raise KiaraError(f"cannot read {path}: permission denied", "check its permissions") from None
        raise KiaraError(f"{path} is damaged or not a checkpoint", remedy) from None


def _check_format(version: object, path: Path) -> None:
    """Raise KiaraError for a file of a later format. One without a version is older and has nothing else in it."""
    if version is not None and (not isinstance(version, int) or version > FORMAT):
        raise KiaraError(
            f"{path} has format {version}, and this Kiara reads formats up to {FORMAT}",
            "update kiara-slm, or use another checkpoint",
        )


def _save_pt(checkpoint: Checkpoint, path: Path) -> None:
    content = {FORMAT_KEY: FORMAT} | {part: getattr(checkpoint, part) for part in PARTS}
    optional = (*RESUME_PARTS, *OPTIONAL)
    content |= {part: value for part in optional if (value := getattr(checkpoint, part)) is not None}
    torch.save(content, path)


def _save_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    parts = [part for part in PARTS if part != "model"]
    parts += [part for part in OPTIONAL if getattr(checkpoint, part) is not None]
    about = {FORMAT_KEY: str(FORMAT)} | {part: json.dumps(getattr(checkpoint, part)) for part in parts}
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.model.items()}
    save_file(weights, path, metadata={"format": "pt", "sha256": content_hash(weights), **about})


def content_hash(weights: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and bytes of all weights, in the order of their names.

    About 1 GB a second. A .safetensors file has it in its metadata.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _load_pt(path: Path) -> dict[str, Any]:
    def read() -> Any:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as entries:
                if (damaged := entries.testzip()) is not None:
                    raise zipfile.BadZipFile(damaged)
        with warnings.catch_warnings(action="ignore"):  # torch's, on files that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)

    content = _read(path, read)
    if not isinstance(content, dict):
        raise TypeError("dict")
    _check_format(content.get(FORMAT_KEY), path)
    return content


def _load_safetensors(path: Path) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            _check_format(json.loads(about.get(FORMAT_KEY, "null")), path)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if "sha256" in about and about["sha256"] != content_hash(weights):
            raise ValueError("sha256")
        return {"model": weights} | {part: json.loads(about[part]) for part in (*PARTS, *OPTIONAL) if part in about}

    content: dict[str, Any] = _read(path, read)
    return content
