"""Where a reply begins in what the model reads, for every way in which conversations are written."""

from __future__ import annotations

import pytest

from kiara_cli.core.chat.answered import answered
from kiara_cli.core.tokenizer.bpe import BPETokenizer
from kiara_cli.core.tokenizer.conversation import template_for
from kiara_cli.core.tokenizer.protocol import decode
from kiara_cli.errors import KiaraError

TURNS = [
    {"role": "user", "content": "Tell me about a fox. " * 3},
    {"role": "assistant", "content": "It met a hen."},
    {"role": "user", "content": "And the hen?"},
    {"role": "assistant", "content": "She said good day."},
]


@pytest.mark.parametrize("conversations", [True, False])
def test_a_reply_begins_after_its_mark_and_old_turns_are_left_out(conversations: bool) -> None:
    tokenizer = BPETokenizer.fit(["Once a fox met a hen. She said good day.\n" * 20], 300)
    template = template_for(tokenizer, conversations)
    system = [{"role": "system", "content": "Be brief."}]
    ids, start = answered(template, system, TURNS, 400)
    assert decode(tokenizer, ids[start:]) == "She said good day."
    assert ids[:start] == template.encode([*system, *TURNS[:-1]])
    short, later = answered(template, system, TURNS, len(ids) - 1)
    assert len(short) < len(ids) - 1
    assert decode(tokenizer, short[later:]) == "She said good day."
    cut, start = answered(template, (), TURNS, 8)
    assert len(cut) <= 8
    assert 0 < start < len(cut)
    for turns in ([], TURNS[:1], [*TURNS[:1], {"role": "assistant", "content": ""}]):
        with pytest.raises(KiaraError, match="no reply to explain"):
            answered(template, system, turns, 400)
