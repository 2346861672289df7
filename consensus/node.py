"""A Raft node without I/O: step, tick and propose go in, `Ready` comes out. The door to `consensus`.

The driver owns the clock, the disk and the network, and calls everything from one thread. What it owes the node, and in
which order, stands in `ready`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from consensus import configuration, leader
from consensus.configuration import ConfChange, Configuration
from consensus.errors import UnknownPeer
from consensus.messages import (
    NONE,
    RESPONSES,
    ConfState,
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageType,
)
from consensus.progress import Progress
from consensus.raft import NO_TERM, Pending, Raft
from consensus.ready import Ready, Role, SoftState
from consensus.storage import Storage, entry_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How a node works. Sizes in bytes, times in ticks.

    id: 1 and up, never used again after the node is removed or its disk is lost.
    jitter: jitter(n) gives a number from 0 to n - 1, evenly; an election is due after election_ticks plus that.
    applied: the index up to which the state machine has applied the log already.
    max_message_bytes: of entries in one append. max_inflight_*: appends to one node that are not answered; 0 = no
        limit in bytes. max_uncommitted_bytes: of proposals that are not applied; past it they are dropped.
    max_committed_bytes: of committed entries that are handed out and not reported by `advance`.
    pre_vote, check_quorum: thesis 9.6 and 6.2; each is of little use without the other.
    step_down_on_removal: a leader that was removed stops leading when that is applied.
    """

    id: int
    storage: Storage
    jitter: Callable[[int], int]
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    applied: int = 0
    max_message_bytes: int = 256 * 1024
    max_inflight_messages: int = 256
    max_inflight_bytes: int = 8 * 1024 * 1024
    max_uncommitted_bytes: int = 64 * 1024 * 1024
    max_committed_bytes: int = 4 * 1024 * 1024
    pre_vote: bool = True
    check_quorum: bool = True
    forward_proposals: bool = True
    step_down_on_removal: bool = True

    def __post_init__(self) -> None:
        if self.id <= NONE:
            raise ValueError(f"id: {self.id} is no node's id; ids are 1 and up")
        if not 0 < self.heartbeat_ticks < self.election_ticks:
            raise ValueError(f"heartbeat_ticks must be from 1 to election_ticks - 1, not {self.heartbeat_ticks}")
        if self.max_inflight_messages < 1:
            raise ValueError("max_inflight_messages must be 1 or more")
        if 0 < self.max_inflight_bytes < self.max_message_bytes:
            raise ValueError("max_inflight_bytes must hold one message of max_message_bytes")


@dataclass(frozen=True, slots=True)
class Status:
    """What a node knows. progress: of every member, on a leader; empty elsewhere."""

    id: int
    term: int
    vote: int
    commit: int
    applied: int
    leader: int
    role: Role
    transferee: int
    config: Configuration
    progress: dict[int, Progress] = field(default_factory=dict)


class Node:
    """One member of a Raft cluster."""

    def __init__(self, config: Config) -> None:
        """Start with what is in `config.storage`. Raises ConfigError, Inconsistent for a storage that is damaged."""
        self._raft = Raft(config)
        self._soft_state: SoftState = self._raft.soft_state
        self._hard_state: HardState = self._raft.hard_state
        self._pending: Pending | None = None

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def id(self) -> int:
        """This node."""
        return self._raft.id

    @property
    def term(self) -> int:
        """The latest term it knows."""
        return self._raft.term

    @property
    def vote(self) -> int:
        """Whom it has voted for in this term; NONE = nobody."""
        return self._raft.vote

    @property
    def role(self) -> Role:
        """What it is."""
        return self._raft.role

    @property
    def leader(self) -> int:
        """Who leads this term as far as it knows; NONE = it knows of nobody."""
        return self._raft.leader

    @property
    def committed(self) -> int:
        """The highest index it knows to be committed."""
        return self._raft.log.committed

    @property
    def applied(self) -> int:
        """The highest index that `advance` has reported as applied."""
        return self._raft.log.applied

    @property
    def last_index(self) -> int:
        """The end of its log."""
        return self._raft.log.last_index

    @property
    def snapshot_index(self) -> int:
        """The index of a leader's snapshot that was taken and is not reported as stored; 0 = there is none."""
        snapshot = self._raft.log.snapshot
        return snapshot.meta.index if snapshot is not None else 0

    @property
    def is_learner(self) -> bool:
        """Whether it has the log and no vote."""
        return self._raft.is_learner

    @property
    def config(self) -> Configuration:
        """The members, as of what is applied."""
        return self._raft.config

    def status(self) -> Status:
        """Everything, for people."""
        raft = self._raft
        progress = dict(raft.progress) if raft.role is Role.LEADER else {}
        return Status(
            raft.id,
            raft.term,
            raft.vote,
            raft.log.committed,
            raft.log.applied,
            raft.leader,
            raft.role,
            raft.transferee,
            raft.config,
            progress,
        )

    # -- in ----------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """One tick has passed. How long that is, only the driver knows."""
        self._raft.tick()

    def step(self, message: Message) -> None:
        """Take a message of another node, which the driver has authenticated as `message.sender`.

        Raises UnknownPeer for an answer of a node that is no member, ProposalDropped, Inconsistent (then stop), and
        ValueError for a message without the term it must have.
        """
        if (message.term == 0) != (message.type in NO_TERM):
            raise ValueError(f"a {message.type.name} of term {message.term}")
        if message.type in RESPONSES and message.sender not in self._raft.progress:
            raise UnknownPeer(f"node {message.sender} is no member of this cluster")
        self._raft.step(message)

    def propose(self, *data: bytes) -> None:
        """Ask for entries with these data, next to one another. Several at once cost little more than one.

        Returns nothing: an entry is the proposer's when it comes out of a Ready, if ever; a leader may lose its term.
        Raises ProposalDropped, where nothing was appended.
        """
        if not data:
            raise ValueError("nothing to propose")
        entries = tuple(Entry(0, 0, EntryKind.NORMAL, one) for one in data)
        self._raft.step(Message(MessageType.PROPOSE, sender=self.id, entries=entries))

    def propose_conf_change(self, change: ConfChange) -> None:
        """Ask for a change of the members. One that may not be made now comes out as an empty NORMAL entry.

        Raises ProposalDropped.
        """
        entry = Entry(0, 0, EntryKind.CONF_CHANGE, configuration.encode(change))
        self._raft.step(Message(MessageType.PROPOSE, sender=self.id, entries=(entry,)))

    def apply_conf_change(self, change: ConfChange) -> ConfState:
        """Let a committed change take effect; between the entries before and after its own. Returns what to store.

        Raises ConfigError where it does not fit: then it changes nothing, here and on every other node.
        """
        return self._raft.apply_conf_change(change)

    def campaign(self) -> None:
        """Stand for election now, if this node may."""
        self._raft.campaign()

    def read_index(self, context: bytes) -> None:
        """Ask from which index on a read that begins now may be answered; a ReadState with `context` says it.

        Where there is no leader, or the message is lost, none ever comes: ask again after a time.
        """
        self._raft.step(Message(MessageType.READ_INDEX, context=context))

    def transfer_leadership(self, to: int) -> None:
        """Ask the leader to let `to` lead. It is given up after one election time-out."""
        self._raft.step(Message(MessageType.TRANSFER_LEADER, sender=to))

    def report_unreachable(self, node: int) -> None:
        """A message to the node was not sent."""
        if self.role is Role.LEADER:
            leader.report_unreachable(self._raft, node)

    def report_snapshot(self, node: int, *, ok: bool) -> None:
        """The driver has finished with the snapshot to the node. Must follow each SNAPSHOT message, or it waits on."""
        if self.role is Role.LEADER:
            leader.report_snapshot(self._raft, node, ok=ok)

    # -- out ---------------------------------------------------------------------------------------------------------

    def has_ready(self) -> bool:
        """Whether `ready` would ask for something."""
        raft = self._raft
        return bool(
            raft.messages
            or raft.messages_after_sync
            or raft.read_states
            or raft.snapshot_wanted
            or raft.log.has_next_unstable
            or raft.log.has_next_committed
            or raft.log.next_snapshot() is not None
            or raft.hard_state != self._hard_state
            or raft.soft_state != self._soft_state
        )

    def ready(self) -> Ready:
        """Everything to be done now. The next may be taken after `advance`."""
        assert self._pending is None, "the last Ready was not advanced"
        raft = self._raft
        hard, soft = raft.hard_state, raft.soft_state
        before = self._hard_state
        entries = raft.log.next_unstable()
        ready = Ready(
            leads=raft.role is Role.LEADER,
            must_sync=bool(entries) or (hard.term, hard.vote) != (before.term, before.vote),
            soft_state=None if soft == self._soft_state else soft,
            hard_state=None if hard == before else hard,
            read_states=tuple(raft.read_states),
            entries=entries,
            snapshot=raft.log.next_snapshot(),
            committed_entries=raft.log.next_committed(),
            messages=tuple(raft.messages),
            messages_after_sync=tuple(one for one in raft.messages_after_sync if one.to != raft.id),
            snapshot_wanted=raft.snapshot_wanted,
        )
        self._accept(ready)
        self._hard_state, self._soft_state = hard, soft
        return ready

    def _accept(self, ready: Ready) -> None:
        raft, applied = self._raft, ready.committed_entries
        stable = (raft.log.last_index, raft.log.last_term) if raft.log.has_unstable else None
        self._pending = Pending(
            term=raft.term,
            to_self=tuple(one for one in raft.messages_after_sync if one.to == raft.id),
            stable=stable,
            snapshot=ready.snapshot.meta if ready.snapshot is not None else None,
            applied_index=applied[-1].index if applied else 0,
            applied_bytes=sum(map(entry_bytes, applied)),
            applied_payload=sum(len(entry.data) for entry in applied),
        )
        raft.messages, raft.messages_after_sync, raft.read_states = [], [], []
        raft.snapshot_wanted = False
        raft.log.accept(applied)

    def advance(self) -> None:
        """The last Ready is stored and applied."""
        pending, self._pending = self._pending, None
        assert pending is not None, "there is no Ready to advance"
        self._raft.done(pending)
