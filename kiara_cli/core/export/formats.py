"""An opened checkpoint to one of other people's formats, and whether another program computes the same from it.

In: `Opened`, a format's name and a path. Out: a folder or file, there when the block ends without an error.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from kiara_cli.core.eval.held_out import HeldOut, ids_of
from kiara_cli.core.export import gguf, huggingface, safetensors, tokenizer
from kiara_cli.core.export.check import Report, check_export
from kiara_cli.core.export.reading import as_imported
from kiara_cli.core.generate.opened import Opened
from kiara_cli.errors import KiaraError

LEAST = 4  # ids to compare on
WEIGHTS = ("hf", "gguf")  # formats that store weights with a precision of choice, and that others can be asked about


def check(to: str, quant: str, checks: bool) -> None:
    """Raise KiaraError for options that a format does not have."""
    if to not in WEIGHTS and (checks or quant != "f32"):
        raise KiaraError(f"--to {to} has neither --check nor --quant", "leave them out, or use --to hf or gguf")


def check_merge(opened: Opened, to: str, merge: bool) -> None:
    """Raise KiaraError for an adapter that is not to be merged, as a format holds whole models; or the other way."""
    path, merged = opened.checkpoint.path, opened.checkpoint.merged
    if merged and not merge and to != "tokenizer":
        raise KiaraError(f"{path} is an adapter, and --to {to} holds whole models", "add --merge")
    if merge and (not merged or to == "tokenizer"):
        cause = f"{path} is no adapter" if not merged else "a tokenizer has no weights to merge"
        raise KiaraError(cause, "leave out --merge")


def writing(opened: Opened, to: str, out: Path, quant: str) -> AbstractContextManager[Path]:
    """Return the export as a block, in which it lies at the path that is yielded."""
    if to == "safetensors":
        return safetensors.writing(opened.checkpoint, out)
    if to == "tokenizer":
        return tokenizer.writing(opened.tokenizer, out, opened.config.model.context_length, opened.conversations)
    model, weights = as_imported(opened.checkpoint, opened.config.model)
    if to == "hf":
        return huggingface.writing(model, weights, opened.tokenizer, out, quant, opened.conversations)
    name = str(opened.checkpoint.data.get("name") or "kiara")
    return gguf.writing(model, weights, opened.tokenizer, out, quant, name, opened.conversations)


def compared(opened: Opened, to: str, partial: Path, quant: str, where: HeldOut) -> Report:
    """Compare the export with the checkpoint on held-out text. Raises KiaraError if there is too little of it."""
    ids = ids_of(opened, where)
    if len(ids) < LEAST:
        raise KiaraError(f"the held-out text has {len(ids)} tokens, too few to compare on", "give --text FILE")
    model, weights = as_imported(opened.checkpoint, opened.config.model)
    return check_export(to, partial, quant, model, weights, opened.tokenizer, ids, opened.conversations)
