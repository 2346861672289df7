"""The cluster, health and metrics over HTTP."""

from __future__ import annotations

from aiohttp import web

from agent.api import schema as s
from agent.api import views
from agent.api.routing import Route, answer, face, read

TERM = 1  # of a cluster of one


async def _cluster(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    asked = face(request)
    replica = asked.service.context.replica
    rows = replica.table.rows
    mirror = asked.mirror()
    agents = [
        s.AgentView(
            id=agent.id,
            address=agent.address,
            role="leader" if agent.id == asked.agent_id else "follower",
            state="lost" if agent.lost else "alive",
            epoch=agent.epoch,
            match=rows.index,
            lag=0,
            version=agent.version,
            http=agent.http,
            slots=agent.slots,
            running=len(replica.table.assigned.get(agent.id, ())),
            executors=list(agent.executors),
        )
        for agent in rows.agents.values()
    ]
    return answer(
        s.ClusterAnswer(
            cluster=rows.cluster,
            generation=rows.generation,
            leader=asked.agent_id,
            term=TERM,
            agents=agents,
            mirror=None if mirror is None else s.MirrorView(behind=mirror.behind, error=mirror.last_error),
            meta=views.meta(asked),
        )
    )


async def _health(request: web.Request) -> web.Response:
    del request
    return answer(s.StatusAnswer(status="alive"))


async def _ready(request: web.Request) -> web.Response:
    reason = face(request).not_ready()
    if reason is not None:
        return answer(s.StatusAnswer(status="not ready", reason=reason), 503, {"Retry-After": "1"})
    return answer(s.StatusAnswer(status="ready"))


async def _metrics(request: web.Request) -> web.Response:
    asked = face(request)
    replica = asked.service.context.replica
    log_bytes = await asked.metrics.log_bytes(asked.logs)
    own = replica.table.rows.agents.get(asked.agent_id)
    slots = own.slots if own is not None else 0
    text, content_type = asked.metrics.render(replica, asked.worker, asked.mirror(), slots=slots, log_bytes=log_bytes)
    return web.Response(body=text, headers={"Content-Type": content_type})


ROUTES = (
    Route(
        method="GET",
        path="/api/v1/cluster",
        name="cluster",
        summary="The cluster as this agent sees it",
        handler=_cluster,
        query=s.ReadQuery,
        answer=s.ClusterAnswer,
    ),
    Route(
        method="GET",
        path="/healthz",
        name="health",
        summary="Whether the agent is alive",
        handler=_health,
        answer=s.StatusAnswer,
    ),
    Route(
        method="GET",
        path="/readyz",
        name="ready",
        summary="Whether the agent takes work; 503 with the reason where not",
        handler=_ready,
        answer=s.StatusAnswer,
    ),
    Route(
        method="GET",
        path="/metrics",
        name="metrics",
        summary="Prometheus metrics",
        handler=_metrics,
        media="text/plain",
    ),
)
