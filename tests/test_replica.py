"""The one writer of the run table: durable before answered, applied in order, found again after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from agent.errors import AgentStopped, Refusal
from agent.leader import lead
from agent.replica import PROPOSALS_MAX, Replica
from agent.runtable import commands as c
from agent.runtable.model import Agent, RunState
from agent.store.history import History
from consensus.disk import RealFileSystem
from consensus.wal import Wal
from tests.runtable.builders import HOUR_MS, START_MS, Driver, task

Body = Callable[[Replica], Awaitable[None]]


def opened(directory: Path, *, io: RealFileSystem | None = None, snapshot_bytes: int = 2**30) -> Replica:
    wal = Wal.open(directory / "log", segment_bytes=64 * 1024, io=io or RealFileSystem())
    history = History.open(directory / "history.db")
    replica = Replica(wal, history, clock_ms=lambda: START_MS, snapshot_bytes=snapshot_bytes)
    replica.recover()
    return replica


def drive(directory: Path, body: Body, *, snapshot_bytes: int = 2**30, leading: bool = False) -> None:
    """Open a replica, run `body` on it, and close it."""

    async def main() -> None:
        replica = opened(directory, snapshot_bytes=snapshot_bytes)
        loops = [asyncio.create_task(replica.run_forever())]
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
        assert [answer.index for answer in answers] == list(range(4, 54))

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
        assert set(replica.table.rows.runs) == {"open"}
        assert len(replica.table.rows.finished) == 60
        assert len(replica.history.after(0, 0, 100)) == 60

    drive(tmp_path, first, snapshot_bytes=4096)
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


def test_a_full_disk_refuses_and_the_agent_goes_on_when_there_is_room_p9(tmp_path: Path) -> None:
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
        await found(replica)
        disk.full = True
        with pytest.raises(Refusal) as caught:
            await replica.propose(submit("r1"))
        assert (caught.value.code, caught.value.status) == ("disk_full", 507)
        assert "r1" not in replica.table.rows.runs
        disk.full = False
        assert (await replica.propose(submit("r1"))).ok
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await replica.close()

    asyncio.run(main())


def test_a_full_queue_asks_the_client_to_come_again_p12(tmp_path: Path) -> None:
    async def main() -> None:
        replica = opened(tmp_path)  # its loop does not run: nothing is taken from the queue
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


def test_the_leader_assigns_what_is_ready_and_fires_what_is_due(tmp_path: Path) -> None:
    async def body(replica: Replica) -> None:
        await found(replica)
        await replica.propose(submit("r1"))
        while replica.table.rows.runs["r1"].state is not RunState.RUNNING:
            await replica.changed()
        replica.clock_ms = lambda: START_MS + 80 * HOUR_MS
        await replica.propose(submit("r2"))
        run = replica.table.rows.runs["r1"]
        while (attempt := run.instances[0].last) is None or attempt.stop_wanted is None:
            await replica.changed()

    drive(tmp_path, body, leading=True)
