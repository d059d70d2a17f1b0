"""Text in, text out as it comes. The commands, the chat and the server all go through here.

In: an engine, its tokenizer, a prompt. Out: pieces of text in whole characters, cut before the first stop
string; then a `Completion` with the whole of it and what it cost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kiara_cli.config.schema import Config, GenerateConfig
from kiara_cli.core.generate.engine import Engine, FinishReason, GenerationRequest, Options, Token, window_start
from kiara_cli.core.generate.grammar import Grammar
from kiara_cli.core.generate.request import ActiveRequest
from kiara_cli.core.model.transformer import Transformer
from kiara_cli.core.runtime.device import Runtime
from kiara_cli.core.tokenizer.char import CharTokenizer
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, ByteStream, Tokenizer, incremental_decoder, prompt_ids

DEFAULT = Options()


@dataclass(frozen=True)
class Piece:
    """Some more text, never empty."""

    text: str


@dataclass(frozen=True)
class Completion:
    """All the text of a generation, and what it cost. Times are seconds of wall time since its start."""

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int  # all that were sampled, the one that ended the text included
    seconds: float
    first_token_seconds: float
    forgotten_tokens: int = 0  # of the prompt's beginning, which had no room in the context and was never read

    @property
    def tokens_per_second(self) -> float:
        """Sampled tokens per second, reading the prompt included."""
        return self.completion_tokens / max(self.seconds, 1e-9)

    @property
    def writing_tokens_per_second(self) -> float:
        """Tokens per second after the first one: the speed of writing, without reading the prompt."""
        return (self.completion_tokens - 1) / max(self.seconds - self.first_token_seconds, 1e-9)


def generate_text(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: str,
    config: GenerateConfig,
    ends: frozenset[int] = frozenset(),
    grammar: Grammar | None = None,
) -> Iterator[Piece | Completion]:
    """Continue a text until its document ends, or at another of the ids `ends`. An empty prompt starts a document.

    With a grammar what is written is JSON of its schema.
    """
    return stream_text(engine, tokenizer, prompt_ids(tokenizer, prompt), config, ends | tokenizer.ends, grammar)


def make_engine(model: Transformer, tokenizer: Tokenizer, runtime: Runtime, options: Options = DEFAULT) -> Engine:
    """Make an engine that never samples an id without a text: padding, turn marks, the unknown token."""
    assert model.config.vocab_size is not None
    return Engine(model, runtime, forbidden_ids(tokenizer, model.config.vocab_size), options)


def options_of(config: Config) -> Options:
    """Return how an engine is to work."""
    settings = config.generate
    return Options(
        streams=settings.streams,
        cache_dtype=settings.cache_dtype,
        cache_bytes=settings.cache_bytes,
        prefix_bytes=settings.prefix_bytes,
        native=config.runtime.native,
    )


def complete(engine: Engine, tokenizer: Tokenizer, prompt: str, config: GenerateConfig) -> Completion:
    """Continue a text and return only what came of it in the end."""
    *_, done = generate_text(engine, tokenizer, prompt, config)
    assert isinstance(done, Completion)
    return done


def stream_text(
    engine: Engine,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    config: GenerateConfig,
    stop_ids: frozenset[int],
    grammar: Grammar | None = None,
) -> Iterator[Piece | Completion]:
    """Continue ids until a stop id, a stop string or max_new_tokens: yield pieces, then one `Completion`."""
    writing = Writing(engine, tokenizer, prompt, config, stop_ids)
    for token in engine.follow(engine.submit(GenerationRequest(prompt, config, stop_ids, grammar=grammar))):
        text = writing.push(token)
        if text:
            yield Piece(text)
        if writing.done is not None:
            break
    assert writing.done is not None, "the engine's last token carries the reason"
    yield writing.done


def complete_all(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[tuple[str | Sequence[int], GenerateConfig]],
    ends: frozenset[int] = frozenset(),
    grammar: Grammar | None = None,
) -> Iterator[tuple[int, Completion]]:
    """Continue many texts, or ids, together; yield the number of a text and what came of it, as each ends.

    One that ends by a fault ("error") leaves the others running; raises its KiaraError after the last of them.
    """
    ends, errors = ends | tokenizer.ends, []
    open_: dict[int, tuple[ActiveRequest, Writing]] = {}
    for number, (prompt, config) in enumerate(prompts):
        ids = prompt_ids(tokenizer, prompt) if isinstance(prompt, str) else prompt
        writing = Writing(engine, tokenizer, ids, config, ends)
        open_[number] = (engine.submit(GenerationRequest(ids, config, ends, grammar=grammar)), writing)
    while open_:
        engine.step()
        for number, (request, writing) in list(open_.items()):
            while request.events and writing.done is None:
                token = request.events.popleft()
                if token.error is None:
                    writing.push(token)
                else:
                    errors.append(token.error)
                    writing.end("error")
            if writing.done is not None:
                request.cancel()
                del open_[number]
                yield number, writing.done
    if errors:
        raise errors[0]


class Writing:
    """One text in the making: tokens in, text that is safe to show out, and in the end the `Completion`."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        config: GenerateConfig,
        stop_ids: frozenset[int],
    ) -> None:
        self.tokenizer, self.stop_ids, self.prompt_tokens = tokenizer, stop_ids, len(prompt)
        self.forgotten = window_start(len(prompt), engine.context)
        # where a special token stands before it, a text begins
        self._bytes = ByteStream(tokenizer, begins=not tokenizer.token_bytes(prompt[-1]))
        self.done: Completion | None = None
        self._stream = TextStream(config.stop)
        self._pieces: list[str] = []
        self._count, self._began, self._first = 0, time.perf_counter(), 0.0

    def push(self, token: Token) -> str:
        """Take a token; return the text that has become certain. With the last one `done` is set."""
        self._count += 1
        self._first = self._first or time.perf_counter() - self._began
        reason = token.finish_reason
        text = "" if token.id in self.stop_ids else self._stream.push(self._bytes.push(token.id))
        if reason is not None:
            text += self._stream.push(self._bytes.end()) + self._stream.flush()
        return self._add(text, "stop" if self._stream.stopped else reason)

    def end(self, reason: FinishReason) -> str:
        """End the text where it is; return what was held back."""
        return self._add(self._stream.push(self._bytes.end()) + self._stream.flush(), reason)

    def _add(self, text: str, reason: FinishReason | None) -> str:
        self._pieces.append(text)
        if reason is not None:
            seconds = time.perf_counter() - self._began
            self.done = Completion(
                "".join(self._pieces), reason, self.prompt_tokens, self._count, seconds, self._first, self.forgotten
            )
        return text


class TextStream:
    """Turns bytes, cut anywhere, into text that is safe to show: whole characters, nothing of a stop."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        assert "" not in stop, "GenerateConfig refuses it"
        self.stop = tuple(stop)
        self.stopped = False
        self._decoder = incremental_decoder()
        self._held = ""  # decoded, not yet shown

    def push(self, data: bytes) -> str:
        """Take more bytes; return the text that has become certain. Nothing comes after a stop string."""
        return self._take(data, final=False)

    def flush(self) -> str:
        """Return what was held back, at the end of the bytes; an unfinished character becomes U+FFFD."""
        return self._take(b"", final=True)

    def _take(self, data: bytes, final: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(data, final)
        cut = _first_stop(text, self.stop)
        if cut is not None:
            self.stopped = True
        else:
            cut = len(text) if final else len(text) - _beginning_of_stop(text, self.stop)
        self._held = text[cut:]
        return text[:cut]


def _first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Return where the stop string begins that is complete first, the longest of those, or None.

    The first to be complete, not the first to begin: so the pieces the text came in make no difference.
    """
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    return min(found)[1] if found else None


def _beginning_of_stop(text: str, stop: Sequence[str]) -> int:
    """Return how many characters at the end of a text could be the beginning of a stop string."""
    longest = min(len(text), max(map(len, stop), default=1) - 1)
    return next((n for n in range(longest, 0, -1) if any(s.startswith(text[-n:]) for s in stop)), 0)


def forbidden_ids(tokenizer: Tokenizer, vocab_size: int) -> Tensor:
    """Mark the ids that stand for no text, (V,) bool: padding beyond the tokenizer's, special, unknown.

    END_OF_TEXT is not among them: a document may end. A tokenizer that came in with a model forbids rows that the
    model did not have, and nothing else: transformers samples all of them.
    """
    if isinstance(tokenizer, ImportedTokenizer):
        return torch.arange(vocab_size) >= tokenizer.rows
    assert vocab_size >= tokenizer.size, "a model's vocabulary covers its tokenizer's"
    mask = torch.ones(vocab_size, dtype=torch.bool)
    mask[: tokenizer.size] = torch.tensor([not tokenizer.token_bytes(token) for token in range(tokenizer.size)])
    mask[tokenizer.specials[END_OF_TEXT]] = False
    if isinstance(tokenizer, CharTokenizer):
        mask[tokenizer.unknown] = True
    return mask
