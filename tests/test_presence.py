"""An agent's row in the table is kept true, and it ends once it was removed (P3, P7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from agent import presence as module
from agent.errors import AgentStopped
from agent.presence import Presence
from agent.runtable import commands as c
from agent.runtable.model import Agent
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS


@dataclass
class Host:
    """What an agent knows of itself, and its presence."""

    member: Member
    row: Agent
    settled_to: int = 0
    is_let_go: bool = False
    asked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.presence = Presence(self.member.replica, lambda: self.row, self._settled, self._let_go)

    def _settled(self, epoch: int) -> bool:
        self.asked.append(epoch)
        return epoch <= self.settled_to

    async def _let_go(self) -> bool:
        return self.is_let_go

    @property
    def told(self) -> Agent | None:
        return self.member.replica.table.rows.agents.get(self.row.id)

    async def until_told(self) -> None:
        await self.member.until(lambda: self.presence.problem is None)


@asynccontextmanager
async def one_host(root: Path, node: int = 1) -> AsyncIterator[tuple[Cluster, Host, asyncio.Task[None]]]:
    """(cluster, host, its presence' task): a cluster of one voter, and its agent or one that is none yet."""
    async with cluster(root, 1) as one:
        member = await one.leader()
        row = Agent(f"a{node}", 0, "here", "http://here", 8, ("process",), "1", node=node, labels={"gpu": "yes"})
        host = Host(member, row)
        task = asyncio.create_task(host.presence.run_forever())
        yield one, host, task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@in_loop
async def test_an_agent_tells_of_itself_and_again_when_something_has_changed(tmp_path: Path) -> None:
    async with one_host(tmp_path) as (_one, host, _task):
        assert host.presence.problem == "the cluster does not know this agent as it is yet"
        await host.until_told()
        assert host.told is not None
        assert (host.told.address, host.told.slots, host.told.epoch) == ("here", 8, 1)
        host.row = msgspec.structs.replace(host.row, executors=("process", "docker"), address="there")
        assert host.presence.problem is not None
        host.presence.changed()
        await host.until_told()
        assert (host.told.executors, host.told.address) == (("process", "docker"), "there")


@in_loop
async def test_an_agent_of_an_older_release_than_the_cluster_speaks_stops_with_the_remedy(tmp_path: Path) -> None:
    async with one_host(tmp_path) as (_one, host, task):
        host.row = msgspec.structs.replace(host.row, level=2)
        await host.until_told()
        assert host.member.replica.table.rows.level == 2
        host.row = msgspec.structs.replace(host.row, level=1)
        host.presence.changed()
        with pytest.raises(AgentStopped, match="start it with the others' release"):
            await task


@in_loop
async def test_what_others_have_made_of_its_row_is_set_right(tmp_path: Path) -> None:
    async with one_host(tmp_path) as (_one, host, _task):
        await host.until_told()
        late = Agent("a1", 0, "here", "", 0, (), "1", node=1)  # a join that was asked for again, and came late
        assert (await host.member.replica.propose(c.AgentUp(START_MS, late))).ok
        assert host.presence.problem is not None
        await host.until_told()


@in_loop
async def test_a_lost_agent_returns_only_when_its_work_has_ended_p3(tmp_path: Path) -> None:
    async with one_host(tmp_path) as (_one, host, _task):
        await host.until_told()
        replica = host.member.replica
        assert (await replica.propose(c.AgentLost(START_MS, "a1", 1))).ok
        assert host.presence.problem is not None
        assert "holds this agent for lost" in host.presence.problem
        host.asked.clear()
        assert (await replica.propose(c.PutProject(START_MS, "q"))).ok  # it looks, and its work still runs
        await host.member.until(lambda: host.asked)
        assert host.told is not None
        assert host.told.lost
        host.settled_to = 1
        host.presence.changed()
        await host.until_told()
        assert (host.told.epoch, host.told.lost) == (2, False)


@in_loop
async def test_an_agent_that_was_removed_ends_when_the_others_do_without_it_p7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        member = next(other for other in one.up if other is not leader)
        assert await member.replica.wait_applied(leader.replica.applied_index, 20)
        row = msgspec.structs.replace(member.replica.table.rows.agents[f"a{member.node}"])
        host = Host(member, row)
        task = asyncio.create_task(host.presence.run_forever())
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, row.id))).ok
        await member.until(lambda: row.id in member.replica.table.rows.removed)
        assert host.presence.problem == "this agent was removed from its cluster"
        done, _pending = await asyncio.wait((task,), timeout=0.3)
        assert not done  # its vote may be needed
        host.is_let_go = True
        with pytest.raises(AgentStopped, match="removed from its cluster for good"):
            await asyncio.wait_for(task, 20)


@in_loop
async def test_an_agent_that_was_removed_waits_for_the_others_no_longer_than_a_time_unless_it_leads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.02)
    monkeypatch.setattr(module, "LEAVE_S", 0.1)
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        rows = dict(leader.replica.table.rows.agents)
        tasks = {}
        for member in one.up:
            assert await member.replica.wait_applied(leader.replica.applied_index, 20)
            host = Host(member, msgspec.structs.replace(rows[f"a{member.node}"]))
            tasks[member.node] = asyncio.create_task(host.presence.run_forever())
        gone, kept = (member.node for member in one.up if member is not leader)
        for node in (gone, leader.node):
            assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{node}"))).ok
        with pytest.raises(AgentStopped):
            await asyncio.wait_for(tasks[gone], 20)
        rest = [tasks[leader.node], tasks[kept]]
        assert not any(task.done() for task in rest)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
