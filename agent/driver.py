"""The one loop that drives `consensus.node`: it owns its clock, and hands its disk and its network what it wants.

One turn takes everything that has come (messages first, then time, then proposals and reads), then one Ready: what a
leader may send before its fsync goes out, the log's thread makes the rest durable with one fsync, and while it does,
more comes in for the next turn. That is the whole group commit: no timer, no task for a message.

A proposal is answered when its entry is applied here. What a driver owes the node stands in `consensus.ready`. No Ready
waits for the bytes of a snapshot: one of this member's own is written from an image of the state, and the core hears of
a leader's only when it has been read into a state that needs but to be put in place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from agent.errors import AgentStopped, Refusal
from agent.log_thread import LogThread
from agent.machine import Machine
from agent.outbox import Outbox
from agent.snapshots import ChunkNetwork, Snapshots
from agent.upkeep import Upkeep
from agent.waiters import Proposals, Reads, fail
from consensus import configuration
from consensus.chunks import Chunk, ChunkAnswer
from consensus.configuration import ConfChange
from consensus.durable import DurableLog
from consensus.errors import ConfigError, LogFull, ProposalDropped, UnknownPeer
from consensus.messages import NONE, ConfState, Entry, EntryKind, Message, MessageType, Snapshot, SnapshotMeta
from consensus.node import Config, Node, Status
from consensus.ready import Ready, Role

log = logging.getLogger(__name__)

TICK_S: Final = 0.05  # a heartbeat
ELECTION_TICKS: Final = 6  # 300 to 600 ms without a leader
TICKS_MAX: Final = 2  # a turn: after a long pause the messages that waited are heard before an election is due
SLICE_S: Final = 0.005  # applying yields to the loop after this
RECORD_BYTES: Final = 64  # around an entry's data, on disk
RESERVE_BYTES: Final = 64 * 1024  # of the log's room: for what is not proposed here, such as a new term's entry


class Network(ChunkNetwork, Protocol):
    """How messages leave and come. Losing them is allowed; blocking is not."""

    on_message: Callable[[], None]
    on_chunk: Callable[[int, Chunk], None]
    on_chunk_answer: Callable[[int, ChunkAnswer], None]

    def received(self) -> Sequence[Message]:
        """What has come since the last call, in order, each from who it says it is."""


class Driver:
    """One member of the cluster. `start` and `close` frame its life; everything runs on one loop."""

    def __init__(
        self,
        durable: DurableLog,
        machine: Machine,
        network: Network,
        *,
        jitter: Callable[[int], int],
        snapshot_bytes: int,
        on_sync: Callable[[float], None] = lambda _took_s: None,
        on_failed: Callable[[BaseException], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """durable: open. jitter: see Config. snapshot_bytes: of log between two snapshots.

        on_sync: told how long each save took, in seconds. on_failed: the log has failed, or an impossible thing was
        heard: this member must stop (P9).
        """
        self.machine = machine
        self.on_role: Callable[[Role], None] = lambda _role: None
        self._durable = durable
        self._network = network
        self._on_sync, self._on_failed = on_sync, on_failed
        self._clock = clock
        self.conf_state: ConfState = durable.storage.initial_state()[1]
        self.applied = durable.snapshot_meta().index
        self.applied_term = durable.snapshot_meta().term
        self.node = Node(
            Config(
                id=durable.identity.node,
                storage=durable.storage,
                jitter=jitter,
                election_ticks=ELECTION_TICKS,
                applied=self.applied,
                forward_proposals=False,
            )
        )
        self._loop = asyncio.get_running_loop()
        self._thread = LogThread(self._loop)
        self._slow = LogThread(self._loop, "snapshots")
        self.upkeep = Upkeep(
            durable,
            machine,
            self._thread,
            self._slow,
            applied=lambda: SnapshotMeta(self.applied, self.applied_term, self.conf_state),
            snapshot_bytes=snapshot_bytes,
            wake=self.wake,
            failed=self.fail,
        )
        self.snapshots = Snapshots(
            durable,
            self._slow,
            network,
            machine.loader,
            report=self._report_snapshot,
            arrived=self._snapshot_arrived,
            failed=self.fail,
        )
        self._outbox = Outbox(self._loop, network, self.snapshots, self.node.report_unreachable)
        network.on_message = self.wake
        network.on_chunk = self.snapshots.chunk
        network.on_chunk_answer = self.snapshots.answered
        self._scheduled = False
        self._ready: Ready | None = None
        self._saving = False
        self._to_apply: deque[Entry] = deque()
        self._proposals = Proposals()
        self._reads = Reads()
        self._ticks = 0
        self._next_tick_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loaded: tuple[SnapshotMeta, Any] | None = None  # of a leader's snapshot that the core has taken
        self._installing: asyncio.Task[None] | None = None
        self.heard_s: float | None = None  # when something last came from the leader that is followed
        self.failure: AgentStopped | None = None
        self._closed = False

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tick. The only voter does not wait for its election."""
        self._next_tick_s = self._clock() + TICK_S
        self._timer = self._loop.call_later(TICK_S, self._on_timer)
        config = self.node.config
        if config.singleton and self.node.id in config.voters:
            self.node.campaign()
        self.wake()

    async def close(self) -> None:
        """Stop. Who still waits is told that the agent stops; what is being saved is saved."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._fail_all(self.failure or AgentStopped("the agent is stopping"))
        await self.upkeep.close()
        if self._installing is not None:
            self._installing.cancel()
            await asyncio.wait({self._installing})
        self._outbox.close()
        self.snapshots.stop_sending()
        await asyncio.to_thread(self._slow.close)
        await asyncio.to_thread(self._thread.close)

    def wake(self) -> None:
        """Something has come: take a turn soon."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def status(self) -> Status:
        """What the node knows."""
        return self.node.status()

    # -- asking ------------------------------------------------------------------------------------------------------

    def submit(self, data: bytes, *, term: int | None = None) -> asyncio.Future[Any]:
        """Have `data` committed and applied. The future's result is what the machine made of it.

        term: only while this member leads that term.

        Its error is a Refusal: "no_leader", "overloaded", "disk_full", where nothing happened; "not_committed", where
        another leader's entry has taken its place; "outcome_unknown". Or AgentStopped, where this member has failed.
        While no leader is known, it waits for one for a time.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.failure is not None or self._closed:
            future.set_exception(self.failure or AgentStopped("the agent is stopping"))
        else:
            self._proposals.add(data, future, self._ticks, term)
            self.wake()
        return future

    async def propose(self, data: bytes) -> Any:
        """`submit`, and wait. Raises what its future raises."""
        return await self.submit(data)

    async def read_index(self) -> int:
        """An index such that a state that has applied it sees every write acknowledged before this call (thesis, 6.4).

        Returns when this member has applied it. Wait no longer than you like: it is begun anew until a leader answers.
        """
        if self.failure is not None:
            raise self.failure
        future: asyncio.Future[int] = self._loop.create_future()
        self._reads.add(future)
        self.wake()
        return await future

    def change_members(self, change: ConfChange) -> None:
        """Propose a change. Raises Refusal where this member cannot; whether it came to be, `conf_state` tells."""
        try:
            self.node.propose_conf_change(change)
        except ProposalDropped as error:
            raise _not_taken(error) from error
        self.wake()

    def transfer(self, to: int) -> None:
        """Let `to` lead."""
        self.node.transfer_leadership(to)
        self.wake()

    @property
    def leads(self) -> bool:
        """Whether this member leads, and has applied what was committed before its term (thesis, 6.4)."""
        return self.node.role is Role.LEADER and self.applied_term == self.node.term

    @property
    def waiting(self) -> int:
        """Proposals that were not answered yet."""
        return len(self._proposals)

    @property
    def disk_full(self) -> bool:
        """Whether nothing is taken until there is room."""
        return self.upkeep.disk_full

    @property
    def snapshots_made(self) -> int:
        """Of this member's own, since it started."""
        return self.upkeep.snapshots_made

    # -- a turn ------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._scheduled = False
        if self.failure is not None or self._closed:
            return
        with self._failing():
            self._take_messages()
            self._tick()
            self._take_proposals()
            self._take_reads()
            self._work()

    def _take_messages(self) -> None:
        for message in self._network.received():
            try:
                if message.type is MessageType.SNAPSHOT:
                    self.snapshots.offered(message)
                else:
                    self.node.step(message)
                if message.sender == self.node.leader:
                    self.heard_s = self._clock()
            except (UnknownPeer, ProposalDropped, ValueError) as error:
                log.debug("a message is passed by", extra={"sender": message.sender, "error": str(error)})

    def _on_timer(self) -> None:
        self._timer = self._loop.call_later(TICK_S, self._on_timer)
        self.wake()

    def _tick(self) -> None:
        """As many ticks as are due, but few: a process that has slept must hear its messages before it stands (P1)."""
        now = self._clock()
        due = int((now - self._next_tick_s) / TICK_S) + 1 if now >= self._next_tick_s else 0
        if due > TICKS_MAX:
            self._next_tick_s = now + TICK_S - TICKS_MAX * TICK_S
            due = TICKS_MAX
        for _ in range(due):
            self._next_tick_s += TICK_S
            self._ticks += 1
            self.node.tick()
        if due:
            self._proposals.expire(self._ticks)
            self._reads.expire(self._ticks)
            self.snapshots.tick()
            if not self._saving:
                self.upkeep.mark()

    def _take_proposals(self) -> None:
        if not self._proposals.queued:
            return
        if self.upkeep.disk_full:
            full = Refusal("disk_full", "the agent's disk is full; free some space", 507, retry_after_s=30)
            self._proposals.refuse_queued(full)
        elif self.node.role is Role.LEADER:
            self._propose()
        elif self.node.leader != NONE:
            other = Refusal("no_leader", "another member leads; ask that one", 503, retry_after_s=1)
            self._proposals.refuse_queued(other)

    def _propose(self) -> None:
        batch = self._proposals.take(self.node.term)
        if not batch:
            return
        if self._durable.room_bytes < sum(len(one.data) + RECORD_BYTES for one in batch) + RESERVE_BYTES:
            self._proposals.put_back(batch)  # what cannot be stored must not be appended: it could not be taken back
            self.upkeep.prepare()
            return
        first = self.node.last_index + 1
        try:
            self.node.propose(*(one.data for one in batch))
        except ProposalDropped as error:
            for one in batch:
                fail(one.future, _not_taken(error))
            return
        self._proposals.place(batch, first, self.node.term, self._ticks)
        if self._proposals.queued:
            self.wake()

    def _take_reads(self) -> None:
        context = self._reads.begin_round(self._ticks, self.node.term, self.node.leader)
        if context is not None:
            self.node.read_index(context)

    # -- a Ready -----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        """Go on with the Ready that is under way, and take the next, until the disk or other work is waited for."""
        while not self._saving:
            if self._ready is None:
                if not self.node.has_ready():
                    return
                self._begin(self.node.ready())
                continue
            if not self._apply():
                return
            self._ready = None
            self.node.advance()
            self.upkeep.maybe_snapshot()

    def _begin(self, ready: Ready) -> None:
        self._ready = ready
        if ready.soft_state is not None:
            if not ready.leads:
                self.snapshots.stop_sending()
            self.on_role(ready.soft_state.role)
            self.wake()  # reads wait for a leader
        if ready.snapshot_wanted:
            self.upkeep.snapshot_wanted = True
        for state in ready.read_states:
            self._reads.confirmed(state.context, state.index)
        if ready.leads:
            self._outbox.send(ready.messages)
        self._saving = ready.must_sync or ready.snapshot is not None or ready.changes_members
        if ready.snapshot is not None:
            install = self._install(ready, ready.snapshot.meta.index, self.node.committed)
            self._installing = self._loop.create_task(install, name="install")
        elif self._saving:
            self._save(ready, self.node.committed)
        else:
            self._saved(ready)

    async def _install(self, ready: Ready, index: int, commit: int) -> None:
        """The log up to a leader's snapshot is to be dropped: first the machine notes what it will not be told."""
        with self._failing():
            await self.machine.before_snapshot(index)
            self._save(ready, commit)

    def _save(self, ready: Ready, commit: int) -> None:
        """commit: the core's when the Ready was taken; a later one may be of entries that this Ready does not hold."""
        self._thread.submit(partial(self._save_in_thread, ready, commit), partial(self._on_saved, ready, commit))

    def _save_in_thread(self, ready: Ready, commit: int) -> None:
        begin = time.perf_counter()
        if ready.snapshot is not None:
            self._durable.install_snapshot(ready.snapshot.meta, ready.hard_state)
        self._durable.save(
            ready.hard_state,
            ready.entries,
            commit,
            must_sync=ready.must_sync or ready.changes_members,
            with_commit=ready.changes_members,
        )
        self._on_sync(time.perf_counter() - begin)

    def _on_saved(self, ready: Ready, commit: int, _result: None, error: BaseException | None) -> None:
        if self._closed:
            return
        if isinstance(error, LogFull):
            self.upkeep.full(partial(self._save, ready, commit))
            return
        if error is not None:
            self.fail(error)
            return
        self._saving = False
        self.upkeep.saved()
        with self._failing():
            self._saved(ready)
        self._turn()

    def _saved(self, ready: Ready) -> None:
        """What the Ready holds is durable: what waited for that goes out, and what is committed can be applied."""
        if ready.snapshot is not None:
            self._restore(ready.snapshot)
        if ready.hard_state is not None:
            self._durable.storage.hard_state = ready.hard_state
        if ready.entries:
            self._durable.storage.append(ready.entries)
            self.upkeep.grew(sum(len(entry.data) for entry in ready.entries))
        if not ready.leads:
            self._outbox.send(ready.messages)
        self._outbox.send(ready.messages_after_sync)
        self._to_apply.extend(ready.committed_entries)

    # -- applying ----------------------------------------------------------------------------------------------------

    def _apply(self) -> bool:
        """Apply what is committed, for one slice of time. Returns False if there is more."""
        queue = self._to_apply
        if queue and not self.machine.ready():
            return False
        end = self._clock() + SLICE_S
        while queue:
            entry = queue.popleft()
            if entry.kind == EntryKind.CONF_CHANGE:
                self._apply_change(entry)
            result = self.machine.apply(entry)
            self.applied, self.applied_term = entry.index, entry.term
            self._proposals.applied(entry, result)
            if queue and self._clock() > end:
                self.wake()
                break
        self._reads.applied(self.applied)
        self.machine.applied()
        return not queue

    def _apply_change(self, entry: Entry) -> None:
        try:
            self.conf_state = self.node.apply_conf_change(configuration.decode(entry.data))
        except ConfigError as error:  # the same on every member: it changes nothing
            log.warning("a change of the members does not fit", extra={"index": entry.index, "error": str(error)})
        else:
            log.info("members", extra={"index": entry.index, "config": str(self.node.config)})

    # -- snapshots ---------------------------------------------------------------------------------------------------

    def _report_snapshot(self, node: int, ok: bool) -> None:  # noqa: FBT001  a callback's
        self.node.report_snapshot(node, ok=ok)
        self.wake()

    def _snapshot_arrived(self, message: Message, state: Any) -> None:
        """A leader's snapshot is on disk and read: now the core may hear of it, and can install it at once."""
        assert message.snapshot is not None
        meta = message.snapshot.meta
        with self._failing():
            self.node.step(message)
        if self.node.snapshot_index == meta.index:
            self._loaded = (meta, state)
        else:
            self.snapshots.drop(state)
        self.wake()

    def _restore(self, snapshot: Snapshot) -> None:
        assert self._loaded is not None
        (meta, state), self._loaded = self._loaded, None
        assert meta == snapshot.meta
        self._durable.storage.install_snapshot(snapshot)
        self.snapshots.let_go(self.machine.restore(meta, state))
        self.applied, self.applied_term, self.conf_state = meta.index, meta.term, meta.conf_state
        self.upkeep.replaced()
        self._proposals.skipped(self.applied)

    async def snapshot(self) -> None:
        """Make a snapshot now. Raises what `Upkeep.snapshot` raises."""
        await self.upkeep.snapshot()

    # -- failing -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong inside that was not foreseen ends this member: it must not go on half-done (P9)."""
        try:
            yield
        except Exception as error:
            log.exception("this member cannot go on")
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """The log has failed, or what is committed cannot be: nothing more is promised or acted on (P9)."""
        if self.failure is None:
            text = f"this agent cannot keep its records any more: {error}"
            self.failure = error if isinstance(error, AgentStopped) else AgentStopped(text)
            self._fail_all(self.failure)
            self._on_failed(error)

    def _fail_all(self, error: Exception) -> None:
        self._proposals.fail_all(error)
        self._reads.fail_all(error)


def _not_taken(error: ProposalDropped) -> Refusal:
    return Refusal("no_leader", str(error), 503, retry_after_s=1)
