"""The release check: wheel and sdist are built, installed into fresh environments and lived with where it is hard.

    python .ci/release.py                  all of it: about ten minutes on two cores
    python .ci/release.py --wheel FILE     with a wheel that is there already
    python .ci/release.py --python FILE    with an environment in which Kiara is installed already
    python .ci/release.py --only NAME      one of the circumstances below

Needs `build`. torch comes from where pip is set to look: on Linux without a GPU that should be PyTorch's CPU index.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

from story import live

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TORCH = next(needed for needed in PROJECT["dependencies"] if needed.startswith("torch"))
BIN = "Scripts" if os.name == "nt" else "bin"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--python", type=Path)
    parser.add_argument("--only", choices=CIRCUMSTANCES)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kiara release ", ignore_cleanup_errors=True) as place:
        python = asked.python
        if python is None:
            wheel = asked.wheel or built(Path(place, "dist"))
            python = installed(wheel.resolve(), Path(place, "with spaces"))
        for name, circumstance in CIRCUMSTANCES.items():
            if asked.only in (None, name):
                began = time.perf_counter()
                folder = Path(place, name.replace(" ", "-"), "empty")
                folder.mkdir(parents=True)
                live(python.parent / "kiara", *circumstance(folder))
                print(f"ok: {name} ({time.perf_counter() - began:.0f} s)", flush=True)


def built(folder: Path) -> Path:
    """Build the sdist, and from it the wheel; check what is in them; return the wheel."""
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as packed:
        source = {name.partition("/")[2] for name in packed.getnames()}
    with zipfile.ZipFile(wheel) as packed_wheel:
        shipped = set(packed_wheel.namelist())
        (metadata,) = (name for name in shipped if name.endswith("/METADATA"))
        about = packed_wheel.read(metadata).decode()
    tracked = subprocess.run(["git", "ls-files", "kiara_cli", "configs"], cwd=ROOT, capture_output=True, text=True)
    wanted = set(tracked.stdout.split()) if tracked.returncode == 0 else {"kiara_cli/app.py"}
    missing = {name for name in wanted if name not in source}
    missing |= {name for name in wanted if name.removeprefix("configs/") == name and name not in shipped}
    missing |= {name for name in wanted if name.startswith("configs/") and f"kiara_cli/{name}" not in shipped}
    assert not missing, f"not packed: {sorted(missing)}"
    strangers = {name for name in shipped if not name.startswith(("kiara_cli/", "kiara_slm-"))}
    assert not strangers, f"packed by mistake: {sorted(strangers)}"
    assert {"README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= source
    assert not any(name.startswith(("data/", "checkpoints/")) and not name.endswith(".gitkeep") for name in source)
    assert f"Version: {PROJECT['version']}" in about
    print(f"ok: {sdist.name}, {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB)", flush=True)
    return wheel


def installed(wheel: Path, folder: Path) -> Path:
    """Install the wheel with its core dependencies alone; return the environment's Python."""
    venv.create(folder, with_pip=True)
    python = folder / BIN / "python"
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", TORCH, str(wheel)], check=True)
    return python


Surroundings = tuple[Path, dict[str, str]]


def plain(folder: Path) -> Surroundings:
    """A person's own shell; as in all of these, sockets lead to this machine alone."""
    home = folder.parent / "home"
    home.mkdir()
    kept = ("PATH", "SYSTEMROOT", "TEMP", "TMP", "TMPDIR", "LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
    return folder, {name: os.environ[name] for name in kept if name in os.environ} | {"HOME": str(home)}


def locale_c(folder: Path) -> Surroundings:
    folder, environment = plain(folder)
    return folder, {**environment, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def home_read_only(folder: Path) -> Surroundings:
    """A home that cannot be written: not even by root where there is /proc."""
    folder, environment = plain(folder)
    home = Path("/proc/self") if os.path.isdir("/proc/self") else Path(environment["HOME"])
    if home == Path(environment["HOME"]):
        home.chmod(0o500)
    return folder, {**environment, "HOME": str(home)}


def spaces(folder: Path) -> Surroundings:
    folder, environment = plain(folder)
    inner = folder / "my büch's folder & more"
    inner.mkdir()
    return inner, environment


def no_compiler(folder: Path) -> Surroundings:
    """A machine on which there is nothing but Python."""
    folder, environment = plain(folder)
    return folder, {**environment, "PATH": str(Path(sys.executable).parent / "nowhere")}


CIRCUMSTANCES: dict[str, Callable[[Path], Surroundings]] = {
    "an empty folder": plain,
    "LC_ALL=C": locale_c,
    "HOME read-only": home_read_only,
    "a path with spaces": spaces,
    "no compiler": no_compiler,
}

if __name__ == "__main__":
    main()
    shutil.rmtree(ROOT / "build", ignore_errors=True)
