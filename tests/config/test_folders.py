from pathlib import Path

import pytest

from kiara_cli.config.folders import cache_folder


def test_caches_live_where_the_person_says_else_where_caches_usually_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIARA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "kiara"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/kiara")
    monkeypatch.setenv("KIARA_CACHE", "mine")
    assert cache_folder() == Path("mine")
