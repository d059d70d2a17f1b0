from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kiara_cli import app

Kiara = Callable[..., Any]
COMMANDS = ["tokenize", "train", "eval", "generate", "chat", "config"]


def test_help_lists_the_commands_in_the_order_of_work(kiara: Kiara) -> None:
    for arguments in ([], ["--help"]):
        ran = kiara(*arguments)
        assert ran.status == 0
        assert ran.err == ""
        places = [ran.out.index(f" {name} ") for name in COMMANDS]
        assert places == sorted(places)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(kiara: Kiara, command: str) -> None:
    ran = kiara(command, "--help")
    assert ran.status == 0
    assert ran.err == ""
    assert "--debug" in ran.out


def test_version_prints_what_decides_how_kiara_behaves(kiara: Kiara) -> None:
    ran = kiara("--version")
    assert ran.status == 0
    assert ran.out.startswith("kiara 0.")
    for name in ("python", "torch", "numpy"):
        assert f"{name} " in ran.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["foo"], ["'foo'", "kiara --help"]),
        (["--foo"], ["--foo", "kiara --help"]),
        (["train", "--foo"], ["--foo", "kiara train --help"]),
        (["generate", "-n", "many"], ["'-n'", "int", "kiara generate --help"]),
        (["generate", "--prompt"], ["--prompt", "kiara generate --help"]),
        (["eval", "--split", "test"], ["test", "kiara eval --help"]),
        (["train", "--model.n_layers=4"], ["no option --model.n_layers=4", "without dashes: model.n_layers=4"]),
        (["generate", "--train.lr=1"], ["without dashes: train.lr=1"]),
        (["train", "model.n_layer=4"], ["no key 'n_layer' in model", "did you mean 'n_layers'?"]),
        (["train", "modle.n_layers=4"], ["no section 'modle'", "did you mean 'model'?"]),
        (["train", "model.n_layers=many"], ["model.n_layers=many", "a whole number"]),
        (["train", "model.n_layers=1.5"], ["model.n_layers=1.5", "a whole number"]),
        (["train", "train.lr=-1"], ["train.lr=-1", "above 0"]),
        (["train", "model.emb_dim=100", "model.n_heads=3"], ["emb_dim=100", "n_heads=3", "model.emb_dim=102"]),
        (["train", "-c", "none"], ["no config none", "small"]),
        (["train", "one.txt", "two.txt"], ["more than one path", "one.txt two.txt"]),
        (["train", "none.txt"], ["no data at none.txt"]),
        (["tokenize", "none/"], ["no data at none"]),
        (["train", "--resume"], ["no run in checkpoints to resume"]),
        (["train", "--resume", "--name", "x"], ["no run x"]),
        (["train", "--resume", "text.txt"], ["--resume"]),
        (["train", "--from", "none"], ["no checkpoint none"]),
        (["eval"], ["no checkpoint yet", "kiara train"]),
        (["generate", "nook", "-p", "x"], ["no checkpoint nook", "models/nook"]),
        (["generate", "-p", "@none.txt"], ["none.txt"]),
        (["generate", "-p", "-"], ["stdin is empty"]),
        (["generate", "--top-p", "2"], ["generate.top_p=2", "from 0 to 1"]),
        (["tokenize", "--encode", "x"], ["no checkpoint yet"]),
        (["tokenize", "--encode", "x", "--tokenizer", "none.json"], ["none.json"]),
        (["config", "data.nmae=x"], ["did you mean 'name'?"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_that_says_what_to_do_and_leaves_nothing_behind(
    kiara: Kiara, nothing_behind: Callable[[], None], arguments: list[str], words: list[str]
) -> None:
    nothing_behind()
    line = kiara(*arguments).mistake
    for word in words:
        assert word in line
    nothing_behind()


def test_a_mistake_in_a_file_or_variable_names_it(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("my.yaml").write_text("model:\n  n_layer: 3\n")
    assert kiara("config", "-c", "my.yaml").mistake.startswith("error: my.yaml: model.n_layer=3")
    Path("my.yaml").write_text("model: [\n")
    assert "my.yaml does not parse" in kiara("config", "-c", "my.yaml").mistake
    monkeypatch.setenv("KIARA__TRAIN__MAX_STEPS", "soon")
    assert "KIARA__TRAIN__MAX_STEPS: train.max_steps=soon" in kiara("config").mistake


def test_debug_shows_where_an_error_came_from(kiara: Kiara) -> None:
    ran = kiara("train", "none.txt", "--debug")
    assert ran.status == 2
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-1].startswith("error: no data at none.txt")


def test_a_name_with_a_newline_still_makes_one_line(kiara: Kiara) -> None:
    assert "no checkpoint a b" in kiara("generate", "a\nb", "-p", "x").mistake


def test_an_interrupt_exits_130_and_a_fault_of_ours_is_raised(kiara: Kiara, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    def fault(*arguments: Any, **options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("kiara_cli.config.load.load_config", interrupt)
    monkeypatch.setattr("kiara_cli.commands.options.load_config", interrupt)
    ran = kiara("config")
    assert (ran.status, ran.out, ran.err) == (130, "", "")
    monkeypatch.setattr("kiara_cli.commands.options.load_config", fault)
    with pytest.raises(ZeroDivisionError):
        app.main(["config"])


def test_the_console_script_and_the_module_are_the_same_program() -> None:
    for arguments, status in ((["config", "model.n_layers=3"], 0), (["config", "nonsense.x=1"], 2)):
        ran = subprocess.run([sys.executable, "-m", "kiara_cli", *arguments], capture_output=True, text=True)
        assert ran.returncode == status
        assert ("n_layers: 3" in ran.stdout) == (status == 0)
        assert len(ran.stderr.splitlines()) == (status == 2)


def test_a_closed_stdin_is_an_empty_one() -> None:
    command = [sys.executable, "-m", "kiara_cli.app", "generate", "-p", "-"]
    ran = subprocess.run(["bash", "-c", f"{' '.join(command)} <&-"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr == "error: stdin is empty; pipe a prompt in, or give --prompt TEXT\n"


CONFIG = f"{sys.executable} -m kiara_cli.app config chat.system=é"


@pytest.mark.parametrize(
    "surroundings", ["LC_ALL=C PYTHONUTF8=0", "PYTHONIOENCODING=cp1252", "PYTHONIOENCODING=ascii PYTHONUTF8=0"]
)
def test_what_goes_into_a_file_is_utf_8_whatever_the_locale(surroundings: str) -> None:
    ran = subprocess.run(["bash", "-c", f"{surroundings} {CONFIG} data.source='漢 é.txt'"], capture_output=True)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert 'system: "é"' in ran.stdout.decode()
    assert 'source: "漢 é.txt"' in ran.stdout.decode()


@pytest.mark.parametrize(
    ("closed", "status"), [(">&-", 0), ("2>&- >&- <&-", 0), ("nonsense.x=1 2>&-", 2), ("nonsense.x=1 >&- 2>&-", 2)]
)
def test_closed_streams_are_quiet_and_change_no_status(closed: str, status: int) -> None:
    ran = subprocess.run(["bash", "-c", f"{CONFIG} {closed}"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", "")


def test_a_closed_pipe_ends_quietly() -> None:
    command = f"{sys.executable} -m kiara_cli.app config --help; {sys.executable} -m kiara_cli.app config"
    ran = subprocess.run(
        ["bash", "-c", f"set -o pipefail; ({command}; echo $? >&2) | true"], capture_output=True, text=True
    )
    assert ran.stderr == "0\n"
