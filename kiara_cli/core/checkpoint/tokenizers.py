"""What a person typed to a tokenizer.

In: nothing, a file, a folder, a name of tiktoken's, or a checkpoint. Out: the tokenizer.
"""

from __future__ import annotations

from pathlib import Path

from kiara_cli.core.tokenizer import files, pretrained
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


def open_tokenizer(word: str | None, kind: str, data_root: Path) -> Tokenizer:
    """Open a tokenizer.json, a data folder's, tiktoken's of that name, or a checkpoint's.

    Without a word: the encoding that `kind` (tokenizer.kind) names, else the newest checkpoint's, else that of the
    newest folder under `data_root`. Raises KiaraError.
    """
    if (name := word or kind) in pretrained.NAMES:
        return pretrained.load(name)
    if word is not None and Path(word, "tokenizer.json").is_file():
        return files.load(Path(word, "tokenizer.json"))
    if word is not None and word.endswith(".json"):
        return files.load(Path(word))
    from kiara_cli.core.checkpoint.find import open_checkpoint  # and with it torch, which a second of starting costs

    try:
        return open_checkpoint(word)[0].make_tokenizer()
    except KiaraError:
        made = sorted(data_root.glob("*/meta.json"), key=lambda path: path.stat().st_mtime)
        if word is not None or not made:
            raise
        return files.load(made[-1].with_name("tokenizer.json"))
