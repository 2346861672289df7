"""Reads an attempt's log in batches, each record with a mark from which a reader can go on.

A mark names the place in the log where its batch was begun, and how many records of the batch the reader has. Segments
never change once written, so the same place gives the same records again, on every reading with the same filter.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from agent.store.errors import LogsError
from executors.base import LogLine, Stream
from executors.errors import ExecutorError
from executors.segments import Cursor, Gap, Position, segment_numbers

BATCH_RECORDS: Final = 256
POLL_S: Final = 0.15
_MARK = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,12})\.(\d{1,6})")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the log of an attempt: `count` records after the position."""

    attempt: int
    position: Position
    count: int

    def __str__(self) -> str:
        return f"{self.attempt}.{self.position.segment}.{self.position.offset}.{self.count}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """The mark that `str` gave; None for anything else."""
        match = _MARK.fullmatch(text)
        if match is None:
            return None
        attempt, segment, offset, count = map(int, match.groups())
        return cls(attempt, Position(segment, offset), count)


Marked = tuple[Mark, LogLine | Gap]


async def batches(
    directory: Path,
    attempt: int,
    *,
    ended: Callable[[], bool],
    since_ns: int = 0,
    stream: Stream | None = None,
    tail: int | None = None,
    after: Mark | None = None,
) -> AsyncGenerator[list[Marked], None]:
    """What there is and what comes, until `ended()` and all was given. The caller closes it.

    ended: true only when nothing more will be written.  tail: begin with the last so many records there are now.
    after: begin behind this mark (tail is not looked at then).  Raises LogsError where the log cannot be read.
    """
    start, skip = (after.position, after.count) if after is not None else (Position(), 0)
    if start.segment and start.segment not in await asyncio.to_thread(segment_numbers, directory):
        skip = 0  # deleted meanwhile to stay within the limit: what follows is new, and a gap is shown
    last: deque[Marked] | None = deque(maxlen=tail) if tail is not None and after is None else None
    with Cursor(directory, since_ns=since_ns, stream=stream, after=start if start.segment else None) as cursor:
        while True:
            is_last = ended()  # asked before the look: what was written before the end is seen by that look
            base = cursor.position
            records = await _poll(directory, cursor)
            marked = [(Mark(attempt, base, count), record) for count, record in enumerate(records, 1)]
            skipped, skip = marked[skip:], max(0, skip - len(marked))
            if last is not None:
                last.extend(skipped)
                if records:
                    continue
                skipped, last = list(last), None
            if skipped:
                yield skipped
            elif not records:
                if is_last:
                    return
                await asyncio.sleep(POLL_S)


async def _poll(directory: Path, cursor: Cursor) -> list[LogLine | Gap]:
    """The next records. Cancelled, it waits for the thread to let go of the cursor, as that is closed next."""
    look = asyncio.ensure_future(asyncio.to_thread(cursor.poll, BATCH_RECORDS))
    try:
        return await asyncio.shield(look)
    except (OSError, ExecutorError) as error:
        raise LogsError(f"log {directory}: {error}; check the disk") from error
    finally:
        await asyncio.wait([look])
