"""The database among several agents: whoever leads writes it, and the others keep what it has not got (P5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agent.mirroring import Mirroring
from agent.records import mirrored as decode
from agent.store.database import Mirror
from agent.store.history import START
from tests.api.harness import in_loop
from tests.cluster.replicas import Cluster, Member, cluster, drop_log, finish
from tests.store.test_database import query, url

__all__ = ["url"]  # a fixture: each test runs against SQLite and PostgreSQL


def mirroring(one: Cluster, url: str) -> dict[int, Mirroring]:
    """Give each member the database."""
    return {member.node: watch(member, url) for member in one.up}


def watch(member: Member, url: str) -> Mirroring:
    made = Mirroring(member.replica, Mirror(url, decode), look_s=0.02)
    member.go(made.run_forever())
    return made


def is_at(mirror: Mirroring, position: tuple[int, int]) -> bool:
    return mirror.mirrored() == position


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110  the database tells nobody
            await asyncio.sleep(0.01)


def in_database(url: str) -> list[tuple[int, int, str]]:
    rows = query(url, "SELECT log_index, ordinal, run_id FROM prime_runs ORDER BY log_index, ordinal")
    return [(int(index), int(ordinal), str(run)) for index, ordinal, run in rows]


@in_loop
async def test_p5_leaders_in_turn_write_every_run_once(tmp_path: Path, url: str) -> None:
    async with cluster(tmp_path) as one:
        mirrors = mirroring(one, url)
        for turn in range(3):
            leader = await one.leader()
            await finish(leader, *(f"t{turn}n{n}" for n in range(5)))
            last = leader.history.last()
            await until(partial(is_at, mirrors[leader.node], last))
            to = next(member.node for member in one.up if member is not leader)
            leader.replica.driver.transfer(to)
            await one.leader([to])
        assert in_database(url) == leader.ended()
        assert len(in_database(url)) == 15
        assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]


@in_loop
async def test_p5_followers_know_how_far_the_database_is_and_keep_the_rest(tmp_path: Path, url: str) -> None:
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        follower = next(member for member in one.up if member is not leader)
        looking = watch(follower, url)
        await finish(leader, "a", "b")
        await follower.until(lambda: len(follower.ended()) == 2)
        await until(lambda: looking.status().watermark == START)
        await until(lambda: looking.status().behind == 2)
        assert follower.history.prune(2**60, 1, mirrored=looking.mirrored()) == 0
        watch(leader, url)
        await until(lambda: looking.mirrored() == leader.history.last())
        await until(lambda: looking.status().behind == 0)
        assert follower.history.prune(2**60, 1, mirrored=looking.mirrored()) == 2


@in_loop
async def test_p5_a_leader_fetches_what_it_misses_before_it_mirrors_past_it(tmp_path: Path, url: str) -> None:
    async with cluster(tmp_path) as one:
        leader = await one.leader()
        away = next(member for member in one.up if member is not leader)
        await away.stop()
        await finish(leader, *(f"r{n}" for n in range(8)))
        await drop_log(leader)
        index = leader.replica.applied_index
        away.start(backfill=False)
        await away.until(lambda: away.replica.applied_index >= index)
        (third,) = (member for member in one.up if member not in (leader, away))
        mirror = watch(away, url)
        leader.replica.driver.transfer(away.node)
        assert await one.leader([away.node]) is away
        await finish(away, "new")
        await until(lambda: (mirror.status().last_error or "").startswith("waits for finished runs"))
        assert in_database(url) == []
        await leader.stop()  # the third one has it as well
        away.go(away.backfill.run_forever())
        await until(lambda: mirror.mirrored() == away.history.last())
        await third.until(lambda: len(third.ended()) == 9)
        assert in_database(url) == third.ended()
        assert query(url, "SELECT gaps FROM prime_fence") == [(0,)]


@in_loop
async def test_p5_a_leader_that_was_cut_off_writes_nothing_after_the_next_one(tmp_path: Path, url: str) -> None:
    async with cluster(tmp_path) as one:
        mirrors = mirroring(one, url)
        old = await one.leader()
        await finish(old, "before")
        await until(lambda: mirrors[old.node].mirrored() == old.history.last())
        others = [member.node for member in one.up if member is not old]
        one.cut([old.node], others)
        new = await one.leader(others)
        await finish(new, "after")
        await until(lambda: mirrors[new.node].mirrored() == new.history.last())
        one.cut()
        await old.until(lambda: old.ended() == new.ended())
        assert in_database(url) == new.ended()
        assert query(url, "SELECT term, gaps FROM prime_fence") == [(new.replica.term, 0)]


@in_loop
async def test_p5_a_database_in_use_by_a_later_writer_is_left_alone_and_tried_again(tmp_path: Path, url: str) -> None:
    async with cluster(tmp_path, size=1) as one:
        (leader,) = one.up
        Mirror(url, decode).step(leader.history, generation=9, term=9)
        mirror = watch(leader, url)
        await finish(leader, "r")
        await until(lambda: "was written by generation 9" in (mirror.status().last_error or ""))
        query(url, "UPDATE prime_fence SET generation = 0")
        await until(lambda: in_database(url) == leader.ended())


@in_loop
async def test_p5_a_mirror_ends_with_its_agent_whatever_the_database_does(tmp_path: Path) -> None:
    async with cluster(tmp_path, size=1) as one:
        (leader,) = one.up
        mirror = watch(leader, f"sqlite:///{tmp_path}/none/mirror.db")
        await finish(leader, "r")
        await until(lambda: mirror.status().last_error)
