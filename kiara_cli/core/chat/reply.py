"""A reply as requests to the engine: what `Session` runs by itself, and the server among other clients' requests.

In: a conversation and settings. Out: a first generation request; where the context ends in the middle of the reply, a
second one, for which all turns but the last are forgotten. Beyond that the engine's own window slides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from kiara_cli.config.schema import GenerateConfig
from kiara_cli.core.chat.fit import Forgot, fit, prompt_budget
from kiara_cli.core.generate.engine import GenerationRequest
from kiara_cli.core.generate.grammar import Grammar
from kiara_cli.core.tokenizer.chat_format import Message
from kiara_cli.core.tokenizer.conversation import Template


@dataclass(frozen=True)
class ReplyRequest:
    """A reply to the last of `turns`; `config.max_new_tokens` is its greatest length. `continued`: see `fit`."""

    template: Template
    system: Sequence[Message]
    turns: Sequence[Message]
    context: int
    config: GenerateConfig
    continued: bool = False
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    grammar: Grammar | None = None

    def first(self) -> tuple[GenerationRequest, Forgot | None]:
        """Return what to ask the engine for, and what of the conversation it does not read."""
        ids, forgot = self._read(self.turns)
        room = self.config.max_new_tokens
        if self._least < len(self.turns):
            room = max(1, min(room, self.context - len(ids)))
        return self._request(ids, room), forgot

    def following(self, asked: GenerationRequest, sampled: Sequence[int]) -> GenerationRequest | None:
        """Return what to ask for when a request has ended at its length, given all ids sampled; None: the end."""
        left = self.config.max_new_tokens - len(sampled)
        if left < 1:
            return None
        ids, _ = self._read(self.turns[-self._least :])
        seed = asked.config.seed
        later = dataclasses.replace(self.config, seed=None if seed is None else (seed + len(sampled)) % 2**63)
        return dataclasses.replace(self, config=later)._request([*ids, *sampled], left, sampled)

    @property
    def _least(self) -> int:
        return 2 if self.continued else 1

    def _read(self, turns: Sequence[Message]) -> tuple[list[int], Forgot | None]:
        budget = prompt_budget(self.context, self.config.max_new_tokens)
        return fit(self.template, self.system, turns, budget, self.continued)

    def _request(self, ids: list[int], length: int, resumed: Sequence[int] = ()) -> GenerationRequest:
        stop = tuple(dict.fromkeys((*self.config.stop, *self.template.stop)))
        config = dataclasses.replace(self.config, max_new_tokens=length, stop=stop)
        ends, biases = self.template.stop_ids, self.logit_bias
        return GenerationRequest(ids, config, ends, biases, self.logprobs, self.grammar, resumed)
