"""Pipelines and the graph of jobs over HTTP."""

from __future__ import annotations

import asyncio
import time

from aiohttp import web

from agent.api import pipeline_schema as p
from agent.api import schema as s
from agent.api import sse, views
from agent.api.auth import caller
from agent.api.routing import Route, answer, body, face, read
from agent.api.runs import run_request
from agent.runtable.model import RUN_FINAL
from agent.service.graph import Graph
from agent.service.pipelines import AcceptedPipeline, Pipeline, Scope


def _view(found: Pipeline, request: web.Request) -> p.PipelineView:
    provisional = face(request).provisional
    runs = [views.run(one, provisional(one.id)) for one in found.runs]
    return p.PipelineView(id=found.id, state=found.state, runs=runs)


def _accepted(done: AcceptedPipeline, request: web.Request, status: int = 200) -> web.Response:
    shown = _view(done.pipeline, request)
    notes = list(done.notes)
    return answer(
        p.AcceptedPipelineAnswer(pipeline=shown, index=done.index, duplicate=done.duplicate, notes=notes), status
    )


def _answer(found: Pipeline, request: web.Request) -> web.Response:
    return answer(p.PipelineAnswer(pipeline=_view(found, request), meta=views.meta(face(request))))


async def _submit(request: web.Request) -> web.Response:
    sent = await body(request, p.PipelineBody, optional=True)
    info = request.match_info
    wanted = run_request(request, sent)
    done = await face(request).service.pipelines.submit(
        info["project"], info["job"], Scope(sent.scope), wanted, caller(request)
    )
    return _accepted(done, request, 202)


async def _show(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    return _answer(await face(request).service.pipelines.show(request.match_info["pipeline"]), request)


async def _wait(request: web.Request) -> web.Response:
    """Long poll: until all its runs have ended, or the time is over."""
    until_s = time.monotonic() + (await read(request, p.PipelineWaitQuery)).timeout
    service = face(request).service
    async with request.app[sse.WAITING].place():
        while True:
            found = await service.pipelines.show(request.match_info["pipeline"])
            left_s = until_s - time.monotonic()
            if found.state in RUN_FINAL or left_s <= 0 or sse.has_left(request):
                return _answer(found, request)
            going = next(run.id for run in found.runs if not run.final)
            await asyncio.wait([service.context.replica.ended(going)], timeout=min(left_s, sse.HEARTBEAT_S))


async def _cancel(request: web.Request) -> web.Response:
    sent = await body(request, p.PipelineCancelBody, optional=True)
    done = await face(request).service.pipelines.cancel(
        request.match_info["pipeline"], caller(request), assume_stopped=sent.assume_stopped, teardown=sent.teardown
    )
    return _accepted(done, request)


async def _retry(request: web.Request) -> web.Response:
    sent = await body(request, s.RetryBody, optional=True)
    done = await face(request).service.pipelines.retry(
        request.match_info["pipeline"],
        caller(request),
        only_failed=sent.only_failed,
        assume_stopped=sent.assume_stopped,
    )
    return _accepted(done, request)


async def _graph(request: web.Request) -> web.Response:
    wanted = await read(request, p.GraphQuery)
    found: Graph = face(request).service.graph.of(
        request.match_info["project"], wanted.job, upstream=wanted.upstream, downstream=wanted.downstream
    )
    return answer(
        p.GraphAnswer(
            nodes=[p.NodeView(id=one.id, kind=one.kind, applied=one.applied) for one in found.nodes],
            edges=[p.EdgeView(job=one.job, on=one.on) for one in found.edges],
            truncated=found.truncated,
        )
    )


_P = "/api/v1/pipelines/{pipeline}"
ROUTES = (
    Route(
        method="POST",
        path="/api/v1/projects/{project}/jobs/{job}/pipelines",
        name="submitPipeline",
        summary="Ask for runs of a job and of those around it; Idempotency-Key is honoured",
        handler=_submit,
        body=p.PipelineBody,
        body_optional=True,
        answer=p.AcceptedPipelineAnswer,
        status=202,
        refusals=(404, 409, 413, 422),
    ),
    Route(
        method="GET",
        path=_P,
        name="showPipeline",
        summary="A pipeline, by its id or a shortened one",
        handler=_show,
        query=s.ReadQuery,
        answer=p.PipelineAnswer,
        refusals=(404, 409, 504),
    ),
    Route(
        method="GET",
        path=f"{_P}/wait",
        name="waitForPipeline",
        summary="A pipeline, once all its runs have ended or the time is over",
        handler=_wait,
        query=p.PipelineWaitQuery,
        answer=p.PipelineAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_P}/cancel",
        name="cancelPipeline",
        summary="End all runs of a pipeline early",
        handler=_cancel,
        body=p.PipelineCancelBody,
        body_optional=True,
        answer=p.AcceptedPipelineAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_P}/retry",
        name="retryPipeline",
        summary="Run again what failed, and what did not succeed below it",
        handler=_retry,
        body=s.RetryBody,
        body_optional=True,
        answer=p.AcceptedPipelineAnswer,
        refusals=(404, 409, 410, 413, 422),
    ),
    Route(
        method="GET",
        path="/api/v1/projects/{project}/graph",
        name="jobGraph",
        summary="Which jobs depend on which, across projects",
        handler=_graph,
        query=p.GraphQuery,
        answer=p.GraphAnswer,
        refusals=(404,),
    ),
)
