"""Leases carried out: who may think itself alone. Their rules are held by test_lease and test_lease_simulation."""

from __future__ import annotations

import asyncio
from math import inf
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime

import pytest

from agent.cluster import lease
from agent.cluster.leases import Leases
from agent.runtable import commands as c
from agent.runtable import model
from agent.runtable.model import InstanceState, LeaseTerms, OnAgentLost, Origin
from agent.watchdog import Unwatched
from tests.api.harness import in_loop
from tests.cluster.replicas import Member, cluster
from tests.runtable.builders import HOUR_MS, START_MS, task


def leases_of(member: Member, watchdog: Unwatched | None = None) -> Leases:
    """Its leases, asked for and granted for as long as it runs."""
    leases = Leases(member.replica, member.calls, f"a{member.node}", lambda: clock_gettime(CLOCK_BOOTTIME), watchdog)
    member.go(leases.run_forever())
    return leases


@in_loop
async def test_a_table_that_names_nobody_else_may_be_an_old_one_unless_it_leads_p3(tmp_path: Path) -> None:
    """As after a start: the last snapshot may be from before the others came."""
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        member = next(other for other in one.up if other is not leader)
        rows, own = member.replica.table.rows.agents, f"a{member.node}"
        others = {name: rows.pop(name) for name in tuple(rows) if name != own}
        leases_of(leader)
        leases = leases_of(member)
        for number in range(3):
            applied = await leader.replica.propose(c.PutProject(START_MS, f"p{number}"))
            assert await member.replica.wait_applied(applied.index, 10)
            assert leases.until_s(1) == -inf
        rows.update(others)
        assert (await leader.replica.propose(c.PutProject(START_MS, "more"))).ok
        await member.until(lambda: leases.may_start(1))
        assert leases.until_s(1) < inf


@in_loop
async def test_an_agent_that_leads_alone_has_a_lease_without_an_end(tmp_path: Path) -> None:
    async with cluster(tmp_path, 1) as one:
        member = await one.leader()
        leases = leases_of(member)
        await member.until(lambda: leases.may_start(1))
        assert leases.until_s(1) == inf


class Told(Unwatched):
    """A watchdog that keeps what graces it was told."""

    def __init__(self) -> None:
        self.graces_s: set[float] = set()

    async def renew(self, _until_s: float, _epoch: int, stop_s: float) -> bool:
        self.graces_s.add(stop_s)
        return True


@in_loop
async def test_the_grace_is_the_leaders_whatever_the_table_of_the_agent_says_p3(tmp_path: Path) -> None:
    """The leader's margin is of its terms; a table that is behind has others."""
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        member = next(other for other in one.up if other is not leader)
        member.replica.table.rows.leases = model.Leases(LeaseTerms(stop_ms=60_000))
        leases_of(leader)
        told = Told()
        leases = leases_of(member, told)
        assert leases.stop_grace_s == 60.0
        await member.until(lambda: leases.may_start(1))
        assert leases.stop_grace_s == LeaseTerms().stop_ms / 1000
        assert told.graces_s == {LeaseTerms().stop_ms / 1000}


async def set_terms(leader: Member, terms: LeaseTerms) -> None:
    """Short ones, say, and let the time pass in which the old ones bind."""
    for command in (c.SetLeaseTerms(START_MS, terms), c.AdvanceTime(START_MS + HOUR_MS)):
        assert (await leader.replica.propose(command)).ok


async def cancelled(leader: Member, agent: str, choice: OnAgentLost) -> tuple[str, str, int]:
    """A run that this agent was given and is to stop; which attempt that is."""
    plan = task(on_agent_lost=choice)
    run_id, replica = f"r-{choice}", leader.replica
    submit = c.SubmitRun(
        START_MS,
        run_id,
        "p",
        "n",
        "j",
        START_MS,
        Origin.MANUAL,
        "me",
        "a1",
        "",
        "b",
        HOUR_MS,
        "bundle",
        HOUR_MS,
        HOUR_MS,
        (plan,),
    )
    epoch = replica.table.rows.agents[agent].epoch
    for command in (
        submit,
        c.Assign(START_MS, run_id, plan.name, 1, agent, epoch),
        c.CancelRun(START_MS, run_id, "me", "a1"),
    ):
        assert (await replica.propose(command)).ok
    return run_id, plan.name, 1


def state_of(member: Member, attempt: tuple[str, str, int]) -> InstanceState | None:
    """Of its instance; None = its run has ended."""
    run = member.replica.table.rows.runs.get(attempt[0])
    instance = run.instance(attempt[1]) if run is not None else None
    return instance.state if instance is not None else None


@pytest.mark.slow  # shorter terms count only once the time of the longer ones is over
@in_loop
async def test_a_lease_names_what_is_to_be_stopped_and_who_does_not_answer_is_lost_p3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STOP_ANSWER_S", 0.5)
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        deaf = next(other for other in one.up if other is not leader)
        await set_terms(leader, LeaseTerms(1000, 100, 100))
        leases = {member.node: leases_of(member) for member in one.up}
        hears = next(member for member in one.up if member not in (leader, deaf))
        leases[hears.node].is_stopping = lambda _attempt: True
        heard = await cancelled(leader, f"a{hears.node}", OnAgentLost.FAIL)
        await hears.until(lambda: heard in leases[hears.node].stops())
        unheard = await cancelled(leader, f"a{deaf.node}", OnAgentLost.RERUN)
        await deaf.until(lambda: unheard in leases[deaf.node].stops())
        await leader.until(lambda: leader.replica.table.rows.agents[f"a{deaf.node}"].lost)
        assert state_of(leader, unheard) is None, "it has ended as cancelled"
        assert state_of(leader, heard) is InstanceState.SCHEDULED
        assert not leader.replica.table.rows.agents[f"a{hears.node}"].lost


@in_loop
async def test_work_that_outlives_its_lease_by_its_jobs_choice_costs_no_lease_when_its_stop_is_not_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "STOP_ANSWER_S", 0.0)
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        member = next(other for other in one.up if other is not leader)
        await set_terms(leader, LeaseTerms(200, 10, 10))
        leases_of(leader)
        leases = leases_of(member)
        attempt = await cancelled(leader, f"a{member.node}", OnAgentLost.WAIT)
        await member.until(lambda: attempt in leases.stops())
        for _ in range(4):
            before_s = leases.until_s(1)
            await asyncio.wait_for(member_grant(leases, before_s), 10)


async def member_grant(leases: Leases, before_s: float) -> None:
    """Wait for a longer lease."""
    while leases.until_s(1) <= before_s:
        await leases.news()
