"""The cluster, health and metrics over HTTP."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from aiohttp import web

from agent.api import schema as s
from agent.api import sse, views
from agent.api.face import Face
from agent.api.routing import Route, answer, body, catch_up, face, query, read
from agent.cluster import snapshot
from agent.cluster.steward import Contact
from agent.errors import Refusal
from agent.replica import Replica
from agent.runtable.model import Agent, LeaseTerms

SILENT_MS: Final = 2_000
SNAPSHOT_TYPE: Final = "application/octet-stream"


async def _cluster(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    asked = face(request)
    replica = asked.service.context.replica
    rows = replica.table.rows
    mirror = asked.mirror()
    seen = await asked.seen()
    contacts = {one.node: one for one in seen.contacts} if seen is not None else {}
    last = seen.last if seen is not None else rows.index
    led = views.leader(asked) is not None
    agents = []
    for agent in rows.agents.values():
        contact = contacts.get(agent.node)
        match = contact.match if contact is not None else rows.index if agent.id == asked.agent_id else 0
        agents.append(
            s.AgentView(
                id=agent.id,
                address=agent.address,
                role=_role(replica, agent),
                state=_state(agent, contact, known=led or agent.id == asked.agent_id),
                epoch=agent.epoch,
                match=match,
                lag=max(0, last - match),
                version=agent.version,
                level=agent.level,
                clock_ahead=contact.ahead_ms / 1000 if contact is not None and contact.ahead_ms is not None else None,
                http=agent.http,
                slots=agent.slots,
                running=len(replica.table.assigned.get(agent.id, ())),
                executors=list(agent.executors),
                labels=agent.labels,
            )
        )
    return answer(
        s.ClusterAnswer(
            cluster=rows.cluster,
            generation=rows.generation,
            leader=views.leader(asked),
            term=replica.term,
            level=rows.level,
            agents=agents,
            leases=_lease_terms(rows.leases.terms),
            mirror=None if mirror is None else s.MirrorView(behind=mirror.behind, error=mirror.last_error),
            meta=views.meta(asked),
        )
    )


def _role(replica: Replica, agent: Agent) -> str:
    """What it is for the log. An agent whose vote or copy is being arranged has none yet."""
    config = replica.driver.node.config
    if agent.node and agent.node == replica.driver.node.leader:
        return "leader"
    if agent.node in config.voters.incoming | config.voters.outgoing:
        return "follower"
    return "standby" if agent.node in config.learners else "joining"


async def silent_ms(asked: Face) -> dict[str, int]:
    """By agent, for how long the leader has not heard it, where that is long; nothing where no leader says."""
    seen = await asked.seen()
    silent = {one.node: one.silent_ms for one in seen.contacts if one.silent_ms > SILENT_MS} if seen is not None else {}
    agents = asked.service.context.replica.table.rows.agents.values()
    return {agent.id: silent[agent.node] for agent in agents if agent.node in silent and not agent.lost}


def _state(agent: Agent, contact: Contact | None, *, known: bool) -> str:
    """known: whether there is a leader, who would say so if it did not hear that agent."""
    if agent.lost:
        return "lost"
    if not known:
        return "unknown"
    if contact is not None and contact.silent_ms > SILENT_MS:
        return "silent"
    return "draining" if agent.draining else "alive"


async def _archived(request: web.Request) -> web.Response:
    """How far an agent's output is archived, as it says itself."""
    asked, name = face(request), request.match_info["agent"]
    row = asked.service.agents.agent(name)
    if row.lost or name in await silent_ms(asked):
        raise Refusal("agent_away", f"agent {name} is not heard: it cannot say what output it has", 409)
    state = await (asked.archiver.state() if name == asked.agent_id else asked.archiver.ask(row.node))
    return answer(
        s.ArchivedView(
            agent=name,
            configured=state.configured,
            outputs=state.outputs,
            backlog=state.backlog,
            error=state.error or None,
        )
    )


async def _drain(request: web.Request) -> web.Response:
    sent = await body(request, s.DrainBody, optional=True)
    return answer(views.applied(await face(request).service.agents.drain(request.match_info["agent"], on=sent.on)))


async def _remove(request: web.Request) -> web.Response:
    return answer(views.applied(await face(request).service.agents.remove(request.match_info["agent"])))


async def _transfer(request: web.Request) -> web.Response:
    sent = await body(request, s.TransferBody)
    agent = await face(request).service.agents.transfer(sent.to)
    return answer(s.AppliedView(index=face(request).service.context.replica.applied_index, names=[agent.id]))


async def _set_leases(request: web.Request) -> web.Response:
    sent = await body(request, s.LeasesBody)
    now = _lease_terms(face(request).service.context.replica.table.rows.leases.terms)
    wanted = [getattr(now if getattr(sent, name) is None else sent, name) for name in ("ttl", "stop", "kill", "rho")]
    terms = LeaseTerms(*(round(1000 * one) for one in wanted))
    return answer(views.applied(await face(request).service.agents.set_lease_terms(terms)))


def _lease_terms(terms: LeaseTerms) -> s.LeaseTermsView:
    return s.LeaseTermsView(*(one / 1000 for one in (terms.ttl_ms, terms.stop_ms, terms.kill_ms, terms.rho_permille)))


class SnapshotQuery(s.Request, frozen=True):
    """history: with the finished runs, and the blobs they name."""

    history: bool = False


async def _snapshot(request: web.Request) -> web.StreamResponse:
    """All that the cluster knows, secrets as they are encrypted among it: for an admin alone (P8)."""
    wanted = query(request, SnapshotQuery)
    context = face(request).service.context
    await catch_up(context.replica)

    async def send(response: web.StreamResponse) -> None:
        async with aclosing(snapshot.stream(context, face(request).version, history=wanted.history)) as pieces:
            async for piece in pieces:
                await sse.write(request, response, piece)

    return await sse.lasting(request, {"Content-Type": SNAPSHOT_TYPE, "Cache-Control": "no-store"}, send)


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
    text, content_type = asked.metrics.render(
        replica, asked.worker, asked.mirror(), slots=slots, log_bytes=log_bytes, archive=asked.archiver
    )
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
        method="POST",
        path="/api/v1/cluster/agents/{agent}/drain",
        name="drainAgent",
        summary="Give an agent nothing more, or something again",
        handler=_drain,
        body=s.DrainBody,
        body_optional=True,
        answer=s.AppliedView,
        refusals=(404,),
    ),
    Route(
        method="GET",
        path="/api/v1/cluster/agents/{agent}/archive",
        name="agentArchive",
        summary="How far an agent's output is archived",
        handler=_archived,
        answer=s.ArchivedView,
        refusals=(404, 409),
    ),
    Route(
        method="DELETE",
        path="/api/v1/cluster/agents/{agent}",
        name="removeAgent",
        summary="Take an agent out of the cluster, for ever",
        handler=_remove,
        answer=s.AppliedView,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path="/api/v1/cluster/transfer",
        name="transfer",
        summary="Let another agent lead",
        handler=_transfer,
        body=s.TransferBody,
        answer=s.AppliedView,
        refusals=(404, 409),
    ),
    Route(
        method="PUT",
        path="/api/v1/cluster/leases",
        name="setLeases",
        summary="For how long agents may run work without hearing from a leader",
        handler=_set_leases,
        body=s.LeasesBody,
        answer=s.AppliedView,
    ),
    Route(
        method="GET",
        path="/api/v1/cluster/snapshot",
        name="clusterSnapshot",
        summary="All that the cluster holds now, for `prime cluster snapshot restore`",
        handler=_snapshot,
        query=SnapshotQuery,
        media=SNAPSHOT_TYPE,
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
