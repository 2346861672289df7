"""One simulated process: a real core, and a driver that keeps the law of `consensus.ready`.

Nothing here knows when something happens. The world (`cluster`, or a test by hand) says when messages and ticks come,
and when a sync and an application that were begun are done; a crash may come between any two of these.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from consensus.configuration import ConfChange, decode
from consensus.errors import ProposalDropped, UnknownPeer
from consensus.messages import ConfState, Entry, EntryKind, Message
from consensus.node import Config, Node
from consensus.ready import ReadState, Ready
from tests.simulator.disk import Disk
from tests.simulator.invariants import Observer
from tests.simulator.machine import NUMBER_BYTES, Command, Image, Machine
from tests.simulator.plan import Limits


@dataclass(frozen=True, slots=True)
class Options:
    """What all nodes of a cluster have in common; see `node.Config`.

    forget_commit: a node starts from its snapshot's index, whatever commit index was stored. lazy_commit: a commit
    index is durable with the next entries, also where a change of the members is applied before. snapshot_every:
    entries from one snapshot to the next; 0 = none. snapshot_keep: entries below a snapshot that stay in the log.
    """

    election_ticks: int = 10
    heartbeat_ticks: int = 1
    limits: Limits = field(default_factory=Limits)
    pre_vote: bool = True
    check_quorum: bool = True
    forget_commit: bool = False
    lazy_commit: bool = False
    snapshot_every: int = 0
    snapshot_keep: int = 0


class World(Protocol):
    """What surrounds a process."""

    options: Options
    observer: Observer
    commands: list[Command]
    images: dict[bytes, Image]

    def transmit(self, member: Member, message: Message) -> None:
        """Put a message on the network."""

    def begin_sync(self, member: Member) -> None:
        """Call `member.synced` some time later."""

    def begin_apply(self, member: Member) -> None:
        """Call `member.apply` some time later."""

    def begin_snapshot(self, member: Member, conf_state: ConfState, image: Image) -> None:
        """Call `member.snapshot_saved` some time later."""

    def answer(self, member: Member, command: Command, index: int, output: int) -> None:
        """Tell a client."""


class Member:
    """A process and its disk. `node` is None while it does not run."""

    def __init__(self, world: World, node_id: int, disk: Disk, rng: random.Random) -> None:
        self.world = world
        self.id = node_id
        self.disk = disk
        self.rng = rng
        self.epoch = 0  # counts starts: what belongs to an earlier one must not reach a later one
        self.node: Node | None = None

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin with what is on the disk: the snapshot, then the log from there (the machine is in memory only)."""
        self.epoch += 1
        self.disk.boot(forget_commit=self.world.options.forget_commit)
        self.machine = self.make_machine()
        if self.disk.snapshot_index:
            self.machine.restore(self.world.images[self.disk.storage.snapshot().data])
        self.node = Node(self.config())
        self.raft = self.node._raft
        self.conf_state = self.disk.storage.initial_state()[1]
        self.ready: Ready | None = None
        self.syncing = self.applying = self.saving = False
        self.unapplied: deque[Entry] = deque()  # of the Ready that is being applied
        self.waiting: set[int] = set()  # commands that were proposed here
        self.reads: list[tuple[int, Command]] = []  # may be answered from an index on
        self.world.observer.started(self)

    def make_machine(self) -> Machine:
        """The state machine of a process that begins."""
        return Machine(self.world.commands)

    def config(self) -> Config:
        """What its core begins with."""
        options, limits = self.world.options, self.world.options.limits
        return Config(
            id=self.id,
            storage=self.disk.storage,
            jitter=lambda n: int(self.rng.random() * n),
            election_ticks=options.election_ticks,
            heartbeat_ticks=options.heartbeat_ticks,
            applied=self.disk.snapshot_index,
            max_message_bytes=limits.message_bytes,
            max_inflight_messages=limits.inflight_messages,
            max_inflight_bytes=limits.inflight_bytes,
            max_uncommitted_bytes=limits.uncommitted_bytes,
            max_committed_bytes=limits.committed_bytes,
            pre_vote=options.pre_vote,
            check_quorum=options.check_quorum,
        )

    def crash(self, *, torn: bool) -> str:
        """Lose the memory and what is not synced. Returns what is left of that, in words."""
        kept = self.disk.crash(self.ready if self.syncing else None, self.rng, torn=torn)
        self.node = None
        self.world.observer.crashed(self)
        return kept

    # -- in ----------------------------------------------------------------------------------------------------------

    def step(self, message: Message) -> None:
        """Give the core a message."""
        assert self.node is not None
        try:
            self.node.step(message)
        except (ProposalDropped, UnknownPeer):
            return  # nothing has changed, and whoever asked asks again
        self.world.observer.look(self)

    def tick(self) -> None:
        """A tick has passed."""
        assert self.node is not None
        self.node.tick()
        self.world.observer.look(self)

    def propose(self, commands: list[Command]) -> bool:
        """Propose commands. Returns False if they were refused: then they will never happen by this call."""
        assert self.node is not None
        try:
            self.node.propose(*(command.data for command in commands))
        except ProposalDropped:
            return False
        self.waiting.update(command.number for command in commands)
        self.world.observer.look(self)
        return True

    def propose_conf_change(self, change: ConfChange) -> bool:
        """Propose a change of the members. Returns False if it was refused."""
        assert self.node is not None
        try:
            self.node.propose_conf_change(change)
        except ProposalDropped:
            return False
        self.world.observer.look(self)
        return True

    def read(self, command: Command) -> None:
        """Begin a read."""
        assert self.node is not None
        self.node.read_index(command.number.to_bytes(NUMBER_BYTES, "big"))
        self.world.observer.look(self)

    # -- out: the law of `consensus.ready` ---------------------------------------------------------------------------

    def pump(self) -> None:
        """Take what the core wants done, one Ready at a time, until one has to wait or nothing is left."""
        while self.node is not None and self.ready is None and self.node.has_ready():
            self.take()

    def take(self) -> None:
        """Step 1: a leader's messages leave at once."""
        assert self.node is not None
        ready = self.ready = self.node.ready()
        self.world.observer.took(self, ready)
        for state in ready.read_states:
            self.confirmed(state)
        if ready.snapshot_wanted:
            self.make_snapshot()
        if ready.leads:
            self._send(ready.messages)
        commit_first = ready.changes_members and not self.world.options.lazy_commit
        if ready.must_sync or ready.snapshot is not None or commit_first:
            self.syncing = True
            self.world.begin_sync(self)
        else:
            self.synced()

    def synced(self) -> None:
        """Steps 2 and 3: it is durable, so the rest may be sent."""
        ready, synced, self.syncing = self.ready, self.syncing, False
        assert ready is not None
        self.disk.store(ready, synced=synced)
        self.world.observer.stored(self, ready)
        if not ready.leads:
            self._send(ready.messages)
        self._send(ready.messages_after_sync)
        if ready.committed_entries or ready.snapshot is not None:
            self.applying = True
            self.unapplied = deque(ready.committed_entries)
            self.world.begin_apply(self)
        else:
            self.advance()

    def _send(self, messages: tuple[Message, ...]) -> None:
        for message in messages:
            self.world.observer.sent(self, message)
            self.world.transmit(self, message)

    def apply(self) -> None:
        """Steps 4 and 5, with nothing in between: the state machine takes what is committed."""
        self.apply_snapshot()
        while self.unapplied:
            self.apply_next()
        self.advance()

    def apply_snapshot(self) -> None:
        """The beginning of step 4: the state machine becomes what the snapshot of the Ready holds, if it has one."""
        assert self.ready is not None
        if self.ready.snapshot is not None:
            self.machine.restore(self.world.images[self.ready.snapshot.data])
            self.conf_state = self.ready.snapshot.meta.conf_state
            self.world.observer.configured(self, self.conf_state)

    def apply_next(self) -> None:
        """The next entry of step 4."""
        assert self.node is not None
        entry = self.unapplied.popleft()
        if entry.kind is EntryKind.CONF_CHANGE:
            self.conf_state = self.node.apply_conf_change(decode(entry.data))
            self.machine.apply(entry)
            self.world.observer.configured(self, self.conf_state)
            return
        command = self.machine.apply(entry)
        if command is not None and command.number in self.waiting:
            self.waiting.discard(command.number)
            index, output = self.machine.done[command.number]
            self.world.answer(self, command, index, output)

    def advance(self) -> None:
        """Step 5."""
        assert self.node is not None
        assert self.ready is not None
        self.world.observer.applied(self, self.ready)
        applied, self.applying, self.ready = self.applying, False, None
        self.node.advance()
        self.world.observer.look(self)
        if applied:
            self._serve_reads()
            self._maybe_snapshot()

    # -- reads and snapshots -----------------------------------------------------------------------------------------

    def confirmed(self, state: ReadState) -> None:
        """A round of reads may be served from an index on."""
        command = self.world.commands[int.from_bytes(state.context, "big")]
        self.world.observer.may_read(self, state.index, command.floor)
        self.reads.append((state.index, command))
        self._serve_reads()

    def _serve_reads(self) -> None:
        if not self.reads:
            return
        later = []
        for index, command in self.reads:
            if index > self.machine.index:
                later.append((index, command))
            else:
                value = self.machine.registers.get(command.key, 0)
                self.world.answer(self, command, self.machine.index, value)
        self.reads = later

    def _maybe_snapshot(self) -> None:
        every = self.world.options.snapshot_every
        if every and self.machine.index - self.disk.snapshot_index >= every:
            self.make_snapshot()

    def make_snapshot(self) -> None:
        """Begin a snapshot of what is applied, unless one is being made."""
        if not self.saving and self.machine.index > self.disk.snapshot_index:
            self.saving = True
            self.world.begin_snapshot(self, self.conf_state, self.machine.image())

    def snapshot_saved(self, conf_state: ConfState, image: Image) -> None:
        """A snapshot of this node's own is durable: now, not earlier, the log may be cut."""
        self.saving = False
        if image.index <= self.disk.snapshot_index:
            return  # the leader's came first and covers more
        name = b"%d" % image.index
        self.world.images.setdefault(name, image)
        self.disk.storage.create_snapshot(image.index, conf_state, name)
        self.disk.compact(self.world.options.snapshot_keep)
        self.world.observer.look(self)
