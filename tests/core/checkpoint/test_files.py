from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kiara_cli.config.load import from_mapping
from kiara_cli.config.model import ModelConfig
from kiara_cli.core.checkpoint import atomic, files
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.errors import KiaraError

SUFFIXES = (".pt", ".safetensors")


def assert_plain(value: Any) -> None:
    """Fail unless a value is made of tensors, plain containers and scalars."""
    if type(value) is dict:
        for key, inner in value.items():
            assert type(key) in (str, int)
            assert_plain(inner)
    elif type(value) in (list, tuple):
        for inner in value:
            assert_plain(inner)
    else:
        assert type(value) in (torch.Tensor, str, int, float, bool, type(None)), type(value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """Make the operating system refuse writes beyond `size`, as a full disk would (Python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_saved_is_loaded_bit_for_bit(make: Any, tmp_path: Path, suffix: str) -> None:
    saved, path = make(), tmp_path / f"a{suffix}"
    files.save(saved, path)
    loaded = files.load(path)
    assert loaded.model.keys() == saved.model.keys()
    for name, tensor in saved.model.items():
        assert loaded.model[name].dtype == tensor.dtype
        assert torch.equal(loaded.model[name], tensor)
    for part in ("config", "tokenizer", "metrics", "data"):
        assert getattr(loaded, part) == getattr(saved, part)
    assert loaded.make_tokenizer().encode("漢b") == saved.make_tokenizer().encode("漢b")
    assert loaded.optimizer is None
    assert loaded.progress is None
    assert loaded.path == path


def test_a_resumable_file_keeps_optimizer_and_progress_bit_for_bit(make: Any, tmp_path: Path) -> None:
    saved = make(resumable=True)
    files.save(saved, tmp_path / "a.pt")
    loaded = files.load(tmp_path / "a.pt")
    assert saved.optimizer["param_groups"] == loaded.optimizer["param_groups"]  # type: ignore[index]
    for index, state in saved.optimizer["state"].items():
        for name, tensor in state.items():
            assert torch.equal(loaded.optimizer["state"][index][name], tensor)  # type: ignore[index]
    assert loaded.progress is not None
    assert loaded.progress["step"] == 7
    assert torch.equal(loaded.progress["random"]["cpu"], saved.progress["random"]["cpu"])
    assert files.load(tmp_path / "a.pt", weights_only=True).optimizer is None


def test_a_pt_file_is_one_dict_of_plain_values_that_torch_opens_without_running_code(
    make: Any, tmp_path: Path
) -> None:
    files.save(make(resumable=True), tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    parts = {"model", "config", "tokenizer", "metrics", "data", "optimizer", "progress"}
    assert set(content) == {"format_version", *parts}
    assert_plain(content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_tied_head_is_stored_once_and_tied_again(make: Any, tmp_path: Path, tiny: ModelConfig, suffix: str) -> None:
    saved = make()
    assert "head.weight" not in saved.model
    files.save(saved, tmp_path / f"a{suffix}")
    model = files.load(tmp_path / f"a{suffix}").make_model(tiny)
    assert model.head.weight is model.tokens.weight
    assert torch.equal(model.tokens.weight, saved.model["tokens.weight"])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_says_its_format_and_a_later_one_is_refused_while_an_older_one_loads(
    make: Any, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"a{suffix}"
    with monkeypatch.context() as later:
        later.setattr(files, "FORMAT", files.FORMAT + 1)
        files.save(make(), path)
        files.load(path)
    with pytest.raises(KiaraError, match=rf"a{suffix} has format 3, .*up to 2; update kiara-slm"):
        files.load(path)
    files.save(make(), path)
    if suffix == ".pt":
        content = torch.load(path)
        assert content.pop("format_version") == 2
        torch.save(content, path)
    else:
        with safe_open(path, "pt") as file:
            about = dict(file.metadata())
        assert about.pop("format_version") == "2"
        save_file(dict(make().model), path, about)
    assert files.load(path).model.keys() == make().model.keys()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_adapter_says_which_weights_it_belongs_to(make: Any, tmp_path: Path, suffix: str) -> None:
    base, other = (make(seed=seed).model for seed in (1, 2))
    assert files.content_hash(base) != files.content_hash(other)
    assert files.content_hash(dict(reversed(base.items()))) == files.content_hash(base)
    about = {"path": "../x/best.pt", "size": 5, "rank": 2, "alpha": 4.0, "targets": ["head"]}
    made = dataclasses.replace(make(), base=files.content_hash(base), adapter=about)
    files.save(made, tmp_path / f"a{suffix}")
    loaded = files.load(tmp_path / f"a{suffix}")
    assert (loaded.base, loaded.adapter) == (files.content_hash(base), about)


def test_loading_draws_no_random_weights_and_computes_the_tables_that_no_file_holds(
    make: Any, every_model: list[ModelConfig]
) -> None:
    for config in every_model[::5]:
        checkpoint = make(model=config)
        expected = Transformer(config)
        files.load_weights(expected, checkpoint.model, "here")
        state = torch.get_rng_state()
        model = checkpoint.make_model(config)
        assert torch.equal(torch.get_rng_state(), state)
        buffers = dict(model.named_buffers())
        assert buffers.keys() == dict(expected.named_buffers()).keys()
        assert all(torch.equal(buffers[name], table) for name, table in expected.named_buffers())
        for (name, made), (_, drawn) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
            assert torch.equal(made, drawn), name
            assert made.requires_grad
        assert all(
            ours.data_ptr() != made.data_ptr()
            for ours, made in zip(checkpoint.model.values(), files.weights_of(model).values(), strict=True)
        )


def test_an_untied_head_is_stored_too(make: Any, tmp_path: Path, tiny: ModelConfig) -> None:
    config = from_mapping({"model": {**vars(tiny), "tied_head": False}}, "test").config.model
    saved = make(model=config)
    files.save(saved, tmp_path / "a.pt")
    model = files.load(tmp_path / "a.pt").make_model(config)
    assert torch.equal(model.head.weight, saved.model["head.weight"])


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(make: Any, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a{suffix}"
    files.save(make(resumable=True), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(KiaraError, match=f"a{suffix}") as caught:
        files.load(path)
    assert "another checkpoint" in caught.value.remedy


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_single_flipped_bit_among_the_weights_is_noticed(make: Any, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    files.save(make(), path)
    whole = path.read_bytes()
    weight = make().model["blocks.0.attention.qkv.weight"].numpy().tobytes()
    start = whole.index(weight)
    for place in (start, start + len(weight) // 2, start + len(weight) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(KiaraError, match=f"a{suffix} is damaged"):
            files.load(path)
    path.write_bytes(whole)
    files.load(path)


def test_torch_alone_does_not_notice_a_flipped_bit(make: Any, tmp_path: Path) -> None:
    """Why `load` checks: should torch begin to, our check may go."""
    files.save(make(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    place = whole.index(make().model["blocks.0.attention.qkv.weight"].numpy().tobytes())
    (tmp_path / "a.pt").write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    torch.load(tmp_path / "a.pt", weights_only=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_text_a_zip_and_a_plain_value_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_text("Once upon a time there was no checkpoint.\n" * 20)
    with pytest.raises(KiaraError):
        files.load(path)
    path.write_bytes(b"PK\x03\x04" + bytes(range(256)) * 10)
    with pytest.raises(KiaraError):
        files.load(path)
    torch.save({"model": {}}, path)
    with pytest.raises(KiaraError):
        files.load(path)
    torch.save([1, 2, 3], path)
    with pytest.raises(KiaraError):
        files.load(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KiaraError, match="no checkpoint at"):
        files.load(tmp_path / "none.pt")
    with pytest.raises(KiaraError, match="no checkpoint at"):
        files.load(tmp_path)


@pytest.mark.parametrize("part", ["model", "config", "tokenizer", "metrics", "data"])
def test_parts_of_the_wrong_kind_are_refused(make: Any, tmp_path: Path, part: str) -> None:
    files.save(make(), tmp_path / "a.pt")
    content = torch.load(tmp_path / "a.pt", weights_only=True)
    torch.save(content | {part: 3}, tmp_path / "a.pt")
    with pytest.raises(KiaraError, match=r"a\.pt"):
        files.load(tmp_path / "a.pt")


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.marker}",)


def zipped(content: Any, path: Path) -> None:
    torch.save(content, path)


def plain_pickle(content: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(content))


def old_format(content: Any, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [zipped, plain_pickle, old_format])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_that_carries_code_is_refused_and_the_code_does_not_run(
    tmp_path: Path, write: Any, suffix: str
) -> None:
    marker, path = tmp_path / "marker", tmp_path / f"a{suffix}"
    write({"model": {}, "config": {}, "tokenizer": {}, "metrics": Bomb(marker), "data": {}}, path)
    with pytest.raises(KiaraError) as caught:
        files.load(path)
    assert not marker.exists()
    if suffix == ".pt":
        assert "could run code" in str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_fills_up_leaves_the_previous_file_and_nothing_else(
    make: Any, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    files.save(make(seed=1), path)
    before = contents(tmp_path)
    for limit in (0, 4096, len(before[path.name]) // 2, len(before[path.name]) - 1):
        with files_no_larger_than(limit), pytest.raises(OSError, match=r".+"):
            files.save(make(seed=2), path)
        assert contents(tmp_path) == before
    files.load(path)


def test_a_text_that_does_not_fit_leaves_the_previous_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")
    with files_no_larger_than(100), pytest.raises(OSError, match=r".+"), atomic.replacing(path) as partial:
        partial.write_text("x" * 1000)
    assert contents(tmp_path) == {"a.txt": b"before"}


def test_weights_of_another_shape_are_named_with_both_shapes(make: Any, tiny: ModelConfig) -> None:
    checkpoint = make()
    wider = from_mapping({"model": {**vars(tiny), "vocab_size": 128}}, "test").config.model
    with pytest.raises(KiaraError, match=r"tokens\.weight is \(64, 32\) in the file and \(128, 32\) in the model"):
        checkpoint.make_model(wider)


def test_a_missing_and_a_surplus_weight_are_named(make: Any, tiny: ModelConfig) -> None:
    weights = dict(make().model)
    model = Transformer(tiny)
    del weights["norm.weight"]
    with pytest.raises(KiaraError, match=r"norm\.weight is no such weight in the file"):
        files.load_weights(model, weights, "a.pt")
    weights |= {"norm.weight": make().model["norm.weight"], "other": torch.zeros(1)}
    with pytest.raises(KiaraError, match=r"other is \(1,\) in the file and no such weight in the model"):
        files.load_weights(model, weights, "a.pt")


def test_a_link_replaces_what_was_there_and_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "new").write_text("new")
    (tmp_path / "name").write_text("old")
    with (tmp_path / "name").open() as reader:
        atomic.link(tmp_path / "new", tmp_path / "name")
        assert reader.read() == "old"  # whoever had it open keeps the old one, whole
    assert contents(tmp_path) == {"new": b"new", "name": b"new"}
    atomic.link(tmp_path / "new", tmp_path / "name")
    assert contents(tmp_path) == {"new": b"new", "name": b"new"}


def test_a_link_is_a_copy_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("text")
    atomic.link(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == {"a": b"text", "b": b"text"}
    assert not (tmp_path / "a").samefile(tmp_path / "b")


def test_a_link_that_fails_for_another_reason_is_an_error_and_no_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(errno.EIO, "the disk is failing")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("text")
    with pytest.raises(OSError, match="the disk is failing"):
        atomic.link(tmp_path / "a", tmp_path / "b")
    assert contents(tmp_path) == {"a": b"text"}


def link_to_new(path: Path, checkpoint: Checkpoint) -> None:
    (path.parent / "new").write_bytes(b"new")
    atomic.link(path.parent / "new", path)


def write_a_text(path: Path, checkpoint: Checkpoint) -> None:
    with atomic.replacing(path) as partial, partial.open("ab") as file:
        file.write(b"new")


def save_there(path: Path, checkpoint: Checkpoint) -> None:
    files.save(checkpoint, path)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("write", [link_to_new, save_there, write_a_text])
def test_a_second_name_left_by_a_killed_process_never_leads_into_another_runs_checkpoint(
    make: Any, tmp_path: Path, suffix: str, write: Any
) -> None:
    other, path = tmp_path / "other" / f"best{suffix}", tmp_path / f"best{suffix}"
    files.save(make(seed=1), other)
    before = other.read_bytes()
    with atomic.replacing(tmp_path / f"best{suffix}") as partial:
        partial.write_bytes(b"")
    os.link(other, partial)  # as if it had been killed between link and rename, and its number came up again
    write(path, make(seed=2))
    assert other.read_bytes() == before
    assert not path.samefile(other)
    assert not partial.exists()


def test_saving_over_a_linked_file_leaves_the_other_name_alone(make: Any, tmp_path: Path) -> None:
    files.save(make(seed=1), tmp_path / "step.pt")
    atomic.link(tmp_path / "step.pt", tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()
    files.save(make(seed=2), tmp_path / "step.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert (tmp_path / "step.pt").read_bytes() != before
