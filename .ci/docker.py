"""The container without an engine: every RUN, CMD and HEALTHCHECK line, and every service of compose.yaml.

    python .ci/docker.py                    the lines are executed in a folder instead of an image
    python .ci/docker.py --torch-index URL  where torch comes from (default: PyPI, or where pip is set to look)

Two things are not what they are in an image: apt-get only simulates, and the user is made in a folder. Needs pyyaml.
Where docker has an engine, `nox -s docker` builds the images instead.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
OURS = re.compile(
    r"(?<![\w./])/(source|wheels|opt/kiara|kiara|var/lib)\b"
)  # what the image has, and the folder stands for
SHIMS = {
    "apt-get": '[ "$1" = update ] || [ ! -x /usr/bin/apt-get ] || exec /usr/bin/apt-get --simulate "$@"',
    "useradd": '[ "$(id -u)" != 0 ] || exec /usr/sbin/useradd --prefix "$ROOT" "$@"',
    "chown": "exit 0",  # that user is not this system's
    "pip": f'exec {shlex.quote(sys.executable)} -m pip "$@"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
}
TINY = {
    "MODEL__CONTEXT_LENGTH": "32", "MODEL__EMB_DIM": "32", "MODEL__N_HEADS": "4", "MODEL__N_LAYERS": "1",
    "TOKENIZER__VOCAB_SIZE": "300", "DATA__CORPUS_BYTES": "30000", "TRAIN__MAX_STEPS": "3", "TRAIN__BATCH_SIZE": "2",
    "EVAL__SAMPLE_TOKENS": "2", "EVAL__MAX_TOKENS": "2000",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch-index", default="https://pypi.org/simple")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiara-image-", ignore_cleanup_errors=True) as place:
        image = Image(Path(place), {"TORCH_INDEX": asked.torch_index})
        image.build((ROOT / "Dockerfile").read_text(encoding="utf-8"))
        services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
        for name in ("train", "eval"):
            image.run(services[name]["command"])
            print(f"ok: service {name}", flush=True)
        assert image.start(services["api"]["command"], {}).wait(60) == 2, "a server without a key must not start"
        lived(image, services["api"]["command"], services["api"]["environment"])
        lived(image, image.config["CMD"], {})


class Image:
    """A folder that stands for the image: what the Dockerfile's lines have made, and its configuration."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.given = root, arguments
        self.variables: dict[str, str] = {}
        self.config: dict[str, list[str]] = {}
        self.done: set[str] = set()
        shims = root / "shims"
        shims.mkdir()
        for name, line in SHIMS.items():
            (shims / name).write_text(f"#!/bin/sh\n{line}\n")
            (shims / name).chmod(0o755)
        (root / "etc").mkdir()
        for name in ("passwd", "group"):
            (root / "etc" / name).touch()
        self.path = f"{shims}:{os.environ['PATH']}"

    def here(self, text: str) -> str:
        return OURS.sub(lambda found: f"{self.root}/{found[1]}", text)

    def build(self, text: str) -> None:
        lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
        for line in filter(None, re.sub(r"\\\n", " ", "\n".join(lines)).splitlines()):
            word, _, rest = line.strip().partition(" ")
            getattr(self, f"_{word.lower()}", self._keep)(word, rest.strip())

    def _keep(self, word: str, rest: str) -> None:
        if word == "HEALTHCHECK":
            rest = rest.partition("CMD ")[2]
        if rest.startswith("["):
            self.config[word] = json.loads(rest)

    def _arg(self, word: str, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.variables[name] = self.given.get(name, shlex.split(value)[0] if value else self.variables.get(name, ""))

    def _env(self, word: str, rest: str) -> None:
        for entry in shlex.split(rest):
            name, _, value = entry.partition("=")
            if name == "PATH":
                self.path = self.here(value.replace("$PATH", "")) + self.path
            else:
                self.variables[name] = self.here(value)

    def _workdir(self, word: str, rest: str) -> None:
        self.folder = Path(self.here(rest))
        self.folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, word: str, rest: str) -> None:
        if rest == ". .":
            allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")]
            for name in allowed:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, self.folder / name)
        else:  # between stages: one folder stands for all of them
            made = rest.split()[1]
            assert Path(self.here(made)).exists(), f"COPY {rest}: no stage has made {made}"

    def _run(self, word: str, rest: str) -> None:
        if rest not in self.done:
            self.done.add(rest)
            print(f"RUN {rest[:100]}", flush=True)
            folder = getattr(self, "folder", self.root)
            subprocess.run(["sh", "-ec", self.here(rest)], cwd=folder, env=self.environment({}), check=True)

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """Return what a process in the container finds; as outside, pip is set by its own variables."""
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        own = {"PATH": self.path, "HOME": str(self.root), "ROOT": str(self.root)}
        return {**pip, **own, **self.variables, **more}

    def start(self, command: list[str], more: dict[str, str]) -> subprocess.Popen[bytes]:
        tiny = {f"KIARA__{name}": value for name, value in TINY.items()}
        line = [self.here(word) for word in [*self.config["ENTRYPOINT"], *command]]
        line[0] = shutil.which(line[0], path=self.path) or line[0]
        return subprocess.Popen(line, cwd=self.folder, env=self.environment({**tiny, **more}))

    def run(self, command: list[str]) -> None:
        assert self.start(command, {}).wait(600) == 0, command


def lived(image: Image, command: list[str], environment: dict[str, str]) -> None:
    """Start the server as the container does, and ask it as its health check and its neighbours do; then stop it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    interpolated = {name: re.sub(r"\$\{\w+:-(.*)\}", r"\1", value) for name, value in environment.items()}
    command = [word.replace("8000", port) for word in command]
    server = image.start(command, {**interpolated, "KIARA_API_KEY": "a-key"})
    try:
        health = [word.replace("8000", port) for word in image.config["HEALTHCHECK"]]
        for _ in range(120):
            if subprocess.run(health, env=image.environment({}), capture_output=True).returncode == 0:
                break
            time.sleep(0.5)
        else:
            raise AssertionError("the health check fails")
        neighbours = "KIARA__SERVE__ALLOWED_HOSTS" in environment
        assert status(port, f"api:{port}") == (200 if neighbours else 421)
        assert status(port, f"evil.example:{port}") == 421
        assert status(port, f"localhost:{port}", key="") == 401
        server.terminate()
        assert server.wait(60) == 0
    finally:
        server.kill()
    print(f"ok: kiara {' '.join(command)}", flush=True)


def status(port: str, host: str, key: str = "a-key") -> int:
    """Return how a request for the models is answered that came under a name."""
    headers = {"Host": host, "Authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"http://127.0.0.1:{port}/v1/models", headers=headers)
        ) as reply:
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    main()
