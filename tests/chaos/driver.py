"""What of `agent.driver.Driver` stands between the replica and the core: the real queues of proposals and reads.

The rest of it, a Ready carried out, is `tests.simulator.member`'s, with the same law.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.clock import LeaderClock
from agent.errors import Refusal
from agent.replica import Replica
from agent.store.history import START, Position
from agent.waiters import Proposals, Reads, fail
from consensus.errors import ProposalDropped
from consensus.messages import NONE, Entry
from consensus.node import Node
from consensus.ready import ReadState, Role

if TYPE_CHECKING:
    from tests.chaos.cluster import Host


class SimulatedDriver:
    """See `agent.driver.Driver`: what is named alike is alike."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._proposals, self._reads = Proposals(), Reads()
        self._ticks = 0
        self._floors: dict[bytes, int] = {}  # of each round of reads: what somebody had been told when it began
        self._scheduled = False
        self.applied_term = host.disk.storage.snapshot().meta.term

    @property
    def node(self) -> Node:
        """The core."""
        assert self._host.node is not None
        return self._host.node

    @property
    def leads(self) -> bool:
        """See Driver."""
        return self.node.role is Role.LEADER and self.applied_term == self.node.term

    def submit(self, data: bytes, *, term: int | None = None) -> asyncio.Future[Any]:
        """See Driver."""
        future: asyncio.Future[Any] = self._host.loop.create_future()
        self._proposals.add(data, future, self._ticks, term)
        self.wake()
        return future

    async def propose(self, data: bytes) -> Any:
        """See Driver."""
        return await self.submit(data)

    async def read_index(self) -> int:
        """See Driver."""
        future: asyncio.Future[int] = self._host.loop.create_future()
        self._reads.add(future)
        self.wake()
        return await future

    def wake(self) -> None:
        """Take a turn soon."""
        if not self._scheduled:
            self._scheduled = True
            self._host.loop.call_soon(self.turn)

    def turn(self) -> None:
        """Give the core what has come."""
        self._scheduled = False
        if self._host.loop.dead:
            return
        self._take_proposals()
        context = self._reads.begin_round(self._ticks, self.node.term, self.node.leader)
        if context is not None:
            self._floors[context] = self._host.cluster.known
            self.node.read_index(context)
        self._host.cluster.observer.look(self._host)
        self._host.pump()

    def _take_proposals(self) -> None:
        if not self._proposals.queued:
            return
        if self.node.role is Role.LEADER:
            self._propose()
        elif self.node.leader != NONE:
            self._proposals.refuse_queued(Refusal("no_leader", "another member leads; ask that one", 503))

    def _propose(self) -> None:
        batch = self._proposals.take(self.node.term)
        first = self.node.last_index + 1
        try:
            if batch:
                self.node.propose(*(one.data for one in batch))
        except ProposalDropped as error:
            for one in batch:
                fail(one.future, Refusal("no_leader", str(error), 503))
        else:
            self._proposals.place(batch, first, self.node.term, self._ticks)

    # -- what the member says ----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """A tick has passed."""
        self._ticks += 1
        self._proposals.expire(self._ticks)
        self._reads.expire(self._ticks)
        self.turn()

    def confirmed(self, state: ReadState) -> None:
        """A round of reads is confirmed."""
        self._host.cluster.observer.may_read(self._host, state.index, self._floors.pop(state.context, 0))
        self._reads.confirmed(state.context, state.index)

    def applied(self, entry: Entry, result: Any) -> None:
        """An entry was applied."""
        self.applied_term = entry.term
        self._proposals.applied(entry, result)

    def restored(self, index: int, term: int) -> None:
        """A snapshot has taken the place of entries."""
        self.applied_term = term
        self._proposals.skipped(index)

    def advanced(self, index: int) -> None:
        """Everything up to there is applied."""
        self._reads.applied(index)


class NoHistory:
    """What leftovers ask of the history: whether there was ever a run."""

    def last(self) -> Position:
        """See History."""
        return START


class SimulatedReplica(Replica):
    """The real one, above a simulated driver; what leaves the table is the checks' matter, not the history's."""

    def __init__(self, host: Host) -> None:
        # Not the base's: that wants a log and a history on disk.
        self.driver: Any = SimulatedDriver(host)
        self.table = host.rows.table
        self.history: Any = NoHistory()
        self.clock_ms: Callable[[], int] = host.wall_ms
        self.held = None
        self.clock = LeaderClock(host.wall_ms)  # that they are compared is `test_clock`'s; here they only drift
        self.forward = None
        self._changed = None
        self._leader_changed = None
        self._leaving = {}
