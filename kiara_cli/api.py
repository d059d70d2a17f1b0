"""For Python programs: load a model, continue texts.

    from kiara_cli.api import generate_text, load_model, stream_text

    model = load_model("checkpoints/best.pt")
    print(generate_text(model, "Once upon a time", max_new_tokens=50, seed=1))
    for piece in stream_text(model, "Once upon a time"):
        print(piece, end="")

In: a checkpoint and prompts. Out: text. Settings are those of the section `generate` of a config.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kiara_cli.config.load import adopt, from_mapping
from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.generate import text as texts
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.runtime.device import decide
from kiara_cli.core.tokenizer.chat_format import stop_ids
from kiara_cli.core.tokenizer.protocol import Tokenizer
from kiara_cli.errors import KiaraError


@dataclass(frozen=True)
class Model:
    """A model ready to write. Use one from one thread at a time."""

    engine: Engine
    tokenizer: Tokenizer
    ends: frozenset[int]  # ids at which a text ends besides the end of its document


def load_model(checkpoint: str | Path | None = None, **runtime: Any) -> Model:
    """Load a checkpoint: a file, a run's folder or name; None: the best there is, as commands find it.

    `runtime` are settings of the section of that name, such as `device="cpu"` or `threads=2`. Raises KiaraError.
    """
    found, _ = open_checkpoint(None if checkpoint is None else str(checkpoint))
    given = from_mapping({"runtime": runtime}, "load_model")
    config = adopt(given, found.config, ("tokenizer", "model"), str(found.path))
    machine = decide(config.runtime)
    tokenizer = found.make_tokenizer()
    model = found.make_model(config.model).to(machine.device)
    options = texts.options_of(config)
    ends = stop_ids(tokenizer) if found.data.get("conversations") else frozenset()
    return Model(texts.make_engine(model, tokenizer, machine, options), tokenizer, ends)


def generate_text(model: Model, prompt: str, **settings: Any) -> str:
    """Continue a text; an empty prompt starts a document. Raises KiaraError for settings out of range."""
    return "".join(stream_text(model, prompt, **settings))


def stream_text(model: Model, prompt: str, **settings: Any) -> Iterator[str]:
    """Continue a text piece by piece, in whole characters. Leaving the loop ends the writing."""
    config = _settings(settings)
    for event in texts.generate_text(model.engine, model.tokenizer, prompt, config, model.ends):
        if isinstance(event, texts.Piece):
            yield event.text


def _settings(given: dict[str, Any]) -> GenerateConfig:
    known = [field.name for field in dataclasses.fields(GenerateConfig)]
    for name in given:
        if name not in known:
            raise KiaraError(f"there is no setting {name}", f"there are: {', '.join(known)}")
    return GenerateConfig(**given)
