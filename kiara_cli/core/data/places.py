"""Where bytes are: files on this machine, or addresses such as s3://bucket/texts (extra `data`).

In: a path or an address. Out: open files, and folders in which whole files appear at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, cast

from kiara_cli.errors import KiaraError


def is_address(word: str) -> bool:
    return "://" in word


def missing(package: str, what: str) -> KiaraError:
    """Say which extra a package belongs to."""
    return KiaraError(f"{what} needs {package}, which is not installed", "run: pip install 'kiara-slm[data]'")


def unreadable(address: str, error: Exception) -> KiaraError:
    """Turn what went wrong with a file into one line."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
    return KiaraError(f"cannot read {address}: {reason}", "check the path and its permissions")


def open_bytes(address: str) -> BinaryIO:
    """Open for reading. Raises KiaraError."""
    try:
        if not is_address(address):
            return open(address, "rb")
        system, path = remote(address)
        return cast(BinaryIO, system.open(path, "rb"))
    except OSError as error:
        raise unreadable(address, error) from None


class Place:
    """A folder, here or at an address, in which files appear whole or not at all."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._system: Any = None
        self._path = address
        if is_address(address):
            self._system, self._path = remote(address)
            self.scratch = Path(tempfile.mkdtemp(prefix="kiara-"))
        else:
            self.scratch = Path(address)
            self.scratch.mkdir(parents=True, exist_ok=True)

    def put(self, scratch: Path, name: str) -> None:
        """Move a finished file from the scratch folder to its name."""
        if self._system is None:
            os.replace(scratch, Path(self._path, name))
            return
        self._system.makedirs(self._path, exist_ok=True)
        self._system.put_file(str(scratch), f"{self._path}/{name}")
        scratch.unlink()

    def open(self, name: str) -> BinaryIO:
        return open_bytes(f"{self.address}/{name}")

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file."""
        exists = self._system.exists if self._system is not None else os.path.exists
        if not exists(f"{self._path}/{name}"):
            return None
        with self.open(name) as file:
            return file.read()

    def close(self) -> None:
        """Drop the scratch folder where it is one of its own."""
        if self._system is not None:
            shutil.rmtree(self.scratch, ignore_errors=True)

    def remove(self) -> None:
        """Delete the folder."""
        if self._system is None:
            shutil.rmtree(self._path, ignore_errors=True)
        elif self._system.exists(self._path):
            self._system.rm(self._path, recursive=True)
        self.close()


def copy_out(folder: Path, address: str) -> None:
    """Copy the files of a folder to an address, meta.json last: what has it is whole."""
    system, path = remote(address)
    system.makedirs(path, exist_ok=True)
    for file in sorted(folder.iterdir(), key=lambda file: file.name == "meta.json"):
        system.put_file(str(file), f"{path}/{file.name}")


def copy_in(address: str, folder: Path) -> None:
    """Copy the files at an address into a new folder, which appears whole or not at all. Raises KiaraError."""
    system, path = remote(address)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)  # of a process of the same number that was killed
    partial.mkdir(parents=True)
    try:
        for name in system.ls(path, detail=False):
            system.get_file(name, str(partial / name.rsplit("/", 1)[-1]))
        partial.rename(folder)
    except OSError as error:
        raise unreadable(address, error) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def remote(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it. Raises KiaraError."""
    try:
        import fsspec
    except ImportError:
        raise missing("fsspec", f"the address {address}") from None
    try:
        system, path = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise KiaraError(f"cannot open {address}: {error}", "install what that kind of address needs") from None
    return system, path.rstrip("/")
