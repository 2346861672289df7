"""Connections follow the table; who has moved is found, and who was removed is told (P7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.cluster import members as module
from agent.cluster.members import Knock, Known, Members
from agent.errors import AgentStopped, Refusal
from agent.runtable import commands as c
from agent.runtable.model import Agent
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS


class Connections:
    """The connections that a transport was told to have."""

    def __init__(self, member: Member) -> None:
        self._transport = member.transport
        self.now: dict[int, str] = {}

    def connect(self, peer: int, address: str) -> None:
        self.now[peer] = address
        self._transport.connect(peer, address)

    def disconnect(self, peer: int) -> None:
        del self.now[peer]
        self._transport.disconnect(peer)

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def members_of(member: Member, told: dict[int, str] | None = None) -> tuple[Members, dict[int, str]]:
    connections = Connections(member)
    agent, address = f"a{member.node}", str(member.node)
    made = Members(member.replica, connections, member.calls, agent, address, told or {})  # type: ignore[arg-type]
    made.update()
    return made, connections.now


async def up(leader: Member, node: int, address: str, agent: str = "") -> None:
    row = Agent(agent or f"a{node}", 0, address, "", 4, ("mock",), "0", node=node)
    assert (await leader.replica.propose(c.AgentUp(START_MS, row))).ok


@asynccontextmanager
async def three(root: Path) -> AsyncIterator[tuple[Cluster, Member, list[Member]]]:
    """Agents a1, a2, a3 at the addresses 1, 2, 3: (cluster, leader, the others), which all have applied it."""
    async with cluster(root) as one:
        leader = await one.leader()
        for node in one.founders:
            await up(leader, node, str(node))
        others = [member for member in one.up if member is not leader]
        for member in others:
            assert await member.replica.wait_applied(leader.replica.applied_index, 20)
        yield one, leader, others


@in_loop
async def test_every_other_agent_of_the_table_is_connected_where_the_table_says(tmp_path: Path) -> None:
    async with three(tmp_path) as (one, leader, others):
        made, now = members_of(leader)
        assert now == {member.node: str(member.node) for member in others}
        await up(leader, 9, "nine")
        made.update()
        assert now[9] == "nine"
        await up(leader, 9, "elsewhere")
        made.update()
        assert now[9] == "elsewhere"
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, "a9"))).ok
        made.update()
        assert now.keys() == set(one.founders) - {leader.node}


@in_loop
async def test_a_removed_member_stays_connected_until_raft_has_let_go_of_it(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, leader, others):
        made, now = members_of(leader)
        gone = others[0]
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{gone.node}"))).ok
        made.update()
        assert gone.node in now


@in_loop
async def test_an_agent_without_a_table_is_connected_to_those_it_was_told_of(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as one:
        joining = Member(one, 4)
        joining.start(backfill=False)
        one.members[4] = joining
        _made, now = members_of(joining, {1: "1", 4: "4"})
        assert now == {1: "1"}


@in_loop
async def test_an_address_is_the_latest_agents_that_has_come_there_p9(tmp_path: Path) -> None:
    """An agent whose disk was wiped comes as another; what is meant for the one before must not be said to it."""
    async with three(tmp_path) as (_one, leader, others):
        made, now = members_of(leader)
        wiped, other = others
        await up(leader, 8, str(wiped.node), "new")
        await wiped.until(lambda: "new" in wiped.replica.table.rows.agents)
        _made, own = members_of(wiped)
        assert str(wiped.node) not in own.values()  # it does not talk to itself
        made.update()
        assert now == {8: str(wiped.node), other.node: str(other.node)}


@in_loop
async def test_who_knocks_is_found_where_it_says_it_is_until_the_table_knows_more_p7(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, leader, others):
        made, now = members_of(leader)
        mover, other = others
        await mover.calls.ask(leader.node, Knock(f"a{mover.node}", "moved"), Known)
        assert now == {mover.node: "moved", other.node: str(other.node)}
        await up(leader, mover.node, "moved again")
        made.update()
        assert now[mover.node] == "moved again"


@in_loop
async def test_nobody_knocks_for_another_and_who_was_removed_is_told_p8(tmp_path: Path) -> None:
    async with three(tmp_path) as (_one, leader, others):
        _made, now = members_of(leader)
        before = dict(now)
        one, two = others
        for name in (f"a{two.node}", "nobody"):
            with pytest.raises(Refusal, match="is not known here"):
                await one.calls.ask(leader.node, Knock(name, "stolen"), Known)
        assert now == before
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{two.node}"))).ok
        with pytest.raises(Refusal) as caught:
            await two.calls.ask(leader.node, Knock(f"a{two.node}", "2"), Known)
        assert caught.value.code == "removed_agent"


@in_loop
async def test_an_agent_that_hears_no_leader_knocks_and_ends_if_it_was_removed_p7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KNOCK_S", 0.1)
    async with three(tmp_path) as (one, leader, others):
        away, other = others
        members_of(leader)
        members_of(other)
        one.cut({leader.node, other.node}, {away.node})
        leader = await one.leader(among=(leader.node, other.node))
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{away.node}"))).ok
        made, _now = members_of(away)
        running = asyncio.create_task(made.run_forever())
        await away.until(lambda: away.replica.driver.node.leader == 0)
        # It hears answers, but nothing of the log: as one whom the leader does not send to any more.
        for member in one.up:
            if member is not away:
                member.transport.disconnect(away.node)
        one.cut()
        with pytest.raises(ExceptionGroup) as caught:
            await asyncio.wait_for(running, 20)
        (stopped,) = caught.value.exceptions
        assert isinstance(stopped, AgentStopped)
        assert "removed from its cluster for good" in str(stopped)
