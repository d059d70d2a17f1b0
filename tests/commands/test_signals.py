from __future__ import annotations

import os
import signal

import pytest

from kiara_cli.commands import signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop_and_its_meaning_outside_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with signals.watched() as asked:
        assert not asked()
        os.kill(os.getpid(), number)
        assert asked()
        assert signals.received() == number
    assert signal.getsignal(number) == before


def test_the_shell_repeats_a_hangup_and_that_asks_for_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[int] = []
    monkeypatch.setattr(os, "_exit", left.append)
    with signals.watched():
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert (signals.received(), left) == (signal.SIGTERM, [])
        os.kill(os.getpid(), signal.SIGTERM)
        assert left == [143]


def test_a_hangup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.watched() as asked:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not asked()
    finally:
        signal.signal(signal.SIGHUP, before)
