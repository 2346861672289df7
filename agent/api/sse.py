"""Server-sent events (WHATWG HTML, 9.2): named events with JSON data, ids to go on from, comments as heartbeats."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from aiohttp import web

from agent.errors import AgentStopped, Refusal

log = logging.getLogger(__name__)

HEARTBEAT_S: Final = 15.0
WRITE_WAIT_S: Final = 60.0  # a client that reads nothing for so long is let go
FOLLOWERS_MAX: Final = 256  # streams of one agent at a time (P12)
WAITING_MAX: Final = 2048  # long polls of one agent at a time
CONTENT_TYPE: Final = "text/event-stream"


class Places:
    """A bounded number of places for requests that last, and the end of all of them when the agent stops."""

    def __init__(self, places_max: int) -> None:
        self.places_max = places_max
        self._taken: set[asyncio.Task[Any]] = set()
        self._closing = asyncio.Event()

    def __len__(self) -> int:
        return len(self._taken)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Take one. Raises Refusal("too_many_followers"), and AgentStopped once the agent stops."""
        task = asyncio.current_task()
        assert task is not None
        if self._closing.is_set():
            raise AgentStopped("the agent is stopping")
        if len(self._taken) >= self.places_max:
            message = f"{self.places_max} clients follow already; ask without following, or later"
            raise Refusal("too_many_followers", message, 429, retry_after_s=10)
        self._taken.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if not self._closing.is_set():
                raise
            task.uncancel()
            raise AgentStopped("the agent is stopping") from None
        finally:
            self._taken.discard(task)

    async def close(self, _app: web.Application) -> None:
        """End all requests that have a place: they get an answer, and the agent need not wait for them."""
        self._closing.set()
        for task in tuple(self._taken):
            task.cancel()


FOLLOWERS: Final = web.AppKey("followers", Places)
WAITING: Final = web.AppKey("waiting", Places)


class EventStream:
    """An open stream of events to one client."""

    def __init__(self, request: web.Request, response: web.StreamResponse) -> None:
        self._request = request
        self._response = response

    async def send(self, event: str, data: object, event_id: str = "") -> None:
        """Send one event."""
        await self.write(encoded(event, data, event_id))

    async def write(self, data: bytes) -> None:
        """Send bytes. Raises ConnectionResetError for a client that has gone, or reads nothing."""
        await write(self._request, self._response, data)

    async def heartbeat(self) -> None:
        """Show that the stream lives."""
        await self.write(b": \n\n")

    async def wait(self, future: asyncio.Future[None]) -> None:
        """Wait for `future`, with heartbeats meanwhile."""
        while True:
            done, _pending = await asyncio.wait([future], timeout=HEARTBEAT_S)
            if done:
                return
            await self.heartbeat()


def encoded(event: str, data: object, event_id: str = "") -> bytes:
    """One event's bytes."""
    head = f"id: {event_id}\n" if event_id else ""
    text = msgspec.json.encode(data).decode()  # JSON holds no raw newline
    return f"{head}event: {event}\ndata: {text}\n\n".encode()


async def stream(request: web.Request, produce: Callable[[EventStream], Awaitable[None]]) -> web.StreamResponse:
    """Open a stream, let `produce` fill it, and close it. Raises Refusal("too_many_followers").

    What fails once it is open ends the stream without an `end` event: the client asks again and is told why.
    """
    headers = {"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"}
    return await lasting(request, headers, lambda response: produce(EventStream(request, response)))


async def lasting(
    request: web.Request, headers: dict[str, str], produce: Callable[[web.StreamResponse], Awaitable[None]]
) -> web.StreamResponse:
    """An answer whose body is made while it is sent. It is broken off, visibly, where making it fails."""
    response = web.StreamResponse(headers=headers)
    try:
        async with request.app[FOLLOWERS].place():
            await response.prepare(request)
            await produce(response)
            await response.write_eof()
    except ConnectionResetError:
        log.debug("a follower has left", extra={"path": request.path})
    except Exception as error:
        if not response.prepared:
            raise
        if not isinstance(error, AgentStopped):
            log.exception("a stream failed", extra={"path": request.path})
        if request.transport is not None:
            request.transport.close()
    return response


async def write(request: web.Request, response: web.StreamResponse, data: bytes) -> None:
    """Send bytes; a client that reads nothing for WRITE_WAIT_S seconds is let go."""
    try:
        async with asyncio.timeout(WRITE_WAIT_S):
            await response.write(data)
    except TimeoutError as error:
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the client reads nothing") from error


def has_left(request: web.Request) -> bool:
    """Whether the client has closed the connection."""
    return request.transport is None or request.transport.is_closing()
