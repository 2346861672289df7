"""Runs and pipelines that are asked for: accepted, or known already, or refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agent.runtable import commands as c
from agent.runtable import gates, limits, notices
from agent.runtable.model import Instance, Origin, Request, Run, tick_key
from agent.runtable.table import DERIVED_TICK_ORIGINS, Table
from agent.runtable.well_formed import well_formed

PIPELINE_RUNS_MAX: Final = 200  # P12

Submitted = tuple[str, str, tuple[str, ...]]  # code, the run or pipeline to answer with, ids of runs that changed


def submit(table: Table, cmd: c.SubmitRun | c.SubmitPipeline) -> Submitted:
    """Accept what was asked for, or say what the same request got before (P2), or why not."""
    asked = cmd.run_id if isinstance(cmd, c.SubmitRun) else cmd.pipeline
    known = table.rows.requests.get(cmd.request) if cmd.request else None
    if known is not None:
        return ("duplicate" if known.body_hash == cmd.body_hash else "idempotency_conflict"), known.run_id, ()
    code, answer, accepted = _run(table, cmd) if isinstance(cmd, c.SubmitRun) else _pipeline(table, cmd)
    if code is not None:
        return code, answer, ()
    if cmd.request:
        rows = table.rows
        rows.requests[cmd.request] = Request(cmd.body_hash, asked, rows.time_ms + cmd.keep_ms)
        table.deadlines.add_request(cmd.request)
    return "ok", asked, accepted


Answer = tuple[str | None, str, tuple[str, ...]]  # as `Submitted`; the code is None where it was accepted


def _run(table: Table, cmd: c.SubmitRun) -> Answer:
    rows = table.rows
    tick = tick_key(cmd.project, cmd.job, cmd.scheduled_at_ms, cmd.replay or cmd.origin)
    if cmd.origin in DERIVED_TICK_ORIGINS and tick in rows.ticks:
        return "duplicate", rows.ticks[tick], ()
    if cmd.origin is Origin.EXTERNAL:  # it is no run of this cluster's
        return "invalid", cmd.run_id, ()
    code = _refuse(table, cmd) or _refuse_room(table, cmd, 1)
    run = _new_run(table, cmd, cmd, cmd.origin)
    if code is None and limits.line_is_full(table, run):
        code = "line_full"
    if code is not None:
        return code, cmd.run_id, ()
    touched = limits.accept(table, run, cmd.requested_by, cmd.via)
    if cmd.origin in DERIVED_TICK_ORIGINS:
        rows.ticks[tick] = cmd.run_id
    return None, cmd.run_id, tuple(touched)


def _pipeline(table: Table, cmd: c.SubmitPipeline) -> Answer:
    code = _refuse_pipeline(table, cmd)
    runs = [_new_run(table, cmd, one, Origin.PIPELINE, cmd.pipeline) for one in cmd.runs]
    if code is None and any(limits.line_is_full(table, run) for run in runs):
        code = "line_full"
    if code is not None:
        return code, cmd.pipeline, ()
    touched = [limits.accept(table, run, cmd.requested_by, cmd.via) for run in runs]
    return None, cmd.pipeline, tuple(run_id for ids in touched for run_id in ids)


def _refuse_pipeline(table: Table, cmd: c.SubmitPipeline) -> str | None:
    if cmd.pipeline in table.pipelines:
        return "exists"
    if not cmd.pipeline or not 1 <= len(cmd.runs) <= PIPELINE_RUNS_MAX:
        return "invalid"
    earlier: set[str] = set()
    for one in cmd.runs:
        code = _refuse(table, one, earlier)
        if code is not None:
            return code
        earlier.add(one.run_id)
    return _refuse_room(table, cmd, len(cmd.runs))


def _refuse(table: Table, one: c.SubmitRun | c.PipelineRun, beside: Collection[str] = ()) -> str | None:
    """Why this run cannot be. beside: ids of those that are accepted with it, before it."""
    rows = table.rows
    if one.run_id in rows.runs or one.run_id in rows.finished or one.run_id in beside:
        return "exists"
    if one.project not in rows.projects:
        return "unknown_project"
    if not notices.well_formed(one.instances, one.wants):
        return "invalid"
    if not well_formed(one.instances) or min(one.timeout_ms, one.queue_timeout_ms) <= 0:
        return "invalid"
    return gates.refuse(table, one.gates, beside)


def _refuse_room(table: Table, cmd: c.SubmitRun | c.SubmitPipeline, runs: int) -> str | None:
    rows = table.rows
    if cmd.keep_ms <= 0:
        return "invalid"
    if len(rows.runs) + runs > rows.limits.runs_max or table.bytes_used >= rows.limits.bytes_max:
        return "table_full"  # P12
    if cmd.request and len(rows.requests) >= rows.limits.requests_max:
        return "table_full"
    return None


def _new_run(
    table: Table,
    cmd: c.SubmitRun | c.SubmitPipeline,
    one: c.SubmitRun | c.PipelineRun,
    origin: Origin,
    pipeline: str = "",
) -> Run:
    now_ms = table.rows.time_ms
    run = Run(
        id=one.run_id,
        project=one.project,
        namespace=one.namespace,
        job=one.job,
        scheduled_at_ms=cmd.scheduled_at_ms,
        origin=origin,
        requested_by=cmd.requested_by,
        via=cmd.via,
        bundle=one.bundle,
        created_at_ms=now_ms,
        deadline_ms=now_ms + one.timeout_ms,
        timeout_ms=one.timeout_ms,
        queue_timeout_ms=one.queue_timeout_ms,
        instances=[Instance(plan, since_ms=now_ms) for plan in one.instances],
        max_active=one.max_active,
        overlap=one.overlap,
        pipeline=pipeline,
        replay=cmd.replay if isinstance(cmd, c.SubmitRun) else "",
        wants=one.wants,
    )
    gates.put(run, one.gates, now_ms)
    return run
