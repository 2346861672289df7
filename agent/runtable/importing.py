"""Ticks that another scheduler ran: reported, so that what depends on them here can look at them.

A report is a run that has ended already, of origin `external`, without instances: it takes no room among the runs, is
in history and mirror as any other, and stands for its tick. Of several reports of a tick the newest counts; one that
says what the newest has said is a repetition of it.
"""

from __future__ import annotations

from typing import Final

from agent.runtable import commands as c
from agent.runtable.lifecycle import FinishedRun, record
from agent.runtable.model import Audit, Origin, Run, RunState, tick_key
from agent.runtable.table import Table

REPORTED: Final = frozenset({RunState.SUCCESS, RunState.FAILED, RunState.SKIPPED})
Imported = tuple[str, str, tuple[FinishedRun, ...]]


def import_run(table: Table, cmd: c.ImportRun) -> Imported:
    """Record a report. Returns the code, the id of the run that stands for the tick, and the record where it is new."""
    rows = table.rows
    tick = tick_key(cmd.project, cmd.job, cmd.scheduled_at_ms, Origin.EXTERNAL)
    code = _refuse(table, cmd)
    if code is not None:
        return code, cmd.run_id, ()
    known = rows.ticks.get(tick, "")
    row = rows.finished.get(known)
    if row is not None and row.state is cmd.state:
        return "duplicate", known, ()
    if cmd.run_id in rows.runs or cmd.run_id in rows.finished:
        return "exists", cmd.run_id, ()
    rows.ticks[tick] = cmd.run_id
    return "ok", cmd.run_id, (record(table, _run(rows.time_ms, cmd)),)


def _refuse(table: Table, cmd: c.ImportRun) -> str | None:
    rows = table.rows
    if cmd.project not in rows.projects:
        return "unknown_project"
    return "invalid" if cmd.state not in REPORTED or not cmd.run_id else None


def _run(now_ms: int, cmd: c.ImportRun) -> Run:
    return Run(
        id=cmd.run_id,
        project=cmd.project,
        namespace=cmd.namespace,
        job=cmd.job,
        scheduled_at_ms=cmd.scheduled_at_ms,
        origin=Origin.EXTERNAL,
        requested_by=cmd.who,
        via=cmd.via,
        bundle="",
        created_at_ms=now_ms,
        deadline_ms=now_ms,
        timeout_ms=0,
        queue_timeout_ms=0,
        instances=[],
        state=cmd.state,
        finished_at_ms=now_ms,
        audit=[Audit(now_ms, cmd.who, cmd.via, f"import {cmd.state}", cmd.address)],
    )
