"""Corpora by name: what a bare word in data.source may be.

In: a name. Out: inputs to read: files that are on this machine or are downloaded once, or a corpus written here.

| name | what | from | licence | size | sha256 |
|---|---|---|---|---|---|
| tales | stories and talk about them: a small world | this package | Kiara's | data.corpus_bytes | – |
| a file with `world:` | talks in a world of one's own, see worlds/ | that file | yours | data.corpus_bytes | – |
| python | the standard library's source | this machine's Python | PSF | about 30 MB | – |
| tinyshakespeare | some of Shakespeare's plays | karpathy/char-rnn | public domain | 1,115,394 | known |
| tinystories | children's stories, generated | roneneldan/TinyStories | CDLA-Sharing | about 1 GB | at first sight |
| fineweb-edu-sample | educational web pages | HuggingFaceFW/fineweb-edu | ODC-By 1.0 | about 2 GB | at first sight |

Where the hash is not known to us, that of the first download is written down beside the file and holds from then
on. Nothing is downloaded but what is asked for by name.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from kiara_cli.config.folders import as_path
from kiara_cli.config.schema import DataConfig
from kiara_cli.core.data.download import Remote, Report, cached, download
from kiara_cli.core.data.inputs import STDIN, Input, as_input, find_inputs
from kiara_cli.core.data.listing import is_pipe
from kiara_cli.core.data.notices import Notices
from kiara_cli.core.data.pipes import Pipes
from kiara_cli.core.data.worlds.read import is_world, packaged, read_world
from kiara_cli.errors import KiaraError

HUGGING_FACE = "https://huggingface.co/datasets"


@dataclass(frozen=True)
class Corpus:
    """A corpus: files to download, or a function that names what is here."""

    licence: str
    files: tuple[Remote, ...] = ()
    local: Callable[[DataConfig], list[Input]] = field(default=lambda data: [])


def _world(path: Path, label: str, data: DataConfig) -> list[Input]:
    """Name the conversations of a small world, whose file is checked here. Raises KiaraError."""
    read_world(path)
    return [Input(f"{data.corpus_seed}:{data.corpus_bytes}:{path}", data.corpus_bytes, "world", label=label)]


def _python(data: DataConfig) -> list[Input]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    paths = sorted(path for path in folder.rglob("*.py") if "site-packages" not in path.parts and path.is_file())
    return [as_input(str(path), path.stat().st_size, named=False) for path in paths]


CORPORA = {
    "tales": Corpus("Apache-2.0", local=lambda data: _world(packaged("tales"), "tales", data)),
    "python": Corpus("PSF-2.0", local=_python),
    "tinyshakespeare": Corpus(
        "public domain",
        (
            Remote(
                "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                "tinyshakespeare.txt",
                1_115_394,
                "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            ),
        ),
    ),
    "tinystories": Corpus(
        "CDLA-Sharing-1.0",
        tuple(
            Remote(f"{HUGGING_FACE}/roneneldan/TinyStories/resolve/main/data/{name}.parquet", f"{name}.parquet")
            for name in (
                "train-00000-of-00004-2d5a1467fff1081b",
                "train-00001-of-00004-5852b56a2bd28fd9",
                "train-00002-of-00004-a26307300439e943",
                "train-00003-of-00004-d243063613e5a057",
            )
        ),
    ),
    "fineweb-edu-sample": Corpus(
        "ODC-By-1.0",
        (
            Remote(
                f"{HUGGING_FACE}/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/000_00000.parquet",
                "fineweb-edu-10BT-000.parquet",
            ),
        ),
    ),
}


def resolve(
    source: str,
    data: DataConfig,
    cache: Path,
    report: Report,
    fetch: bool = True,
    pipes: Pipes | None = None,
    notices: Notices | None = None,
) -> list[Input]:
    """List the inputs of a source, downloading a corpus that is asked for by name and not here yet.

    With `fetch` false nothing is downloaded; without `pipes` none is read. Raises KiaraError.
    """
    path, notices = as_path(source), Notices() if notices is None else notices
    if pipes is not None and (source == STDIN or is_pipe(path)):
        return [pipes.take(source if source == STDIN else path, notices)]
    if source not in CORPORA:
        return _world(Path(path), source, data) if is_world(Path(path)) else find_inputs(source, notices)
    corpus, paths = CORPORA[source], []
    for remote in corpus.files:
        if not fetch and not cached(remote, cache / source):
            raise KiaraError(f"the corpus {source} is not on this machine", f"download it: kiara tokenize {source}")
        paths.append(download(remote, cache / source, report))
    return corpus.local(data) + [as_input(str(path), path.stat().st_size) for path in paths]
