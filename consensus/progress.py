"""What a leader knows of another node's log, and how much it may send it (thesis, 10.2.1).

PROBE: where the logs meet is not known: one append at a time. REPLICATE: it is known, so appends go out without waiting
for answers, within the limits in flight. SNAPSHOT: what the node needs was compacted: nothing goes out until it has the
snapshot.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum


class ProgressState(Enum):
    """See the module."""

    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


@dataclass(slots=True)
class Inflights:
    """Appends that were sent and not answered: a bounded window of (last index, bytes), oldest first.

    max_messages, max_bytes: the window is full at either; 0 bytes = no such limit.
    """

    max_messages: int
    max_bytes: int = 0
    window: deque[tuple[int, int]] = field(default_factory=deque)
    bytes: int = 0

    def full(self) -> bool:
        """Whether nothing more may be sent."""
        return len(self.window) >= self.max_messages or (self.max_bytes > 0 and self.bytes >= self.max_bytes)

    def add(self, index: int, size_bytes: int) -> None:
        """Note an append that ends at `index`. Only while it is not full."""
        assert not self.full()
        assert not self.window or self.window[-1][0] < index
        self.window.append((index, size_bytes))
        self.bytes += size_bytes

    def free_up_to(self, index: int) -> None:
        """Forget what ends at or before `index`: it was answered."""
        while self.window and self.window[0][0] <= index:
            self.bytes -= self.window.popleft()[1]

    def reset(self) -> None:
        """Forget everything."""
        self.window.clear()
        self.bytes = 0


@dataclass(slots=True)
class Progress:
    """One node as the leader sees it (paper, figure 2: matchIndex and nextIndex). Always match < next.

    paused: nothing may be sent until an answer or a heartbeat's answer comes. pending_snapshot: the index of the
    snapshot that is on its way. recent_active: heard of since the last check of the quorum (thesis, 6.2).
    sent_commit: the highest commit index that was sent.
    """

    match: int
    next: int
    inflights: Inflights
    is_learner: bool = False
    recent_active: bool = False
    state: ProgressState = ProgressState.PROBE
    paused: bool = False
    pending_snapshot: int = 0
    sent_commit: int = 0

    def become_probe(self) -> None:
        """Find anew where the logs meet; after a snapshot, not before its index."""
        pending = self.pending_snapshot if self.state is ProgressState.SNAPSHOT else 0
        self._reset(ProgressState.PROBE)
        self.next = max(self.match, pending) + 1
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        """The logs meet at `match`: send on without waiting."""
        self._reset(ProgressState.REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        """A snapshot of `index` is on its way."""
        self._reset(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    def _reset(self, state: ProgressState) -> None:
        self.state = state
        self.paused = False
        self.pending_snapshot = 0
        self.inflights.reset()

    def may_send(self) -> bool:
        """Whether an append may go out now."""
        return self.state is not ProgressState.SNAPSHOT and not self.paused

    def sent(self, count: int, size_bytes: int) -> None:
        """Note that an append with `count` entries went out; with none it costs nothing."""
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, size_bytes)
            self.paused = self.inflights.full()
        else:
            assert self.state is ProgressState.PROBE
            self.paused = self.paused or count > 0

    def acknowledged(self, index: int) -> bool:
        """The node's log matches up to `index`. Returns False if that was known."""
        if index <= self.match:
            return False
        self.match = index
        self.next = max(self.next, index + 1)
        self.paused = False
        return True

    def rejected(self, index: int, hint: int) -> bool:
        """The node refused an append after `index`; it may match at `hint`. Returns False if the answer is stale."""
        if self.state is ProgressState.REPLICATE:
            if index <= self.match:
                return False
            self.next = self.match + 1
        else:
            if self.next - 1 != index:
                return False
            self.next = max(min(index, hint + 1), self.match + 1)
            self.paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)
        return True

    def needs_commit(self, commit: int) -> bool:
        """Whether an empty append would tell the node of a commit that it can use and has not been told of."""
        return commit > self.sent_commit and self.sent_commit < self.next - 1

    def __str__(self) -> str:
        text = f"{self.state.value} match={self.match} next={self.next}"
        text += " learner" if self.is_learner else ""
        text += "" if self.may_send() else " paused"
        text += f" pendingSnap={self.pending_snapshot}" if self.pending_snapshot else ""
        text += "" if self.recent_active else " inactive"
        if count := len(self.inflights.window):
            text += f" inflight={count}" + ("[full]" if self.inflights.full() else "")
        return text
