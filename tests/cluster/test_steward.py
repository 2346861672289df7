"""What a leader does for its members: it hears them, gives them votes, hands over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.cluster import autopilot
from agent.cluster import steward as module
from agent.cluster.steward import AskComplete, Complete, Steward
from agent.errors import Refusal
from agent.runtable import commands as c
from agent.runtable.model import Agent
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS

Stewards = dict[int, Steward]


def steward_of(member: Member, lacks: int = 0, *, bound: Callable[[], bool] = lambda: True) -> Steward:
    async def looked(index: int) -> None:
        await member.replica.wait_applied(index, 60)

    return Steward(member.replica, member.calls, lambda: lacks, looked, bound=bound)


@asynccontextmanager
async def three(root: Path) -> AsyncIterator[tuple[Cluster, Member, list[Member], Stewards]]:
    """(cluster, leader, the others, {node: steward}); the stewards run, and all know who leads."""
    async with cluster(root) as one:
        leader = await one.leader()
        others = [member for member in one.up if member is not leader]
        stewards = {member.node: steward_of(member) for member in one.up}
        for member in one.up:
            member.go(stewards[member.node].run_forever())
            assert await member.replica.wait_applied(leader.replica.applied_index, 20)
        yield one, leader, others, stewards


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "UNHEARD_S", 0.5)
    monkeypatch.setattr(autopilot, "READY_S", 0.3)
    monkeypatch.setattr(autopilot, "SILENT_S", 1.0)


async def join(leader: Member, node: int) -> None:
    row = Agent(f"a{node}", 0, str(node), "", 4, ("mock",), "0", node=node)
    assert (await leader.replica.propose(c.AgentUp(START_MS, row))).ok


@in_loop
async def test_an_agent_of_the_table_becomes_a_learner_and_two_of_them_voters_p7(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    async with three(tmp_path) as (one, leader, _others, _stewards):
        for node in (4, 5):
            member = one.members[node] = Member(one, node)
            member.start()
            steward_of(member)
            await join(leader, node)
        config = leader.replica.driver.node
        await leader.until(lambda: config.config.voters.incoming == {1, 2, 3, 4, 5} and not config.config.joint)


@in_loop
async def test_nobody_is_given_a_vote_before_the_leaders_own_work_ends_with_its_lease_p3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    bound = False
    async with cluster(tmp_path, size=1) as one:
        leader = await one.leader()
        leader.go(steward_of(leader, bound=lambda: bound).run_forever())
        await join(leader, 1)
        for node in (2, 3):
            member = one.members[node] = Member(one, node)
            member.start()
            steward_of(member)
            await join(leader, node)
        config = leader.replica.driver.node
        await leader.until(lambda: config.config.learners == {2, 3})
        await asyncio.sleep(20 * module.LOOK_S)  # many looks, of which one would give the votes
        assert config.config.voters.incoming == {1}
        bound = True
        await leader.until(lambda: config.config.voters.incoming == {1, 2, 3})


@in_loop
async def test_a_learner_that_lacks_something_gets_no_vote_p1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    async with three(tmp_path) as (one, leader, others, _stewards):
        for number, lacks in {4: 1, 5: 0}.items():
            member = one.members[number] = Member(one, number)
            member.start()
            steward_of(member, lacks)
            await join(leader, number)
        await others[0].stop()  # somebody has to take its place
        node = leader.replica.driver.node
        wanted = {leader.node, others[1].node, 5}
        await leader.until(lambda: node.config.voters.incoming == wanted and not node.config.joint)
        assert node.config.learners == {4, others[0].node}


@in_loop
async def test_who_has_no_table_yet_lacks_something_p1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would lack nothing of what its empty table names."""
    monkeypatch.setattr(module, "COMPLETE_S", 0.2)
    async with three(tmp_path) as (_one, leader, others, _stewards):
        ahead = AskComplete(leader.replica.applied_index + 1)
        assert await leader.calls.ask(others[0].node, ahead, Complete) == Complete(1)
        now = AskComplete(leader.replica.applied_index)
        assert await leader.calls.ask(others[0].node, now, Complete) == Complete(0)


@pytest.mark.slow
@in_loop
async def test_a_learner_that_is_silent_keeps_no_look_at_the_others_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    async with three(tmp_path) as (_one, leader, _others, stewards):
        await join(leader, 4)  # there is nobody
        node = leader.replica.driver.node
        await leader.until(lambda: 4 in node.config.learners)
        steward = stewards[leader.node]
        await leader.until(lambda: 4 in steward.unheard())
        for _ in range(50):
            await asyncio.sleep(0.02)  # for longer than anybody may be unheard
            assert steward.unheard() == {4}


@in_loop
async def test_any_agent_can_have_a_voter_lead_and_tell_how_the_members_look_p6(tmp_path: Path) -> None:
    async with three(tmp_path) as (one, leader, others, stewards):
        for asked in (leader, *others):
            for to in (*others, leader):
                await stewards[asked.node].transfer(to.node)
                assert (await one.leader()).node == to.node
                await asked.until(lambda to=to, asked=asked: asked.replica.driver.node.leader == to.node)  # type: ignore[misc]
        for asked in one.up:
            seen = await stewards[asked.node].seen()
            assert seen is not None


@in_loop
async def test_a_voter_that_is_away_does_not_come_to_lead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRANSFER_S", 0.5)
    async with three(tmp_path) as (_one, leader, others, stewards):
        await others[0].stop()
        with pytest.raises(Refusal) as caught:
            await stewards[leader.node].transfer(others[0].node)
        assert (caught.value.code, caught.value.status) == ("not_transferred", 409)


@in_loop
async def test_the_others_have_let_go_of_a_removed_member_once_their_leader_counts_it_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    async with three(tmp_path) as (_one, leader, others, stewards):
        gone = others[0]
        assert not await stewards[gone.node].let_go()
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{gone.node}"))).ok
        node = leader.replica.driver.node
        await leader.until(lambda: gone.node not in node.config.members)
        async with asyncio.timeout(20):
            while True:
                if await stewards[gone.node].let_go():
                    break
                await asyncio.sleep(0.02)
        assert not await stewards[leader.node].let_go()


@in_loop
async def test_a_removed_leader_hands_over_and_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast(monkeypatch)
    async with three(tmp_path) as (one, leader, others, _stewards):
        assert (await leader.replica.propose(c.AgentRemoved(START_MS, f"a{leader.node}"))).ok
        after = await one.leader(among=[member.node for member in others])
        await after.until(lambda: leader.node not in after.replica.driver.node.config.members)
