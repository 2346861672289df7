"""What operators say to runs: cancel, mark, clear. Each takes the table and a command and returns a code.

Those that reach into several runs also return which.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from agent.runtable import commands as c
from agent.runtable import gates, lifecycle, limits, notices, replays
from agent.runtable.model import Audit, Instance, InstanceState, Reason, Run
from agent.runtable.table import Table, unpack_run

ASSUMED: Final = ", assumed stopped"  # of an operator's command, in the audit
MARKS: Final = frozenset({InstanceState.SUCCESS, InstanceState.FAILED})

Operation = c.CancelRun | c.CancelPipeline | c.ClearRun | c.ClearRuns | c.MarkInstance
Touched = tuple[str, tuple[str, ...]]  # code, ids of the runs that were changed


def cancel(table: Table, cmd: c.CancelRun) -> str:
    """End a run early."""
    run = table.rows.runs.get(cmd.run_id)
    if run is None:
        return "run_final" if cmd.run_id in table.rows.finished else "unknown_run"
    if _unheard(run) and not cmd.assume_stopped:
        return "not_proven_stopped"
    _cancel(table, run, cmd)
    return "ok"


def cancel_pipeline(table: Table, cmd: c.CancelPipeline) -> Touched:
    """End all runs of a pipeline that have not ended."""
    rows = table.rows
    known = table.pipelines.get(cmd.pipeline)
    if known is None:
        return "unknown_pipeline", ()
    runs = [rows.runs[run_id] for run_id in sorted(known) if run_id in rows.runs]
    if not runs:
        return "pipeline_final", ()
    if any(map(_unheard, runs)) and not cmd.assume_stopped:
        return "not_proven_stopped", ()
    for run in runs:
        _cancel(table, run, cmd)
    return "ok", tuple(run.id for run in runs)


def _unheard(run: Run) -> bool:
    return any(instance.state is InstanceState.UNKNOWN for instance in run.instances)


def _cancel(table: Table, run: Run, cmd: c.CancelRun | c.CancelPipeline) -> None:
    unheard = _unheard(run)
    more = cmd.teardown and run.teardown_until_ms != 0
    if unheard or more or run.cancelled_by is None:
        run.cancelled_by = run.cancelled_by or cmd.who  # the first; the audit has them all
        what = "cancel, with its teardown" if cmd.teardown else "cancel"
        _audit(table, run, cmd, f"{what}{ASSUMED if unheard else ''}")
        lifecycle.end_early(table, run, Reason.CANCELLED, teardown=cmd.teardown)


def mark(table: Table, cmd: c.MarkInstance) -> str:
    """Give what is unfinished a result by hand; what runs is stopped first."""
    found = _to_mark(table, cmd)
    if isinstance(found, str):
        return found
    run, chosen = found
    if cmd.state not in MARKS:
        return "invalid"
    if run.ending:
        return "run_ending"
    chosen = [instance for instance in chosen if not instance.final]
    if not chosen:
        return "instance_final"
    unheard = any(instance.state is InstanceState.UNKNOWN for instance in chosen)
    if unheard and not cmd.assume_stopped:
        return "not_proven_stopped"
    _audit(table, run, cmd, f"mark {cmd.instance or 'all unfinished'} {cmd.state}{ASSUMED if unheard else ''}")
    for instance in chosen:
        if instance.open_attempt is None:
            lifecycle.enter(table, run, instance, cmd.state, Reason.MARKED)
        else:
            instance.mark = cmd.state
            lifecycle.stop(table, run, (instance,), Reason.MARKED)
    return "ok"


def _to_mark(table: Table, cmd: c.MarkInstance) -> tuple[Run, list[Instance]] | str:
    run = table.rows.runs.get(cmd.run_id)
    if run is not None and not cmd.instance:
        return run, run.instances
    found = find(table, cmd.run_id, cmd.instance)
    return found if isinstance(found, str) else (found[0], [found[1]])


def clear(table: Table, cmd: c.ClearRun) -> str:
    """Make instances of a run pending again, wherever the run is."""
    run = table.rows.runs.get(cmd.run_id)
    if run is None:
        return clear_runs(
            table,
            c.ClearRuns(
                cmd.time_ms,
                (c.ClearedRun(cmd.run_id, cmd.instances, cmd.record, cmd.ended_index),),
                cmd.who,
                cmd.via,
                cmd.what,
                cmd.assume_stopped,
                cmd.address,
            ),
        )[0]
    code = _refuse_clear(run, cmd.instances, cmd)
    if code is not None:
        return code
    if run.ending:
        return "run_ending"
    if not all(instance.final for instance in run.instances if instance.plan.name in cmd.instances):
        return "not_final"
    _clear_instances(table, run, cmd.instances, cmd)
    return "ok"


def clear_runs(table: Table, cmd: c.ClearRuns) -> Touched:
    """Bring finished runs back: the command carries their records, since the table kept only small rows (P4)."""
    rows = table.rows
    ids = tuple(one.run_id for one in cmd.runs)
    if not ids or len(set(ids)) < len(ids):
        return "invalid", ()
    found: list[Run] = []
    for one in cmd.runs:
        run = _recorded(table, one, cmd)
        if isinstance(run, str):
            return run, ()
        found.append(run)
    if len(rows.runs) + len(found) > rows.limits.runs_max or table.bytes_used >= rows.limits.bytes_max:
        return "table_full", ()
    if any(limits.line_is_full(table, run, returns=True) for run in found):
        return "line_full", ()
    for one, run in zip(cmd.runs, found, strict=True):
        _bring_back(table, run, ids)
        _clear_instances(table, run, one.instances, cmd)
    return "ok", ids


def _recorded(table: Table, one: c.ClearedRun, cmd: c.ClearRuns) -> Run | str:
    """A finished run by its record, or why it cannot be cleared."""
    row = table.rows.finished.get(one.run_id)
    if row is None:
        return "stale" if one.run_id in table.rows.runs else "unknown_run"
    run = unpack_run(one.record)
    if run is None or run.id != one.run_id or not run.final or row.index != one.ended_index:
        return "stale"
    return _refuse_clear(run, one.instances, cmd) or run


def _bring_back(table: Table, run: Run, beside: Collection[str]) -> None:
    replays.run_returns(table, run)
    del table.rows.finished[run.id]
    run.reason, run.finished_at_ms, run.cancelled_by, run.teardown_until_ms = None, None, None, None
    notices.reopened(run)
    gates.wait_again(run, table.rows.time_ms, beside)
    limits.bring_back(table, run)


def _refuse_clear(run: Run, names: Collection[str], cmd: c.ClearRun | c.ClearRuns) -> str | None:
    chosen = [run.instance(name) for name in names]
    if not chosen or None in chosen:
        return "unknown_instance"
    unproven = any(one is not None and one.unproven for one in chosen)
    return "not_proven_stopped" if unproven and not cmd.assume_stopped else None


def _clear_instances(table: Table, run: Run, names: Collection[str], cmd: c.ClearRun | c.ClearRuns) -> None:
    chosen = [instance for instance in run.instances if instance.plan.name in names]
    assumed = any(instance.unproven for instance in chosen)
    _audit(table, run, cmd, f"{cmd.what} {' '.join(names)}{ASSUMED if assumed else ''}")
    notices.cleared(run, names)
    for instance in chosen:
        instance.clears = len(instance.attempts)
        instance.mark = None
        lifecycle.enter(table, run, instance, InstanceState.PENDING)


def find(table: Table, run_id: str, name: str) -> tuple[Run, Instance] | str:
    """An instance of a run that is in the table, or why there is none."""
    run = table.rows.runs.get(run_id)
    if run is None:
        return "run_final" if run_id in table.rows.finished else "unknown_run"
    instance = run.instance(name)
    return "unknown_instance" if instance is None else (run, instance)


def _audit(table: Table, run: Run, cmd: Operation, what: str) -> None:
    run.audit.append(Audit(table.rows.time_ms, cmd.who, cmd.via, what, cmd.address))
