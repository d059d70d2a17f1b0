"""A checkpoint opened for use: what every command that reads one, and `api.load_model`, begin with.

In: what a person typed and the layers of the config. Out: `Opened`: checkpoint, config, model, tokenizer and runtime.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kiara_cli.config.load import Loaded, adopt
from kiara_cli.config.schema import Config
from kiara_cli.core.checkpoint.files import Checkpoint
from kiara_cli.core.checkpoint.find import open_checkpoint
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.grammar import Grammar, Grammars
from kiara_cli.core.generate.text import make_engine, options_of
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime, decide
from kiara_cli.core.runtime.parallel import ALONE, World
from kiara_cli.core.tokenizer.chat_format import stop_ids
from kiara_cli.core.tokenizer.conversation import Template, template_for
from kiara_cli.core.tokenizer.protocol import Tokenizer

log = logging.getLogger("kiara.checkpoint")


@dataclass(frozen=True)
class Opened:
    """A model ready to use."""

    checkpoint: Checkpoint
    config: Config
    model: Transformer
    tokenizer: Tokenizer
    runtime: Runtime

    @property
    def conversations(self) -> bool:
        """Whether it has learned to answer, rather than to continue a text."""
        return bool(self.checkpoint.data.get("conversations"))

    @property
    def template(self) -> Template:
        """How conversations are written for it."""
        return template_for(self.tokenizer, self.conversations)

    @property
    def ends(self) -> frozenset[int]:
        """The ids at which a text ends besides its document's end: where a reply would, if the model answers."""
        return stop_ids(self.tokenizer) if self.conversations else frozenset()

    def grammar(self, engine: Engine, schema: Any) -> Grammar:
        """Compile a JSON schema that what an engine writes is to follow. Raises KiaraError."""
        return Grammars(self.tokenizer, engine.forbidden).compile(schema)

    def engine(self, model: Transformer | None = None) -> Engine:
        """Make the engine that the config asks for, of another model if one is given. Raises KiaraError."""
        return make_engine(model or self.model, self.tokenizer, self.runtime, options_of(self.config))


def open_model(
    word: str | None,
    loaded: Loaded,
    sections: Sequence[str] = ("tokenizer", "model"),
    runtime: Runtime | None = None,
    world: World = ALONE,
) -> Opened:
    """Open the checkpoint that `word` means, or the best there is; `sections` of the config are taken from it.

    A given runtime is used as it is; else it is decided for one of the processes of a `world`. Raises KiaraError.
    """
    checkpoint, warnings = open_checkpoint(word)
    for warning in warnings:
        log.warning(warning)
    config = adopt(loaded, checkpoint.config, sections, str(checkpoint.path))
    runtime = runtime or decide(config.runtime, world=world)
    model = checkpoint.make_model(config.model).to(runtime.device)
    return Opened(checkpoint, config, model, checkpoint.make_tokenizer(), runtime)
