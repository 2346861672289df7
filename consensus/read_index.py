"""Reads that see every write acknowledged before they began, without an entry of their own (thesis, 6.4).

A leader notes its commit index for each read, and a heartbeat that carries the number of reads noted so far. Once a
quorum has answered a heartbeat sent after a read was noted, no later leader can have committed anything before the read
began: the state machine may answer it from the noted index on. One round serves all reads noted before it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from consensus.messages import Message
from consensus.quorum import JointVoters

_ROUND_BYTES = 8


@dataclass(slots=True)
class ReadIndex:
    """The reads of one leadership. Rounds are counts of reads: round n confirms the first n."""

    waiting: deque[tuple[Message, int]] = field(default_factory=deque)  # (request, index it may be read at)
    confirmed: int = 0
    acked: dict[int, int] = field(default_factory=dict)  # node -> the latest round it has answered

    def add(self, request: Message, commit: int) -> None:
        """Note a read that begins now. commit: the leader's, of its own term (6.4, step 1)."""
        self.waiting.append((request, commit))

    def round(self) -> bytes:
        """What a heartbeat must carry to confirm every read noted so far; nothing if none waits."""
        if not self.waiting:
            return b""
        return (self.confirmed + len(self.waiting)).to_bytes(_ROUND_BYTES, "little")

    def answered(self, node: int, context: bytes) -> None:
        """A node has answered the heartbeat with this context."""
        if len(context) == _ROUND_BYTES:
            self.acked[node] = max(self.acked.get(node, 0), int.from_bytes(context, "little"))

    def confirm(self, voters: JointVoters) -> list[tuple[Message, int]]:
        """The reads that a quorum has confirmed since the last call, in order."""
        done = min(voters.committed_index(self.acked), self.confirmed + len(self.waiting))
        reads = [self.waiting.popleft() for _ in range(done - self.confirmed)]
        self.confirmed = max(self.confirmed, done)
        return reads
