from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.chat.fit import fit
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.chat_format import encode_conversation, encode_prompt
from kiara_cli.core.tokenizer.conversation import Template, template_for
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


@pytest.mark.parametrize("kind", ["conversation", "transcript"])
def test_a_system_prompt_without_room_for_a_message_is_left_out_and_named(kind: Kind) -> None:
    template, long = Template(kind, TOKENIZER), [{"role": "system", "content": "Be kind. " * 30}]
    ids, forgot = fit(template, long, turns(["Hello!"]), 100)
    assert ids == template.encode(turns(["Hello!"]))
    assert forgot is not None
    assert (forgot.turns, forgot.tokens) == (0, 0)
    assert forgot.system >= len(TOKENIZER.encode(long[0]["content"]))
    ids, forgot = fit(template, SYSTEM, turns(["a b c " * 60]), 100)
    assert forgot is not None
    assert not forgot.system, "a short system prompt is not to blame for a long message"
    assert forgot.tokens > 0
    assert ids[: len(template.encode(SYSTEM)) // 2] == template.encode(SYSTEM)[: len(template.encode(SYSTEM)) // 2]


@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=6), budget=st.integers(60, 200))
def test_what_is_continued_keeps_its_question_and_stays_open(texts: list[str], budget: int) -> None:
    template = Template("conversation", TOKENIZER)
    talk = turns([*texts, "x"] if len(texts) % 2 else texts)
    ids, forgot = fit(template, SYSTEM, talk, budget, continued=True)
    assert len(ids) <= budget
    if forgot is None or not forgot.tokens:
        kept = talk[forgot.turns if forgot else 0 :]
        assert len(kept) > 1
        assert [*ids, TOKENIZER.specials["<|end|>"]] == encode_conversation([*SYSTEM, *kept], TOKENIZER)[0]


def test_a_model_of_conversations_reads_marks_and_another_reads_a_transcript() -> None:
    messages = [*SYSTEM, *turns(["Hi", "Hello", "<|end|>?"])]
    assert template_for(TOKENIZER, True).encode(messages) == encode_prompt(messages, TOKENIZER)
    plain = template_for(TOKENIZER, False)
    ids = plain.encode(messages)
    assert ids[0] == TOKENIZER.specials[END_OF_TEXT]
    assert decode(TOKENIZER, ids) == "Be kind.\n\nUser:\nHi\n\nAssistant:\nHello\n\nUser:\n<|end|>?\n\nAssistant:\n"
    assert any("\n\nUser:".startswith(stop) for stop in plain.stop)
    assert template_for(TOKENIZER, True).stop == ()
