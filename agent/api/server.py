"""The HTTP face of an agent, as one aiohttp application."""

from __future__ import annotations

import logging
import time
from typing import Final

from aiohttp import web

from agent.api import catalog, cluster, logs, problems, runs, sse
from agent.api.face import Face
from agent.api.openapi import document
from agent.api.routing import FACE, JOBS_BODY_BYTES_MAX, Route, answer, refuse_foreign

log = logging.getLogger(__name__)

ROUTES: Final[tuple[Route, ...]] = (*catalog.ROUTES, *runs.ROUTES, *logs.ROUTES, *cluster.ROUTES)


def build_app(face: Face) -> web.Application:
    """The application. Every answer is JSON, a problem, an event stream or plain text."""
    app = web.Application(middlewares=[_observe, problems.middleware, _guard], client_max_size=JOBS_BODY_BYTES_MAX + 1)
    app[FACE] = face
    app[sse.FOLLOWERS] = set()
    for route in ROUTES:
        app.router.add_route(route.method, route.path, route.handler)
    openapi = document(ROUTES, face.version)

    async def serve_openapi(request: web.Request) -> web.Response:
        del request
        return answer(openapi)

    app.router.add_get("/openapi.json", serve_openapi)
    return app


@web.middleware
async def _guard(request: web.Request, handler: problems.Handler) -> web.StreamResponse:
    refuse_foreign(request)
    return await handler(request)


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
