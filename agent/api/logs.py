"""Output of attempts over HTTP: as text, or as server-sent events that can be gone on with."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from agent.api import schema as s
from agent.api import sse
from agent.api.face import Face
from agent.api.routing import Route, face, query
from agent.errors import Refusal
from agent.runtable.model import Run
from agent.store.logs import End
from executors.base import LogLine, Stream
from executors.segments import Gap

CHUNK_BYTES: Final = 64 * 1024
Record = LogLine | Gap | End


async def _logs(request: web.Request) -> web.StreamResponse:
    wanted = query(request, s.LogsQuery)
    asked = face(request)
    run = await asked.service.queries.run(request.match_info["run"])
    name = request.match_info["instance"]
    instance, _attempt = asked.service.queries.find_attempt(run, name, None)
    if wanted.stream not in (None, *Stream):
        raise Refusal("invalid", f"query: stream is stdout or stderr, not {wanted.stream!r}", 400)
    if wanted.follow and wanted.tail is not None:
        raise Refusal("invalid", "query: tail and follow do not go together; use since", 400)
    if wanted.attempt is not None and not wanted.follow:
        asked.service.queries.find_attempt(run, name, wanted.attempt)
    as_events = wanted.follow or sse.CONTENT_TYPE in request.headers.get("Accept", "")
    skip = _resume(request) if as_events else 0
    if wanted.follow:
        async with sse.stream(request) as out:
            number = wanted.attempt or await _first_attempt(asked, run, instance.plan.name, out)
            if number is None:
                await out.send("end", {})
                return out.response
            await _send_events(out, _records(asked, run, name, number, wanted), skip)
            return out.response
    number = wanted.attempt or len(instance.attempts)
    records = _records(asked, run, name, number, wanted) if number else _nothing()
    if as_events:
        async with sse.stream(request) as out:
            await _send_events(out, records, skip)
            return out.response
    return await _send_text(request, records, timestamps=wanted.timestamps)


async def _nothing() -> AsyncIterator[Record]:
    yield End()


async def _first_attempt(asked: Face, run: Run, name: str, out: sse.EventStream) -> int | None:
    """Wait until the instance has an attempt. None = it has ended without one."""
    replica = asked.service.context.replica
    while True:
        changed = replica.changed()
        run = await asked.service.queries.run(run.id)
        instance = run.instance(name)
        assert instance is not None
        if instance.attempts:
            return len(instance.attempts)
        if instance.final or run.final:
            return None
        await out.wait(changed)


async def _records(asked: Face, run: Run, name: str, number: int, wanted: s.LogsQuery) -> AsyncIterator[Record]:
    since_ns = 0 if wanted.since is None else int(wanted.since.timestamp() * 1e9)
    stream = None if wanted.stream is None else Stream(wanted.stream)
    if wanted.tail is not None:
        lines = await asyncio.to_thread(
            lambda: list(asked.logs.read(run.id, name, number, since_ns=since_ns, stream=stream, tail=wanted.tail))
        )
        for line in lines:
            yield line
        yield End()
        return

    def ended() -> bool:
        if not wanted.follow:
            return True
        return _ended(asked, run.id, name, number)

    async with aclosing(asked.logs.follow(run.id, name, number, ended=ended, since_ns=since_ns, stream=stream)) as all_:
        async for record in all_:
            yield record


def _ended(asked: Face, run_id: str, name: str, number: int) -> bool:
    """Whether nothing more will be written: the worker has let go of the attempt, and the table knows it."""
    if asked.worker.writes(run_id, name, number):
        return False
    run = asked.service.context.replica.table.rows.runs.get(run_id)
    instance = run.instance(name) if run is not None else None
    if instance is None or len(instance.attempts) < number:
        return True
    return not instance.attempts[number - 1].open


def _resume(request: web.Request) -> int:
    """How many records the client has, by its Last-Event-ID."""
    text = request.headers.get("Last-Event-ID", "0")
    return int(text) if text.isdecimal() and len(text) < 16 else 0


async def _send_events(out: sse.EventStream, records: AsyncIterator[Record], skip: int) -> None:
    count = 0
    pending = asyncio.ensure_future(anext(records))
    try:
        while True:
            done, _waiting = await asyncio.wait([pending], timeout=sse.HEARTBEAT_S)
            if not done:
                await out.heartbeat()
                continue
            record = pending.result()
            if isinstance(record, End):
                await out.send("end", {})
                return
            count += 1
            if count > skip:
                await _send_event(out, record, str(count))
            pending = asyncio.ensure_future(anext(records))
    finally:
        pending.cancel()
        await asyncio.gather(pending, return_exceptions=True)
        if hasattr(records, "aclose"):
            await records.aclose()


async def _send_event(out: sse.EventStream, record: LogLine | Gap, event_id: str) -> None:
    if isinstance(record, Gap):
        await out.send("gap", {"missing_segments": record.missing_segments}, event_id)
        return
    line: dict[str, object] = {
        "time": timestamp(record.time_ns),
        "stream": record.stream,
        "text": record.data.decode(errors="replace"),
        "partial": record.partial,
    }
    try:
        record.data.decode()
    except UnicodeDecodeError:
        line["base64"] = base64.b64encode(record.data).decode()
    await out.send("line", line, event_id)


async def _send_text(request: web.Request, records: AsyncIterator[Record], *, timestamps: bool) -> web.StreamResponse:
    """The exact bytes of the output; a gap shows as a line of its own."""
    response = web.StreamResponse(headers={"Content-Type": "text/plain; charset=utf-8"})
    await response.prepare(request)
    chunk = bytearray()
    async for record in records:
        chunk += _text(record, timestamps=timestamps)
        if len(chunk) >= CHUNK_BYTES:
            await response.write(bytes(chunk))
            chunk.clear()
    await response.write(bytes(chunk))
    await response.write_eof()
    return response


def _text(record: Record, *, timestamps: bool) -> bytes:
    if isinstance(record, End):
        return b""
    if isinstance(record, Gap):
        return f"--- output is missing here: {record.missing_segments} segments ---\n".encode()
    head = f"{timestamp(record.time_ns)} {record.stream} ".encode() if timestamps else b""
    return head + record.data + (b"" if record.partial and not timestamps else b"\n")


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
        refusals=(404, 409),
    ),
)
