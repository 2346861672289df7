"""What a driver does with a storage in memory, and what is in it."""

from __future__ import annotations

from consensus.messages import NO_LIMIT, Entry
from consensus.ready import Ready
from consensus.storage import MemoryStorage


def store(storage: MemoryStorage, ready: Ready) -> None:
    """Step 2 of the law in `consensus.ready`."""
    if ready.hard_state is not None:
        storage.hard_state = ready.hard_state
    if ready.snapshot is not None:
        storage.install_snapshot(ready.snapshot)
    storage.append(ready.entries)


def stored(storage: MemoryStorage) -> tuple[Entry, ...]:
    """All entries that it can give."""
    low, high = storage.first_index(), storage.last_index() + 1
    return tuple(storage.entries(low, high, NO_LIMIT)) if low < high else ()
