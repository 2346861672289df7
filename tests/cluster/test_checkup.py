"""Members whose tables differ are found, and what is decided is what a majority has."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent import digests, intact
from agent.cluster.agreement import Step
from agent.cluster.checkup import AskState, Checkup, Differs, State, Stopping
from agent.errors import AgentStopped, ConfigError, Refusal
from agent.runtable import commands as c
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster, drop_log
from tests.runtable.builders import START_MS

EVERY = 4


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "EVERY", EVERY)


class Looked:
    """A cluster with a checkup on each member; what a member was marked with."""

    def __init__(self, one: Cluster) -> None:
        self.cluster, self.marks = one, dict[int, str]()
        self.checkups = {node: self._checkup(member) for node, member in one.members.items()}

    def _checkup(self, member: Member) -> Checkup:
        return Checkup(member.replica, member.calls, lambda text: self.marks.__setitem__(member.node, text))

    async def write(self, leader: Member) -> None:
        """Until all that are up have another hash in common; who is still making one passes the next by."""
        begin = leader.replica.applied_index
        for number in range(100):
            applied = await leader.replica.propose(c.PutProject(START_MS, f"q{number}"))
            for member in self.cluster.up:
                assert await member.replica.wait_applied(applied.index, 10)
            kept = [member.replica.digests.kept.keys() for member in self.cluster.up]
            if max(set.intersection(*map(set, kept)), default=0) > begin:
                return
        raise AssertionError("no hash in common")


@asynccontextmanager
async def looked(root: Path, size: int = 3) -> AsyncIterator[tuple[Looked, Member, list[Member]]]:
    async with cluster(root, size) as one:
        leader = await one.leader()
        all_ = Looked(one)
        await all_.checkups[leader.node].look()  # before its first proposal
        yield all_, leader, [member for member in one.up if member is not leader]


def spoil(member: Member) -> None:
    """As bad memory would."""
    member.replica.table.rows.agents["a1"].slots += 1


@in_loop
async def test_replicas_that_apply_the_same_log_have_the_same_hashes_after_a_snapshot_too(tmp_path: Path) -> None:
    async with looked(tmp_path) as (all_, leader, (one, _two)):
        await one.stop()
        for _ in range(3):
            await all_.write(leader)
        await drop_log(leader)
        one.start()
        one.replica.digests.kept[1] = b"of its table before the snapshot"
        await one.until(lambda: one.replica.applied_index == leader.replica.applied_index)
        assert 1 not in one.replica.digests.kept
        all_.checkups[one.node] = all_._checkup(one)
        await all_.write(leader)
        verdict = await all_.checkups[leader.node].look()
        assert verdict is not None
        assert (verdict.step, verdict.differ) == (Step.GO_ON, {})
        state = await leader.calls.ask(one.node, AskState(), State)
        assert set(state.digests) <= set(leader.replica.digests.kept.items())
        assert state.digests


@in_loop
async def test_a_member_that_differs_from_a_majority_stops_and_says_what_to_do(tmp_path: Path) -> None:
    async with looked(tmp_path) as (all_, leader, (one, two)):
        spoil(one)
        await all_.write(leader)
        verdict = await all_.checkups[leader.node].look()
        assert verdict is not None
        assert (verdict.step, list(verdict.differ)) == (Step.STOP_OTHERS, [one.node])
        with pytest.raises(AgentStopped, match="differs from that of a majority at entry"):
            await one.replica.caught_up()
        assert "Start an agent with an empty directory in its place" in all_.marks[one.node]
        await one.stop(failed=True)
        assert (await leader.replica.propose(c.PutProject(START_MS, "goes on"))).ok
        assert list(all_.marks) == [one.node]
        await two.until(lambda: "goes on" in two.replica.table.rows.projects)


@in_loop
async def test_a_leader_that_differs_from_a_majority_decides_nothing_more_and_is_stopped_by_the_next(
    tmp_path: Path,
) -> None:
    async with looked(tmp_path) as (all_, leader, others):
        spoil(leader)
        await all_.write(leader)
        verdict = await all_.checkups[leader.node].look()
        assert verdict is not None
        assert verdict.step is Step.TRANSFER
        with pytest.raises(Refusal) as caught:
            await leader.replica.offer(c.encode(c.PutProject(START_MS, "wrong")))
        assert caught.value.code == "tables_differ"
        following = await all_.cluster.leader(among=[member.node for member in others])
        await leader.until(lambda: leader.replica.leader == following.node)
        verdict = await all_.checkups[following.node].look()
        assert verdict is not None
        assert verdict.step is Step.STOP_OTHERS
        with pytest.raises(AgentStopped):
            await leader.replica.caught_up()
        await leader.stop(failed=True)


@in_loop
async def test_with_no_majority_for_either_nothing_is_proposed_until_there_is_one(tmp_path: Path) -> None:
    async with looked(tmp_path) as (all_, leader, (one, two)):
        spoil(one)
        two.replica.digests.restart()
        await two.stop()
        await all_.write(leader)
        checkup = all_.checkups[leader.node]
        verdict = await checkup.look()
        assert verdict is not None
        assert verdict.step is Step.HOLD
        with pytest.raises(Refusal, match="no majority is known to have either") as caught:
            await leader.replica.offer(c.encode(c.PutProject(START_MS, "x")))
        assert (caught.value.code, caught.value.status) == ("tables_differ", 503)
        two.start()
        all_.checkups[two.node] = all_._checkup(two)
        await two.until(lambda: two.replica.digests.kept.keys() & leader.replica.digests.kept.keys())
        await two.until(lambda: two.replica.leader == leader.node)
        verdict = await checkup.look()
        assert verdict is not None
        assert (verdict.step, list(verdict.differ)) == (Step.STOP_OTHERS, [one.node])
        assert (await leader.replica.propose(c.PutProject(START_MS, "x"))).ok
        with pytest.raises(AgentStopped):
            await one.replica.caught_up()
        await one.stop(failed=True)


@in_loop
async def test_nobody_stops_for_what_it_does_not_know_or_who_does_not_lead(tmp_path: Path) -> None:
    async with looked(tmp_path) as (all_, leader, (one, two)):
        await all_.write(leader)
        index, digest = next(reversed(one.replica.digests.kept.items()))
        await one.until(lambda: one.replica.leader)
        leads, follows = (leader, two) if one.replica.leader == leader.node else (two, leader)
        for asker, question in (
            (leads, Differs(index, digest)),
            (leads, Differs(index + 1, b"other")),
            (follows, Differs(index, b"other")),
        ):
            with pytest.raises(Refusal) as caught:
                await asker.calls.ask(one.node, question, Stopping)
            assert caught.value.code == "not_so"
        assert not all_.marks


@in_loop
async def test_tables_of_another_release_are_not_compared(tmp_path: Path) -> None:
    async with looked(tmp_path) as (all_, leader, (one, _two)):
        await all_.write(leader)
        one.calls.serve(AskState, _of_another_release)
        verdict = await all_.checkups[leader.node].look()
        assert verdict is not None
        assert verdict.step is Step.GO_ON


async def _of_another_release(_asker: object, _question: AskState) -> State:
    return State("another", tuple((EVERY * number, b"other") for number in range(10)), START_MS)


def test_no_agent_starts_with_a_directory_whose_table_differed(tmp_path: Path) -> None:
    intact.mark_differs(tmp_path, "this agent's table differs")
    intact.mark_differs(tmp_path, "told again")
    with pytest.raises(ConfigError, match="differs: this agent's table differs"):
        intact.prepare(tmp_path)


def test_a_table_is_hashed_every_so_many_entries_and_so_much_of_its_own_time() -> None:
    assert digests.due(2 * EVERY, 5, 5)
    assert not digests.due(2 * EVERY + 1, 5, 6)
    assert digests.due(2 * EVERY + 1, digests.EVERY_MS - 1, digests.EVERY_MS)
