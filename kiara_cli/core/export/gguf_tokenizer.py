"""A tokenizer as llama.cpp wants it inside a GGUF file.

In: a tokenizer, and how many ids the model scores. Out: the file's keys about tokens, marks and the chat template.

Kiara's own conversations are written so that llama.cpp renders them alike with Jinja and without, where it guesses a
format by words in the template. It takes Kiara's own marks for Phi 3's, which has line breaks that ours has not. So
the file calls them by names whose guess is right: Phi 4's `<|im_start|>user<|im_sep|>…<|im_end|>`, each one token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kiara_cli.core.export.chat_template import chat_template
from kiara_cli.core.export.patterns import GPT2, pattern_of, spelling
from kiara_cli.core.export.tokenizer import Ranked, has_chat, marks_within, merges
from kiara_cli.core.tokenizer.chat_format import END, ROLES
from kiara_cli.core.tokenizer.imported import ImportedTokenizer
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, Tokenizer
from kiara_cli.core.tokenizer.visible import visible
from kiara_cli.errors import KiaraError

if TYPE_CHECKING:
    import gguf

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # kinds of tokens
# Special tokens of conversations as the file calls them.
MARKS = {mark: f"<|im_start|>{role}<|im_sep|>" for role, mark in ROLES.items()} | {END: "<|im_end|>"}


@dataclass
class Vocabulary:
    """What a GGUF file says about a tokenizer."""

    model: str  # gpt2: byte-level BPE; llama: SentencePiece
    texts: list[str]
    kinds: list[int]
    pre: str | None = None
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    begin: int | None = None
    end: int | None = None
    turn_end: int | None = None
    add_begin: bool = False  # before every text
    space: bool = False  # before the first word of a text
    template: str | None = None
    names: dict[str, str] = field(default_factory=dict)  # special tokens that the template names by their use

    def mark(self, token: int, text: str, kind: int) -> None:
        """Name an id."""
        self.texts[token], self.kinds[token] = text, kind


def describe(tokenizer: Tokenizer, rows: int, conversations: bool) -> Vocabulary:
    """Return a tokenizer for a model of so many rows. Raises KiaraError for one that llama.cpp has no equal of."""
    if isinstance(tokenizer, ImportedTokenizer):
        made = _imported(tokenizer, rows)
    elif isinstance(tokenizer, Ranked):
        made = _ranked(tokenizer, rows)
    else:
        raise KiaraError(
            f"GGUF cannot express tokenizer.kind={tokenizer.kind}, only byte-level BPEs",
            "train with tokenizer.kind=bpe" + (", or export --to hf" if tokenizer.kind == "char" else ""),
        )
    if conversations and has_chat(tokenizer, rows):
        marks = tokenizer.specials
        for mark, text in MARKS.items():
            if text in made.texts:  # a special token that came in with the model: no two have one name
                token = made.texts.index(text)
                made.mark(token, f"<|unused_{token}|>", made.kinds[token])
            made.mark(marks[mark], text, CONTROL)
        made.turn_end, made.begin, made.add_begin = marks[END], marks[END_OF_TEXT], True
        made.template = chat_template(MARKS | {END_OF_TEXT: made.texts[marks[END_OF_TEXT]]})
    return made


def write(writer: gguf.GGUFWriter, made: Vocabulary) -> None:
    """Write it."""
    writer.add_tokenizer_model(made.model)
    if made.pre is not None:
        writer.add_tokenizer_pre(made.pre)
    writer.add_token_list(made.texts)
    writer.add_token_types(made.kinds)
    if made.merges:
        writer.add_token_merges(made.merges)
    if made.scores:
        writer.add_token_scores(made.scores)
    writer.add_add_bos_token(made.add_begin)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(made.space)
    if made.begin is not None:
        writer.add_bos_token_id(made.begin)
    if made.end is not None:
        writer.add_eos_token_id(made.end)
    if made.turn_end is not None:
        writer.add_eot_token_id(made.turn_end)
    if made.template is not None:
        writer.add_chat_template(made.template)


def _empty(model: str, rows: int) -> Vocabulary:
    return Vocabulary(model, [f"<|unused_{token}|>" for token in range(rows)], [UNUSED] * rows)


def _ranked(tokenizer: Ranked, rows: int) -> Vocabulary:
    """Describe a tokenizer of Kiara's: no mark is put before a text by itself."""
    made = _empty("gpt2", rows)
    for token, text in enumerate(tokenizer.tokens):
        if text:
            made.mark(token, visible(text), NORMAL)
    marks = marks_within(tokenizer, rows)  # type: ignore[arg-type]
    for mark, token in marks.items():
        made.mark(token, mark, CONTROL)
    made.pre = spelling(tokenizer.pattern).pre
    made.merges = [f"{left} {right}" for left, right in merges(tokenizer)]
    made.begin = made.end = marks.get(END_OF_TEXT)
    return made


def _imported(tokenizer: ImportedTokenizer, rows: int) -> Vocabulary:
    """Describe a tokenizer that came in with a model: a byte-level BPE, or one of SentencePiece's kind."""
    value: dict[str, Any] = json.loads(tokenizer.json)
    model = value["model"]
    if model.get("type") != "BPE":
        raise KiaraError(f"GGUF cannot express a tokenizer of the kind {model.get('type')}", "export --to hf")
    made = _empty("llama" if tokenizer.fallback else "gpt2", rows)
    pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model["merges"]]
    for text, token in model["vocab"].items():
        if token < rows:
            made.mark(token, text, BYTE if token in tokenizer.fallback else NORMAL)
    for added in value["added_tokens"]:
        if added["id"] < rows:
            made.mark(added["id"], added["content"], CONTROL if added["special"] else USER_DEFINED)
    if tokenizer.fallback:
        made.scores = _scores(made.texts, pairs)
        made.space = bool(tokenizer.lead)
        if model.get("unk_token") in model["vocab"]:
            made.kinds[model["vocab"][model["unk_token"]]] = UNKNOWN
    else:
        made.pre, made.merges = _pre(value.get("pre_tokenizer")), [" ".join(pair) for pair in pairs]
    made.begin, made.add_begin = (tokenizer.prefix or (tokenizer.start,))[0], bool(tokenizer.prefix)
    made.end = tokenizer.specials[END_OF_TEXT] if tokenizer.specials[END_OF_TEXT] < rows else None
    made.turn_end = next(iter(tokenizer.turn_end), None)
    made.template, made.names = tokenizer.template, tokenizer.names
    return made


def _scores(texts: list[str], pairs: list[list[str]]) -> list[float]:
    """Return scores by which llama.cpp joins the pairs in their order: the higher, the sooner."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        ranks.setdefault("".join(pair), rank)
    return [-float(ranks.get(text, len(pairs))) for text in texts]


def _pre(part: Any) -> str:
    """Return llama.cpp's name for a way to split text. Raises KiaraError for one that it has no name for."""
    steps = part["pretokenizers"] if part and part.get("type") == "Sequence" else [part or {}]
    kinds = [step.get("type") for step in steps]
    if kinds[-1] == "ByteLevel" and not steps[-1].get("add_prefix_space"):
        own = steps[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and own:
            return spelling(GPT2).pre
        if kinds == ["Digits", "ByteLevel"] and own and steps[0].get("individual_digits"):
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not own:
            split = steps[0]
            pattern = pattern_of(split["pattern"].get("Regex", ""))
            covers = split.get("invert", False) is (split.get("behavior") == "Removed")
            if pattern and split.get("behavior") in ("Isolated", "Removed") and covers:
                return spelling(pattern).pre
    raise KiaraError(
        f"GGUF cannot express this tokenizer: llama.cpp has no pre-tokenizer like it ({', '.join(map(str, kinds))})",
        "export --to hf",
    )
