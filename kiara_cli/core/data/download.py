"""One file from the network to the cache: resumed where it stopped, and verified.

In: an address, and size and hash where they are known. Out: the path of a whole file. What is not whole keeps the
ending .part and is never taken for the file.

Kept although libraries download: pooch 1.9 and fsspec 2026.9 ask for no range, so a gigabyte that broke off at its
end is fetched again from its beginning.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from kiara_cli.errors import KiaraError

TIMEOUT = 30.0  # seconds without a byte: the server has stalled
ATTEMPTS = 5  # in a row that bring nothing new
CHUNK = 1 << 18
AGAIN = "run the same again to go on where it stopped"

Report: TypeAlias = Callable[[str, int, int], None]  # what is done, bytes done, bytes in all (0: not known)


@dataclass(frozen=True)
class Remote:
    """A file to download, and what is known of it."""

    address: str
    name: str
    size: int | None = None
    sha256: str | None = None


def cached(remote: Remote, folder: Path) -> bool:
    """Say whether the file is here already."""
    return (folder / remote.name).is_file()


def download(remote: Remote, folder: Path, report: Report) -> Path:
    """Return the path of the file, fetching what is missing of it. Raises KiaraError.

    A file whose hash nobody stated is held to the hash it had when it was fetched, kept beside it.
    """
    path, part = folder / remote.name, folder / f"{remote.name}.part"
    pinned = folder / f"{remote.name}.sha256"
    wanted = remote.sha256 or (pinned.read_text().strip() if pinned.is_file() else None)
    if path.is_file():
        _verify(path, remote, wanted, f"delete {path} and run the same again")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    _fetch(remote, part, report)
    try:
        found = _verify(part, remote, wanted, "run the same again to fetch it anew")
    except KiaraError:
        part.unlink()
        raise
    if remote.sha256 is None:
        pinned.write_text(found + "\n")
    part.replace(path)
    part.with_suffix(".etag").unlink(missing_ok=True)
    return path


def _fetch(remote: Remote, part: Path, report: Report) -> None:
    """Append to the part until the server says that it is whole; try again as long as that brings something."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _fetch_once(remote, part, report):
                return
            reason = "the server stopped early"
        except urllib.error.HTTPError as error:
            raise KiaraError(
                f"cannot download {remote.address}: the server says {error.code} {error.reason}",
                "try later, or give a file of your own",
            ) from None
        except (OSError, http.client.HTTPException) as error:
            stalled = isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError)
            reason = f"nothing came for {TIMEOUT:g} s" if stalled else str(error) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failures = failures + 1 if after <= before else 0
        if failures == ATTEMPTS or (after == 0 and failures):
            raise KiaraError(f"the download of {remote.address} broke off at {after:,} bytes: {reason}", AGAIN)


def _fetch_once(remote: Remote, part: Path, report: Report) -> bool:
    """Append to the part what one request brings; return whether it is whole."""
    etag = part.with_suffix(".etag")
    start = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "kiara", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if etag.is_file():
            headers["If-Range"] = etag.read_text()
    request = urllib.request.Request(remote.address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # the part is as long as the file, or longer: the hash decides
            return True
        raise
    with answer:
        if answer.status != 206:
            start = 0  # the server sends all of it
        total = start + int(answer.headers.get("Content-Length") or 0)
        if start == 0:
            _remember(etag, answer.headers.get("ETag"))
        with part.open("ab" if start else "wb") as file:
            while raw := answer.read1(CHUNK):
                file.write(raw)
                start += len(raw)
                report(f"downloading {remote.address}", start, total)
    return start >= total


def _remember(path: Path, etag: Any) -> None:
    """Note which version of the file the part is of, so that two are never mixed."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    if isinstance(etag, str) and not etag.startswith("W/"):
        path.write_text(etag)


def _verify(path: Path, remote: Remote, wanted: str | None, remedy: str) -> str:
    """Return the file's SHA-256. Raises KiaraError if it is not the one wanted."""
    seen = hashlib.sha256()
    with path.open("rb") as file:
        while raw := file.read(1 << 20):
            seen.update(raw)
    size, found = path.stat().st_size, seen.hexdigest()
    if (remote.size is not None and size != remote.size) or (wanted is not None and found != wanted):
        raise KiaraError(
            f"{remote.name} from {remote.address} is not what it should be ({size:,} bytes, sha256 {found[:12]}…)",
            remedy,
        )
    return found
