"""Which run stands for a tick: the newest that the schedule or a replay has made of it, or that was reported."""

from __future__ import annotations

from agent.runtable.model import Origin, RunState, tick_key
from agent.runtable.table import Table


def tick_run(table: Table, project: str, job: str, tick_ms: int) -> tuple[str, RunState] | None:
    """The newest run that stands for a tick, and its state; None = there is none yet.

    One that goes on is newer than any that has ended. Runs by hand and of pipelines stand for none, whatever time they
    were given.
    """
    rows = table.rows
    scheduled = rows.ticks.get(tick_key(project, job, tick_ms, Origin.SCHEDULE))
    found: list[tuple[bool, int, str, RunState]] = []
    for run_id in (scheduled or "", *table.awaiting.beside.get((project, job, tick_ms), ())):
        run, row = rows.runs.get(run_id), rows.finished.get(run_id)
        if run is not None:
            found.append((True, run.created_at_ms, run_id, run.state))
        elif row is not None:
            found.append((False, row.index, run_id, row.state))
    newest = max(found, default=None)
    return None if newest is None else newest[2:]
