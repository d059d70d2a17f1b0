"""A text as the mean of a Kiara model's states, weighted so that frequent tokens count little.

In: texts. Out: vectors of length 1. From the mean of all texts' vectors each is taken as a difference, without the
direction in which they differ most (Arora, Liang and Ma, A simple but tough-to-beat baseline for sentence embeddings,
2017). Both, and how frequent tokens are, are learned from the documents. Of a text that is too long for the model the
beginning counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiara_cli.config.load import Loaded
from kiara_cli.core.generate.opened import open_model
from kiara_cli.core.retrieve.tfidf import spread, unit
from kiara_cli.core.tokenizer.protocol import document_start
from kiara_cli.errors import KiaraError

RARE = 1e-3  # a token as frequent as that counts half (Arora et al. use 1e-3 to 1e-4)
SAMPLE = 2_000  # texts that frequencies and the main direction are learned from, at most
BATCH_TOKENS = 4096  # read at a time


class States:
    """Vectors from a checkpoint."""

    kind, fits, weight = "checkpoint", True, 0.35

    def __init__(self, word: str, loaded: Loaded) -> None:
        self._word, self._opened = word, open_model(word, loaded)
        self._opened.model.eval()
        self._context = self._opened.config.model.context_length
        self.dimensions = self._opened.config.model.emb_dim
        self._start = document_start(self._opened.tokenizer)
        self._weights = torch.ones(0)  # of each token
        self._mean = np.zeros(self.dimensions, np.float32)
        self._main = np.zeros(self.dimensions, np.float32)

    def identity(self) -> dict[str, Any]:
        path = self._opened.checkpoint.path
        return {"kind": self.kind, "word": self._word, "hash": hash_of([path])}

    def fit(self, texts: Sequence[str]) -> None:
        """Learn how frequent tokens are, and the mean and the main direction of the vectors."""
        sample = [texts[at] for at in spread(len(texts), SAMPLE)]
        assert self._opened.config.model.vocab_size is not None
        counts = torch.zeros(self._opened.config.model.vocab_size)
        for text in sample:
            counts += torch.bincount(torch.tensor(self._ids(text)), minlength=len(counts))
        self._weights = RARE / (RARE + counts / counts.sum())
        means = self._means(sample)
        self._mean = means.mean(axis=0)
        centred = means - self._mean
        self._main = np.linalg.svd(centred, full_matrices=False)[2][0] if len(sample) > 1 else 0 * self._mean

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (N, D). Raises KiaraError where the model's states are not finite."""
        centred = self._means(texts) - self._mean
        return unit(centred - (centred @ self._main)[:, None] * self._main)

    def question(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question, (D,)."""
        vector: NDArray[np.float32] = self.documents([text])[0]
        return vector

    def save(self, folder: Path) -> None:
        """Write what was learned."""
        np.savez(folder / "states.npz", weights=self._weights.numpy(), mean=self._mean, main=self._main)

    def load(self, folder: Path) -> None:
        """Read what was learned."""
        with np.load(folder / "states.npz") as learned:
            self._weights = torch.from_numpy(learned["weights"])
            self._mean, self._main = learned["mean"], learned["main"]

    def _ids(self, text: str) -> list[int]:
        return self._opened.tokenizer.encode(text)[: self._context - len(self._start)] or self._start[-1:]

    def _means(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the weighted mean states of texts, each of length 1 so that none outweighs the others, (N, D)."""
        ids = [self._ids(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        means, at = np.zeros((len(ids), self.dimensions), np.float32), 0
        while at < len(order):
            rows = [order[at]]
            while at + len(rows) < len(order) and len(ids[order[at + len(rows)]]) * (len(rows) + 1) <= BATCH_TOKENS:
                rows.append(order[at + len(rows)])
            means[rows] = self._batch([ids[number] for number in rows]).numpy()
            at += len(rows)
        if not np.isfinite(means).all():
            raise KiaraError(
                f"the states of {self._word} are not finite numbers",
                "its training has diverged: use another checkpoint",
            )
        return unit(means)

    def _batch(self, ids: Sequence[list[int]]) -> Tensor:
        """Return weighted means of states, (B, D); a causal model's states do not see the padding behind a text."""
        lead, longest = len(self._start), max(map(len, ids))
        padded = torch.tensor([self._start + row + [self._start[-1]] * (longest - len(row)) for row in ids])
        weights = self._weights[padded[:, lead:]]
        weights *= torch.arange(longest) < torch.tensor([[len(row)] for row in ids])
        with torch.inference_mode(), self._opened.runtime.precision():
            states = self._opened.model.states(padded.to(self._opened.runtime.device))[:, lead:].float().cpu()
        return (states * weights[..., None]).sum(1) / weights.sum(1, keepdim=True)  # (B, T, D) → (B, D)


def hash_of(paths: Sequence[Path]) -> str:
    """Return the SHA-256 over the content of files, in the given order."""
    seen = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            seen.update(hashlib.file_digest(file, "sha256").digest())
    return seen.hexdigest()
