"""Vectors from an OpenAI-compatible server, such as `kiara serve`: POST <address>/embeddings.

In: texts. Out: vectors of length 1. The network is used because the person typed an address; a redirect to another
is not followed, as the key would go there too. How the server's model embeds one fixed text is kept in the index, so
that another model behind the same address is noticed.
"""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from email.message import Message
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.retrieve.tfidf import unit
from kiara_cli.errors import KiaraError

BATCH = 64  # texts of a request
SECONDS = 120  # for an answer
LARGEST = 1 << 28  # bytes of an answer
TRIES, LONGEST_WAIT = 4, 30.0  # while the server is busy; seconds
BUSY = (429, 503)
PROBE = "The quick brown fox jumps over the lazy dog."
ALIKE = 0.999  # the product of the fixed text's vectors, then and now


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None


class Address:
    """A server's embeddings."""

    kind, fits, weight = "address", False, 1.0

    def __init__(self, address: str, model: str | None, key: str) -> None:
        self._address, self._model, self._key = address.rstrip("/"), model, key
        self._opener = urllib.request.build_opener(NoRedirect)
        self._probe = self._ask([PROBE])[0]
        self.dimensions = len(self._probe)

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "word": self._address, "model": self._model, "dimensions": self.dimensions}

    def fit(self, texts: Sequence[str]) -> None:
        """There is nothing to learn."""

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (N, D). Raises KiaraError."""
        return np.concatenate([self._ask(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)])

    def question(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question, (D,). Raises KiaraError."""
        vector: NDArray[np.float32] = self._ask([text])[0]
        return vector

    def save(self, folder: Path) -> None:
        """Keep the vector of the fixed text."""
        np.save(folder / "probe.npy", self._probe)

    def load(self, folder: Path) -> None:
        """Compare it. Raises KiaraError for another model."""
        if float(np.load(folder / "probe.npy") @ self._probe) < ALIKE:
            raise KiaraError(f"another model answers at {self._address}", "index again with --rebuild")

    def _ask(self, texts: Sequence[str]) -> NDArray[np.float32]:
        body = {"input": list(texts), "encoding_format": "float"} | ({"model": self._model} if self._model else {})
        headers = {"Content-Type": "application/json", "User-Agent": "kiara"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        request = urllib.request.Request(f"{self._address}/embeddings", json.dumps(body).encode(), headers)
        try:
            data = sorted(json.loads(self._send(request))["data"], key=lambda entry: int(entry["index"]))
            vectors = np.array([entry["embedding"] for entry in data], np.float32)
        except (ValueError, KeyError, TypeError):
            raise KiaraError(
                f"{self._address} answered with no embeddings", "give the address of an API's /v1"
            ) from None
        wanted = (len(texts), getattr(self, "dimensions", vectors.shape[-1]))
        if vectors.shape != wanted or not np.isfinite(vectors).all():
            raise KiaraError(
                f"{self._address} answered with vectors {vectors.shape} where {wanted} were asked for",
                "check the server",
            )
        return unit(vectors)

    def _send(self, request: urllib.request.Request) -> bytes:
        """Return the body of the answer; wait and ask again while the server is busy. Raises KiaraError."""
        for attempt in range(TRIES):
            try:
                with self._opener.open(request, timeout=SECONDS) as answer:
                    body: bytes = answer.read(LARGEST)
                    return body
            except urllib.error.HTTPError as error:
                if error.code not in BUSY or attempt + 1 == TRIES:
                    raise self._refused(error) from None
                wait = error.headers.get("Retry-After", "")
                time.sleep(min(LONGEST_WAIT, float(wait) if wait.isdigit() else 2.0**attempt))
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", None) or error
                raise KiaraError(
                    f"cannot reach {self._address}: {getattr(reason, 'strerror', None) or reason}",
                    "check the address (such as http://127.0.0.1:8000/v1) and whether the server runs",
                ) from None
        raise AssertionError

    def _refused(self, error: urllib.error.HTTPError) -> KiaraError:
        """Say what the server said, without the key."""
        said = error.read(100_000).decode(errors="replace")
        try:
            said = str(json.loads(said)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            said = " ".join(said.split())[:200]
        remedies = {
            401: "set $KIARA_EMBEDDINGS_KEY or retrieve.embedding_key_file",
            404: "check the address, which ends in /v1 as a rule, and retrieve.embedding_model",
            400: "set a smaller retrieve.chunk_chars if the texts are too long, or another retrieve.embedding_model",
        }
        return KiaraError(
            f"{self._address} answered {error.code}: {said}", remedies.get(error.code, "look at the server's log")
        )
