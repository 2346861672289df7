"""What a node wants done: the only output of the core, and the law of its order.

The driver, for each Ready, one at a time:

1. `messages` may leave at once where `leads` is true: a leader's appends overlap its own fsync (thesis 10.2.1). Where
   it is false they wait for step 2, with everything else: they may speak of a term or a vote that is not on disk yet.
2. Make `snapshot`, then term and vote of `hard_state`, then `entries` durable. `entries` begin at or below the log's
   end plus one; what they overlap is replaced. The commit index becomes durable with the first of them: not before, for
   it may speak of what that one replaces, and not after, see DESIGN.md. If `must_sync` is false nothing here needs an
   fsync of its own.
3. Send `messages_after_sync`: votes and acknowledgements (and `messages`, where they waited).
4. Apply `snapshot`, then `committed_entries`, in order. They never hold anything that is not durable after step 2.
   For each CONF_CHANGE entry call `Node.apply_conf_change` before the next entry is applied; and before that, make the
   commit index durable (`changes_members`). A node that acts as what a change has made it, and after a crash has
   forgotten that it was committed, says nothing untrue; but the others may wait for ever for what it was.
5. Call `Node.advance`. Only now does this node's own log count for the quorum.

Between `Node.ready` and `Node.advance` the node may be stepped, ticked and proposed to.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from consensus.messages import NONE, Entry, EntryKind, HardState, Message, Snapshot


class Role(IntEnum):
    """What a node is (paper, figure 4). A learner is a follower that is no voter."""

    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


@dataclass(frozen=True, slots=True)
class SoftState:
    """Who leads, as far as this node knows, and what it is itself. Need not be stored."""

    leader: int = NONE
    role: Role = Role.FOLLOWER


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read that was asked for with `context` may be answered once the state machine has applied `index`."""

    index: int
    context: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """See above. Fields that are None or empty ask for nothing.

    snapshot_wanted: a member needs a snapshot, and the storage's is from before it was added: make a new one. There is
    no hurry, and it is asked for again.
    """

    leads: bool
    must_sync: bool
    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    read_states: tuple[ReadState, ...] = ()
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    committed_entries: tuple[Entry, ...] = ()
    messages: tuple[Message, ...] = ()
    messages_after_sync: tuple[Message, ...] = ()
    snapshot_wanted: bool = False

    @property
    def changes_members(self) -> bool:
        """Whether the commit index must be durable before `committed_entries` are applied; see step 4."""
        return any(entry.kind == EntryKind.CONF_CHANGE for entry in self.committed_entries)
