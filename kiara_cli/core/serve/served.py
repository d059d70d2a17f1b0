"""What is being served: a model, its tokenizer, and the settings of its replies.

In: an engine, its tokenizer, a template of conversations, settings. Out: one frozen object, replaced as a whole when
the checkpoint is loaded again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from kiara_cli.config.schema import ChatConfig, GenerateConfig
from kiara_cli.core.generate.engine import Engine
from kiara_cli.core.generate.grammar import Grammars
from kiara_cli.core.retrieve.prompt import Knowledge
from kiara_cli.core.tokenizer.conversation import Template
from kiara_cli.core.tokenizer.protocol import Tokenizer


@dataclass(frozen=True)
class Served:
    """A model with a name. `ends` are ids at which a text ends besides the end of its document.

    `knowledge` are the indexes that clients may name, by their names; `consulted` is the one that a chat is answered
    from if its client names none.
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    template: Template
    ends: frozenset[int]
    settings: GenerateConfig
    chat: ChatConfig
    knowledge: Mapping[str, Knowledge] = field(default_factory=dict)
    consulted: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    @functools.cached_property
    def grammars(self) -> Grammars:
        """Compiles JSON schemas for this model."""
        return Grammars(self.tokenizer, self.engine.forbidden)

    @property
    def context(self) -> int:
        """Tokens that the model can look back on."""
        return self.engine.context
