"""What a process breaks is told in one line, and ends with it."""

from __future__ import annotations

import os
import time

import pytest

from kiara_cli.core.lab.doctor.trial import Outcome, Trial


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print('torch', 2)", Outcome("torch 2")),
        ("import no_such_package", Outcome(failure="ModuleNotFoundError: No module named 'no_such_package'")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)",
         Outcome(failure="SIGILL: it uses instructions that this processor does not have")),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
         Outcome(failure="the process ended with SIGKILL")),
        ("import sys; sys.exit(3)", Outcome(failure="status 3")),
    ],
)  # fmt: skip
def test_a_trial_that_ends_in_any_way_is_told(code: str, expected: Outcome) -> None:
    assert Trial(code, os.environ).outcome(60) == expected


def test_a_trial_that_takes_too_long_ends_with_all_that_it_started() -> None:
    code = "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began, trial = time.monotonic(), Trial(code, os.environ)
    assert not trial.outcome(0.3).finished
    assert time.monotonic() - began < 30  # it waits for the pipes of the inner process, too
