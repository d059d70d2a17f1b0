"""Where log records go, and in which form."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from kiara_cli.config.schema import LoggingConfig
from kiara_cli.console import logs, output

OURS, THEIRS, ACCESS = (logging.getLogger(name) for name in ("kiara.train", "someone.else", "kiara.access"))
FIELDS = {"status": 200, "milliseconds": 1.5, "request": "ab12"}


def speak() -> None:
    """Make records of every kind."""
    OURS.debug("a detail")
    OURS.info("a step, ünd more")
    OURS.warning("careful")
    THEIRS.info("chatter")
    THEIRS.warning("their concern")
    THEIRS.error("their fault")
    ACCESS.info("%(status)d, %(request)s", FIELDS, extra={"fields": FIELDS})
    output.note("A note.")
    output.warn("a warning")
    output.facts("The plan", [("data", "tales")])


@pytest.mark.parametrize("level", ["debug", "info", "warning"])
def test_text_goes_to_stderr_by_level_and_all_of_it_to_the_file(level: Any, capsys: Any) -> None:
    logs.start_logging(LoggingConfig(level=level, file="var/log/kiara.log"))
    logs.start_access_log("text")
    speak()
    said, filed = capsys.readouterr().err, Path("var/log/kiara.log").read_text(encoding="utf-8")
    assert ("a detail" in said, "a step, ünd more\n" in said) == (level == "debug", level != "warning")
    assert "warning: careful" in said
    assert "their fault" in said
    assert "chatter" not in said + filed
    assert "their concern" not in said
    for text in ("a detail", "a step, ünd more", "careful", "their concern", "their fault", "200, ab12"):
        assert filed.count(text) == 1
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"
    assert all(re.match(rf"{stamp} [A-Z]+ +(kiara\.\w+|someone\.else): ", line) for line in filed.splitlines())
    assert re.search(rf"^{stamp} 200, ab12$", said, re.MULTILINE)


def test_json_makes_an_object_of_every_line_on_stderr_and_in_the_files(capsys: Any, tmp_path: Path) -> None:
    logs.start_logging(LoggingConfig(format="json", file="kiara.jsonl"), tmp_path)
    logs.start_access_log("text")
    speak()
    try:
        raise ValueError("deep down")
    except ValueError:
        OURS.exception("a fault")
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert all({"time", "level", "logger"} <= set(line) for line in said)
    messages = [(line["level"], line.get("message")) for line in said]
    for expected in (("info", "A note."), ("warning", "a warning"), ("info", "The plan"), ("warning", "careful")):
        assert messages.count(expected) == 1
    assert FIELDS.items() <= next(line for line in said if line["logger"] == "kiara.access").items()
    assert "ValueError: deep down" in said[-1]["exception"]
    for name in ("kiara.jsonl", "kiara.log"):
        filed = [json.loads(line) for line in Path(name).read_text(encoding="utf-8").splitlines()]
        assert {"a detail", "a step, ünd more", "their concern"} <= {line.get("message") for line in filed}


def test_a_log_file_is_put_aside_at_its_size_and_only_so_many_are_kept() -> None:
    logs.start_logging(LoggingConfig(file="kiara.log", file_bytes=1000, files=2))
    for index in range(100):
        OURS.debug("record number %d", index)
    assert sorted(path.name for path in Path().iterdir()) == ["kiara.log", "kiara.log.1", "kiara.log.2"]
    assert all(path.stat().st_size <= 1000 for path in Path().iterdir())
    assert "number 99" in Path("kiara.log").read_text()


def test_a_log_file_that_cannot_be_written_any_more_is_said_once(capsys: Any, monkeypatch: Any) -> None:
    logs.start_logging(LoggingConfig(file="kiara.log"))
    full = next(handler for handler in logging.getLogger("kiara").handlers if isinstance(handler, logs.File))

    def refuse(record: logging.LogRecord) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(full.stream, "write", refuse, raising=False)
    OURS.info("first")
    OURS.info("second")
    said = capsys.readouterr().err
    assert said.count("No space left on device") == 1
    assert "Traceback" not in said
    assert said.count("first") == said.count("second") == 1
    full.close()


def test_of_several_processes_one_writes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    logs.start_logging(LoggingConfig(file="kiara.log"))
    assert not Path("kiara.log").exists()


def test_every_logger_of_ours_is_heard() -> None:
    import kiara_cli

    named = [
        (path.name, name)
        for path in Path(kiara_cli.__file__).parent.rglob("*.py")
        for name in re.findall(r"^\w+ = logging\.getLogger\((.*?)\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(named) > 10
    assert [each for each in named if not each[1].startswith('"kiara.')] == []
