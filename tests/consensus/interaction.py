"""A small cluster that does what a transcript says, one command after another, and prints what it did.

The commands of etcd-io/raft's interaction tests are all here, but for three features that this core does not have
(see `LEFT_OUT`). Commands and arguments of our own, which a transcript from there never holds:

    add-nodes ... max-message-size= max-inflight-bytes= max-uncommitted-size= forward-proposals=   (sizes in bytes)
    propose-batch <id> <data> <data> ...          several proposals at once
    read-index <id> <context>                     ask for a read; it comes out of a Ready as ReadStates
    report-snapshot <from> <to> ok=<true|false>   the sender's driver has finished with a snapshot
    restart <id>                                  crash and start again with what is stored
    config <id>                                   the members, as far as this node has applied changes
    applied <id>                                  what the state machine holds

The state machine strings together all data it is given. Elections are due after 3 ticks, without jitter, unless
set-randomized-election-timeout says otherwise. After every command the promises of the paper's figure 3 that need no
knowledge of the future are checked on all nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Final

from consensus.configuration import ConfChange, Transition
from consensus.errors import Compacted, ConsensusError, ProposalDropped, UnknownPeer
from consensus.messages import NO_LIMIT, ConfState, Message, MessageType, Snapshot, SnapshotMeta
from consensus.node import Config, Node
from consensus.ready import Role
from consensus.storage import MemoryStorage
from tests.consensus import describe
from tests.consensus.datadriven import Arguments, Directive, TranscriptError
from tests.consensus.member import Member, Promises

ELECTION_TICKS: Final = 3
MANY_MESSAGES: Final = 2**31 - 1
ROUNDS_MAX: Final = 1000  # of `stabilize`; the longest transcript needs a few dozen
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "fatal", "none")
QUIET: Final = "none"
TRANSITIONS: Final = {
    "auto": Transition.AUTO,
    "implicit": Transition.IMPLICIT,
    "explicit": Transition.EXPLICIT,
}
LEFT_OUT: Final = {
    "process-append-thread": "what a Ready asks for is stored before the next is taken",
    "process-apply-thread": "what a Ready asks for is stored before the next is taken",
    "async-storage-writes": "what a Ready asks for is stored before the next is taken",
    "forget-leader": "no driver of ours needs it",
    "disable-conf-change-validation": "changes are always checked when they are proposed",
    "lease-based": "reads are always confirmed by a quorum",
}


class Interaction:
    """The cluster of one transcript. `handle` runs a directive."""

    def __init__(self) -> None:
        """No nodes yet."""
        self.members: list[Member] = []
        self.messages: list[Message] = []  # sent and not delivered
        self.promises = Promises()
        self.log_level = LOG_LEVELS[0]
        self._output: list[str] = []

    def handle(self, directive: Directive) -> str:
        """What the command prints. Raises TranscriptError for one that is not known, and for wrong arguments."""
        if directive.command in LEFT_OUT:
            raise TranscriptError(f"{directive.command} is left out: {LEFT_OUT[directive.command]}")
        command = COMMANDS.get(directive.command)
        if command is None:
            raise TranscriptError(f"unknown command {directive.command}")
        self._output = []
        problem = ""
        try:
            command(self, directive.args())
        except ConsensusError as error:
            problem = words(error)
        self._check()
        return "".join(self._output) + problem or "ok"

    def _check(self) -> None:
        for member in self.members:
            if member.node.role is Role.LEADER:
                self.promises.saw_leader(member.node.term, member.node.id)
        for one, other in combinations(self.members, 2):
            self.promises.saw_logs(one.log(), other.log())

    def _write(self, text: str) -> None:
        if self.log_level != QUIET:
            self._output.append(text)

    @contextmanager
    def _indented(self, title: str) -> Iterator[None]:
        self._write(f"> {title}\n")
        outer, self._output = self._output, []
        yield
        inner, self._output = "".join(self._output), outer
        for line in inner.splitlines():
            self._write(f"  {line}\n")

    def _member(self, node: int) -> Member:
        if not 1 <= node <= len(self.members):
            raise TranscriptError(f"there is no node {node}")
        return self.members[node - 1]

    def _one(self, args: Arguments) -> Member:
        """The node that is the first and only argument."""
        member = self._member(args.number("the node"))
        args.end()
        return member

    # -- the cluster -------------------------------------------------------------------------------------------------

    def add_nodes(self, args: Arguments) -> None:
        """Start nodes. Where anything is said of what they hold, they begin with a snapshot of it."""
        count = args.number("how many nodes")
        conf_state = ConfState(args.ids("voters"), args.ids("learners"))
        index, content = args.size("index", 0), args.value("content", "").encode()
        snapshot = Snapshot()
        if index or content or conf_state != ConfState():
            if index <= 1:
                raise TranscriptError("index= must be above 1 for nodes that begin with something")
            snapshot = Snapshot(SnapshotMeta(index, 1, conf_state), content)
        options = _options(args)
        args.end()
        for _ in range(count):
            storage = MemoryStorage(snapshot)
            config = replace(options, id=len(self.members) + 1, storage=storage, applied=index)
            self.members.append(Member(config, storage, Node(config), {index: snapshot}, snapshot))

    def restart(self, args: Arguments) -> None:
        """Crash: what is not stored is gone. The state machine begins with what the log begins after."""
        member = self._one(args)
        point = member.points[member.storage.first_index() - 1]
        storage = MemoryStorage(point, member.storage.hard_state)
        storage.append(member.log())
        config = replace(member.config, storage=storage, applied=point.meta.index)
        self.members[config.id - 1] = Member(config, storage, Node(config), {point.meta.index: point}, point)

    def compact(self, args: Arguments) -> None:
        """Drop the log up to an index, and show what is left."""
        member, index = self._member(args.number("the node")), args.number("the index")
        args.end()
        member.storage.compact(index)
        self._show_log(member)

    # -- what nodes are told -----------------------------------------------------------------------------------------

    def campaign(self, args: Arguments) -> None:
        """Stand for election."""
        self._one(args).node.campaign()

    def tick_election(self, args: Arguments) -> None:
        """Let an election time-out pass, without its jitter."""
        member = self._one(args)
        for _ in range(ELECTION_TICKS):
            member.node.tick()

    def tick_heartbeat(self, args: Arguments) -> None:
        """Let the time between heartbeats pass."""
        self._one(args).node.tick()

    def set_timeout(self, args: Arguments) -> None:
        """When the next election is due; until the node changes its role or term."""
        member, ticks = self._member(args.number("the node")), args.size("timeout", 0)
        args.end()
        if not ticks:
            raise TranscriptError("timeout= must be 1 or more")
        member.node._raft.randomized_timeout = ticks

    def propose(self, args: Arguments) -> None:
        """Ask for one entry."""
        member, data = self._member(args.number("the node")), args.word("what to propose")
        args.end()
        member.node.propose(data.encode())

    def propose_batch(self, args: Arguments) -> None:
        """Ask for entries next to one another."""
        member, data = self._member(args.number("the node")), args.words()
        args.end()
        member.node.propose(*[one.encode() for one in data])

    def propose_conf_change(self, args: Arguments) -> None:
        """Ask for a change of the members."""
        member = self._member(args.number("the node"))
        one_step, name = args.flag("v1", default=False), args.value("transition", "auto")
        changes = describe.changes_from(args.text())
        args.end()
        if name not in TRANSITIONS:
            raise TranscriptError(f"unknown transition {name}")
        if one_step and (len(changes) != 1 or name != "auto"):
            raise TranscriptError("a change with v1=true has one part and no transition")
        context = describe.ONE_STEP if one_step else b""
        member.node.propose_conf_change(ConfChange(changes, TRANSITIONS[name], context))

    def read_index(self, args: Arguments) -> None:
        """Ask for a read."""
        member, context = self._member(args.number("the node")), args.word("the read's context")
        args.end()
        member.node.read_index(context.encode())

    def transfer_leadership(self, args: Arguments) -> None:
        """Ask that another node leads."""
        sender, to = self._member(args.size("from", 0)), self._member(args.size("to", 0))
        args.end()
        sender.node.transfer_leadership(to.node.id)

    def report_unreachable(self, args: Arguments) -> None:
        """Tell a node that a message to another was not sent."""
        member, other = self._member(args.number("the node")), self._member(args.number("the other node"))
        args.end()
        member.node.report_unreachable(other.node.id)

    def report_snapshot(self, args: Arguments) -> None:
        """Tell a node how the sending of a snapshot to another has ended."""
        member, other = self._member(args.number("the node")), self._member(args.number("the other node"))
        ok = args.flag("ok", default=True)
        args.end()
        member.node.report_snapshot(other.node.id, ok=ok)

    # -- what goes on between them -----------------------------------------------------------------------------------

    def process_ready(self, args: Arguments) -> None:
        """Do what the next Ready of each of the nodes asks for."""
        members = [self._member(node) for node in args.numbers()]
        args.end()
        for member in members:
            if len(members) == 1:
                self._process(member)
            else:
                with self._indented(f"{member.node.id} handling Ready"):
                    self._process(member)

    def _process(self, member: Member) -> None:
        ready = member.node.ready()
        self._write(describe.ready(ready))
        member.store(ready)
        for entry in ready.committed_entries:
            self.promises.saw_applied(entry)
            self._write(member.apply(entry))
        self.messages += (*ready.messages, *ready.messages_after_sync)
        member.node.advance()

    def deliver(self, args: Arguments) -> None:
        """Deliver messages to nodes, or drop those to the nodes in drop=."""
        nodes, dropped = args.numbers(), args.ids("drop")
        name = args.value("type", "")
        args.end()
        if name and name not in describe.MESSAGE_TYPES:
            raise TranscriptError(f"unknown message type {name}")
        if both := set(nodes) & set(dropped):
            raise TranscriptError(f"messages to {both} cannot be both delivered and dropped")
        kind = describe.MESSAGE_TYPES[name] if name else None
        handled = [self._deliver(node, kind) for node in nodes] + [self._drop(node, kind) for node in dropped]
        if not any(handled):
            self._write("no messages\n")

    def _take(self, to: int, kind: MessageType | None = None) -> list[Message]:
        taken: list[Message] = []
        left: list[Message] = []
        for message in self.messages:
            (taken if message.to == to and kind in (None, message.type) else left).append(message)
        self.messages = left
        return taken

    def _deliver(self, to: int, kind: MessageType | None = None) -> int:
        messages = self._take(to, kind)
        for message in messages:
            self._write(f"{describe.message(message)}\n")
            try:
                self._member(to).node.step(message)
            except ConsensusError as error:
                self._write(f"{words(error)}\n")
        return len(messages)

    def _drop(self, to: int, kind: MessageType | None) -> int:
        messages = self._take(to, kind)
        for message in messages:
            self._write(f"dropped: {describe.message(message)}\n")
        return len(messages)

    def send_snapshot(self, args: Arguments) -> None:
        """Put a snapshot of a node's present state on its way to another, whether it wants one or not."""
        sender, to = self._member(args.number("the sender")), self._member(args.number("the receiver"))
        args.end()
        message = Message(
            MessageType.SNAPSHOT, to.node.id, sender.node.id, sender.node.term, snapshot=sender.storage.snapshot()
        )
        self.messages.append(message)
        self._write(describe.message(message))

    def stabilize(self, args: Arguments) -> None:
        """Let some nodes, or all, work and hear each other until nothing is left to do."""
        members = [self._member(node) for node in args.numbers()] or list(self.members)
        level = args.value("log-level", self.log_level)
        args.end()
        before = self.log_level
        self._set_level(level)
        if all(self._round(members) for _ in range(ROUNDS_MAX)):
            raise TranscriptError(f"the nodes have not come to rest after {ROUNDS_MAX} rounds")
        self.log_level = before

    def _round(self, members: list[Member]) -> bool:
        """Work, then deliver, once. Returns whether there was anything to do."""
        busy = False
        for member in members:
            if member.node.has_ready():
                busy = True
                with self._indented(f"{member.node.id} handling Ready"):
                    self._process(member)
        for member in members:
            if any(message.to == member.node.id for message in self.messages):
                busy = True
                with self._indented(f"{member.node.id} receiving messages"):
                    self._deliver(member.node.id)
        return busy

    # -- what is shown -----------------------------------------------------------------------------------------------

    def set_log_level(self, args: Arguments) -> None:
        """`none` silences everything but errors. Our core writes no log lines, so the other levels are all the same."""
        level = args.word("the level")
        args.end()
        self._set_level(level)

    def _set_level(self, level: str) -> None:
        if level.lower() not in LOG_LEVELS:
            raise TranscriptError(f"unknown log level {level}")
        self.log_level = level.lower()

    def raft_log(self, args: Arguments) -> None:
        """The stored log."""
        self._show_log(self._one(args))

    def _show_log(self, member: Member) -> None:
        if log := member.log():
            self._write(describe.entries(log))
        else:
            first, last = member.storage.first_index(), member.storage.last_index()
            self._write(f"log is empty: first index={first}, last index={last}")

    def raft_state(self, args: Arguments) -> None:
        """What each node is, as it sees itself."""
        args.end()
        for member in self.members:
            status = member.node.status()
            voter = "Voter" if status.id in status.config.voters else "Non-Voter"
            role = describe.ROLES[status.role]
            self._write(f"{status.id}: {role} ({voter}) Term:{status.term} Lead:{status.leader}\n")

    def status(self, args: Arguments) -> None:
        """What a leader knows of each node."""
        self._write(describe.progress(self._one(args).node.status().progress))

    def config(self, args: Arguments) -> None:
        """The members, as a node knows them."""
        self._write(describe.configuration(self._one(args).node.status().config))

    def applied(self, args: Arguments) -> None:
        """What the state machine holds."""
        state = self._one(args).state
        self._write(f"index={state.meta.index} data={describe.quoted(state.data)}")

    def breakpoint(self, args: Arguments) -> None:
        """Nothing: a place to stop at."""
        args.end()


def words(error: ConsensusError) -> str:
    """An error in etcd's words."""
    match error:
        case ProposalDropped():
            return "raft proposal dropped"
        case UnknownPeer():
            return "raft: cannot step as peer not found"
        case Compacted():
            return "requested index is unavailable due to compaction"
    return str(error)


def _options(args: Arguments) -> Config:
    """How nodes are to work. What is not said is as in etcd's tests: no limits, no pre-vote, no check of the quorum."""
    for key in ("async-storage-writes", "disable-conf-change-validation"):
        if args.flag(key, default=False):
            raise TranscriptError(f"{key} is left out: {LEFT_OUT[key]}")
    if (reads := args.value("read-only", "safe")) != "safe":
        raise TranscriptError(f"read-only={reads} is left out: {LEFT_OUT.get(reads, 'unknown')}")
    max_message_bytes = args.size("max-message-size", NO_LIMIT)
    return Config(
        id=1,
        storage=MemoryStorage(),
        jitter=lambda _ticks: 0,
        election_ticks=ELECTION_TICKS,
        max_message_bytes=max_message_bytes,
        max_inflight_messages=args.size("inflight", MANY_MESSAGES),
        max_inflight_bytes=args.size("max-inflight-bytes", 0),
        max_uncommitted_bytes=args.size("max-uncommitted-size", NO_LIMIT),
        max_committed_bytes=args.size("max-committed-size-per-ready", max_message_bytes),
        pre_vote=args.flag("prevote", default=False),
        check_quorum=args.flag("checkquorum", default=False),
        forward_proposals=args.flag("forward-proposals", default=True),
        step_down_on_removal=args.flag("step-down-on-removal", default=False),
    )


COMMANDS: Final[dict[str, Callable[[Interaction, Arguments], None]]] = {
    "_breakpoint": Interaction.breakpoint,
    "add-nodes": Interaction.add_nodes,
    "applied": Interaction.applied,
    "campaign": Interaction.campaign,
    "compact": Interaction.compact,
    "config": Interaction.config,
    "deliver-msgs": Interaction.deliver,
    "log-level": Interaction.set_log_level,
    "process-ready": Interaction.process_ready,
    "propose": Interaction.propose,
    "propose-batch": Interaction.propose_batch,
    "propose-conf-change": Interaction.propose_conf_change,
    "raft-log": Interaction.raft_log,
    "raft-state": Interaction.raft_state,
    "read-index": Interaction.read_index,
    "report-snapshot": Interaction.report_snapshot,
    "report-unreachable": Interaction.report_unreachable,
    "restart": Interaction.restart,
    "send-snapshot": Interaction.send_snapshot,
    "set-randomized-election-timeout": Interaction.set_timeout,
    "stabilize": Interaction.stabilize,
    "status": Interaction.status,
    "tick-election": Interaction.tick_election,
    "tick-heartbeat": Interaction.tick_heartbeat,
    "transfer-leadership": Interaction.transfer_leadership,
}
