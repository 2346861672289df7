"""No wrong clock comes into the table's time: it never goes back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent import replica as module
from agent.cluster.agreement import SKEW_MS
from agent.cluster.checkup import Checkup
from agent.cluster.forward import Forward
from agent.cluster.steward import Steward
from agent.errors import Refusal
from agent.runtable import commands as c
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster
from tests.runtable.builders import START_MS

DAY_MS = 86_400_000


def checked(one: Cluster) -> dict[int, Checkup]:
    """A checkup for each member, which looks when it is told to."""
    for member in one.members.values():
        Forward(member.calls, member.replica)
    return {node: Checkup(member.replica, member.calls, print) for node, member in one.members.items()}


def set_clock(member: Member, ahead_ms: int) -> None:
    member.replica.clock_ms = member.replica.clock.host_ms = lambda: START_MS + ahead_ms


async def write(member: Member, name: str = "x") -> int:
    """The table's time after a command that says this member's."""
    replica = member.replica
    assert (await replica.propose(c.PutProject(replica.clock_ms(), name))).ok
    return replica.table.rows.time_ms


@in_loop
async def test_a_leader_whose_clock_is_days_off_says_the_voters_median_and_is_told_of(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        checkups, leader = checked(one), await one.leader()
        set_clock(leader, 9 * DAY_MS)
        await checkups[leader.node].look()
        assert abs(await write(leader) - START_MS) < 1000
        other = next(member for member in one.up if member is not leader)
        assert abs(await write(other) - START_MS) < 1000
        assert abs(leader.replica.clock.members_ms[leader.node] - 9 * DAY_MS) < 1000
        assert abs(leader.replica.clock.members_ms[other.node]) < 1000
        steward = Steward(leader.replica, leader.calls, lambda: 0, _looked)
        await steward._look()
        seen = await steward.seen()
        assert seen is not None
        assert {one.node: round((one.ahead_ms or 0) / DAY_MS) for one in seen.contacts}[leader.node] == 9
        set_clock(leader, 0)
        await checkups[leader.node].look()
        assert leader.replica.clock.ahead_ms == 0


async def _looked(_index: int) -> None:
    """It lacks nothing."""


@in_loop
async def test_a_clock_that_is_about_right_counts_as_it_is(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        checkups, leader = checked(one), await one.leader()
        set_clock(leader, SKEW_MS - 1000)
        await checkups[leader.node].look()
        assert await write(leader) == START_MS + SKEW_MS - 1000


@in_loop
async def test_a_leader_says_nothing_in_its_term_before_it_has_compared_its_clock(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        checkups, leader = checked(one), await one.leader()
        set_clock(leader, DAY_MS)
        writing = asyncio.ensure_future(write(leader))
        await asyncio.sleep(0)
        last = leader.replica.driver.node.last_index
        await checkups[leader.node].look()
        assert abs(await writing - START_MS) < 1000
        assert leader.replica.driver.node.last_index == last + 1


@in_loop
async def test_who_waits_for_that_too_long_or_with_too_many_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LEADER_S", 0.0)
    async with cluster(tmp_path) as one:
        checked(one)
        leader = await one.leader()
        with pytest.raises(Refusal) as caught:
            await leader.replica.offer(c.encode(c.PutProject(START_MS, "x")))
        assert caught.value.code == "no_leader"
        monkeypatch.setattr(module, "PROPOSALS_MAX", 0)
        with pytest.raises(Refusal) as caught:
            await leader.replica.offer(c.encode(c.PutProject(START_MS, "x")))
        assert caught.value.code == "overloaded"


@in_loop
async def test_a_clock_that_is_set_while_it_leads_is_not_believed_before_it_was_compared(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        checkups, leader = checked(one), await one.leader()
        await checkups[leader.node].look()
        set_clock(leader, DAY_MS)
        assert await write(leader) < START_MS + SKEW_MS
        await checkups[leader.node].look()
        assert await write(leader) < START_MS + SKEW_MS


@in_loop
async def test_an_agent_alone_has_only_its_own_clock_and_time_stands_still_where_that_is_set_back(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path, 1) as one:
        checkups, leader = checked(one), await one.leader()
        for ahead_ms, shown_ms in ((DAY_MS, DAY_MS), (0, DAY_MS), (2 * DAY_MS, 2 * DAY_MS)):
            set_clock(leader, ahead_ms)
            await checkups[leader.node].look()
            assert await write(leader) == START_MS + shown_ms


@in_loop
async def test_where_no_majority_answers_the_leaders_own_clock_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As members of an older release, which do not know the question: nothing is held up for ever."""
    monkeypatch.setattr("agent.cluster.checkup.ASK_S", 0.1)
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        checkup = Checkup(leader.replica, leader.calls, print)
        set_clock(leader, 5000)
        await checkup.look()
        assert await write(leader) == START_MS + 5000
