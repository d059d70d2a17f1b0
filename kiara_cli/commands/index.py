"""kiara index: documents to an index, and questions to passages of it."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from kiara_cli.commands import completion
from kiara_cli.commands.options import ConfigFiles, Debug, Given, Json, SkipBad, read
from kiara_cli.errors import KiaraError

NAME = re.compile(r"\w[\w.-]{0,99}")

if TYPE_CHECKING:
    from kiara_cli.core.retrieve.build import Built


def index(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DOCS]... [KEY=VALUE]...",
            help="Texts, Markdown, HTML, JSON lines, source code, PDFs: files, folders or globs; and settings.",
            autocompletion=completion.settings,
        ),
    ] = None,
    config: ConfigFiles = None,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the index; or after the documents.", autocompletion=completion.indexes),
    ] = None,
    query: Annotated[str | None, typer.Option(metavar="TEXT|-", help="Print the passages that fit it best.")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the indexes that there are.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Keep nothing of the index before: read and embed everything again.")
    ] = False,
    skip_bad: SkipBad = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Search your own documents: kiara index DOCS, then --query."""
    given = read(words, config, several=True, command="index")
    docs = [] if given.word is None else [given.word, *given.more]
    if list_:
        return show_list(json_)
    if docs or rebuild or (name is not None and query is None):
        built = make(docs, name, given, rebuild, skip_bad, json_)
        name = built.name
    elif query is None:
        from kiara_cli.core.retrieve.search import names

        there = f", or --name to bring one up to date (there is: {', '.join(names())})" if names() else ""
        raise KiaraError("no documents", f"give files, folders or globs: kiara index DOCS{there}")
    if query is not None:
        search(query, name, given, json_)


def make(docs: list[str], name: str | None, given: Given, rebuild: bool, skip_bad: bool, json_: bool) -> Built:
    """Index the documents and say what was done."""
    from kiara_cli.commands.knowledge import means_of
    from kiara_cli.commands.model import set_spin

    set_spin()  # an embedder may need torch
    from kiara_cli.config.schema import DataConfig
    from kiara_cli.console import output
    from kiara_cli.console.index import show_built, showing
    from kiara_cli.core.data.folders import dataset_name
    from kiara_cli.core.retrieve.build import build, facts

    if not docs and name is None:
        raise KiaraError("--rebuild needs an index", "name it: kiara index --name NAME --rebuild")
    if name is not None and not NAME.fullmatch(name):
        raise KiaraError(f"--name {name} is no name", "give one of letters, digits, dots, dashes and underscores")
    name = name or dataset_name(DataConfig(source=docs[0], sources=tuple(docs[1:])))
    with showing() as report:
        built = build(docs, name, means=means_of(given), report=report, anew=rebuild, skip_bad=skip_bad)
    for notice in built.notices:
        output.note(f"{notice[:1].upper()}{notice[1:]}.")
    if json_:
        output.record(facts(built))
    else:
        show_built(built)
    return built


def search(query: str, name: str | None, given: Given, json_: bool) -> None:
    """Print the passages that answer a question best."""
    from kiara_cli.commands.knowledge import means_of
    from kiara_cli.commands.model import set_spin

    set_spin()
    from kiara_cli.console.index import show_passages
    from kiara_cli.core.data.charset import decode_text
    from kiara_cli.core.retrieve.search import names, open_index

    question = decode_text(sys.stdin.buffer.read(), "stdin") if query == "-" else query
    if not question.strip():
        raise KiaraError("the question is empty", "ask something: kiara index --query 'How do I …?'")
    means = means_of(given)
    there = names()
    name = name or means.settings.knowledge or (there[0] if len(there) == 1 else None)
    if name is None:
        raise KiaraError(
            "several indexes to search" if there else "no index yet",
            f"give one of them: --name {' or --name '.join(there)}" if there else "make one first: kiara index DOCS",
        )
    found = open_index(name, means=means)
    show_passages(found, question, found.search(question, means.settings.passages), json_)


def show_list(json_: bool) -> None:
    """Print the indexes that there are."""
    from kiara_cli.console.index import show_indexes
    from kiara_cli.core.retrieve.search import listed

    show_indexes(listed(), json_)
