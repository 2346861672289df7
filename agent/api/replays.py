"""Replays over HTTP: planned, asked for, looked at, ended, resumed."""

from __future__ import annotations

import asyncio
import hashlib
import time

import msgspec
from aiohttp import web

from agent.api import replay_schema as r
from agent.api import schema as s
from agent.api import sse, views
from agent.api.auth import caller
from agent.api.routing import Route, answer, body, face, read
from agent.api.runs import idempotency_key
from agent.runtable.replay_rows import Replay
from agent.service import ReplayRequest
from agent.service.replays import AcceptedReplay, Replays


def _replays(request: web.Request) -> Replays:
    return face(request).service.replays


def view(replays: Replays, row: Replay) -> r.ReplayView:
    """A replay, with what it waits for."""
    plan, told = row.plan, replays.explain(row)
    return r.ReplayView(
        id=row.id,
        project=plan.project,
        job=plan.job,
        start=views.moment(plan.first_ms),
        end=views.moment(plan.last_ms),
        state=row.state,
        ticks=plan.total,
        made=row.made,
        passed=row.passed,
        counts=dict(row.counts),
        runs=list(replays.unfinished(row)),
        cursor=views.maybe(row.cursor),
        round=row.round,
        parallel=plan.parallel,
        reverse=plan.reverse,
        stop_on_failure=plan.stop_on_failure,
        reprocess=plan.reprocess,
        check_dependencies=plan.gated,
        requested_by=row.who,
        via=row.via,
        created_at=views.moment(row.created_at_ms),
        finished_at=views.maybe(row.finished_at_ms),
        cancelled_by=row.cancelled_by,
        why=told.why,
        since=views.maybe(told.since_ms),
        until=views.maybe(told.until_ms),
        audit=[views.audit(one) for one in row.audit],
    )


def _accepted(request: web.Request, done: AcceptedReplay, status: int = 200) -> web.Response:
    shown = view(_replays(request), done.replay)
    return answer(
        r.AcceptedReplayAnswer(replay=shown, index=done.index, duplicate=done.duplicate, notes=list(done.notes)), status
    )


def _asked(request: web.Request, sent: r.ReplayBody) -> ReplayRequest:
    canonical = msgspec.json.encode([request.path, msgspec.to_builtins(sent)], order="sorted")
    return ReplayRequest(
        project=sent.project,
        job=sent.job,
        start=sent.start,
        end=sent.end,
        reverse=sent.reverse,
        parallel=sent.parallel,
        stop_on_failure=sent.stop_on_failure,
        reprocess=sent.reprocess,
        check_dependencies=sent.check_dependencies,
        config=sent.config,
        params=sent.params,
        key=idempotency_key(request),
        body_hash=hashlib.sha256(canonical).hexdigest(),
    )


async def _create(request: web.Request) -> web.Response:
    sent = await body(request, r.ReplayBody)
    return _accepted(request, await _replays(request).create(_asked(request, sent), caller(request)), 202)


async def _plan(request: web.Request) -> web.Response:
    sent = await body(request, r.ReplayBody)
    found = await _replays(request).plan(_asked(request, sent))
    ticks = [
        r.PlannedTickView(
            scheduled_at=one.at,
            window=r.WindowView(start=one.window[0], end=one.window[1]),
            run=one.run,
            why=one.why,
        )
        for one in found.ticks
    ]
    return answer(r.PlanAnswer(total=found.total, ticks=ticks, refused=found.obstacle, notes=list(found.notes)))


async def _list(request: web.Request) -> web.Response:
    wanted = await read(request, r.ReplaysQuery)
    replays = _replays(request)
    found = replays.list(wanted.project, wanted.job, wanted.state, wanted.limit)
    return answer(r.ReplaysAnswer(replays=[view(replays, one) for one in found], meta=views.meta(face(request))))


def _find(request: web.Request) -> Replay:
    return _replays(request).find(request.match_info["replay"])


def _shown(request: web.Request, row: Replay) -> web.Response:
    return answer(r.ReplayAnswer(replay=view(_replays(request), row), meta=views.meta(face(request))))


async def _show(request: web.Request) -> web.Response:
    await read(request, s.ReadQuery)
    return _shown(request, _find(request))


async def _wait(request: web.Request) -> web.Response:
    """Long poll: until the replay has ended, or the time is over."""
    until_s = time.monotonic() + (await read(request, s.WaitQuery)).timeout
    replica = face(request).service.context.replica
    async with request.app[sse.WAITING].place():
        while True:
            changed = replica.changed()
            row = _find(request)
            left_s = until_s - time.monotonic()
            if row.final or left_s <= 0 or sse.has_left(request):
                return _shown(request, row)
            await asyncio.wait([changed], timeout=min(left_s, sse.HEARTBEAT_S))


async def _cancel(request: web.Request) -> web.Response:
    sent = await body(request, r.CancelReplayBody, optional=True)
    return _accepted(
        request,
        await _replays(request).cancel(
            request.match_info["replay"], caller(request), assume_stopped=sent.assume_stopped
        ),
    )


async def _resume(request: web.Request) -> web.Response:
    sent = await body(request, r.ResumeReplayBody, optional=True)
    done = await _replays(request).resume(request.match_info["replay"], caller(request), failed=sent.failed)
    return _accepted(request, done)


_R = "/api/v1/replays"
_ONE = f"{_R}/{{replay}}"
ROUTES = (
    Route(
        method="POST",
        path=_R,
        name="createReplay",
        summary="Run an applied job again over its past ticks; Idempotency-Key is honoured",
        handler=_create,
        body=r.ReplayBody,
        answer=r.AcceptedReplayAnswer,
        status=202,
        refusals=(404, 409, 422),
    ),
    Route(
        method="POST",
        path="/api/v1/replay-plans",
        name="planReplay",
        summary="What a replay would do; nothing is changed",
        handler=_plan,
        body=r.ReplayBody,
        answer=r.PlanAnswer,
        refusals=(404, 409, 422),
    ),
    Route(
        method="GET",
        path=_R,
        name="listReplays",
        summary="Replays, newest first",
        handler=_list,
        query=r.ReplaysQuery,
        answer=r.ReplaysAnswer,
    ),
    Route(
        method="GET",
        path=_ONE,
        name="showReplay",
        summary="A replay, by its id or a shortened one, and what it waits for",
        handler=_show,
        query=s.ReadQuery,
        answer=r.ReplayAnswer,
        refusals=(404, 409, 504),
    ),
    Route(
        method="GET",
        path=f"{_ONE}/wait",
        name="waitForReplay",
        summary="A replay, once it has ended or the time is over",
        handler=_wait,
        query=s.WaitQuery,
        answer=r.ReplayAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/cancel",
        name="cancelReplay",
        summary="Make no run more of a replay, and end those that go on",
        handler=_cancel,
        body=r.CancelReplayBody,
        body_optional=True,
        answer=r.AcceptedReplayAnswer,
        refusals=(404, 409),
    ),
    Route(
        method="POST",
        path=f"{_ONE}/resume",
        name="resumeReplay",
        summary="Let a replay that has ended go on",
        handler=_resume,
        body=r.ResumeReplayBody,
        body_optional=True,
        answer=r.AcceptedReplayAnswer,
        refusals=(404, 409),
    ),
)
