"""What a node has on its disk. A crash keeps a prefix of what was being written, in the order that `ready` demands.

The durable log itself is proven elsewhere, against a disk that loses sectors in any order; here a batch is what it
makes of it: records of which the first so many count. The commit index goes with the first entry of its batch: who has
an entry knows what was committed when it was written. Without that a node could come back with a configuration that is
more than one change old, and its quorums need not meet the present ones.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from consensus.messages import HardState
from consensus.ready import Ready
from consensus.storage import MemoryStorage


@dataclass(slots=True)
class Disk:
    """storage: what is durable. commit: what was written of it, maybe not synced. lost: nothing is left."""

    storage: MemoryStorage
    commit: int = 0
    lost: bool = False

    def store(self, ready: Ready, *, synced: bool) -> None:
        """A Ready is stored. If it is not synced, it holds no more than a commit index, and that is only written."""
        if ready.hard_state is not None:
            self.commit = max(self.commit, ready.hard_state.commit)
        if synced:
            self._write(ready, len(ready.entries))

    def _write(self, ready: Ready, count: int) -> None:
        storage = self.storage
        if ready.snapshot is not None:
            storage.install_snapshot(ready.snapshot)
        hard = ready.hard_state or storage.hard_state
        # With the first entry, not before it: else it would speak of what that entry is about to replace.
        commit = storage.hard_state.commit if ready.entries and not count else hard.commit
        storage.hard_state = HardState(hard.term, hard.vote, max(self.commit, commit))
        if count:
            storage.append(ready.entries[:count])

    def crash(self, ready: Ready | None, rng: random.Random, *, torn: bool) -> str:
        """The power fails while `ready` is being stored; None: nothing is. Returns what was kept of it, in words."""
        if ready is None:
            return ""
        if not torn:
            return "nothing kept"
        steps = [len(ready.entries)] * 2 + list(range(len(ready.entries)))
        if ready.snapshot is not None:
            steps.append(-1)
        kept = rng.choice([*steps, -2])
        if kept == -2:
            return "nothing kept"
        if kept == -1:
            assert ready.snapshot is not None
            self.storage.install_snapshot(ready.snapshot)
            return "snapshot kept"
        self._write(ready, kept)
        return f"{kept} of {len(ready.entries)} entries kept"

    def boot(self, *, forget_commit: bool) -> None:
        """Make ready for a node to start from: a commit index past the end is that of entries that were lost."""
        storage = self.storage
        hard, snapshot = storage.hard_state, storage._snapshot.meta
        commit = snapshot.index if forget_commit else max(snapshot.index, min(hard.commit, storage.last_index()))
        self.commit = commit
        storage.hard_state = HardState(hard.term, hard.vote, commit)

    def holds(self, index: int, term: int) -> bool:
        """Whether this entry is durable here, or covered by a snapshot."""
        base = self.storage.first_index() - 1
        return index <= base or (index <= self.storage.last_index() and self.storage.term(index) == term)

    def compact(self, keep: int) -> None:
        """Drop entries that the snapshot covers, but for the last `keep`."""
        storage = self.storage
        index = self.snapshot_index - keep
        if index >= storage.first_index():
            storage.compact(index)

    @property
    def snapshot_index(self) -> int:
        """The newest snapshot's; 0 where there is none."""
        return self.storage._snapshot.meta.index
