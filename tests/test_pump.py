"""Copying an engine's output: each line once, whatever ends the copy."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import pump
from agent.pump import copy_logs, unseen
from executors import segments
from executors.base import AttemptSpec, LogLine, Stream
from executors.errors import EngineUnreachable, ExecutorError
from executors.mock import MockEngine, MockExecutor
from executors.segments import ResumePoint, SegmentWriter
from tests.api.harness import in_loop

LIMIT = 1 << 20
NAME = "attempt"


class Cut(MockExecutor):
    """Its output breaks off after `lines` records, and after as many more the next time, `cuts` times."""

    def __init__(self, engine: MockEngine, lines: int, cuts: int) -> None:
        super().__init__(engine)
        self.limits = [lines * (number + 1) for number in range(cuts)]
        self.asked_since: list[int] = []

    async def logs(
        self, name: str, directory: Path, since_ns: int = 0, *, follow: bool = False
    ) -> AsyncIterator[LogLine]:
        self.asked_since.append(since_ns)
        limit = self.limits.pop(0) if self.limits else None
        count = 0
        async for line in super().logs(name, directory, since_ns, follow=follow):
            if count == limit:
                raise EngineUnreachable("the connection is gone")
            count += 1
            yield line


def engine_with(root: Path, **environment: str) -> MockEngine:
    engine = MockEngine()
    engine.start(AttemptSpec(NAME, root, root, environment=environment))
    return engine


def copied(target: Path) -> list[tuple[Stream, bytes]]:
    return [(one.stream, one.data) for one in segments.read(target) if isinstance(one, LogLine)]


async def copy_patiently(executor: MockExecutor, target: Path) -> int:
    """Copy until it is whole; returns how often it broke off."""
    breaks = 0
    while True:
        try:
            await copy_logs(executor, NAME, target, target, LIMIT)
        except EngineUnreachable:
            breaks += 1
        else:
            return breaks


@in_loop
async def test_all_output_is_copied_with_its_streams_and_times(tmp_path: Path) -> None:
    engine = engine_with(tmp_path, MOCK_OUTPUT="one\ntwo", MOCK_ERRORS="bad\n", MOCK_OUTPUT_AT_END="\nend\n")
    await copy_logs(MockExecutor(engine), NAME, tmp_path, tmp_path / "log", LIMIT)
    wanted = [line async for line in engine.logs(NAME, 0, follow=False)]
    assert [one for one in segments.read(tmp_path / "log") if isinstance(one, LogLine)] == wanted


@in_loop
async def test_a_copy_that_breaks_off_goes_on_with_each_line_once(tmp_path: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(1000))
    engine = engine_with(tmp_path, MOCK_OUTPUT=text, MOCK_ERRORS=text)
    executor = Cut(engine, lines=300, cuts=6)
    assert await copy_patiently(executor, tmp_path / "log") >= 4
    for stream in Stream:
        assert b"\n".join(data for one, data in copied(tmp_path / "log") if one is stream) == text.encode().rstrip()
    assert executor.asked_since[-1] > 0  # not from the beginning each time


@in_loop
async def test_a_copy_that_is_done_again_adds_nothing(tmp_path: Path) -> None:
    executor = MockExecutor(engine_with(tmp_path, MOCK_OUTPUT="one\ntwo\n"))
    for _ in range(3):
        await copy_logs(executor, NAME, tmp_path, tmp_path / "log", LIMIT)
    assert [data for _stream, data in copied(tmp_path / "log")] == [b"one", b"two"]


@in_loop
async def test_a_cancelled_copy_lets_the_next_one_in_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(tmp_path, MOCK_OUTPUT="one\ntwo\n", MOCK_DURATION_MS="gate")
    writing, go_on = threading.Event(), threading.Event()
    write = pump._write_batch

    def slow(writer: SegmentWriter, batch: list[LogLine]) -> None:
        writing.set()
        assert go_on.wait(30)
        write(writer, batch)

    monkeypatch.setattr(pump, "_write_batch", slow)
    first = asyncio.create_task(copy_logs(MockExecutor(engine), NAME, tmp_path, tmp_path / "log", LIMIT))
    await asyncio.to_thread(writing.wait)
    first.cancel()  # in the middle of a write
    asyncio.get_running_loop().call_later(0.02, go_on.set)
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    engine.release(NAME)
    await copy_logs(MockExecutor(engine), NAME, tmp_path, tmp_path / "log", LIMIT)
    assert [data for _stream, data in copied(tmp_path / "log")] == [b"one", b"two"]


@in_loop
async def test_what_the_engine_does_not_know_cannot_be_copied(tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="no start"):
        await copy_logs(MockExecutor(), NAME, tmp_path, tmp_path / "log", LIMIT)


@in_loop
async def test_one_copy_at_a_time_writes_a_log(tmp_path: Path) -> None:
    executor = MockExecutor(engine_with(tmp_path))
    with (
        SegmentWriter(tmp_path / "log", limit_bytes=LIMIT),
        pytest.raises(ExecutorError, match="another writer"),
    ):
        await copy_logs(executor, NAME, tmp_path, tmp_path / "log", LIMIT)


@in_loop
async def test_p9_a_full_disk_costs_output_and_not_the_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    executor = MockExecutor(engine_with(tmp_path, MOCK_OUTPUT="one\n"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        patch.setattr(SegmentWriter, "_write_all", full)
        await copy_logs(executor, NAME, tmp_path, tmp_path / "log", LIMIT)
    assert caplog.messages == ["output lost", "output lost"]
    assert copied(tmp_path / "log") == []


@given(
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from(Stream)), max_size=20).map(
        lambda found: [LogLine(at, stream, str(n).encode()) for n, (at, stream) in enumerate(sorted(found))]
    ),
    st.integers(0, 20),
)
def test_wherever_a_copy_ended_exactly_the_rest_is_unseen(lines: list[LogLine], cut: int) -> None:
    """Lines may share a time: a count of them says how many were copied."""
    done = lines[:cut]
    points: dict[Stream, ResumePoint] = {}
    for stream in Stream:
        times = [line.time_ns for line in done if line.stream is stream]
        if times:
            points[stream] = ResumePoint(times[-1], times.count(times[-1]))

    async def rest() -> list[LogLine]:
        async def all_lines() -> AsyncIterator[LogLine]:
            for line in lines:
                yield line

        return [line async for line in unseen(all_lines(), points)]

    assert asyncio.run(rest()) == lines[cut:]
