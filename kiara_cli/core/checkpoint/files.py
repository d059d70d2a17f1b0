"""Checkpoint files: the one module that writes and reads .pt and .safetensors.

In: weights, config, tokenizer, metrics, and for resuming the optimizer and progress. Out: one file, whole or not
there at all. Reading executes nothing: only plain tensors and containers are accepted.

Each file carries its checksum. A .pt is a zip file whose every entry has a CRC-32; torch writes them and does not
look at them again, so `load` does. A .safetensors has the SHA-256 of its weights among its metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kiara_cli.config.schema import ModelConfig
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.quantize.apply import full_weights, prepare
from kiara_cli.core.quantize.scheme import recorded
from kiara_cli.core.tokenizer import files as tokenizer_files
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError

SUFFIXES = (".pt", ".safetensors")
PARTS = ("model", "config", "tokenizer", "metrics", "data")  # in every file
RESUME_PARTS = ("optimizer", "progress")  # in last.pt and step_*.pt as well
SCHEME = "quantize"  # in files of small weights: how they are stored


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
    quantize: Mapping[str, Any] | None = None  # the scheme, where weights are stored as small numbers
    path: Path = Path()

    def make_tokenizer(self) -> Tokenizer:
        return tokenizer_files.from_state(dict(self.tokenizer), str(self.path))

    def make_model(self, config: ModelConfig) -> Transformer:
        """Build the model and fill in the weights. Raises KiaraError if they do not fit."""
        model = Transformer(config)
        if self.quantize is not None:
            prepare(model, recorded(self.quantize, str(self.path)))
        load_weights(model, self.model, str(self.path))
        return model

    def full_weights(self) -> Mapping[str, Tensor]:
        """Return the weights by name, small ones as the full matrices that they stand for."""
        return full_weights(self.model)

    def check_trainable(self) -> None:
        """Raise KiaraError for small weights: the steps of training are smaller than the gaps between them."""
        if self.quantize is not None:
            raise KiaraError(
                f"{self.path} holds weights of {self.quantize.get('bits')} bits, too coarse to be trained",
                "train from the checkpoint that it was made from",
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
        parts[SCHEME] = content.get(SCHEME)
        if not isinstance(parts[SCHEME], dict | None):
            raise TypeError(SCHEME)
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


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to a temporary file beside `path`, then put it in its place: fsync, rename, fsync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial{path.suffix}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def link(existing: Path, path: Path) -> None:
    """Give a file a second name, replacing atomically; a copy where the file system has no hard links."""
    with replacing(path) as partial:
        try:
            os.link(existing, partial)
        except OSError:
            partial.write_bytes(existing.read_bytes())


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def _save_pt(checkpoint: Checkpoint, path: Path) -> None:
    content = {part: getattr(checkpoint, part) for part in PARTS}
    content |= {part: value for part in (*RESUME_PARTS, SCHEME) if (value := getattr(checkpoint, part)) is not None}
    torch.save(content, path)


def _save_safetensors(checkpoint: Checkpoint, path: Path) -> None:
    parts = [part for part in PARTS if part != "model"] + [SCHEME] * (checkpoint.quantize is not None)
    about = {part: json.dumps(getattr(checkpoint, part)) for part in parts}
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.model.items()}
    save_file(weights, path, metadata={"format": "pt", "sha256": _digest(weights), **about})


def _digest(weights: Mapping[str, Tensor]) -> str:
    """Hash names, types, shapes and bytes of all weights, in the order of their names."""
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
    return content


def _load_safetensors(path: Path) -> dict[str, Any]:
    def read() -> dict[str, Any]:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        if "sha256" in about and about["sha256"] != _digest(weights):
            raise ValueError("sha256")
        return {"model": weights} | {part: json.loads(about[part]) for part in (*PARTS, SCHEME) if part in about}

    content: dict[str, Any] = _read(path, read)
    return content
