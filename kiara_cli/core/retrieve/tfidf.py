"""TF-IDF with truncated SVD: vectors without any model, fitted on the documents themselves.

In: texts. Out: vectors of length 1 in which texts that keep the same company of words are near each other (Deerwester
et al., Indexing by latent semantic analysis, 1990). Besides words their runs of four letters count (Bojanowski et
al., Enriching word vectors with subword information, 2017): `collapsing` is near `collapsed`, and a word never
seen has a vector. The decomposition is randomized (Halko, Martinsson and Tropp, 2011): a few products with sparse
matrices, which torch has, so that neither scipy nor scikit-learn is needed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kiara_cli.core.retrieve.words import Words

FEATURES = 1 << 16  # words and runs of letters that are kept: those in the most texts
RUN, RUN_WEIGHT = 4, 0.6  # letters of a run, and what one counts beside a word; tuned on benchmarks/retrieval.py
SAMPLE = 50_000  # texts that are decomposed at most, evenly spread
SPARE, PASSES = 16, 4  # further directions and passes of the randomized decomposition
FLATTEN = -0.5  # a direction counts by this power of its singular value: the strong ones say what all texts share


class TfIdf:
    """Fitted weights and directions."""

    kind, fits = "tfidf", True
    weight = 0.35  # of its ranking beside BM25's; tuned on benchmarks/retrieval.py

    def __init__(self, dimensions: int = 256) -> None:
        self.dimensions = dimensions
        self._features: dict[str, int] = {}
        self._idf: NDArray[np.float32] = np.zeros(0, np.float32)
        self._directions = torch.zeros(0, dimensions)  # (features, D)
        self._words = Words()

    def identity(self) -> dict[str, Any]:
        """Return what tells it from other embedders: nothing but its kind; what was fitted lies in the index."""
        return {"kind": self.kind, "word": self.kind}

    def fit(self, texts: Sequence[str]) -> None:
        """Learn which features there are, how much each says, and the directions in which texts differ."""
        sample = [Counter(self._words.terms(texts[at])) for at in spread(len(texts), SAMPLE)]
        runs = {term: features_of(term) for term in dict.fromkeys(chain.from_iterable(sample))}
        seen: Counter[str] = Counter()
        for count in sample:
            seen.update(set(chain.from_iterable(runs[term] for term in count)))
        fewest = 2 if len(sample) >= 100 else 1
        commonest = sorted(seen.items(), key=lambda item: (-item[1], item[0]))[:FEATURES]
        kept = [(feature, number) for feature, number in commonest if number >= fewest]
        self._features = {feature: number for number, (feature, _) in enumerate(kept)}
        self._idf = np.log((1 + len(sample)) / (1 + np.array([number for _, number in kept], np.float32))) + 1
        terms = list(runs)
        by_text, by_feature = self._texts(sample, terms), self._terms(terms)
        width = min(self.dimensions, max(0, min(len(sample), len(kept)) - 1))
        strength, directions = decompose(by_text, by_feature, width + 1)
        self._directions = directions[:, 1:] * strength[1:].clamp(min=1e-6) ** FLATTEN  # the first: what is common
        self.dimensions = self._directions.shape[1]

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the vectors of texts, (N, D)."""
        return self._vectors([Counter(self._words.terms(text)) for text in texts])

    def _vectors(self, counts: Sequence[Counter[str]]) -> NDArray[np.float32]:
        """Return the vectors of counted terms, (N, D)."""
        terms = list(dict.fromkeys(chain.from_iterable(counts)))
        with torch.inference_mode():
            vectors = torch.sparse.mm(self._terms(terms), self._directions)  # (terms, D)
            return unit(torch.sparse.mm(self._texts(counts, terms), vectors).numpy())

    def question(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a question, (D,)."""
        vector: NDArray[np.float32] = self._vectors([Counter(self._words.asked(text))])[0]
        return vector

    def save(self, folder: Path) -> None:
        """Write what was fitted."""
        (folder / "features.json").write_text(json.dumps(list(self._features), ensure_ascii=False), encoding="utf-8")
        np.save(folder / "idf.npy", self._idf)
        np.save(folder / "directions.npy", self._directions.numpy())

    def load(self, folder: Path) -> None:
        """Read what was fitted."""
        features = json.loads((folder / "features.json").read_text(encoding="utf-8"))
        self._features = {feature: number for number, feature in enumerate(features)}
        self._idf = np.load(folder / "idf.npy")
        self._directions = torch.from_numpy(np.load(folder / "directions.npy"))
        self.dimensions = self._directions.shape[1]

    def _terms(self, terms: Sequence[str]) -> Tensor:
        """Return what each term is made of, (terms, features)."""

        def entries() -> Iterator[tuple[int, int, float]]:
            for row, term in enumerate(terms):
                for feature in features_of(term):
                    if (number := self._features.get(feature)) is not None:
                        yield row, number, float(self._idf[number]) * (RUN_WEIGHT if feature[0] == "#" else 1.0)

        return sparse(entries(), (len(terms), len(self._features)))

    def _texts(self, counts: Sequence[Counter[str]], terms: Sequence[str]) -> Tensor:
        """Return the weights of the terms of texts, each row of length 1, (N, terms)."""
        number = {term: at for at, term in enumerate(terms)}

        def entries() -> Iterator[tuple[int, int, float]]:
            for row, count in enumerate(counts):
                weights = 1 + np.log(np.fromiter(count.values(), np.float32, len(count)))
                weights /= np.linalg.norm(weights) or 1.0
                for term, weight in zip(count, weights.tolist(), strict=True):
                    yield row, number[term], weight

        return sparse(entries(), (len(counts), len(terms)))


def features_of(term: str) -> tuple[str, ...]:
    """Return a term and, of one of letters, its runs of four of them with marks at both ends."""
    if not term.isalpha() or len(term) < RUN - 1:
        return (term,)
    marked = f"<{term}>"
    return (term, *dict.fromkeys(f"#{marked[at : at + RUN]}" for at in range(len(marked) - RUN + 1)))


def decompose(by_text: Tensor, by_feature: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return the largest singular values and right directions of the product of two sparse matrices.

    (N, terms) and (terms, features) → (rank,) and (features, rank). Halko, Martinsson and Tropp, algorithm 4.4.
    """
    features = by_feature.shape[1]
    width = min(rank + SPARE, *by_text.shape, features)
    basis = torch.randn(features, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        there, back = (by_text, by_feature), (by_feature.t().coalesce(), by_text.t().coalesce())

        def through(matrices: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
            product: Tensor = torch.sparse.mm(matrices[0], torch.sparse.mm(matrices[1], x))
            return product

        for _ in range(PASSES):
            basis = torch.linalg.qr(through(back, through(there, basis)))[0]
        _, values, right = torch.linalg.svd(through(there, basis), full_matrices=False)
        return values[:rank].clone(), (basis @ right.T)[:, :rank].contiguous()


def sparse(entries: Iterable[tuple[int, int, float]], shape: tuple[int, int]) -> Tensor:
    """Make a sparse matrix of (row, column, value)."""
    table = np.fromiter(entries, np.dtype([("row", "<i8"), ("column", "<i8"), ("value", "<f4")]))
    where = torch.from_numpy(np.stack([table["row"], table["column"]]))
    values = torch.from_numpy(np.ascontiguousarray(table["value"]))
    matrix: Tensor = torch.sparse_coo_tensor(where, values, shape, check_invariants=False).coalesce()
    return matrix


def spread(count: int, most: int) -> Iterable[int]:
    """Return at most so many numbers below `count`, evenly spread."""
    return range(count) if count <= most else np.linspace(0, count - 1, most).astype(int).tolist()


def unit(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return rows of length 1; a row of zeros stays one."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)
