"""Anti-entropy over anything that has keys and versions: a page of marks goes out, what differs comes back.

Pages, because a table may be larger than a message: each exchange takes the next, so its cost does not grow with the
table, and the time until all of it was compared does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeVar

import msgspec

from transport.gossip.messages import MARKS_MAX, size

K = TypeVar("K", int, bytes)
ItemT = TypeVar("ItemT", bound=msgspec.Struct)

Version = tuple[int, int]
NOTHING: Final[Version] = (-1, -1)  # older than anything


def page(versions: Mapping[K, Version], first: K) -> tuple[list[K], K | None]:
    """The next keys from `first` on, in order, and the one behind them; None: there is none."""
    keys = sorted(key for key in versions if key >= first)
    return keys[:MARKS_MAX], keys[MARKS_MAX] if len(keys) > MARKS_MAX else None


def newer(versions: Mapping[K, Version], theirs: Mapping[K, Version], first: K, until: K | None) -> list[K]:
    """The keys from `first` up to `until` of which they know less, in order. theirs: the marks of their page."""
    return sorted(
        key
        for key, version in versions.items()
        if first <= key and (until is None or key < until) and version > theirs.get(key, NOTHING)
    )


def fitting(keys: Iterable[K], item: Callable[[K], ItemT], room: int) -> tuple[list[ItemT], K | None, int]:
    """The items of the first keys that fit in `room` bytes, the first key that does not, and the room that is left."""
    items: list[ItemT] = []
    for key in keys:
        one = item(key)
        length = size(one)
        if length > room:
            return items, key, room
        room -= length
        items.append(one)
    return items, None, room
