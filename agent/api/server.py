"""The HTTP face of an agent, as one aiohttp application."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
from aiohttp import web

from agent.api import auth, catalog, cluster, events, logs, pipelines, problems, replays, runs, sse, views
from agent.api.face import Face
from agent.api.openapi import document
from agent.api.routing import BODY_BYTES_MAX, FACE, READS, Route, catch_up, query
from agent.api.schema import NoQuery
from agent.errors import Refusal

log = logging.getLogger(__name__)

LARGE_BODIES_MAX: Final = 2  # held in memory at a time
LARGE_WAIT_S: Final = 60.0
LARGE: Final = web.AppKey("large", asyncio.Semaphore)
HEAD_TOO: Final = frozenset({"health", "ready", "openapi"})  # load balancers ask so
LOOKED_UP: Final = frozenset({"unknown_run", "unknown_pipeline"})  # linearizably, before they are refused
STALE: Final = "Prime-Stale"  # milliseconds: what is told may be so old, for no leader is heard
OPENAPI: Final = web.AppKey("openapi", bytes)


def build_app(face: Face) -> web.Application:
    """The application. Every answer is JSON, a problem, an event stream or plain text."""
    app = web.Application(middlewares=[_observe, problems.middleware, _guard])
    app[FACE] = face
    app.on_response_prepare.append(_say_how_old)
    for key, places_max in ((sse.FOLLOWERS, sse.FOLLOWERS_MAX), (sse.WAITING, sse.WAITING_MAX)):
        app[key] = sse.Places(places_max)
        app.on_shutdown.append(app[key].close)
    app[LARGE] = asyncio.Semaphore(LARGE_BODIES_MAX)
    app[OPENAPI] = msgspec.json.encode(document(ROUTES, face.version))
    for route in ROUTES:
        app.router.add_route(route.method, route.path, _handler(route))
        if route.name in HEAD_TOO:
            app.router.add_route("HEAD", route.path, _handler(route))
    return app


def _handler(route: Route) -> problems.Handler:
    """The route's own handler, behind what all have in common."""

    async def handle(request: web.Request) -> web.StreamResponse:
        if route.query is NoQuery:
            query(request, NoQuery)
        if route.body_bytes_max <= BODY_BYTES_MAX or (request.content_length or BODY_BYTES_MAX + 1) <= BODY_BYTES_MAX:
            return await route.handler(request)
        async with _room(request.app[LARGE]):
            return await route.handler(request)

    return handle


@asynccontextmanager
async def _room(large: asyncio.Semaphore) -> AsyncIterator[None]:
    """Few large bodies are in memory at a time; the others wait, unread (P12)."""
    try:
        async with asyncio.timeout(LARGE_WAIT_S):
            await large.acquire()
    except TimeoutError as error:
        raise Refusal("overloaded", "other large requests are being read; try again", 429, retry_after_s=5) from error
    try:
        yield
    finally:
        large.release()


async def _serve_openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[OPENAPI], content_type="application/json")


ROUTES: Final[tuple[Route, ...]] = (
    *catalog.ROUTES,
    *runs.ROUTES,
    *pipelines.ROUTES,
    *replays.ROUTES,
    *logs.ROUTES,
    *events.ROUTES,
    *cluster.ROUTES,
    *auth.ROUTES,
    Route(
        method="GET",
        path="/openapi.json",
        name="openapi",
        summary="This document",
        handler=_serve_openapi,
        answer=dict,
    ),
)


@web.middleware
async def _guard(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    await auth.admit(request)
    replica = request.app[FACE].service.context.replica
    if replica.leads or auth.needed(request) is None:
        return await handler(request)
    if request.method not in READS:
        await catch_up(replica)  # what is written is checked against the table: as it is, not as it was (P6)
        await auth.admit(request)  # a token as well
        return await handler(request)
    try:
        return await handler(request)
    except Refusal as refusal:
        if refusal.status != 404 or refusal.code in {
            "unknown_run",
            "unknown_pipeline",
        }:  # that was looked up so already
            raise
    await catch_up(replica)  # what is not here may have come to be at another agent (P6)
    return await handler(request)


async def _say_how_old(request: web.Request, response: web.StreamResponse) -> None:
    """On the answer to a read, where this agent hears no leader (P6)."""
    face = request.app[FACE]
    if request.method == "GET" and response.status < 400 and auth.needed(request) is not None:
        meta = views.meta(face)
        if meta.leader is None:
            response.headers[STALE] = str(meta.age_ms)


@web.middleware
async def _observe(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    """One log line and one count a request; the route, not the path, so that names stay few and hold no secret."""
    begin_s = time.monotonic()
    response = await handler(request)
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    took_s = time.monotonic() - begin_s
    request.app[FACE].metrics.request(request.method, route, response.status, took_s)
    log.debug(
        "request",
        extra={"method": request.method, "route": route, "status": response.status, "ms": round(took_s * 1000)},
    )
    return response
