"""A cluster in which nothing happens of itself: whoever holds it says when each message, tick and sync comes.

The members and the observer are those of the seeded simulation (`member`, `invariants`). There is no time here and no
chance, but for what `rng` decides: election time-outs, and what is left of a write that a crash has torn.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from consensus.configuration import ConfChange
from consensus.messages import ConfState, HardState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.storage import MemoryStorage
from tests.simulator import rest
from tests.simulator.disk import Disk
from tests.simulator.invariants import Observer, Stuck
from tests.simulator.machine import Command, Image, Kind
from tests.simulator.member import Member, Options

FOUNDING: Final = SnapshotMeta(1, 1)
FLIGHT_MAX: Final = 300  # messages on the network; more push the oldest out
EXCHANGES_MAX: Final = 40  # how often messages go back and forth within a tick
REST_MAX: Final = 60  # election time-outs until everybody has the same
SERVE_MAX: Final = 10  # and until a node has answered


@dataclass(frozen=True, slots=True)
class Sent:
    """A message on the network. epoch: of its sender, which may be dead by now."""

    sender: int
    epoch: int
    message: Message


class ByHand:
    """Implements `member.World`. flight: messages on their way, oldest first. cut: links (from, to) that lose them."""

    def __init__(self, voters: int, options: Options, rng: random.Random) -> None:
        """voters: how many nodes found the cluster; their ids are 1 and up."""
        self.options = options
        self.rng = rng
        self.commands: list[Command] = []
        self.images: dict[bytes, Image] = {b"1": Image(FOUNDING.index, {}, {}, 0)}
        self.members: dict[int, Member] = {}
        self.observer = Observer(self.members, FOUNDING.index, FOUNDING.term, options.limits.message_bytes)
        self.flight: list[Sent] = []
        self.cut: set[tuple[int, int]] = set()
        self.snapshots: dict[int, tuple[int, ConfState, Image]] = {}  # node -> its epoch, and what it is writing
        self.known = 0  # somebody was told of this index
        ids = tuple(range(1, voters + 1))
        self.observer.joined.update(ids)
        meta = SnapshotMeta(FOUNDING.index, FOUNDING.term, ConfState(ids))
        for node in ids:
            self._add(node, MemoryStorage(Snapshot(meta, b"1"), HardState(FOUNDING.term, 0, FOUNDING.index)))

    def _add(self, node: int, storage: MemoryStorage) -> None:
        self.members[node] = Member(self, node, Disk(storage), random.Random(self.rng.getrandbits(32)))
        self.members[node].start()

    def spawn(self) -> int:
        """A new node with nothing on its disk. Returns its id; it is no member yet."""
        node = max(self.members) + 1
        self._add(node, MemoryStorage())
        return node

    def leader(self) -> Member | None:
        """The leader of the highest term, if there is one."""
        return rest.leader(self.members)

    # -- what a node does --------------------------------------------------------------------------------------------

    def work(self, member: Member) -> bool:
        """The next thing that a node's driver does by the law of `consensus.ready`; a crash may come before and after.

        Returns False where there is nothing to do.
        """
        if member.node is None:
            return False
        if member.syncing:
            member.synced()
        elif member.applying:
            self._apply(member)
        elif member.node.has_ready():
            member.take()
        else:
            return False
        return True

    def _apply(self, member: Member) -> None:
        assert member.ready is not None
        snapshot = member.ready.snapshot
        if snapshot is not None and member.machine.index < snapshot.meta.index:
            member.apply_snapshot()
        elif member.unapplied:
            member.apply_next()
        else:
            member.advance()

    def work_off(self, member: Member) -> None:
        """All that a node has to do now."""
        while self.work(member):
            pass

    def start_all(self) -> None:
        """Start the nodes that do not run, with what is on their disks."""
        for member in self.members.values():
            if member.node is None and not member.disk.lost:
                member.start()

    def snapshot(self, member: Member) -> None:
        """Begin a snapshot of what a node has applied, and reported as applied."""
        if member.node is not None and member.machine.index == member.node.applied:
            member.make_snapshot()

    def save_snapshot(self, member: Member) -> None:
        """A snapshot that was begun is on the disk: the log below it is dropped."""
        begun = self.snapshots.pop(member.id, None)
        if begun is not None and member.node is not None and member.epoch == begun[0]:
            member.snapshot_saved(*begun[1:])

    # -- what clients do ---------------------------------------------------------------------------------------------

    def command(self, kind: Kind) -> Command:
        """A new command that begins now."""
        number = len(self.commands)
        self.commands.append(Command(number, kind, 0, number + 1, 0, self.known))
        return self.commands[-1]

    def ask(self, member: Member, commands: list[Command]) -> bool:
        """Ask a node for commands of one kind, reads or not. Returns False if it refuses, or does not run."""
        if member.node is None:
            return False
        if commands[0].kind is not Kind.READ:
            return member.propose(commands)
        for command in commands:
            member.read(command)
        return True

    # -- the network -------------------------------------------------------------------------------------------------

    def deliver(self, sent: Sent) -> None:
        """A message arrives, if its link is whole and somebody is there to take it."""
        message, to = sent.message, self.members.get(sent.message.to)
        arrives = to is not None and to.node is not None and (sent.sender, to.id) not in self.cut
        if arrives:
            assert to is not None
            to.step(message)
        self._transferred(sent, ok=arrives)

    def lose(self, sent: Sent) -> None:
        """A message does not arrive."""
        self._transferred(sent, ok=False)

    def _transferred(self, sent: Sent, *, ok: bool) -> None:
        """The end of a snapshot's transfer is reported to its sender, as `Node.report_snapshot` demands."""
        sender = self.members[sent.sender]
        if sent.message.type is MessageType.SNAPSHOT and sender.node is not None and sender.epoch == sent.epoch:
            sender.node.report_snapshot(sent.message.to, ok=ok)
            self.observer.look(sender)

    # -- everything at once ------------------------------------------------------------------------------------------

    def run(self, ticks: int, still: Collection[int] = (), slow: Collection[int] = ()) -> None:
        """So many ticks in which everybody does all there is to do, and messages arrive at once and in order.

        still: nodes that stand still meanwhile; what is sent to them waits. slow: nodes that do one thing while a
        message goes from one to another.
        """
        awake = [member for node, member in self.members.items() if node not in still]
        for _ in range(ticks):
            for member in awake:
                if member.node is not None:
                    member.tick()
            for _ in range(EXCHANGES_MAX):
                for member in awake:
                    if member.id in slow:
                        self.work(member)
                    else:
                        self.work_off(member)
                    self.save_snapshot(member)
                arriving = [sent for sent in self.flight if sent.message.to not in still]
                if not arriving:
                    break
                self.flight = [sent for sent in self.flight if sent.message.to in still]
                for sent in arriving:
                    self.deliver(sent)

    def recover(self) -> None:
        """Everything heals. Raises Violation where the cluster does not come to rest, serve, and keep what it promised.

        Its disks alone must be able to bring it back, too.
        """
        self.cut.clear()
        members = self._rest()
        for member in members:
            self._serve(member)
        members = self._rest()
        rest.check_same_logs(self.observer, members)
        rest.check_nothing_lost(self.commands, members[0])
        for member in rest.running(self.members):
            member.crash(torn=False)
        rest.check_durable(self.observer, members)
        rest.check_nothing_lost(self.commands, self._rest()[0])

    def _rest(self) -> list[Member]:
        """Run until the cluster is at rest. Returns the members."""
        for _ in range(2 * REST_MAX):
            self.start_all()
            members = rest.at_rest(self.members)
            if members:
                return members
            self.run(self.options.election_ticks // 2)
            self._leave_joint()
            self._retire()
        raise Stuck(f"liveness: not at rest after {REST_MAX} election time-outs\n{rest.states(self.members)}")

    def _leave_joint(self) -> None:
        """A joint configuration that is not left by itself."""
        leader = self.leader()
        if leader is not None and leader.raft.config.joint and not leader.raft.config.auto_leave:
            leader.propose_conf_change(ConfChange())

    def _retire(self) -> None:
        """Stop nodes that were removed, when everybody knows it."""
        config = rest.settled(self.members, self.observer)
        for member in rest.running(self.members):
            if config is not None and member.id in self.observer.joined - config.members:
                member.crash(torn=False)
                member.disk.lost = True

    def _serve(self, member: Member) -> None:
        """A member answers a proposal and a read. A change that was passed on long ago may still remove it."""
        asked = [self.command(Kind.SWAP), self.command(Kind.READ)]
        for half in range(2 * SERVE_MAX):
            leader = self.leader()
            waiting = [one for one in asked if one.returned is None]
            if not waiting or (leader is not None and member.id not in leader.raft.config.members):
                return
            for command in waiting if half % 4 == 0 else ():  # asking again does nothing twice
                self.ask(member, [command])
            self.run(self.options.election_ticks // 2)
        raise Stuck(f"liveness: node {member.id} does not answer {asked}\n{rest.states(self.members)}")

    # -- what a member asks for (member.World) -----------------------------------------------------------------------

    def transmit(self, member: Member, message: Message) -> None:
        """See member.World."""
        self.flight.append(Sent(member.id, member.epoch, message))
        if len(self.flight) > FLIGHT_MAX:
            self.lose(self.flight.pop(0))

    def begin_sync(self, member: Member) -> None:
        """See member.World: `work` ends it."""

    def begin_apply(self, member: Member) -> None:
        """See member.World: `work` does it."""

    def begin_snapshot(self, member: Member, conf_state: ConfState, image: Image) -> None:
        """See member.World: `save_snapshot` ends it."""
        self.snapshots[member.id] = (member.epoch, conf_state, image)

    def answer(self, member: Member, command: Command, index: int, output: int) -> None:
        """See member.World. Later answers to the same command are passed by."""
        if command.returned is None:
            command.returned, command.index, command.output = 0, index, output
            self.known = max(self.known, index)
