"""Output of attempts over HTTP: as text, or as server-sent events that can be gone on with."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial

from aiohttp import web

from agent.api import schema as s
from agent.api import sse, tailing
from agent.api.face import Face
from agent.api.routing import Route, face, read
from agent.api.tailing import Mark, Marked
from agent.runtable.model import Attempt, Run
from executors.base import LogLine, Stream
from executors.segments import Gap

Take = Callable[[list[Marked]], Awaitable[None]]


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
    if not number and not may_come:
        number = len(instance.attempts)
    accepted = request.headers.get("Accept", "")
    if sse.CONTENT_TYPE in accepted or (wanted.follow and "text/plain" not in accepted):
        return await sse.stream(request, partial(_send_events, asked, run, name, number, wanted, after))
    headers = {"Content-Type": "text/plain; charset=utf-8"}
    return await sse.lasting(request, headers, partial(_send_text, request, run, name, number, wanted))


async def _send_events(
    asked: Face, run: Run, name: str, number: int, wanted: s.LogsQuery, after: Mark | None, out: sse.EventStream
) -> None:
    """`line` and `gap` events, each with an id to go on from, and an `end` that says what became of the attempt."""

    async def take(batch: list[Marked]) -> None:
        await out.write(b"".join(_event(record, str(mark)) for mark, record in batch))

    found = await _attempt(asked, run, name, number, out.heartbeat) if wanted.follow else number
    if found:
        await _pump(_batches(asked, run, name, found, wanted, after), take, out.heartbeat)
    await out.send("end", await _end(asked, run, name, found))


async def _send_text(
    request: web.Request, run: Run, name: str, number: int, wanted: s.LogsQuery, response: web.StreamResponse
) -> None:
    """The exact bytes of the output; a gap shows as a line of its own."""

    async def take(batch: list[Marked]) -> None:
        data = b"".join(_text(record, timestamps=wanted.timestamps) for _mark, record in batch)
        await sse.write(request, response, data)

    async def idle() -> None:
        if sse.has_left(request):
            raise ConnectionResetError("the client has left")

    asked = face(request)
    found = await _attempt(asked, run, name, number, idle) if wanted.follow else number
    if found:
        await _pump(_batches(asked, run, name, found, wanted, None), take, idle)


async def _attempt(asked: Face, run: Run, name: str, number: int, idle: Callable[[], Awaitable[None]]) -> int:
    """Wait until the instance has that attempt (0 = any). Returns its number, 0 where there will be none."""
    replica = asked.service.context.replica
    while True:
        changed = replica.changed()
        run = await asked.service.queries.run(run.id)
        instance = run.instance(name)
        assert instance is not None
        if len(instance.attempts) >= max(1, number):
            return number or len(instance.attempts)
        if instance.final or run.final:
            return 0
        done, _pending = await asyncio.wait([changed], timeout=sse.HEARTBEAT_S)
        if not done:
            await idle()


def _batches(
    asked: Face, run: Run, name: str, number: int, wanted: s.LogsQuery, after: Mark | None
) -> AsyncGenerator[list[Marked], None]:
    def ended() -> bool:
        return not wanted.follow or _ended(asked, run.id, name, number)

    return tailing.batches(
        asked.logs.directory(run.id, name, number),
        number,
        ended=ended,
        since_ns=0 if wanted.since is None else _nanoseconds(wanted.since),
        stream=None if wanted.stream is None else Stream(wanted.stream),
        tail=wanted.tail,
        after=after,
    )


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


def _ended(asked: Face, run_id: str, name: str, number: int) -> bool:
    """Whether nothing more will be written: the worker has let go of the attempt, and the table knows it."""
    if asked.worker.writes(run_id, name, number):
        return False
    run = asked.service.context.replica.run(run_id)
    instance = run.instance(name) if run is not None else None
    if instance is None or len(instance.attempts) < number:
        return True
    return not instance.attempts[number - 1].open


async def _end(asked: Face, run: Run, name: str, number: int) -> s.LogEndEvent:
    run = await asked.service.queries.run(run.id)
    instance = run.instance(name)
    assert instance is not None
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
        refusals=(404, 409),
    ),
)
