"""The one writer of the run table: durable before answered, applied in order, found again after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent import upkeep
from agent.errors import AgentStopped, Refusal
from agent.leader import lead
from agent.peers import Peers
from agent.replica import Replica
from agent.replica import found as found_log
from agent.runtable import commands as c
from agent.runtable.model import Agent, RunState
from agent.store.history import History
from agent.waiters import PROPOSALS_MAX
from consensus.disk import RealFileSystem
from consensus.durable import DurableLog
from consensus.messages import ConfState, SnapshotMeta
from consensus.wal_identity import Identity
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

SEGMENT_BYTES = 256 * 1024

Body = Callable[[Replica], Awaitable[None]]


def opened(directory: Path, *, io: RealFileSystem | None = None, snapshot_bytes: int = 2**30) -> Replica:
    durable = DurableLog.open(
        directory / "log", Identity("c1", 1, 1), segment_bytes=SEGMENT_BYTES, io=io or RealFileSystem()
    )
    found_log(durable)
    history = History.open(directory / "history.db")
    return Replica(durable, Peers(1), history, clock_ms=lambda: START_MS, snapshot_bytes=snapshot_bytes)


def drive(directory: Path, body: Body, *, snapshot_bytes: int = 2**30, leading: bool = False) -> None:
    """Open a replica, run `body` on it, and close it."""

    async def main() -> None:
        replica = opened(directory, snapshot_bytes=snapshot_bytes)
        loops = [asyncio.create_task(replica.run_forever())]
        await replica.caught_up()
        if leading:
            loops.append(asyncio.create_task(lead(replica)))
        try:
            await body(replica)
        finally:
            for loop in reversed(loops):
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await replica.close()

    asyncio.run(main())


def submit(run_id: str, request: str = "") -> c.SubmitRun:
    driver = Driver()
    driver.submit(task(), run_id=run_id, request=request)
    command = c.decode(driver.log[-1])
    assert isinstance(command, c.SubmitRun)
    return command


async def refused(replica: Replica, command: c.AnyCommand) -> Refusal | None:
    """Propose it. Returns the refusal; None = it was taken."""
    try:
        assert (await replica.propose(command)).ok
    except Refusal as refusal:
        return refusal
    return None


async def found(replica: Replica) -> None:
    await replica.propose(c.Found(START_MS, "c1", 1))
    await replica.propose(c.AgentUp(START_MS, Agent("a1", 0, "", "", 4, ("mock",), "0")))
    await replica.propose(c.PutProject(START_MS, "p"))


async def finish(replica: Replica, run_id: str) -> None:
    await replica.propose(c.Assign(START_MS, run_id, "bq2bq", 1, "a1", 1))
    ended = c.InstanceEnded(START_MS, run_id, "bq2bq", 1, "a1", 1, 1, None, 0, "", START_MS, START_MS, None, {})
    assert (await replica.propose(ended)).ok


def test_what_was_accepted_is_there_after_a_restart_p1(tmp_path: Path) -> None:
    async def first(replica: Replica) -> None:
        await found(replica)
        answers = await asyncio.gather(*(replica.propose(submit(f"r{n}")) for n in range(50)))
        assert [answer.index for answer in answers] == list(
            range(6, 56)
        )  # after the log's beginning, its term, and three others

    async def second(replica: Replica) -> None:
        assert set(replica.table.rows.runs) == {f"r{n}" for n in range(50)}
        assert (await replica.propose(submit("r7"))).code == "exists"

    drive(tmp_path, first)
    drive(tmp_path, second)


def test_a_finished_run_is_in_the_history_once_however_often_the_log_is_read_p4(tmp_path: Path) -> None:
    async def first(replica: Replica) -> None:
        await found(replica)
        for n in range(3):
            await replica.propose(submit(f"r{n}"))
            await finish(replica, f"r{n}")
            assert replica.run(f"r{n}") is not None or replica.history.get(f"r{n}") is not None
        await replica.history_settled()

    async def again(replica: Replica) -> None:
        await replica.history_settled()
        assert [row.run_id for row in replica.history.after(0, 0, 10)] == ["r0", "r1", "r2"]
        assert replica.run("r0") is None

    drive(tmp_path, first)
    (tmp_path / "history.db").unlink()  # as if the crash had come before any of it was written
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"history.db{suffix}").unlink(missing_ok=True)
    drive(tmp_path, again)
    drive(tmp_path, again)


def test_a_snapshot_takes_the_place_of_the_log_it_covers(tmp_path: Path) -> None:
    async def first(replica: Replica) -> None:
        await found(replica)
        for n in range(60):
            await replica.propose(submit(f"r{n}"))
            await finish(replica, f"r{n}")
        await replica.propose(submit("open"))
        assert replica.snapshots > 1
        assert 0 < replica.history.covered_index <= replica.applied_index

    async def second(replica: Replica) -> None:
        await replica.history_settled()
        assert set(replica.table.rows.runs) == {"open"}
        assert len(replica.table.rows.finished) == 60
        assert len(replica.history.after(0, 0, 100)) == 60

    drive(tmp_path, first, snapshot_bytes=4096)
    drive(tmp_path, second)


def test_a_table_of_a_later_release_stops_the_agent_before_anything_is_done_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def first(replica: Replica) -> None:
        await replica.propose(c.AgentUp(START_MS, Agent("a1", 0, "", "", 4, ("mock",), "0", level=2)))
        await replica.driver.snapshot()

    async def second(_replica: Replica) -> None:
        raise AssertionError("it runs")

    with monkeypatch.context() as later:
        later.setattr(c, "LEVEL", 2)
        drive(tmp_path, first)
    with pytest.raises(AgentStopped, match="the table of this agent is of feature level 2"):
        drive(tmp_path, second)


def test_one_fdatasync_serves_all_that_waits(tmp_path: Path) -> None:
    syncs = 0

    class Counting(RealFileSystem):
        def fdatasync(self, file: int) -> None:
            nonlocal syncs
            syncs += 1
            super().fdatasync(file)

    async def main() -> None:
        replica = opened(tmp_path, io=Counting())
        loop = asyncio.create_task(replica.run_forever())
        await replica.caught_up()
        await found(replica)
        before = syncs
        await asyncio.gather(*(replica.propose(submit(f"r{n}")) for n in range(500)))
        assert syncs - before < 50
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await replica.close()

    asyncio.run(main())


def test_a_failed_fsync_stops_the_agent_and_nothing_is_acknowledged_p9(tmp_path: Path) -> None:
    class Failing(RealFileSystem):
        broken = False

        def fdatasync(self, file: int) -> None:
            if self.broken:
                raise OSError(5, "Input/output error")
            super().fdatasync(file)

    async def main() -> None:
        disk = Failing()
        replica = opened(tmp_path, io=disk)
        loop = asyncio.create_task(replica.run_forever())
        await replica.caught_up()
        await found(replica)
        disk.broken = True
        with pytest.raises(AgentStopped, match="cannot keep its records"):
            await replica.propose(submit("r1"))
        assert "r1" not in replica.table.rows.runs
        with pytest.raises(AgentStopped):
            await loop
        with pytest.raises(AgentStopped):
            await replica.propose(submit("r2"))
        disk.broken = False
        await replica.close()

    asyncio.run(main())


def test_a_full_disk_refuses_and_the_agent_goes_on_when_there_is_room_p9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FULL_WAIT_S", 0.01)

    class Filling(RealFileSystem):
        full = False

        def fallocate(self, file: int, size: int) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().fallocate(file, size)

    async def main() -> None:
        disk = Filling()
        replica = opened(tmp_path, io=disk)
        loop = asyncio.create_task(replica.run_forever())
        await replica.caught_up()
        await found(replica)
        disk.full = True
        filler = c.PutProject(START_MS, "p", {"filler": "x" * 4096})
        accepted = 0
        while (refusal := await refused(replica, filler)) is None:  # the log has room ahead
            accepted += 1
        assert (refusal.code, refusal.status) == ("disk_full", 507)
        assert accepted > 10
        assert "r1" not in replica.table.rows.runs
        disk.full = False
        while (refusal := await refused(replica, submit("r1"))) is not None:
            assert refusal.code == "disk_full"
            await asyncio.sleep(0.01)  # it looks again by itself
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await replica.close()

    asyncio.run(main())


def test_a_disk_that_is_full_in_the_middle_of_a_write_is_waited_for_p9(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FULL_WAIT_S", 0.01)

    class Filling(RealFileSystem):
        full = False

        def pwrite(self, file: int, data: bytes, offset: int) -> None:
            if self.full:
                raise OSError(28, "No space left on device")
            super().pwrite(file, data, offset)

    async def main() -> None:
        disk = Filling()
        replica = opened(tmp_path, io=disk)
        loop = asyncio.create_task(replica.run_forever())
        await replica.caught_up()
        await found(replica)
        disk.full = True
        first = asyncio.create_task(replica.propose(submit("r1")))
        while not replica.driver.disk_full:  # noqa: ASYNC110  nothing tells
            await asyncio.sleep(0)
        with pytest.raises(Refusal, match="disk is full"):
            await replica.propose(submit("r2"))
        assert not first.done()
        disk.full = False
        assert (await first).ok
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await replica.close()

    asyncio.run(main())


def test_a_full_queue_asks_the_client_to_come_again_p12(tmp_path: Path) -> None:
    async def main() -> None:
        replica = opened(tmp_path)  # it has not started: nothing is taken from the queue
        waiting = [asyncio.create_task(replica.propose(submit(f"r{n}"))) for n in range(PROPOSALS_MAX)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await replica.propose(submit("more"))
        assert (caught.value.code, caught.value.status) == ("overloaded", 429)
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await replica.close()

    asyncio.run(main())


def test_whoever_waits_for_an_index_is_woken_by_it_p6(tmp_path: Path) -> None:
    async def body(replica: Replica) -> None:
        await found(replica)
        waiting = asyncio.create_task(replica.wait_applied(replica.applied_index + 1, 10))
        await asyncio.sleep(0)
        await replica.propose(submit("r1"))
        assert await waiting
        assert not await replica.wait_applied(10_000, 0.01)

    drive(tmp_path, body)


def test_whoever_waits_for_an_end_is_woken_by_it_and_by_a_table_that_comes_from_elsewhere(tmp_path: Path) -> None:
    async def body(replica: Replica) -> None:
        await found(replica)
        for run in ("r1", "r2"):
            await replica.propose(submit(run))
        one, other = replica.ended("r1"), replica.ended("r2")
        await finish(replica, "r1")
        assert one.done()
        assert not other.done()
        loader = replica.loader()
        loader.feed(replica.table.dump())
        for _part in replica.restore(SnapshotMeta(replica.applied_index, 1, ConfState((1,))), loader.finish()):
            assert other.done()

    drive(tmp_path, body)


def test_the_leader_assigns_what_is_ready_and_fires_what_is_due(tmp_path: Path) -> None:
    async def body(replica: Replica) -> None:
        await found(replica)
        await replica.propose(submit("r1"))
        while replica.table.rows.runs["r1"].state is not RunState.RUNNING:
            await replica.changed()
        replica.clock_ms = replica.clock.host_ms = lambda: START_MS + 80 * HOUR_MS
        await replica.propose(submit("r2"))
        run = replica.table.rows.runs["r1"]
        while (attempt := run.instances[0].last) is None or attempt.stop_wanted is None:
            await replica.changed()

    drive(tmp_path, body, leading=True)
