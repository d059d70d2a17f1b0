"""kiara serve's own /v1/embeddings makes the vectors of an index."""

from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.config.load import from_mapping
from kiara_cli.core.retrieve.build import build
from kiara_cli.core.retrieve.embed import Means
from kiara_cli.core.retrieve.search import open_index
from kiara_cli.errors import KiaraError
from tests.core.serve.conftest import Running


def test_an_index_takes_its_vectors_from_kiara_serve(
    up: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.md").write_text("# One\n\nthe cat\n\n# Two\n\nthe dog\n")
    means = Means(
        from_mapping({"retrieve": {"embedder": f"{up.url}/v1", "chunk_chars": 80, "overlap_chars": 0}}, "t")
    )
    built = build(["a.md"], "own", means=means)
    assert (built.embedded, built.dimensions) == (2, up.served.engine.config.emb_dim)
    assert open_index("own", means=means).search("the dog", 1)[0].text == "the dog"
    Path("a.md").write_text("word " * 2000)
    long = Means(from_mapping({"retrieve": {"embedder": f"{up.url}/v1", "chunk_chars": 9000}}, "t"))
    with pytest.raises(KiaraError, match=r"answered 400: .*retrieve.chunk_chars"):
        build(["a.md"], "long", means=long)
