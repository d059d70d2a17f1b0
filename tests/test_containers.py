"""Dockerfile, compose.yaml and .env.example say what the code does; `nox -s docker` executes their lines."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dotenv import dotenv_values
from parsing import parse

from kiara_cli.commands.options import DATA_ROOT, RUNS_ROOT
from kiara_cli.commands.serve import check_exposure
from kiara_cli.config.load import load_config
from kiara_cli.config.schema import ServeConfig
from kiara_cli.core.serve.kiara import router
from kiara_cli.core.serve.origins import Hosts
from kiara_cli.errors import KiaraError

ROOT = Path(__file__).parent.parent
DOCKERFILE = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
COMPOSE = (ROOT / "compose.yaml").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
SERVICES: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]


def instructions(word: str) -> list[str]:
    return [line.removeprefix(word).strip() for line in DOCKERFILE.splitlines() if line.startswith(f"{word} ")]


def stages() -> list[str]:
    return [line.split(" AS ")[1] for line in instructions("FROM")]


def test_the_image_runs_a_command_that_there_is_as_a_user_that_is_not_root() -> None:
    (entry,), (command,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["kiara"]
    assert parse(json.loads(command)) == "serve"
    assert [user.split(":")[0] for user in instructions("USER")] == ["1000"]
    assert "useradd --uid 1000" in DOCKERFILE
    assert DOCKERFILE.index("useradd") < DOCKERFILE.index("USER")


def test_both_images_are_made_of_stages_that_there_are_and_the_plain_one_is_the_last() -> None:
    assert {"cpu", "cuda"} <= set(stages())
    assert stages()[-1] == "cpu"
    assert set(re.findall(r"--from=([\w-]+)", DOCKERFILE)) <= set(stages())
    assert {SERVICES[name]["build"]["target"] for name in SERVICES} == {"${KIARA_TARGET:-cpu}"}


def test_the_health_check_asks_a_route_that_there_is_on_the_port_that_is_exposed() -> None:
    (check,), (port,) = instructions("HEALTHCHECK"), instructions("EXPOSE")
    code = json.loads(check.partition("CMD ")[2])[2]
    compile(code, "HEALTHCHECK", "exec")
    route = re.search(rf"http://127\.0\.0\.1:{port}(/\w+)", code)
    assert route is not None
    assert route[1] in {getattr(each, "path", None) for each in router.routes}
    assert port == str(ServeConfig.port)


def test_only_what_the_wheel_is_made_of_reaches_the_builder() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    wanted = {rule[1:] for rule in rules if rule.startswith("!")}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert wanted == {"kiara_cli", "configs", "pyproject.toml", "README.md", "LICENSE"}
    assert all((ROOT / name).exists() for name in wanted)
    assert all(f'"{name}"' in project for name in ("kiara_cli", "configs", "README.md", "LICENSE"))


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_a_command_that_there_is_on_volumes_that_the_program_uses(name: str) -> None:
    service = SERVICES[name]
    assert parse(service["command"]) == {"api": "serve"}.get(name, name)
    targets = {entry.split(":")[-1 if not entry.endswith(":ro") else -2] for entry in service["volumes"]}
    (folder,) = set(instructions("WORKDIR")) - {"/source"}
    assert {f"{folder}/{DATA_ROOT}", f"{folder}/{RUNS_ROOT}", f"{folder}/cache"} <= targets
    assert f"KIARA_CACHE={folder}/cache" in DOCKERFILE
    assert re.search(rf"mkdir -p {folder}/data {folder}/checkpoints {folder}/cache", DOCKERFILE)
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("healthcheck") == (None if name == "api" else {"disable": True})  # the others do not listen


def test_the_server_answers_to_the_name_of_its_service_and_needs_a_key() -> None:
    variable = SERVICES["api"]["environment"]["KIARA__SERVE__ALLOWED_HOSTS"]
    default = re.sub(r"\$\{KIARA_HOSTS:-(.*)\}", r"\1", variable)
    for typed, names in ((default, ["api:8000"]), ("[api, kiara.example.org]", ["api:8000", "kiara.example.org"])):
        limits = load_config(environ={"KIARA__SERVE__ALLOWED_HOSTS": typed}).config.serve
        hosts = Hosts(limits.allowed_hosts)
        assert all(name in hosts for name in [*names, "localhost:8000", "127.0.0.1"])
        assert "evil.example" not in hosts
    command = SERVICES["api"]["command"]
    with pytest.raises(KiaraError):
        check_exposure(command[command.index("--host") + 1], keys=False, no_auth=False)
    assert SERVICES["api"]["ports"] == ["${KIARA_PUBLISH:-127.0.0.1:8000}:8000"]


def test_it_is_given_more_time_to_stop_than_it_takes() -> None:
    assert int(SERVICES["api"]["stop_grace_period"].removesuffix("s")) > ServeConfig.shutdown_seconds


def test_the_example_of_an_env_file_names_what_is_read_and_sets_nothing() -> None:
    assert dotenv_values(ROOT / ".env.example") == {}
    shown = dict(re.findall(r"^#(KIARA_\w+)=(.*)$", EXAMPLE, re.MULTILINE))
    settings = {name: value for name, value in shown.items() if "__" in name}
    assert len(settings) >= 3
    assert load_config(environ=settings).config
    assert set(re.findall(r"\$\{(\w+):-", COMPOSE)) == set(shown) - set(settings) - {"KIARA_API_KEY"}
