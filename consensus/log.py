"""The log as the core sees it: what the storage holds, and on top of it what is not stable yet.

    storage                          | unstable: handed out in a Ready, then new
    first_index ...    offset - 1    | offset ... in_progress - 1 | in_progress ... last_index
    applied <= applying <= committed <= last_index

A snapshot that came from a leader and is not stored yet stands before the unstable entries.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.errors import Compacted, Inconsistent, Unavailable
from consensus.messages import Entry, Snapshot
from consensus.storage import Storage, entry_bytes, limit_bytes


class Log:
    """See the module. Indexes are of entries, the first is 1."""

    def __init__(self, storage: Storage, max_applying_bytes: int) -> None:
        """max_applying_bytes: of committed entries that are handed out and not applied yet."""
        self.storage = storage
        self.committed = storage.first_index() - 1
        self.applying = self.committed
        self.applied = self.committed
        self.snapshot: Snapshot | None = None
        self._snapshot_in_progress = False
        self._entries: list[Entry] = []
        self._offset = storage.last_index() + 1
        self._in_progress = self._offset
        self._max_applying_bytes = max_applying_bytes
        self._applying_bytes = 0
        self._applying_paused = False

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def first_index(self) -> int:
        """The first entry that can be read."""
        return self.snapshot.meta.index + 1 if self.snapshot is not None else self.storage.first_index()

    @property
    def last_index(self) -> int:
        """The last entry, or the snapshot's index where there is none."""
        if self._entries:
            return self._offset + len(self._entries) - 1
        return self.snapshot.meta.index if self.snapshot is not None else self.storage.last_index()

    @property
    def last_term(self) -> int:
        """The term of the last entry."""
        return self._entries[-1].term if self._entries else self.term(self.last_index)

    def term(self, index: int) -> int:
        """The term of an entry, or of the last one that was compacted. Raises Compacted, Unavailable."""
        if index >= self._offset:
            if index - self._offset < len(self._entries):
                return self._entries[index - self._offset].term
            raise Unavailable(f"entry {index} is past the log's end at {self.last_index}")
        if self.snapshot is not None:
            if index == self.snapshot.meta.index:
                return self.snapshot.meta.term
            raise Compacted(f"entry {index} is covered by a snapshot of {self.snapshot.meta.index}")
        return self.storage.term(index)

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at `index` is here and has that term (paper, 5.3)."""
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (paper, 5.4.1)."""
        mine = self.last_term
        return term > mine or (term == mine and index >= self.last_index)

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The last place at or before `index` whose term is at most `term`, and its term; (index, 0) if compacted.

        That is where a log with an entry of `term` at `index` can meet this one at the earliest (paper, 5.3 end).
        """
        while index > 0:
            try:
                mine = self.term(index)
            except (Compacted, Unavailable):
                return index, 0
            if mine <= term:
                return index, mine
            index -= 1
        return 0, 0

    def entries(self, low: int, high: int, max_bytes: int) -> Sequence[Entry]:
        """Entries low to high - 1, cut to max_bytes but at least one. Raises Compacted."""
        if low >= high:
            return ()
        if low < self.first_index:
            raise Compacted(f"entry {low} was dropped; the log begins at {self.first_index}")
        if low >= self._offset:
            return limit_bytes(self._entries[low - self._offset : high - self._offset], max_bytes)
        cut = min(high, self._offset)
        stable = self.storage.entries(low, cut, max_bytes)
        if high <= self._offset or len(stable) < cut - low:
            return stable
        return limit_bytes([*stable, *self._entries[: high - self._offset]], max_bytes)

    # -- growing -----------------------------------------------------------------------------------------------------

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries; those from the first one's index on are replaced. Never below what is committed."""
        first = entries[0].index
        if first <= self.committed:
            raise Inconsistent(f"entry {first} would be replaced, and is committed (up to {self.committed})")
        keep = first - self._offset
        if keep <= 0:
            self._entries = list(entries)
            self._offset = self._in_progress = first
            return
        assert keep <= len(self._entries)
        del self._entries[keep:]
        self._entries += entries
        self._in_progress = min(self._in_progress, first)

    def try_append(self, index: int, term: int, entries: Sequence[Entry], committed: int) -> int | None:
        """A leader's entries after (index, term). Returns the last index that matches; None where the logs do not meet.

        Only from the first conflict on is anything replaced: an old, short message must not cut a longer log (5.3).
        """
        if not self.matches(index, term):
            return None
        for at, entry in enumerate(entries):
            if not self.matches(entry.index, entry.term):
                self.append(entries[at:])
                break
        last = index + len(entries)
        self.commit_to(min(committed, last))
        return last

    def commit_to(self, index: int) -> None:
        """Everything up to `index` is committed. Never goes back."""
        if index <= self.committed:
            return
        if index > self.last_index:
            raise Inconsistent(
                f"entry {index} is said to be committed, and the log ends at {self.last_index}: it has lost entries"
            )
        self.committed = index

    def try_commit(self, index: int, term: int) -> bool:
        """Commit up to `index` if its entry is of `term`: only the leader's own term is counted (paper, 5.4.2)."""
        if index > self.committed and self.matches(index, term):
            self.commit_to(index)
            return True
        return False

    def restore(self, snapshot: Snapshot) -> None:
        """Put a leader's snapshot in the place of everything."""
        self.committed = snapshot.meta.index
        self.snapshot = snapshot
        self._snapshot_in_progress = False
        self._entries = []
        self._offset = self._in_progress = snapshot.meta.index + 1

    # -- handing out -------------------------------------------------------------------------------------------------

    def next_unstable(self) -> tuple[Entry, ...]:
        """The entries that no Ready has handed out yet."""
        return tuple(self._entries[self._in_progress - self._offset :])

    def next_snapshot(self) -> Snapshot | None:
        """The snapshot that no Ready has handed out yet."""
        return None if self._snapshot_in_progress else self.snapshot

    @property
    def has_unstable(self) -> bool:
        """Whether entries wait to become stable, handed out or not."""
        return bool(self._entries)

    @property
    def has_next_unstable(self) -> bool:
        """Whether `next_unstable` would give something."""
        return self._in_progress - self._offset < len(self._entries)

    @property
    def has_next_committed(self) -> bool:
        """Whether `next_committed` would give something."""
        return not self._applying_paused and self.snapshot is None and self.applying < self.committed

    def next_committed(self) -> tuple[Entry, ...]:
        """Committed entries that were not handed out, within the limit; none while a snapshot is to be applied."""
        if not self.has_next_committed:
            return ()
        room = self._max_applying_bytes - self._applying_bytes
        return tuple(self.entries(self.applying + 1, self.committed + 1, room))

    def accept(self, committed: Sequence[Entry]) -> None:
        """A Ready has handed out all that is unstable, and these committed entries."""
        if self._entries:
            self._in_progress = self._offset + len(self._entries)
        if self.snapshot is not None:
            self._snapshot_in_progress = True
        if committed:
            self.applying = committed[-1].index
            self._applying_bytes += sum(map(entry_bytes, committed))
            # What did not fit this time must wait until something was applied, or it would be handed out one by one.
            self._applying_paused = self._applying_bytes >= self._max_applying_bytes or self.applying < self.committed

    def stable_to(self, index: int, term: int) -> None:
        """Entries up to `index` are in the storage, unless they were replaced meanwhile: then the term differs."""
        at = index - self._offset
        if not 0 <= at < len(self._entries) or self._entries[at].term != term:
            return
        del self._entries[: at + 1]
        self._offset = index + 1
        self._in_progress = max(self._in_progress, self._offset)

    def snapshot_stable(self, index: int) -> None:
        """The snapshot of `index` is in the storage."""
        if self.snapshot is not None and self.snapshot.meta.index == index:
            self.snapshot = None
            self._snapshot_in_progress = False

    def applied_to(self, index: int, size_bytes: int) -> None:
        """The state machine has applied everything up to `index`, `size_bytes` of it since it was told so last."""
        assert self.applied <= index <= self.committed
        self.applied = index
        self.applying = max(self.applying, index)
        self._applying_bytes = max(0, self._applying_bytes - size_bytes)
        self._applying_paused = self._applying_bytes >= self._max_applying_bytes
