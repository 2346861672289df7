"""Server-sent events (WHATWG HTML, 9.2): named events with JSON data, ids to go on from, comments as heartbeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

from agent.errors import Refusal

HEARTBEAT_S: Final = 15.0
FOLLOWERS_MAX: Final = 256  # of one agent at a time (P12)
FOLLOWERS: Final = web.AppKey("followers", set[int])
CONTENT_TYPE: Final = "text/event-stream"


class EventStream:
    """An open stream of events to one client."""

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response

    async def send(self, event: str, data: object, event_id: str = "") -> None:
        """Send one event."""
        head = f"id: {event_id}\n" if event_id else ""
        text = msgspec.json.encode(data).decode()  # JSON holds no raw newline
        await self.response.write(f"{head}event: {event}\ndata: {text}\n\n".encode())

    async def heartbeat(self) -> None:
        """Show that the stream lives."""
        await self.response.write(b": \n\n")

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Wait for `future`, with heartbeats meanwhile."""
        while True:
            done, _pending = await asyncio.wait([future], timeout=HEARTBEAT_S)
            if done:
                return
            await self.heartbeat()


@asynccontextmanager
async def stream(request: web.Request) -> AsyncIterator[EventStream]:
    """Open a stream. Raises Refusal("too_many_followers")."""
    async with follower(request):
        response = web.StreamResponse(headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"})
        await response.prepare(request)
        yield EventStream(response)


@asynccontextmanager
async def follower(request: web.Request) -> AsyncIterator[None]:
    """One place among those that may follow at a time."""
    followers = request.app[FOLLOWERS]
    if len(followers) >= FOLLOWERS_MAX:
        message = f"{FOLLOWERS_MAX} clients follow already; ask without follow, or later"
        raise Refusal("too_many_followers", message, 429, retry_after_s=10)
    mark = id(request)
    followers.add(mark)
    try:
        yield
    finally:
        followers.discard(mark)
