import os
import tempfile
from pathlib import Path

import pytest

from kiara_cli.config.folders import cache_folder, expanded


def test_caches_live_where_the_person_says_else_where_caches_usually_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIARA_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "kiara"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert cache_folder() == Path("/caches/kiara")
    monkeypatch.setenv("KIARA_CACHE", "mine")
    assert cache_folder() == Path("mine")
    monkeypatch.setenv("KIARA_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"


def test_a_user_without_a_home_has_a_cache_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KIARA_CACHE")
    monkeypatch.setattr("os.path.expanduser", lambda path: os.fspath(path))  # as under a number that no user has
    assert cache_folder() == Path(tempfile.gettempdir(), f"kiara-{os.getuid()}")


def test_a_tilde_is_a_home_where_it_can_be_one_and_a_letter_everywhere_else() -> None:
    assert expanded("~/x") == Path.home() / "x"
    for name in ("~draft.txt", "~$book.txt", "./~x", "a~b"):
        assert expanded(name) == Path(name)
    Path("~root").touch()
    assert expanded("~root") == Path("~root")
