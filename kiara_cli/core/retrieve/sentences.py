"""Vectors from a sentence-transformers model in a folder on this machine (extra `sentences`).

In: texts. Out: vectors of length 1. Nothing is downloaded, no code of the folder runs, and its weights must be
safetensors: nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kiara_cli.core.retrieve.states import hash_of
from kiara_cli.core.retrieve.tfidf import unit
from kiara_cli.errors import KiaraError

BATCH = 32


class Sentences:
    """A sentence-transformers model."""

    kind, fits, weight = "sentences", False, 1.0

    def __init__(self, folder: Path) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise KiaraError(
                f"{folder} needs sentence-transformers, which is not installed",
                "run: pip install 'kiara-slm[sentences]'",
            ) from None
        if not list(folder.rglob("*.safetensors")):
            raise KiaraError(
                f"{folder} holds no .safetensors weights", "save it with safetensors: no others are read"
            )
        self._folder = folder
        try:
            self._model = SentenceTransformer(
                str(folder), local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
            self.dimensions = int(self.documents([""]).shape[1])
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise KiaraError(f"cannot open {folder}: {str(error).splitlines()[0]}", "give a whole folder") from None

    def identity(self) -> dict[str, Any]:
        files = sorted(path for path in self._folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
        return {"kind": self.kind, "word": str(self._folder), "hash": hash_of(files)}

    def fit(self, texts: Sequence[str]) -> None:
        """There is nothing to learn."""

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (N, D)."""
        return unit(self._model.encode(list(texts), batch_size=BATCH, show_progress_bar=False))

    def question(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question, (D,)."""
        vector: NDArray[np.float32] = self.documents([text])[0]
        return vector

    def save(self, folder: Path) -> None:
        """There is nothing to keep."""

    def load(self, folder: Path) -> None:
        """There is nothing to read."""
