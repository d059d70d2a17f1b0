"""Which settings each command reads: so that one that it does not can be said.

In: the name of a command and a dotted key. Out: whether it counts. A test runs the commands and compares.
"""

from __future__ import annotations

from collections.abc import Iterable

RUNTIME = ("runtime.device", "runtime.dtype", "runtime.threads", "runtime.deterministic")
MODEL = ("tokenizer", "model", "hooks", *RUNTIME)  # of a command that opens a checkpoint
WRITING = (*MODEL, "generate", "runtime.native")  # and writes with it

KNOWLEDGE = tuple(
    f"retrieve.{key}" for key in ("knowledge", "passages", "embedding_model", "embedding_key_file", "search")
)
LOG = ("logging.level", "logging.format", "logging.file", "logging.file_bytes", "logging.files")

# Command → sections, or single keys where a section is not read as a whole. All commands read what decides the log.
USES: dict[str, tuple[str, ...]] = {
    "tokenize": ("tokenizer", "data", "runtime.threads"),
    "train": ("tokenizer", "data", "model", "hooks", "train", "eval", "generate", "runtime", "logging"),
    "plan": ("tokenizer", "data", "model", "hooks", "train", "eval", "runtime"),
    "eval": (*WRITING, "data", "eval", "chat.system", "chat.max_new_tokens", "runtime.seed"),
    "generate": (*WRITING, *KNOWLEDGE, "data.encoding"),
    "chat": (*WRITING, *KNOWLEDGE, "chat"),
    "serve": (*WRITING, *KNOWLEDGE, "chat", "serve"),
    "index": (*MODEL, "retrieve", "data.encoding", "data.field", "data.prompt_field", "data.reply_field"),
    "quantize": (*WRITING, "data", "eval", "quantize"),
    "export": (*MODEL, "data"),
    "import": ("model.context_length",),
    "doctor": (*RUNTIME, "runtime.compile", "runtime.native"),
    "bench": (*MODEL, "train", "runtime.native"),
    "inspect": (*WRITING, "chat", "data"),
}


def is_used(command: str, key: str) -> bool:
    """Say whether a command reads a setting; `hooks.NAME.factor` is one of hooks."""
    if key in ("version", *LOG) or command not in USES:
        return True
    return any(key == used or key.startswith(f"{used}.") for used in USES[command])


def unused(command: str, keys: Iterable[str]) -> list[str]:
    """Return the settings that a command does not read."""
    return [key for key in keys if not is_used(command, key)]
