"""What commands that read a checkpoint do first: find it, check it against the config, build model and tokenizer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kiara_cli.commands.options import Given

if TYPE_CHECKING:
    from kiara_cli.config.schema import Config
    from kiara_cli.core.checkpoint.files import Checkpoint
    from kiara_cli.core.generate.engine import Engine
    from kiara_cli.core.model.transformer import Transformer
    from kiara_cli.core.runtime.device import Runtime
    from kiara_cli.core.tokenizer.protocol import Tokenizer


# How often a thread of torch looks for its next task before it sleeps; read when torch is imported. torch's own
# 300,000 starve whatever else runs on the machine; to sleep at once halves the speed of writing. This does neither.
SPIN = "10000"


@dataclass(frozen=True)
class Opened:
    """A model ready to use."""

    checkpoint: Checkpoint
    config: Config
    model: Transformer
    tokenizer: Tokenizer
    runtime: Runtime


def open_model(
    given: Given, sections: Sequence[str] = ("tokenizer", "model"), runtime: Runtime | None = None
) -> Opened:
    """Open the checkpoint that was named, or the best there is, on a machine already decided on if there is one.

    Raises KiaraError.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN)
    from kiara_cli.config.load import adopt
    from kiara_cli.console import output
    from kiara_cli.core.checkpoint.find import open_checkpoint
    from kiara_cli.core.runtime.device import decide

    checkpoint, warnings = open_checkpoint(given.word)
    for warning in warnings:
        output.warn(warning)
    config = adopt(given.loaded, checkpoint.config, sections, str(checkpoint.path))
    runtime = runtime or decide(config.runtime)
    model = checkpoint.make_model(config.model).to(runtime.device)
    return Opened(checkpoint, config, model, checkpoint.make_tokenizer(), runtime)


def open_engine(opened: Opened, model: Transformer | None = None) -> Engine:
    """Make the engine that the config asks for, of another model if one is given.

    Raises KiaraError if the config asks for compiling, and that fails.
    """
    from kiara_cli.core.generate.text import make_engine, options_of

    options = options_of(opened.config)
    return make_engine(model or opened.model, opened.tokenizer, opened.runtime, options)


def ends_of(opened: Opened) -> frozenset[int]:
    """Return the ids at which a text ends besides its document's end: where a reply would, if the model talks."""
    from kiara_cli.core.tokenizer.chat_format import stop_ids

    return stop_ids(opened.tokenizer) if opened.checkpoint.data.get("conversations") else frozenset()
