import pytest

from kiara_cli.core.runtime.parallel import ALONE, World, world
from kiara_cli.errors import KiaraError


def test_a_process_knows_its_place_from_what_torchrun_sets_and_is_alone_without_it():
    started = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}
    assert world(started) == World(3, 4, 1)
    assert not world(started).is_first
    assert world({"RANK": "0", "WORLD_SIZE": "1"}) == ALONE
    assert world(started | {"LOCAL_WORLD_SIZE": "2"}).local_size == 2
    assert world({}) == world({"WORLD_SIZE": "2"}) == ALONE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "two"),
        ("RANK", "2"),
        ("RANK", "-1"),
        ("WORLD_SIZE", "0"),
        ("LOCAL_RANK", "5"),
        ("LOCAL_WORLD_SIZE", "3"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(name, value):
    with pytest.raises(KiaraError, match=r"RANK=.* WORLD_SIZE=.* LOCAL_RANK=.*torchrun"):
        world({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"} | {name: value})
