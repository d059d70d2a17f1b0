from __future__ import annotations

from collections.abc import Iterator

import torch

from kiara_cli.config.schema import RuntimeConfig
from kiara_cli.core.runtime.device import decide, seed_everything
from kiara_cli.core.runtime.guest import as_guest, host_settings_kept


def state() -> tuple[int, int, bool, list[int]]:
    return (
        torch.get_num_threads(),
        torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        torch.get_rng_state().tolist(),
    )


def test_what_a_guest_changes_of_torchs_global_settings_is_given_back() -> None:
    before = state()
    with host_settings_kept(threads=3):
        assert torch.get_num_threads() == 3
        decide(RuntimeConfig(device="cpu", threads=2, deterministic=True))
        seed_everything(7)
        assert state() != before
    assert state() == before


def test_whoever_takes_an_item_sees_the_hosts_settings_and_the_iterator_its_own() -> None:
    seen, closed = [], []

    def work() -> Iterator[int]:
        try:
            for number in range(3):
                seen.append(torch.get_num_threads())
                torch.rand(1)
                yield number
        finally:
            closed.append(True)

    before = state()
    for number in as_guest(work(), 3):
        assert state() == before
        if number == 1:
            break
    assert seen == [3, 3]
    assert closed == [True]
