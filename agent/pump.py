"""Copies an engine's output into this agent's log, each line once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Final

from executors.base import Executor, LogLine, Stream
from executors.segments import ResumePoint, SegmentWriter, resume_points

log = logging.getLogger(__name__)

QUEUE_LINES: Final = 1024
BATCH_LINES: Final = 256


async def copy_logs(executor: Executor, name: str, directory: Path, target: Path, limit_bytes: int) -> None:
    """Follow the output of an attempt until it has ended and write it to the segments in `target`.

    It goes on where an earlier copy ended. Raises EngineUnreachable: call it again, nothing is lost or doubled.
    Raises ExecutorError where the engine has no such attempt, or another copy is at work; OSError from the disk.
    """
    points = await asyncio.to_thread(resume_points, target)
    since_ns = min(point.time_ns for point in points.values()) if len(points) == len(Stream) else 0
    queue: asyncio.Queue[LogLine | None] = asyncio.Queue(QUEUE_LINES)
    opening = asyncio.ensure_future(asyncio.to_thread(SegmentWriter, target, limit_bytes=limit_bytes))
    try:
        writer = await asyncio.shield(opening)
        async with asyncio.TaskGroup() as group:
            group.create_task(_write(queue, writer))
            lines = executor.logs(name, directory, since_ns, follow=True)
            async for line in unseen(lines, points):
                await queue.put(line)
            await queue.put(None)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    finally:
        await asyncio.wait({opening})  # cancelled or not: its lock would keep the next copy out
        if opening.exception() is None:
            await asyncio.to_thread(_close, opening.result())


async def unseen(lines: AsyncIterator[LogLine], points: dict[Stream, ResumePoint]) -> AsyncIterator[LogLine]:
    """The lines that come after the resume points: of those with the very time of one, its count is skipped."""
    left = {stream: point.records for stream, point in points.items()}
    async for line in lines:
        point = points.get(line.stream)
        if point is not None and line.time_ns < point.time_ns:
            continue
        if point is not None and line.time_ns == point.time_ns and left[line.stream] > 0:
            left[line.stream] -= 1
            continue
        yield line


async def _write(queue: asyncio.Queue[LogLine | None], writer: SegmentWriter) -> None:
    """Take what has come, in batches, and write it off the loop."""
    while True:
        batch = [await queue.get()]
        while len(batch) < BATCH_LINES and not queue.empty():
            batch.append(queue.get_nowait())
        await _whole(partial(_write_batch, writer, [line for line in batch if line is not None]))
        if None in batch:
            return


async def _whole(work: Callable[[], None]) -> None:
    """Run `work` in a thread. A cancellation waits for it: nobody may close a file that is being written."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait({running})
        raise


def _write_batch(writer: SegmentWriter, batch: list[LogLine]) -> None:
    for line in batch:
        try:
            writer.write_line(line)
        except OSError as error:  # a full disk costs output, never the attempt; the segments show the gap
            log.warning("output lost", extra={"error": str(error)})


def _close(writer: SegmentWriter) -> None:
    try:
        writer.close()
    except OSError as error:
        log.warning("output lost", extra={"error": str(error)})
