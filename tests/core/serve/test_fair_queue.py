from hypothesis import given
from hypothesis import strategies as st

from kiara_cli.core.serve.fair_queue import FairQueue


def drain(queue: FairQueue[str]) -> list[str]:
    return [queue.pop({}) for _ in range(len(queue))]


def test_clients_take_turns_and_their_own_requests_stay_in_order() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.push(item[0], item)
    assert drain(queue) == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_a_client_that_is_served_less_comes_first() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "b1", "c1"):
        queue.push(item[0], item)
    assert queue.pop({"a": 2, "b": 1, "c": 1}) == "b1"
    assert queue.pop({"a": 2, "b": 2, "c": 1}) == "c1"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9))))
def test_nothing_is_lost_and_what_is_removed_is_gone(items: list[tuple[str, int]]) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    for number, (client, kind) in enumerate(items):
        queue.push(client, (number, kind))
    removed = queue.remove(lambda item: item[1] > 5)
    left = [queue.pop({}) for _ in range(len(queue))]
    assert sorted(removed + left) == [(number, kind) for number, (_, kind) in enumerate(items)]
    assert all(kind <= 5 for _, kind in left)
    assert len(queue) == 0
