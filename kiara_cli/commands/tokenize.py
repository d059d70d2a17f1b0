"""kiara tokenize: text to a data folder; or text to ids and back, in a pipe."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Given, Json, read
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.core.tokenizer.protocol import Tokenizer


def tokenize(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH] [KEY=VALUE]...", help="A text file, a folder or a glob, and settings."),
    ] = None,
    config: ConfigFiles = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FILE_OR_CHECKPOINT", help="Use this tokenizer instead of fitting one."),
    ] = None,
    encode: Annotated[str | None, typer.Option(metavar="TEXT|-", help="Print the ids of a text.")] = None,
    decode: Annotated[str | None, typer.Option(metavar="IDS|-", help="Print the text of ids.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write tokenizer.json, vocab.json and merges.txt as others read them."
        ),
    ] = None,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Turn text into token files: kiara tokenize FILE."""
    from kiara_cli.console import output
    from kiara_cli.core.export.target import check_free
    from kiara_cli.core.export.tokenizer import writing
    from kiara_cli.core.tokenizer import files

    given = read(words, config)
    if encode is not None or decode is not None:
        return convert(open_tokenizer(tokenizer), encode, decode)
    if export is not None:
        check_free(export)
    made = prepare_folder(given, open_tokenizer(tokenizer) if tokenizer else None)
    if export is not None:
        fitted = files.load(Path(str(made["folder"])) / "tokenizer.json")
        with writing(fitted, export, given.loaded.config.model.context_length):
            pass
    if json_:
        output.record(made)
    else:
        output.facts("", [(key.replace("_", " "), str(value)) for key, value in made.items()], to_stdout=True)
        output.hint(f"Train on it:  kiara train {given.word or given.loaded.config.data.source}")


def prepare_folder(given: Given, tokenizer: Tokenizer | None) -> dict[str, object]:
    """Make the data folder and return what `--json` shows."""
    from kiara_cli.console.preparing import prepare_showing

    config, start = given.loaded.config, time.perf_counter()
    if given.word is not None:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=given.word))
    prepared = prepare_showing(config, DATA_ROOT, tokenizer)
    meta = prepared.meta
    return {
        "folder": str(prepared.folder),
        "documents": meta.documents,
        "bytes": meta.train_bytes + meta.val_bytes,
        "train_tokens": meta.train_tokens,
        "val_tokens": meta.val_tokens,
        "vocab_size": meta.vocab_size,
        "bytes_per_token": round(meta.bytes_per_token, 4),
        "seconds": round(time.perf_counter() - start, 3),
    }


def open_tokenizer(word: str | None) -> Tokenizer:
    """Open a tokenizer.json, or take a checkpoint's."""
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.tokenizer import files

    if word is not None and word.endswith(".json"):
        return files.load(Path(word))
    return open_checkpoint(word)[0].make_tokenizer()


def convert(tokenizer: Tokenizer, encode: str | None, decode: str | None) -> None:
    """Print the ids of a text on one line, or the text of ids, byte for byte."""
    if encode is not None:
        text = sys.stdin.buffer.read().decode("utf-8", errors="replace") if encode == "-" else encode
        sys.stdout.write(" ".join(map(str, tokenizer.encode(text))) + "\n")
        return
    words = (sys.stdin.read() if decode == "-" else decode or "").split()
    try:
        ids = [int(word) for word in words]
    except ValueError:
        raise KiaraError("--decode wants whole numbers", "separate them by spaces: --decode '12 7 300'") from None
    if any(not 0 <= token < tokenizer.size for token in ids):
        raise KiaraError(f"an id lies outside of 0 to {tokenizer.size - 1}", "use the tokenizer that made them")
    sys.stdout.buffer.write(b"".join(map(tokenizer.token_bytes, ids)))
    sys.stdout.buffer.flush()
