from __future__ import annotations

import pytest

from kiara_cli.core.lab.planning.cluster import Cluster

PARAMETERS = 1_000_000


def test_a_ring_sends_each_gradient_twice_but_for_ones_own_share() -> None:
    assert Cluster(1, 8, 1e9, 1e9).seconds(PARAMETERS, PARAMETERS, 4, 1) == 0
    assert Cluster(2, 8, 1e9, 1e9).bytes_sent(PARAMETERS, PARAMETERS) == 4 * PARAMETERS
    assert Cluster(8, 8, 1e9, 1e9).bytes_sent(PARAMETERS, PARAMETERS) == 2 * 7 / 8 * 4 * PARAMETERS
    assert Cluster(8, 8, 1e9, 1e9, "fsdp").bytes_sent(PARAMETERS, PARAMETERS) == 3 * 7 / 8 * 4 * PARAMETERS


def test_more_than_one_machine_is_as_fast_as_the_network_between_them() -> None:
    one, two = Cluster(8, 8, 1e11, 1e9), Cluster(16, 8, 1e11, 1e9)
    assert (one.machines, two.machines) == (1, 2)
    assert (one.slowest, two.slowest) == (1e11, 1e9)
    sent = two.bytes_sent(PARAMETERS, PARAMETERS) / 1e9
    assert two.seconds(PARAMETERS, PARAMETERS, 4, 1) == pytest.approx(sent + 30 * 30e-6)


def test_fsdp_gathers_for_every_piece_of_a_batch_and_ddp_does_not_care() -> None:
    ddp, fsdp = (Cluster(4, 8, 1e9, 1e9, kind) for kind in ("ddp", "fsdp"))  # type: ignore[arg-type]
    once, often = (fsdp.seconds(PARAMETERS, PARAMETERS, 4, pieces) for pieces in (1, 8))
    assert often > 4 * once
    assert ddp.seconds(PARAMETERS, PARAMETERS, 4, 8) == ddp.seconds(PARAMETERS, PARAMETERS, 4, 1)
