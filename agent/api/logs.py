"""Output of attempts over HTTP: as text, or as server-sent events that can be gone on with."""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from aiohttp import web

from agent.api import outputs, sse, tailing
from agent.api import schema as s
from agent.api.elsewhere import Wanted
from agent.api.face import Face
from agent.api.outputs import Source
from agent.api.routing import Route, face, read
from agent.api.tailing import Mark, Marked
from agent.replica import Replica
from agent.runtable.model import Attempt, Run
from agent.worker import Worker
from executors.base import LogLine, Stream
from executors.segments import Gap

LAST_LINES: Final = 50
LAST_LINE_BYTES: Final = 64 * 1024
Take = Callable[[list[Marked]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class _Output:
    """What is asked for. number: of the attempt, 0 = the first that comes. after: a mark of it, to go on behind.

    source: where it is, once that is known.
    """

    face: Face
    run: Run
    name: str
    number: int
    query: s.LogsQuery
    after: Mark | None
    source: Source | None = None

    @property
    def there(self) -> Wanted:
        """As it is asked of another agent."""
        tail = -1 if self.query.tail is None else self.query.tail
        stream, after = self.query.stream or "", str(self.after or "")
        return Wanted(self.run.id, self.name, self.number, self.since_ns, stream, tail, after)

    @property
    def since_ns(self) -> int:
        """Lines of before are left out."""
        return 0 if self.query.since is None else _nanoseconds(self.query.since)


async def _logs(request: web.Request) -> web.StreamResponse:
    wanted = await read(request, s.LogsQuery)
    asked = face(request)
    run = await asked.service.queries.run(request.match_info["run"])
    name = request.match_info["instance"]
    may_come = wanted.follow and not run.final
    instance, _last = asked.service.queries.find_attempt(run, name, None if may_come else wanted.attempt)
    after = Mark.parse(request.headers.get("Last-Event-ID", ""))
    number = wanted.attempt or (after.attempt if after is not None else 0)
    if after is not None and after.attempt != number:
        after = None
    output = _Output(asked, run, name, number or len(instance.attempts), wanted, after)
    async with AsyncExitStack() as stack:
        if 0 < output.number <= len(instance.attempts):  # before an answer has begun, which could only be broken off
            output = await _found(output, stack)
        accepted = request.headers.get("Accept", "")
        if sse.CONTENT_TYPE in accepted or (wanted.follow and "text/plain" not in accepted):
            return await sse.stream(request, partial(_send_events, output, stack))
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        return await sse.lasting(request, headers, partial(_send_text, request, replace(output, after=None), stack))


async def _found(output: _Output, stack: AsyncExitStack) -> _Output:
    """With its source. Raises Refusal as `outputs.find`."""
    if output.source is not None:
        return output
    source = await outputs.find(output.face, output.run, output.name, output.number, output.there, stack)
    return replace(output, source=source)


async def _send_events(output: _Output, stack: AsyncExitStack, out: sse.EventStream) -> None:
    """`line` and `gap` events, each with an id to go on from, and an `end` that says what became of the attempt."""

    async def take(batch: list[Marked]) -> None:
        await out.write(b"".join(_event(record, str(mark)) for mark, record in batch))

    found = await _begun(output, out.heartbeat)
    if found.number:
        await _pump(_batches(await _found(found, stack)), take, out.heartbeat)
    await out.send("end", await _end(found))


async def _send_text(
    request: web.Request, output: _Output, stack: AsyncExitStack, response: web.StreamResponse
) -> None:
    """The exact bytes of the output; a gap shows as a line of its own."""

    async def take(batch: list[Marked]) -> None:
        data = b"".join(_text(record, timestamps=output.query.timestamps) for _mark, record in batch)
        await sse.write(request, response, data)

    async def idle() -> None:
        if sse.has_left(request):
            raise ConnectionResetError("the client has left")

    found = await _begun(output, idle)
    if found.number:
        await _pump(_batches(await _found(found, stack)), take, idle)


async def _begun(output: _Output, idle: Callable[[], Awaitable[None]]) -> _Output:
    """Wait for the attempt where output is followed. Returns it with its number, 0 where there will be none."""
    if not output.query.follow:
        return output
    queries, replica = output.face.service.queries, output.face.service.context.replica
    while True:
        changed = replica.changed()
        run = await queries.run(output.run.id)
        instance = run.instance(output.name)
        assert instance is not None
        if len(instance.attempts) >= max(1, output.number):
            return replace(output, run=run, number=output.number or len(instance.attempts))
        if instance.final or run.final:
            return replace(output, run=run, number=0)
        done, _pending = await asyncio.wait([changed], timeout=sse.HEARTBEAT_S)
        if not done:
            await idle()


def _batches(output: _Output) -> AsyncGenerator[list[Marked], None]:
    asked, follow, source = output.face, output.query.follow, output.source
    assert source is not None
    if source.agent is not None:
        return asked.elsewhere.batches(source.agent, output.there, follow=follow, first=source.first)
    assert source.directory is not None
    run, name, number = output.run.id, output.name, output.number

    def ended() -> bool:
        whole = source.whole or not follow
        return whole or nothing_more_comes(asked.service.context.replica, asked.worker, run, name, number)

    return tailing.batches(
        source.directory,
        number,
        ended=ended,
        since_ns=output.since_ns,
        stream=None if output.query.stream is None else Stream(output.query.stream),
        tail=output.query.tail,
        after=output.after,
    )


async def last_lines(asked: Face, run: Run, instance: str, number: int) -> str:
    """The end of an attempt's output, wherever that is. Raises Refusal, LogsError."""
    output = _Output(asked, run, instance, number, s.LogsQuery(tail=LAST_LINES), None)
    pieces: deque[bytes] = deque(maxlen=LAST_LINES)
    async with aclosing(_batches(output)) as batches:
        async for batch in batches:
            pieces.extend(_text(record, timestamps=False)[:LAST_LINE_BYTES] for _mark, record in batch)
    return b"".join(pieces).decode(errors="replace")


async def _pump(batches: AsyncGenerator[list[Marked], None], take: Take, idle: Callable[[], Awaitable[None]]) -> None:
    """Hand on each batch as it comes; call `idle` from time to time while none does."""
    async with aclosing(batches):
        coming = asyncio.ensure_future(anext(batches, None))
        try:
            while True:
                done, _pending = await asyncio.wait([coming], timeout=sse.HEARTBEAT_S)
                if not done:
                    await idle()
                    continue
                batch = coming.result()
                if batch is None:
                    return
                await take(batch)
                coming = asyncio.ensure_future(anext(batches, None))
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


def nothing_more_comes(replica: Replica, worker: Worker, run_id: str, name: str, number: int) -> bool:
    """Whether an attempt's output is complete: this agent's worker has let go of it, and the table knows it."""
    if worker.writes(run_id, name, number):
        return False
    run = replica.run(run_id)
    instance = run.instance(name) if run is not None else None
    if instance is None or len(instance.attempts) < number:
        return True
    return not instance.attempts[number - 1].open


async def _end(output: _Output) -> s.LogEndEvent:
    run = await output.face.service.queries.run(output.run.id)
    instance = run.instance(output.name)
    assert instance is not None
    number = output.number
    attempt: Attempt | None = instance.attempts[number - 1] if 1 <= number <= len(instance.attempts) else None
    if attempt is None:
        return s.LogEndEvent(attempt=None, state=instance.state, exit_code=None, reason=instance.reason)
    return s.LogEndEvent(
        attempt=attempt.number, state=attempt.state, exit_code=attempt.exit_code, reason=attempt.reason
    )


def _event(record: LogLine | Gap, event_id: str) -> bytes:
    if isinstance(record, Gap):
        gap = s.LogGapEvent(missing_segments=record.missing_segments, damaged_bytes=record.damaged_bytes)
        return sse.encoded("gap", gap, event_id)
    text, is_text = _decoded(record.data)
    line = s.LogLineEvent(
        time=timestamp(record.time_ns),
        stream=record.stream,
        text=text,
        partial=record.partial,
        base64=None if is_text else base64.b64encode(record.data).decode(),
    )
    return sse.encoded("line", line, event_id)


def _decoded(data: bytes) -> tuple[str, bool]:
    try:
        return data.decode(), True
    except UnicodeDecodeError:
        return data.decode(errors="replace"), False


def _text(record: LogLine | Gap, *, timestamps: bool) -> bytes:
    if isinstance(record, Gap):
        what = f"{record.missing_segments} segments" if record.missing_segments else f"{record.damaged_bytes} bytes"
        return f"--- output is missing here: {what} ---\n".encode()
    head = f"{timestamp(record.time_ns)} {record.stream} ".encode() if timestamps else b""
    return head + record.data + (b"" if record.partial and not timestamps else b"\n")


def _nanoseconds(at: datetime) -> int:
    """Exactly: a float of seconds would be off by some hundred nanoseconds."""
    since_epoch = at - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since_epoch.days * 86_400 + since_epoch.seconds) * 10**6 + since_epoch.microseconds) * 1000


def timestamp(time_ns: int) -> str:
    """RFC 3339 with nanoseconds."""
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest:09d}Z"


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/runs/{run}/instances/{instance}/logs",
        name="instanceLogs",
        summary="Output of an attempt, as text or as server-sent events (line, gap, end)",
        handler=_logs,
        query=s.LogsQuery,
        media="text/plain",
        events=(("line", s.LogLineEvent), ("gap", s.LogGapEvent), ("end", s.LogEndEvent)),
        refusals=(404, 409, 410, 503),
    ),
)
