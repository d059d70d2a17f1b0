"""Every recipe parses, and every kiara command in it is one that this Kiara has, with options and settings it has."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from kiara_cli.app import app
from kiara_cli.config.layers import is_override
from kiara_cli.config.load import load_config
from kiara_cli.core.data.readers import read_documents
from kiara_cli.core.tokenizer import files
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT

FOLDER = Path(__file__).parent.parent / "docs/recipes"
RECIPES = sorted(path for path in FOLDER.rglob("*") if path.suffix in (".sbatch", ".sh", ".yaml", ".conf", ".py"))
SCRIPTS = [path for path in RECIPES if path.suffix in (".sbatch", ".sh")]
MANIFESTS = [path for path in RECIPES if path.suffix == ".yaml"]
COMMAND = re.compile(r"(?:(?<![\w.-])kiara|-m kiara_cli) +([a-z][^|;&\n]*)")
NOT_COMMANDS = ("kubectl", "image:", "mountPath", "claimName", "name:", "upstream", "proxy_pass", "secretName")


def name(path: Path) -> str:
    return path.relative_to(FOLDER).as_posix()


def manifests(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def containers(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every container in a manifest."""
    if isinstance(node, dict):
        yield from node.get("containers", [])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from containers(one)


def commands(path: Path) -> Iterator[list[str]]:
    """Yield the words of every kiara command of a recipe, those in its comments and containers included."""
    text = path.read_text()
    for line in text.replace("\\\n", " ").splitlines():
        if any(word in line for word in NOT_COMMANDS):
            continue
        line = line.strip().lstrip("# ").split("  #")[0]
        if line.startswith(("kiara ", "exec ", "srun ", "torchrun ")) and (found := COMMAND.search(line)):
            yield shlex.split(found[1])
    for manifest in manifests(path) if path.suffix == ".yaml" else ():
        for container in containers(manifest):
            words = [*container.get("command", []), *container.get("args", [])]
            if words[0] == "kiara":
                yield words[1:]
            else:
                assert words[:2] == ["bash", "-c"]
                yield from (shlex.split(found[1]) for found in COMMAND.finditer(words[2]))


PARSERS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
COMMANDS = [(name(path), words) for path in RECIPES for words in commands(path)]


def parsed(words: list[str]) -> Any:
    """Give the words of a command to its parser, which raises for what it does not know."""
    return PARSERS[words[0]].make_context(words[0], words[1:])


def test_commands_are_found_in_every_recipe() -> None:
    assert {where for where, _ in COMMANDS} == {name(path) for path in RECIPES}
    assert len(COMMANDS) >= 18


@pytest.mark.parametrize(("where", "words"), COMMANDS, ids=[f"{where}: {' '.join(w)[:60]}" for where, w in COMMANDS])
def test_every_command_is_one_that_the_parser_takes(where: str, words: list[str]) -> None:
    context = parsed(words)
    given = context.params.get("words") or []
    assert not [word for word in given if word.startswith("-")]
    shipped = [str(FOLDER.parent.parent / "configs" / f"{one}.yaml") for one in context.params.get("config") or []]
    shipped = [path for path in shipped if "$" not in path]
    load_config(shipped, [word for word in given if is_override(word)], {}, check=False)


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_every_script_parses(path: Path) -> None:
    checked = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "set -euo pipefail" in path.read_text()


@pytest.mark.parametrize("path", MANIFESTS, ids=name)
def test_every_manifest_is_what_its_schema_says(path: Path) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in manifests(path):
        if manifest["kind"] == "JobSet":  # a kind that is added to a cluster; what it makes are jobs
            assert manifest["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
            jobs = [one["template"] for one in manifest["spec"]["replicatedJobs"]]
            manifest_of = {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"]}
            checked = [{**manifest_of, **job} for job in jobs]
        else:
            checked = [manifest]
        for one in checked:
            validator.validate(one, "1.30", strict=True)
        for container in containers(manifest):
            if container.get("command", [])[:2] == ["bash", "-c"]:
                ran = subprocess.run(["bash", "-n", "-c", container["args"][0]], capture_output=True, text=True)
                assert (ran.returncode, ran.stderr) == (0, "")
            mounted = {one["name"] for one in container.get("volumeMounts", [])}
            assert mounted <= {one["name"] for one in volumes(manifest)}


def volumes(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every volume in a manifest."""
    if isinstance(node, dict):
        yield from node.get("volumes", [])
        node = list(node.values())
    if isinstance(node, list):
        for one in node:
            yield from volumes(one)


def test_the_numbers_of_pods_agree_with_what_their_commands_are_told() -> None:
    (tokenize,) = manifests(FOLDER / "kubernetes/tokenize.yaml")
    (train,) = manifests(FOLDER / "kubernetes/train.yaml")
    for job, variable in ((tokenize, "SHARES"), (train["spec"]["replicatedJobs"][0]["template"], "NODES")):
        (container,) = containers(job)
        told = {one["name"]: one.get("value") for one in container["env"]}
        assert told[variable] == str(job["spec"]["completions"]) == str(job["spec"]["parallelism"])
    set_, job = train["metadata"]["name"], train["spec"]["replicatedJobs"][0]["name"]
    assert f"--master-addr={set_}-{job}-0-0.{set_} " in (FOLDER / "kubernetes/train.yaml").read_text()


def test_the_recipes_of_shares_do_all_of_the_work_and_put_it_together() -> None:
    """With what Slurm and Kubernetes would set, the commands of both recipes make shares that merge."""
    slurm = dict(commands_of("slurm/tokenize.sbatch"))
    assert slurm["shard"] == "$SLURM_PROCID/$SLURM_NTASKS"
    assert dict(commands_of("kubernetes/tokenize.yaml"))["shard"] == "$JOB_COMPLETION_INDEX/$SHARES"


def commands_of(where: str) -> Iterator[tuple[str, Any]]:
    """Yield the options of all commands of a recipe."""
    for place, words in COMMANDS:
        if place == where:
            yield from ((key, value) for key, value in parsed(words).params.items() if value)


@pytest.mark.slow
def test_the_pipeline_of_datatrove_makes_token_files_of_the_ids_that_kiara_makes(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    pytest.importorskip("tokenizers")
    from kiara_cli.core.export.tokenizer import writing

    sources = [Path(shlex.__file__), Path(re.__file__), Path(yaml.__file__)]
    tokenizer = BPETokenizer.fit([path.read_text() for path in sources], 500)
    Path("made").mkdir()
    files.save(tokenizer, Path("made/tokenizer.json"))
    with writing(tokenizer, Path("exported"), 64):
        pass
    Path("texts").mkdir()
    for path in sources:
        shutil.copy(path, f"texts/{path.parent.name}-{path.name}")
    Path("texts/forged.py").write_text(f"this is {END_OF_TEXT} no end {END_OF_TEXT}\n" * 20)
    Path("texts/short.py").write_text("too short\n")
    words = ["texts", "tokens", "--exported", "exported", "--tokenizer", "made", "--reader", "plain", "--tasks", "2"]
    script = [sys.executable, str(FOLDER / "datatrove/tokens.py"), *words, "--glob", "*.py", "--workers", "2"]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    found = [one.ids.tolist() for one in read_documents("tokens") if one.ids is not None]
    mark = tokenizer.specials[END_OF_TEXT]
    texts = [path.read_text() for path in Path("texts").iterdir() if path.stat().st_size >= 200]
    assert sorted(found) == sorted([[*tokenizer.encode(text), mark] for text in texts])
    from kiara_cli.config.schema import DataConfig, TokenizerConfig
    from kiara_cli.core.data.prepare import prepare

    data = prepare(DataConfig(source="tokens"), TokenizerConfig(), Path("data"))
    assert data.meta.documents == len(texts)
    tokens = sum(map(len, found))
    assert tokens <= len(data.train) + len(data.val) <= tokens + 1  # a document that is cut opens twice
