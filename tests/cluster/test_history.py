"""Every agent has the same history in the end, whatever it was given in the place of the log (P4)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from agent.cluster import history as module
from agent.store.errors import HistoryError
from agent.store.history import Hole, end_of
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster, drop_log, finish


def names(first: int, count: int) -> list[str]:
    return [f"r{number:04d}" for number in range(first, first + count)]


def broken(_held: int, _up_to: int) -> None:
    raise HistoryError("the disk is broken")


def has(member: Member, count: int) -> bool:
    return len(member.ended()) == count


async def left_behind(one: Cluster, count: int, *, backfill: bool = True) -> tuple[Member, Member]:
    """(the leader, a member that was given a snapshot in the place of the log in which `count` runs ended)."""
    leader = await one.leader()
    await finish(leader, *names(0, 3))
    away = next(member for member in one.up if member is not leader)
    await away.stop()
    await finish(leader, *names(3, count))
    await drop_log(leader)
    index = leader.replica.applied_index
    away.start(backfill=backfill)
    await away.until(lambda: away.replica.applied_index >= index)
    return leader, away


@in_loop
async def test_a_member_that_was_given_a_snapshot_ends_with_the_same_history_p4(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as one:
        leader, away = await left_behind(one, 20, backfill=False)
        index = leader.replica.applied_index
        assert len(away.ended()) < 23
        assert away.backfill.lacking == 1
        await away.stop()
        away.start(backfill=False)  # the hole is no reason not to start, and is known
        assert away.backfill.lacking == 1
        await away.stop()
        away.start()
        await away.complete()
        assert away.ended() == leader.ended()
        assert len(away.ended()) == 23
        leader = await one.leader()
        await finish(leader, "after")
        await away.until(lambda: away.ended() == leader.ended())
        await away.stop()
        away.start()
        await away.until(lambda: away.ended() == leader.ended())
        assert away.history.covered_index >= index
        assert away.history.holes == ()


@in_loop
async def test_a_new_agent_gets_the_whole_history_part_by_part_from_those_who_have_it(
    tmp_path: Path,
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PART_BYTES", 3000)
        async with cluster(tmp_path) as one:
            leader = await one.leader()
            await finish(leader, *names(0, 40))
            await drop_log(leader)
            new = await one.add(4)
            assert new.backfill.lacking == 1  # nothing is known yet: it must not count as complete
            await new.complete()
            assert new.ended() == leader.ended()
            assert len(new.ended()) == 40


@in_loop
async def test_two_that_lack_the_same_get_it_from_the_one_that_has_it(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as one:
        leader, away = await left_behind(one, 10, backfill=False)
        new = await one.add(4)
        await away.stop()
        away.start()
        for member in (away, new):
            await member.complete()
            assert member.ended() == leader.ended()
            assert member.history.holes == ()


@in_loop
async def test_who_is_unreachable_may_have_it_and_is_waited_for(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOK_S", 0.01)
        patch.setattr(module, "ASK_S", 0.05)
        async with cluster(tmp_path) as one:
            leader, away = await left_behind(one, 10, backfill=False)
            (third,) = (member for member in one.up if member not in (leader, away))
            (hole,) = away.history.missing
            third.history.prune(now_ms=2**60, keep_ms=0)
            one.cut([away.node, third.node], [leader.node])
            for _ in range(5):
                assert not await away.backfill._fetch(hole)
            assert away.history.holes == (hole,)
            one.cut()
            away.go(away.backfill.run_forever())
            await away.complete()
            assert away.ended() == leader.ended()


@in_loop
async def test_what_no_member_has_any_more_is_a_gap_and_no_secret(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "LOOK_S", 0.01)
        async with cluster(tmp_path) as one:
            leader, away = await left_behind(one, 10, backfill=False)
            (hole,) = away.history.missing
            half = [position for *position, _run in leader.ended()][7]
            for member in one.up:
                if member is not away:
                    await member.until(partial(has, member, 13))
                    with member.history._write() as sql:  # as a prune by age or size leaves it
                        sql.execute("DELETE FROM finished_run WHERE (log_index, ordinal) <= (?, ?)", half)
                        sql.execute("UPDATE mark SET pruned_index = ?, pruned_ordinal = ?", half)
            away.go(away.backfill.run_forever())
            await away.complete()
            assert away.history.holes == (Hole(hole.after, (half[0], half[1]), lost=True),)
            assert [run for *_at, run in away.ended()] == [*names(0, 3), *names(8, 5)]
            assert "no agent has these finished runs any more" in caplog.text
            await away.stop()
            away.start()
            assert away.backfill.lacking == 0


@in_loop
async def test_an_agent_that_knows_only_others_holes_gives_nothing_it_has_not(
    tmp_path: Path,
) -> None:
    async with cluster(tmp_path) as one:
        _leader, away = await left_behind(one, 5, backfill=False)
        (third,) = (member for member in one.up if not member.replica.leads and member is not away)
        (hole,) = away.history.missing
        part = await third.backfill._ask(away.node, hole)
        assert part is not None
        assert (part.rows, part.complete, part.resumes) == ((), hole.after, end_of(hole.to[0]))


@in_loop
async def test_a_snapshot_is_not_installed_before_it_is_noted_what_it_takes_the_place_of_p4(tmp_path: Path) -> None:
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        away = next(member for member in one.up if member is not leader)
        await away.stop()
        await finish(leader, *names(0, 10))
        await drop_log(leader)
        away.start()
        before = away.durable.snapshot_meta()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(away.history, "note_missing", broken)
            await away.until(lambda: away.replica.driver.failure)
        assert away.durable.snapshot_meta() == before
        await away.stop(failed=True)
        away.start()
        await away.until(lambda: len(away.ended()) == 10)
        await away.complete()
        assert away.ended() == leader.ended()
