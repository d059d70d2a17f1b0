"""A fair queue: no client waits for another's pile of requests.

In: items, each of a client. Out: the same items, round-robin over the clients; a client's own stay in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A first-in, first-out line for each client. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._lines: dict[str, deque[Item]] = {}  # the client that waited longest first

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Item]:
        return (item for line in self._lines.values() for item in line)

    def push(self, client: str, item: Item) -> None:
        """Put an item at the end of its client's line."""
        self._lines.setdefault(client, deque()).append(item)

    def pop(self, served: Mapping[str, int]) -> Item:
        """Take an item of the client that is `served` the fewest now; of several, the one that waits longest."""
        client = min(self._lines, key=lambda name: served.get(name, 0))
        line = self._lines.pop(client)
        item = line.popleft()
        if line:
            self._lines[client] = line  # at the end: the others come first
        return item

    def remove(self, unwanted: Callable[[Item], bool]) -> list[Item]:
        """Take out all items that are unwanted."""
        gone = [item for item in self if unwanted(item)]
        if gone:
            known = {id(item) for item in gone}
            kept = {client: deque(i for i in line if id(i) not in known) for client, line in self._lines.items()}
            self._lines = {client: line for client, line in kept.items() if line}
        return gone
