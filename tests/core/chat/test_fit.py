from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.chat.fit import fit
from kiara_cli.core.chat.template import Template, template_for
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.chat_format import encode_prompt
from kiara_cli.core.tokenizer.protocol import END_OF_TEXT, decode

TOKENIZER = BPETokenizer.fit(["a little text"], 300)
SYSTEM = [{"role": "system", "content": "Be kind."}]
Kind = Literal["conversation", "transcript"]


def turns(texts: list[str]) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize("kind", ["conversation", "transcript"])
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=9), budget=st.integers(40, 200))
def test_what_fits_is_read_and_the_newest_turns_come_first(kind: Kind, texts: list[str], budget: int) -> None:
    template = Template(kind, TOKENIZER)
    if len(texts) % 2 == 0:
        texts = texts[1:]
    ids, forgot = fit(template, SYSTEM, turns(texts), budget)
    assert len(ids) <= budget
    whole = template.encode([*SYSTEM, *turns(texts)])
    assert (forgot is None) == (len(whole) <= budget)
    if forgot is None:
        assert ids == whole
    elif not forgot.tokens:
        assert ids == template.encode([*SYSTEM, *turns(texts)[forgot.turns :]])
        assert forgot.turns % 2 == 0, "a conversation opens with the person"
        before = template.encode([*SYSTEM, *turns(texts)[forgot.turns - 2 :]])
        assert len(before) > budget, "more would have fitted"


def test_a_model_of_conversations_reads_marks_and_another_reads_a_transcript() -> None:
    messages = [*SYSTEM, *turns(["Hi", "Hello", "<|end|>?"])]
    assert template_for(TOKENIZER, True).encode(messages) == encode_prompt(messages, TOKENIZER)
    plain = template_for(TOKENIZER, False)
    ids = plain.encode(messages)
    assert ids[0] == TOKENIZER.specials[END_OF_TEXT]
    assert decode(TOKENIZER, ids) == "Be kind.\n\nUser:\nHi\n\nAssistant:\nHello\n\nUser:\n<|end|>?\n\nAssistant:\n"
    assert any("\n\nUser:".startswith(stop) for stop in plain.stop)
    assert template_for(TOKENIZER, True).stop == ()
