"""What changes how Kiara behaves without standing on the command line: settings, environment, locale, terminal.

In: a host. Out: findings.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kiara_cli.core.lab.doctor.finding import Finding, Host
from kiara_cli.core.runtime.threads import allowed_cpus, physical_cores

VARIABLES = {  # what Kiara, torch and the terminal's libraries read → what it changes
    "KIARA_CACHE": "where compiled C and downloaded corpora are kept",
    "KIARA_API_KEY": "kiara serve asks for it",
    "KIARA_EMBEDDINGS_KEY": "the key of the server that makes embeddings for kiara index",
    "XDG_CACHE_HOME": "where caches are",
    "XDG_STATE_HOME": "where the history of kiara chat is",
    "TIKTOKEN_CACHE_DIR": "where tiktoken looks for encodings such as gpt2 before it asks the network",
    "TMPDIR": "where temporary files are",
    "OMP_NUM_THREADS": "the most threads that torch computes with",
    "MKL_NUM_THREADS": "the most threads that products compute with",
    "GOMP_SPINCOUNT": "how long threads look for work before they sleep (Kiara sets 10000 where it is not set)",
    "GOMP_CPU_AFFINITY": "which cores threads stay on",
    "OMP_PROC_BIND": "whether threads stay on their cores",
    "ONEDNN_MAX_CPU_ISA": "the newest instructions that products may use",
    "ATEN_CPU_CAPABILITY": "the newest instructions that torch may use",
    "CUDA_VISIBLE_DEVICES": "which GPUs are seen",
    "CUBLAS_WORKSPACE_CONFIG": "whether products on CUDA give the same bits (Kiara sets :4096:8 where it needs it)",
    "PYTORCH_CUDA_ALLOC_CONF": "how torch takes memory of a GPU",
    "TORCHINDUCTOR_CACHE_DIR": "where torch.compile keeps what it made",
    "TORCH_COMPILE_DISABLE": "torch.compile does nothing",
    "CXX": "the compiler that torch.compile uses",
    "RANK": "this process is one of several, as torchrun says",
    "WORLD_SIZE": "how many processes train together",
    "LOCAL_WORLD_SIZE": "how many processes share this machine",
    "LOCAL_RANK": "which of this machine's processes it is",
    "HTTPS_PROXY": "how a corpus is downloaded when one is asked for",
    "NO_COLOR": "no colours",
    "FORCE_COLOR": "colours also where stdout is no terminal",
    "PYTHONUTF8": "how Python reads and writes text",
    "PYTHONIOENCODING": "how Python reads and writes text",
}
SECRET = re.compile(r"KEY$|_TOKEN|SECRET|PASSWORD|PROXY")
LONG = 60  # characters of a value that are shown
SETTING = re.compile(r"KIARA(__[A-Z0-9_]+)+")


def look_at_settings(host: Host) -> Iterator[Finding]:
    """Look at the layers of settings, then at each variable that is set."""
    yield _layers(host)
    for name, value in sorted(host.environment.items()):
        if name in VARIABLES or name.startswith("KIARA_"):
            yield variable_finding(name, value)
    yield _locale(host)
    yield _terminal(host)


def _layers(host: Host) -> Finding:
    meaning = "every command reads configs/default.yaml, .env and KIARA__… here"
    if host.fault is not None:
        return Finding("settings", "broken", host.fault.cause, "every command stops here", host.fault.remedy)
    return Finding("settings", "ok", ", ".join(host.sources) or "all at their defaults", meaning)


def variable_finding(name: str, value: str) -> Finding:
    """Say what a variable changes, and what is wrong with its value."""
    shown = "(set)" if SECRET.search(name) else value if len(value) <= LONG else f"{value[:LONG]}…"
    if SETTING.fullmatch(name):
        return Finding(
            name, "ok", shown, f"sets {name[7:].lower().replace('__', '.')}, weaker than the command line alone"
        )
    if name not in VARIABLES:
        return Finding(
            name,
            "warning",
            shown,
            "Kiara reads no such variable",
            "settings are written KIARA__SECTION__KEY, with two underscores each",
        )
    fault = _fault(name, value)
    return Finding(name, "warning" if fault else "ok", shown, VARIABLES[name], fault or "")


def _fault(name: str, value: str) -> str | None:
    """Return what to do about a value, if something should be done."""
    cores = physical_cores(allowed_cpus())
    if name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        first = value.split(",")[0].strip()
        if not first.isdecimal() or int(first) == 0:
            return "it is no number of threads: unset it"
        if int(first) < cores:
            return f"there are {cores} cores: unset it to use them all"
    folder = name in ("TIKTOKEN_CACHE_DIR", "TMPDIR")
    if folder and not Path(value).is_dir():
        return "there is no such folder: make it, or unset the variable"
    if name == "TIKTOKEN_CACHE_DIR" and not any(Path(value).iterdir()):
        return "it is empty: tokenizer.kind=gpt2 fetches its file once, then it is here"
    if name in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        return "products may be slower than this processor's best: unset it"
    if name == "TORCH_COMPILE_DISABLE" and value not in ("", "0"):
        return "unset it if runtime.compile=true is wanted"
    return None


def _locale(host: Host) -> Finding:
    names = codecs.lookup(sys.getfilesystemencoding()).name
    value = f"file names in {names}, output in {host.encoding}"
    if names == "ascii" or codecs.lookup(host.encoding).name not in ("utf-8", "utf-16"):
        return Finding(
            "locale", "warning", value, "signs that the terminal lacks appear as ?", "export LC_ALL=C.UTF-8"
        )
    return Finding("locale", "ok", value, "any text can be read, written and named")


def _terminal(host: Host) -> Finding:
    if host.columns is None:
        return Finding("terminal", "ok", "stdout is none", "plain lines, without colours or bars that move")
    dumb = host.environment.get("TERM") in (None, "", "dumb", "unknown")
    if dumb:
        return Finding(
            "terminal",
            "warning",
            f"{host.columns} columns, TERM={host.environment.get('TERM', '')}",
            "no colours and no bars that move",
            "export TERM=xterm-256color, if it is one",
        )
    colours = "no colours (NO_COLOR)" if host.environment.get("NO_COLOR") else "colours"
    narrow = host.columns < 80
    return Finding(
        "terminal",
        "warning" if narrow else "ok",
        f"{host.columns} columns, {colours}",
        "tables and the training panel are made for 80 or more",
        "make it wider" if narrow else "",
    )
