"""Agents' records in one process: replicas with their histories, over a network in memory that can be cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from agent.cluster.calls import Calls
from agent.cluster.history import Backfill
from agent.errors import AgentStopped
from agent.peers import Peers
from agent.replica import Replica, found
from agent.runtable import commands as c
from agent.runtable.model import Agent
from agent.store.history import History
from consensus.configuration import Change, ConfChange, ConfChangeKind
from consensus.durable import DurableLog
from consensus.wal_identity import Identity
from tests.runtable.builders import START_MS, Driver, task
from transport.frames import Envelope
from transport.memory import Network, Transport


class Member:
    """One of them. `stop` and `start` are a process' end and beginning."""

    def __init__(self, cluster: Cluster, node: int) -> None:
        self.cluster, self.node = cluster, node
        self.directory = cluster.root / str(node)
        self.tasks: list[asyncio.Task[Any]] = []

    def start(self, *, backfill: bool = True) -> None:
        """Open the files and join the network. backfill: fetch what is missing."""
        self.directory.mkdir(exist_ok=True)
        self.durable = DurableLog.open(self.directory / "log", Identity("c", self.node, 1), segment_bytes=256 * 1024)
        if self.node in self.cluster.founders:
            rows = [Agent(f"a{node}", 1, "", "", 4, ("mock",), "0", node=node) for node in self.cluster.founders]
            found(self.durable, rows)
        peers = Peers(self.node)
        self.transport = Transport(
            Envelope("c", 1, self.node, 1), self.cluster.network, peers.on_frames, bind=str(self.node)
        )
        for other in range(1, 6):
            self.transport.connect(other, str(other))
        peers.transport = self.transport
        self.calls = Calls(peers)
        self.history = History.open(self.directory / "history.db")
        self.replica = Replica(
            self.durable, peers, self.history, clock_ms=lambda: START_MS, jitter=self.cluster.rng.randrange
        )
        self.backfill = Backfill(self.replica, self.calls)
        self.go(self.replica.run_forever())
        if backfill:
            self.go(self.backfill.run_forever())

    def go(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run this for as long as the member."""
        self.tasks.append(asyncio.create_task(work))
        return self.tasks[-1]

    async def stop(self, *, failed: bool = False) -> None:
        """Leave the network and let go of the files. failed: whether it has failed, by itself."""
        tasks, self.tasks = self.tasks, []
        if not tasks:
            return
        if failed:  # its loop tells that in a turn of its own, which a cancel must not come before
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in reversed(tasks):
            one.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await self.calls.close()
        self.transport.close()
        await self.replica.close()
        assert any(isinstance(one, AgentStopped) for one in ended) == failed, ended
        assert all(isinstance(one, asyncio.CancelledError | AgentStopped) for one in ended), ended

    def ended(self) -> list[tuple[int, int, str]]:
        """What its history has: (index, ordinal, run)."""
        return [(*run.position, run.run_id) for run in self.history.after(0, 0, 100_000)]

    async def complete(self) -> None:
        """Wait until it has a table and lacks nothing."""
        await self.until(lambda: self.replica.applied_index and not self.backfill.lacking)

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until something written or applied here has made the condition true."""
        async with asyncio.timeout(20):
            while not condition():
                waits = (self.replica.changed(), self.replica.history_changed())
                await asyncio.wait(waits, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)


class Cluster:
    """Some members, all voters at first."""

    def __init__(self, root: Path, size: int) -> None:
        self.root, self.rng, self.network = root, Random(1), Network()
        self.founders = tuple(range(1, size + 1))
        self.members = {node: Member(self, node) for node in self.founders}

    @property
    def up(self) -> list[Member]:
        """Those that run."""
        return [one for one in self.members.values() if one.tasks]

    async def leader(self, among: Iterable[int] = ()) -> Member:
        """Wait for a leader that has applied its own entry."""
        async with asyncio.timeout(20):
            while True:
                for one in self.up:
                    if one.replica.leads and (not among or one.node in among):
                        return one
                await asyncio.sleep(0.01)

    def cut(self, *groups: Iterable[int]) -> None:
        """Let only members of the same group hear each other; none = everybody."""
        sides = [{str(node) for node in group} for group in groups]
        self.network.lose = lambda sender, receiver: (
            bool(sides) and not any(sender in side and receiver in side for side in sides)
        )

    async def add(self, node: int) -> Member:
        """Let one in that is no member yet, as a learner: its log begins empty."""
        member = self.members[node] = Member(self, node)
        member.start()
        leader = await self.leader()
        leader.replica.driver.change_members(ConfChange((Change(ConfChangeKind.ADD_LEARNER, node),)))
        return member


@asynccontextmanager
async def cluster(root: Path, size: int = 3) -> AsyncIterator[Cluster]:
    """A cluster that runs and has a project, and is stopped at the end."""
    one = Cluster(root, size)
    for member in one.members.values():
        member.start()
    first = one.members[1].replica.driver
    await asyncio.sleep(0)  # its loop has begun
    first.node.campaign()  # it need not wait for its time
    first.wake()
    leader = await one.leader()
    assert (await leader.replica.propose(c.PutProject(START_MS, "p"))).ok
    try:
        yield one
    finally:
        for member in one.members.values():
            await member.stop()


async def finish(leader: Member, *runs: str) -> None:
    """Have these runs accepted, and end."""
    replica = leader.replica
    for run_id in runs:
        builder = Driver()
        builder.submit(task(), run_id=run_id)
        command = c.decode(builder.log[-1])
        assert isinstance(command, c.SubmitRun)
        assert (await replica.propose(command)).ok
        epoch = replica.table.rows.agents["a1"].epoch
        assert (await replica.propose(c.Assign(START_MS, run_id, "bq2bq", 1, "a1", epoch))).ok
        ended = c.InstanceEnded(START_MS, run_id, "bq2bq", 1, "a1", epoch, 1, None, 0, "", START_MS, START_MS, None, {})
        assert (await replica.propose(ended)).ok
    await replica.history_settled()


async def drop_log(leader: Member) -> None:
    """Leave nothing of its log but a snapshot: who lags now is given that."""
    await leader.replica.driver.snapshot()
    leader.durable.trim(0, 0)
