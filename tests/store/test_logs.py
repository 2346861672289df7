"""Where attempts' logs are, that a reader misses and doubles nothing, and when they go."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.store.errors import LogsError
from agent.store.logs import End, LogStore, Swept
from executors.base import LogLine, Stream
from executors.segments import Gap

DAY_MS = 24 * 3600 * 1000
SEGMENT_BYTES = 16 * 1024 + 41  # the least a segment may have


@pytest.fixture
def store(tmp_path: Path) -> LogStore:
    return LogStore(tmp_path / "logs")


def write(store: LogStore, *lines: str, run: str = "RUN", attempt: int = 1, at_ms: int | None = None) -> None:
    """Write stdout lines a nanosecond apart, then date the file `at_ms` (milliseconds)."""
    with store.writer(run, "task", attempt) as writer:
        for time_ns, line in enumerate(lines, 1):
            writer.write(Stream.STDOUT, f"{line}\n".encode(), time_ns)
    if at_ms is not None:
        for path in store.directory(run, "task", attempt).iterdir():
            os.utime(path, ns=(at_ms * 10**6, at_ms * 10**6))


def texts(records: list[LogLine | Gap]) -> list[str]:
    return [record.data.decode() if isinstance(record, LogLine) else "GAP" for record in records]


def test_a_log_has_its_place_by_run_instance_and_attempt(store: LogStore, tmp_path: Path) -> None:
    assert store.directory("RUN", "hook-1.x", 12) == tmp_path / "logs" / "RUN" / "hook-1.x" / "12"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\0b", "a\nb", "x" * 256, "é" * 128, "\ud800"]
)
def test_p8_a_name_cannot_lead_out_of_the_logs(store: LogStore, name: str) -> None:
    for run, instance in ((name, "task"), ("RUN", name)):
        with pytest.raises(LogsError, match="is not the name of a run or an instance"):
            store.directory(run, instance, 1)
        with pytest.raises(LogsError):
            store.read(run, instance, 1)
        with pytest.raises(LogsError):
            store.follow(run, instance, 1, ended=lambda: True)


def test_attempts_count_from_one(store: LogStore) -> None:
    with pytest.raises(LogsError, match="attempts count from 1"):
        store.directory("RUN", "task", 0)


def test_what_was_written_is_read(store: LogStore) -> None:
    assert not store.exists("RUN", "task", 1)
    assert list(store.read("RUN", "task", 1)) == []
    write(store, "one", "two")
    assert store.exists("RUN", "task", 1)
    assert list(store.read("RUN", "task", 1)) == [
        LogLine(1, Stream.STDOUT, b"one"),
        LogLine(2, Stream.STDOUT, b"two"),
    ]


def test_reading_is_narrowed_by_time_stream_and_tail(store: LogStore) -> None:
    with store.writer("RUN", "task", 1) as writer:
        for time_ns in range(1, 11):
            stream = Stream.STDERR if time_ns % 2 else Stream.STDOUT
            writer.write(stream, b"%d\n" % time_ns, time_ns)
    read = store.read
    assert texts(list(read("RUN", "task", 1, since_ns=8))) == ["8", "9", "10"]
    assert texts(list(read("RUN", "task", 1, stream=Stream.STDERR, since_ns=4))) == ["5", "7", "9"]
    assert texts(list(read("RUN", "task", 1, tail=2))) == ["9", "10"]
    assert texts(list(read("RUN", "task", 1, tail=2, stream=Stream.STDOUT))) == ["8", "10"]
    assert texts(list(read("RUN", "task", 1, tail=5, since_ns=9))) == ["9", "10"]
    assert texts(list(read("RUN", "task", 1, tail=0))) == []


def test_p12_a_log_past_its_limit_shows_the_gap_also_in_its_tail(store: LogStore) -> None:
    with store.writer("RUN", "task", 1, limit_bytes=1, segment_bytes=1) as writer:
        for time_ns in range(1, 3001):
            writer.write(Stream.STDOUT, b"%050d\n" % time_ns, time_ns)
    for tail in (None, 3000):
        records = list(store.read("RUN", "task", 1, tail=tail, since_ns=0))
        assert len([record for record in records if isinstance(record, Gap)]) == 1
    assert texts(list(store.read("RUN", "task", 1, tail=1))) == [f"{3000:050d}"]


def test_two_writers_of_one_log_are_refused(store: LogStore) -> None:
    with store.writer("RUN", "task", 1), pytest.raises(LogsError, match="another writer is at work"):
        store.writer("RUN", "task", 1)


def test_a_disk_that_refuses_is_an_error_with_the_path(store: LogStore, tmp_path: Path) -> None:
    (tmp_path / "logs" / "RUN").mkdir(parents=True)
    (tmp_path / "logs" / "RUN" / "task").write_text("a file where a folder should be")
    for act in (store.exists, store.writer):
        with pytest.raises(LogsError, match=r"logs/RUN/task/1.*; check the disk"):
            act("RUN", "task", 1)
    with pytest.raises(LogsError, match="check the disk"):
        list(store.read("RUN", "task", 1))
    with pytest.raises(LogsError, match="check the disk"):
        asyncio.run(collect(store.follow("RUN", "task", 1, ended=lambda: True)))


async def collect(records: AsyncIterator[LogLine | Gap | End]) -> list[LogLine | Gap | End]:
    return [record async for record in records]


def test_following_an_ended_attempt_gives_all_and_the_end(store: LogStore) -> None:
    write(store, "one", "two")
    found = asyncio.run(collect(store.follow("RUN", "task", 1, ended=lambda: True, since_ns=2)))
    assert found == [LogLine(2, Stream.STDOUT, b"two"), End()]


def test_a_quiet_log_is_looked_at_until_the_end(store: LogStore) -> None:
    answers = iter([False, False, True])
    found = asyncio.run(collect(store.follow("RUN", "task", 1, ended=lambda: next(answers), poll_s=0.001)))
    assert found == [End()]
    assert list(answers) == []


def test_following_an_attempt_that_never_wrote_gives_the_end(store: LogStore) -> None:
    assert asyncio.run(collect(store.follow("RUN", "task", 1, ended=lambda: True))) == [End()]


def test_following_misses_and_doubles_nothing_across_segments_while_it_is_written(store: LogStore) -> None:
    total, done = 5000, threading.Event()

    def work() -> None:
        with store.writer("RUN", "task", 1, segment_bytes=SEGMENT_BYTES) as writer:
            for time_ns in range(1, total + 1):
                writer.write(Stream(("stdout", "stderr")[time_ns % 2]), b"%060d\n" % time_ns, time_ns)
        done.set()

    async def main() -> list[LogLine | Gap | End]:
        following = asyncio.create_task(collect(store.follow("RUN", "task", 1, ended=done.is_set, poll_s=0.001)))
        await asyncio.to_thread(work)
        return await asyncio.wait_for(following, 30)

    *lines, end = asyncio.run(main())
    assert end == End()
    assert [line.time_ns for line in lines if isinstance(line, LogLine)] == list(range(1, total + 1))
    assert len(lines) == total
    assert len(list(store.directory("RUN", "task", 1).iterdir())) > 10


def test_following_waits_for_what_comes(store: LogStore) -> None:
    async def main() -> None:
        is_ended = False
        following = store.follow("RUN", "task", 1, ended=lambda: is_ended, poll_s=0.001)
        first = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        with store.writer("RUN", "task", 1) as writer:
            writer.write(Stream.STDOUT, b"one\n", 1)
            assert await asyncio.wait_for(first, 20) == LogLine(1, Stream.STDOUT, b"one")
            writer.write(Stream.STDERR, b"two\nthr", 2)
            assert await asyncio.wait_for(anext(following), 20) == LogLine(2, Stream.STDERR, b"two")
        assert await asyncio.wait_for(anext(following), 20) == LogLine(2, Stream.STDERR, b"thr", partial=True)
        is_ended = True
        assert await asyncio.wait_for(anext(following), 20) == End()
        with pytest.raises(StopAsyncIteration):
            await anext(following)

    asyncio.run(main())


def test_what_was_written_just_before_the_end_is_given(store: LogStore) -> None:
    write(store, "one")
    asked = 0

    def ended() -> bool:
        nonlocal asked
        asked += 1
        if asked == 2:  # between the follower's look at the log and its next question
            with store.writer("RUN", "task", 1) as writer:
                writer.write(Stream.STDOUT, b"last words\n", 2)
        return asked >= 2

    found = asyncio.run(collect(store.follow("RUN", "task", 1, ended=ended)))
    assert [record.data for record in found if isinstance(record, LogLine)] == [b"one", b"last words"]


def test_a_follower_that_is_cancelled_lets_go_of_the_files(store: LogStore) -> None:
    write(store, *(f"line {n}" for n in range(5000)))
    directory = store.directory("RUN", "task", 1)

    def open_here() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [str(link.resolve()) for link in links if link.resolve().parent == directory.resolve()]

    async def main() -> None:
        for turns in range(6):
            task = asyncio.create_task(collect(store.follow("RUN", "task", 1, ended=lambda: False)))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert open_here() == []


def keep_all(run: str, instance: str, attempt: int) -> bool:
    return True


def keep_none(run: str, instance: str, attempt: int) -> bool:
    return False


def test_a_sweep_removes_whole_attempts_by_age(store: LogStore) -> None:
    write(store, "old", run="OLD", at_ms=DAY_MS)
    write(store, "young", run="OLD", attempt=2, at_ms=10 * DAY_MS)
    swept = asyncio.run(store.sweep(now_ms=12 * DAY_MS, keep_ms=10 * DAY_MS, active=keep_none))
    (removed,) = swept.removed
    assert (removed.run_id, removed.instance, removed.attempt, removed.written_ms) == ("OLD", "task", 1, DAY_MS)
    assert removed.size > 0
    assert not store.exists("OLD", "task", 1)
    assert texts(list(store.read("OLD", "task", 2))) == ["young"]
    assert swept.left_bytes == asyncio.run(store.usage_bytes()) > 0


def test_p12_a_sweep_removes_the_oldest_until_the_rest_fits(store: LogStore) -> None:
    for day in (3, 1, 2, 4):
        write(store, "x" * 1000, run=f"RUN{day}", at_ms=day * DAY_MS)
    usage = asyncio.run(store.usage_bytes())
    swept = asyncio.run(store.sweep(now_ms=5 * DAY_MS, max_bytes=usage // 2, active=keep_none))
    assert [log.run_id for log in swept.removed] == ["RUN1", "RUN2"]
    assert swept.left_bytes == usage // 2
    assert asyncio.run(store.sweep(now_ms=5 * DAY_MS, max_bytes=usage // 2, active=keep_none)) == Swept((), usage // 2)


def test_what_is_still_written_is_never_swept(store: LogStore) -> None:
    for day in (1, 2):
        write(store, "x", run=f"RUN{day}", at_ms=day * DAY_MS)
    assert asyncio.run(store.sweep(now_ms=99 * DAY_MS, max_bytes=0, active=keep_all)).removed == ()
    swept = asyncio.run(store.sweep(now_ms=99 * DAY_MS, max_bytes=0, active=lambda run, *_: run == "RUN1"))
    assert [log.run_id for log in swept.removed] == ["RUN2"]
    assert store.exists("RUN1", "task", 1)


def test_empty_folders_go_after_a_while_and_what_is_no_log_is_left_alone(store: LogStore, tmp_path: Path) -> None:
    root = tmp_path / "logs"
    write(store, "x", at_ms=DAY_MS)
    strange = [root / "OTHER" / "task" / name for name in ("007", "x", "0")]
    for path in strange:
        path.mkdir(parents=True)
    (root / "OTHER" / "task" / "5").write_text("no folder")
    store.directory("BARE", "task", 1).mkdir(parents=True)  # an attempt that has not written yet: as old as its folder
    now_ms = (root / "BARE" / "task" / "1").stat().st_mtime_ns // 10**6
    swept = asyncio.run(store.sweep(now_ms=now_ms, keep_ms=DAY_MS, active=keep_none))
    assert [log.run_id for log in swept.removed] == ["RUN"]
    assert (root / "RUN" / "task").is_dir()
    for _ in range(2):  # an instance's folder, whose going changes the run's, then that
        os.utime(root / "RUN", ns=(0, 0))
        if (root / "RUN" / "task").exists():
            os.utime(root / "RUN" / "task", ns=(0, 0))
        asyncio.run(store.sweep(now_ms=now_ms, keep_ms=DAY_MS, active=keep_none))
    assert not (root / "RUN").exists()
    assert all(path.is_dir() for path in strange)
    assert store.directory("BARE", "task", 1).is_dir()


def test_sweeping_where_there_are_no_logs_yet_does_nothing(store: LogStore) -> None:
    assert asyncio.run(store.sweep(now_ms=0, active=keep_none)) == Swept((), 0)


def test_a_segment_deleted_while_it_is_measured_is_passed_over(store: LogStore) -> None:
    write(store, "x", at_ms=DAY_MS)
    (store.directory("RUN", "task", 1) / "000002.log").symlink_to("gone")  # stat says: no such file
    assert asyncio.run(store.sweep(now_ms=DAY_MS, active=keep_none)).removed == ()
