from __future__ import annotations

from pathlib import Path

import pytest

from kiara_cli.core.checkpoint.history import numbers, read_history


def test_what_is_no_record_is_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [
        b'{"step": 1, "loss": 2.0}', b"", b"not json", b'[1, 2]', b'{"loss": 1}', b'{"step": true}', b"\xff\xfe",
        b'{"step": 2, "val_loss": NaN}', b'{"step": 3, "val_loss": 0.5, "val_bits_per_byte": "x"}',
        b'{"step": 4, "val_loss": 0.7}', b'{"step": 5, "loss": 1.0}', b"[" * 100_000, b'{"step": 6, "lo',
    ]  # fmt: skip
    path.write_bytes(b"\n".join(lines))
    history = read_history(path)
    assert [row["step"] for row in history.rows] == [1, 2, 3, 4, 5]
    assert history.damaged == 7
    assert history.best == {"step": 3, "val_loss": 0.5, "val_bits_per_byte": "x"}
    assert history.last == {"step": 5, "loss": 1.0}
    assert [value for _, value in numbers(history.rows, "val_loss")] == [0.5, 0.7]
    assert numbers(history.rows, "val_bits_per_byte") == []


@pytest.mark.parametrize("missing", [True, False])
def test_a_run_without_records_has_none(tmp_path: Path, missing: bool) -> None:
    if not missing:
        (tmp_path / "metrics.jsonl").write_text("")
    history = read_history(tmp_path / "metrics.jsonl")
    assert (history.rows, history.damaged, history.best, history.last) == ((), 0, None, {})
