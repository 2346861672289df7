"""What is still to be passed on: the least-sent first, of those the newest (memberlist's transmit-limited queue)."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT", bound=Hashable)
ItemT = TypeVar("ItemT")


class Retransmits(Generic[KeyT, ItemT]):
    """Items by key, in levels: how often each was sent. Its owner bounds how many keys there are (P12)."""

    def __init__(self) -> None:
        """Nothing to send."""
        self._levels: list[dict[KeyT, tuple[ItemT, int]]] = [{}]
        self._level: dict[KeyT, int] = {}

    def __len__(self) -> int:
        """How many are still to be sent."""
        return len(self._level)

    def put(self, key: KeyT, item: ItemT, size: int) -> None:
        """Add an item, in the place of the one with its key. size: bytes."""
        self.drop(key)
        self._levels[0][key] = (item, size)
        self._level[key] = 0

    def drop(self, key: KeyT) -> None:
        """Send it no more."""
        level = self._level.pop(key, None)
        if level is not None:
            del self._levels[level][key]

    def take(self, room: int, limit: int) -> tuple[list[ItemT], int]:
        """What to send now, in at most `room` bytes, and how many they are. Each item goes out `limit` times.

        limit: falls when the cluster shrinks; what was sent that often already is forgotten.
        """
        for items in self._levels[limit:]:
            for key in items:
                del self._level[key]
        del self._levels[limit:]
        taken: list[tuple[int, KeyT]] = []
        left = room
        for level, items in enumerate(self._levels):
            for key in reversed(items):
                if items[key][1] > left:
                    break
                left -= items[key][1]
                taken.append((level, key))
        return [self._count(level, key, limit) for level, key in taken], room - left

    def _count(self, level: int, key: KeyT, limit: int) -> ItemT:
        item, size = self._levels[level].pop(key)
        if level + 1 == limit:
            del self._level[key]
            return item
        if level + 1 == len(self._levels):
            self._levels.append({})
        self._levels[level + 1][key] = (item, size)
        self._level[key] = level + 1
        return item
