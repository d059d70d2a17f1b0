"""One word per chore: nox -s tests | lint | types | format."""

import nox

nox.options.sessions = ["tests", "lint", "types"]
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True

TORCH = "torch>=2.8,<2.14"  # without the bound pip may choose several gigabytes of CUDA packages


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test; `nox -s tests -- -m "not slow"` leaves the end-to-end ones out."""
    session.install(TORCH, ".[dev]")
    session.run("pytest", "-n", "2", *session.posargs, env={"OMP_NUM_THREADS": "1"})


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
