"""kiara tokenize: text to a data folder; or text to ids and back, in a pipe."""

from __future__ import annotations

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.group import group, refuse_in_group
from kiara_cli.commands.options import DATA_ROOT, ConfigFiles, Debug, Json, SkipBad, read, with_source
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    from kiara_cli.config.schema import Config
    from kiara_cli.core.data.folders import Prepared
    from kiara_cli.core.runtime.parallel import World
    from kiara_cli.core.tokenizer.protocol import Tokenizer

Texts = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[PATH]... [KEY=VALUE]...",
        help="Text files, folders, globs, addresses, a corpus by name, or - for stdin; and settings.",
        autocompletion=completion.texts_or_settings,
    ),
]


def tokenize(
    words: Texts = None,
    config: ConfigFiles = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_CHECKPOINT",
            help="Use this tokenizer instead of fitting one.",
            autocompletion=completion.checkpoints,
        ),
    ] = None,
    encode: Annotated[str | None, typer.Option(metavar="TEXT|-", help="Print the ids of a text.")] = None,
    decode: Annotated[str | None, typer.Option(metavar="IDS|-", help="Print the text of ids.")] = None,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Also write tokenizer.json, vocab.json and merges.txt as others read them."
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option(metavar="I/N", help="Do only this share of the work, as one of N processes.")
    ] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Put the shares together.")] = False,
    skip_bad: SkipBad = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Turn text into token files: kiara tokenize FILE."""
    with group() as world:
        given = read(words, config, several=True, command="tokenize")
        settings, began = with_source(given, given.loaded.config), time.perf_counter()
        if world.size > 1:
            settings = for_group(
                world, settings, {"--shard": shard, "--merge": merge, "--encode": encode, "--decode": decode}
            )
        if encode is not None or decode is not None:
            return convert(opened(tokenizer, settings), encode, decode)
        if shard is not None:
            if merge or export is not None:
                raise KiaraError("--shard does a share of the work", "give --merge or --export when all are done")
            return share(settings, shard, open_shared(tokenizer, settings), skip_bad, json_)
        if merge:
            prepared: Prepared | None = merged(settings, open_shared(tokenizer, settings), skip_bad, export)
        else:
            given_one = opened(tokenizer, settings) if tokenizer else None
            prepared = whole(world, settings, given_one, skip_bad, export)
        if prepared is not None:
            finish(prepared, settings, began, export, skip_bad, json_)


def for_group(world: World, config: Config, single: dict[str, object]) -> Config:
    """Return the config for one of several processes, which share the cores of their machine.

    Raises KiaraError for what only one process can do.
    """
    from kiara_cli.config.folders import as_path
    from kiara_cli.core.data.listing import is_pipe
    from kiara_cli.core.runtime.threads import allowed_workers

    source = config.data.source
    for name, value in {**single, "a text from a pipe": source == "-" or is_pipe(as_path(source))}.items():
        if value not in (None, False):
            refuse_in_group(world, name)
    if config.runtime.threads != "auto":
        return config
    threads = max(1, allowed_workers() // world.local_size)
    return dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, threads=threads))


def opened(tokenizer: str | None, config: Config) -> Tokenizer:
    """Open the tokenizer that was named, or the one there is."""
    from kiara_cli.core.checkpoint.tokenizers import open_tokenizer

    return open_tokenizer(tokenizer, config.tokenizer.kind, DATA_ROOT)


def finish(
    prepared: Prepared, config: Config, began: float, export: Path | None, skip_bad: bool, json_: bool
) -> None:
    """Export the tokenizer if that was asked for, and say what was made and what comes next."""
    from kiara_cli.config.folders import as_path
    from kiara_cli.console import output
    from kiara_cli.core.data.listing import is_pipe
    from kiara_cli.core.export.tokenizer import writing

    if export is not None:
        with writing(prepared.tokenizer, export, config.model.context_length):
            pass
    show(prepared, began, json_)
    if not json_:
        source = config.data.source
        once = source == "-" or is_pipe(as_path(source)) or config.data.sources
        again = f"{shlex.quote(source)}{' --skip-bad' if skip_bad else ''}"
        output.hint(f"Train on it:  kiara train {shlex.quote(str(prepared.folder)) if once else again}")


def check_export(folder: Path | None, tokenizer: Tokenizer) -> None:
    """Raise KiaraError, before any work is done, if this tokenizer could not be exported to that folder."""
    from kiara_cli.core.export import tokenizer as export
    from kiara_cli.core.export.target import check_free

    if folder is not None:
        check_free(folder)
        export.check(tokenizer)


def whole(
    world: World, config: Config, tokenizer: Tokenizer | None, skip_bad: bool, export: Path | None
) -> Prepared | None:
    """Prepare all of the data, alone or as one of several processes, of which the first gets it."""
    from kiara_cli.console.preparing import prepare_showing
    from kiara_cli.core.data.source import means_of
    from kiara_cli.core.tokenizer import files

    if export is not None:
        check_export(export, tokenizer or files.fit(config.tokenizer, ()))  # of that kind, if not yet fitted
    means = dataclasses.replace(means_of(config, skip_bad), stdin=sys.stdin.buffer)
    return prepare_showing(config, DATA_ROOT, tokenizer, means, world)


def merged(config: Config, tokenizer: Tokenizer, skip_bad: bool, export: Path | None) -> Prepared:
    """Put all shares of the work together."""
    from kiara_cli.console.preparing import describe, showing
    from kiara_cli.core.data.shares import merge_shares
    from kiara_cli.core.data.source import means_of

    check_export(export, tokenizer)
    with showing() as report:
        prepared = merge_shares(config.data, DATA_ROOT, tokenizer, report, means_of(config, skip_bad))
    describe(prepared, None)
    return prepared


def show(prepared: Prepared, began: float, json_: bool) -> None:
    """Print what was made."""
    from kiara_cli.console import output
    from kiara_cli.core.tokenizer.report import longest_tokens

    meta = prepared.meta
    made: dict[str, object] = {
        "folder": str(prepared.folder),
        "documents": meta.documents,
        "conversations": meta.conversations,
        "bytes": meta.train_bytes + meta.val_bytes,
        "train_tokens": meta.train_tokens,
        "val_tokens": meta.val_tokens,
        "vocab_size": meta.vocab_size,
        "bytes_per_token": round(meta.bytes_per_token, 4),
        "seconds": round(time.perf_counter() - began, 3),
        "unused_tokens": meta.unused_tokens,
        "longest_tokens": longest_tokens(prepared.tokenizer),
        "skipped": meta.skipped,
    }
    if json_:
        return output.record(made | {"notices": prepared.notices})
    made["longest_tokens"] = " ".join(map(repr, longest_tokens(prepared.tokenizer)))
    output.facts("", [(key.replace("_", " "), str(value)) for key, value in made.items()], to_stdout=True)


def share(config: Config, shard: str, tokenizer: Tokenizer, skip_bad: bool, json_: bool) -> None:
    """Do one share of the work and say where it lies."""
    from kiara_cli.console import output
    from kiara_cli.console.preparing import showing
    from kiara_cli.core.data.shares import prepare_share
    from kiara_cli.core.data.source import means_of
    from kiara_cli.core.data.units import Share

    began, mine = time.perf_counter(), Share.parse(shard)
    with showing() as report:
        place, units, of_units = prepare_share(
            config.data, DATA_ROOT, tokenizer, mine, report, means_of(config, skip_bad)
        )
    seconds = round(time.perf_counter() - began, 3)
    made = {"shard": shard, "parts": place, "units": units, "of_units": of_units, "seconds": seconds}
    if json_:
        return output.record(made)
    output.facts("", [(key.replace("_", " "), str(value)) for key, value in made.items()], to_stdout=True)


def open_shared(word: str | None, config: Config) -> Tokenizer:
    """Open the tokenizer that all shares use. Raises KiaraError if none is named."""
    from kiara_cli.core.checkpoint.tokenizers import open_tokenizer
    from kiara_cli.core.tokenizer.pretrained import NAMES

    if word is None and config.tokenizer.kind not in NAMES:
        raise KiaraError(
            "--shard and --merge need a tokenizer that all processes share",
            "make one first with kiara tokenize on a part of the text, and give its file: --tokenizer tokenizer.json",
        )
    return open_tokenizer(word, config.tokenizer.kind, DATA_ROOT)


def convert(tokenizer: Tokenizer, encode: str | None, decode: str | None) -> None:
    """Print the ids of a text on one line, or the text of ids, byte for byte."""
    import os

    from kiara_cli.core.tokenizer.protocol import encode_bytes

    if encode is not None:
        raw = sys.stdin.buffer.read() if encode == "-" else os.fsencode(encode)
        sys.stdout.write(" ".join(map(str, encode_bytes(tokenizer, raw))) + "\n")
        return
    words = (sys.stdin.buffer.read().decode("ascii", "replace") if decode == "-" else decode or "").split()
    try:
        ids = [int(word) for word in words]
    except ValueError:
        raise KiaraError("--decode wants whole numbers", "separate them by spaces: --decode '12 7 300'") from None
    if any(not 0 <= token < tokenizer.size for token in ids):
        raise KiaraError(f"an id lies outside of 0 to {tokenizer.size - 1}", "use the tokenizer that made them")
    sys.stdout.buffer.write(b"".join(map(tokenizer.token_bytes, ids)))
    sys.stdout.buffer.flush()
