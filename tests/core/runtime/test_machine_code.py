import os
from pathlib import Path

import pytest

from kiara_cli.core.runtime import machine_code
from kiara_cli.errors import KiaraError

posix = pytest.mark.skipif(os.name != "posix", reason="owners and modes are those of POSIX")


def kept(folder: Path) -> Path:
    return machine_code.keep(folder, "name", lambda path: path.write_bytes(b"code"))


def test_what_is_kept_is_found_again_in_a_folder_of_the_users_own() -> None:
    folder = Path("cache/compiled")
    assert machine_code.find(folder, "name") is None
    path = kept(folder)
    assert machine_code.find(folder, "name") == path
    assert machine_code.find(folder, "other") is None
    assert [p for p in folder.iterdir() if p.name.startswith(".")] == []


@posix
def test_the_folder_is_closed_to_others() -> None:
    kept(Path("cache"))
    assert Path("cache").stat().st_mode & 0o777 == 0o700


def test_damaged_code_is_not_loaded() -> None:
    path = kept(Path("cache"))
    path.write_bytes(b"codX")
    assert machine_code.find(Path("cache"), "name") is None
    kept(Path("cache"))
    path.with_suffix(".sha256").unlink()
    assert machine_code.find(Path("cache"), "name") is None


@posix
@pytest.mark.parametrize("open_to_others", [Path("cache"), Path("cache/name.pt2")])
def test_code_that_others_could_have_written_is_not_loaded(open_to_others: Path) -> None:
    kept(Path("cache"))
    open_to_others.chmod(0o777)
    assert machine_code.find(Path("cache"), "name") is None


def test_a_folder_that_cannot_be_written_is_a_mistake() -> None:
    Path("cache").write_text("a file")
    with pytest.raises(KiaraError, match="cannot be kept in cache"):
        kept(Path("cache"))


def test_what_cannot_be_loaded_is_not_there() -> None:
    assert machine_code.load(kept(Path("cache"))) is None


def test_the_key_tells_shapes_apart() -> None:
    assert machine_code.key(width=1) == machine_code.key(width=1) != machine_code.key(width=2)


def test_without_a_compiler_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_code.shutil, "which", lambda name: None)
    with pytest.raises(KiaraError, match="needs a C\\+\\+ compiler"):
        machine_code.build(None, (), (), Path("x.pt2"))  # type: ignore[arg-type]
