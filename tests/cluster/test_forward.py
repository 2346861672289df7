"""A write on any agent: made by whoever leads, and read where it was made (P6)."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from agent.cluster.agreement import SKEW_MS
from agent.cluster.forward import Forward, Propose, Proposed
from agent.errors import AgentStopped, Refusal
from agent.runtable import commands as c
from agent.runtable.apply import Applied, apply
from agent.runtable.model import Agent
from agent.runtable.table import Table
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS, at_level_2


def project(name: str) -> c.PutProject:
    return c.PutProject(START_MS, name)


def follows(member: Member, leader: Member) -> bool:
    return member.replica.driver.node.leader == leader.node


async def roles(one: Cluster) -> tuple[Member, list[Member]]:
    """(the leader, the others), once all of them know it; their proposals go to it."""
    for member in one.up:
        Forward(member.calls, member.replica)
    leader = await one.leader()
    others = [member for member in one.up if member is not leader]
    for member in others:
        await member.until(partial(follows, member, leader))
    return leader, others


@in_loop
async def test_who_writes_through_a_follower_reads_it_there_when_it_is_answered_p6(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader, others = await roles(one)
        for member in (leader, *others):
            applied = await member.replica.propose(project(f"of-{member.node}"))
            assert applied.ok
            assert member.replica.applied_index >= applied.index
            assert f"of-{member.node}" in member.replica.table.rows.projects


@in_loop
async def test_what_the_table_says_of_it_comes_back_with_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        _leader, (member, _other) = await roles(one)
        applied = await member.replica.propose(c.AgentRemoved(START_MS, "nobody"))
        assert (applied.ok, applied.code) == (False, "unknown_agent")


@in_loop
async def test_a_follower_hands_nothing_on_so_a_proposal_goes_no_rounds(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        _leader, (member, other) = await roles(one)
        with pytest.raises(Refusal) as caught:
            await member.calls.ask(other.node, Propose(c.encode(project("x"))), Proposed)
        assert (caught.value.code, caught.value.status) == ("no_leader", 503)


@in_loop
async def test_a_leader_that_is_not_connected_has_not_been_asked(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader, (member, _other) = await roles(one)
        member.transport.disconnect(leader.node)
        assert member.replica.forward is not None
        with pytest.raises(Refusal) as caught:
            await member.replica.forward(leader.node, c.encode(project("x")))
        assert caught.value.code == "unreachable"


@in_loop
async def test_who_waits_for_a_leader_that_leads_no_more_is_told_soon_that_nobody_can_know(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader, (member, other) = await roles(one)
        assert member.replica.forward is not None
        one.cut({leader.node}, {member.node, other.node})
        asking = asyncio.ensure_future(member.replica.forward(leader.node, c.encode(project("x"))))
        with pytest.raises(Refusal) as caught:
            await asyncio.wait_for(asking, 10)
        assert (caught.value.code, caught.value.status) == ("outcome_unknown", 504)
        one.cut()


@in_loop
async def test_a_leader_that_stops_with_the_proposal_in_its_log_says_that_nobody_can_know(tmp_path: Path) -> None:
    """Who asked may repeat it then, if saying it twice is no harm: it may come to be under the next leader."""
    async with cluster(tmp_path) as one:
        leader, (member, other) = await roles(one)
        assert member.replica.forward is not None
        one.network.lose = lambda sender, receiver: (
            receiver == str(other.node)
            or (sender == str(member.node) and receiver == str(leader.node) and leader.replica.waiting > 0)
        )  # no follower confirms it once it is there
        asking = asyncio.ensure_future(member.replica.forward(leader.node, c.encode(project("x"))))
        await leader.until(lambda: leader.replica.waiting)
        await leader.replica.driver.close()
        with pytest.raises(Refusal) as caught:
            await asking
        assert caught.value.code == "outcome_unknown"
        one.network.lose = lambda _sender, _receiver: False


@in_loop
async def test_no_other_agents_clock_moves_the_tables_time_by_more_than_the_leaders_allows(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader, (member, _other) = await roles(one)
        assert (await member.replica.propose(c.PutProject(START_MS + SKEW_MS + 1, "far ahead"))).ok
        assert leader.replica.table.rows.time_ms == START_MS
        assert "far ahead" in leader.replica.table.rows.projects, "what it says is taken all the same"
        assert (await member.replica.propose(c.PutProject(START_MS + SKEW_MS, "a little"))).ok
        assert leader.replica.table.rows.time_ms == START_MS + SKEW_MS


@in_loop
async def test_what_not_every_agent_knows_is_refused_wherever_it_is_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cluster(tmp_path) as one:
        leader, (member, _other) = await roles(one)
        at_level_2(monkeypatch, c.PutProject)
        for node in (1, 2):
            row = Agent(f"a{node}", 0, "", "", 4, ("mock",), "2.0", node=node, level=2)
            assert (await leader.replica.propose(c.AgentUp(START_MS, row))).ok
        for replica in (leader.replica, member.replica):
            with pytest.raises(Refusal, match=r"feature level 2, and the cluster is at 1: start a3 \(0\)") as caught:
                await replica.propose(project("new"))
            assert (caught.value.code, caught.value.status) == ("feature_level", 409)
        row = Agent("a3", 0, "", "", 4, ("mock",), "2.0", node=3, level=2)
        assert (await leader.replica.propose(c.AgentUp(START_MS, row))).ok
        assert (await member.replica.propose(project("new"))).ok


@in_loop
async def test_an_agent_that_meets_a_command_of_a_later_release_stops_before_it_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an agent of an older release that was started again after all had known the command."""
    async with cluster(tmp_path) as one:
        leader, (old, other) = await roles(one)
        await old.until(lambda: old.replica.applied_index == leader.replica.applied_index)
        before = old.replica.table.dump()

        def older(table: Table, index: int, data: bytes) -> Applied:
            if table is old.replica.table and c.level_of(data) > 1:
                return Applied(index, "newer_level")
            return apply(table, index, data)

        monkeypatch.setattr("agent.replica.apply", older)
        at_level_2(monkeypatch, c.PutProject)
        leader.replica.table.rows.level = 2  # what it refuses by
        assert (await leader.replica.propose(project("new"))).ok
        await leader.replica.propose(c.DeleteToken(START_MS, "after it"))
        await other.until(lambda: "new" in other.replica.table.rows.projects)
        with pytest.raises(AgentStopped, match="of feature level 2, and this release knows"):
            await old.replica.caught_up()
        assert old.replica.table.dump() == before
        await old.stop(failed=True)


@in_loop
async def test_what_a_leader_decided_is_proposed_by_its_term_or_not_at_all(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader, (member, _other) = await roles(one)
        term = leader.replica.term
        assert (await leader.replica.decide(project("mine"), term)).ok
        for replica, of in ((leader.replica, term - 1), (member.replica, term)):
            with pytest.raises(Refusal) as caught:
                await replica.decide(project("late"), of)
            assert caught.value.code == "no_leader"
        await leader.replica.caught_up()
        assert "late" not in leader.replica.table.rows.projects
