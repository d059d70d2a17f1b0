"""Sharded checkpoints: a folder that every process of a group writes its share into, by torch.distributed.checkpoint.

In: tensors by name, each process's shares of them, and a `Checkpoint` of all the rest. Out: step_0000100/, whole or
not there at all:
    rest                config, tokenizer, progress …: a checkpoint file without weights
    __0_0.distcp …      tensors, a file a process
    .metadata           the index: which tensor lies where, in which pieces; any number of processes reads it
The index is a pickle. PyTorch's reader would run whatever it holds, so `Index` reads it instead, and takes from it
the few classes that describe tensors: a folder from a stranger can be refused, but runs nothing.
"""

from __future__ import annotations

import dataclasses
import pickle
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from kiara_cli.core.checkpoint import files
from kiara_cli.core.checkpoint.atomic import sync_folder
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.runtime.ranks import Agreed
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

REST, INDEX = "rest", ".metadata"
PLAIN = {  # what an index of tensors is made of; of torch itself also sizes, types and layouts
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "MetadataIndex", "TensorStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
        "_MEM_FORMAT_ENCODING", "StorageMeta",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"PosixPath", "WindowsPath"},
    "torch": {"Size", "float32", "float64", "bfloat16", "float16", "int64", "int32", "int16", "int8", "uint8"},
}  # fmt: skip


class Index(pickle.Unpickler):
    """Read an index without running anything: other classes than those of `PLAIN` are refused."""

    def find_class(self, module: str, name: str) -> Any:
        if name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name}")


@dataclasses.dataclass
class Saving:
    """A sharded checkpoint that is being written, while the training goes on."""

    step: int
    folder: Path
    partial: Path
    written: Future[Any]
    began: float

    @property
    def failed(self) -> bool:
        return self.written.done() and self.written.exception() is not None

    def finish(self) -> float:
        """Wait until every process has written; return the seconds since it began. Raises KiaraError."""
        try:
            self.written.result()
        except BaseException as error:
            raise Agreed(
                f"{self.folder} could not be written: {_reason(error)}", "check space and permissions there"
            ) from error
        return time.perf_counter() - self.began

    def publish(self) -> None:
        """Give it its name: one process does."""
        self.partial.rename(self.folder)
        sync_folder(self.folder.parent)


def begin(tensors: Mapping[str, Tensor], rest: Checkpoint | None, folder: Path, step: int, group: Any) -> Saving:
    """Copy the tensors and begin to write them; `rest` is given by one process. Every process of `group` calls this.

    `group` is for this alone: another thread uses it.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import async_save

    began, partial = time.perf_counter(), folder.with_name(f".{folder.name}.partial")
    if rest is not None:
        files.save(rest, partial / REST)
    writer = FileSystemWriter(partial, sync_files=True)
    written = async_save(dict(tensors), storage_writer=writer, process_group=group)
    return Saving(step, folder, partial, written, began)  # type: ignore[arg-type]


def load(folder: Path) -> Checkpoint:
    """Read what is beside the tensors, and see that they are all there; `fill` reads them. Raises KiaraError."""
    rest = files.load(folder / REST)
    index = read_index(folder)
    for place in index.storage_data.values():
        path = folder / place.relative_path
        if path.parent != folder or not path.is_file() or path.stat().st_size < place.offset + place.length:
            raise KiaraError(f"{folder} is not whole: {place.relative_path} is damaged or not there", "restore it")
    return dataclasses.replace(rest, path=folder, sharded=True)


def read_index(folder: Path) -> Metadata:
    """Read the index. Raises KiaraError if it is not there, damaged, or would run code."""
    from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

    try:
        with (folder / INDEX).open("rb") as file:
            index = Index(file).load()
        if not isinstance(index, Metadata) or not all(
            isinstance(one, TensorStorageMetadata) for one in index.state_dict_metadata.values()
        ):
            raise pickle.UnpicklingError("other things than tensors")
    except pickle.UnpicklingError as error:
        raise KiaraError(
            f"{folder / INDEX} holds more than an index of tensors ({error}) and was refused, as it could run code",
            "use a checkpoint that kiara wrote",
        ) from None
    except (OSError, EOFError, ValueError, TypeError, AttributeError, LookupError, ImportError, NotImplementedError):
        raise KiaraError(f"{folder} is not whole: {INDEX} is damaged or not there", "restore it") from None
    return index


def fill(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Read a sharded checkpoint into tensors, whole ones or this process's shares. Raises KiaraError."""
    import torch.distributed as dist
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict_loader import load as read

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
            return read_index(folder)

    known = read_index(folder).state_dict_metadata
    for name, tensor in tensors.items():
        theirs = tuple(known[name].size) if name in known else "not there"  # type: ignore[union-attr]
        if theirs != tuple(tensor.shape):
            raise KiaraError(
                f"{folder}: {name} is {theirs} there and {tuple(tensor.shape)} here", "use another checkpoint"
            )
    with warnings.catch_warnings(action="ignore"):  # that one process alone reads it
        read(dict(tensors), storage_reader=Reader(folder), no_dist=not dist.is_initialized())


def _reason(error: BaseException) -> str:
    """Say in one line what went wrong in the first process in which something did."""
    failures: Mapping[int, Any] = getattr(error, "failures", {})
    for rank, (cause, _) in sorted(failures.items()):
        return f"process {rank}: {type(cause).__name__}: {cause}".splitlines()[0]
    return f"{type(error).__name__}: {error}".splitlines()[0]
