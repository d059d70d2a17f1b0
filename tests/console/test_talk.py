from __future__ import annotations

import pytest

from kiara_cli.console.talk import left_out
from kiara_cli.core.chat.fit import Forgot


@pytest.mark.parametrize(
    ("forgot", "message"),
    [
        (Forgot(4, 0), "(The context of 384 tokens is full: the oldest 4 messages are no longer read.)"),
        (Forgot(1, 0), "(The context of 384 tokens is full: the oldest message is no longer read.)"),
        (
            Forgot(0, 9),
            "(Your message is too long for this model, which reads 384 tokens at once: its first 9 tokens",
        ),
        (
            Forgot(0, 0, 512),
            "(The system prompt is left out: its 512 tokens are too long for this model, which reads",
        ),
    ],
)
def test_what_is_left_out_is_called_by_its_name(forgot: Forgot, message: str) -> None:
    said = left_out(forgot, 384)
    assert said.startswith(message)
    assert len(said.splitlines()) == 1
