"""Runs over HTTP: ask for one, look at it, end it, run it again."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agent.api import schema as s
from agent.api import sse, views
from agent.api.auth import caller
from agent.api.catalog import job_file
from agent.api.cluster import silent_ms
from agent.api.logs import last_lines
from agent.api.routing import JOBS_BODY_BYTES_MAX, Route, answer, body, face, read
from agent.errors import Refusal
from agent.runtable.model import InstanceKind, Run
from agent.service import RunRequest
from agent.store.errors import HistoryError
from agent.store.history import RunFilter, decode_cursor

_UNPRINTABLE = re.compile(r"[^\x20-\x7e]")


def run_request(request: web.Request, sent: s.RunBody | s.FileRunBody) -> RunRequest:
    """What a run is asked for with."""
    canonical = msgspec.json.encode([request.path, msgspec.to_builtins(sent)], order="sorted")
    return RunRequest(
        scheduled_at=sent.scheduled_at,
        config=sent.config,
        key=idempotency_key(request),
        body_hash=hashlib.sha256(canonical).hexdigest(),
        params=sent.params,
        check_dependencies=isinstance(sent, s.RunBody) and sent.check_dependencies,
    )


def idempotency_key(request: web.Request) -> str:
    """The header Idempotency-Key, "" where there is none. Raises Refusal("invalid")."""
    keys: list[str] = request.headers.getall("Idempotency-Key", [])
    if len(keys) > 1:
        raise Refusal("invalid", "the header Idempotency-Key is given twice; which request is meant?", 400)
    key = keys[0] if keys else ""
    if _UNPRINTABLE.search(key):
        raise Refusal("invalid", "an Idempotency-Key has printable ASCII characters only", 400)
    return key


async def _submit(request: web.Request) -> web.Response:
    sent = await body(request, s.RunBody, optional=True)
    info = request.match_info
    wanted = run_request(request, sent)
    done = await face(request).service.runs.submit(info["project"], info["job"], wanted, caller(request))
    return answer(views.accepted(done), 202)


async def _submit_file(request: web.Request) -> web.Response:
    sent = await body(request, s.FileRunBody, JOBS_BODY_BYTES_MAX)
    info = request.match_info
    wanted = run_request(request, sent)
    file = job_file(sent.spec)
    service = face(request).service
    done = await service.runs.submit_file(info["project"], info["namespace"], file, wanted, caller(request))
    return answer(views.accepted(done), 202)


async def _find(request: web.Request) -> Run:
    return await face(request).service.queries.run(request.match_info["run"])


async def _show(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    run, asked = await _find(request), face(request)
    params = await asked.service.queries.params(run)
    view = views.run(run, asked.provisional(run.id))
    return answer(s.RunDetailAnswer(run=view, meta=views.meta(asked), params=params))


async def _list(request: web.Request) -> web.Response:
    wanted = await read(request, s.RunsQuery)
    if wanted.cursor is not None:
        _check_cursor(wanted.cursor)
    queries = face(request).service.queries
    replay = None if wanted.replay is None else face(request).service.replays.find(wanted.replay)
    like = RunFilter(
        project=wanted.project,
        namespace=wanted.namespace,
        job=wanted.job,
        state=wanted.state,
        origin=wanted.origin,
        since_ms=_ms(wanted.since),
        until_ms=_ms(wanted.until),
    )
    page = await queries.page(like, wanted.limit, wanted.cursor, replay)
    why = "" if page.runs else await queries.no_such_job(like)
    runs = [views.run(one, face(request).provisional(one.id)) for one in page.runs]
    meta, holes = views.meta(face(request)), face(request).service.context.replica.history.holes
    notes = [why] if why else []
    return answer(s.RunsAnswer(runs=runs, next_cursor=page.next_cursor, meta=meta, incomplete=bool(holes), notes=notes))


def _check_cursor(cursor: str) -> None:
    try:
        decode_cursor(cursor)
    except HistoryError as error:
        raise Refusal("invalid", f"query: {error}", 422) from error


def _ms(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1000)


async def _wait(request: web.Request) -> web.Response:
    """Long poll: until the run has ended, or the time is over."""
    until_s = time.monotonic() + (await read(request, s.WaitQuery)).timeout
    replica = face(request).service.context.replica
    async with request.app[sse.WAITING].place():
        while True:
            run = await _find(request)
            left_s = until_s - time.monotonic()
            if run.final or left_s <= 0 or sse.has_left(request):
                return answer(s.RunAnswer(run=views.run(run), meta=views.meta(face(request))))
            await asyncio.wait([replica.ended(run.id)], timeout=min(left_s, sse.HEARTBEAT_S))


async def _events(request: web.Request) -> web.StreamResponse:
    """The run whenever it has changed, until it has ended."""
    await read(request, s.ReadQuery)
    run_id = (await _find(request)).id
    replica, queries = face(request).service.context.replica, face(request).service.queries

    async def produce(out: sse.EventStream) -> None:
        sent: s.RunView | None = None
        while True:
            changed = replica.changed()
            run = await queries.run(run_id)
            view = views.run(run)
            if view != sent:
                await out.send("run", view)
                sent = view
            if run.final:
                await out.send("end", s.RunEndEvent(state=run.state))
                return
            await out.wait(changed)

    return await sse.stream(request, produce)


async def _cancel(request: web.Request) -> web.Response:
    sent = await body(request, s.CancelBody, optional=True)
    run = await _find(request)
    done = await face(request).service.runs.cancel(
        run.id, caller(request), assume_stopped=sent.assume_stopped, teardown=sent.teardown
    )
    return answer(views.accepted(done))


async def _retry(request: web.Request) -> web.Response:
    sent = await body(request, s.RetryBody, optional=True)
    run = await _find(request)
    if sent.downstream:
        below = await face(request).service.pipelines.retry_downstream(
            run.id, caller(request), only_failed=sent.only_failed, assume_stopped=sent.assume_stopped
        )
        return answer(s.AcceptedAnswer(run=views.run(await _find(request)), index=below.index))
    done = await face(request).service.runs.retry(
        run.id, caller(request), only_failed=sent.only_failed, assume_stopped=sent.assume_stopped
    )
    return answer(views.accepted(done))


async def _clear(request: web.Request) -> web.Response:
    sent = await body(request, s.ClearBody, optional=True)
    run = await _find(request)
    task = [one.plan.name for one in run.instances if sent.task and one.plan.kind is InstanceKind.TASK]
    done = await face(request).service.runs.clear(
        run.id,
        caller(request),
        instances=[*sent.instances, *task],
        downstream=sent.downstream,
        only_failed=sent.only_failed,
        assume_stopped=sent.assume_stopped,
    )
    return answer(views.accepted(done))


async def _mark(request: web.Request) -> web.Response:
    sent = await body(request, s.MarkBody)
    run = await _find(request)
    done = await face(request).service.runs.mark(
        run.id, sent.instance, sent.state, caller(request), assume_stopped=sent.assume_stopped
    )
    return answer(views.accepted(done))


async def _assets(request: web.Request) -> web.Response:
    wanted = await read(request, s.AssetsQuery)
    queries = face(request).service.queries
    found = await queries.assets(request.match_info["run"], wanted.instance, wanted.attempt)
    return answer(s.AssetsAnswer(assets=[_assets_view(one) for one in found]))


def _assets_view(found: dict[str, Any]) -> s.AssetsView:
    return msgspec.convert(found, s.AssetsView)


async def _outputs(request: web.Request) -> web.Response:
    wanted = await read(request, s.AssetsQuery)
    queries = face(request).service.queries
    found = await queries.outputs(request.match_info["run"], wanted.instance, wanted.attempt)
    return answer(s.OutputsAnswer(outputs=[msgspec.convert(one, s.OutputsView) for one in found]))


async def _explain(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    asked = face(request)
    found = await asked.service.queries.explain(request.match_info["run"], partial(silent_ms, asked))
    run, explanations, gates = found
    return answer(
        s.ExplainAnswer(
            run=views.run(run),
            explanations=[views.explanation(one) for one in explanations],
            gates=[views.gate_explanation(one) for one in gates],
        )
    )


async def _diff(request: web.Request) -> web.Response:
    against = (await read(request, s.DiffQuery)).against
    asked = face(request)
    found = await asked.service.queries.diff(request.match_info["run"], against, partial(last_lines, asked))
    return answer(msgspec.convert(found, s.DiffAnswer))


async def _report(request: web.Request) -> web.Response:
    sent = await body(request, s.ReportBody)
    info = request.match_info
    done = await face(request).service.runs.report(
        info["project"], info["job"], sent.scheduled_at, sent.state, caller(request)
    )
    return answer(views.accepted(done))


_R = "/api/v1/runs/{run}"
ROUTES = (
    Route(
        method="POST",
        path="/api/v1/projects/{project}/jobs/{job}/runs",
        name="submitRun",
        summary="Ask for a run of an applied job; Idempotency-Key is honoured",
        handler=_submit,
        body=s.RunBody,
        body_optional=True,
        answer=s.AcceptedAnswer,
        status=202,
        refusals=(404, 409, 422),
    ),
    Route(
        method="POST",
        path="/api/v1/projects/{project}/namespaces/{namespace}/runs",
        name="submitFile",
        summary="Ask for a run of a job that was never applied",
        handler=_submit_file,
        body=s.FileRunBody,
        answer=s.AcceptedAnswer,
        status=202,
        refusals=(404, 409, 422),
        body_bytes_max=JOBS_BODY_BYTES_MAX,
    ),
    Route(
        method="POST",
        path="/api/v1/projects/{project}/jobs/{job}/imported",
        name="importRun",
        summary="Tell how another scheduler's run of a job for a tick has ended; the job need not be known here",
        handler=_report,
        body=s.ReportBody,
        answer=s.AcceptedAnswer,
        refusals=(404, 422),
    ),
    Route(
        method="GET",
        path="/api/v1/runs",
        name="listRuns",
        summary="Runs, newest first",
        handler=_list,
        query=s.RunsQuery,
        answer=s.RunsAnswer,
        refusals=(404, 409, 422),
    ),
    Route(
        method="GET",
        path=_R,
        name="showRun",
        summary="A run, by its id or a shortened one",
        handler=_show,
        query=s.ReadQuery,
        answer=s.RunDetailAnswer,
        refusals=(404, 409, 504),
    ),
    Route(
        method="GET",
        path=f"{_R}/wait",
        name="waitForRun",
        summary="A run, once it has ended or the time is over",
        handler=_wait,
        query=s.WaitQuery,
        answer=s.RunAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="GET",
        path=f"{_R}/events",
        name="followRun",
        summary="Server-sent events: `run` whenever it has changed, `end`",
        handler=_events,
        query=s.ReadQuery,
        media="",
        events=(("run", s.RunView), ("end", s.RunEndEvent)),
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_R}/cancel",
        name="cancelRun",
        summary="End a run early",
        handler=_cancel,
        body=s.CancelBody,
        body_optional=True,
        answer=s.AcceptedAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_R}/retry",
        name="retryRun",
        summary="Run again what did not succeed",
        handler=_retry,
        body=s.RetryBody,
        body_optional=True,
        answer=s.AcceptedAnswer,
        refusals=(404, 409, 410, 422),
    ),
    Route(
        method="POST",
        path=f"{_R}/clear",
        name="clearRun",
        summary="Run instances again, whatever became of them",
        handler=_clear,
        body=s.ClearBody,
        body_optional=True,
        answer=s.AcceptedAnswer,
        refusals=(404, 409, 410, 422),
    ),
    Route(
        method="POST",
        path=f"{_R}/mark",
        name="markInstance",
        summary="Give an unfinished instance, or all of them, a result by hand",
        handler=_mark,
        body=s.MarkBody,
        answer=s.AcceptedAnswer,
        refusals=(404, 409, 422),
    ),
    Route(
        method="GET",
        path=f"{_R}/assets",
        name="runAssets",
        summary="What exactly was rendered, secrets redacted",
        handler=_assets,
        query=s.AssetsQuery,
        answer=s.AssetsAnswer,
        refusals=(404, 409, 410),
    ),
    Route(
        method="GET",
        path=f"{_R}/outputs",
        name="runOutputs",
        summary="What attempts have put out for later instances",
        handler=_outputs,
        query=s.AssetsQuery,
        answer=s.OutputsAnswer,
        refusals=(404, 409, 410),
    ),
    Route(
        method="GET",
        path=f"{_R}/explain",
        name="explainRun",
        summary="Why a run is where it is",
        handler=_explain,
        query=s.ReadQuery,
        answer=s.ExplainAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="GET",
        path=f"{_R}/diff",
        name="diffRun",
        summary="What differs between a run and another",
        handler=_diff,
        query=s.DiffQuery,
        answer=s.DiffAnswer,
        refusals=(404, 409, 410),
    ),
)
